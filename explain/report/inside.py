"""Pages about the inside of a model: its heads, a lens, the parts of a logit, an induced alignment.

Each is one offline HTML file; every figure is a table whose cells have colours, so it needs no script.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from explain.files import envelope
from explain.report import colours
from explain.report.head_plots import role_sentence
from explain.report.inside_facts import (
    ALIGNMENT_HELP,
    CONTRIBUTIONS_HELP,
    HEAD_FIGURES,
    KINDS,
    LENS_HELP,
    LENS_NAMES,
    agreement_sentence,
    contribution_question,
    head_units,
    head_values,
    layer_label,
    reconstruction_sentence,
)
from explain.report.inside_plots import chosen_components
from explain.report.labels import (
    DASH,
    decimals_for,
    listed,
    number,
    plural,
    probability,
    shorten,
    token_label,
    whole_percent,
)
from explain.report.maps import WRITTEN_COLUMNS, Cell, Group, Heading, Legend, Row
from explain.report.render import page
from explain.report.sections import colophon

if TYPE_CHECKING:
    from explain.analysis import Contributions, Head, HeadSurvey, Lens, WordAlignment
    from explain.results import Token

# Figures of heads that stand on the page at once; the others wait to be opened.
_FIRST = ("ablation_signed", "gradient", "alignment", "copy_top")
_STRONGEST = 20
# A lens of more output tokens is broken into tables of this many columns.
_LENS_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class Grid:
    """A table whose cells have colours."""

    caption: str
    help: str
    corner: str
    legend: Legend
    groups: tuple[Group, ...]
    columns: tuple[Heading, ...]
    rows: tuple[Row, ...]
    dense: bool = False
    upright: bool = False
    named: bool = False  # rows have long names, which are written out


@dataclass(frozen=True, slots=True)
class Table:
    """A plain table: texts, and which columns are numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page. `folded` grids and tables wait to be opened, each under its caption."""

    title: str
    texts: tuple[str, ...] = ()
    note: str = ""
    wrong: bool = False
    grids: tuple[Grid, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Grid | Table, ...] = ()


def heads_page(survey: HeadSurvey, *, data: str = "", head: Mapping[str, Any] | None = None) -> str:
    """The heads of a model as one offline HTML page; the same survey gives the same bytes.

    Args:
        survey: what `survey_heads` found.
        data: what the outputs are of, in words.
        head: the envelope of the result; made up without the command where it is left out.
    """
    figures = [name for name in HEAD_FIGURES if head_values(survey, name)]
    grids = {name: _head_grid(survey, name) for name in figures}
    shown = [name for name in _FIRST if name in grids]
    roles = Section(
        "What the heads do",
        texts=(_rules(survey),),
        tables=(_role_table(survey),),
    )
    importance = Section(
        "How much outputs need them",
        texts=(agreement_sentence(survey),),
        grids=tuple(grids[name] for name in shown if name.startswith(("ablation", "gradient"))),
        tables=(_strongest_heads(survey),),
        folded=tuple(grids[name] for name in ("ablation",)),
    )
    where = Section(
        "Where they look",
        grids=tuple(grids[name] for name in shown if not name.startswith(("ablation", "gradient"))),
        folded=tuple(
            grids[name]
            for name in figures
            if name not in shown and not name.startswith(("ablation", "gradient"))
        ),
    )
    every = Section("All figures", folded=(_all_heads(survey, figures),))
    return _page(
        "What the attention heads do",
        lead=_heads_lead(survey),
        facts=_heads_facts(survey, data),
        sections=(importance, where, roles, every),
        limits=(
            "Roles follow from thresholds that are stated above. A head may have several, and one without "
            "a role "
            "may matter all the same.",
            "Attention says where a head looks, not what it makes of it.",
            "Importance holds for these outputs and one head at a time: of two heads that do the same, "
            "neither "
            "is needed alone.",
        ),
        head=head or envelope("heads", model_digest=survey.statistics.model_digest, command=""),
    )


def lens_page(lens: Lens, *, head: Mapping[str, Any] | None = None) -> str:
    """A lens as one offline HTML page; see `heads_page`."""
    sections = [
        Section(
            "What each layer would write",
            texts=(LENS_HELP[lens.name],),
            note=_lens_error(lens),
            wrong=not lens.error < 1e-3,
            grids=tuple(_lens_grids(lens, None)),
            folded=(_lens_table(lens),),
        )
    ]
    for index, item in enumerate(lens.watched):
        name = token_label(item.text)
        sections.append(
            Section(
                f"The token ‘{name}’",
                texts=(
                    "Its rank among all tokens by layer, 1 being the most likely; colours are its "
                    "probability.",
                ),
                grids=tuple(_lens_grids(lens, index)),
            )
        )
    if lens.outputs:
        rows = tuple((layer_label(lens, k), text or "(nothing)") for k, text in enumerate(lens.outputs))
        sections.append(
            Section(
                "What the decoder writes by itself",
                texts=("From each layer of the encoder, greedily, without the output's own beginning.",),
                tables=(Table("Outputs by layer", ("Encoder layer", "Output"), rows, (False, False)),),
            )
        )
    excerpt = shorten(lens.target_text.strip() or "(empty output)", 80)
    return _page(
        f"{LENS_NAMES[lens.name]} on ‘{excerpt}’",
        lead=_lens_lead(lens),
        texts=(("Source", lens.source_text), ("Output", lens.target_text)),
        sections=tuple(sections),
        limits=(
            "A lens reads early layers in the last layer's terms. What it cannot read there may be there.",
            "The beginning of the output is the output's own at every step, whatever a layer would have "
            "written.",
        ),
        head=head or envelope("lens", model_digest=lens.model_digest, command=""),
    )


def contributions_page(found: Contributions, *, head: Mapping[str, Any] | None = None) -> str:
    """A logit taken apart as one offline HTML page; see `heads_page`."""
    whole = chosen_components(found, ("embed", "block", "bias"), len(found.components))
    heads = chosen_components(found, ("head",), _STRONGEST)
    neurons = chosen_components(found, ("neuron",), _STRONGEST)
    limit = max((abs(part.logit) for part in found.components), default=0.0)
    good = math.isnan(found.relative_error) or found.relative_error < 1e-4
    sections = [
        Section(
            "The whole",
            texts=(CONTRIBUTIONS_HELP,),
            note=reconstruction_sentence(found),
            wrong=not good,
            grids=(_part_grid("Embedding, blocks and biases, in the order of computation", whole, limit),),
        )
    ]
    for title, parts in (("The strongest heads", heads), ("The strongest neurons", neurons)):
        if parts:
            text = f"Parts of the blocks above, by what they add either way; the first {len(parts)}."
            sections.append(Section(title, texts=(text,), grids=(_part_grid(title, parts, limit),)))
    label = token_label(found.token)
    return _page(
        f"Who wrote ‘{label}’",
        lead=_contributions_lead(found),
        texts=(("Source", found.source_text), ("Output", found.target_text)),
        sections=tuple(sections),
        limits=(
            "Direct contributions do not say where a part got it from; patching and knockout do.",
            "The division of each norm is held at its value here. Without a part it would be another.",
            "A logit without a contrast holds what is added to all words alike and changes no probability; "
            "the tokens promoted and suppressed are free of it.",
        ),
        head=head or envelope("contributions", model_digest=found.model_digest, command=""),
    )


def alignment_page(found: WordAlignment, *, head: Mapping[str, Any] | None = None) -> str:
    """An induced alignment as one offline HTML page; see `heads_page`."""
    source, target = found.source_words, found.target_words
    rows = tuple(
        (str(j), token_label(target[j]), str(i), token_label(source[i]), number(float(found.matrix[j, i])))
        for i, j in sorted(found.links, key=lambda link: (link[1], link[0]))
    )
    table = Table(
        "Links",
        ("Place", "Output word", "Place", "Source word", "Attention"),
        rows,
        (True, False, True, False, True),
    )
    words = sum(not word.special for word in target)
    linked = len({j for _, j in found.links})
    heads = (
        listed([head_.name for head_ in found.heads])
        if len(found.heads) <= 8
        else plural(len(found.heads), "head")
    )
    step = "the step that writes it" if found.aligned_to == "output" else "the step that reads it"
    return _page(
        "Which source word each output word was written from",
        lead=f"{linked} of {plural(words, 'output word')} have a source word that is looked at most.",
        facts=(
            ("Heads", heads),
            ("A word's row", f"the attention of {step}, mean over its tokens and the heads"),
        ),
        sections=(
            Section("Attention between words", texts=(ALIGNMENT_HELP,), grids=(_alignment_grid(found),)),
            Section("Links", tables=(table,)),
        ),
        limits=(
            "Where a head looks is not proof of what was used: an evaluation says how right these links are.",
        ),
        head=head or envelope("alignment", model_digest=found.model_digest, command=""),
    )


def _page(
    title: str,
    *,
    lead: str,
    sections: Sequence[Section],
    limits: Sequence[str],
    head: Mapping[str, Any],
    facts: Sequence[tuple[str, str]] = (),
    texts: Sequence[tuple[str, str]] = (),
) -> str:
    return page(
        "inside.html.jinja",
        title=title,
        lead=lead,
        texts=texts,
        facts=facts,
        sections=sections,
        limits=limits,
        colophon=colophon(head),
        command=head.get("command") or "",
        versions=head["versions"],
    )


# ---- heads -----------------------------------------------------------------------------------------------


def _heads_lead(survey: HeadSurvey) -> str:
    count = len(survey.statistics.rows)
    first = max(survey.ablation.rows, key=lambda row: row.importance)
    named = [
        f"{len(found)} {role}"
        for role in ("alignment", "copy", "positional", "sink", "broad")
        if (found := survey.roles.heads(role))
    ]
    roles = f"{listed(named)} heads (a head may be several)" if named else "none with a role that stands out"
    if not first.importance:
        return f"{plural(count, 'head')}: {roles}. No head is needed alone for these outputs."
    return (
        f"{plural(count, 'head')}: {roles}. The outputs need {first.head.name} most: without it the mean "
        f"{_objective(survey)} of a token changes by {_figure(first.importance)} "
        f"{_short(survey.ablation.units)}."
    )


def _objective(survey: HeadSurvey) -> str:
    from explain.report.labels import OBJECTIVES

    return OBJECTIVES.get(survey.ablation.objective, survey.ablation.objective.replace("_", " "))


def _short(units: str) -> str:
    return units.split()[0] if units else ""


def _figure(value: float) -> str:
    return number(value, max(2, decimals_for(abs(value))))


def _heads_facts(survey: HeadSurvey, data: str) -> list[tuple[str, str]]:
    statistics = survey.statistics
    rows = [("Model", f"digest {shorten(statistics.model_digest, 19)}")]
    if data:
        rows.append(("Data", data))
    rows.append(("Outputs", f"{plural(statistics.generations, 'output')}"))
    if statistics.aligned:
        chance = whole_percent(statistics.alignment_chance)
        rows.append(
            (
                "Known answers",
                f"of {plural(statistics.aligned, 'output token')}; a head that looks anywhere is right for "
                f"{chance}",
            )
        )
    else:
        rows.append(("Known answers", "none, so alignment heads were found by tokens with the same text"))
    if statistics.copied:
        chance = whole_percent(statistics.copy_chance)
        rows.append(
            (
                "Copied tokens",
                f"{plural(statistics.copied, 'output token')} with a source token of the same text; by "
                f"chance {chance}",
            )
        )
    return rows


def _rules(survey: HeadSurvey) -> str:
    rules = survey.roles.rules
    by = {
        "gold": "looks most at a source token of the known answer",
        "copy": "looks most at a source token with the same text",
        "": "could not be told: these outputs have no known answers and nothing that is copied",
    }[survey.roles.alignment_by]
    parts = [
        f"alignment: {by}"
        + (
            f", at least {whole_percent(rules.alignment)} of the way from chance to always"
            if survey.roles.alignment_by
            else ""
        ),
        f"copy: at least {number(rules.copy)} of its attention on the same text in the source",
        f"positional: at least {number(rules.positional)} on one relative place",
        f"sink: at least {number(rules.sink)} on special tokens",
        f"broad: spread at least {number(rules.broad)}",
    ]
    return f"Rules: {'; '.join(parts)}. Broad heads are neither positional nor sinks."


def _role_table(survey: HeadSurvey) -> Table:
    """Every head with its role, those that outputs need most first."""
    importance = {row.head: row for row in survey.ablation.rows}
    order = sorted(survey.roles.rows, key=lambda row: (-importance[row.head].importance, row.head))
    rows = tuple(
        (
            _head_words(row.head),
            role_sentence(row, survey.roles.alignment_by),
            DASH if math.isnan(row.score) else number(row.score),
        )
        for row in order
    )
    return Table(
        "Every head and its role, the one that outputs need most first",
        ("Head", "Roles, the most telling first", "Its figure"),
        rows,
        (False, False, True),
    )


def _head_words(head: Head) -> str:
    return f"{KINDS[head.side, head.kind]}, layer {head.layer}, head {head.index}"


def _strongest_heads(survey: HeadSurvey) -> Table:
    """Both importances side by side, by ablation."""
    gradient = {row.head: row for row in survey.gradient.rows}
    places = {
        row.head: place
        for place, row in enumerate(sorted(survey.gradient.rows, key=lambda r: -r.importance), 1)
    }
    order = sorted(survey.ablation.rows, key=lambda row: -row.importance)[:_STRONGEST]
    rows = tuple(
        (
            str(place),
            _head_words(row.head),
            number(row.importance, 4),
            number(row.signed, 4, signed=True),
            number(gradient[row.head].importance, 4),
            str(places[row.head]),
        )
        for place, row in enumerate(order, 1)
    )
    units = survey.ablation.units
    return Table(
        f"The heads that outputs need most, in {units}; beside them the estimate by gradient and its rank",
        ("Rank", "Head", "Ablation", "With sign", "Gradient", "Its rank"),
        rows,
        (True, False, True, True, True, True),
    )


def _all_heads(survey: HeadSurvey, figures: Sequence[str]) -> Table:
    values = {name: head_values(survey, name) for name in figures}
    rows = tuple(
        (
            _head_words(row.head),
            *(
                DASH
                if row.head not in values[name]
                else number(values[name][row.head], 3, signed=HEAD_FIGURES[name].signed)
                for name in figures
            ),
        )
        for row in survey.statistics.rows
    )
    columns = ("Head", *(HEAD_FIGURES[name].label for name in figures))
    return Table("Every figure of every head", columns, rows, (False, *[True] * len(figures)))


def _head_grid(survey: HeadSurvey, name: str) -> Grid:
    """Layers down, heads of each kind of attention across."""
    facts, values = HEAD_FIGURES[name], head_values(survey, name)
    kinds = [key for key in KINDS if any((head.side, head.kind) == key for head in values)]
    sizes = [1 + max(head.index for head in values if (head.side, head.kind) == key) for key in kinds]
    depth = 1 + max(head.layer for head in values)
    limits = {}
    for key in kinds:
        own = [abs(x) for head, x in values.items() if name != "distance" or (head.side, head.kind) == key]
        limits[key] = facts.limit or max(own) or 1.0
    by_place = {(head.side, head.kind, head.layer, head.index): x for head, x in values.items()}
    rows = []
    for layer in range(depth):
        cells = []
        for key, size in zip(kinds, sizes, strict=True):
            decimals = decimals_for(limits[key]) if facts.limit is None else 2
            for index in range(size):
                gap = " gap" if index == 0 and key != kinds[0] else ""
                value = by_place.get((*key, layer, index))
                where = f"{KINDS[key]}, layer {layer}, head {index}"
                cells.append(_cell(value, limits[key], decimals, facts.signed, where, gap))
        rows.append(Row(Heading(f"layer {layer}", ""), tuple(cells), False))
    columns = tuple(
        Heading(str(index), "gap" if index == 0 and key != kinds[0] else "")
        for key, size in zip(kinds, sizes, strict=True)
        for index in range(size)
    )
    top = max(limits.values())
    decimals = decimals_for(top) if facts.limit is None else 2
    return Grid(
        caption=facts.label,
        help=facts.help,
        corner="Head →",
        legend=replace(
            _legend(top, decimals, facts.signed, head_units(survey, name), facts.ends),
            **({"high": "the largest of its kind"} if name == "distance" else {}),
        ),
        groups=tuple(
            Group(KINDS[key], size, "gap" if key != kinds[0] else "")
            for key, size in zip(kinds, sizes, strict=True)
        ),
        columns=columns,
        rows=tuple(rows),
        dense=len(columns) > WRITTEN_COLUMNS,
    )


def _cell(
    value: float | None,
    limit: float,
    decimals: int,
    signed: bool,
    where: str,
    gap: str = "",
    text: str | None = None,
) -> Cell:
    if value is None or math.isnan(value):
        return Cell("", "", f"na{gap}")
    said = number(value, decimals, signed=signed)
    css = colours.css_class(colours.level(value, limit)) or "zero"
    return Cell(said if text is None else text, f"{where}: {said}", f"{css}{gap}")


def _legend(limit: float, decimals: int, signed: bool, units: str, ends: str) -> Legend:
    lowest = -colours.LEVELS if signed else 0
    return Legend(
        steps=tuple(colours.css_class(step) for step in range(lowest, colours.LEVELS + 1)),
        low=number(-limit, decimals, signed=True) if signed else "0",
        middle="0" if signed else "",
        high=number(limit, decimals, signed=signed),
        units=units,
        ends=ends,
    )


# ---- lenses ----------------------------------------------------------------------------------------------


def _lens_lead(lens: Lens) -> str:
    settled = [int(k) for k in lens.settled]
    last = len(lens.layers) - 1
    early = sum(0 <= k < last for k in settled)
    late = sum(k == last for k in settled)
    never = sum(k < 0 for k in settled)
    side = "decoder" if lens.name == "logit_lens" else "encoder"
    parts = [f"{early} settled before the last layer of the {side}"]
    if late:
        parts.append(f"{late} only in it")
    if never:
        parts.append(f"{never} not the most likely in the end either")
    return f"Of {plural(len(settled), 'output token')} {', '.join(parts)}."


def _lens_error(lens: Lens) -> str:
    exact = f"The last layer gives the model's own logits (largest difference {lens.error:.1e})."
    wrong = f"The last layer differs from the model's own logits by {lens.error:.1e}"
    return exact if lens.error < 1e-3 else f"{wrong}: something changes them after it."


def _lens_grids(lens: Lens, watched: int | None) -> Iterable[Grid]:
    """Layers down, output tokens across, in tables of a width that can be read."""
    log_probs = lens.log_probs if watched is None else lens.watched_log_probs[..., watched]
    ranks = lens.ranks if watched is None else lens.watched_ranks[..., watched]
    count = len(lens.target_tokens)
    size = math.ceil(count / math.ceil(count / _LENS_COLUMNS)) if count else 1
    subject = "the output's token" if watched is None else f"‘{token_label(lens.watched[watched].text)}’"
    for first in range(0, count, size):
        steps = range(first, min(first + size, count))
        rows = []
        for k in range(len(lens.layers)):
            cells = []
            for t in steps:
                share = math.exp(min(0.0, float(log_probs[k, t])))
                top = token_label(lens.top_texts[k][t][0], 14)
                best = f"{top} {probability(float(lens.top_log_probs[k, t, 0]))}"
                chance = probability(float(log_probs[k, t]))
                title = f"most likely {best}; {subject}: rank {int(ranks[k, t]):,}, probability {chance}"
                text = top if watched is None else f"{int(ranks[k, t]):,}"
                css = colours.css_class(colours.level(share, 1.0)) or "zero"
                cells.append(Cell(text, title, css))
            rows.append(Row(Heading(layer_label(lens, k), ""), tuple(cells), False))
        caption = (
            f"{LENS_NAMES[lens.name]}, steps {first} to {steps[-1]}"
            if count > size
            else LENS_NAMES[lens.name]
        )
        yield Grid(
            caption=caption,
            help="",
            corner="Output →",
            legend=_legend(1.0, 2, False, "probability", f"of {subject}; 1 = certain"),
            groups=(),
            columns=tuple(_token_heading(lens.target_tokens[t]) for t in steps),
            rows=tuple(rows),
        )


def _token_heading(token: Token) -> Heading:
    return Heading(token_label(token), "special" if token.special else "")


def _lens_table(lens: Lens) -> Table:
    """Every layer and token: rank, probability, entropy, KL and the most likely tokens."""
    rows = tuple(
        (
            str(t),
            token_label(token),
            layer_label(lens, k),
            f"{int(lens.ranks[k, t]):,}",
            probability(float(lens.log_probs[k, t])),
            number(float(lens.entropy[k, t])),
            number(float(lens.kl[k, t])),
            ", ".join(
                f"{token_label(text)} {probability(value)}"
                for text, value in zip(lens.top_texts[k][t], lens.top_log_probs[k, t].tolist(), strict=True)
            ),
        )
        for t, token in enumerate(lens.target_tokens)
        for k in range(len(lens.layers))
    )
    return Table(
        "All numbers: entropy and KL to the model in nats, 0 is no doubt and no difference",
        ("Step", "Token", "Layer", "Rank", "Probability", "Entropy", "KL", "Most likely"),
        rows,
        (True, False, False, True, True, True, True, False),
    )


# ---- contributions and alignment -------------------------------------------------------------------------


def _contributions_lead(found: Contributions) -> str:
    label = token_label(found.token)
    blocks = found.of("block")
    first = blocks[0] if blocks else None
    what = f"the {contribution_question(found)} of ‘{label}’ at step {found.position}"
    start = f"{what[0].upper()}{what[1:]} is {number(found.value)}."
    if first is None:
        return start
    verb = "adds most to it" if first.logit >= 0 else "takes most from it"
    heads = found.of("head")
    more = (
        f" The strongest head is {heads[0].name} ({number(heads[0].logit, 2, signed=True)})." if heads else ""
    )
    return f"{start} The block {first.name} {verb} ({number(first.logit, 2, signed=True)} logits).{more}"


def _part_grid(caption: str, parts: Sequence[Any], limit: float) -> Grid:
    """A row per component: what it adds, coloured; what it promotes and suppresses."""
    decimals = max(2, decimals_for(limit))
    rows = []
    for part in parts:
        added = _cell(part.logit, limit or 1.0, decimals, True, part.name)
        words = [
            Cell(", ".join(token_label(t.text, 14) for t in tokens[:5]) or DASH, _scores(tokens), "words")
            for tokens in (part.promoted, part.suppressed)
        ]
        rows.append(Row(Heading(part.name, ""), (added, *words), False))
    return Grid(
        caption=caption,
        help="",
        corner="Part",
        legend=_legend(limit or 1.0, decimals, True, "logits", "below 0 against the token, above 0 for it"),
        groups=(),
        columns=(Heading("adds", ""), Heading("promotes most", "words"), Heading("suppresses most", "words")),
        rows=tuple(rows),
        named=True,
    )


def _scores(tokens: Sequence[Any]) -> str:
    return ", ".join(f"{token_label(t.text)} {number(t.score, 2, signed=True)}" for t in tokens)


def _alignment_grid(found: WordAlignment) -> Grid:
    linked = set(found.links)
    rows = []
    for j, target in enumerate(found.target_words):
        cells = []
        for i, source in enumerate(found.source_words):
            cell = _cell(
                float(found.matrix[j, i]), 1.0, 2, False, f"‘{token_label(target)}’ ← ‘{token_label(source)}’"
            )
            cells.append(replace(cell, css=f"{cell.css} link") if (i, j) in linked else cell)
        rows.append(Row(_token_heading(target), tuple(cells), False))
    columns = tuple(_token_heading(word) for word in found.source_words)
    dense = len(columns) > WRITTEN_COLUMNS
    return Grid(
        caption="Attention between words",
        help="",
        corner="Output word ↓",
        legend=_legend(1.0, 2, False, "attention", "0 = none, 1 = all of it"),
        groups=(),
        columns=columns,
        rows=tuple(rows),
        dense=dense,
        upright=dense or sum(max(4, len(column.text)) for column in columns) > 84,
    )
