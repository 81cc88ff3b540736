"""Pages about neurons and hidden states: one offline HTML file each, readable without JavaScript."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.files import envelope
from explain.report import colours
from explain.report.labels import DASH, number, percent, plural, shorten, shown, token_label, whole_percent
from explain.report.neuron_plots import (
    ON_BOTH,
    Shade,
    groups,
    neuron_name,
    neuron_says,
    shade_limit,
    shades,
)
from explain.report.render import page
from explain.report.sections import colophon, settings_rows

if TYPE_CHECKING:
    from explain.analysis import Neuron, NeuronSurvey, ProbeReport, Projection, Similarity

WIDTH, HEIGHT = 720, 460
_EDGE = 12
SHOWN = 6
_LAYERS = (
    "Hook point",
    "Neurons",
    "Positions",
    "Never above 0",
    "Above 0 (mean)",
    "Selectivity (median)",
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a drawing: an SVG path, its colour, and what it is about."""

    path: str
    colour: str
    title: str


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a drawing's legend."""

    label: str
    path: str
    colour: str
    count: int


@dataclass(frozen=True, slots=True)
class Card:
    """A neuron as a page shows it."""

    name: str
    says: str
    types: tuple[tuple[str, str], ...]
    examples: tuple[tuple[str, int, tuple[Shade, ...]], ...]


def _page(
    title: str,
    schema: str,
    result: Any,
    lead: Sequence[str],
    facts: Sequence[tuple[str, str]],
    limits: Sequence[str],
    command: str | None,
    settings: Mapping[str, Any],
    **parts: Any,
) -> str:
    digests = {
        "model_digest": getattr(result, "model_digest", None) or getattr(result, "model_digest_a", None),
        "data_digest": getattr(result, "data_digest", None) or None,
    }
    head = envelope(schema, seed=settings.get("seed"), command=command, **digests)
    empty: dict[str, Any] = {"tables": (), "heat": None, "scatter": None, "cards": ()}
    return page(
        "neurons.html.jinja",
        title=title,
        lead=lead,
        facts=facts,
        limits=limits,
        settings=settings_rows(settings),
        colophon=colophon(head),
        command=head["command"],
        versions=head["versions"],
        css=colours.css_class,
        **{**empty, **parts},
    )


def neurons_page(survey: NeuronSurvey, *, most: int = SHOWN, command: str | None = None) -> str:
    """What the neurons respond to: a line per layer, and the most selective ones with their examples."""
    rows = [
        (
            each.point,
            (
                f"{each.neurons:,}",
                f"{each.rows:,}",
                f"{each.dead:,}",
                percent(each.active),
                number(each.selectivity, 1),
            ),
        )
        for each in survey.summary()
    ]
    cards = [(point, [_card(each) for each in survey.most_selective(point, most)]) for point in survey.points]
    total, dead = sum(each.neurons for each in survey.summary()), sum(each.dead for each in survey.summary())
    return _page(
        "What the neurons respond to",
        "neurons",
        survey,
        [
            f"{plural(total, 'neuron')} were watched over {plural(survey.generations, 'text')}; "
            f"{'all are' if not dead else f'all but {dead:,} are'} above 0 somewhere. Below are, layer by "
            "layer, those that one token stands out for most, with the places where they are most active."
        ],
        _facts(survey.model_digest, survey.data, survey.generations),
        [
            "A neuron that is active at a token need not cause anything there: switch it off and see.",
            "The examples are extremes. What a neuron does at its usual activations may be something else.",
            "Many neurons respond to several unrelated things; a token that stands out is not all they do.",
        ],
        command,
        {"examples": survey.generations},
        tables=[
            (
                "Layers",
                _LAYERS,
                rows,
            )
        ],
        cards=cards,
    )


def _card(neuron: Neuron) -> Card:
    limit = shade_limit(neuron)
    names = {"token": "tokens", "input": "tokens read", "slot": "slots"}
    if not neuron.point.startswith("encoder."):
        names["token"] = "tokens written"
    return Card(
        name=neuron_name(neuron),
        says=neuron_says(neuron),
        types=tuple(
            (
                names[kind],
                ", ".join(f"‘{token_label(each.label)}’ {number(each.mean, 2)}" for each in found),
            )
            for kind, found in neuron.types.items()
            if found
        ),
        examples=tuple(
            (number(each.value, 2), each.example, tuple(shades(each, limit))) for each in neuron.examples[:5]
        ),
    )


