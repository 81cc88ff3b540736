"""The ranking of methods as a table: the verdict, the figures behind it beside chance, and the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.report.curves import Interval, interval
from explain.report.facts import facts_of
from explain.report.labels import DASH, percent, whole_percent
from explain.report.trust import (
    CardView,
    card_view,
    controls,
    number_range,
    share_range,
    value_text,
    with_gold,
)

if TYPE_CHECKING:
    from explain.evaluation import Estimate, Evaluation, MethodEvaluation


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the ranking: its heading, the technical name under it, and what it is compared with."""

    name: str
    technical: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure, what stands in small under it, its picture, and whether it failed a check."""

    value: str
    detail: str = ""
    picture: Interval | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class RankRow:
    """A method in the ranking; `place` is empty for the control, `said` is the reason where it must be read.

    `anchor` is the id of the full card where the page has one, `cells` are empty where nothing was measured.
    """

    place: str
    card: CardView
    anchor: str
    cells: tuple[Cell, ...]
    said: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """The table of methods, the most trustworthy first; `caption` says how to read its pictures."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[RankRow, ...]


def anchor(name: str) -> str:
    """The id of a method's trust card."""
    return f"card-{name}"


def ranking(evaluation: Evaluation, names: Sequence[str] | None = None) -> Ranking:
    """The ranking of an evaluation, or of some of its methods in the places that they have among all.

    Methods that failed follow those that did not, then what cannot explain the model; the control, which
    shows what chance gives, and methods that were not evaluated stand last.
    """
    shown = [name for name in evaluation.ranking if names is None or name in names]
    columns = tuple(_columns(evaluation))
    scale = _scale(evaluation)
    beside = [name for name in controls(evaluation) if names is None or name in names]
    missing = [name for name in names or () if name not in evaluation.methods]
    rows = []
    for name in [*shown, *beside, *missing]:
        found = evaluation.methods.get(name)
        card = card_view(evaluation, facts_of(name))
        place = str(evaluation.ranking.index(name) + 1) if name in evaluation.ranking else ""
        known = found is not None and not found.problem
        cells = tuple(_cells(evaluation, found, scale)) if found is not None and known else ()
        said = card.reason if card.verdict in ("fails", "doubtful") or not known else ""
        rows.append(RankRow(place, card, anchor(name) if names is None else "", cells, said))
    what = "chance" if with_gold(evaluation) else "0, a random order"
    caption = f"Picture: the dot is the value, the line its 95\u00a0% interval, the upright stroke {what}."
    return Ranking(caption, columns, tuple(rows))


def _columns(evaluation: Evaluation) -> Iterable[Column]:
    if with_gold(evaluation):
        yield Column("Right token first", "P@1")
        yield Column("All right first", "R-precision")
        yield Column("Weight on right", "mass")
    yield Column("Faithfulness", "comprehensiveness above a random order")
    if _any(evaluation, "randomisation"):
        yield Column("Shuffled weights", "same top token")
    if _claims(evaluation):
        yield Column("Adds up", "tokens in tolerance")
    if _any(evaluation, "stability"):
        yield Column("Retrained", "same top token")


def _cells(evaluation: Evaluation, found: MethodEvaluation, scale: tuple[float, float]) -> Iterable[Cell]:
    # A control is there to fail.
    counts = found.card.verdict != "control"
    failed = {check.name for check in found.card.checks if check.passed is False and counts}
    if with_gold(evaluation):
        if found.gold is None:
            yield from (Cell(DASH), Cell(DASH), Cell(DASH))
        else:
            scores, chance = found.gold.scores, found.gold.chance.value
            picture = interval(scores.precision_at_1, chance)
            yield _share(scores.precision_at_1, picture, "known answers" in failed)
            yield _share(scores.r_precision)
            yield _share(scores.mass)
    if found.faithfulness is None:
        yield Cell(DASH)
    else:
        gain = found.faithfulness.advantage
        picture = None if with_gold(evaluation) else interval(gain, 0.0, *scale)
        detail, wrong = number_range(gain, signed=True), "faithfulness" in failed
        if wrong and gain.low > 0:  # hiding beats a random order, keeping does not
            detail = f"kept alone {number_range(found.faithfulness.sufficiency_advantage, signed=True)}"
        yield Cell(value_text(gain.value, signed=True), detail, picture, wrong)
    if _any(evaluation, "randomisation"):
        yield _shuffled(found, "shuffled weights" in failed)
    if _claims(evaluation):
        yield _sums(found, "completeness" in failed)
    if _any(evaluation, "stability"):
        yield Cell(DASH) if found.stability is None else _share(found.stability.top1)


def _share(found: Estimate, picture: Interval | None = None, failed: bool = False) -> Cell:
    detail = share_range(found)
    return Cell(whole_percent(found.value), "" if detail == DASH else detail, picture, failed)


def _shuffled(found: MethodEvaluation, failed: bool) -> Cell:
    result = found.randomisation
    if result is None or not result.stages:
        return Cell(DASH)
    chance = result.chance_top1.value
    return Cell(whole_percent(result.stages[-1].top1.value), f"chance {whole_percent(chance)}", None, failed)


def _sums(found: MethodEvaluation, failed: bool) -> Cell:
    sums = found.completeness
    if sums is None or not sums.claimed or math.isnan(sums.within):
        return Cell(DASH)
    return Cell(whole_percent(sums.within), f"within {percent(sums.tolerance)}", None, failed)


def _any(evaluation: Evaluation, part: str) -> bool:
    return any(getattr(found, part) is not None for found in evaluation.methods.values())


def _claims(evaluation: Evaluation) -> bool:
    sums = [found.completeness for found in evaluation.methods.values()]
    return any(part is not None and part.claimed for part in sums)


def _scale(evaluation: Evaluation) -> tuple[float, float]:
    """The ends of the scale for advantages, which always holds 0."""
    parts = [found.faithfulness.advantage for found in evaluation.methods.values() if found.faithfulness]
    ends = [end for part in parts for end in (part.low, part.value, part.high) if not math.isnan(end)]
    return min([0.0, *ends]), max([0.0, *ends])
