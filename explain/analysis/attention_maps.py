"""Attention as people look at it: the maps of one side averaged, rolled out over layers, between words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from explain.attribution.internals.rollout import rollout
from explain.errors import InputError, UnknownNameError
from explain.results import Generation, Token, group_sentences, group_words
from explain.results.tokens import merge_tokens

Side = Literal["cross", "encoder", "decoder"]
SIDES: dict[str, str] = {
    "cross": "decoder.*.cross.pattern",
    "encoder": "encoder.*.self.pattern",
    "decoder": "decoder.*.self.pattern",
}
"""What each side is captured from."""

OVER = ("mean", "max")
_GROUPS = {"word": group_words, "sentence": group_sentences}


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The attention of one side of a model over one output, and whose rows and columns it is.

    Attributes:
        side: `cross`, `encoder` or `decoder`.
        patterns: float [head, query, key] for each layer; a row adds up to 1.
        queries: what looks: source tokens in the encoder, else output tokens, each at the position that
            writes it.
        keys: what is looked at: source tokens, or the decoder start and the output before its last token.
        query_text: the text that the queries are the tokens of.
        key_text: the same for the keys.
        seen: bool [query, key], what a query can look at.
        level: what a row and a column stand for: `token`, `word` or `sentence`.
    """

    side: str
    patterns: tuple[Tensor, ...]
    queries: tuple[Token, ...]
    keys: tuple[Token, ...]
    query_text: str
    key_text: str
    seen: Tensor
    level: str = "token"

    @property
    def limit(self) -> float:
        """The largest weight of all."""
        return max((float(part.max()) for part in self.patterns if part.numel()), default=0.0)

    def chosen(self, layer: int | None = None, head: int | None = None, *, over: str = "mean") -> Tensor:
        """One map [query, key]: of a head, or the mean or maximum over heads, averaged over layers.

        None stands for all layers or all heads.

        Raises:
            UnknownNameError: there is no such reduction.
            InputError: there is no such layer or head.
        """
        _require_reduction(over)
        if layer is not None and not 0 <= layer < len(self.patterns):
            raise InputError(f"layer {layer} is none of the {len(self.patterns)} layers")
        parts = self.patterns if layer is None else (self.patterns[layer],)
        if head is not None and not all(0 <= head < len(part) for part in parts):
            raise InputError(f"head {head} is none of the {len(parts[0])} heads")
        rows = [_over_heads(part.float(), over) if head is None else part[head].float() for part in parts]
        return torch.stack(rows).mean(0)

    def at_level(self, level: str) -> AttentionMaps:
        """The same maps between words or sentences, or these where they are at that level.

        A row is the mean over the tokens of its group and a column the sum over those of its own, so that
        rows still add up to 1.

        Raises:
            InputError: there is no such level, or the maps are merged already.
        """
        if level == self.level:
            return self
        if level not in _GROUPS or self.level != "token":
            raise InputError(f"maps between {self.level}s cannot be shown by {level}")
        rows = _GROUPS[level](self.queries, self.query_text)
        columns = self._key_groups(level)
        return replace(
            self,
            patterns=tuple(grouped(part.float(), rows, columns) for part in self.patterns),
            queries=tuple(merge_tokens(self.queries, group, self.query_text) for group in rows),
            keys=tuple(merge_tokens(self.keys, group, self.key_text) for group in columns),
            seen=grouped(self.seen.float(), rows, columns) > 0,
            level=level,
        )

    def _key_groups(self, level: str) -> list[list[int]]:
        if self.side != "decoder":
            return _GROUPS[level](self.keys, self.key_text)
        # The decoder start is no part of the first sentence.
        inner = _GROUPS[level](self.keys[1:], self.key_text)
        return [[0], *([index + 1 for index in group] for group in inner)]


