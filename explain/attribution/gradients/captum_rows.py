"""Captum's classes over one pass that holds every output position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explain.attribution.gradients.batch import Batch, Columns, chosen, jacobian_rows
from explain.attribution.memory import backward_row_bytes, graph_row_bytes, rows_within
from explain.attribution.registry import Work

Explainer = Callable[[Callable[..., Tensor], Callable[..., Any]], Any]
"""(forward, gradient function) -> attributions of source and target, each [batch, columns, tokens, width]."""


def over_columns(
    work: Work, batch: Batch, explain: Explainer, reduce: Callable[[Tensor], Tensor], versions: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """Run a Captum class on as many rows of the questions at a time as fit the memory budget.

    Captum is given inputs [batch · n, 1, tokens, width] and gradients [batch · n, columns, tokens, width], so
    that its products of inputs and gradients broadcast over the columns.

    Args:
        work: what the method was given.
        batch: generations of like lengths.
        explain: calls the class.
        reduce: [..., width] -> [...], applied at once so that no gradient of full width is kept.
        versions: how many versions of each generation Captum will run at once.

    Returns:
        For each generation scores [rows, source + target], and the objective [rows] at the first version.
    """
    count, source, target = len(batch.questions), batch.source.shape[1], batch.target.shape[1]
    graph = count * versions * graph_row_bytes(work.model, source, target)
    row = count * versions * backward_row_bytes(work.model, source, target)
    size = rows_within(max(work.budget - graph, work.budget // 4), row, 64)
    most = max(len(question.spans) for question in batch.questions)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for begin in range(0, most, size):
        work.check()
        columns = [
            [list(range(begin, min(begin + size, len(question.spans))))] for question in batch.questions
        ]
        seen: list[Tensor] = []
        found = explain(_forward(batch, columns, seen), _gradients(size, work.check))
        source_scores, target_scores = (reduce(scores.detach().float()).cpu() for scores in found)
        parts.append((source_scores, target_scores, seen[0][:, 0]))
    results = []
    for b, question in enumerate(batch.questions):
        source_part, target_part, value = (
            torch.cat([part[side][b] for part in parts])[: len(question.spans)] for side in (0, 1, 2)
        )
        results.append((torch.cat([source_part, target_part], 1), value))
    return results


def _forward(batch: Batch, columns: Columns, seen: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def forward(source: Tensor, target: Tensor) -> Tensor:
        # Captum draws its noise in float32, whatever the inputs are.
        inputs = (side[:, 0].to(batch.source.dtype) for side in (source, target))
        values = chosen(batch.values(*inputs), columns)  # [batch, n, columns]
        seen.append(values.detach())
        return values

    return forward


def _gradients(size: int, check: Callable[[], None]) -> Callable[..., tuple[Tensor, ...]]:
    def gradient_func(
        forward_fn: Callable[..., Tensor], inputs: tuple[Tensor, ...], *_: Any, **__: Any
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            values = forward_fn(*inputs)
            chunks = jacobian_rows(values, inputs, size, check)
        # [columns, batch · n, 1, tokens, width] -> [batch · n, columns, tokens, width]
        return tuple(torch.cat(side).squeeze(2).transpose(0, 1) for side in zip(*chunks, strict=True))

    return gradient_func


def leaves(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs as Captum gets them: [batch, 1, tokens, width], asking for gradients."""
    return tuple(tensor[:, None].clone().requires_grad_() for tensor in inputs)


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Captum draws from the global generators of torch and NumPy: seed them, and put them back."""
    numpy_state = np.random.get_state()
    cuda = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
