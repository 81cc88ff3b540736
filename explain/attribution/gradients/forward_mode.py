"""Forward mode: the derivative of every output position along one direction, for about two forward passes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from explain.attribution.gradients.batch import Batch
from explain.model.attention import Tap, tapped


@contextmanager
def _quiet() -> Iterator[None]:
    # torch's own forward-mode rules are loaded at their first use, with a part of torch that it deprecates.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is", category=DeprecationWarning)
        yield


@torch.no_grad()
def derivatives(
    batch: Batch,
    source: Tensor,  # [batch · n, source, width]
    target: Tensor,  # [batch · n, target, width]
    source_direction: Tensor,  # like source
    target_direction: Tensor,  # like target
) -> Tensor:
    """The objective's directional derivative at every row: [batch, n, rows].

    One pass serves all output positions, whatever their number; only the direction costs.
    """
    # Fused attention has no forward mode; our own function computes it step by step.
    with tapped(batch.model.hf, Tap({}, {})), _quiet(), forward_ad.dual_level():
        values = batch.values(
            forward_ad.make_dual(source, source_direction), forward_ad.make_dual(target, target_direction)
        )
        tangent = forward_ad.unpack_dual(values).tangent
    return torch.zeros_like(values) if tangent is None else tangent
