"""Integrals along a path from baseline to input, with as many points as each row needs, where it needs them.

Points lie on a dyadic grid: halving a stretch keeps every point computed before. The integrand of a trained
model is flat at both ends and steep somewhere between, so only the stretches that hold most of the error are
halved, row by row, until the scores of the row add up. Two rules read the same points: the trapezoid rule,
best where the integrand is flat at its ends, and Romberg's extrapolation, best where it is smooth; each row
takes the one that leaves the smaller completeness error. Rows so smooth that a few Gauss–Legendre points will
do are told in advance by forward mode, which costs little beside gradients for every position.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Request = tuple[float, list[int]]
"""A point of the path in 0..1, and the rows of the question whose gradients are asked for there."""

NodeScores = Callable[[Sequence[Sequence[Request]]], list[list[Tensor]]]
"""Per generation its requests -> per generation and request [asked rows, positions]."""

RULES = ("nested", "midpoint", "gauss_legendre")

# Below this the objective does not tell input and baseline apart, and a relative error says nothing.
SAME = 1e-6

# In each round the stretches that hold this part of the estimated error are halved: less would take fewer
# points and more rounds.
SHARE = 0.85


def relative_error(off: Tensor, difference: Tensor) -> Tensor:
    """|off| / |difference|; nan where input and baseline do not differ."""
    return torch.where(difference.abs() > SAME, off.abs() / difference.abs(), torch.nan)


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
    smooth: Sequence[Mapping[int, int]] = (),
) -> list[Integral]:
    """Integrate every row, with more points for those that miss the tolerance.

    Without `adapt` all rows keep `steps`: for scores that need not add up to the difference. Per generation,
    `smooth` gives the rows that begin with so many Gauss–Legendre points.
    """
    tolerance = tolerance if adapt else np.inf
    if rule == "nested":
        found = [[Row(float(d), steps, max_steps) for d in difference] for difference in differences]
        for rows, easy in zip(found, smooth, strict=False):
            for number, points in easy.items():
                rows[number].gauss = points
        while any(row.wanted for rows in found for row in rows):
            check()
            requests = [_requests(rows) for rows in found]
            for rows, asked, answers in zip(found, requests, node_scores(requests), strict=True):
                _deliver(rows, asked, answers)
                for row in rows:
                    row.settle(tolerance)
        return [_together(rows) for rows in found]
    return _fixed(node_scores, differences, rule, steps, max_steps, tolerance, check)


@dataclass(eq=False)
class Row:
    """One row's points on the grid of `cells` stretches, and what is known there."""

    difference: float
    steps: int
    max_steps: int
    values: dict[int, Tensor] = field(default_factory=dict)  # grid number -> float [positions]
    wanted: list[int] = field(default_factory=list)
    gauss: int = 0  # Gauss–Legendre points to try first
    trials: list[Tensor] = field(default_factory=list)  # scores there
    error: float = np.nan
    scores: Tensor | None = None
    rule: str = ""

    def __post_init__(self) -> None:
        first = self.steps + self.steps % 2  # stretches come in pairs
        self.cells = first
        while self.cells * 2 <= self.max_steps:
            self.cells *= 2
        stride = self.cells // first
        self.wanted = list(range(0, self.cells + 1, stride))

    @property
    def asked(self) -> list[float]:
        """The points that this row wants next."""
        if self.wanted and self.gauss:
            return unit_gauss(self.gauss)[0].tolist()
        return [node / self.cells for node in self.wanted]

    def deliver(self, point: float, scores: Tensor) -> None:
        """Take in the scores at a point that was asked for."""
        if self.gauss:
            self.trials.append(scores)
        else:
            self.values[round(point * self.cells)] = scores

    def settle(self, tolerance: float) -> None:
        """Integrate over the points there are, and ask for more where that misses the tolerance."""
        if not self.wanted:
            return
        if self.gauss:
            found = torch.from_numpy(unit_gauss(self.gauss)[1]) @ torch.stack(self.trials).double()
            self.gauss = 0
            self.error = abs(float(found.sum()) - self.difference) / abs(self.difference)
            if self.error <= tolerance:
                self.scores, self.rule, self.wanted = found.float(), "gauss_legendre", []
            return
        self.wanted = []
        nodes = np.array(sorted(self.values))
        totals = np.array([float(self.values[node].double().sum()) for node in nodes])
        weights = {
            "trapezoid": trapezoid(nodes / self.cells),
            "romberg": composite_romberg(nodes) / self.cells,
        }
        off = {name: abs(float(weight @ totals) - self.difference) for name, weight in weights.items()}
        self.rule = min(off, key=lambda name: off[name])
        at = torch.stack([self.values[node] for node in nodes.tolist()]).double()
        self.scores = (torch.from_numpy(weights[self.rule]) @ at).float()
        if abs(self.difference) <= SAME:
            return
        self.error = off[self.rule] / abs(self.difference)
        if not self.error <= tolerance:
            self.wanted = worst_middles(nodes, totals)


def _requests(rows: Sequence[Row]) -> list[Request]:
    """What rows want, by point, in the order of the path, as trials expect."""
    asked: dict[float, list[int]] = {}
    for number, row in enumerate(rows):
        for point in row.asked:
            asked.setdefault(point, []).append(number)
    return sorted(asked.items())


def _deliver(rows: Sequence[Row], asked: Sequence[Request], answers: Sequence[Tensor]) -> None:
    for (point, numbers), scores in zip(asked, answers, strict=True):
        for number, score in zip(numbers, scores.detach().float().cpu(), strict=True):
            rows[number].deliver(point, score)


