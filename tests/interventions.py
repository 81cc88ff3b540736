"""The literal way to change a model, with which every batched analysis must agree: one edit at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from explain.analysis import Edit
from explain.model import Seq2Seq
from explain.results import Generation

ONE = ("the cat sees a big dog", "le chat la maison un chien")
OTHER = ("the bird sees a small tree", ONE[1])


def generation_of(model: Seq2Seq) -> Generation:
    return model.force(*ONE)


def pair_of(model: Seq2Seq) -> tuple[Generation, Generation]:
    """A clean and a corrupted input of equal length, with the same output."""
    return model.force(*ONE), model.force(*OTHER)


def captured(model: Seq2Seq, generation: Generation, points: str = "*") -> dict[str, Tensor]:
    return {name: tensor[0] for name, tensor in model.capture(generation, points).items()}


@torch.no_grad()
def log_probs(model: Seq2Seq, generation: Generation) -> Tensor:
    """[target], as Hugging Face's own forward pass gives them."""
    logits = model.hf(
        input_ids=generation.source_ids[None],
        decoder_input_ids=generation.decoder_input_ids[None],
        use_cache=False,
    ).logits[0]
    return logits.log_softmax(-1).gather(-1, generation.target_ids[:, None])[:, 0]


def under(model: Seq2Seq, generation: Generation, edits: Sequence[Edit]) -> Tensor:
    """The output's log-probabilities with every edit made in turn by `model.intervene`."""
    if not edits:
        return log_probs(model, generation)
    edit, *rest = edits

    def put(tensor: Tensor) -> Tensor:
        tensor[(slice(None), *(slice(None) if number is None else number for number in edit.where))] = (
            edit.value
        )
        return tensor

    with model.intervene({edit.point: put}):
        return under(model, generation, rest)
