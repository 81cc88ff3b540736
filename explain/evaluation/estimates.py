"""Means with bootstrap intervals over examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 1_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the bounds of its 95 % bootstrap interval, and the number of values; nan where there are none.

    Resampled are examples, not values: tokens of one output are not independent.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The estimate as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Estimate:
        """Read an estimate back from its JSON object; null stands for nan."""
        value, low, high = (math.nan if data[k] is None else float(data[k]) for k in ("value", "low", "high"))
        return cls(value, low, high, int(data["n"]))


def estimate(values: Sequence[float], examples: Sequence[int] | None = None, *, seed: int = 0) -> Estimate:
    """The mean of the values that are numbers, with its bootstrap interval.

    Args:
        values: one number each; nan is left out.
        examples: which example each value is from; None if each is from its own.
        seed: of the resampling.
    """
    found = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(found)
    of = np.arange(len(found)) if examples is None else np.asarray(examples)
    return ratio(found[known], np.ones(int(known.sum())), of[known], seed=seed)


def ratio(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    examples: Sequence[int] | np.ndarray | None = None,
    *,
    seed: int = 0,
) -> Estimate:
    """Σ numerators / Σ denominators with its bootstrap interval over examples; nan where Σ denominators is 0.

    `examples` says which example each pair of numbers is from; None if each is from its own.
    """
    over, under = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if under.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan, len(over))
    of = np.arange(len(over)) if examples is None else np.asarray(examples)
    _, where = np.unique(of, return_inverse=True)
    sums = np.bincount(where, weights=over), np.bincount(where, weights=under)
    drawn = np.random.default_rng(seed).integers(len(sums[0]), size=(RESAMPLES, len(sums[0])))
    tops, bottoms = (part[drawn].sum(1) for part in sums)
    defined = bottoms != 0
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(tops[defined] / bottoms[defined], [tail, 100 - tail])
    value = float(over.sum() / under.sum())
    # Rounding in the resampled sums must not put the value outside its own interval.
    return Estimate(value, min(float(low), value), max(float(high), value), len(over))
