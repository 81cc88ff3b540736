"""Trust cards: what a method proved on this model, what it failed, and which method to believe first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from explain.attribution import REGISTRY
from explain.errors import InputError

if TYPE_CHECKING:
    from explain.evaluation.result import MethodEvaluation

Verdict: TypeAlias = Literal["passes", "doubtful", "fails", "unavailable", "control"]
VERDICTS: tuple[Verdict, ...] = ("passes", "doubtful", "fails", "unavailable", "control")
"""Best first. A method `fails` if it fails a check, and is `doubtful` if a figure is below what one would
rely on; `unavailable` cannot explain this model."""


@dataclass(frozen=True, slots=True)
class CardPolicy:
    """What a method must reach; all shares are 0 to 1.

    Attributes:
        precision: P@1 against known answers below which a method is doubtful.
        within: share of tokens that must add up to what they explain, of a method that claims completeness.
        stability: top-1 agreement between retrained models below which a method is doubtful.
    """

    precision: float = 0.9
    within: float = 0.9
    stability: float = 0.3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; it is a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Check:
    """One question put to a method: passed, failed or (None) open; and why, in a sentence."""

    name: str
    passed: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class TrustCard:
    """What a method proved on this model.

    Attributes:
        method: its name.
        verdict: one of `VERDICTS`.
        reason: the verdict in a sentence: what failed, what is doubtful, or what was proved.
        checks: the questions behind it.
    """

    method: str
    verdict: Verdict
    reason: str
    checks: tuple[Check, ...]

    @property
    def usable(self) -> bool:
        """No check failed."""
        return self.verdict in ("passes", "doubtful")

    def to_dict(self) -> dict[str, Any]:
        """The card as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a card back from its JSON object."""
        checks = tuple(Check(**check) for check in data["checks"])
        return cls(data["method"], data["verdict"], data["reason"], checks)


def card_of(found: MethodEvaluation, policy: CardPolicy) -> TrustCard:
    """The trust card that the findings about a method add up to."""
    if found.problem:
        return TrustCard(found.name, "unavailable", found.problem, ())
    checks = tuple(check for check in _checks(found, policy) if check is not None)
    if REGISTRY.get(found.name).kind == "control":
        return TrustCard(found.name, "control", "Random numbers, for comparison: what chance gives.", checks)
    failed = [check for check in checks if check.passed is False]
    if failed:
        return TrustCard(found.name, "fails", " ".join(check.reason for check in failed), checks)
    doubts = _doubts(found, policy)
    if doubts:
        return TrustCard(found.name, "doubtful", " ".join(doubts), checks)
    proved = [check.reason for check in checks if check.passed]
    return TrustCard(found.name, "passes", " ".join(proved), checks)


def _checks(found: MethodEvaluation, policy: CardPolicy) -> Iterable[Check | None]:
    yield _known_answers(found)
    yield _faithful(found)
    yield _follows_weights(found)
    yield _adds_up(found, policy)


def _known_answers(found: MethodEvaluation) -> Check | None:
    if found.gold is None:
        return None
    right, chance = found.gold.scores.precision_at_1, found.gold.chance
    if math.isnan(right.value):
        return Check("known answers", None, "No output token had a known answer to compare with.")
    figures = f"{right.value:.0%} of {right.n} output tokens (chance {chance.value:.0%})"
    if right.low > chance.high:
        return Check("known answers", True, f"Its strongest influence is one the answer needs for {figures}.")
    return Check(
        "known answers", False, f"It points at what the answer needs no better than chance: {figures}."
    )


def _faithful(found: MethodEvaluation) -> Check | None:
    scores = found.faithfulness
    if scores is None:
        return None
    hidden, kept = scores.advantage, scores.sufficiency_advantage
    if math.isnan(hidden.value):
        return Check("faithfulness", None, "No token could be hidden, so faithfulness was not measured.")
    lost = f"{hidden.value:+.2f} of probability ({hidden.low:+.2f} to {hidden.high:+.2f})"
    saved = f"{kept.value:+.2f} ({kept.low:+.2f} to {kept.high:+.2f})"
    # A map can name what is needed and still not what suffices (signed gradients): both must beat chance.
    if hidden.low > 0 and kept.low > 0:
        return Check(
            "faithfulness",
            True,
            f"Hiding what it ranks first costs {lost} more than a random order would, and keeping only that "
            f"saves {saved} more.",
        )
    failed = (
        f"hiding what it ranks first costs {lost} more"
        if hidden.low <= 0
        else f"keeping only that saves {saved}"
    )
    return Check(
        "faithfulness", False, f"It is not shown to beat a random order: {failed}, an interval that holds 0."
    )


def _follows_weights(found: MethodEvaluation) -> Check | None:
    if found.randomisation is None:
        return None
    return Check("shuffled weights", found.randomisation.passed, found.randomisation.reason)


def _adds_up(found: MethodEvaluation, policy: CardPolicy) -> Check | None:
    sums = found.completeness
    if sums is None or not sums.claimed:
        return None
    if not sums.tokens:
        return Check("completeness", None, "Completeness was defined for no token.")
    figures = (
        f"for {sums.within:.0%} of {sums.tokens} tokens its scores add up to what they explain within "
        f"{sums.tolerance:.1%} (median error {sums.median:.2%})"
    )
    if sums.within >= policy.within:
        return Check("completeness", True, f"{figures[0].upper()}{figures[1:]}.")
    return Check("completeness", False, f"Only {figures}.")


def _doubts(found: MethodEvaluation, policy: CardPolicy) -> list[str]:
    """Figures that nobody would call a failure, and nobody should rely on."""
    doubts = []
    if found.gold is not None and found.gold.scores.precision_at_1.value < policy.precision:
        right = found.gold.scores.precision_at_1
        doubts.append(
            f"Its strongest influence is one the answer needs for {right.value:.0%} of {right.n} output "
            f"tokens ({right.low:.0%} to {right.high:.0%}), below {policy.precision:.0%}."
        )
    if found.stability is not None and found.stability.top1.value < policy.stability:
        doubts.append(
            f"Another training of the same model points elsewhere: top-1 agreement "
            f"{found.stability.top1.value:.0%}."
        )
    if found.randomisation is not None and found.randomisation.passed is None:
        doubts.append(found.randomisation.reason)
    return doubts


def ranking(found: Iterable[MethodEvaluation]) -> list[str]:
    """Names of methods, the most trustworthy first; controls are left out.

    Ordered by verdict, then P@1 on known answers to the nearest per cent, then by how much more it costs to
    hide what the method ranks first than a random order.
    """

    def key(item: MethodEvaluation) -> tuple[int, float, float, str]:
        right = item.gold.scores.precision_at_1.value if item.gold else math.nan
        gain = item.faithfulness.advantage.value if item.faithfulness else math.nan
        return (
            VERDICTS.index(item.card.verdict),
            -round(_or_zero(right), 2),
            -_or_zero(gain),
            item.name,
        )

    return [item.name for item in sorted(found, key=key) if item.card.verdict != "control"]


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
