"""Attention blocks taken apart: what each position adds to the output of another.

A block computes out_i = Σ_j Σ_h pattern[h, i, j] f^h(x_j) + bias, with f^h(x) = (x W_V^h + b_V^h) W_O^h, then
adds its input and, where norms come after the blocks, normalises. Everything here follows from that sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explain.attribution.internals.states import States
from explain.attribution.memory import in_chunks, rows_within
from explain.model import Seq2Seq
from explain.model.families import Side, layers, submodule


@dataclass(frozen=True, eq=False)
class Block:
    """One attention block of one generation.

    Attributes:
        pattern: [head, query, key].
        vectors: f^h(x_j), what a head passes on from a position if it looks nowhere else,
            [head, key, width].
        residual: the block's input, before a norm that stands in front of it, [query, width].
        total: input plus output of the block, [query, width].
        output: what leaves the block, [query, width]: `total`, or its norm where that comes after.
        norm: the layer norm after the block, or None.
        across: whether the keys are the source, and the residual is none of them (cross-attention).
    """

    pattern: Tensor
    vectors: Tensor
    residual: Tensor
    total: Tensor
    output: Tensor
    norm: nn.LayerNorm | None
    across: bool


def block_points(side: str, layer: int, kinds: tuple[str, ...]) -> list[str]:
    """The hook points that `blocks_of` reads."""
    before = f"{side}.embed" if layer == 0 else f"{side}.{layer - 1}.residual"
    order = ("self", "cross") if "cross" in kinds else ("self",)
    read = [f"{side}.{layer}.{kind}.{point}" for kind in kinds for point in ("pattern", "v")]
    return [before, *read, *(f"{side}.{layer}.{kind}.out" for kind in order)]


def blocks_of(
    model: Seq2Seq, states: States, side_name: str, layer: int, kinds: tuple[str, ...]
) -> dict[str, Block]:
    """The attention blocks of a layer by kind (`self`, `cross`), in float32."""
    side = model.family.encoder if side_name == "encoder" else model.family.decoder
    module = layers(model.hf, side)[layer]
    entering = states[f"{side_name}.embed" if layer == 0 else f"{side_name}.{layer - 1}.residual"]
    found = {}
    for kind in ("self", "cross") if "cross" in kinds else ("self",):
        norm = None if model.family.pre_norm else submodule(module, _norm_path(side, kind))
        total = entering + states[f"{side_name}.{layer}.{kind}.out"]
        output = total if norm is None else norm(total)
        if kind in kinds:
            name = f"{side_name}.{layer}.{kind}"
            found[kind] = Block(
                pattern=states[f"{name}.pattern"].float(),
                vectors=states[f"{name}.v"].float() @ projection(model, module, side, kind),
                residual=entering.float(),
                total=total.float(),
                output=output.float(),
                norm=norm if isinstance(norm, nn.LayerNorm) else None,
                across=kind == "cross",
            )
        entering = output
    return found


def _norm_path(side: Side, kind: str) -> str:
    path = side.self_norm if kind == "self" else side.cross_norm
    assert path is not None
    return path


def projection(model: Seq2Seq, layer: nn.Module, side: Side, kind: str) -> Tensor:
    """The output projection W_O of each head, without its bias: [head, head_dim, width]."""
    path = side.self_attention if kind == "self" else side.cross_attention
    attention = submodule(layer, str(path))
    linear = submodule(attention, model.family.output_projection)
    weight: Any = linear.weight
    if type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point():
        matrix = weight.T  # [inner, width]
    else:  # quantised: ask what it does to the unit vectors
        unit = torch.eye(int(linear.in_features), device=model.device)  # pyright: ignore[reportArgumentType]
        matrix = linear(unit) - linear(torch.zeros_like(unit))
    heads = getattr(attention, "n_heads", None) or attention.num_heads
    return matrix.detach().float().unflatten(0, (int(heads), -1))  # pyright: ignore[reportArgumentType]


def spread(norm: nn.LayerNorm, total: Tensor) -> Tensor:
    """The standard deviation that a layer norm divides by: [query, width] -> [query]."""
    return (total.var(-1, unbiased=False) + norm.eps).sqrt()


def centred(norm: nn.LayerNorm, vectors: Tensor) -> Tensor:
    """A layer norm without its division and bias, γ ⊙ (z − mean(z)): linear, so it goes into a sum."""
    return norm.weight.detach().float() * (vectors - vectors.mean(-1, keepdim=True))


def through_norm(block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Pattern, vectors and residual of a block as its norm lets them through.

    L(z) = γ ⊙ (z − mean(z)) / σ with the σ of the whole sum; without a norm after the block nothing changes.
    """
    if block.norm is None:
        return block.pattern, block.vectors, block.residual
    sigma = spread(block.norm, block.total)  # [query]
    return (
        block.pattern / sigma[:, None],
        centred(block.norm, block.vectors),
        centred(block.norm, block.residual) / sigma[:, None],
    )


def by_query(block: Block, query_bytes: int, budget: int, run: Callable[[slice], Tensor]) -> Tensor:
    """`run(queries) -> [queries, key]` over all queries in chunks of the budget: [query, key].

    `query_bytes` is the largest tensor that a query needs; `run` may hold a few of that size.
    """
    queries = block.pattern.shape[1]
    rows = rows_within(budget // 8, query_bytes, queries)
    return torch.cat([found for _, found in in_chunks(queries, rows, run)])


def weighted(pattern: Tensor, vectors: Tensor) -> Tensor:
    """T_ij = Σ_h pattern[h, i, j] f^h(x_j): [head, query, key], [head, key, width] -> [key, query, width].

    Keys come first because that makes it one matrix product per key.
    """
    return torch.bmm(pattern.permute(2, 1, 0), vectors.transpose(0, 1))


def on_diagonal(pattern: Tensor, vectors: Tensor) -> Tensor:
    """T_ii, what a position passes to itself: [query, width]."""
    return torch.einsum("hi,hid->id", pattern.diagonal(dim1=1, dim2=2), vectors)
