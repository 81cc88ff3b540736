"""A training story as one offline page: what happened when, the figures along the steps, and the maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from explain.files import envelope
from explain.report import colours
from explain.report.inside import Grid, Section, Table
from explain.report.labels import number, plural, token_label, whole_percent
from explain.report.maps import WRITTEN_COLUMNS, Cell, Group, Heading, Legend, Row
from explain.report.render import page
from explain.report.sections import colophon
from explain.report.story_plots import HEAD_FIGURES, HEADS_HELP, MAP_HELP, head_values, map_limit

if TYPE_CHECKING:
    from explain.story import Finding, Look, ProbeMap, TrainingStory

_WHAT = {
    "alignment_head": "a head begins to align",
    "maps_right": "maps point at the right tokens",
    "maps_faithful": "maps are better than chance",
    "shortcut": "a cue begins to decide",
    "exact_match": "outputs are right",
}
# A page holds this many looks of each probe; the first and the last are always among them.
_MAPS = 6


def story_page(story: TrainingStory, *, command: str = "") -> str:
    """A training story as one offline HTML page; the same story gives the same bytes.

    Args:
        story: what `explain.training_story` read.
        command: what makes the page again; left out, it is not shown.
    """
    shortcuts = [finding for finding in story.findings if finding.kind == "shortcut"]
    return page(
        "inside.html.jinja",
        title=f"How {story.run} learnt",
        lead=_lead(story),
        texts=(),
        facts=_facts(story),
        sections=(
            Section(
                "What happened when",
                texts=() if story.findings else ("Nothing that the rules name has happened yet.",),
                note=" ".join(finding.text for finding in shortcuts),
                wrong=bool(shortcuts),
                tables=(_findings(story.findings),) if story.findings else (),
            ),
            Section("Along training", tables=(_looks(story.looks), *_cues(story.looks))),
            Section("Heads", grids=_heads(story)),
            *_maps(story),
        ),
        limits=(
            "Between two looks nobody looked: what began there is known to lie after the one and at "
            "the latest at the other.",
            f"Figures are of {plural(len(story.probes), 'probe')}: a share moves in steps of one probe.",
            "A swap shows that a cue decides, not that nothing else does; a cue that nobody named is not "
            "found here (explain audit searches for cues).",
            "Maps and gold are of the right outputs, whether or not the model would have written them.",
        ),
        colophon=colophon(envelope("training_story", data_digest=story.data_digest, command="")),
        command=command,
        versions=envelope("training_story", command="")["versions"],
    )


def _lead(story: TrainingStory) -> str:
    last = story.looks[-1]
    parts = [
        f"{plural(len(story.looks), 'look')} from step {story.steps[0]:,} to step {last.step:,}: the loss on "
        f"held-out probes went from {story.looks[0].loss:.3g} to {last.loss:.3g} nats per token, and "
        f"{whole_percent(last.exact_match)} of them are now written exactly."
    ]
    heads = [finding for finding in story.findings if finding.kind == "alignment_head"]
    if heads:
        parts.append(f"{plural(len(heads), 'alignment head')} formed, the first by step {heads[0].step:,}.")
    cues = [finding for finding in story.findings if finding.kind == "shortcut"]
    parts += [f"“{finding.subject}” decides from step {finding.step:,} on." for finding in cues]
    return " ".join(parts)


def _facts(story: TrainingStory) -> list[tuple[str, str]]:
    rules = story.rules
    return [
        ("Method of the maps", story.settings.method),
        ("Probes", str(len(story.probes))),
        ("Held out", str(sum(probe.held_out for probe in story.probes))),
        ("An alignment head", f"{whole_percent(rules.alignment)} of the way from chance to always right"),
        ("Maps are right", f"precision at 1, {whole_percent(rules.precision)} of the way from chance to 1"),
        (
            "A cue decides",
            f"swapping it moves the right output by {number(rules.effect)} nats, or flips "
            f"{whole_percent(rules.flipped)} of at least {rules.fewest} probes",
        ),
        ("Each must", "hold at its look and at every later one"),
    ]


def _findings(findings: Sequence[Finding]) -> Table:
    rows = tuple((f"{one.step:,}", _WHAT[one.kind], one.text) for one in findings)
    return Table(
        "Findings in the order of the steps", ("Step", "What", "Evidence"), rows, (True, False, False)
    )


def _looks(looks: Sequence[Look]) -> Table:
    """What was measured at any look at all; without gold, for example, there is no precision."""
    figures: list[tuple[str, list[float], dict[str, Any]]] = [
        ("Loss (nats)", [look.loss for look in looks], {"decimals": 3}),
        ("Tokens right", [look.token_accuracy for look in looks], {}),
        ("Exact match", [look.exact_match for look in looks], {}),
        ("Precision at 1", [look.precision_at_1.value for look in looks], {}),
        ("Chance", [look.chance for look in looks], {}),
        ("Mass on gold", [look.mass.value for look in looks], {}),
        ("Ahead of random orders", [look.advantage.value for look in looks], {"signed": True}),
        ("Completeness error", [look.completeness for look in looks], {"decimals": 3}),
    ]
    figures = [one for one in figures if not all(map(math.isnan, one[1]))]
    columns = ("Step", *(name for name, _, _ in figures))
    rows = tuple(
        (f"{look.step:,}", *(number(values[place], **form) for _, values, form in figures))
        for place, look in enumerate(looks)
    )
    return Table("The model at every look", columns, rows, (True,) * len(columns))


def _cues(looks: Sequence[Look]) -> tuple[Table, ...]:
    columns = (
        "Step", "Probes", "Flipped by swapping", "Share of attribution", "Chance", "Effect (nats)",
        "Right with the cue", "Right with it swapped",
    )  # fmt: skip
    found = []
    for cue in dict.fromkeys(row.cue for look in looks for row in look.swaps):
        rows = []
        for look in looks:
            row = look.swap(cue)
            if row is not None:
                figures = (row.flipped, row.share, row.chance, row.effect, row.right, row.right_swapped)
                rows.append((f"{look.step:,}", str(row.probes), *(number(value) for value in figures)))
        found.append(Table(f"The cue “{cue}”", columns, tuple(rows), (True,) * len(columns)))
    return tuple(found)


def _heads(story: TrainingStory) -> tuple[Grid, ...]:
    grids = []
    for name in ("alignment", "relative_entropy"):
        heads, values = head_values(story, name)
        if not heads:
            continue
        rows = tuple(
            Row(
                Heading(head.name, ""),
                tuple(
                    _cell(float(value), 1.0, f"{head.name}, step {step:,}")
                    for value, step in zip(line, story.steps, strict=True)
                ),
                False,
            )
            for head, line in zip(heads, values, strict=True)
        )
        grids.append(
            Grid(
                caption=f"{HEAD_FIGURES[name].capitalize()} of every head, by step",
                help=HEADS_HELP,
                corner="Step →",
                legend=_legend(1.0, False, HEAD_FIGURES[name]),
                groups=(),
                columns=tuple(Heading(f"{step:,}", "") for step in story.steps),
                rows=rows,
                dense=len(story.steps) > WRITTEN_COLUMNS,
                named=True,
            )
        )
    return tuple(grids)


def _maps(story: TrainingStory) -> list[Section]:
    """Each probe's maps at a few steps, the last one open."""
    if not story.looks:
        return []
    places = np.unique(np.linspace(0, len(story.looks) - 1, min(_MAPS, len(story.looks))).round().astype(int))
    chosen = [story.looks[int(i)] for i in places]
    sections = []
    for index, last in enumerate(chosen[-1].maps):
        limit = map_limit(story, index)
        grids = [_map_grid(look.maps[index], look.step, limit) for look in chosen if index < len(look.maps)]
        texts = tuple(
            f"Step {look.step:,}, written: {look.maps[index].output or '(nothing)'}"
            for look in chosen
            if index < len(look.maps)
        )
        source = " ".join(token_label(token) for token in last.source_tokens)
        sections.append(
            Section(
                f"Probe {index + 1}" + (" (with a cue)" if last.cue else ""),
                texts=(f"Source: {source}", *texts),
                grids=tuple(grids[-1:]),
                folded=tuple(grids[:-1]),
            )
        )
    return sections


