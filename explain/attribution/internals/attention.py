"""Methods that read the model's own attention: as it is, and rolled out over the layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from explain.attribution.inputs import split_prefix
from explain.attribution.internals.rollout import rollout
from explain.attribution.internals.states import (
    States,
    chosen,
    decoder_layers,
    require_batch_size,
    states_of,
)
from explain.attribution.registry import Method, Scores, Work
from explain.model.families import layers
from explain.options import choice

REDUCTIONS = ("mean", "max")


def _require_reduction(name: str, value: str) -> None:
    if value not in REDUCTIONS:
        raise ValueError(f"{name}={value!r} is neither 'mean' nor 'max'")


def reduced(tensor: Tensor, over: str) -> Tensor:
    """The mean or the maximum over the first dimension."""
    return tensor.mean(0) if over == "mean" else tensor.amax(0)


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """Which decoder layers and heads to look at; None means all. Negative layers count from the end.

    `over_heads` and `over_layers` reduce by `mean` or `max`, heads first.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    over_heads: str = choice("mean", REDUCTIONS)
    over_layers: str = choice("mean", REDUCTIONS)
    batch_size: int = 16

    def __post_init__(self) -> None:
        _require_reduction("over_heads", self.over_heads)
        _require_reduction("over_layers", self.over_layers)
        require_batch_size(self.batch_size)


def _attention(work: Work, settings: AttentionSettings) -> list[Scores]:
    wanted = decoder_layers(work.model, settings.layers)
    names = {kind: [f"decoder.{i}.{kind}.pattern" for i in wanted] for kind in ("cross", "self")}
    results: dict[int, Scores] = {}
    for states in states_of(work, [*names["cross"], *names["self"]], settings.batch_size):
        source = _reduced_pattern(states, names["cross"], settings)  # [target, source]
        prefix, start = split_prefix(_reduced_pattern(states, names["self"], settings))
        results[states.index] = states.scores(source, prefix, start)
    return [results[i] for i in range(len(results))]


def _reduced_pattern(states: States, names: list[str], settings: AttentionSettings) -> Tensor:
    """Attention over the chosen layers and heads: [query, key]."""
    patterns = [states[name].float() for name in names]  # [head, query, key] each
    heads = chosen("heads", settings.heads, len(patterns[0]))
    if settings.heads is not None:
        patterns = [pattern[heads] for pattern in patterns]
    by_layer = torch.stack([reduced(pattern, settings.over_heads) for pattern in patterns])
    return reduced(by_layer, settings.over_layers)


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """`residual` is the share of a block's output that its residual connection brings: 0.5 in the paper."""

    residual: float = 0.5
    over_heads: str = choice("mean", REDUCTIONS)
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.residual < 1:
            raise ValueError(f"residual={self.residual} must be at least 0 and below 1")
        _require_reduction("over_heads", self.over_heads)
        require_batch_size(self.batch_size)


def _attention_rollout(work: Work, settings: RolloutSettings) -> list[Scores]:
    model = work.model
    depth = {"encoder": len(layers(model.hf, model.family.encoder))}
    depth["decoder"] = len(layers(model.hf, model.family.decoder))
    blocks = (("encoder", "self"), ("decoder", "self"), ("decoder", "cross"))
    names = {
        (side, kind): [f"{side}.{i}.{kind}.pattern" for i in range(depth[side])] for side, kind in blocks
    }
    results: dict[int, Scores] = {}
    for states in states_of(work, [name for group in names.values() for name in group], settings.batch_size):
        encoder, decoder, cross = (_mixing(states, names[block], settings) for block in blocks)
        kept = settings.residual
        source, prefix = rollout(
            kept * torch.eye(encoder.shape[-1], device=encoder.device) + (1 - kept) * encoder,
            kept * torch.eye(decoder.shape[-1], device=decoder.device) + (1 - kept) * decoder,
            (1 - kept) * cross,
            torch.full(cross.shape[:2], kept, device=cross.device),
        )
        results[states.index] = states.scores(source, *split_prefix(prefix))
    return [results[i] for i in range(len(results))]


def _mixing(states: States, names: list[str], settings: RolloutSettings) -> Tensor:
    """Attention [layer, query, key] over all heads; its rows add up to 1."""
    mixing = torch.stack([reduced(states[name].float(), settings.over_heads) for name in names])
    return mixing / mixing.sum(-1, keepdim=True)


METHODS = (
    Method(
        name="attention",
        label="Attention",
        kind="internals",
        signed=False,
        objective=False,
        contrast=False,
        completeness=False,
        paper="Bahdanau et al. 2015, arXiv:1409.0473",
        reads="Where the decoder looked while it wrote the token, averaged over layers and heads (0: nowhere "
        "near): the source scores of a row (cross-attention) add up to 1, and so do prefix and decoder start "
        "(self-attention).",
        settings=AttentionSettings,
        run=_attention,
    ),
    Method(
        name="attention_rollout",
        label="Attention rollout",
        kind="internals",
        signed=False,
        objective=False,
        contrast=False,
        completeness=False,
        paper="Abnar & Zuidema 2020, arXiv:2005.00928",
        reads="The share of the token's last hidden state that flowed from an input token along all paths of "
        "attention and residual connections; a row's scores over source, prefix and start add up to 1, and 0 "
        "means that no path leads there.",
        settings=RolloutSettings,
        run=_attention_rollout,
    ),
)
