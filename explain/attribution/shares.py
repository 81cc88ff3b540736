"""How much of every output token comes from the source, and how much from what was written already.

The integrated-gradients part of one group of inputs needs no map. Forward mode, or differences of forward
passes, give it for all output positions at once, with a number of passes that depends neither on the source's
nor on the output's number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from explain.attribution.gradients.batch import Batch, each_batch
from explain.attribution.gradients.forward_mode import slopes_by_side
from explain.attribution.gradients.quadrature import Request, integrate, relative_error
from explain.attribution.inputs import BASELINES
from explain.attribution.memory import DEFAULT, forward_row_bytes, in_chunks, rows_within
from explain.attribution.objectives import Foil, Objective, question
from explain.attribution.registry import Work
from explain.model import Seq2Seq
from explain.model.hooks import analysed
from explain.model.seq2seq import as_list
from explain.options import checked, choice
from explain.results import Generation

WAYS = ("differences", "forward_mode")


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """The options of `source_share`."""

    by: str = choice("differences", WAYS)
    baseline: str = choice("pad", BASELINES)
    tolerance: float = 0.01
    steps: int = 8
    max_steps: int = 64
    batch_size: int = 8
    memory_budget: int = DEFAULT

    def __post_init__(self) -> None:
        for name, names in (("by", WAYS), ("baseline", BASELINES)):
            if getattr(self, name) not in names:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(names)}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance} must be above 0 (0.01 is one per cent)")
        if not 2 <= self.steps <= self.max_steps // 2:
            raise ValueError(
                f"steps={self.steps} must be at least 2 and at most half of max_steps={self.max_steps}: "
                "they are doubled once at least"
            )
        if self.batch_size < 1 or self.memory_budget < 1:
            raise ValueError("batch_size and memory_budget must be at least 1")


@dataclass(frozen=True, eq=False)
class SourceShare:
    """The two parts of every target token's difference between input and baseline.

    Attributes:
        source: float [target], the sum of the integrated gradients of all source tokens, in the objective's
            units.
        prefix: float [target], likewise of all earlier target tokens.
        error: float [target], relative to |difference|: by differences, by how much the parts are still
            estimated to move; by forward mode, how far they are from adding up. 0 is exact, nan where input
            and baseline do not differ.
        units: what a part of 1 is worth.
        steps: steps of the path in the end; without equal ones, the points used less one.
        points: places on and beside the path where the objective was computed.
    """

    source: Tensor
    prefix: Tensor
    error: Tensor
    units: str
    steps: int
    points: int

    @property
    def share(self) -> Tensor:
        """Float [target]: source / (source + prefix).

        1 means all from the source, 0 all from the prefix; outside of 0..1 the two pull in opposite
        directions; nan where neither matters.
        """
        total = self.source + self.prefix
        return torch.where(total.abs() > 1e-9, self.source / total, torch.nan)


@overload
def source_share(model: Seq2Seq, generations: Generation, **options: Any) -> SourceShare: ...
@overload
def source_share(model: Seq2Seq, generations: Sequence[Generation], **options: Any) -> list[SourceShare]: ...
def source_share(  # pyright: ignore[reportInconsistentOverload]
    model: Seq2Seq,
    generations: Generation | Sequence[Generation],
    *,
    target: Objective = "log_prob",
    contrast: Foil | None = None,
    baseline: str = "pad",
    tolerance: float = 0.01,
    by: str = "differences",
    steps: int = 8,
    max_steps: int = 64,
    batch_size: int = 8,
    memory_budget: int = DEFAULT,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SourceShare | list[SourceShare]:
    """Source and prefix parts of integrated gradients for every target token, without computing a map.

    Equal to the sums of `attribute(method="integrated_gradients")` with the same baseline, up to the
    tolerance (Sundararajan et al. 2017, arXiv:1703.01365).

    Args:
        model: an opened model.
        generations: one generation, or a list (list in, list out).
        target: the objective, as for `attribute`.
        contrast: a foil, as for `attribute`.
        baseline: what stands for "no token".
        tolerance: relative error that every token must reach.
        by: `differences` of forward passes along the path, whose parts always add up and whose error is
            estimated by halving the step; or `forward_mode`, derivatives along the path, about three times
            the price, whose error is measured by adding up.
        steps: steps of the path to begin with; they double until the tolerance is met.
        max_steps: where doubling ends.
        batch_size: generations that share a pass.
        memory_budget: bytes to use beside the model.
        progress: called with (done, all) after every generation.
        should_stop: asked between batches; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError, InputError: an objective, contrast or option that cannot be used.
        Cancelled: `should_stop` said so.
    """
    given = {"by": by, "baseline": baseline, "tolerance": tolerance, "steps": steps, "max_steps": max_steps}
    given |= {"batch_size": batch_size, "memory_budget": memory_budget}
    checked(ShareSettings, given, "option of source_share")
    several = as_list(generations)
    if not several:
        return []
    questions = [question(model, item, target, contrast) for item in several]
    work = Work.watched(
        model,
        several,
        questions,
        tolerance=tolerance,
        budget=memory_budget,
        progress=progress,
        should_stop=should_stop,
    )
    run = _by_forward_mode if by == "forward_mode" else _by_differences
    model.require_parity()
    with model.lock, analysed(model.hf):
        ordered = each_batch(work, baseline, batch_size, lambda batch: run(work, steps, max_steps, batch))
    return ordered[0] if isinstance(generations, Generation) else ordered


# ---- by forward mode -------------------------------------------------------------------------------------


def _by_forward_mode(work: Work, steps: int, max_steps: int, batch: Batch) -> list[SourceShare]:
    """Slopes along the source's and the prefix's part of the path, integrated until they add up."""
    low, high = (side.double() for side in batch.ends())
    known: dict[float, Tensor] = {}  # point -> slopes of all rows [batch, rows, 2]

    def answer(requests: Sequence[Sequence[Request]]) -> list[list[Tensor]]:
        new = sorted({point for own in requests for point, _ in own} - set(known))
        known.update(zip(new, _slopes(work, batch, torch.tensor(new)), strict=True))
        return [[known[point][b, rows] for point, rows in own] for b, own in enumerate(requests)]

    found = integrate(
        answer,
        [batch.own_rows(high[b] - low[b], b) for b in range(len(batch.questions))],
        rule="nested",
        steps=steps,
        max_steps=max_steps,
        tolerance=work.tolerance,
        check=work.check,
    )
    return [
        SourceShare(
            source=integral.scores[:, 0],
            prefix=integral.scores[:, 1],
            error=integral.error.float(),
            units=asked.units,
            steps=len(known) - 1,
            points=len(known),
        )
        for integral, asked in zip(found, batch.questions, strict=True)
    ]


def _slopes(work: Work, batch: Batch, points: Tensor) -> list[Tensor]:
    """Derivatives along the source's and along the prefix's part of the path: per point [batch, rows, 2]."""
    changes = batch.source - batch.source_baseline, batch.target - batch.target_baseline

    def chunk(part: slice) -> Tensor:
        work.check()
        source, target = batch.on_path(points[part], points[part])
        along = [change.repeat_interleave(len(points[part]), dim=0) for change in changes]
        return slopes_by_side(batch, source, target, *along).cpu()  # [batch, n, rows, 2]

    # The decoder runs once for each side, and a tangent stands beside every value.
    parts = [part for _, part in in_chunks(len(points), _rows(work, batch, 4), chunk)]
    return list(torch.cat(parts, dim=1).unbind(1)) if parts else []


# ---- by differences --------------------------------------------------------------------------------------


def _by_differences(work: Work, steps: int, max_steps: int, batch: Batch) -> list[SourceShare]:
    """Staircases on both sides of the path, with half the step until the parts stop moving.

    On one staircase the source goes first in every step, on the other the prefix; the mean of both is
    symmetric, so its error has even powers of the step only and one extrapolation takes out the first.
    """
    low, high = (side.double() for side in batch.ends())
    difference = (high - low).cpu()
    states: dict[float, Tensor] = {}  # point -> encoder states [batch, source, width]
    corners: dict[tuple[float, float], Tensor] = {}  # objective [batch, rows]
    rough = None
    while True:
        work.check()
        source = _staircase(work, batch, states, corners, steps)  # float64 [batch, rows]
        if rough is not None:
            error = relative_error((source - rough) / 3, difference)
            if steps * 2 > max_steps or not bool((error > work.tolerance).any()):
                break
        rough = source
        steps *= 2
    source = (4 * source - rough) / 3
    return [
        SourceShare(
            source=batch.own_rows(source[b], b).float(),
            prefix=batch.own_rows(difference[b] - source[b], b).float(),
            error=batch.own_rows(error[b], b).float(),
            units=asked.units,
            steps=steps,
            points=len(corners),
        )
        for b, asked in enumerate(batch.questions)
    ]


@torch.no_grad()
def _staircase(
    work: Work,
    batch: Batch,
    states: dict[float, Tensor],
    corners: dict[tuple[float, float], Tensor],
    steps: int,
) -> Tensor:
    """What the source's steps add up to, mean of both staircases: float64 [batch, rows]."""
    grid = torch.arange(steps + 1) / steps
    new = [point for point in grid.tolist() if point not in states]

    def encode(part: slice) -> Tensor:
        work.check()
        points = torch.tensor(new[part])
        source, _ = batch.on_path(points, points)
        return batch.states(source).unflatten(0, (len(batch.questions), -1))

    for part, encoded in in_chunks(len(new), _rows(work, batch, 1), encode):
        states.update(zip(new[part], encoded.unbind(1), strict=True))

    # Per step the corners (k, k), (k + 1, k) and (k, k + 1), source first; the last is the next (k, k).
    path = grid.tolist()
    on, right, below = (
        list(zip(source, target, strict=True))
        for source, target in ((path, path), (path[1:], path[:-1]), (path[:-1], path[1:]))
    )
    wanted = [corner for corner in (*on, *right, *below) if corner not in corners]

    def decode(part: slice) -> Tensor:
        work.check()
        sources, targets = zip(*wanted[part], strict=True)
        encoded = torch.stack([states[point] for point in sources], dim=1).flatten(0, 1)
        _, target = batch.on_path(torch.tensor(sources), torch.tensor(targets))
        return batch.values_from(encoded, target).double().cpu()  # [batch, n, rows]

    for part, values in in_chunks(len(wanted), _rows(work, batch, 1), decode):
        corners.update(zip(wanted[part], values.unbind(1), strict=True))
    at_on, at_right, at_below = (torch.stack([corners[c] for c in some]) for some in (on, right, below))
    return ((at_right - at_on[:-1]) + (at_on[1:] - at_below)).sum(0) / 2


def _rows(work: Work, batch: Batch, times: int) -> int:
    """How many points of the path fit the memory budget at once, each `times` the price of a forward row."""
    row = forward_row_bytes(work.model, batch.source.shape[1], batch.target.shape[1])
    return rows_within(work.budget, times * len(batch.questions) * row, 64)
