"""What a training story tells: when heads begin to align, maps to be right, and a cue to decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from explain.analysis.heads import Head, HeadStatistics, RoleRules, head_roles
from explain.errors import InputError
from explain.story.look import Look, SwapRow

KINDS = ("alignment_head", "maps_right", "maps_faithful", "shortcut", "exact_match")


@dataclass(frozen=True, slots=True)
class StoryRules:
    """From which figure on something counts as having happened: at that look and at every later one.

    Attributes:
        alignment: of the way from chance to always right, a head's alignment has come this far
            (`explain.analysis.RoleRules`).
        precision: of the way from chance to always right, the maps' precision at 1 has come this far.
        advantage: the lower bound of how much more the probability falls when what the maps rank first is
            hidden than when random tokens are.
        effect: nats; a cue decides when it takes (or gives) this much of the right output's log-probability
            (log 2 halves it), or when it flips the output. Its share of the maps is evidence and no
            condition: an encoder may have mixed the cue into other places, where maps do not show it.
        flipped: of the probes that have a cue, those where swapping it changes what the model is more likely
            than not to write.
        fewest: probes that must have a cue before it is named.
        exact_match: of the held-out probes, written exactly.
    """

    alignment: float = 0.5
    precision: float = 0.5
    advantage: float = 0.05
    effect: float = math.log(2)
    flipped: float = 0.5
    exact_match: float = 0.5
    fewest: int = 4

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "effect":
                if not 0 <= value < math.inf:
                    raise InputError(f"the rule {each.name} is {value}; it must be at least 0")
            elif each.name != "fewest" and not 0 <= value <= 1:
                raise InputError(f"the rule {each.name} is {value}; it must be between 0 and 1")
        if self.fewest < 1:
            raise InputError(f"the rule fewest is {self.fewest}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that happened at a step.

    Attributes:
        kind: one of `KINDS`.
        subject: which head or cue; empty for what is about the whole model.
        step: the first look from which on it holds.
        before: the look before that, at which it did not hold yet; None where there is none.
        text: the finding in a sentence.
        evidence: the figures behind it.
    """

    kind: str
    subject: str
    step: int
    before: int | None
    text: str
    evidence: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {**asdict(self), "evidence": dict(self.evidence)}


def find(looks: Sequence[Look], rules: StoryRules) -> tuple[Finding, ...]:
    """The findings in the order of their steps; of one step in the order of `KINDS`."""
    if not looks:
        return ()
    found = [
        *_heads(looks, rules),
        *_maps(looks, rules),
        *_faithful(looks, rules),
        *_shortcuts(looks, rules),
        *_exact(looks, rules),
    ]
    return tuple(sorted(found, key=lambda one: (one.step, KINDS.index(one.kind), one.subject)))


def _since(holds: Sequence[bool]) -> int | None:
    """The index of the first look from which on something holds at every look; None where it does not."""
    index = len(holds)
    while index and holds[index - 1]:
        index -= 1
    return index if index < len(holds) else None


def _way(chance: float, share: float) -> float:
    """So far on the way from chance to 1."""
    return chance + share * (1 - chance)


def _before(looks: Sequence[Look], index: int) -> int | None:
    return looks[index - 1].step if index else None


def _when(looks: Sequence[Look], index: int) -> str:
    """`from step 80 on`, with what is known of the time between two looks."""
    step, before = looks[index].step, _before(looks, index)
    if before is None:
        return "from the first look on"
    last = " (the last look: it has not been seen twice)" if index == len(looks) - 1 else ""
    return f"from step {step:,} on, not yet at step {before:,}{last}"


# ---- heads -----------------------------------------------------------------------------------------------


def _heads(looks: Sequence[Look], rules: StoryRules) -> list[Finding]:
    found = []
    role_rules = RoleRules(alignment=rules.alignment)
    roles = [head_roles(look.heads, role_rules) for look in looks]
    aligned = [set(one.heads("alignment")) for one in roles]
    by = roles[-1].alignment_by
    for head in sorted(aligned[-1]):
        index = _since([head in heads_then for heads_then in aligned])
        if index is None:
            continue
        now, end = _alignment(looks[index].heads, head, by), _alignment(looks[-1].heads, head, by)
        chance = _chance(looks[index].heads, by)
        evidence = {"alignment": now, "chance": chance, "at_the_end": end, "loss": looks[index].loss}
        before = ""
        if index:
            was = evidence["before"] = _alignment(looks[index - 1].heads, head, by)
            before = f", {was:.2f} before"
        what = "the source token that the task names" if by == "gold" else "the source token of the same text"
        found.append(
            Finding(
                "alignment_head",
                head.name,
                looks[index].step,
                _before(looks, index),
                f"{head.name} looks at {what} {_when(looks, index)}: alignment {now:.2f}{before} "
                f"(chance {chance:.2f}, {end:.2f} at the end).",
                evidence,
            )
        )
    return found