def projection_page(projection: Projection, by: str = "slot", *, command: str | None = None) -> str:
    """Hidden states on a plane as a drawing, coloured by a label.

    Raises:
        UnknownNameError: rows have no such label.
    """
    found = groups(projection.rows, by)
    place = _places(projection)
    marks, keys = [], []
    for group in sorted(found, key=lambda group: group.style is not None):
        colour = "#808890" if group.style is None else ON_BOTH[group.style % len(ON_BOTH)]
        for i in group.points:
            row = projection.rows[i]
            title = f"{token_label(row.token)}, slot {row.slot or DASH}"
            title += f", position {row.position} of {row.length}"
            marks.append(Mark(_shape(group.style, *place[i]), colour, title))
    for group in found:
        colour = "#808890" if group.style is None else ON_BOTH[group.style % len(ON_BOTH)]
        keys.append(Key(token_label(group.label, 32), _shape(group.style, 7, 7), colour, len(group.points)))
    explained = sum(projection.explained[:2])
    kept = (
        f"These two axes hold {percent(explained)} of the states' variance."
        if projection.explained
        else "UMAP keeps neighbours together; distances between groups, and their sizes, mean nothing."
    )
    trust = (
        ""
        if math.isnan(projection.trustworthiness)
        else f" Trustworthiness {number(projection.trustworthiness)}: 1 if all that are near here are near "
        "in the states, about 0.5 by chance."
    )
    drawn = (
        f"{len(projection.rows):,} of {projection.total:,}, drawn at random"
        if projection.total > len(projection.rows)
        else f"all {projection.total:,}"
    )
    return _page(
        f"Hidden states at {projection.point}",
        "projection",
        projection,
        [f"Every mark is one token's hidden state, {projection.width} numbers put on a plane. {kept}{trust}"],
        [
            *_facts(projection.model_digest, projection.data, None),
            ("Hook point", projection.point),
            ("Projection", projection.by.upper()),
            ("Tokens", drawn),
        ],
        [
            "What is apart here is apart in the states; what is together here may be apart in the dimensions "
            "that are not shown. A probe can tell (explain analyze probe).",
        ],
        command,
        projection.settings,
        scatter={"marks": marks, "keys": keys, "by": by, "width": WIDTH, "height": HEIGHT},
    )


def _places(projection: Projection) -> list[tuple[float, float]]:
    """Where the points lie in the drawing; both axes have one scale, so that distances are true."""
    points = projection.coordinates[:, :2]
    low, high = points.min(0), points.max(0)
    scale = min(
        (WIDTH - 2 * _EDGE) / max(high[0] - low[0], 1e-9), (HEIGHT - 2 * _EDGE) / max(high[1] - low[1], 1e-9)
    )
    middle = (low + high) / 2
    return [
        (WIDTH / 2 + float(x - middle[0]) * scale, HEIGHT / 2 - float(y - middle[1]) * scale)
        for x, y in points
    ]


def _shape(style: int | None, x: float, y: float) -> str:
    """The path of a mark round a point."""
    if style is None:
        return f"M{x - 1.5:.1f} {y:.1f}h3"
    s = 3.2
    shapes = (
        f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z",
        f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z",
        f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
        f"M{x - 4:.1f} {y - 1:.1f}h3v-3h2v3h3v2h-3v3h-2v-3h-3z",
        f"M{x - 4:.1f} {y - 2:.1f}l2 -2l2 2l2 -2l2 2l-2 2l2 2l-2 2l-2 -2l-2 2l-2 -2l2 -2z",
        f"M{x:.1f} {y + 4:.1f}l4 -7h-8z",
        f"M{x - 4:.1f} {y:.1f}h8M{x:.1f} {y - 4:.1f}v8",
    )
    return shapes[style % len(shapes)]