def attention_maps(patterns: Mapping[str, Tensor], generation: Generation, side: str) -> AttentionMaps:
    """The maps of one side from what was captured of an output.

    Args:
        patterns: [1, head, query, key] by hook point, as `Seq2Seq.capture(generation, SIDES[side])` gives.
        generation: the output that they were captured of.
        side: `cross`, `encoder` or `decoder`.

    Raises:
        UnknownNameError: there is no such side.
        InputError: the patterns are of another side or output.
    """
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    before, after = SIDES[side].split("*")
    names = [name for name in patterns if name.startswith(before) and name.endswith(after)]
    names.sort(key=lambda name: int(name.split(".")[1]))
    source, output = generation.source_tokens, generation.target_tokens
    queries = source if side == "encoder" else output
    keys = (generation.decoder_start, *output[:-1]) if side == "decoder" else source
    found = tuple(patterns[name][0] for name in names)
    shape = (len(queries), len(keys))
    if not found or any(tuple(part.shape[1:]) != shape for part in found):
        raise InputError(f"these patterns are not the {side} attention of this output")
    texts = generation.source_text, generation.target_text
    seen = torch.ones(shape, dtype=torch.bool)
    return AttentionMaps(
        side=side,
        patterns=found,
        queries=queries,
        keys=keys,
        query_text=texts[0] if side == "encoder" else texts[1],
        key_text=texts[1] if side == "decoder" else texts[0],
        seen=seen.tril() if side == "decoder" else seen,
    )


def rolled_out(
    encoder: AttentionMaps,
    decoder: AttentionMaps,
    cross: AttentionMaps,
    side: str,
    *,
    over: str = "mean",
    residual: float = 0.5,
) -> AttentionMaps:
    """The attention of one side multiplied up over its layers, with residual connections, as one map.

    The encoder's rows add up to 1: shares of its inputs in its last states. Of the decoder's last states the
    shares of the source (`cross`) and those of its own inputs (`decoder`) add up to 1 together.

    Args:
        encoder: the encoder's maps between tokens.
        decoder: the decoder's own.
        cross: those from output to source.
        side: which map is wanted: `cross`, `encoder` or `decoder`.
        over: how heads are reduced: `mean` or `max`.
        residual: the share that a residual connection brings, 0.5 in the paper.

    Raises:
        UnknownNameError: there is no such side or reduction.
        InputError: maps that are merged already.

    Paper: Abnar & Zuidema 2020, arXiv:2005.00928.
    """
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    _require_reduction(over)
    if any(maps.level != "token" for maps in (encoder, decoder, cross)):
        raise InputError("only maps between tokens can be rolled out; merge the result")
    around, own, source = (_mixing(maps, over) for maps in (encoder, decoder, cross))
    around, own = (residual * torch.eye(part.shape[-1]) + (1 - residual) * part for part in (around, own))
    if side == "encoder":
        shares = torch.eye(around.shape[-1])
        for layer in around:
            shares = layer @ shares
    else:
        kept = torch.full(source.shape[:2], residual)
        of_source, of_prefix = rollout(around, own, (1 - residual) * source, kept)
        shares = of_source if side == "cross" else of_prefix
    maps = {"encoder": encoder, "decoder": decoder, "cross": cross}[side]
    return replace(maps, patterns=(shares[None],))


def grouped(pattern: Tensor, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> Tensor:
    """A map [..., query, key] between groups: the mean over the queries of a group, the sum over its keys."""
    down = _indicator(rows, pattern.shape[-2])
    across = _indicator(columns, pattern.shape[-1])
    return (down / down.sum(1, keepdim=True)) @ pattern @ across.T


def _indicator(groups: Sequence[Sequence[int]], size: int) -> Tensor:
    """Which token is in which group, float [group, token]."""
    found = torch.zeros(len(groups), size)
    for place, group in enumerate(groups):
        found[place, list(group)] = 1
    return found


def _over_heads(pattern: Tensor, over: str) -> Tensor:
    return pattern.mean(0) if over == "mean" else pattern.amax(0)


def _mixing(maps: AttentionMaps, over: str) -> Tensor:
    """What each layer mixes, over all heads, [layer, query, key]; rows add up to 1."""
    found = torch.stack([_over_heads(part.float(), over) for part in maps.patterns])
    return found / found.sum(-1, keepdim=True)


def _require_reduction(over: str) -> None:
    if over not in OVER:
        raise UnknownNameError("reduction", over, OVER)
