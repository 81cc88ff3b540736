"""Small plots as geometry for inline SVG: intervals, deletion and insertion curves, the cascade of weights.

A plot is drawn on the server, its colours are classes of the style sheet, and its numbers stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.report.labels import whole_percent

if TYPE_CHECKING:
    from explain.evaluation import Estimate
    from explain.evaluation.randomisation import Randomisation

WIDTH, HEIGHT = 300, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 8, 36
# Names of stages are long and stand at a slant.
_SLANTED = 62
BAR = 120
_BAR_END = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval on a short scale; places in units of a picture `BAR` wide.

    `mark` is the place of chance or of 0, None where there is none.
    """

    low: str
    value: str
    high: str
    mark: str | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, and what to write there."""

    at: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; `css` is `mine` or `control`. `bars` are intervals: x, low, high."""

    css: str
    points: str
    dots: tuple[tuple[str, str], ...] = ()
    bars: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot of shares from 0 to 1; `summary` says in words what a reader who cannot see it should know."""

    title: str
    summary: str
    x_title: str
    mine: str
    control: str
    height: int
    left: int
    right: int
    top: int
    bottom: int
    slanted: bool
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def interval(found: Estimate, mark: float | None, low: float = 0.0, high: float = 1.0) -> Interval | None:
    """The picture of an estimate on a scale from `low` to `high`; None where there is nothing to draw."""
    if math.isnan(found.value) or not high > low:
        return None

    def place(value: float) -> str:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return _text(_BAR_END + share * (BAR - 2 * _BAR_END))

    ends = [found.value if math.isnan(end) else end for end in (found.low, found.high)]
    at = None if mark is None or math.isnan(mark) else place(mark)
    return Interval(place(ends[0]), place(found.value), place(ends[1]), at)


def curve(
    title: str,
    x_title: str,
    label: str,
    fractions: Sequence[float],
    mine: Sequence[float],
    random: Sequence[float],
) -> Chart | None:
    """A deletion or insertion curve beside that of a random order; None without numbers."""
    if _unknown(mine):
        return None
    at = min(range(len(fractions)), key=lambda i: abs(fractions[i] - 0.2))
    beside = "" if _unknown(random) else f" and {random[at]:.2f} for a random order"
    summary = (
        f"{title}. At {whole_percent(fractions[at])} of the tokens the output token's mean probability is "
        f"{mine[at]:.2f} for {label}{beside}."
    )
    lines = [_line("mine", fractions, mine)]
    if not _unknown(random):
        lines.insert(0, _line("control", fractions, random))
    ticks = tuple(Tick(_x(share), whole_percent(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return _chart(title, summary, x_title, label, "random order", ticks, lines)


def cascade(found: Randomisation, label: str) -> Chart | None:
    """Top-1 agreement with the original maps while more and more weights are shuffled, beside chance."""
    stages = [stage for stage in found.stages if not math.isnan(stage.top1.value)]
    if not stages:
        return None
    places = [index / len(stages) for index in range(len(stages) + 1)]
    values = [1.0, *(stage.top1.value for stage in stages)]
    bars = tuple(
        (_x(place), _y(stage.top1.low), _y(stage.top1.high))
        for place, stage in zip(places[1:], stages, strict=True)
        if not math.isnan(stage.top1.low)
    )
    line = _line("mine", places, values)
    lines = [Line(line.css, line.points, line.dots, bars)]
    chance = found.chance_top1.value
    if not math.isnan(chance):
        lines.insert(0, Line("control", f"{_x(0)},{_y(chance)} {_x(1)},{_y(chance)}"))
    ticks = [Tick(_x(0), "as learnt")]
    ticks += [Tick(_x(place), stage.name) for place, stage in zip(places[1:], stages, strict=True)]
    summary = (
        f"Shuffled weights. With all weights shuffled {whole_percent(values[-1])} of the output tokens keep "
        f"their strongest influence; chance is {whole_percent(chance)}."
    )
    return _chart(
        "Shuffled weights: same strongest token",
        summary,
        "shuffled down to",
        label,
        "chance",
        tuple(ticks),
        lines,
        slanted=True,
    )


def _chart(
    title: str,
    summary: str,
    x_title: str,
    label: str,
    control: str,
    ticks: tuple[Tick, ...],
    lines: Sequence[Line],
    *,
    slanted: bool = False,
) -> Chart:
    return Chart(
        title=title,
        summary=summary,
        x_title=x_title,
        mine=label,
        control=control if len(lines) > 1 else "",
        height=HEIGHT + (_SLANTED - _BOTTOM if slanted else 0),
        left=_LEFT,
        right=WIDTH - _RIGHT,
        top=_TOP,
        bottom=HEIGHT - _BOTTOM,
        slanted=slanted,
        x_ticks=ticks,
        y_ticks=tuple(Tick(_y(share), text) for share, text in ((0.0, "0"), (0.5, "0.5"), (1.0, "1"))),
        lines=tuple(lines),
    )


def _line(css: str, xs: Sequence[float], ys: Sequence[float]) -> Line:
    dots = tuple((_x(x), _y(y)) for x, y in zip(xs, ys, strict=True))
    return Line(css, " ".join(f"{x},{y}" for x, y in dots), dots if css == "mine" else ())


def _unknown(values: Sequence[float]) -> bool:
    return not values or any(math.isnan(value) for value in values)


def _x(share: float) -> str:
    return _text(_LEFT + share * (WIDTH - _LEFT - _RIGHT))


def _y(share: float) -> str:
    bottom = HEIGHT - _BOTTOM
    return _text(bottom - min(1.0, max(0.0, share)) * (bottom - _TOP))


def _text(value: float) -> str:
    """A coordinate: one decimal is a tenth of a pixel, and the same everywhere."""
    return f"{value:.1f}".removesuffix(".0")
