"""An attribution as an accessible table: every cell a number and a colour level, output tokens down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from explain.report import colours
from explain.report.facts import reading_help, scale_ends
from explain.report.labels import array, decimals_for, number, objective_name, score_limit, token_label
from explain.results import Attribution, Token

# Up to this many columns the numbers are written in the cells; past it they are there for screen readers,
# for copying and under the pointer.
WRITTEN_COLUMNS = 30
# A wider map is broken into bands of this many columns, so that it can still be read and printed.
BAND_COLUMNS = 110
# Past this many cells the titles name only the number; past the next limit the table is left out: a cell
# takes some sixty bytes of the page.
TITLED_CELLS = 8_000
MOST_CELLS = 20_000
# Characters of a heading's title, where its label is a shortened sentence.
MOST_TITLE = 300


@dataclass(frozen=True, slots=True)
class Cell:
    """One score. `css` holds its level (and `na` where no score is possible), `text` the number."""

    text: str
    title: str
    css: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A row or column heading: the token's label, its CSS classes, and the text that the label shortens."""

    text: str
    css: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Columns that belong together: source, decoder start, or earlier output."""

    text: str
    span: int
    css: str


@dataclass(frozen=True, slots=True)
class Row:
    """An output token and its scores; `open` when the scores do not add up within the tolerance."""

    heading: Heading
    cells: tuple[Cell, ...]
    open: bool


@dataclass(frozen=True, slots=True)
class Band:
    """Columns `first` to `last` of a map (counted from 1) as one table."""

    first: int
    last: int
    groups: tuple[Group, ...]
    columns: tuple[Heading, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Legend:
    """The colour bar: the CSS class of each step from the lowest score to the highest, and its numbers."""

    steps: tuple[str, ...]
    low: str
    middle: str
    high: str
    units: str
    ends: str


@dataclass(frozen=True, slots=True)
class MapView:
    """Everything that the template needs for one map."""

    noun: str
    caption: str
    help: str
    legend: Legend
    bands: tuple[Band, ...]
    columns: int
    dense: bool
    signed: bool
    upright: bool
    cells: int


@dataclass(frozen=True, slots=True)
class _Column:
    side: str  # source, start or prefix
    index: int
    heading: Heading


def map_view(attribution: Attribution, label: str) -> MapView:
    """The table of an attribution; `bands` is empty when it would have more than `MOST_CELLS` cells."""
    columns = _columns(attribution)
    count = len(columns) * len(attribution.target_tokens)
    dense = len(columns) > WRITTEN_COLUMNS
    bands: tuple[Band, ...] = ()
    if count <= MOST_CELLS:
        size = math.ceil(len(columns) / math.ceil(len(columns) / BAND_COLUMNS)) if columns else 1
        bands = tuple(
            _band(attribution, columns[i : i + size], i + 1, titled=count <= TITLED_CELLS)
            for i in range(0, len(columns), size)
        )
    width = sum(max(4, len(column.heading.text)) for column in columns)
    return MapView(
        noun=attribution.level,
        caption=_caption(attribution, label),
        help=reading_help(attribution),
        legend=_legend(attribution),
        bands=bands,
        columns=len(columns),
        dense=dense,
        signed=attribution.signed,
        upright=dense or width > 84,
        cells=count,
    )


def _caption(attribution: Attribution, label: str) -> str:
    noun, name = attribution.level, objective_name(attribution)
    what = f"{label}, {name}" if name else label
    return f"{what}: each source {noun} and each earlier output {noun}, for each output {noun}"


def _columns(attribution: Attribution) -> list[_Column]:
    """Source, then the decoder start, then the output tokens that can have an effect on a later one."""
    found = [_Column("source", i, _heading(token)) for i, token in enumerate(attribution.source_tokens)]
    if bool((attribution.start != 0).any()):
        found.append(_Column("start", 0, Heading("start", "special gap")))
    inside = bool((attribution.within != 0).any())
    last = len(attribution.target_tokens) - (0 if inside and float(attribution.within[-1]) else 1)
    for u, token in enumerate(attribution.target_tokens[: max(0, last)]):
        heading = _heading(token)
        gap = " gap" if u == 0 and found[-1].side == "source" else ""
        found.append(_Column("prefix", u, replace(heading, css=heading.css + gap)))
    return found


def _heading(token: Token) -> Heading:
    label, whole = token_label(token), token_label(token, MOST_TITLE)
    return Heading(label, "special" if token.special else "", whole if whole != label else "")


def _band(attribution: Attribution, columns: list[_Column], first: int, *, titled: bool) -> Band:
    limit = score_limit(attribution)
    decimals = decimals_for(limit)
    scores = {name: array(getattr(attribution, name)) for name in ("source", "prefix", "start", "within")}
    beyond = beyond_tolerance(attribution)
    rows = []
    for t, token in enumerate(attribution.target_tokens):
        heading = _heading(token)
        cells = []
        for column in columns:
            score = _score(scores, column, t)
            gap = " gap" if column.heading.css.endswith("gap") else ""
            if score is None:
                cells.append(Cell("", "", "na" + gap))
                continue
            text = number(score, decimals, signed=attribution.signed)
            title = f"‘{heading.text}’ ← {_cause(column, t)}: {text}" if titled else text
            css = "na" if math.isnan(score) else colours.css_class(colours.level(score, limit)) or "zero"
            cells.append(Cell("?" if math.isnan(score) else text, title, (css + gap).strip()))
        rows.append(Row(heading, tuple(cells), beyond[t]))
    headings = tuple(column.heading for column in columns)
    return Band(first, first + len(columns) - 1, _groups(columns, attribution.level), headings, tuple(rows))


def _score(scores: dict, column: _Column, t: int) -> float | None:
    """The score of a cell; None where a token cannot have an effect: on itself, or on what came before."""
    if column.side == "start":
        return float(scores["start"][t])
    if column.side == "source" or column.index < t:
        return float(scores[column.side][t, column.index])
    within = float(scores["within"][t])
    return within if column.index == t and within else None


def _cause(column: _Column, t: int) -> str:
    if column.side == "start":
        return "decoder start"
    if column.side == "prefix":
        inside = "its own earlier pieces" if column.index == t else f"earlier output ‘{column.heading.text}’"
        return inside
    return f"source ‘{column.heading.text}’"


def _groups(columns: list[_Column], noun: str) -> tuple[Group, ...]:
    sides = [column.side for column in columns]
    names = {"source": f"Source {noun}s", "start": "", "prefix": f"Earlier output {noun}s"}
    groups = []
    for side in ("source", "start", "prefix"):
        if side in sides:
            css = "gap" if columns[sides.index(side)].heading.css.endswith("gap") else ""
            groups.append(Group(names[side], sides.count(side), css))
    return tuple(groups)


def _legend(attribution: Attribution) -> Legend:
    limit = score_limit(attribution)
    decimals = decimals_for(limit)
    lowest = -colours.LEVELS if attribution.signed else 0
    return Legend(
        steps=tuple(colours.css_class(step) for step in range(lowest, colours.LEVELS + 1)),
        low=number(-limit, decimals, signed=True) if attribution.signed else "0",
        middle="0" if attribution.signed else "",
        high=number(limit, decimals, signed=attribution.signed),
        units=attribution.units or "score",
        ends=scale_ends(attribution) if limit else "every score is 0",
    )


def beyond_tolerance(attribution: Attribution) -> list[bool]:
    """Per target token: the completeness error is defined and larger than the tolerance asked for."""
    defined = ~attribution.completeness_error.isnan()
    return [bool(x) for x in defined & ~attribution.converged]
