"""Methods that take the attention blocks apart: norm-based attention and ALTI+."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from explain.attribution.inputs import split_prefix
from explain.attribution.internals.blocks import (
    Block,
    block_points,
    blocks_of,
    by_query,
    on_diagonal,
    through_norm,
    weighted,
)
from explain.attribution.internals.rollout import rollout
from explain.attribution.internals.states import (
    decoder_layers,
    normalised,
    require_batch_size,
    require_not_intervened,
    states_of,
)
from explain.attribution.registry import Method, Scores, Work
from explain.model.families import layers
from explain.options import choice

PARTS = ("attention", "residual", "norm")
# Between values and block output: an intervention there breaks the sum that the methods take apart.
_INSIDE = ("self.z", "self.out", "cross.z", "cross.out")


@dataclass(frozen=True, slots=True)
class NormAttentionSettings:
    """`part` says what is taken into account; `layers` are averaged (None: all, negative from the end).

    `attention`: the attention-weighted vectors; `residual`: with the residual connection, which counts for a
    position's own input; `norm`: with the layer norm after the block as well (the same as `residual` in
    families whose norms stand before the blocks). Each adds to the one before.
    """

    part: str = choice("attention", PARTS)
    layers: tuple[int, ...] | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part={self.part!r} is not one of {', '.join(PARTS)}")
        require_batch_size(self.batch_size)


def _norm_attention(work: Work, settings: NormAttentionSettings) -> list[Scores]:
    model = work.model
    require_not_intervened(model, "norm_attention", _INSIDE, ("decoder",))
    wanted = decoder_layers(model, settings.layers)
    kinds = ("self", "cross")
    names = dict.fromkeys(name for layer in wanted for name in block_points("decoder", layer, kinds))
    results: dict[int, Scores] = {}
    for states in states_of(work, list(names), settings.batch_size):
        found: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
        for layer in wanted:
            work.check()
            for kind, block in blocks_of(model, states, "decoder", layer, kinds).items():
                found[kind].append(normalised(norms(block, settings.part, work.budget)))
        source = torch.stack(found["cross"]).mean(0)  # [target, source]
        decoder = torch.stack(found["self"]).mean(0)  # [target, target]
        results[states.index] = states.scores(source, *split_prefix(decoder))
    return [results[i] for i in range(len(results))]


def norms(block: Block, part: str, budget: int) -> Tensor:
    """‖Σ_h pattern[h, i, j] f^h(x_j)‖ for every query i and key j: [query, key].

    With `part` "residual" the block's input is added to what a position passes to itself (self-attention
    only: the input of cross-attention is no source token); with "norm" all goes through the norm after the
    block, linearised. The output bias belongs to no position and is left out.

    Kobayashi et al. 2020 (arXiv:2004.10102) and 2021 (arXiv:2109.07152).
    """
    pattern, vectors, residual = block.pattern, block.vectors, block.residual
    if part == "norm":
        pattern, vectors, residual = through_norm(block)
    found = by_query(
        block,
        4 * pattern.shape[2] * vectors.shape[-1],
        budget,
        lambda rows: weighted(pattern[:, rows], vectors).norm(dim=-1).T,
    )
    if part != "attention" and not block.across:
        found.diagonal().copy_((on_diagonal(pattern, vectors) + residual).norm(dim=-1))
    return found


@dataclass(frozen=True, slots=True)
class AltiSettings:
    """`batch_size` generations go through the model at once; it does not change the result."""

    batch_size: int = 16

    def __post_init__(self) -> None:
        require_batch_size(self.batch_size)


def _alti(work: Work, settings: AltiSettings) -> list[Scores]:
    model = work.model
    require_not_intervened(model, "alti", _INSIDE, ("encoder", "decoder"))
    blocks = [("encoder", layer, ("self",)) for layer in range(len(layers(model.hf, model.family.encoder)))]
    blocks += [
        ("decoder", layer, ("self", "cross")) for layer in range(len(layers(model.hf, model.family.decoder)))
    ]
    names = dict.fromkeys(name for block in blocks for name in block_points(*block))
    results: dict[int, Scores] = {}
    for states in states_of(work, list(names), settings.batch_size):
        found: dict[str, list[tuple[Tensor, Tensor]]] = {"encoder": [], "self": [], "cross": []}
        for side, layer, kinds in blocks:
            for kind, block in blocks_of(model, states, side, layer, kinds).items():
                work.check()
                found[side if side == "encoder" else kind].append(contributions(block, work.budget))
        encoder, decoder, cross = (
            torch.stack([mixing for mixing, _ in found[kind]]) for kind in ("encoder", "self", "cross")
        )
        kept = torch.stack([residual for _, residual in found["cross"]])
        source, prefix = rollout(encoder, decoder, cross, kept)
        results[states.index] = states.scores(source, *split_prefix(prefix))
    return [results[i] for i in range(len(results))]


def contributions(block: Block, budget: int) -> tuple[Tensor, Tensor]:
    """How much of each block output y_i is explained by what each position passed to it.

    c_ij ∝ max(0, ‖y_i‖₁ − ‖y_i − T_ij‖₁), where T_ij is Σ_h pattern[h, i, j] f^h(x_j) through the norm after
    the block (linearised), and the residual connection counts for the position itself.

    Returns:
        Contributions of the keys [query, key] and of a residual that is none of them [query] (that of
        cross-attention; 0 for self-attention). Together a row adds up to 1.

    Ferrando et al. 2022, arXiv:2203.04212 and arXiv:2205.11631.
    """
    pattern, vectors, residual = through_norm(block)
    size = block.output.norm(p=1, dim=-1)  # ‖y_i‖₁, [query]

    def explained(rows: slice) -> Tensor:
        away = weighted(-pattern[:, rows], vectors).add_(block.output[rows])  # y − T, [key, query, width]
        return size[rows, None] - away.norm(p=1, dim=-1).T

    found = by_query(block, 4 * pattern.shape[2] * vectors.shape[-1], budget, explained)
    own = residual if block.across else residual + on_diagonal(pattern, vectors)  # [query, width]
    own = (size - (block.output - own).norm(p=1, dim=-1)).clamp_min(0)
    # Where no head looks nothing is passed on, whatever rounding says.
    found = torch.where((pattern != 0).any(0), found.clamp_min(0), 0)
    if not block.across:
        found.diagonal().copy_(own)
        own = torch.zeros_like(own)
    total = found.sum(-1) + own
    # Vectors that only cancel each other out explain nothing beyond rounding: the position counts as unmixed.
    empty = total <= 1e-6 * size
    found = torch.where(empty[:, None], 0, found)
    if block.across:
        own = torch.where(empty, 1, own)
    else:
        found.diagonal().masked_fill_(empty, 1)
    total = torch.where(empty, 1, total)
    return found / total[:, None], own / total


METHODS = (
    Method(
        name="norm_attention",
        label="Norm-based attention",
        kind="internals",
        signed=False,
        objective=False,
        contrast=False,
        completeness=False,
        paper="Kobayashi et al. 2020, arXiv:2004.10102; 2021, arXiv:2109.07152",
        reads="Length of the vector that attention brought from the token, as a share of its row, averaged "
        "over layers: the source scores of a row add up to 1, and so do prefix and decoder start; 0 means "
        "that nothing was brought.",
        settings=NormAttentionSettings,
        run=_norm_attention,
    ),
    Method(
        name="alti",
        label="ALTI+",
        kind="internals",
        signed=False,
        objective=False,
        contrast=False,
        completeness=False,
        paper="Ferrando et al. 2022, arXiv:2205.11631",
        reads="The share of the token's last hidden state that the input token explains, through all layers; "
        "a row's scores over source, prefix and decoder start add up to 1, and 0 means no part in it.",
        settings=AltiSettings,
        run=_alti,
    ),
)
