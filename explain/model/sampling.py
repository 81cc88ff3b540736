"""What sampling makes of a distribution: temperature, top-k and top-p on logits that are there already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from explain.model.controls import Controls
from explain.options import checked


def reshaped(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The log-probabilities that sampling draws from: temperature, then top-k, then top-p.

    Softmax of `logits / temperature`, of which only the `top_k` most likely tokens stay, and of those the
    most likely whose probabilities reach `top_p` together (Holtzman 2020, "The curious case of neural text
    degeneration"); in the order in which `generate` does it, by the same functions.

    Args:
        logits: float [..., vocabulary]; log-probabilities will do, they differ from logits by a constant.
        temperature: below 1 is bolder, above 1 wilder.
        top_k: how many tokens stay; 0 is no limit.
        top_p: how much probability stays; 1 is no limit.

    Returns:
        Float [..., vocabulary] in nats; `-inf` where a token is cut off.

    Raises:
        InputError: a value out of range.
    """
    wanted = checked(
        Controls, {"temperature": temperature, "top_k": top_k, "top_p": top_p}, "sampling control"
    )
    rows = logits.detach().float().reshape(-1, logits.shape[-1])
    if wanted.temperature != 1:
        rows = TemperatureLogitsWarper(wanted.temperature)(_NO_IDS, rows)
    if wanted.top_k:
        rows = TopKLogitsWarper(wanted.top_k)(_NO_IDS, rows)
    if wanted.top_p < 1:
        rows = TopPLogitsWarper(wanted.top_p)(_NO_IDS, rows)
    return rows.log_softmax(-1).reshape(logits.shape)


def entropy_of(log_probs: Tensor) -> Tensor:
    """The entropy [...] in nats of log-probabilities [..., vocabulary]; 0 is no doubt at all."""
    # -inf · 0 is nan; a probability of 0 adds nothing to the entropy.
    return (-(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1)).clamp_min(0.0)


# The warpers ask for ids that they do not look at.
_NO_IDS: Any = torch.empty(0, dtype=torch.long)
