"""One attention function for every head of every family.

It is registered with transformers' attention interface under the name `explain`, computes what the `eager`
function computes, and lets the active taps read or replace q, k, v, scores, pattern and z on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from explain.model.families import all_modules

NAME = "explain"
POINTS = ("q", "k", "v", "scores", "pattern", "z")

PointFunction = Callable[[Tensor], Tensor]
# (q, k, v, pattern, scaling) -> z: mixes the values by the pattern, with gradients of its own.
Mixer = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Tap:
    """Functions to call inside attention: `sites` maps `id(module)` to a hook-point prefix.

    `mixers` replace, by prefix, the product of pattern and values.
    """

    sites: Mapping[int, str]
    functions: Mapping[str, PointFunction]
    mixers: Mapping[str, Mixer] = field(default_factory=dict)


# Which taps are active belongs to the running thread or task, never to the process.
_TAPS: ContextVar[tuple[Tap, ...]] = ContextVar("explain_taps", default=())


def attention(
    module: nn.Module,
    query: Tensor,  # [batch, head, query, head_dim]
    key: Tensor,  # [batch, head, key, head_dim]
    value: Tensor,  # [batch, head, key, head_dim]
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention with taps; the same numbers as transformers' eager function.

    Returns:
        The heads' outputs [batch, query, head, head_dim] and the pattern [batch, head, query, key].
    """
    taps = [(tap, tap.sites[id(module)]) for tap in _TAPS.get() if id(module) in tap.sites]

    def point(name: str, tensor: Tensor) -> Tensor:
        for tap, site in taps:
            function = tap.functions.get(f"{site}.{name}")
            if function is not None:
                tensor = function(tensor)
        return tensor

    query, key, value = point("q", query), point("k", key), point("v", value)
    scale: float = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    scores = point("scores", scores)  # [batch, head, query, key], masked keys at the dtype's minimum
    pattern = nn.functional.softmax(scores, dim=-1)
    pattern = point("pattern", nn.functional.dropout(pattern, p=dropout, training=module.training))
    mixer = next((tap.mixers[site] for tap, site in taps if site in tap.mixers), None)
    z = torch.matmul(pattern, value) if mixer is None else mixer(query, key, value, pattern, scale)
    z = point("z", z)  # [batch, head, query, head_dim]
    return z.transpose(1, 2).contiguous(), pattern


AttentionInterface.register(NAME, attention)
# Without a mask function of the same name transformers passes no mask at all, and logits are silently wrong.
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def tapped(hf: PreTrainedModel, tap: Tap) -> Iterator[None]:
    """Run the model's attention through `attention` with a tap; afterwards everything is as it was."""
    configs = {id(part.config): part.config for part in all_modules(hf) if isinstance(part, PreTrainedModel)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _TAPS.set((*_TAPS.get(), tap))
    try:
        if any(name != NAME for name in before.values()):
            hf.set_attn_implementation(NAME)
        yield
    finally:
        _TAPS.reset(token)
        for key, config in configs.items():
            # The internal name: the public setter also writes to sub-configs, which have rows of their own.
            config._attn_implementation_internal = before[key]
