"""Thresholds from clean outputs: which scores are beyond what a stated rate of false alarms allows."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.stats import beta, betabinom

from explain.audit import detectors as room
from explain.audit.detectors import Direction
from explain.audit.references import References
from explain.errors import FileError, InputError
from explain.files import envelope, read_json, write_json

NAME = "calibration"
FEWEST = 500
"""Clean outputs below which there is no verdict, and which each bin of lengths must have."""
MOST = 5_000
"""Clean outputs whose scores are kept."""
_MOST_BINS = 4
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its Clopper–Pearson interval (Clopper & Pearson 1934); nan of nothing."""

    count: int
    n: int
    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """The share as a JSON object."""
        return {"count": self.count, "n": self.n, "value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a share back from its JSON object."""
        numbers = (math.nan if data[key] is None else data[key] for key in ("value", "low", "high"))
        return cls(data["count"], data["n"], *numbers)


def share(count: int, n: int, level: float = LEVEL) -> Share:
    """`count` of `n` with the exact binomial interval at a level of confidence."""
    if n == 0:
        return Share(0, 0, math.nan, math.nan, math.nan)
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return Share(count, n, count / n, low, high)


def threshold(scores: Sequence[float] | np.ndarray, rate: float) -> float:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest score: a new clean score exceeds it with at most that probability.

    This holds for scores that are exchangeable with those of calibration (Vovk 2005, split conformal
    prediction). Infinite, so never exceeded, where there are too few scores for the rate.
    """
    known = np.sort(np.asarray(scores, dtype=np.float64))
    known = known[~np.isnan(known)]
    rank = _rank(len(known), rate)
    return float(known[rank - 1]) if 1 <= rank <= len(known) else math.inf


def _rank(n: int, rate: float) -> int:
    # A hair less, or (n + 1)(1 − rate) rounds above a whole number that it is.
    return math.ceil((n + 1) * (1 - rate) - 1e-9)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The scores that are not suspicious: from `low` to `high`, both included; infinite where open."""

    low: float
    high: float

    def outside(self, score: float) -> bool:
        """Whether a score is beyond a bound; an undefined one is not."""
        return score < self.low or score > self.high

    def to_json(self, direction: Direction) -> Any:
        """The one bound that counts, or both; null where it is infinite."""
        low, high = (value if math.isfinite(value) else None for value in (self.low, self.high))
        return {"low": low, "high": high, "both": [low, high]}[direction]


def bounds(scores: Sequence[float] | np.ndarray, rate: float, direction: Direction) -> Bounds:
    """Bounds that a clean score leaves with at most the probability `rate`, half on each of two sides."""
    values = np.asarray(scores, dtype=np.float64)
    if direction == "high":
        return Bounds(-math.inf, threshold(values, rate))
    if direction == "low":
        return Bounds(-threshold(-values, rate), math.inf)
    return Bounds(-threshold(-values, rate / 2), threshold(values, rate / 2))


def p_value(scores: Sequence[float] | np.ndarray, score: float, direction: Direction) -> float:
    """The share of clean scores at least as suspicious, this one counted in; nan if it is undefined."""
    known = np.asarray(scores, dtype=np.float64)
    known = known[~np.isnan(known)]
    if math.isnan(score):
        return math.nan
    high = (1 + int((known >= score).sum())) / (len(known) + 1)
    low = (1 + int((known <= score).sum())) / (len(known) + 1)
    return {"high": high, "low": low, "both": min(1.0, 2 * min(high, low))}[direction]


@dataclass(frozen=True, slots=True)
class Bin:
    """Outputs of `first` to `last` tokens, the places of their scores, and the bounds that hold for them."""

    first: int
    last: int
    n: int
    bounds: Bounds


@dataclass(frozen=True, eq=False)
class Rule:
    """How one detector flags at one rate.

    Attributes:
        rate: false alarms allowed, a share of clean outputs.
        bins: by length of the output in tokens, in order; lengths outside belong to the nearest.
        pooled: the bounds without regard to length.
        exceeded: clean outputs of the calibration beyond the bounds, with the interval of the true share.
        beyond: ranks beyond the bounds, (n + 1 − k) summed over bins and sides; of the (n + 1) summed over
            bins, `ranks`. The true rate of false alarms is about Beta(beyond, ranks − beyond).
    """

    detector: str
    rate: float
    bins: tuple[Bin, ...]
    pooled: Bounds
    exceeded: Share
    beyond: int = 0
    ranks: int = 0

    def excess(self, flagged: int, n: int) -> float:
        """The probability that false alarms alone flag so many of n outputs, or more.

        Beta-binomial, so what the calibration leaves unknown about the true rate is counted in.
        """
        if flagged == 0:
            return 1.0
        if self.beyond == 0:
            return 0.0
        return float(betabinom.sf(flagged - 1, n, self.beyond, self.ranks - self.beyond))

    def bounds_at(self, length: int) -> Bounds:
        """The bounds for an output of so many tokens."""
        for found in self.bins:
            if length <= found.last:
                return found.bounds
        return self.bins[-1].bounds

    def to_dict(self) -> dict[str, Any]:
        """What stands under `calibration` of a detector."""
        direction = room.get(self.detector).direction
        return {
            "n": self.exceeded.n,
            "exceeded": self.exceeded.to_dict(),
            "bins": [
                {"from": b.first, "to": b.last, "n": b.n, "threshold": b.bounds.to_json(direction)}
                for b in self.bins
            ],
        }


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of clean outputs, from which thresholds at any rate follow.

    Attributes:
        scores: by detector, one number for each clean output; nan where it is not defined.
        lengths: tokens of each output.
        references: clean outputs that scores are compared with; their own scores are not among `scores`.
        words: the digest of the training data's words, where they were given.
        settings: what shaped the scores: controls of generation, whether only right outputs were kept.
        data: what the clean data are called.
        seen: clean outputs that there were; scores of at most `MOST` are kept.
    """

    scores: Mapping[str, tuple[float, ...]]
    lengths: tuple[int, ...]
    references: References | None
    words: str | None
    settings: Mapping[str, Any]
    data: str
    seen: int
    model_digest: str
    data_digest: str

    @property
    def enough(self) -> bool:
        """Whether there are enough clean outputs for a verdict."""
        return len(self.lengths) >= FEWEST

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Lengths at which bins end: as many as leave `FEWEST` outputs in each, at most four."""
        for count in range(min(_MOST_BINS, len(self.lengths) // FEWEST), 1, -1):
            lengths = np.asarray(self.lengths)
            ends = [int(np.quantile(lengths, k / count, method="lower")) for k in range(1, count)]
            ends = sorted({*ends, int(lengths.max())})
            held = np.diff([0, *(int((lengths <= end).sum()) for end in ends)])
            if len(ends) == count and held.min() >= FEWEST:
                return tuple(ends)
        return (max(self.lengths, default=0),)

    def rule(self, detector: str, rate: float) -> Rule:
        """The bounds of one detector at a rate of false alarms, by length where there are outputs enough.

        Raises:
            InputError: the rate is not a share, or the detector was not calibrated.
        """
        row = room.get(detector)
        if not 0 < rate < 1:
            raise InputError(f"the rate of false alarms is {rate}; it is a share, such as 0.01")
        if detector not in self.scores:
            raise InputError(
                f"the detector {detector} was not calibrated; calibrate again with it, or leave it out"
            )
        scores, lengths = np.asarray(self.scores[detector]), np.asarray(self.lengths)
        pooled = bounds(scores, rate, row.direction)
        bins, before = [], -1
        for end in self.edges:
            own = (lengths > before) & (lengths <= end)
            first = int(lengths[own].min()) if own.any() else 0
            bins.append(Bin(first, end, int(own.sum()), bounds(scores[own], rate, row.direction)))
            before = end
        sides = 2 if row.direction == "both" else 1
        counts = [int((~np.isnan(scores[(lengths >= b.first) & (lengths <= b.last)])).sum()) for b in bins]
        left = sides * sum(max(0, n + 1 - _rank(n, rate / sides)) for n in counts)
        rule = Rule(detector, rate, tuple(bins), pooled, share(0, 0), left, sum(n + 1 for n in counts))
        beyond = sum(rule.bounds_at(int(n)).outside(float(s)) for s, n in zip(scores, lengths, strict=True))
        return replace(rule, exceeded=share(beyond, len(scores)))

    def p_value(self, detector: str, score: float, length: int) -> float:
        """The share of clean outputs of like length at least as suspicious; see `p_value`."""
        place = min(bisect_left(self.edges, length), len(self.edges) - 1)
        return p_value(self._binned(detector)[place], score, room.get(detector).direction)

    def _binned(self, detector: str) -> list[np.ndarray]:
        """The scores of a detector by bin of length."""
        if detector not in self._bins:
            bins = np.searchsorted(self.edges, np.asarray(self.lengths))
            scores = np.asarray(self.scores[detector], dtype=np.float64)
            self._bins[detector] = [scores[bins == place] for place in range(len(self.edges))]
        return self._bins[detector]

    @cached_property
    def _bins(self) -> dict[str, list[np.ndarray]]:
        return {}

    def any_of(self, rules: Sequence[Rule]) -> Share:
        """The share of clean outputs that at least one of several rules flags."""
        count = sum(
            any(rule.bounds_at(n).outside(self.scores[rule.detector][i]) for rule in rules)
            for i, n in enumerate(self.lengths)
        )
        return share(count, len(self.lengths))

    def save(self, path: str | Path, command: str | None = None) -> Path:
        """Write to a `.json` file.

        Raises:
            FileError: the file cannot be written.
        """
        head = envelope(
            NAME,
            model_digest=self.model_digest,
            data_digest=self.data_digest,
            command=command,
        )
        body = {
            "data": self.data,
            "seen": self.seen,
            "n": len(self.lengths),
            "enough": self.enough,
            "settings": dict(self.settings),
            "words": self.words,
            "references": None if self.references is None else self.references.to_dict(),
            "lengths": list(self.lengths),
            "scores": {name: list(values) for name, values in self.scores.items()},
        }
        return write_json(path, {**head, **body})


def load_calibration(path: str | os.PathLike[str], model_digest: str | None = None) -> Calibration:
    """Read a calibration, and refuse it where it is another model's.

    Args:
        path: a file written by `Calibration.save`.
        model_digest: of the model that is to be audited; None takes what is there.

    Raises:
        FileError: the file is missing, broken or of another kind.
        InputError: it is the calibration of another model.
    """
    data = read_json(path, NAME)
    try:
        references = data["references"]
        found = Calibration(
            scores={
                name: tuple(math.nan if value is None else float(value) for value in values)
                for name, values in data["scores"].items()
            },
            lengths=tuple(int(value) for value in data["lengths"]),
            references=None if references is None else References.from_dict(references),
            words=data["words"],
            settings=data["settings"],
            data=data["data"],
            seen=data["seen"],
            model_digest=data["model_digest"],
            data_digest=data["data_digest"],
        )
        if any(len(values) != len(found.lengths) for values in found.scores.values()):
            raise ValueError("its detectors have different numbers of scores")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path} is a broken calibration: {type(error).__name__} {error}") from None
    if model_digest is not None and found.model_digest != model_digest:
        raise InputError(
            f"{path} is the calibration of another model ({found.model_digest[:19]}…, not "
            f"{model_digest[:19]}…); calibrate this model and try again"
        )
    return found
