"""Many changed versions of one input at once: every row of a batch has edits of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from explain.analysis.inputs import require_same_vocabulary
from explain.attribution.memory import DEFAULT, forward_row_bytes, in_chunks, rows_within
from explain.attribution.objectives import Question
from explain.attribution.passes import values_from_states
from explain.attribution.registry import Cancelled
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.attention import PointFunction
from explain.model.forward import batches, source_embeddings, states_of, target_embeddings
from explain.model.hooks import analysed, hooked
from explain.model.recording import passes
from explain.results import Generation

ROWS = 64
"""How many versions go through the model at once, where memory allows."""

Where = tuple[int | None, ...]
"""An index into one input's tensor at a hook point: a number per axis, None for all of it; the end may be
left out."""


@dataclass(frozen=True, eq=False, slots=True)
class Edit:
    """A change of what one hook point gives for one version of an input.

    Attributes:
        point: a hook point.
        where: what of that input's tensor is replaced: an index into [head, position, head_dim] (q, k, v, z),
            [head, query, key] (scores, pattern) or [position, width] (the rest). `(2,)` is head 2,
            `(None, 7)` neuron 7 at every position, `()` everything.
        value: a number, or a tensor that broadcasts to what is replaced.
    """

    point: str
    where: Where = ()
    value: float | Tensor = 0.0


Version = Sequence[Edit]
"""All edits of one version, made in this order; none leaves the input as it is."""


class Limits(TypedDict, total=False):
    """How work is divided and watched; results do not depend on it.

    Attributes:
        rows: versions that go through the model at once, at most.
        memory_budget: bytes to use beside the model.
        progress: called with (done, all) versions after every batch.
        should_stop: asked before every batch; True ends the work with `Cancelled`.
    """

    rows: int
    memory_budget: int
    progress: Callable[[int, int], None] | None
    should_stop: Callable[[], bool] | None


@torch.no_grad()
def values_under(
    model: Seq2Seq,
    generation: Generation,
    question: Question,
    versions: Sequence[Version],
    *,
    rows: int = ROWS,
    memory_budget: int = DEFAULT,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """The explained numbers of every version: float [versions, rows of the question], on the CPU.

    Versions are rows of one batch, and each is what `model.intervene` with its edits alone would give. Those
    that leave the encoder alone share one encoder row.

    Raises:
        UnknownNameError: no such hook point.
        InputError: an edit outside the tensor, or a value of another shape; `rows` below 1.
        TooLargeError: not even one row fits into memory.
        Cancelled: `should_stop` said so.
    """
    if rows < 1 or memory_budget < 1:
        raise InputError(f"rows is {rows} and memory_budget {memory_budget}; both must be at least 1")
    known = model.hook_points()
    for point in {edit.point for edits in versions for edit in edits}:
        if point not in known:
            raise UnknownNameError("hook point", point, known)
    if not versions:
        return torch.zeros(0, len(question.spans))
    require_same_vocabulary(model, [generation])
    model.require_parity()
    lengths = len(generation.source_tokens), len(generation.target_tokens)
    most = rows_within(memory_budget, forward_row_bytes(model, *lengths), min(rows, len(versions)))
    size = -(
        -len(versions) // -(-len(versions) // most)
    )  # chunks of one size: a last one of few rows is slow
    with model.lock, analysed(model.hf):
        opened = _Input(model, generation, question)

        def run(part: slice) -> Tensor:
            if should_stop is not None and should_stop():
                raise Cancelled("stopped as asked")
            return opened.values(versions[part]).float().cpu()

        found = []
        for part, values in in_chunks(len(versions), size, run):
            found.append(values)
            if progress is not None:
                progress(part.stop, len(versions))
    return torch.cat(found)


def recorded(
    model: Seq2Seq, generations: Sequence[Generation], names: Sequence[str], *, batch_size: int = 16
) -> list[dict[str, Tensor]]:
    """The activations of generations at hook points, where the model lies and without the batch dimension."""
    require_same_vocabulary(model, generations)
    model.require_parity()
    found: dict[int, dict[str, Tensor]] = {}
    with model.lock, analysed(model.hf):
        for part in batches(generations, batch_size):
            for index, tensors in passes(model.hf, model.family, generations, names, part):
                found[index] = {name: tensor[0] for name, tensor in tensors.items()}
    return [found[i] for i in range(len(generations))]


class _Input:
    """One input whose versions go through the model; its own encoder states are computed once."""

    def __init__(self, model: Seq2Seq, generation: Generation, question: Question):
        hf, family, device = model.hf, model.family, model.device
        self.model = model
        self.question = question
        self.source = source_embeddings(hf, family, generation.source_ids[None].to(device))
        self.target = target_embeddings(hf, family, generation.decoder_input_ids[None].to(device))
        self.mask = torch.ones(self.source.shape[:2], dtype=torch.long, device=device)
        self.unchanged: Tensor | None = None  # [1, source, width]

    def values(self, versions: Sequence[Version]) -> Tensor:
        """The explained numbers [versions, rows] of versions that go through the model at once."""
        model, count = self.model, len(versions)
        states = self._states([[e for e in edits if _in_encoder(e)] for edits in versions])
        functions = functions_of([[e for e in edits if not _in_encoder(e)] for edits in versions])
        with hooked(model.hf, model.family, functions):
            target, mask = self.target.expand(count, -1, -1), self.mask.expand(count, -1)
            return values_from_states(model, self.question, states, target, mask)

    def _states(self, versions: Sequence[Version]) -> Tensor:
        """Encoder states [versions, source, width]."""
        own = [number for number, edits in enumerate(versions) if edits]
        if not own:
            return self._unchanged().expand(len(versions), -1, -1)
        functions = functions_of([versions[number] for number in own])
        with hooked(self.model.hf, self.model.family, functions):
            changed = self._encoded(len(own))
        if len(own) == len(versions):
            return changed
        states = self._unchanged().repeat(len(versions), 1, 1)
        states[own] = changed
        return states

    def _unchanged(self) -> Tensor:
        if self.unchanged is None:
            self.unchanged = self._encoded(1)
        return self.unchanged

    def _encoded(self, count: int) -> Tensor:
        source, mask = self.source.expand(count, -1, -1), self.mask.expand(count, -1)
        return states_of(self.model.hf, self.model.family, source, mask)


def _in_encoder(edit: Edit) -> bool:
    return edit.point.startswith("encoder.")


# ---- edits as functions at hook points -------------------------------------------------------------------


def functions_of(versions: Sequence[Version]) -> dict[str, PointFunction]:
    """Functions by hook point that change row n of a batch as version n says."""
    # Round k holds every version's k-th edit at a point: so a later edit of what an earlier one wrote wins.
    rounds: dict[str, list[dict[int, Edit]]] = {}
    for row, edits in enumerate(versions):
        for edit in edits:
            own = rounds.setdefault(edit.point, [])
            free = next((k for k, found in enumerate(own) if row not in found), len(own))
            if free == len(own):
                own.append({})
            own[free][row] = edit
    return {point: _applied(own) for point, own in rounds.items()}


def _applied(rounds: Sequence[Mapping[int, Edit]]) -> PointFunction:
    def function(tensor: Tensor) -> Tensor:
        # q, k and v are also the cache's, and autograd's.
        tensor = tensor.clone()
        for edits in rounds:
            alike: dict[tuple[bool, ...], dict[int, Edit]] = {}
            for row, edit in edits.items():
                alike.setdefault(tuple(number is None for number in edit.where), {})[row] = edit
            for group in alike.values():
                _put(tensor, group)
        return tensor

    return function


def _put(tensor: Tensor, edits: Mapping[int, Edit]) -> None:
    """Write edits that name the same axes into the rows [batch, ...] of a tensor, all at once."""
    shape = tensor.shape[1:]
    for edit in edits.values():
        require_inside(edit, shape)
    axes = list(zip(*(edit.where for edit in edits.values()), strict=True))  # per axis, a number per edit
    index = [
        slice(None) if numbers[0] is None else torch.tensor(numbers, device=tensor.device) for numbers in axes
    ]
    free = [size for axis, size in enumerate(shape) if axis >= len(axes) or axes[axis][0] is None]
    values = torch.stack([value_of(edit, free, tensor) for edit in edits.values()])
    # The row comes first, so that what is indexed is [edits, *free] whichever axes are named.
    tensor[(torch.tensor(list(edits), device=tensor.device), *index)] = values


def require_inside(edit: Edit, shape: Sequence[int]) -> None:
    """Refuse an index outside one input's tensor.

    Raises:
        InputError: it names too many axes, or a number that does not exist.
    """
    fits = len(edit.where) <= len(shape) and all(
        number is None or 0 <= number < size for number, size in zip(edit.where, shape, strict=False)
    )
    if not fits:
        raise InputError(
            f"an edit at {edit.point} changes {edit.where}, but one input's tensor there is of shape "
            f"{tuple(shape)}"
        )


def value_of(edit: Edit, shape: Sequence[int], like: Tensor) -> Tensor:
    """An edit's value as a tensor of this shape, on the device and in the dtype of another.

    Raises:
        InputError: it does not broadcast to the shape.
    """
    value = torch.as_tensor(edit.value, dtype=like.dtype, device=like.device)
    try:
        return value.expand(tuple(shape))
    except RuntimeError:
        raise InputError(
            f"an edit at {edit.point} puts a value of shape {tuple(value.shape)} where {tuple(shape)} is"
        ) from None
