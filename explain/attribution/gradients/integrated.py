"""Integrated gradients: every point of the path serves all output positions, and only open rows go on."""

from __future__ import annotations

import torch
from torch import Tensor

from explain.attribution.gradients.batch import Batch, Columns, batched, chosen, jacobian_rows
from explain.attribution.gradients.quadrature import integrate
from explain.attribution.gradients.settings import PathSettings
from explain.attribution.inputs import split_prefix
from explain.attribution.memory import backward_row_bytes, graph_row_bytes, in_chunks, rows_within
from explain.attribution.registry import Method, Scores, Work


def integrated_gradients(work: Work, settings: PathSettings) -> list[Scores]:
    """Integrated gradients of all generations, in batches of like lengths."""
    results: dict[int, Scores] = {}
    for numbers, batch in batched(work, settings.baseline, settings.batch_size):
        work.check()
        results.update(zip(numbers, _batch(work, settings, batch), strict=True))
        for _ in numbers:
            work.done(1)
    return [results[i] for i in range(len(results))]


def _batch(work: Work, settings: PathSettings, batch: Batch) -> list[Scores]:
    with torch.no_grad():
        ends = batch.values(
            torch.stack([batch.source_baseline, batch.source], 1).flatten(0, 1),
            torch.stack([batch.target_baseline, batch.target], 1).flatten(0, 1),
        )  # [batch, 2, rows]: baseline, input
    base = [batch.own_rows(ends[:, 0], b)[b] for b in range(len(ends))]
    value = [batch.own_rows(ends[:, 1], b)[b] for b in range(len(ends))]
    found = integrate(
        lambda points, columns: _node_scores(work, settings, batch, points, columns),
        [high.double() - low.double() for high, low in zip(value, base, strict=True)],
        rule=settings.rule,
        steps=settings.steps,
        max_steps=settings.max_steps,
        tolerance=work.tolerance,
        check=work.check,
    )
    width = batch.source.shape[1]
    results = []
    for b, integral in enumerate(found):
        source = integral.scores[:, : batch.source_lengths[b]]
        decoder = _whole(integral.scores[:, width : width + batch.target_lengths[b]], work, batch, b)
        prefix, start = split_prefix(decoder, batch.questions[b].spans)
        results.append(
            Scores(
                source,
                prefix,
                start,
                baseline_value=base[b].float().cpu(),
                completeness_error=integral.error.float(),
                used={"steps_used": integral.points.tolist(), "rules_used": integral.rules},
            ).with_values(batch.questions[b], value[b])
        )
    return results


def _whole(decoder: Tensor, work: Work, batch: Batch, b: int) -> Tensor:
    """Scores of the decoder inputs that matter -> of all of them."""
    return torch.nn.functional.pad(decoder, (0, len(batch.questions[b].targets) - decoder.shape[1]))


def _node_scores(
    work: Work, settings: PathSettings, batch: Batch, points: Tensor, columns: Columns
) -> list[Tensor]:
    """Gradient times difference at points of the path, summed over the width.

    Returns:
        For each generation [columns, points, source + target].
    """
    count, source, target = len(columns), batch.source.shape[1], batch.target.shape[1]
    graph = graph_row_bytes(work.model, source, target)
    rows = rows_within(work.budget // 2, count * graph, settings.rows)
    parts = [
        part
        for _, part in in_chunks(
            len(points), rows, lambda part: _chunk(work, batch, points[part].to(batch.source), columns)
        )
    ]
    scores = torch.cat(parts, dim=2)  # [columns, batch, points, source + target]
    return [scores[: len(columns[b]), b] for b in range(count)]


def _chunk(work: Work, batch: Batch, points: Tensor, columns: Columns) -> Tensor:
    """[columns, batch, points, source + target] of a few points."""
    n = len(points)
    path = [
        (base[:, None] + points[None, :, None, None] * (full - base)[:, None]).flatten(0, 1).requires_grad_()
        for base, full in (
            (batch.source_baseline, batch.source),
            (batch.target_baseline, batch.target),
        )
    ]
    with torch.enable_grad():
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
