"""Rollout: what every layer mixes, multiplied up to the inputs of encoder and decoder."""

from __future__ import annotations

import torch
from torch import Tensor


def rollout(encoder: Tensor, decoder: Tensor, cross: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the inputs in the decoder's last states, from how much each block mixes of its inputs.

    A row says of which inputs a block's output at that position is made, and adds up to 1:

        E ← encoder_l · E                                   encoder, from E = I
        D ← residual_l ⊙ (decoder_l · D) + cross_l · [E 0]  decoder, from D = [0 I] over source and prefix

    Args:
        encoder: [layer, source, source], self-attention with its residual connection.
        decoder: [layer, target, target], the same of the decoder; position 0 is the decoder start.
        cross: [layer, target, source], cross-attention without its residual connection.
        residual: [layer, target], the residual connection of cross-attention; with `cross` it adds up to 1.

    Returns:
        Shares of the source [target, source] and of the decoder's inputs [target, target].

    Abnar & Zuidema 2020 (arXiv:2005.00928); with a prefix as in Ferrando et al. 2022 (arXiv:2205.11631).
    """
    states = torch.eye(encoder.shape[-1], dtype=encoder.dtype, device=encoder.device)
    for layer in encoder:
        states = layer @ states
    source = torch.zeros_like(cross[0])
    prefix = torch.eye(decoder.shape[-1], dtype=decoder.dtype, device=decoder.device)
    for own, other, kept in zip(decoder, cross, residual, strict=True):
        source = kept[:, None] * (own @ source) + other @ states
        prefix = kept[:, None] * (own @ prefix)
    return source, prefix
