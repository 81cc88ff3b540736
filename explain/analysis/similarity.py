"""How alike two sets of hidden states are: debiased linear CKA between layers, and between models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from explain.analysis.inputs import Progress
from explain.analysis.states import Side, select_rows, side_of, state_batches
from explain.attribution.memory import DEFAULT, TooLargeError
from explain.attribution.registry import Cancelled
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.seq2seq import as_list
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd

Per: TypeAlias = Literal["token", "example"]
RESIDUALS = ("*.embed", "*.residual")
"""What is compared unless other points are named: what enters and what leaves every layer."""

# The unbiased estimator divides by n - 3.
_FEWEST = 4
# Variance over mean square, below which float32 states are the same at every row.
_ROUNDING = 1e-11


@dataclass(frozen=True, eq=False)
class Similarity:
    """Debiased linear CKA between the states at every two hook points.

    Attributes:
        points_a: the rows: hook points of the first model, in the order of computation.
        points_b: the columns: hook points of the second, or of the first again.
        values: float [points_a, points_b]. 1: the same up to rotation, scale and shift; 0: nothing in common
            that is linear. It is an unbiased estimate, so it may fall a little below 0 and, from few rows,
            rise above 1. nan where two points have no rows in common (per token: source against output
            tokens) or where a point is the same at every row.
        per: what a row of states is: a `token`, or an `example` (the mean over its tokens on that side).
        rows: how many rows there are by side, `source` and `target`.
        generations: how many outputs.
        minibatch: rows per minibatch whose estimates were averaged; None: all rows at once, which is exact.
        model_digest_a: of the first model.
        model_digest_b: of the second; the same again within one model.
    """

    points_a: tuple[str, ...]
    points_b: tuple[str, ...]
    values: Tensor
    per: Per
    rows: Mapping[str, int]
    generations: int
    minibatch: int | None
    model_digest_a: str = ""
    model_digest_b: str = ""

    def value(self, point_a: str, point_b: str) -> float:
        """The similarity of two hook points.

        Raises:
            InputError: one of them was not compared.
        """
        for point, known in ((point_a, self.points_a), (point_b, self.points_b)):
            if point not in known:
                raise InputError(f"{point} was not compared; compared were {', '.join(known)}")
        return float(self.values[self.points_a.index(point_a), self.points_b.index(point_b)])

    def same_points(self) -> dict[str, float]:
        """By hook point that both sides have, how alike the two are there."""
        return {point: self.value(point, point) for point in self.points_a if point in self.points_b}

    def to_frame(self) -> pd.DataFrame:
        """One row per pair; columns `point_a`, `point_b`, `cka`."""
        import pandas as pd

        records = [
            {"point_a": a, "point_b": b, "cka": float(self.values[i, j])}
            for i, a in enumerate(self.points_a)
            for j, b in enumerate(self.points_b)
        ]
        return pd.DataFrame(records, columns=["point_a", "point_b", "cka"])

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object; `from_dict` reads it back."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **own,
            "points_a": list(self.points_a),
            "points_b": list(self.points_b),
            "values": self.values.tolist(),
            "rows": dict(self.rows),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Similarity:
        """Read a result back from its JSON object; null stands for nan."""
        known = {f.name: data[f.name] for f in fields(cls)}
        values = [[math.nan if value is None else value for value in row] for row in known["values"]]
        points = {name: tuple(known[name]) for name in ("points_a", "points_b")}
        shape = len(points["points_a"]), len(points["points_b"])
        return cls(**{**known, **points, "values": torch.tensor(values, dtype=torch.float64).reshape(shape)})


def similarity(
    model_a: Seq2Seq,
    generations_a: Generation | Sequence[Generation],
    model_b: Seq2Seq | None = None,
    generations_b: Generation | Sequence[Generation] | None = None,
    points: str | Iterable[str] = RESIDUALS,
    *,
    points_b: str | Iterable[str] | None = None,
    per: Per = "token",
    minibatch: int | None = None,
    batch_size: int = 16,
    memory_budget: int = DEFAULT,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Similarity:
    """Compare the hidden states of a model's layers with each other, or with those of another model.

    Centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414) with the linear kernel:
    HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)), where HSIC is the unbiased estimate (Song et al. 2012). The usual
    estimate grows with width over rows and calls unrelated wide layers alike; this one does not. It takes
    rows to be independent draws: words that come again and again, in texts of one mould, make layers alike
    because the words are.

    States are read in one teacher-forced pass per batch and summed up where they arise.

    Args:
        model_a: an opened model.
        generations_a: its outputs.
        model_b: another model; None compares the layers of the first with each other.
        generations_b: the same texts as the second model reads them: `model_b.force(sources, outputs)`. May
            be left out where both have one vocabulary.
        points: hook points of both, by glob patterns; attention patterns have no rows of states.
        points_b: those of the second, if they are others.
        per: `token` pairs the states at the same token, on each side for itself; `example` pairs means over
            the tokens of a side, and so compares encoder with decoder, and models of other vocabularies.
        minibatch: estimate on this many rows at a time and average (Nguyen et al. 2021, arXiv:2010.15327):
            memory then depends on it and not on the square of the width. None: all rows at once, exactly.
        batch_size: outputs per pass at most; results do not depend on it without `minibatch`.
        memory_budget: bytes to use beside the model.
        progress: called with (done, all) outputs after every batch.
        should_stop: asked before every batch; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: a pattern matches no hook point.
        InputError: too few rows, attention patterns, or outputs of the two models that are not the same.
        TooLargeError: all rows at once do not fit the budget; a minibatch does.
        Cancelled: `should_stop` said so.
    """
    a = as_list(generations_a)
    other = model_a if model_b is None else model_b
    b = a if generations_b is None else as_list(generations_b)
    per = require_per(per)
    if minibatch is not None and minibatch < _FEWEST:
        raise InputError(f"minibatch is {minibatch}; the estimate needs at least {_FEWEST} rows")
    patterns = list(points) if not isinstance(points, str) else [points]
    names_a = select_rows(model_a, patterns)
    names_b = select_rows(other, patterns if points_b is None else points_b)
    _require_same(a, b, per)
    within = other is model_a and b is a
    make = _Exact if minibatch is None else _Minibatches
    pairs = [make(*found, minibatch or 0, memory_budget) for found in _sides(names_a, names_b, per)]
    done, rows = 0, {"source": 0, "target": 0}
    for states_a, states_b in _paired(
        model_a, a, names_a, other, b, names_b, within, batch_size, memory_budget
    ):
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")
        for pair in pairs:
            pair.add(_rows(states_a, pair.left, per), _rows(states_b, pair.right, per))
        for side in rows:
            tokens = [
                len(a[i].source_tokens if side == "source" else a[i].target_tokens) for i, _ in states_a
            ]
            rows[side] += len(tokens) if per == "example" else sum(tokens)
        done += len(states_a)
        if progress is not None:
            progress(done, len(a))
    values = torch.full((len(names_a), len(names_b)), math.nan, dtype=torch.float64)
    for pair in pairs:
        index = [names_a.index(n) for n in pair.left], [names_b.index(n) for n in pair.right]
        values[torch.tensor(index[0])[:, None], torch.tensor(index[1])] = pair.result()
    return Similarity(
        points_a=tuple(names_a),
        points_b=tuple(names_b),
        values=values,
        per=per,
        rows=rows,
        generations=len(a),
        minibatch=minibatch,
        model_digest_a=model_a.digest,
        model_digest_b=other.digest,
    )


def require_per(per: str) -> Per:
    """What a row of states is to be.

    Raises:
        InputError: neither `token` nor `example`.
    """
    if per == "token" or per == "example":
        return per
    raise InputError(f"per is {per!r}; it is token or example")


def cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear CKA of two sets of rows: x float [rows, width], y float [rows, other width].

    nan where one of them is the same at every row; see `Similarity.values`.

    Raises:
        InputError: the rows are not paired, or fewer than four.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise InputError(f"cka pairs rows, not shapes {tuple(x.shape)} and {tuple(y.shape)}")
    pair = _Exact(["x"], ["y"], 0, DEFAULT)
    pair.add({"x": x}, {"y": y})
    return float(pair.result())


# ---- which rows go together ------------------------------------------------------------------------------


def _require_same(a: Sequence[Generation], b: Sequence[Generation], per: Per) -> None:
    if not a:
        raise InputError("a similarity needs outputs to look at")
    if len(a) != len(b):
        raise InputError(f"{len(a)} outputs of the first model, but {len(b)} of the second; pair them")
    for number, (one, other) in enumerate(zip(a, b, strict=True), start=1):
        if (one.source_text, one.target_text) != (other.source_text, other.target_text):
            raise InputError(
                f"output {number} is not the same text in both; let the second model score the first's "
                "outputs: model_b.force(sources, outputs)"
            )
        same = [[(t.text, t.start) for t in (*g.source_tokens, *g.target_tokens)] for g in (one, other)]
        if per == "token" and same[0] != same[1]:
            raise InputError(
                f"output {number} is not the same tokens in both models, so token states cannot be paired; "
                "compare means over texts instead: per='example' (--per example)"
            )


def _sides(names_a: Sequence[str], names_b: Sequence[str], per: Per) -> Iterator[tuple[list[str], list[str]]]:
    """Groups of points whose rows can be paired."""
    if per == "example":
        yield list(names_a), list(names_b)
        return
    sides: tuple[Side, ...] = ("source", "target")
    for side in sides:
        found = [[n for n in names if side_of(n) == side] for names in (names_a, names_b)]
        if all(found):
            yield found[0], found[1]


States = list[tuple[int, Mapping[str, Tensor]]]


def _paired(
    model_a: Seq2Seq,
    a: Sequence[Generation],
    names_a: Sequence[str],
    model_b: Seq2Seq,
    b: Sequence[Generation],
    names_b: Sequence[str],
    within: bool,
    batch_size: int,
    memory_budget: int,
) -> Iterator[tuple[States, States]]:
    """The states of the same outputs in both models, batch by batch."""
    limits: dict[str, Any] = {"batch_size": batch_size, "memory_budget": memory_budget}
    if within:
        names = list(dict.fromkeys([*names_a, *names_b]))
        yield from ((found, found) for found in state_batches(model_a, a, names, **limits))
        return
    waiting: dict[int, Mapping[str, Tensor]] = {}
    second = state_batches(model_b, b, names_b, **limits)
    # Vocabularies differ in what is long, so the two come in orders of their own.
    for first in state_batches(model_a, a, names_a, **limits):
        while any(index not in waiting for index, _ in first):
            waiting.update(next(second))
        yield first, [(index, waiting.pop(index)) for index, _ in first]


def _rows(states: States, names: Sequence[str], per: Per) -> dict[str, Tensor]:
    """By hook point the rows [row, width] of a batch, float64 on the CPU."""
    found = {}
    for name in names:
        parts = [views[name].double() for _, views in states]
        rows = torch.stack([part.mean(0) for part in parts]) if per == "example" else torch.cat(parts)
        found[name] = rows.cpu()
    return found


# ---- the estimate ----------------------------------------------------------------------------------------


@dataclass
class _Pair:
    """Hook points of one side whose rows are paired: what is known of them so far."""

    left: list[str]
    right: list[str]
    minibatch: int
    memory_budget: int

    def add(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        """Take in rows [row, width] of every point."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """CKA [left, right]."""
        raise NotImplementedError


def _ratio(cross: Tensor, left: Tensor, right: Tensor, sizes: Sequence[Tensor]) -> Tensor:
    """CKA [left, right] from HSIC [left, right] and that of each with itself, [left] and [right].

    `sizes` are mean squares of the rows, [left] and [right]: what varies by less than rounding is constant.
    """
    known = (left > (_ROUNDING * sizes[0]).square())[:, None] & (right > (_ROUNDING * sizes[1]).square())
    scale = (left.clamp_min(0)[:, None] * right.clamp_min(0)).sqrt()
    return torch.where(known, cross / scale.where(known, torch.ones(())), math.nan)


@dataclass
class _Sums:
    """Sums over rows x [width] and y [other width] that HSIC is a function of; |x|² is written p, |y|² q.

    Attributes:
        product: Σ x yᵀ.
        xq: Σ x q.
        yp: Σ y p.
        pq: Σ p q.
    """

    product: Tensor
    xq: Tensor
    yp: Tensor
    pq: Tensor


class _Exact(_Pair):
    """The estimate over all rows at once, from sums of squares of width: one pass, no kernel of rows × rows.

    With K = X Xᵀ and L = Y Yᵀ without their diagonals, the unbiased estimate (Song et al. 2012) is
    n (n − 3) HSIC = tr(KL) + 1ᵀK1 · 1ᵀL1 / ((n − 1)(n − 2)) − 2 / (n − 2) · 1ᵀKL1, and
    tr(KL) = ‖Σ x yᵀ‖² − Σ p q, 1ᵀK1 = |Σ x|² − Σ p,
    1ᵀKL1 = Σxᵀ (Σ x yᵀ) Σy − Σx · Σ x q − Σy · Σ y p + Σ p q.
    """

    def __init__(self, left: list[str], right: list[str], minibatch: int, memory_budget: int):
        super().__init__(left, right, minibatch, memory_budget)
        self.count = 0
        # An origin near the rows: sums of squares of numbers far from 0 would lose digits.
        self.origin: dict[tuple[str, str], Tensor] = {}
        self.sizes: dict[tuple[str, str], Tensor] = {}
        self.totals: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self.sums: dict[tuple[str, str, str, str], _Sums] = {}

    def _pairs(self) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
        first, second = [("left", n) for n in self.left], [("right", n) for n in self.right]
        yield from ((x, y) for x in first for y in second)
        yield from ((x, x) for x in (*first, *second))

    def add(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        given = {("left", n): left[n].double() for n in self.left}
        given |= {("right", n): right[n].double() for n in self.right}
        if not self.origin:
            self._require_room({key: rows.shape[1] for key, rows in given.items()})
            self.origin = {key: rows.mean(0) for key, rows in given.items()}
            self.sizes = {key: rows.square().sum(1).mean() for key, rows in given.items()}
        rows = {key: found - self.origin[key] for key, found in given.items()}
        squares = {key: found.square().sum(1) for key, found in rows.items()}
        self.count += len(next(iter(rows.values())))
        for key, found in rows.items():
            total, square = self.totals.get(key, (torch.zeros(()), torch.zeros(())))
            self.totals[key] = total + found.sum(0), square + squares[key].sum()
        for x, y in self._pairs():
            new = _Sums(
                rows[x].T @ rows[y], rows[x].T @ squares[y], rows[y].T @ squares[x], squares[x] @ squares[y]
            )
            before = self.sums.get((*x, *y))
            if before is not None:
                for part in fields(_Sums):
                    getattr(before, part.name).add_(getattr(new, part.name))
            else:
                self.sums[(*x, *y)] = new

    def _require_room(self, widths: Mapping[tuple[str, str], int]) -> None:
        needed = 8 * sum(widths[x] * widths[y] for x, y in self._pairs())
        if needed > self.memory_budget:
            raise TooLargeError(
                f"comparing these layers over all rows at once takes {needed >> 20:,} MiB, more than the "
                f"{self.memory_budget >> 20:,} allowed; name fewer points, or average over minibatches: "
                "minibatch=512 (--minibatch 512)"
            )

    def result(self) -> Tensor:
        _require_rows(self.count)
        cross = [[self._hsic(("left", x), ("right", y)) for y in self.right] for x in self.left]
        left = torch.stack([self._hsic(("left", x), ("left", x)) for x in self.left])
        right = torch.stack([self._hsic(("right", y), ("right", y)) for y in self.right])
        sizes = tuple(
            torch.stack([self.sizes[key, name] for name in names])
            for key, names in (("left", self.left), ("right", self.right))
        )
        return _ratio(torch.stack([torch.stack(row) for row in cross]), left, right, sizes)

    def _hsic(self, x: tuple[str, str], y: tuple[str, str]) -> Tensor:
        sums, n = self.sums[(*x, *y)], self.count
        (sx, p), (sy, q) = self.totals[x], self.totals[y]
        trace = sums.product.square().sum() - sums.pq
        ends = sx @ sums.product @ sy - sx @ sums.xq - sy @ sums.yp + sums.pq
        whole = (sx @ sx - p) * (sy @ sy - q)
        return _unbiased(trace, whole, ends, n)


class _Minibatches(_Pair):
    """The mean of estimates over minibatches of rows, from kernels of rows × rows (Nguyen et al. 2021)."""

    def __init__(self, left: list[str], right: list[str], minibatch: int, memory_budget: int):
        super().__init__(left, right, minibatch, memory_budget)
        self.waiting: list[dict[str, Tensor]] = [{}, {}]
        self.count = 0
        self.means = [torch.zeros(len(left), len(right)), torch.zeros(len(left)), torch.zeros(len(right))]
        self.sizes: Sequence[Tensor] = ()

    def add(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        for waiting, given in zip(self.waiting, (left, right), strict=True):
            for name, rows in given.items():
                waiting[name] = torch.cat([waiting[name], rows]) if name in waiting else rows
        while len(self.waiting[0][self.left[0]]) >= self.minibatch:
            self._take(self.minibatch)

    def _take(self, rows: int) -> None:
        if not self.sizes:
            self.sizes = tuple(
                torch.stack([waiting[name].square().sum(1).mean() for name in names])
                for waiting, names in zip(self.waiting, (self.left, self.right), strict=True)
            )
        kernels = []
        for waiting, names in zip(self.waiting, (self.left, self.right), strict=True):
            kernels.append(torch.stack([_kernel(waiting[name][:rows]) for name in names]))
            for name in names:
                waiting[name] = waiting[name][rows:]
        x, y = kernels  # [left, rows, rows], [right, rows, rows]
        found = [_hsic(x, y), _hsic(x, x).diagonal(), _hsic(y, y).diagonal()]
        self.count += 1
        self.means = [mean + (new - mean) / self.count for mean, new in zip(self.means, found, strict=True)]

    def result(self) -> Tensor:
        if not self.count:  # fewer rows than one minibatch
            rows = len(self.waiting[0][self.left[0]])
            _require_rows(rows)
            self._take(rows)
        cross, left, right = self.means
        return _ratio(cross, left, right, self.sizes)


def _kernel(rows: Tensor) -> Tensor:
    """The linear kernel [row, row] of rows [row, width], its diagonal 0."""
    centred = rows.double() - rows.double().mean(0)  # changes nothing in exact arithmetic
    return (centred @ centred.T).fill_diagonal_(0)


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased HSIC [x, y] of kernels [x, row, row] and [y, row, row] whose diagonals are 0."""
    ends = x.sum(-1), y.sum(-1)
    whole = ends[0].sum(-1)[:, None] * ends[1].sum(-1)
    return _unbiased(x.flatten(1) @ y.flatten(1).T, whole, ends[0] @ ends[1].T, x.shape[-1])


def _unbiased(trace: Tensor, whole: Tensor, ends: Tensor, n: int) -> Tensor:
    """HSIC from tr(KL), 1ᵀK1 · 1ᵀL1 and 1ᵀKL1 of kernels [n, n] without their diagonals."""
    return (trace + whole / ((n - 1) * (n - 2)) - 2 / (n - 2) * ends) / (n * (n - 3))


def _require_rows(count: int) -> None:
    if count < _FEWEST:
        raise InputError(
            f"a similarity needs at least {_FEWEST} rows of states, not {count}; give more texts"
        )
