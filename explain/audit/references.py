"""Clean references: how attention lies and how much tokens are read off the source when all is well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from torch import Tensor

from explain.audit.evidence import Evidence

POINTS = 32
"""Places along the source at which the distribution of attention is kept."""
MOST = 300
"""Outputs whose attention is kept."""
_NEAREST = 4  # as Guerreiro 2023
_FEWEST = 8  # occurrences from which a token, or a token after others, has figures of its own
_LEAST_SPREAD = 0.25  # nats, or of a logarithm
_CONTEXT = 3  # tokens that are looked up together: the token and two before it
_LEAST = 0.05  # nats: what hiding costs is compared by logarithm, above this
_SURE = 1e-3  # nats: a token that is less surprising is a sure one

Ids: TypeAlias = tuple[int, ...]
Figures: TypeAlias = tuple[float, float, int]
"""Mean, standard deviation and count."""


def cdf(mass: Tensor) -> np.ndarray:
    """The cumulative distribution [POINTS] of a mass [source] spread over relative positions 0 to 1."""
    whole = np.concatenate([[0.0], np.cumsum(mass.double().numpy())])
    places = np.linspace(0, 1, len(whole))
    return np.interp((np.arange(POINTS) + 0.5) / POINTS, places, whole / whole[-1])


@dataclass(frozen=True, eq=False)
class Usual:
    """What is usual for a token after the tokens before it.

    Attributes:
        rows: by the ids of a token and of up to two before it (the token last), figures of its values.
        pooled: the same over all tokens.
    """

    rows: Mapping[Ids, Figures]
    pooled: Figures

    def distance(self, ids: Sequence[int], values: Sequence[float]) -> list[float]:
        """How far values are from what is usual for their tokens, in standard deviations.

        Each is compared with the longest context that clean outputs had often enough.
        """
        found = []
        for place, value in enumerate(values):
            own = (self.rows.get(key) for key in _contexts(ids, place))
            mean, spread, _ = next((row for row in own if row is not None), self.pooled)
            found.append((value - mean) / max(spread, _LEAST_SPREAD))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object, rounded."""
        rows = {" ".join(map(str, key)): _rounded(row) for key, row in sorted(self.rows.items())}
        return {"rows": rows, "pooled": _rounded(self.pooled)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read figures back from their JSON object."""
        rows = {tuple(map(int, key.split())): _figures_of(row) for key, row in data["rows"].items()}
        return cls(rows, _figures_of(data["pooled"]))

    @classmethod
    def of(cls, sequences: Iterable[tuple[Sequence[int], Sequence[float]]]) -> Self:
        """What is usual in sequences of ids and values; values that are nan are left out."""
        values: dict[Ids, list[float]] = {}
        every: list[float] = []
        for ids, own in sequences:
            for place, value in enumerate(own):
                if not math.isnan(value):
                    every.append(value)
                    for key in _contexts(ids, place):
                        values.setdefault(key, []).append(value)
        rows = {key: _figures(own) for key, own in values.items() if len(own) >= _FEWEST}
        return cls(rows, _figures(every))


def _contexts(ids: Sequence[int], place: int) -> list[Ids]:
    """The keys of a token, the longest first; at the beginning -1 stands for what is not there."""
    whole = [-1] * (_CONTEXT - 1) + [int(id_) for id_ in ids[max(0, place - _CONTEXT + 1) : place + 1]]
    return [tuple(whole[-size:]) for size in range(_CONTEXT, 0, -1)]


def logarithm(costs: Tensor) -> list[float]:
    """What hiding costs as logarithms: from 1 nat to 2 is as far as from 4 to 8."""
    return (costs.clamp(min=0) + _LEAST).log().tolist()


def doubt(log_probs: Tensor) -> list[float]:
    """How surprising tokens are to the model, as logarithms of nats: high is doubtful."""
    return (-log_probs.clamp(max=0) + _SURE).log().tolist()


@dataclass(frozen=True, eq=False)
class References:
    """What clean outputs look like.

    Attributes:
        attention: float [output, POINTS], cumulative distributions of their mean cross-attention.
        doubt: of output tokens, the logarithm of their surprise (their negative log-probability), nats.
        information: of output tokens, what is usual of their information, nats.
        support: of output tokens, the logarithm of what hiding the source token they need most costs them.
        needed: of source tokens, the logarithm of what hiding them costs.
        outputs: clean outputs that the figures are from.
    """

    attention: np.ndarray
    doubt: Usual
    information: Usual
    support: Usual
    needed: Usual
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

    def to_dict(self) -> dict[str, Any]:
        """The references as a JSON object; numbers are rounded, so use what is read back from it."""
        return {
            "outputs": self.outputs,
            "attention": [[round(value, 4) for value in row] for row in self.attention.tolist()],
            "doubt": self.doubt.to_dict(),
            "information": self.information.to_dict(),
            "support": self.support.to_dict(),
            "needed": self.needed.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read references back from their JSON object."""
        attention = np.asarray(data["attention"], dtype=np.float64).reshape(-1, POINTS)
        doubt, information, support, needed = (
            Usual.from_dict(data[name]) for name in ("doubt", "information", "support", "needed")
        )
        return cls(attention, doubt, information, support, needed, int(data["outputs"]))


def _rounded(row: Figures) -> list[float]:
    return [round(row[0], 4), round(row[1], 4), row[2]]


def _figures_of(row: Sequence[Any]) -> Figures:
    mean, spread, count = row
    return float(mean), float(spread), int(count)


def references_of(evidence: Sequence[Evidence]) -> References:
    """The references of clean outputs, from what evidence they have."""
    curves = [cdf(item.attention.mean(0)) for item in evidence[:MOST] if item.attention is not None]
    found = References(
        np.asarray(curves, dtype=np.float64).reshape(-1, POINTS),
        Usual.of(
            (item.generation.target_ids.tolist(), doubt(item.generation.log_probs)) for item in evidence
        ),
        Usual.of(
            (item.generation.target_ids.tolist(), item.information.tolist())
            for item in evidence
            if item.information is not None
        ),
        Usual.of(
            (item.generation.target_ids.tolist(), logarithm(item.support))
            for item in evidence
            if item.support is not None
        ),
        Usual.of(
            (item.generation.source_ids.tolist(), logarithm(item.dropped))
            for item in evidence
            if item.dropped is not None
        ),
        len(evidence),
    )
    return References.from_dict(found.to_dict())


def _figures(values: Sequence[float]) -> Figures:
    return (float(np.mean(values)), float(np.std(values)), len(values)) if values else (0.0, 1.0, 0)
