"""Value zeroing: how far a layer's output turns when one position's value vectors are taken away.

Taking v_j away changes the output of an attention block by −Σ_h pattern[h, i, j] v_j^h W_O^h, so the block
itself is never run again: only what follows in the layer is, for those positions that the change reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explain.attribution.inputs import split_prefix
from explain.attribution.internals.blocks import Block, block_points, blocks_of, by_query, weighted
from explain.attribution.internals.rollout import rollout
from explain.attribution.internals.states import (
    States,
    decoder_layers,
    normalised,
    require_batch_size,
    require_not_intervened,
    states_of,
)
from explain.attribution.registry import Method, Scores, Work
from explain.model import Seq2Seq
from explain.model.attention import Tap, tapped
from explain.model.families import Side, layers, submodule
from explain.options import choice

OVER_LAYERS = ("mean", "rollout")
RESIDUAL = 0.5
# What the rest of a layer computes anew: interventions there would have to be called at every change.
_INSIDE = (
    "self.z",
    "self.out",
    *(f"cross.{point}" for point in ("q", "k", "v", "scores", "pattern", "z", "out")),
    "mlp.hidden",
    "mlp.out",
    "residual",
)


@dataclass(frozen=True, slots=True)
class ValueZeroingSettings:
    """`over_layers` is `mean` over `layers` (None: all, negative from the end) or `rollout` through all.

    `mean` takes the source from cross-attention and the prefix from the decoder's self-attention; `rollout`
    combines both with the encoder's, and `residual` is the share of a layer's output that it gives to the
    position itself, as in attention rollout (0: distances alone). Scores below `threshold` before rows are
    normalised count as 0.
    """

    over_layers: str = choice("mean", OVER_LAYERS)
    layers: tuple[int, ...] | None = None
    threshold: float = 0.0
    residual: float = RESIDUAL
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.over_layers not in OVER_LAYERS:
            raise ValueError(f"over_layers={self.over_layers!r} is not one of {', '.join(OVER_LAYERS)}")
        if self.over_layers == "rollout" and self.layers is not None:
            raise ValueError("over_layers='rollout' goes through all layers; leave layers out")
        if not 0 <= self.threshold < 2:
            raise ValueError(f"threshold={self.threshold} must be at least 0 and below 2")
        if not 0 <= self.residual < 1:
            raise ValueError(f"residual={self.residual} must be at least 0 and below 1")
        if self.over_layers == "mean" and self.residual != RESIDUAL:
            raise ValueError("residual belongs to over_layers='rollout'; leave it out")
        require_batch_size(self.batch_size)


def _value_zeroing(work: Work, settings: ValueZeroingSettings) -> list[Scores]:
    model = work.model
    sides = ("encoder", "decoder") if settings.over_layers == "rollout" else ("decoder",)
    require_not_intervened(model, "value_zeroing", _INSIDE, sides)
    encoder_depth = len(layers(model.hf, model.family.encoder))
    wanted = decoder_layers(model, settings.layers)
    names = [f"encoder.{encoder_depth - 1}.residual"]
    for layer in wanted:
        names += [*block_points("decoder", layer, ("self", "cross")), f"decoder.{layer}.residual"]
    if settings.over_layers == "rollout":
        for layer in range(encoder_depth):
            names += [*block_points("encoder", layer, ("self",)), f"encoder.{layer}.residual"]
    results: dict[int, Scores] = {}
    with torch.no_grad():
        for states in states_of(work, list(dict.fromkeys(names)), settings.batch_size):
            found = {"encoder": [], "self": [], "cross": []}  # [query, key] per layer
            if settings.over_layers == "rollout":
                for layer in range(encoder_depth):
                    found["encoder"].append(_zeroed(work, states, "encoder", layer)["self"])
            for layer in wanted:
                for kind, distances in _zeroed(work, states, "decoder", layer).items():
                    found[kind].append(distances)
            kept = {
                kind: torch.where(x >= settings.threshold, x, 0)
                for kind, x in ((kind, torch.stack(group)) for kind, group in found.items() if group)
            }
            averaged = settings.over_layers == "mean"
            source, decoder = _averaged(kept) if averaged else _rolled_out(kept, settings.residual)
            results[states.index] = states.scores(source, *split_prefix(decoder))
    return [results[i] for i in range(len(results))]


def _averaged(found: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Source [target, source] from cross-attention, decoder inputs [target, target] from self-attention."""
    return normalised(found["cross"]).mean(0), normalised(found["self"]).mean(0)


