"""Distillation: a student with fewer layers begins with some of its teacher's and learns from its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from explain.compression.resize import is_t5, layer_prefix, rebuilt
from explain.errors import InputError
from explain.model.families import Family, layers
from explain.training.batches import IGNORED

Layers = tuple[tuple[int, ...], tuple[int, ...]]
"""The teacher's layers that the student begins with: the encoder's and the decoder's."""


def choose_layers(hf: PreTrainedModel, family: Family, text: str) -> Layers:
    """The layers that `1`, `2:1` or `0,3:0` stands for: encoder and decoder apart by a colon.

    A number is how many layers to keep, evenly spread from the first to the last; with a comma in it the text
    names them, counted from 0 (`3,` is the fourth layer alone).

    Raises:
        InputError: not of that form, or not fewer layers than there are.
    """
    sides = text.split(":")
    if len(sides) > 2:
        raise InputError(f"--distill {text!r}: write LAYERS, or ENCODER:DECODER")
    have = [len(layers(hf, side)) for side in (family.encoder, family.decoder)]
    encoder, decoder = (
        _chosen(part, count, text) for part, count in zip(sides * (2 // len(sides)), have, strict=True)
    )
    if len(encoder) == have[0] and len(decoder) == have[1]:
        raise InputError(f"--distill {text!r} keeps all {have[0]}+{have[1]} layers; a student has fewer")
    return encoder, decoder


def _chosen(text: str, have: int, whole: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(
            f"--distill {whole!r}: write a number of layers such as 1 or 2:1, or their numbers"
        ) from None
    if "," in text:
        if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= n < have for n in numbers):
            raise InputError(f"--distill {whole!r}: the layers are 0 to {have - 1}, each at most once")
        return numbers
    if not numbers or not 1 <= numbers[0] <= have:
        raise InputError(f"--distill {whole!r}: the teacher has {have} layers a side, keep 1 to {have}")
    count = numbers[0]
    return tuple(round(i * (have - 1) / max(1, count - 1)) for i in range(count))


def student(hf: PreTrainedModel, family: Family, chosen: Layers) -> PreTrainedModel:
    """A model with the chosen layers of its teacher and everything else of it (Shleifer & Rush 2020).

    Args:
        hf: the teacher.
        family: its family.
        chosen: which layers, in the order that they are to have.

    Paper: Shleifer & Rush 2020, "Pre-trained summarization distillation", arXiv:2010.13002.
    """
    state = hf.state_dict()
    weights = dict(state)
    for side, kept in zip((family.encoder, family.decoder), chosen, strict=True):
        inside = f"{side.stack}.{side.layers}."
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(inside)}
        for layer, origin in enumerate(kept):
            prefix = layer_prefix(side, origin)
            for name, tensor in state.items():
                # T5 keeps the position biases of all layers in the first one.
                if name.startswith(prefix) and "relative_attention_bias" not in name:
                    weights[layer_prefix(side, layer) + name.removeprefix(prefix)] = tensor
        weights |= {
            name: tensor
            for name, tensor in state.items()
            if name.startswith(layer_prefix(side, 0)) and "relative_attention_bias" in name
        }
    names = ("num_layers", "num_decoder_layers") if is_t5(family) else ("encoder_layers", "decoder_layers")
    changes = {name: len(kept) for name, kept in zip(names, chosen, strict=True)}
    if hasattr(hf.config, "num_hidden_layers") and not is_t5(family):
        changes["num_hidden_layers"] = len(chosen[0])
    return rebuilt(hf, changes, weights)


def distillation_loss(
    teacher: PreTrainedModel, *, alpha: float, temperature: float
) -> Callable[[Mapping[str, Tensor], Any, Tensor], Tensor]:
    """The loss (1 − α) · L + α · τ² · KL(teacher ‖ student), both at temperature τ, in nats per token.

    Args:
        teacher: the model to learn from; it is run without gradients.
        alpha: weight of the teacher's distributions, 0 to 1; the rest is that of the targets.
        temperature: above 1 the teacher's small probabilities weigh more.

    Paper: Hinton et al. 2015, "Distilling the knowledge in a neural network", arXiv:1503.02531.
    """

    def loss(inputs: Mapping[str, Tensor], outputs: Any, hard: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher(**inputs, use_cache=False).logits
        told = inputs["labels"] != IGNORED  # [pair, position]
        theirs = (taught[told].float() / temperature).log_softmax(-1)
        ours = (outputs.logits[told].float() / temperature).log_softmax(-1)
        soft = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return (1 - alpha) * hard + alpha * temperature**2 * soft

    return loss


def describe_layers(chosen: Sequence[Sequence[int]]) -> str:
    """The layers in words."""
    encoder, decoder = (", ".join(map(str, part)) for part in chosen)
    return f"encoder layers {encoder}; decoder layers {decoder}"
