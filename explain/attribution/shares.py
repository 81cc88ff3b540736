"""How much of every output token comes from the source, and how much from what was written already.

The integrated-gradients share of one group of inputs needs no map: forward mode gives it for all output
positions at once, at a cost that depends neither on the source's nor on the output's number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from explain.attribution.gradients.batch import Batch, Columns, batched
from explain.attribution.gradients.forward_mode import slopes_by_side
from explain.attribution.gradients.quadrature import integrate
from explain.attribution.gradients.settings import PathSettings
from explain.attribution.memory import DEFAULT, forward_row_bytes, in_chunks, rows_within
from explain.attribution.objectives import Foil, Objective, question
from explain.attribution.registry import Cancelled, Work
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.hooks import analysed
from explain.model.seq2seq import as_list
from explain.results import Generation


@dataclass(frozen=True, eq=False)
class SourceShare:
    """The two parts of every target token's difference between input and baseline.

    Attributes:
        source: float [target], the sum of the integrated gradients of all source tokens, in the objective's
            units.
        prefix: float [target], likewise of all earlier target tokens.
        completeness_error: float [target], |source + prefix - difference| over |difference|; nan where input
            and baseline do not differ.
        units: what a part of 1 is worth.
        points: int [target], points of the path that were used.
    """

    source: Tensor
    prefix: Tensor
    completeness_error: Tensor
    units: str
    points: Tensor

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
        tolerance: relative completeness error that every token must reach.
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
    several = as_list(generations)
    questions = [question(model, item, target, contrast) for item in several]
    settings = PathSettings(baseline, steps, max_steps, batch_size=batch_size)
    finished = 0

    def done(count: int) -> None:
        nonlocal finished
        finished += count
        if progress is not None:
            progress(finished, len(several))

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance!r}; it must be above 0 (0.01 is one per cent)")
    model.require_parity()
    results: dict[int, SourceShare] = {}
    with model.lock, analysed(model.hf):
        work = Work(model, several, questions, tolerance, check, done, memory_budget)
        for numbers, batch in batched(work, baseline, batch_size):
            check()
            for number, found in zip(numbers, _batch(work, settings, batch), strict=True):
                results[number] = found
                done(1)
    ordered = [results[i] for i in range(len(several))]
    return ordered[0] if isinstance(generations, Generation) else ordered


def _batch(work: Work, settings: PathSettings, batch: Batch) -> list[SourceShare]:
    with torch.no_grad():
        low = batch.values(batch.source_baseline, batch.target_baseline)[:, 0].double()
        high = batch.values(batch.source, batch.target)[:, 0].double()
    found = integrate(
        lambda points, columns: _node_parts(work, settings, batch, points, columns),
        [batch.own_rows(high[b] - low[b], b) for b in range(len(batch.questions))],
        rule=settings.rule,
        steps=settings.steps,
        max_steps=settings.max_steps,
        tolerance=work.tolerance,
        check=work.check,
    )
    return [
        SourceShare(
            source=integral.scores[:, 0],
            prefix=integral.scores[:, 1],
            completeness_error=integral.error.float(),
            units=asked.units,
            points=integral.points,
        )
        for integral, asked in zip(found, batch.questions, strict=True)
    ]


def _node_parts(
    work: Work, settings: PathSettings, batch: Batch, points: Tensor, columns: Columns
) -> list[Tensor]:
    """Derivatives along the source's and along the prefix's part of the path: each [columns, points, 2]."""
    count, source, target = len(columns), batch.source.shape[1], batch.target.shape[1]
    # The decoder runs once for each side, and a tangent stands beside every value.
    row = 4 * count * forward_row_bytes(work.model, source, target)
    rows = rows_within(work.budget, row, settings.rows)
    changes = batch.source - batch.source_baseline, batch.target - batch.target_baseline

    def chunk(part: slice) -> Tensor:
        work.check()
        alpha = points[part].to(batch.source)[None, :, None, None]
        n = alpha.shape[1]
        path = [
            (base[:, None] + alpha * change[:, None]).flatten(0, 1)
            for base, change in zip((batch.source_baseline, batch.target_baseline), changes, strict=True)
        ]  # each [batch · n, tokens, width]
        along = [change.repeat_interleave(n, dim=0) for change in changes]
        return slopes_by_side(batch, *path, *along).transpose(1, 2).cpu()  # [batch, rows, n, 2]

    parts = torch.cat([part for _, part in in_chunks(len(points), rows, chunk)], dim=2)
    return [parts[b, list(columns[b])] for b in range(count)]