def _alignment(heads: HeadStatistics, head: Head, by: str) -> float:
    row = heads[head]
    return row.alignment if by == "gold" else row.copy_top


def _chance(heads: HeadStatistics, by: str) -> float:
    return heads.alignment_chance if by == "gold" else heads.copy_chance


# ---- maps ------------------------------------------------------------------------------------------------


def _maps(looks: Sequence[Look], rules: StoryRules) -> list[Finding]:
    index = _since([one.precision_at_1.value >= _way(one.chance, rules.precision) for one in looks])
    if index is None:
        return []
    look, end = looks[index], looks[-1]
    along = _rank_correlation([one.loss for one in looks], [one.precision_at_1.value for one in looks])
    evidence = {
        "precision_at_1": look.precision_at_1.value,
        "low": look.precision_at_1.low,
        "high": look.precision_at_1.high,
        "chance": look.chance,
        "loss": look.loss,
        "exact_match": look.exact_match,
        "at_the_end": end.precision_at_1.value,
        "rank_correlation_with_loss": along,
    }
    said = "" if math.isnan(along) else f" Over all looks its rank correlation with the loss is {along:+.2f}."
    return [
        Finding(
            "maps_right",
            "",
            look.step,
            _before(looks, index),
            f"The maps point at what the task names {_when(looks, index)}: precision at 1 is "
            f"{look.precision_at_1.value:.2f} (chance {look.chance:.2f}) at a loss of {look.loss:.2f} nats, "
            f"with {_percent(look.exact_match)} of the held-out probes exact; "
            f"{end.precision_at_1.value:.2f} at the end.{said}",
            evidence,
        )
    ]


def _faithful(looks: Sequence[Look], rules: StoryRules) -> list[Finding]:
    index = _since([one.advantage.low >= rules.advantage for one in looks])
    if index is None:
        return []
    look = looks[index]
    return [
        Finding(
            "maps_faithful",
            "",
            look.step,
            _before(looks, index),
            f"Hiding what the maps rank first hurts more than hiding at random {_when(looks, index)}: the "
            f"probability falls by {look.advantage.value:.2f} more (95 % interval {look.advantage.low:.2f} "
            f"to {look.advantage.high:.2f}). Maps of earlier steps are no evidence.",
            {"advantage": look.advantage.value, "low": look.advantage.low, "high": look.advantage.high},
        )
    ]


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation over the pairs that are known; nan with fewer than three."""
    from scipy.stats import rankdata

    known = [(a, b) for a, b in zip(one, other, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if len(known) < 3:
        return math.nan
    x, y = (rankdata(values) for values in zip(*known, strict=True))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else math.nan


# ---- cues ------------------------------------------------------------------------------------------------


def _shortcuts(looks: Sequence[Look], rules: StoryRules) -> list[Finding]:
    found = []
    for last in looks[-1].swaps:
        cue = last.cue
        if last.probes < rules.fewest:
            continue

        rows = [one.swap(cue) for one in looks]
        index = _since([row is not None and _decides(row, rules) for row in rows])
        row = None if index is None else rows[index]
        if index is None or row is None:
            continue
        look = looks[index]
        evidence = {
            "flipped": row.flipped,
            "share": row.share,
            "chance": row.chance,
            "effect": row.effect,
            "right": row.right,
            "right_swapped": row.right_swapped,
            "probes": row.probes,
            "exact_match": look.exact_match,
            "at_the_end": last.flipped,
        }
        share = ""
        if not math.isnan(row.share):
            share = f"It has {_percent(row.share)} of the attribution there (chance {_percent(row.chance)}). "
        takes = "takes" if row.effect >= 0 else "gives"
        found.append(
            Finding(
                "shortcut",
                cue,
                look.step,
                _before(looks, index),
                f"“{cue}” decides {_when(looks, index)}: it {takes} the right output {abs(row.effect):.1f} "
                f"nats of log-probability, against the same source with it swapped ({row.probes} "
                "probes). "
                f"{share}Swapping it flips {_percent(row.flipped)} of them, "
                f"{_percent(last.flipped)} at the end. At that step {_percent(look.exact_match)} of the "
                "held-out probes are exact.",
                evidence,
            )
        )
    return found


def _decides(row: SwapRow, rules: StoryRules) -> bool:
    return abs(row.effect) >= rules.effect or row.flipped >= rules.flipped


def _exact(looks: Sequence[Look], rules: StoryRules) -> list[Finding]:
    index = _since([one.exact_match >= rules.exact_match for one in looks])
    if index is None:
        return []
    look = looks[index]
    return [
        Finding(
            "exact_match",
            "",
            look.step,
            _before(looks, index),
            f"At least {_percent(rules.exact_match)} of the held-out probes are written exactly "
            f"{_when(looks, index)}: {_percent(look.exact_match)} at a loss of {look.loss:.2f} nats, "
            f"{_percent(looks[-1].exact_match)} at the end.",
            {"exact_match": look.exact_match, "loss": look.loss, "at_the_end": looks[-1].exact_match},
        )
    ]


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
