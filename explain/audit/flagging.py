"""Flags of one output, and what is kept of outputs that pass by: counts, spreads, the most suspicious few."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from explain.audit import detectors as room
from explain.audit.calibration import Calibration, Rule, share
from explain.audit.combine import combine
from explain.audit.measuring import Row
from explain.audit.policy import Policy
from explain.audit.result import DetectorResult, Flag, Part, Spread, Suspect

_SUSPECTS = 25
_REFUSED = 20
_LABELLED = 20_000
"""Outputs that are compared with the data's own."""


def flags_of(row: Row, rules: Sequence[Rule], calibration: Calibration) -> tuple[Flag, ...]:
    """The flags of one output, the surest first."""
    found = []
    for rule in rules:
        score = row.scores.get(rule.detector)
        bounds = rule.bounds_at(row.length)
        if score is None or not bounds.outside(score.value):
            continue
        detector = room.get(rule.detector)
        level = detector.level
        places: tuple[int, ...] = ()
        if level != "output":
            below = detector.marked
            places = tuple(
                i
                for i, value in enumerate(score.tokens)
                if (bounds.outside(value) if below is None else value < below)
            )
        found.append(
            Flag(
                detector=rule.detector,
                score=score.value,
                low=bounds.low if math.isfinite(bounds.low) else math.nan,
                high=bounds.high if math.isfinite(bounds.high) else math.nan,
                p_value=calibration.p_value(rule.detector, score.value, row.length),
                places=places,
                words=score.words if level == "output" else (),
            )
        )
    return tuple(sorted(found, key=lambda flag: (flag.p_value, list(room.DETECTORS).index(flag.detector))))


class Count:
    """What is kept of outputs that pass by: counts, spreads, the most suspicious few."""

    def __init__(
        self,
        policy: Policy,
        rules: Sequence[Rule],
        calibration: Calibration | None,
        names: Sequence[str],
        *,
        known_answers: bool,
    ) -> None:
        self.policy, self.rules, self.calibration, self.names = policy, rules, calibration, names
        self.known_answers = known_answers
        self.outputs = self.refused = self.any = 0
        self.flagged = {rule.detector: 0 for rule in rules}
        self.refusals: list[tuple[int, str]] = []
        self._spreads = {name: Spread() for name in names}
        self._parts: dict[tuple[str, str], tuple[int, dict[str, int]]] = {}
        self._suspects: list[tuple[tuple[float, ...], Row, tuple[Flag, ...]]] = []
        # Of each labelled output its scores, the number of its source, and whether it is wrong.
        self._labelled = array("d"), array("l"), array("b")
        self._sources: dict[bytes, int] = {}
        # chrF to the reference of outputs with a flag and without, where many outputs may be right.
        self._alike = {True: Spread(), False: Spread()}
        self._equal = 0

    def add(self, row: Row, columns: Mapping[str, str]) -> tuple[Flag, ...]:
        """Count one output in; its flags."""
        if row.problem:
            self.refused += 1
            if len(self.refusals) < _REFUSED:
                self.refusals.append((row.number, row.problem))
            return ()
        self.outputs += 1
        flags = flags_of(row, self.rules, self.calibration) if self.calibration is not None else ()
        self.any += bool(flags)
        for flag in flags:
            self.flagged[flag.detector] += 1
        for name, score in row.scores.items():
            self._spreads[name] = self._spreads[name].with_score(score.value)
        for part in self.policy.slices:
            key = part.name, part.value(columns, row.length)
            outputs, own = self._parts.setdefault(key, (0, dict.fromkeys(self.flagged, 0)))
            for flag in flags:
                own[flag.detector] += 1
            self._parts[key] = outputs + 1, own
        self._suspect(row, flags)
        if row.expected and len(self._labelled[1]) < _LABELLED:
            scores, groups, wrong = self._labelled
            scores.extend(row.scores[name].value for name in self.names)
            groups.append(self._sources.setdefault(_short(row.source), len(self._sources)))
            wrong.append(row.output != row.expected)
            self._equal += row.output == row.expected
            if not self.known_answers:
                self._alike[bool(flags)] = self._alike[bool(flags)].with_score(chrf(row.output, row.expected))
        return flags

    def _suspect(self, row: Row, flags: tuple[Flag, ...]) -> None:
        if self.rules and not flags:
            return
        # Surest first; of equals those with more flags, then those that the model itself thought unlikely.
        doubt = row.scores.get("log_prob_min") or row.scores.get("log_prob")
        least = math.inf if doubt is None or math.isnan(doubt.value) else doubt.value
        key = (min((f.p_value for f in flags), default=1.0), -len(flags), least, row.number)
        self._suspects.append((key, row, flags))
        if len(self._suspects) >= 4 * _SUSPECTS:
            self._suspects = sorted(self._suspects, key=lambda item: item[0])[:_SUSPECTS]

    def suspects(self) -> list[Suspect]:
        """The most suspicious outputs, first the surest."""
        kept = sorted(self._suspects, key=lambda item: item[0])[:_SUSPECTS]
        return [
            Suspect(
                row.number,
                row.source,
                row.output,
                row.expected,
                row.source_tokens,
                row.tokens,
                {name: score.value for name, score in row.scores.items()},
                flags,
            )
            for _, row, flags in kept
        ]

    def parts(self) -> list[Part]:
        """The slices, in the order of the policy and of their names."""
        order = {part.name: i for i, part in enumerate(self.policy.slices)}
        keys = sorted(self._parts, key=lambda key: (order[key[0]], key[1]))
        return [Part(*key, *self._parts[key]) for key in keys]

    def result(self, name: str) -> DetectorResult:
        """What one detector found."""
        rule = next((rule for rule in self.rules if rule.detector == name), None)
        rate = self.policy.rate_of(name)
        if rule is None:
            return DetectorResult(rate, None, None, math.nan, self._spreads[name], None)
        flagged = share(self.flagged[name], self.outputs)
        return DetectorResult(
            rate=rate,
            threshold=rule.pooled.to_json(room.get(name).direction),
            flagged=flagged,
            excess=rule.excess(flagged.count, flagged.n),
            scores=self._spreads[name],
            calibration=rule.to_dict(),
        )

    def reference(self) -> dict[str, Any] | None:
        """How outputs compare with the data's references, which are one right output of many; None without.

        `equal` is the share of outputs that are the reference to the letter, `chrf` the spread of chrF of
        outputs that are flagged and of those that are not, 0 (nothing in common) to 100 (equal).
        """
        compared = len(self._labelled[1])
        if self.known_answers or not compared:
            return None
        alike = {"flagged": self._alike[True], "unflagged": self._alike[False]}
        return {
            "equal": share(self._equal, compared).to_dict(),
            "chrf": {name: asdict(spread) for name, spread in alike.items()},
        }

    def combination(self) -> dict[str, Any] | None:
        """How well detectors tell outputs apart that are not the data's own, where those are given."""
        scores, groups, wrong = self._labelled
        if not wrong:
            return None
        columns = {name: scores[place :: len(self.names)] for place, name in enumerate(self.names)}
        return combine(columns, [bool(each) for each in wrong], groups)


def chrf(output: str, reference: str) -> float:
    """ChrF of an output (Popović 2015), 0 (no letters in common with the reference) to 100 (equal)."""
    from sacrebleu import sentence_chrf

    return round(float(sentence_chrf(output, [reference]).score), 4)


def _short(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
