"""What the methods of this kind read: activations of one teacher-forced pass, generation by generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.attribution.memory import graph_row_bytes, rows_within
from explain.attribution.objectives import OBJECTIVES
from explain.attribution.registry import Scores, Work
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.families import layers
from explain.model.forward import batches
from explain.model.recording import passes
from explain.results import Generation


@dataclass(frozen=True, eq=False)
class States:
    """The activations of one generation, where the model lies.

    Attributes:
        index: which generation it is.
        generation: that generation.
        tensors: by hook point, without the batch dimension: patterns [head, query, key], values
            [head, key, head_dim], the rest [position, width].
        log_probs: float [target], of the output's tokens, on the CPU.
    """

    index: int
    generation: Generation
    tensors: dict[str, Tensor]
    log_probs: Tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def scores(self, source: Tensor, prefix: Tensor, start: Tensor) -> Scores:
        """Scores of a method without an objective; the pass at hand saves the room its own."""
        return Scores(source.cpu(), prefix.cpu(), start.cpu(), value=self.log_probs, log_probs=self.log_probs)


def states_of(work: Work, names: Sequence[str], batch_size: int) -> Iterator[States]:
    """One pass per batch over all generations of the work, longest first; says when each is done."""
    if not work.generations:
        return
    source = max(len(item.source_tokens) for item in work.generations)
    target = max(len(item.target_tokens) for item in work.generations)
    # What a pass keeps here is about what it would keep for a backward pass.
    fitting = rows_within(work.budget // 2, graph_row_bytes(work.model, source, target), batch_size)
    for part in batches(work.generations, fitting):
        work.check()
        asked = [*names, "logits"]
        for index, tensors in passes(work.model.hf, work.model.family, work.generations, asked, part):
            logits = tensors.pop("logits")[0]  # [target, vocabulary]
            log_probs = OBJECTIVES["log_prob"].function(logits, work.questions[index].targets)
            found = {name: tensor[0] for name, tensor in tensors.items()}
            yield States(index, work.generations[index], found, log_probs.cpu())
            work.done(1)


def decoder_layers(model: Seq2Seq, wanted: tuple[int, ...] | None) -> list[int]:
    """The chosen decoder layers, counted from 0; None means all."""
    return chosen("layers", wanted, len(layers(model.hf, model.family.decoder)))


def chosen(name: str, wanted: tuple[int, ...] | None, count: int) -> list[int]:
    """Indices below `count`; None means all, negative ones count from the end.

    Raises:
        InputError: none is named, or one does not exist.
    """
    if wanted is None:
        return list(range(count))
    if not wanted:
        raise InputError(f"{name} is empty; name at least one, or leave it out for all")
    for index in wanted:
        if not -count <= index < count:
            raise InputError(f"{name} {index}: this model's decoder has {count} (0 to {count - 1})")
    return [index % count for index in wanted]


def require_batch_size(size: int) -> None:
    """Refuse a batch size below 1.

    Raises:
        ValueError: it is.
    """
    if size < 1:
        raise ValueError(f"batch_size={size} must be at least 1")


def require_not_intervened(model: Seq2Seq, method: str, points: Sequence[str], sides: Sequence[str]) -> None:
    """Refuse interventions at points of a layer whose effect a method that takes it apart cannot see.

    Raises:
        InputError: an intervention replaces such a point just now.
    """
    for name in model.intervened:
        if name.partition(".")[0] in sides and name.split(".", 2)[-1] in points:
            raise InputError(
                f"{method} takes attention blocks apart and cannot see the intervention at {name}; "
                "attention_x_gradient and the gradient methods can"
            )


def normalised(scores: Tensor) -> Tensor:
    """Rows that add up to 1; a row of zeros stays."""
    total = scores.sum(-1, keepdim=True)
    return scores / torch.where(total == 0, 1, total)
