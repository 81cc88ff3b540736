"""The explained numbers as a function of which features are there: one forward row for every version."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from explain.attribution.inputs import BASELINES, Inputs, inputs_of
from explain.attribution.memory import forward_row_bytes, in_chunks, rows_within
from explain.attribution.objectives import Question
from explain.attribution.passes import values_from_states
from explain.attribution.perturbation.features import Features
from explain.attribution.registry import Work
from explain.errors import InputError
from explain.model.forward import hidden_of, logits_from_states, projection_hooked, states_of
from explain.model.hooks import hooked
from explain.results import Generation

HIDING = ("attention", *BASELINES, "delete")
ATTENTION = ("free", "held")


@dataclass(frozen=True, eq=False)
class Presence:
    """One generation whose features can be hidden.

    Hidden tokens are masked out of attention (`by="attention"`), have their embedding replaced by a baseline,
    or are taken out, so that what follows moves up (`by="delete"`). A decoder input is also its own query,
    which no attention mask can hide from itself, so `attention` replaces its embedding by padding's as well.
    Where the last decoder input before a token is deleted, the input that is last then predicts it.

    With `held` attention every head looks where it looks when nothing is hidden: a version loses what the
    hidden tokens say, and nothing of the structure that the others read off their places.
    """

    work: Work
    question: Question
    features: Features
    inputs: Inputs
    by: str
    rows: int
    held: bool = False

    def values(self, present: Tensor) -> Tensor:
        """The explained numbers [n, rows] with the features [n, features] that are there, on the CPU."""
        source, target = self.features.source.shape[1], self.question.length
        most = rows_within(
            self.work.budget, forward_row_bytes(self.work.model, source, target), max(1, self.rows)
        )
        chunks = -(-len(present) // most)
        size = -(-len(present) // max(1, chunks))  # chunks of one size: a last one of few rows is slow

        def run(part: slice) -> Tensor:
            self.work.check()
            return self.chunk(present[part])

        return torch.cat([found for _, found in in_chunks(len(present), size, run)])

    @torch.no_grad()
    def chunk(self, present: Tensor) -> Tensor:
        """The explained numbers [n, rows] of features [n, features] that go through the model at once.

        Versions with the same source share one encoder row.
        """
        device, count = self.work.model.device, len(present)
        if self.held:  # the whole input goes along to say where to look
            present = torch.cat([present, present.new_ones(1, present.shape[1])])
        source, target = self.features.there(present)
        first, inverse = distinct(source)
        with self._looking_like("encoder", inverse[-1]):
            states, mask = self._encoded(source[first].to(device))
        if len(first) < len(present):
            index = torch.tensor(inverse, device=device)
            states, mask = (
                x.expand(len(present), *x.shape[1:]) if len(x) == 1 else x[index] for x in (states, mask)
            )
        with self._looking_like("decoder", len(present) - 1):
            values = self._decoded(states, mask, target[:, : self.question.length].to(device))
        return values[:count].float().cpu()

    @contextmanager
    def _looking_like(self, side: str, row: int) -> Iterator[None]:
        """Inside, if held, all rows through one side of the model have the attention of one of them."""
        if not self.held:
            yield
            return

        def shared(pattern: Tensor) -> Tensor:
            return pattern[row : row + 1].expand_as(pattern)

        model = self.work.model
        names = [name for name in model.hook_points() if name.startswith(side) and name.endswith(".pattern")]
        with hooked(model.hf, model.family, dict.fromkeys(names, shared)):
            yield

    def _encoded(self, there: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [n, source, width] and the mask of what is to be seen of them [n, source]."""
        rows = len(there)
        source, mask = self.inputs.source.expand(rows, -1, -1), self.inputs.source_mask.expand(rows, -1)
        if not bool(there.all()):
            if self.by == "attention":
                mask = there.long()
            elif self.by == "delete":
                source, mask = _without(self.inputs.source, there)
            else:
                source = torch.where(there[:, :, None], self.inputs.source, self.inputs.source_baseline)
        return states_of(self.work.model.hf, self.work.model.family, source, mask), mask

    def _decoded(self, states: Tensor, mask: Tensor, there: Tensor) -> Tensor:
        """The explained numbers [n, rows] from encoder states and the decoder inputs that are there."""
        model, question, end = self.work.model, self.question, there.shape[1]
        whole, absent = self.inputs.target[:, :end], self.inputs.target_baseline[:, :end]
        if bool(there.all()):
            return values_from_states(model, question, states, whole.expand(len(there), -1, -1), mask)
        if self.by != "delete":
            target = torch.where(there[:, :, None], whole, absent)
            seen = there.long() if self.by == "attention" else None
            return values_from_states(model, question, states, target, mask, seen)
        target, seen = _without(whole, there)
        # Token t is predicted by the last input that is left of inputs 0 to t.
        last = (there.long().cumsum(1) - 1)[:, :, None]
        if projection_hooked(model.hf):
            logits = logits_from_states(model.hf, states, target, mask, seen)
            return question(logits.gather(1, last.expand(-1, -1, logits.shape[2])))
        hidden = hidden_of(model.hf, model.family, states, target, mask, seen)
        return question.of_hidden(model.hf, hidden.gather(1, last.expand(-1, -1, hidden.shape[2])))


def _without(embeddings: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """What is there of embeddings [1, length, width], moved up: [n, shorter, width], and its mask."""
    counts = there.sum(1)
    kept = int(counts.max())
    order = there.long().argsort(dim=1, descending=True, stable=True)[:, :kept]
    mask = torch.arange(kept, device=there.device)[None, :] < counts[:, None]
    return embeddings[0][order], mask.long()


def distinct(rows: Tensor) -> tuple[list[int], list[int]]:
    """Where each different row of a bool matrix comes first, and for every row the number of its equal."""
    numbers: dict[Hashable, int] = {}
    inverse = [numbers.setdefault(row.tobytes(), len(numbers)) for row in np.ascontiguousarray(rows.numpy())]
    return np.unique(inverse, return_index=True)[1].tolist(), inverse


def presence_of(
    work: Work,
    generation: Generation,
    question: Question,
    features: Features,
    by: str,
    rows: int,
    attention: str = "free",
) -> Presence:
    """One generation whose features can be hidden `by` one of `HIDING`, with one of `ATTENTION`.

    Raises:
        InputError: the model has no such token.
    """
    baseline = by if by in BASELINES else "pad"
    inputs = inputs_of(work.model, generation, baseline, keep_special=False)
    return Presence(work, question, features, inputs, by, rows, attention == "held")


def require_rest(features: Features, present: Tensor, by: str) -> None:
    """Refuse to leave the encoder nothing to attend to.

    Raises:
        InputError: `present` [n, features] hides the whole source from attention, or deletes it.
    """
    if by in BASELINES:
        return
    source, _ = features.there(present)
    if not bool(source.any(1).all()):
        raise InputError(
            f"by={by!r} hides the whole source of {source.shape[1]} tokens, and attention needs something to "
            f"look at; choose another: {', '.join(BASELINES)}"
        )
