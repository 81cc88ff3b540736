"""Forward mode: the derivative of every output position along one direction, for about two forward passes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from explain.attribution.gradients.batch import Batch
from explain.model import Seq2Seq
from explain.model.attention import Tap, tapped


@contextmanager
def _quiet() -> Iterator[None]:
    # torch's own forward-mode rules are loaded at their first use, with a part of torch that it deprecates.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is", category=DeprecationWarning)
        yield


@contextmanager
def forward_mode(model: Seq2Seq) -> Iterator[None]:
    """Inside, tensors may carry tangents through the model."""
    # Fused attention has no forward mode; our own function computes it step by step.
    with torch.no_grad(), tapped(model.hf, Tap({}, {})), _quiet(), forward_ad.dual_level():
        yield


def tangent_of(tensor: Tensor) -> Tensor:
    """How fast a tensor changes, inside `forward_mode`; zeros where it depends on nothing that changes."""
    tangent = forward_ad.unpack_dual(tensor).tangent
    return torch.zeros_like(tensor) if tangent is None else tangent


def slopes(batch: Batch, points: Tensor) -> Tensor:
    """The objective's derivatives along the whole path at points [n] of it: [batch, n, rows]."""
    changes = batch.source - batch.source_baseline, batch.target - batch.target_baseline
    with forward_mode(batch.model):
        dual = [
            forward_ad.make_dual(at, change.repeat_interleave(len(points), dim=0))
            for at, change in zip(batch.on_path(points, points), changes, strict=True)
        ]
        return tangent_of(batch.values(*dual))


def slopes_by_side(
    batch: Batch,
    source: Tensor,  # [batch · n, source, width]
    target: Tensor,  # [batch · n, target, width]
    source_change: Tensor,  # like source
    target_change: Tensor,  # like target
) -> Tensor:
    """The objective's derivatives along the source's and along the target's change: [batch, n, rows, 2].

    One pass of the encoder and one of the decoder for each side serve all output positions, whatever their
    number: what changes in the target does not reach the encoder.
    """
    count = len(batch.questions)
    with forward_mode(batch.model):
        dual = batch.states(forward_ad.make_dual(source, source_change))
        states, moving = forward_ad.unpack_dual(dual).primal, tangent_of(dual)

        def beside(first: Tensor, second: Tensor) -> Tensor:
            """Two versions of every row, those of a generation together: [batch · 2n, ...]."""
            parts = [part.unflatten(0, (count, -1)) for part in (first, second)]
            return torch.cat(parts, dim=1).flatten(0, 1)

        both = batch.values_from(
            forward_ad.make_dual(beside(states, states), beside(moving, torch.zeros_like(moving))),
            forward_ad.make_dual(
                beside(target, target), beside(torch.zeros_like(target), target_change.expand_as(target))
            ),
        )
        slopes = tangent_of(both)  # [batch, 2n, rows]
    return slopes.unflatten(1, (2, -1)).permute(0, 2, 3, 1)
