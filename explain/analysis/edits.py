"""Many changed versions of one input at once: every row of a batch has edits of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
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
from explain.model.attention import PointFunction, Tap, tapped
from explain.model.families import Side, layers
from explain.model.forward import batches, source_embeddings, states_of, target_embeddings
from explain.model.hooks import analysed, growing, hooked
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

    Versions are rows of one batch, and each is what `model.intervene` with its edits alone would give. A row
    takes part only from the layer of its first edit, and those that leave the encoder alone share its states.

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
    # Plain attention throughout: fused attention rounds otherwise, and versions are compared.
    with model.lock, analysed(model.hf), tapped(model.hf, Tap({}, {})):
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
    """One input whose versions go through the model; its own encoder states are computed once.

    A version has a row only from the layer of its first edit: up to there it is row 0, the unchanged input.
    """

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
        decoder = [[edit for edit in edits if not _in_encoder(edit)] for edits in versions]
        own = {number for number, edits in enumerate(versions) if any(_changes_source(e) for e in edits)}
        rows = _Rows.of(self.model, "decoder", decoder, from_start=own)
        states = self._states(versions, own, rows)
        with rows.joining(self.model):
            values = values_from_states(self.model, self.question, states, self.target, self.mask)
        return values[rows.row]

    def _states(self, versions: Sequence[Version], own: Set[int], rows: _Rows) -> Tensor:
        """Encoder states of the decoder's rows: one row for all, or [rows, source, width]."""
        encoder = [[edit for edit in versions[number] if _in_encoder(edit)] for number in sorted(own)]
        if self.unchanged is None or any(encoder):
            joining = _Rows.of(self.model, "encoder", encoder)
            with joining.joining(self.model):
                found = states_of(self.model.hf, self.model.family, self.source, self.mask)
            self.unchanged = found[:1]
            changed = found[joining.row]
        else:
            changed = self.unchanged.expand(len(own), -1, -1)
        if not own:
            return self.unchanged
        states = self.unchanged.repeat(1 + len(rows.order), 1, 1)
        states[[rows.row[number] for number in sorted(own)]] = changed
        return states


@dataclass(frozen=True, slots=True)
class _Rows:
    """How versions take part in the batch of one stack; row 0 is the unchanged input.

    Attributes:
        side: encoder or decoder.
        versions: their edits in this stack.
        order: the versions that have a row of their own, in the order in which they join.
        row: of each version.
        joined: rows before and after each layer, as for `growing`.
    """

    side: str
    versions: Sequence[Version]
    order: Sequence[int]
    row: Sequence[int]
    joined: Sequence[int]

    @classmethod
    def of(
        cls, model: Seq2Seq, side: str, versions: Sequence[Version], from_start: Set[int] = frozenset()
    ) -> _Rows:
        """The rows of versions; those `from_start` go through all layers whatever is edited."""
        ends = 2 * len(layers(model.hf, _stack(model, side)))
        first = {
            number: 0 if number in from_start else min(_first(edit, ends) for edit in edits)
            for number, edits in enumerate(versions)
            if edits or number in from_start
        }
        order = sorted(first, key=first.__getitem__)
        row = dict(zip(order, range(1, len(order) + 1), strict=True))
        return cls(
            side=side,
            versions=versions,
            order=order,
            row=[row.get(number, 0) for number in range(len(versions))],
            joined=[1 + sum(place <= end for place in first.values()) for end in range(ends)],
        )

    @contextmanager
    def joining(self, model: Seq2Seq) -> Iterator[None]:
        """Make the edits in a batch that has one row at first."""
        functions = functions_of([(), *(self.versions[number] for number in self.order)])
        stack = _stack(model, self.side)
        with growing(model.hf, stack, self.joined), hooked(model.hf, model.family, functions):
            yield


def _stack(model: Seq2Seq, side: str) -> Side:
    return model.family.encoder if side == "encoder" else model.family.decoder


def _in_encoder(edit: Edit) -> bool:
    return edit.point.startswith("encoder.")


def _changes_source(edit: Edit) -> bool:
    """An edit of what the decoder reads of the source."""
    return _in_encoder(edit) or edit.point.endswith(("cross.k", "cross.v"))


def _first(edit: Edit, ends: int) -> int:
    """Where the batch must have the row of an edit: 2i is before layer i of its stack and 2i + 1 after it."""
    _, _, rest = edit.point.partition(".")
    layer, _, point = rest.partition(".")
    if not layer.isdigit():  # the embeddings, or logits
        return 0 if layer == "embed" else ends - 1
    return 2 * int(layer) + (point == "residual")


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


def functions_in_all(edits: Version) -> dict[str, PointFunction]:
    """Functions by hook point, for `model.intervene`, that make the same edits in every row of a batch."""
    found: dict[str, list[Edit]] = {}
    for edit in edits:
        found.setdefault(edit.point, []).append(edit)
    return {point: _in_all(own) for point, own in found.items()}


def _in_all(edits: Version) -> PointFunction:
    def function(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        for edit in edits:
            index = tuple(slice(None) if number is None else number for number in edit.where)
            tensor[(slice(None), *index)] = edit.value
        return tensor

    return function


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
