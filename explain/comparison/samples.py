"""Numbers by example: what every figure of a comparison is the mean of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from explain.evaluation import Estimate, estimate


@dataclass(frozen=True, eq=False)
class Sample:
    """Values [n] with the example [n] that each is from; nan where a value has no meaning."""

    values: np.ndarray
    examples: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> Sample:
        """One tensor [rows] for each example, in order."""
        sizes = [len(row) for row in rows]
        values = [row.double().numpy() for row in rows]
        return cls(np.concatenate([np.zeros(0), *values]), np.repeat(np.arange(len(rows)), sizes))

    @classmethod
    def each(cls, values: Iterable[float]) -> Sample:
        """One number for each example, in order."""
        found = np.asarray(list(values), dtype=np.float64)
        return cls(found, np.arange(len(found)))

    @classmethod
    def joined(cls, samples: Iterable[Sample]) -> Sample:
        """All of them; example i is the same text in each, so the bootstrap draws it from all at once."""
        some = list(samples)
        return cls(
            np.concatenate([np.zeros(0), *(each.values for each in some)]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(each.examples for each in some)]),
        )

    def estimate(self, seed: int = 0) -> Estimate:
        """The mean with its bootstrap interval over examples."""
        return estimate(self.values.tolist(), self.examples.tolist(), seed=seed)