def _rolled_out(found: dict[str, Tensor], residual: float) -> tuple[Tensor, Tensor]:
    """The same through all layers.

    Zeroing in self- and in cross-attention moves the same output of the layer, so their distances are
    comparable and share a row. What stays when a value is taken away moves nothing: distances tell little of
    what a position keeps of itself, which is why every row gets `residual` of the identity.
    """
    encoder, own, cross = found["encoder"], found["self"], found["cross"]  # [layer, query, key] each
    decoder = normalised(torch.cat([own, cross], dim=-1))
    own, cross = decoder[..., : own.shape[-1]], decoder[..., own.shape[-1] :]
    # A row that nothing moves counts as unmixed.
    still = decoder.sum(-1, keepdim=True) == 0
    own = _with_identity(torch.where(still, _identity(own), own), residual)
    encoder = normalised(encoder)
    encoder = torch.where(encoder.sum(-1, keepdim=True) == 0, _identity(encoder), encoder)
    return rollout(_with_identity(encoder, residual), normalised(own), (1 - residual) * cross, own.sum(-1))


def _with_identity(shares: Tensor, residual: float) -> Tensor:
    return residual * _identity(shares) + (1 - residual) * shares


def _identity(shares: Tensor) -> Tensor:
    return torch.eye(shares.shape[-1], device=shares.device)


def _zeroed(work: Work, states: States, side_name: str, layer: int) -> dict[str, Tensor]:
    """Distances [query, key] per kind of attention in one layer."""
    model = work.model
    rest = Rest.of(model, states, side_name, layer)
    clean = rest.final(states[f"{side_name}.{layer}.residual"])  # [query, width]
    kinds = ("self", "cross") if side_name == "decoder" else ("self",)
    blocks = blocks_of(model, states, side_name, layer, kinds)
    found = {}
    for kind, block in blocks.items():
        after = rest.after_cross if kind == "cross" or side_name == "encoder" else rest.after_self
        # Without a tap the attention function is the plain one, and needs no mask for one generation.
        with tapped(model.hf, Tap({}, {})):
            found[kind] = distances(block, clean, after, rest.bytes_per_row, work.budget, work.check)
    return found


def distances(
    block: Block,
    clean: Tensor,
    after: Callable[[Tensor], Tensor],
    bytes_per_row: int,
    budget: int,
    check: Callable[[], None],
) -> Tensor:
    """1 − cos(h_i, h_i without v_j) for every query i and key j: [query, key].

    Args:
        block: the attention block whose values are zeroed, all heads at once.
        clean: the layer's output h, [query, width].
        after: the rest of the layer, from input plus output of the block [row, width] to its own output.
        bytes_per_row: what `after` needs for a row.
        budget: memory in bytes.
        check: called between chunks.

    Mohebbi et al. 2023, aclanthology 2023.eacl-main.245.
    """
    keys = block.pattern.shape[2]
    unit = nn.functional.normalize(clean.float(), dim=-1)
    reached = (block.pattern != 0).any(0)  # [query, key]; the others cannot change

    def turned(rows: slice) -> Tensor:
        check()
        changed = weighted(-block.pattern[:, rows], block.vectors).add_(block.total[rows])
        chosen = reached[rows].T  # [key, query]
        output = after(changed[chosen].to(clean.dtype)).float()  # [row, width]
        # ½‖a − b‖² of unit vectors is 1 − cos without the cancellation.
        away = nn.functional.normalize(output, dim=-1) - unit[rows].expand(keys, -1, -1)[chosen]
        found = torch.zeros(chosen.shape, device=clean.device)
        found[chosen] = away.square().sum(-1) / 2
        return found.T

    return by_query(block, keys * bytes_per_row, budget, turned)