def _together(rows: Sequence[Row]) -> Integral:
    scores = [row.scores for row in rows if row.scores is not None]
    return Integral(
        torch.stack(scores),
        torch.tensor([row.error for row in rows], dtype=torch.float64),
        torch.tensor([len(row.values) + len(row.trials) for row in rows]),
        [row.rule for row in rows],
    )


def _fixed(
    node_scores: NodeScores,
    differences: Sequence[Tensor],
    rule: str,
    steps: int,
    max_steps: int,
    tolerance: float,
    check: Callable[[], None],
) -> list[Integral]:
    """Rules whose points are not nested: every doubling starts again, for the rows that need it."""
    count = [len(difference) for difference in differences]
    scores: list[Tensor | None] = [None] * len(count)
    errors = [torch.full((rows,), torch.nan, dtype=torch.float64) for rows in count]
    used = [torch.zeros(rows, dtype=torch.long) for rows in count]
    pending = [list(range(rows)) for rows in count]
    while any(pending) and steps <= max_steps:
        check()
        points, weights = _rule(rule, steps)
        answers = node_scores([[(float(p), rows) for p in points] if rows else [] for rows in pending])
        for b, (rows, answer) in enumerate(zip(pending, answers, strict=True)):
            if not rows:
                continue
            at = torch.stack([part.detach().float().cpu() for part in answer])  # [points, rows, positions]
            found = torch.einsum("nrp,n->rp", at.double(), torch.from_numpy(weights))
            kept = scores[b] if scores[b] is not None else torch.zeros(count[b], found.shape[1])
            assert kept is not None
            kept[rows] = found.float()
            scores[b] = kept
            wanted = differences[b].double().cpu()[rows]
            errors[b][rows] = relative_error(found.sum(1) - wanted, wanted)
            used[b][rows] = steps
            pending[b] = [row for row in rows if errors[b][row] > tolerance]
        steps *= 2
    return [
        Integral(found, error, points, [rule] * len(error))
        for found, error, points in zip(scores, errors, used, strict=True)
        if found is not None
    ]


def _rule(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on 0..1 and their weights."""
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    return unit_gauss(steps)


@functools.cache
def unit_gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre points on 0..1, in order, and their weights."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, weights / 2


def smooth_rows(slopes: np.ndarray, differences: np.ndarray, tolerance: float) -> list[int]:
    """The rows whose slopes [Gauss–Legendre points, rows] integrate to their differences [rows]."""
    off = np.abs(unit_gauss(len(slopes))[1] @ slopes - differences)
    return np.flatnonzero((off <= tolerance * np.abs(differences)) & (np.abs(differences) > SAME)).tolist()


def trapezoid(points: np.ndarray) -> np.ndarray:
    """Weights of the trapezoid rule over any points."""
    widths = np.diff(points)
    weights = np.zeros(len(points))
    weights[:-1] += widths / 2
    weights[1:] += widths / 2
    return weights


def romberg(steps: int) -> np.ndarray:
    """Weights [steps + 1] of Romberg's rule over `steps` stretches of width 1; `steps` is 1, 2, 4 or 8."""
    table = []
    stride = 1
    while stride <= steps:
        weights = np.zeros(steps + 1)
        weights[::stride] = trapezoid(np.arange(0, steps + 1, stride))
        table.append(weights)
        stride *= 2
    for level in range(1, len(table)):
        table = [(4**level * fine - rough) / (4**level - 1) for fine, rough in pairwise(table)]
    return table[0]


_ROMBERG = {steps: romberg(steps) for steps in (1, 2, 4, 8)}


def composite_romberg(nodes: np.ndarray) -> np.ndarray:
    """Weights of Romberg's rule over the largest even, aligned blocks of dyadic points (integers)."""
    weights = np.zeros(len(nodes))
    begin = 0
    while begin < len(nodes) - 1:
        width = nodes[begin + 1] - nodes[begin]
        size = 1
        while size < 8 and _is_block(nodes, begin, 2 * size, width):
            size *= 2
        weights[begin : begin + size + 1] += width * _ROMBERG[size]
        begin += size
    return weights


def _is_block(nodes: np.ndarray, begin: int, size: int, width: int) -> bool:
    """`size` stretches of one width start here, and would be one stretch of a coarser grid."""
    end = begin + size
    even = end < len(nodes) and nodes[end] - nodes[begin] == size * width
    aligned = (nodes[begin] - nodes[0]) % (size * width) == 0
    return bool(even and aligned and (np.diff(nodes[begin : end + 1]) == width).all())


def worst_middles(nodes: np.ndarray, values: np.ndarray) -> list[int]:
    """The middles of the stretches that hold most of the estimated error; none where the grid ends.

    Stretches come in even pairs, side by side, and are halved in pairs: by how much the trapezoid rule
    differs from Simpson's over a pair says how much it bends there.
    """
    widths = np.diff(nodes)[::2]
    bends = np.abs(values[:-2:2] - 2 * values[1::2] + values[2::2]) * widths / 3
    order = np.argsort(-np.where(widths > 1, bends, -1), kind="stable")
    enough = int(np.searchsorted(np.cumsum(bends[order]), SHARE * bends.sum())) + 1
    worst = [2 * int(pair) for pair in order[:enough] if widths[pair] > 1]
    return sorted(int(nodes[i] + nodes[i + 1]) // 2 for pair in worst for i in (pair, pair + 1))
