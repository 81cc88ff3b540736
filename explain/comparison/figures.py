"""What two models are compared by: frozen figures, the same for the pair in question and for its floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from explain.evaluation import Estimate


class _Estimates:
    """Dataclasses whose fields are estimates: to a JSON object and back."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {name: getattr(self, name).to_dict() for name in _names(type(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the figures back from their JSON object."""
        return cls(**{name: Estimate.from_dict(data[name]) for name in _names(cls)})


def _names(cls: type) -> list[str]:
    return [each.name for each in fields(cls)]


@dataclass(frozen=True, slots=True)
class OutputChange(_Estimates):
    """How the outputs of two models differ.

    Attributes:
        agreement: share of sources for which both models write the same output; 1 is always.
        token_agreement: share of the forced target tokens at which both models' first choice is the same,
            given the tokens before; 1 is always.
        log_prob_change: of the forced target tokens, B's log-probability less A's, in nats; 0 is none.
        exact_match_a: share of A's outputs that are exactly right; nan without right outputs.
        exact_match_b: likewise of B's.
        exact_match_change: B's share less A's, of the same examples; 0 is none.
    """

    agreement: Estimate
    token_agreement: Estimate
    log_prob_change: Estimate
    exact_match_a: Estimate
    exact_match_b: Estimate
    exact_match_change: Estimate


@dataclass(frozen=True, slots=True)
class Drift(_Estimates):
    """How one method's maps of the same target tokens differ between two models.

    Attributes:
        top1: share of target tokens with the same strongest token, 0 to 1.
        topk_jaccard: tokens among the k strongest in both maps, over those in either, 0 to 1.
        weighted_tau: agreement of the order, -1 (reversed) to 1; unrelated maps are at about 0.
        chance_top1: `top1` of A's map and random scores.
        chance_topk: `topk_jaccard` of A's map and random scores.
        p_at_1_a: precision at 1 of A's maps against known answers; nan without any.
        p_at_1_b: likewise of B's, on the same target tokens.
        p_at_1_change: B's less A's; 0 is none.
    """

    top1: Estimate
    topk_jaccard: Estimate
    weighted_tau: Estimate
    chance_top1: Estimate
    chance_topk: Estimate
    p_at_1_a: Estimate
    p_at_1_b: Estimate
    p_at_1_change: Estimate


@dataclass(frozen=True, slots=True)
class ShareChange(_Estimates):
    """How much of a target token comes from the source, by integrated gradients; shares are 0 to 1.

    A share outside of that, where source and prefix pull in opposite directions, counts as 0 or 1. The first
    target token, which has no prefix, and special ones are left out.

    Attributes:
        a: A's mean share: 1 is all from the source, 0 all from the output so far.
        b: B's.
        change: B's share less A's, with its sign; 0 is none.
        moved: the same without its sign, so that moves to either side do not cancel.
    """

    a: Estimate
    b: Estimate
    change: Estimate
    moved: Estimate


@dataclass(frozen=True, slots=True)
class HeadPair:
    """Two heads of matched layers, by their index, and their divergence in bits."""

    a: int
    b: int
    divergence: Estimate


@dataclass(frozen=True, slots=True)
class BlockDivergence:
    """One attention block of A against the block of B at the same relative depth.

    Attributes:
        a: A's block, such as `decoder.1.cross`.
        b: B's.
        divergence: of the patterns averaged over heads, in bits.
        heads: A's heads with the most similar one of B, one to one; () where several pairs were pooled.
    """

    a: str
    b: str
    divergence: Estimate
    heads: tuple[HeadPair, ...]


@dataclass(frozen=True, slots=True)
class AttentionChange:
    """Jensen–Shannon divergence between attention patterns, in bits: 0 is the same, 1 nothing in common.

    Attributes:
        divergence: of the patterns averaged over a block's heads, mean over blocks.
        per_head: of single heads, each against its partner, mean over heads and blocks.
        blocks: by block of A, in the order of computation.
    """

    divergence: Estimate
    per_head: Estimate
    blocks: tuple[BlockDivergence, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {
            "unit": "bits",
            "divergence": self.divergence.to_dict(),
            "per_head": self.per_head.to_dict(),
            "blocks": [
                {
                    "a": block.a,
                    "b": block.b,
                    "divergence": block.divergence.to_dict(),
                    "heads": [
                        {"a": h.a, "b": h.b, "divergence": h.divergence.to_dict()} for h in block.heads
                    ],
                }
                for block in self.blocks
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the figures back from their JSON object."""
        return cls(
            Estimate.from_dict(data["divergence"]),
            Estimate.from_dict(data["per_head"]),
            tuple(
                BlockDivergence(
                    block["a"],
                    block["b"],
                    Estimate.from_dict(block["divergence"]),
                    tuple(
                        HeadPair(h["a"], h["b"], Estimate.from_dict(h["divergence"])) for h in block["heads"]
                    ),
                )
                for block in data["blocks"]
            ),
        )


@dataclass(frozen=True, slots=True)
class LayerSimilarity:
    """Linear CKA of A's residual stream after a layer and B's at the same relative depth; 1 is the same."""

    a: str
    b: str
    cka: Estimate

    def to_dict(self) -> dict[str, Any]:
        """The figure as a JSON object."""
        return {"a": self.a, "b": self.b, "cka": self.cka.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the figure back from its JSON object."""
        return cls(data["a"], data["b"], Estimate.from_dict(data["cka"]))


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one pair of models, or of several pairs pooled.

    Attributes:
        outputs: how the outputs differ.
        drift: by method, how its maps differ; a method that cannot explain one of the models is missing.
        attention: how the attention differs.
        source_share: how much of the output comes from the source, in either.
        cka: by layer, how alike the representations are.
    """

    outputs: OutputChange
    drift: Mapping[str, Drift]
    attention: AttentionChange
    source_share: ShareChange
    cka: tuple[LayerSimilarity, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {
            "outputs": self.outputs.to_dict(),
            "drift": {name: found.to_dict() for name, found in self.drift.items()},
            "attention": self.attention.to_dict(),
            "source_share": self.source_share.to_dict(),
            "cka": [layer.to_dict() for layer in self.cka],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the figures back from their JSON object."""
        return cls(
            OutputChange.from_dict(data["outputs"]),
            {name: Drift.from_dict(found) for name, found in data["drift"].items()},
            AttentionChange.from_dict(data["attention"]),
            ShareChange.from_dict(data["source_share"]),
            tuple(LayerSimilarity.from_dict(layer) for layer in data["cka"]),
        )