@dataclass(frozen=True, eq=False)
class Rest:
    """What follows an attention block within its layer; every function maps rows [row, width] to the same.

    Attributes:
        model: the model.
        side: its encoder or decoder.
        layer: the layer.
        states: the encoder's output [source, width] (for cross-attention).
        last: whether the stack's final norm follows the layer.
    """

    model: Seq2Seq
    side: Side
    layer: nn.Module
    states: Tensor
    last: bool

    @classmethod
    def of(cls, model: Seq2Seq, states: States, side_name: str, layer: int) -> Rest:
        """The rest of a layer of the encoder or decoder."""
        family = model.family
        side = family.encoder if side_name == "encoder" else family.decoder
        depth = len(layers(model.hf, family.encoder))
        source = states[f"encoder.{depth - 1}.residual"]
        if family.encoder.final_norm is not None:
            source = submodule(model.hf, f"{family.encoder.stack}.{family.encoder.final_norm}")(source)
        stack = layers(model.hf, side)
        return cls(model, side, stack[layer], source, layer == len(stack) - 1)

    @property
    def bytes_per_row(self) -> int:
        """Memory for one row: the feed-forward network's inside, attention over the source, a few states."""
        inner = int(submodule(self.layer, self.side.mlp_out).in_features)  # pyright: ignore[reportArgumentType]
        source, width = self.states.shape
        heads = int(self.model.hf.config.num_attention_heads)
        return 4 * (3 * inner + 6 * width + (3 * heads * source if self.side.cross_attention else 0))

    def after_self(self, total: Tensor) -> Tensor:
        """The decoder layer's output from input plus output of its self-attention."""
        module = self.layer

        def cross(rows: Tensor) -> Tensor:
            # A row needs only itself and the source, so rows of all kinds are queries of one sequence.
            attention = submodule(module, str(self.side.cross_attention))
            return attention(rows[None], key_value_states=self.states[None])[0][0]

        return self.after_cross(
            self._added(self._norm(total, self.side.self_norm), cross, self.side.cross_norm)
        )

    def after_cross(self, total: Tensor) -> Tensor:
        """The layer's output from input plus output of its last attention block."""
        last_norm = self.side.cross_norm or self.side.self_norm

        def mlp(rows: Tensor) -> Tensor:
            for path in self.side.mlp:
                rows = submodule(self.layer, path)(rows)
            return rows

        total = self._added(self._norm(total, last_norm), mlp, self.side.mlp_norm)
        return self.final(self._norm(total, self.side.mlp_norm))

    def final(self, output: Tensor) -> Tensor:
        """The layer's output through the stack's final norm, where it is the last layer and there is one."""
        if not self.last or self.side.final_norm is None:
            return output
        return submodule(self.model.hf, f"{self.side.stack}.{self.side.final_norm}")(output)

    def _norm(self, total: Tensor, path: str) -> Tensor:
        """The norm that stands after a block, where norms do."""
        return total if self.model.family.pre_norm else submodule(self.layer, path)(total)

    def _added(self, rows: Tensor, block: Callable[[Tensor], Tensor], path: str | None) -> Tensor:
        """Rows plus a block's output for them, which a norm stands before where norms do."""
        return rows + block(submodule(self.layer, str(path))(rows) if self.model.family.pre_norm else rows)


METHODS = (
    Method(
        name="value_zeroing",
        label="Value zeroing",
        kind="internals",
        signed=False,
        objective=False,
        contrast=False,
        completeness=False,
        paper="Mohebbi et al. 2023, aclanthology 2023.eacl-main.245",
        reads="How far a layer's output turns (1 − cosine) when the token's value vectors are taken away, as "
        "a share of its row: the source scores add up to 1, and so do prefix and decoder start (with rollout "
        "all of them together); 0 means that the output stays as it is.",
        settings=ValueZeroingSettings,
        run=_value_zeroing,
    ),
)
