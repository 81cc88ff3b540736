"""The families of encoder–decoders: one table row says what the attention function cannot know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from explain.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Side:
    """Module paths of one stack; all but `stack` and `final_norm` are relative to a layer or the stack.

    The norms belong to the blocks (self, cross, mlp); `None` where there is none. `mlp` names the modules of
    the feed-forward network, to be called one after the other; `positions` embeds absolute positions.
    """

    stack: str
    layers: str
    self_attention: str
    cross_attention: str | None
    mlp: tuple[str, ...]
    mlp_out: str
    self_norm: str
    cross_norm: str | None
    mlp_norm: str
    final_norm: str | None
    activation: str
    positions: str | None


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between families of models.

    `scale_encoder_embeddings` is true where the encoder multiplies ids' embeddings by √width itself but
    expects `inputs_embeds` to be scaled already. `pre_norm` is true where norms stand before the blocks.
    """

    name: str
    model_types: tuple[str, ...]
    encoder: Side
    decoder: Side
    output_projection: str
    pre_norm: bool
    scale_encoder_embeddings: bool = False


def _t5_side(stack: str, mlp: int, cross: bool) -> Side:
    return Side(
        stack=stack,
        layers="block",
        self_attention="layer.0.SelfAttention",
        cross_attention="layer.1.EncDecAttention" if cross else None,
        mlp=(f"layer.{mlp}.DenseReluDense",),
        mlp_out=f"layer.{mlp}.DenseReluDense.wo",
        self_norm="layer.0.layer_norm",
        cross_norm="layer.1.layer_norm" if cross else None,
        mlp_norm=f"layer.{mlp}.layer_norm",
        final_norm="final_layer_norm",
        activation=f"layer.{mlp}.DenseReluDense.act",
        positions=None,
    )


def _bart_side(stack: str, cross: bool, final_norm: str | None) -> Side:
    return Side(
        stack=f"model.{stack}",
        layers="layers",
        self_attention="self_attn",
        cross_attention="encoder_attn" if cross else None,
        mlp=("fc1", "activation_fn", "fc2"),
        mlp_out="fc2",
        self_norm="self_attn_layer_norm",
        cross_norm="encoder_attn_layer_norm" if cross else None,
        mlp_norm="final_layer_norm",
        final_norm=final_norm,
        activation="activation_fn",
        positions="embed_positions",
    )


def _bart_like(
    name: str, types: tuple[str, ...], *, pre_norm: bool, final_norm: str | None, scale: bool = False
) -> Family:
    return Family(
        name=name,
        model_types=types,
        encoder=_bart_side("encoder", False, final_norm),
        decoder=_bart_side("decoder", True, final_norm),
        output_projection="out_proj",
        pre_norm=pre_norm,
        scale_encoder_embeddings=scale,
    )


FAMILIES = (
    Family(
        name="T5",
        model_types=("t5", "mt5"),
        encoder=_t5_side("encoder", 1, False),
        decoder=_t5_side("decoder", 2, True),
        output_projection="o",
        pre_norm=True,
    ),
    _bart_like("BART", ("bart",), pre_norm=False, final_norm=None),
    _bart_like("mBART", ("mbart",), pre_norm=True, final_norm="layer_norm"),
    _bart_like("Marian", ("marian",), pre_norm=False, final_norm=None, scale=True),
    _bart_like("M2M100", ("m2m_100",), pre_norm=True, final_norm="layer_norm"),
    _bart_like("Pegasus", ("pegasus",), pre_norm=True, final_norm="layer_norm", scale=True),
)

# Encoder–decoders whose attention is written out by hand: no function of ours can reach it.
_OWN_ATTENTION = {
    "prophetnet": "ProphetNet computes its n-gram attention by hand",
    "xlm-prophetnet": "ProphetNet computes its n-gram attention by hand",
    "led": "LED computes its sliding-window attention by hand",
    "longt5": "LongT5's encoder computes its local attention by hand",
    "bigbird_pegasus": "BigBird computes its block-sparse attention by hand",
}


def family_of(model_type: str, *, is_encoder_decoder: bool, architectures: tuple[str, ...] = ()) -> Family:
    """The table row for a `model_type` of transformers.

    Raises:
        UnsupportedModelError: with the reason: not an encoder–decoder, or attention out of reach.
    """
    for family in FAMILIES:
        if model_type in family.model_types and is_encoder_decoder:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    if model_type in _OWN_ATTENTION:
        raise UnsupportedModelError(
            f"{model_type} cannot be explained: {_OWN_ATTENTION[model_type]} instead of using transformers' "
            f"attention interface, so its heads cannot be reached; supported families: {known}"
        )
    if not is_encoder_decoder:
        causal = any("CausalLM" in name or "LMHead" in name for name in architectures) or model_type == "gpt2"
        kind = "a causal language model (decoder only)" if causal else "not an encoder–decoder"
        raise UnsupportedModelError(
            f"{model_type} is {kind}: there is no source to attribute to; supported families: {known}"
        )
    raise UnsupportedModelError(
        f"{model_type} is an encoder–decoder that is not supported yet; supported families: {known}"
    )


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path."""
    return root.get_submodule(path)


def all_modules(root: nn.Module) -> list[nn.Module]:
    """Every module once, as `root.modules()` finds them, many times faster: it runs before every pass."""
    found, seen = [root], {root}
    for module in found:  # grows while it is read
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


def layers(hf: nn.Module, side: Side) -> list[nn.Module]:
    """The layers of one stack, in order."""
    return list(submodule(hf, f"{side.stack}.{side.layers}").children())


def source_embeddings(hf: nn.Module, family: Family, ids: Tensor) -> Tensor:
    """Embeddings [batch, source, width] as the encoder expects them in `inputs_embeds`."""
    stack = submodule(hf, family.encoder.stack)
    embeddings = stack.embed_tokens(ids)  # pyright: ignore[reportCallIssue]
    if family.scale_encoder_embeddings:
        return embeddings * float(stack.embed_scale)  # pyright: ignore[reportArgumentType]
    return embeddings


def target_embeddings(hf: nn.Module, family: Family, ids: Tensor) -> Tensor:
    """Embeddings [batch, target, width] as the decoder expects them in `decoder_inputs_embeds`."""
    stack = submodule(hf, family.decoder.stack)
    return stack.embed_tokens(ids)  # pyright: ignore[reportCallIssue]


def vocabulary_size(hf: PreTrainedModel) -> int:
    """How many tokens have an embedding."""
    return int(hf.get_input_embeddings().weight.shape[0])  # pyright: ignore[reportIndexIssue, reportArgumentType]


def eos_ids(hf: PreTrainedModel) -> set[int]:
    """The ids that end an output."""
    eos = hf.generation_config.eos_token_id if hf.generation_config else hf.config.eos_token_id
    return {eos} if isinstance(eos, int) else set(eos or ())


def max_positions(hf: PreTrainedModel) -> float:
    """How many tokens fit into one stack; infinity where positions are relative."""
    config = hf.config
    if config.model_type in ("t5", "mt5"):
        return math.inf
    return float(config.max_position_embeddings)
