"""From flags to a verdict: the conditions of the policy, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explain.audit.calibration import FEWEST, Calibration, Rule
from explain.audit.policy import Policy
from explain.audit.result import Check, Part, Verdict


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        found[index] = highest
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """A detector's flags in all outputs or in one part of them."""

    name: str
    rule: Rule
    flagged: int
    outputs: int


def checks_of(
    policy: Policy,
    rules: Sequence[Rule],
    flagged: Mapping[str, int],
    parts: Sequence[Part],
    outputs: int,
    refused: int,
    tests: Mapping[str, Mapping[str, Any]],
) -> list[Check]:
    """Every condition of the policy on what was found.

    Args:
        policy: what was asked for.
        rules: of the calibrated detectors.
        flagged: by detector, flagged outputs.
        parts: slices of the data, each with its own flags.
        outputs: outputs that could be read.
        refused: sources that could not.
        tests: results of the model's tests, each with `passed` and `reason`.
    """
    asked = [_Asked(rule.detector, rule, flagged[rule.detector], outputs) for rule in rules]
    for part in parts:
        asked += [
            _Asked(f"{rule.detector} where {part.slice} is {part.value}", rule,
                   part.flagged[rule.detector], part.outputs)
            for rule in rules
        ]  # fmt: skip
    judged = [
        item
        for item in asked
        if policy.limit_of(item.rule.detector) == "excess" and _large(item, policy, outputs)
    ]
    p_values = holm([item.rule.excess(item.flagged, item.outputs) for item in judged])
    corrected = {item.name: p for item, p in zip(judged, p_values, strict=True)}
    found = [_detector(item, policy, corrected, outputs) for item in asked]
    found.append(_refused(refused, outputs + refused, policy.refused))
    found += [Check(f"test {name}", item["passed"], item["reason"]) for name, item in tests.items()]
    return found


def _large(item: _Asked, policy: Policy, outputs: int) -> bool:
    return item.outputs == outputs or item.outputs >= policy.fewest


def _detector(item: _Asked, policy: Policy, corrected: Mapping[str, float], outputs: int) -> Check:
    rate, limit = item.rule.rate, policy.limit_of(item.rule.detector)
    counts = f"{item.flagged} of {item.outputs} {_outputs(item.outputs)} flagged"
    if not item.outputs or not _large(item, policy, outputs):
        return Check(item.name, None, f"{counts}; fewer than {policy.fewest} outputs are not judged")
    if limit == "excess":
        p = corrected[item.name]
        more = p < policy.level
        says = "more than" if more else "no more than"
        reason = f"{counts}, {says} false alarms at {rate:.3g} explain (p = {p:.2g}, corrected)"
        return Check(item.name, not more, reason)
    share = item.flagged / item.outputs
    return Check(item.name, share <= limit, f"{counts} ({share:.2%}); the limit is {limit:.2%}")


def _refused(count: int, examples: int, limit: float) -> Check:
    share = count / examples if examples else 0.0
    sources = "source" if examples == 1 else "sources"
    reason = f"{count} of {examples} {sources} could not be read ({share:.2%}); the limit is {limit:.2%}"
    return Check("refused", share <= limit, reason)


def _outputs(count: int) -> str:
    return "output is" if count == 1 else "outputs are"


def verdict_of(
    calibration: Calibration | None, checks: Sequence[Check], outputs: int = FEWEST, fewest: int = 0
) -> tuple[Verdict, str]:
    """The verdict in a word and in a sentence.

    Args:
        calibration: what the bounds rest on.
        checks: every condition of the policy.
        outputs: how many were judged.
        fewest: with fewer it is said how little a pass means.
    """
    if calibration is None:
        return "uncalibrated", (
            "there is no calibration, so nothing is known about how often clean outputs have such scores; "
            "make one with explain calibrate"
        )
    if not calibration.enough:
        clean = calibration.settings.get("only_right")
        return "uncalibrated", (
            f"the calibration has {len(calibration.lengths)} clean outputs; a verdict needs {FEWEST} at least"
            + (
                "; outputs that differ from the data's own were left out of it: where others may be as good, "
                "calibrate on the sources alone"
                if clean
                else ""
            )
        )
    failed = [check for check in checks if check.passed is False]
    if failed:
        return "fail", (
            f"{len(failed)} of {len(checks)} conditions failed, first {failed[0].name}: {failed[0].reason}"
        )
    said = f"none of {len(checks)} conditions failed{not_judged(checks)}"
    if outputs < fewest:
        said += f"; {outputs} {_outputs(outputs)} too few for that to mean much"
    return "pass", said


def not_judged(checks: Sequence[Check]) -> str:
    """How many conditions were shown but not judged: `, 2 were not judged`; "" if all were."""
    count = sum(check.passed is None for check in checks)
    return f", {count} {'was' if count == 1 else 'were'} not judged" if count else ""
