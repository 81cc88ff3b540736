"""One graph for all output positions of several generations, and batched vector–Jacobian products over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from explain.attribution.inputs import Inputs, inputs_of, split_prefix
from explain.attribution.memory import graph_row_bytes, rows_within
from explain.attribution.objectives import Question
from explain.attribution.passes import values_from_hidden
from explain.attribution.registry import Work
from explain.model import Seq2Seq
from explain.model.attention import Tap, tapped
from explain.model.forward import batches, hidden_of, states_of

Columns = Sequence[Sequence[Sequence[int]]]
"""For each generation of a batch and each of its versions (or one for all), the rows that are asked for."""

Result = TypeVar("Result")

# Tokens on one side.
_SHORT = 256


@dataclass(frozen=True, eq=False)
class Batch:
    """Generations of like lengths, right-padded together.

    Attributes:
        model: the opened model.
        questions: what to explain, one per generation.
        source, source_baseline: [batch, source, width].
        target, target_baseline: [batch, target, width], decoder inputs up to the last position that matters.
        source_mask: [batch, source], 1 where there is a token.
        source_lengths, target_lengths: tokens of each generation without padding.
    """

    model: Seq2Seq
    questions: Sequence[Question]
    source: Tensor
    target: Tensor
    source_baseline: Tensor
    target_baseline: Tensor
    source_mask: Tensor
    source_lengths: Sequence[int]
    target_lengths: Sequence[int]

    def values(self, source: Tensor, target: Tensor) -> Tensor:
        """The explained numbers of n versions of every generation.

        Args:
            source: [batch · n, source, width], the versions of a generation side by side.
            target: [batch · n, target, width].

        Returns:
            float [batch, n, rows]; generations with fewer rows are filled up with zeros.
        """
        return self.values_from(self.states(source), target)

    def states(self, source: Tensor) -> Tensor:
        """Encoder states [batch · n, source, width] of n versions of every source."""
        return states_of(self.model.hf, self.model.family, source, self._mask(len(source)))

    def values_from(self, states: Tensor, target: Tensor) -> Tensor:
        """The explained numbers [batch, n, rows] from encoder states [batch · n, source, width]."""
        count, mask = len(self.questions), self._mask(len(states))
        hidden = hidden_of(self.model.hf, self.model.family, states, target, mask)
        most = max(len(question.spans) for question in self.questions)
        parts = []
        for question, own, encoded, decoder, seen in zip(
            self.questions,
            hidden.chunk(count),
            states.chunk(count),
            target.chunk(count),
            mask.chunk(count),
            strict=True,
        ):
            values = values_from_hidden(self.model, question, own, encoded, decoder, seen)
            parts.append(torch.nn.functional.pad(values, (0, most - values.shape[-1])))
        return torch.stack(parts)

    @torch.no_grad()
    def ends(self) -> tuple[Tensor, Tensor]:
        """The explained numbers at the baseline and at the input, each [batch, rows]."""
        both = self.values(
            torch.stack([self.source_baseline, self.source], 1).flatten(0, 1),
            torch.stack([self.target_baseline, self.target], 1).flatten(0, 1),
        )
        return both[:, 0], both[:, 1]

    def on_path(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings at points of the path from baseline to input, 0..1, for source and target apart.

        Args:
            source: [n], or [batch, n] where every generation has its own.
            target: likewise.

        Returns:
            [batch · n, source, width] and [batch · n, target, width].
        """
        made = [
            (base[:, None] + points.to(full)[..., None, None] * (full - base)[:, None]).flatten(0, 1)
            for base, full, points in (
                (self.source_baseline, self.source, source),
                (self.target_baseline, self.target, target),
            )
        ]
        return made[0], made[1]

    def split(self, scores: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [rows, source + target] of one generation -> its source, prefix and start scores."""
        width, question = self.source.shape[1], self.questions[index]
        decoder = scores[:, width : width + self.target_lengths[index]]
        # What was cropped away cannot matter to any row.
        decoder = torch.nn.functional.pad(decoder, (0, len(question.targets) - decoder.shape[1]))
        return scores[:, : self.source_lengths[index]], *split_prefix(decoder, question.spans)

    def _mask(self, rows: int) -> Tensor:
        return self.source_mask.repeat_interleave(rows // len(self.questions), dim=0)

    def own_rows(self, values: Tensor, index: int) -> Tensor:
        """Cut [..., rows] of one generation to the rows of its question."""
        return values[..., : len(self.questions[index].spans)]


def batched(
    work: Work, baseline: str, size: int, *, sides: str = "both", crop: bool = True
) -> list[tuple[list[int], Batch]]:
    """The generations in batches of like lengths, with their numbers, longest first.

    Of `sides` one alone may leave the input: the other's baseline is then the input itself. Targets end where
    nothing that was asked for can depend on them, unless `crop` is false: methods that draw random numbers
    would draw others.
    """
    longest = [
        max((len(side) for side in sides), default=1)
        for sides in zip(
            *((item.source_tokens, item.target_tokens) for item in work.generations), strict=True
        )
    ]
    size = rows_within(work.budget // 4, graph_row_bytes(work.model, *longest), size)
    made = []
    for part in batches(work.generations, size):
        inputs = [_moving(inputs_of(work.model, work.generations[i], baseline), sides) for i in part]
        made.append((part, _together(work.model, [work.questions[i] for i in part], inputs, crop)))
    return made


def _moving(inputs: Inputs, sides: str) -> Inputs:
    """Inputs whose baseline differs from them on the given side alone."""
    if sides == "source":
        return replace(inputs, target_baseline=inputs.target)
    return replace(inputs, source_baseline=inputs.source) if sides == "prefix" else inputs


def _together(model: Seq2Seq, questions: Sequence[Question], inputs: Sequence[Inputs], crop: bool) -> Batch:
    lengths = [question.length if crop else len(question.targets) for question in questions]

    def padded(rows: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)

    return Batch(
        model=model,
        questions=questions,
        source=padded([item.source[0] for item in inputs]),
        target=padded([item.target[0, :n] for item, n in zip(inputs, lengths, strict=True)]),
        source_baseline=padded([item.source_baseline[0] for item in inputs]),
        target_baseline=padded(
            [item.target_baseline[0, :n] for item, n in zip(inputs, lengths, strict=True)]
        ),
        source_mask=padded([item.source_mask[0] for item in inputs]),
        source_lengths=[item.source.shape[1] for item in inputs],
        target_lengths=lengths,
    )


def each_batch(
    work: Work,
    baseline: str,
    size: int,
    run: Callable[[Batch], Sequence[Result]],
    *,
    sides: str = "both",
    crop: bool = True,
) -> list[Result]:
    """What `run` makes of every generation, batch by batch, in the order of the generations."""
    results: dict[int, Result] = {}
    for numbers, batch in batched(work, baseline, size, sides=sides, crop=crop):
        work.check()
        for number, result in zip(numbers, run(batch), strict=True):
            results[number] = result
            work.done(1)
    return [results[i] for i in range(len(results))]


@contextmanager
def attention_for_gradients(batch: Batch) -> Iterator[None]:
    """Plain attention for short inputs: its batched gradients are faster than those of fused attention.

    Fused attention keeps no pattern, which long inputs need more than speed.
    """
    if max(batch.source.shape[1], batch.target.shape[1]) > _SHORT:
        yield
        return
    with tapped(batch.model.hf, Tap({}, {})):
        yield


def chosen(values: Tensor, columns: Columns) -> Tensor:
    """The asked rows of every version: [batch, n, rows] -> [batch, n, columns].

    Versions that ask for fewer rows than others get zeros, which have no gradient.
    """
    most = max(len(rows) for versions in columns for rows in versions)
    filled = [[[*rows, *[-1] * (most - len(rows))] for rows in versions] for versions in columns]
    index = torch.tensor(filled, device=values.device)  # [batch, n or 1, columns]
    index = index.expand(-1, values.shape[1], -1)
    return torch.where(index >= 0, values.gather(2, index.clamp_min(0)), 0)


def jacobian_rows(
    values: Tensor,  # [batch, n, columns]
    inputs: Sequence[Tensor],  # each [batch · n, ...]
    size: int,
    check: Callable[[], None],
) -> list[list[Tensor]]:
    """Gradients of every column with respect to the inputs, `size` columns at a time.

    Rows of a batch are independent of each other, so one backward pass per column serves all of them, and
    columns are batched on top (a vector–Jacobian product with `is_grads_batched`).

    Returns:
        For each chunk of columns, for each input, [columns, batch · n, ...].
    """
    count = values.shape[-1]
    chunks = []
    for begin in range(0, count, size):
        check()
        width = min(size, count - begin)
        ones = torch.zeros(width, *values.shape, dtype=values.dtype, device=values.device)
        ones[torch.arange(width), :, :, begin + torch.arange(width)] = 1
        keep = begin + width < count
        if width == 1:
            grads = torch.autograd.grad(values, list(inputs), ones[0], retain_graph=keep, allow_unused=True)
            grads = [None if grad is None else grad[None] for grad in grads]
        else:
            grads = torch.autograd.grad(
                values, list(inputs), ones, retain_graph=keep, allow_unused=True, is_grads_batched=True
            )
        chunks.append(
            # An intervention may have cut an input off: its gradient is then 0.
            [
                grad if grad is not None else torch.zeros(width, *given.shape, device=given.device)
                for grad, given in zip(grads, inputs, strict=True)
            ]
        )
    return chunks
