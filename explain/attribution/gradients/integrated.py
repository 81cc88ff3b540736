"""Integrated gradients: every point of the path serves all output positions, and only open rows go on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from explain.attribution.gradients.batch import (
    Batch,
    Columns,
    attention_for_gradients,
    chosen,
    each_batch,
    jacobian_rows,
)
from explain.attribution.gradients.forward_mode import slopes
from explain.attribution.gradients.quadrature import Request, integrate, smooth_rows, unit_gauss
from explain.attribution.gradients.settings import PathSettings
from explain.attribution.memory import (
    backward_row_bytes,
    forward_row_bytes,
    graph_row_bytes,
    in_chunks,
    rows_within,
)
from explain.attribution.registry import Method, Scores, Work


def integrated_gradients(work: Work, settings: PathSettings) -> list[Scores]:
    """Integrated gradients of all generations, in batches of like lengths."""
    return each_batch(
        work,
        settings.baseline,
        settings.batch_size,
        lambda batch: _batch(work, settings, batch),
        sides=settings.sides,
    )


def _batch(work: Work, settings: PathSettings, batch: Batch) -> list[Scores]:
    low, high = batch.ends()
    base = [batch.own_rows(low[b], b) for b in range(len(low))]
    value = [batch.own_rows(high[b], b) for b in range(len(high))]
    differences = [there.double() - here.double() for there, here in zip(value, base, strict=True)]
    found = integrate(
        lambda requests: _node_scores(work, settings, batch, requests),
        differences,
        smooth=_smooth(work, settings, batch, differences),
        rule=settings.rule,
        steps=settings.steps,
        max_steps=settings.max_steps,
        tolerance=work.tolerance,
        check=work.check,
    )
    return [
        Scores(
            *batch.split(integral.scores, b),
            baseline_value=base[b].float().cpu(),
            completeness_error=integral.error.float(),
            used={"steps_used": integral.points.tolist(), "rules_used": integral.rules},
        ).with_values(batch.questions[b], value[b])
        for b, integral in enumerate(found)
    ]


# Fewer rows than this are not worth a look ahead: it costs about as much as the points of a row or two.
_WORTH_A_LOOK = 4

# Below this tolerance twice the points are looked at, too: there Gauss–Legendre is ahead of all other rules.
_FINE = 1e-3


def _smooth(
    work: Work, settings: PathSettings, batch: Batch, differences: Sequence[Tensor]
) -> list[dict[int, int]]:
    """For each generation the rows that a few Gauss–Legendre points will integrate, as forward mode tells."""
    if settings.rule != "nested" or max(len(difference) for difference in differences) < _WORTH_A_LOOK:
        return []
    found: list[dict[int, int]] = [{} for _ in differences]
    for count in (8, 16) if work.tolerance < _FINE else (8,):
        if all(len(rows) == len(difference) for rows, difference in zip(found, differences, strict=True)):
            break
        seen = _look_ahead(work, settings, batch, unit_gauss(count)[0])  # [batch, points, rows]
        for b, difference in enumerate(differences):
            own = batch.own_rows(seen[b], b).numpy()
            for row in smooth_rows(own, difference.cpu().numpy(), work.tolerance):
                found[b].setdefault(row, count)
    return found


def _look_ahead(work: Work, settings: PathSettings, batch: Batch, points: np.ndarray) -> Tensor:
    """Slopes along the whole path: float64 [batch, points, rows]."""
    where = torch.from_numpy(points)
    row = (
        2 * len(batch.questions) * forward_row_bytes(work.model, batch.source.shape[1], batch.target.shape[1])
    )

    def look(part: slice) -> Tensor:
        work.check()
        return slopes(batch, where[part]).double().cpu()

    chunks = in_chunks(len(where), rows_within(work.budget, row, settings.rows), look)
    return torch.cat([part for _, part in chunks], dim=1)


def _node_scores(
    work: Work, settings: PathSettings, batch: Batch, requests: Sequence[Sequence[Request]]
) -> list[list[Tensor]]:
    """Gradient times difference at points of the path, summed over the width.

    Returns:
        For each generation and request [asked rows, source + target].
    """
    count, source, target = len(requests), batch.source.shape[1], batch.target.shape[1]
    graph = graph_row_bytes(work.model, source, target)
    rows = rows_within(work.budget // 2, count * graph, settings.rows)
    answers: list[list[Tensor]] = [[torch.empty(0)] * len(own) for own in requests]

    def run(alike: list[list[int]], part: slice) -> None:
        asked = [own[part] for own in alike]  # numbers of requests
        n = max(len(own) for own in asked)
        # Generations with fewer requests are filled up with points where nothing is asked.
        filled = [[requests[b][i] for i in own] + [(0.0, [])] * (n - len(own)) for b, own in enumerate(asked)]
        points = torch.tensor([[point for point, _ in own] for own in filled]).to(batch.source)
        scores = _chunk(work, batch, points, [[rows for _, rows in own] for own in filled])
        for b, own in enumerate(asked):
            for k, i in enumerate(own):
                answers[b][i] = scores[: len(requests[b][i][1]), b, k]

    # Every point of a batch pays for as many backward rows as its longest list: like goes with like.
    sizes = {len(rows).bit_length() for own in requests for _, rows in own}
    for size in sorted(sizes, reverse=True):
        alike = [[i for i, (_, rows) in enumerate(own) if len(rows).bit_length() == size] for own in requests]
        for _ in in_chunks(max(map(len, alike)), rows, partial(run, alike)):
            pass
    return answers


def _chunk(work: Work, batch: Batch, points: Tensor, columns: Columns) -> Tensor:
    """Scores [columns, batch, n, source + target] at points [batch, n]."""
    n = points.shape[1]
    path = [side.requires_grad_() for side in batch.on_path(points, points)]
    with torch.enable_grad(), attention_for_gradients(batch):
        values = chosen(batch.values(path[0], path[1]), columns)  # [batch, n, columns]
    change = torch.cat([batch.source - batch.source_baseline, batch.target - batch.target_baseline], 1)
    row = backward_row_bytes(work.model, batch.source.shape[1], batch.target.shape[1])
    size = rows_within(work.budget // 2, len(columns) * n * row, values.shape[-1])
    parts = []
    for gradients in jacobian_rows(values, path, size, work.check):
        joined = torch.cat(gradients, 2).unflatten(1, (-1, n))  # [columns, batch, n, source + target, width]
        parts.append(torch.einsum("cbnpw,bpw->cbnp", joined.float(), change.float()).cpu())
    return torch.cat(parts)


METHODS = (
    Method(
        name="integrated_gradients",
        label="Integrated gradients",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=True,
        paper="Sundararajan et al. 2017, arXiv:1703.01365",
        reads="A token's share of the difference between the input and a baseline without text; the scores "
        "of a row add up to that difference, and below 0 a token speaks against.",
        settings=PathSettings,
        run=integrated_gradients,
    ),
)
