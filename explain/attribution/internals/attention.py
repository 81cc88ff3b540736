"""Methods that read the model's own attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from explain.attribution.inputs import split_prefix
from explain.attribution.registry import Method, Scores, Work
from explain.errors import InputError
from explain.results import Capture


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """Which decoder layers and heads to average; None means all. Negative layers count from the end."""

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    batch_size: int = 16


def _attention(work: Work, settings: AttentionSettings) -> list[Scores]:
    captures = work.model.capture(
        list(work.generations),
        ["decoder.*.cross.pattern", "decoder.*.self.pattern"],
        batch_size=settings.batch_size,
        progress=lambda done, total: work.check(),
    )
    results = []
    for capture in captures:
        source = _mean(capture, "cross", settings)  # [target, source]
        prefix, start = split_prefix(_mean(capture, "self", settings))
        results.append(Scores(source, prefix, start))
        work.done(1)
    return results


def _mean(capture: Capture, kind: str, settings: AttentionSettings) -> Tensor:
    """Attention averaged over the chosen layers and heads: [query, key]."""
    names = [name for name in capture if f".{kind}.pattern" in name]
    patterns = torch.stack([capture[name][0].float() for name in names])  # [layer, head, query, key]
    chosen = _chosen("layers", settings.layers, patterns.shape[0])
    heads = _chosen("heads", settings.heads, patterns.shape[1])
    return patterns[chosen][:, heads].mean((0, 1))


def _chosen(name: str, wanted: tuple[int, ...] | None, count: int) -> list[int]:
    if wanted is None:
        return list(range(count))
    if not wanted:
        raise InputError(f"{name} is empty; name at least one, or leave it out for all")
    for index in wanted:
        if not -count <= index < count:
            raise InputError(f"{name} {index}: this model's decoder has {count} (0 to {count - 1})")
    return [index % count for index in wanted]


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
        reads="Where the decoder looked while it wrote the token, averaged over layers and heads: the source "
        "scores of a row (cross-attention) add up to 1, and so do prefix and decoder start (self-attention).",
        settings=AttentionSettings,
        run=_attention,
    ),
)
