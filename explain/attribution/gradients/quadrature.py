"""Integrals along a path from baseline to input, with as many points as each row needs.

Points are spaced evenly and nested: doubling the number of steps keeps every point computed before. On
trained models the integrand is flat at both ends, where the trapezoid rule converges fastest; smooth
integrands, as random models have, are integrated far better by Romberg's extrapolation of the same points.
Each row takes whichever of the two leaves the smaller completeness error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Columns = Sequence[Sequence[int]]

NodeScores = Callable[[Tensor, Columns], list[Tensor]]
"""(points [n] on the path in 0..1, asked rows per generation) -> per generation [columns, n, positions]."""

RULES = ("nested", "midpoint", "gauss_legendre")

# Below this the objective does not tell input and baseline apart, and a relative error says nothing.
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Integral:
    """The integral of one generation's rows.

    Attributes:
        scores: float [rows, positions].
        error: float64 [rows], relative completeness error, nan where input and baseline do not differ.
        points: int [rows], points of the path that were used.
        rules: the rule of each row.
    """

    scores: Tensor
    error: Tensor
    points: Tensor
    rules: list[str]


def integrate(
    node_scores: NodeScores,
    differences: Sequence[Tensor],  # per generation float64 [rows]: objective(input) - objective(baseline)
    *,
    rule: str,
    steps: int,
    max_steps: int,
    tolerance: float,
    check: Callable[[], None],
    adapt: bool = True,
) -> list[Integral]:
    """Integrate every row, doubling the steps of those that miss the tolerance.

    Without `adapt` all rows keep `steps`: for scores that need not add up to the difference.
    """
    nested = rule == "nested"
    found = [_Rows(difference) for difference in differences]
    while any(rows.pending for rows in found) and steps <= max_steps:
        check()
        columns = [rows.pending for rows in found]
        fresh = not nested or (found[0].nodes is None and all(rows.nodes is None for rows in found))
        points, weights = _rule(rule, steps)
        new = node_scores(torch.from_numpy(points if fresh else points[1::2]).float(), columns)
        for rows, scores in zip(found, new, strict=True):
            if rows.pending:
                rows.add(scores, fresh, weights, tolerance if adapt else np.inf)
        if not adapt:
            break
        steps *= 2
    return [rows.result() for rows in found]


class _Rows:
    """What is known about the rows of one generation while their steps double."""

    def __init__(self, difference: Tensor):
        self.difference = difference.double().cpu()
        self.pending = list(range(len(difference)))
        self.nodes: Tensor | None = None  # [pending, points, positions]
        self.scores: Tensor | None = None
        self.error = torch.full_like(self.difference, torch.nan)
        self.points = torch.zeros(len(difference), dtype=torch.long)
        self.rules = [""] * len(difference)

    def add(self, new: Tensor, fresh: bool, weights: dict[str, np.ndarray], tolerance: float) -> None:
        """Take in new points, keep the better rule of every row, and drop the rows that are done."""
        new = new.detach().float().cpu()
        if fresh or self.nodes is None:
            self.nodes = new
        else:
            both = new.new_zeros(len(new), self.nodes.shape[1] + new.shape[1], new.shape[2])
            both[:, ::2], both[:, 1::2] = self.nodes, new
            self.nodes = both
        if self.scores is None:
            self.scores = torch.zeros(len(self.difference), new.shape[2])
        difference = self.difference[self.pending]
        totals = self.nodes.double().sum(2)  # [pending, points]
        best = torch.full_like(difference, torch.inf)
        for name, weight in weights.items():
            w = torch.from_numpy(weight)
            off = (totals @ w - difference).abs()
            better = (off < best).nonzero()[:, 0].tolist()
            best = torch.minimum(off, best)
            if better:
                rows = [self.pending[i] for i in better]
                self.scores[rows] = torch.einsum("rnp,n->rp", self.nodes[better].double(), w).float()
                for row in rows:
                    self.rules[row] = name
        relative = best / difference.abs()
        defined = difference.abs() > SAME
        self.error[self.pending] = torch.where(defined, relative, torch.nan)
        self.points[self.pending] = self.nodes.shape[1]
        still = (defined & (relative > tolerance)).nonzero()[:, 0].tolist()
        self.nodes = self.nodes[still]
        self.pending = [self.pending[i] for i in still]

    def result(self) -> Integral:
        assert self.scores is not None
        return Integral(self.scores, self.error, self.points, self.rules)


def _rule(rule: str, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Points on 0..1 and the weights of each rule over them."""
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, {rule: np.full(steps, 1 / steps)}
    if rule == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, {rule: weights / 2}
    return np.linspace(0, 1, steps + 1), {"trapezoid": trapezoid(steps), "romberg": romberg(steps)}


def trapezoid(steps: int) -> np.ndarray:
    """Weights [steps + 1] of the trapezoid rule on 0..1."""
    weights = np.full(steps + 1, 1 / steps)
    weights[[0, -1]] /= 2
    return weights


def romberg(steps: int, order: int = 3) -> np.ndarray:
    """Weights [steps + 1] of Romberg's rule: trapezoid rules of halved steps, extrapolated `order` times."""
    table = []
    while len(table) <= order and steps >> len(table) << len(table) == steps and steps >> len(table):
        stride = 1 << len(table)
        weights = np.zeros(steps + 1)
        weights[::stride] = trapezoid(steps // stride)
        table.append(weights)
    for level in range(1, len(table)):
        table = [(4**level * fine - rough) / (4**level - 1) for fine, rough in pairwise(table)]
    return table[0]