def _map_grid(found: ProbeMap, step: int, limit: float) -> Grid:
    scores = {"source": found.source.tolist(), "prefix": found.prefix.tolist()}
    signed = bool((found.source < 0).any())
    rows = []
    for t, target in enumerate(found.target_tokens):
        name = token_label(target)
        cells = [
            _cell(score, limit, f"{name} on {token_label(token)}", signed=signed)
            for score, token in zip(scores["source"][t], found.source_tokens, strict=True)
        ]
        cells += [
            _cell(
                scores["prefix"][t][u] if u < t else math.nan,
                limit,
                f"{name} on {token_label(token)}",
                "gap" * (u == 0),
                signed=signed,
            )
            for u, token in enumerate(found.target_tokens)
        ]
        rows.append(Row(Heading(name, ""), tuple(cells), False))
    marked = [("◆ " if i in found.cue else "") + token_label(x) for i, x in enumerate(found.source_tokens)]
    columns = [Heading(text, "") for text in marked]
    columns += [Heading(token_label(x), "gap" * (u == 0)) for u, x in enumerate(found.target_tokens)]
    return Grid(
        caption=f"Step {step:,}",
        help=MAP_HELP,
        corner="Right output",
        legend=_legend(limit, signed, "score"),
        groups=(
            Group("source", len(found.source_tokens), ""),
            Group("earlier output", len(found.target_tokens), "gap"),
        ),
        columns=tuple(columns),
        rows=tuple(rows),
        dense=True,
        upright=True,
    )


def _cell(value: float, limit: float, where: str, gap: str = "", *, signed: bool = False) -> Cell:
    gap = f" {gap}" if gap else ""
    if math.isnan(value):
        return Cell("", "", f"na{gap}")
    said = number(value, signed=signed)
    return Cell(said, f"{where}: {said}", f"{colours.css_class(colours.level(value, limit)) or 'zero'}{gap}")


def _legend(limit: float, signed: bool, units: str) -> Legend:
    lowest = -colours.LEVELS if signed else 0
    return Legend(
        steps=tuple(colours.css_class(step) for step in range(lowest, colours.LEVELS + 1)),
        low=number(-limit, signed=True) if signed else "0",
        middle="0" if signed else "",
        high=number(limit, signed=signed),
        units=units,
        ends="",
    )


def finding_rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as rows of a table: step, what, subject, text."""
    return [
        {"step": one.step, "what": _WHAT[one.kind], "subject": one.subject, "text": one.text}
        for one in findings
    ]