def probe_page(report: ProbeReport, *, command: str | None = None) -> str:
    """Probes by layer: accuracy, control, selectivity and the majority label, with intervals."""
    rows = []
    for each in report.probes:
        intervals = [
            f"{whole_percent(share.value)} ({whole_percent(share.low)} to {whole_percent(share.high)})"
            for share in (each.accuracy, each.control, each.selectivity)
        ]
        rows.append(
            (each.point, (*intervals, whole_percent(each.majority), f"{each.strength:g}", f"{each.test:,}"))
        )
    best = max(report.probes, key=lambda each: each.accuracy.value)
    keen = max(report.probes, key=lambda each: each.selectivity.value)
    lead = (
        f"From {best.point} the {shown(report.label)} of a token is read off right for "
        f"{whole_percent(best.accuracy.value)} of the tokens of unseen texts; always naming the most "
        f"frequent one is right for {whole_percent(best.majority)}. Selectivity is highest at {keen.point}: "
        f"{number(100 * keen.selectivity.value, 0)} percentage points above what a probe of the same kind "
        "learns by heart."
    )
    worst = [
        (label, (whole_percent(share),))
        for label, share in sorted(best.classes.items(), key=lambda item: item[1])
    ]
    limits = [
        "That a label can be read off the states does not show that the model uses it.",
        "A probe that is right no more often than its control has learnt tokens, not the label.",
    ]
    if report.label in ("token", "input"):
        limits.insert(0, "Tokens are types themselves, as the control's are: selectivity says nothing here.")
    if not all(each.converged for each in report.probes):
        limits.append("Some fits stopped before their end; their figures may be a little low.")
    return _page(
        f"What can be read off the hidden states: {shown(report.label)}",
        "probes",
        report,
        [lead],
        [
            *_facts(report.model_digest, report.data, sum(report.examples)),
            ("Texts", "{} to train, {} to choose, {} to test".format(*report.examples)),
            ("Left out", f"{percent(report.left_out)} of the labelled tokens, whose label is rare"),
        ],
        limits,
        command,
        {"label": report.label, "seed": report.seed},
        tables=[
            (
                "By hook point (95\u00a0% intervals over texts)",
                ("Hook point", "Right", "Control", "Selectivity", "Most frequent label", "C", "Test tokens"),
                rows,
            ),
            (f"By label, at {best.point}", ("Label", "Right"), worst),
        ],
    )


def similarity_page(
    similarity: Similarity, *, name_a: str = "", name_b: str = "", command: str | None = None
) -> str:
    """How alike the layers of a model are, or those of two models."""
    two = similarity.model_digest_a != similarity.model_digest_b
    values = similarity.values.tolist()
    heat = {
        "columns": similarity.points_b,
        "rows": [
            (
                point,
                [
                    (
                        DASH if math.isnan(value) else number(value),
                        "na" if math.isnan(value) else colours.css_class(max(0, colours.level(value, 1.0))),
                    )
                    for value in row
                ],
            )
            for point, row in zip(similarity.points_a, values, strict=True)
        ],
        "caption": "Debiased linear CKA"
        + (f": rows {shown(name_a)}, columns {shown(name_b)}" if two and name_a and name_b else ""),
    }
    same = {point: value for point, value in similarity.same_points().items() if not math.isnan(value)}
    lead = "1 means the same up to rotation, scale and shift; 0 means nothing in common that is linear."
    if two and same:
        low = min(same, key=lambda point: same[point])
        high = max(same, key=lambda point: same[point])
        lead += (
            f" Layer for layer the two models are most alike at {high} ({number(same[high])}) and least at "
            f"{low} ({number(same[low])})."
        )
    rows = similarity.rows
    unit = "tokens" if similarity.per == "token" else "texts"
    facts = [
        ("Model", _short(similarity.model_digest_a)),
        *([("Second model", _short(similarity.model_digest_b))] if two else []),
        ("Texts", f"{similarity.generations:,}"),
        ("Rows", f"{rows['source']:,} source {unit}, {rows['target']:,} output {unit}"),
    ]
    return _page(
        "How alike two models are, layer by layer" if two else "How alike the layers are",
        "cka",
        similarity,
        [lead],
        facts,
        [
            "The estimate is unbiased and may fall a little below 0 or rise above 1.",
            "Texts of one mould make layers alike because the words are; compare with two trainings of one "
            "model to know what is much.",
        ],
        command,
        {"per": similarity.per, "minibatch": similarity.minibatch},
        heat=heat,
    )


def _facts(digest: str, data: str, texts: int | None) -> list[tuple[str, str]]:
    count = "" if texts is None else f", {plural(texts, 'text')}"
    return [("Model", _short(digest)), ("Data", f"{shown(data)}{count}")]


def _short(digest: str) -> str:
    return f"digest {shorten(digest, 19)}"
