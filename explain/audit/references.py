"""Clean references: how attention lies and how much tokens are read off the source when all is well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from explain.audit.evidence import Evidence

POINTS = 32
"""Places along the source at which the distribution of attention is kept."""
MOST = 300
"""Outputs whose attention is kept."""
_NEAREST = 4  # as Guerreiro 2023
_FEWEST = 8  # outputs from which a token has figures of its own
_LEAST_SPREAD = 0.25  # nats


def cdf(mass: Tensor) -> np.ndarray:
    """The cumulative distribution [POINTS] of a mass [source] spread over relative positions 0 to 1."""
    whole = np.concatenate([[0.0], np.cumsum(mass.double().numpy())])
    places = np.linspace(0, 1, len(whole))
    return np.interp((np.arange(POINTS) + 0.5) / POINTS, places, whole / whole[-1])


@dataclass(frozen=True, eq=False)
class References:
    """What clean outputs look like.

    Attributes:
        attention: float [output, POINTS], cumulative distributions of their mean cross-attention.
        information: by token id, mean, standard deviation and count of the token's information.
        pooled: the same over all tokens, for ids that are rare.
        outputs: clean outputs that the figures are from.
    """

    attention: np.ndarray
    information: Mapping[int, tuple[float, float, int]]
    pooled: tuple[float, float, int]
    outputs: int

    def attention_distance(self, curve: np.ndarray) -> float:
        """Wasserstein distance to clean outputs: mean over the four nearest, as a share of the source.

        In one dimension it is ∫|F − G|, with both sources stretched to length 1 (after Guerreiro 2023,
        Wass-to-Data).
        """
        if not len(self.attention):
            return math.nan
        distances = np.abs(self.attention - curve).mean(1)
        return float(np.sort(distances)[:_NEAREST].mean())

    def unusual(self, ids: Tensor, information: Tensor) -> Tensor:
        """How far each token's information is from what is usual for it, in standard deviations [target].

        Rare tokens are compared with all; usual is what clean outputs had.
        """
        rows = [self.information.get(id_, self.pooled) for id_ in ids.tolist()]
        mean = torch.tensor([row[0] for row in rows])
        spread = torch.tensor([max(row[1], _LEAST_SPREAD) for row in rows])
        return (information - mean) / spread

    def to_dict(self) -> dict[str, Any]:
        """The references as a JSON object; numbers are rounded, so use what is read back from it."""
        return {
            "outputs": self.outputs,
            "attention": [[round(value, 4) for value in row] for row in self.attention.tolist()],
            "information": {str(id_): _rounded(row) for id_, row in sorted(self.information.items())},
            "pooled": _rounded(self.pooled),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read references back from their JSON object."""
        rows = {int(id_): (float(a), float(b), int(n)) for id_, (a, b, n) in data["information"].items()}
        mean, spread, count = data["pooled"]
        attention = np.asarray(data["attention"], dtype=np.float64).reshape(-1, POINTS)
        return cls(attention, rows, (float(mean), float(spread), int(count)), int(data["outputs"]))


def _rounded(row: tuple[float, float, int]) -> list[float]:
    return [round(row[0], 4), round(row[1], 4), row[2]]


def references_of(evidence: Sequence[Evidence]) -> References:
    """The references of clean outputs that have their attention and information."""
    curves = [cdf(item.attention.mean(0)) for item in evidence[:MOST] if item.attention is not None]
    values: dict[int, list[float]] = {}
    for item in evidence:
        if item.information is not None:
            pairs = zip(item.generation.target_ids.tolist(), item.information.tolist(), strict=True)
            for id_, value in pairs:
                values.setdefault(id_, []).append(value)
    every = [value for own in values.values() for value in own]
    found = References(
        np.asarray(curves, dtype=np.float64).reshape(-1, POINTS),
        {id_: _figures(own) for id_, own in values.items() if len(own) >= _FEWEST},
        _figures(every),
        len(evidence),
    )
    return References.from_dict(found.to_dict())


def _figures(values: Sequence[float]) -> tuple[float, float, int]:
    return (float(np.mean(values)), float(np.std(values)), len(values)) if values else (0.0, 1.0, 0)
