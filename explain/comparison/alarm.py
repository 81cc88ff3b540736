"""The alarm: the outputs say that nothing happened, and the explanations say that something did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from explain.comparison.figures import Figures, OutputChange

NO_FLOOR = (
    "no floor was given, so nothing can be concluded about whether this is more than what another training "
    "seed changes"
)

# Where A gets a smaller share exactly right, exact match is no measure of accuracy.
TELLING = 0.5


@dataclass(frozen=True, slots=True)
class MethodAlarm:
    """Whether one method's maps moved further than retraining moves them.

    Attributes:
        alarm: accuracy is unchanged and the maps are below the floor; None where that cannot be told.
        below_floor: the interval of the top-k Jaccard index lies wholly below that of every pair of retrained
            models; None without a floor or without figures.
        reason: why, with the figures.
    """

    alarm: bool | None
    below_floor: bool | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The alarm as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the alarm back from its JSON object."""
        return cls(data["alarm"], data["below_floor"], data["reason"])


@dataclass(frozen=True, slots=True)
class Alarm:
    """Whether accuracy hides that the model now has other reasons.

    The alarm is raised (True) where two things hold. *Accuracy is unchanged*: exact match differs by at most
    the margin (one point) in either direction or, where no right outputs are known or A gets fewer than half
    exactly right (as in free translation, where exact match says little), at least 99 % of the outputs are
    the same. And *explanations moved more than retraining moves them*: for at least one method
    the 95 % interval of the top-k Jaccard index between the two models lies wholly below the interval of
    every pair of models of the same recipe and other seeds, on the same target tokens. Else it is False, or
    None where it cannot be told: without such models, or without a figure.

    The Jaccard index decides alone, and was chosen beforehand; the other figures are there to be read. With
    one pair of retrained models the floor is rough: two or three more make it firmer, and never lower an
    alarm's threshold.

    Attributes:
        alarm: the answer over all methods.
        reason: why, with the figures.
        accuracy_unchanged: the first of the two; None where neither figure is known.
        methods: the answer of every method.
    """

    alarm: bool | None
    reason: str
    accuracy_unchanged: bool | None
    methods: Mapping[str, MethodAlarm]


def alarm_of(figures: Figures, floor: Sequence[Figures], margin: float = 0.01) -> Alarm:
    """Whether accuracy hides a change of the explanations; see `Alarm`.

    Args:
        figures: of the two models.
        floor: of every pair of models that differ in nothing but their seed; () without any.
        margin: the largest change of accuracy that counts as none, a share.
    """
    unchanged, accuracy = _accuracy(figures.outputs, margin)
    methods = {name: _method(name, figures, floor, unchanged) for name in figures.drift}
    below = [name for name, found in methods.items() if found.below_floor]
    open_ = [name for name, found in methods.items() if found.below_floor is None]
    if not floor:
        return Alarm(None, f"{accuracy}; {NO_FLOOR}", unchanged, methods)
    if not methods or len(open_) == len(methods) or unchanged is None:
        return Alarm(None, f"{accuracy}; no method gave maps that can be compared", unchanged, methods)
    if below:
        share = f"{len(below)} of {len(methods)} methods ({', '.join(below)})"
        moved = f"explanations moved more than retraining moves them, by {share}"
    else:
        moved = "explanations moved no more than retraining moves them, by every method"
    hides = bool(below) and unchanged
    if below and not unchanged:
        moved += ", but accuracy shows the change itself"
    return Alarm(hides, f"{accuracy}; {moved}", unchanged, methods)


def told_by_exact_match(outputs: OutputChange) -> bool:
    """Whether exact match stands for accuracy; else it is the share of outputs that are the same."""
    return outputs.exact_match_change.n > 0 and outputs.exact_match_a.value >= TELLING


def _accuracy(outputs: OutputChange, margin: float) -> tuple[bool | None, str]:
    """Whether accuracy is unchanged, and how to say it."""
    if told_by_exact_match(outputs):
        same = abs(outputs.exact_match_change.value) <= margin + 1e-9
        before, after = (f"{100 * part.value:.1f}" for part in (outputs.exact_match_a, outputs.exact_match_b))
        return same, f"accuracy is {'unchanged' if same else 'changed'} ({before} → {after}%)"
    agreed = outputs.agreement.value
    if math.isnan(agreed):
        return None, "no outputs could be compared"
    same = agreed >= 1 - margin - 1e-9
    return same, f"{100 * agreed:.1f}% of the outputs are the same"


def _method(name: str, figures: Figures, floor: Sequence[Figures], unchanged: bool | None) -> MethodAlarm:
    found = figures.drift[name].topk_jaccard
    pairs = [pair.drift[name].topk_jaccard for pair in floor if name in pair.drift]
    pairs = [pair for pair in pairs if not math.isnan(pair.low)]
    if not floor:
        return MethodAlarm(None, None, NO_FLOOR)
    if not pairs or math.isnan(found.high):
        return MethodAlarm(None, None, "its maps have no strongest tokens that could be compared")
    lowest = min(pairs, key=lambda pair: pair.low)
    below = found.high < lowest.low
    said = (
        f"top tokens shared {found.value:.2f} ({found.low:.2f} to {found.high:.2f}), of retrained models "
        f"{lowest.value:.2f} ({lowest.low:.2f} to {lowest.high:.2f})"
    )
    if len(pairs) > 1:
        said += f", the least of {len(pairs)} pairs"
    alarm = None if unchanged is None else below and unchanged
    return MethodAlarm(alarm, below, f"{'below' if below else 'not below'} the floor: {said}")
