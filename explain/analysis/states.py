"""Hidden states as rows: what a hook point gives at every position of many outputs, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor

from explain.analysis.inputs import require_batch_size, require_same_vocabulary
from explain.attribution.memory import DEFAULT, forward_row_bytes, rows_within
from explain.errors import EmptyTextError, InputError
from explain.model import Seq2Seq
from explain.model.forward import batches
from explain.model.hooks import analysed, select
from explain.model.recording import passes
from explain.results import Generation, Token
from explain.training import tasks
from explain.training.data import Pair, read_table
from explain.training.tasks import Example, Task, overlap

Side: TypeAlias = Literal["source", "target"]
Data: TypeAlias = str | os.PathLike[str] | Task | Sequence["str | tuple[str, str | None] | Pair | Example"]
"""A task or its name, a data file, or texts with or without the outputs that they should become."""


# ---- texts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """A source text, the output that is given for it or None, and the task's example that it is from."""

    source: str
    target: str | None = None
    example: Example | None = None


def read_items(data: Data, count: int | None = None, seed: int = 0) -> list[Item]:
    """The texts to look at.

    Args:
        data: a task (or its name), whose held-out examples are drawn; a data file; or sources, (source,
            output) pairs and examples of tasks.
        count: how many at most; None takes all, and 500 of a task, which has no end.
        seed: of drawing a task's examples.

    Raises:
        EmptyTextError: there are none.
        InputError: data of another kind.
        FileError: a file that cannot be read.
    """
    if count is not None and count < 1:
        raise InputError(f"examples is {count}; it must be at least 1")
    if isinstance(data, str) and data in tasks.names():
        data = tasks.get(data)
    if isinstance(data, Task):
        found: Sequence[Any] = data.examples("held_out", 500 if count is None else count, seed)
    elif isinstance(data, (str, os.PathLike)):
        found = read_table(data, need_target=False)
    else:
        found = list(data)
    if not found:
        raise EmptyTextError("there is nothing to look at: the data have no rows")
    return [_item(each) for each in found[:count]]


def _item(given: Any) -> Item:
    if isinstance(given, Item):
        return given
    if isinstance(given, Example):
        return Item(given.source, given.target, given)
    if isinstance(given, Pair):
        return Item(given.source, given.target or None)
    if isinstance(given, str):
        return Item(given)
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], str):
        return Item(given[0], given[1] or None)
    raise InputError(f"{given!r} is no example; give a source text or a (source, output) pair")


def name_of(data: Data) -> str:
    """What the data are called in results."""
    if isinstance(data, Task):
        return data.name
    return Path(data).name if isinstance(data, (str, os.PathLike)) else "data"


def outputs_of(model: Seq2Seq, items: Sequence[Item], **options: Any) -> list[Generation]:
    """One output per item, in order: the given one where there is one, else what the model writes.

    `options` are controls of `generate`; those about languages and unknown words also hold for given outputs.
    """
    forcing = {key: options[key] for key in _FORCING if key in options}
    written = [i for i, item in enumerate(items) if item.target is None]
    given = [i for i, item in enumerate(items) if item.target is not None]
    found: dict[int, Generation] = {}
    if written:
        found.update(zip(written, model.generate([items[i].source for i in written], **options), strict=True))
    if given:
        targets = [items[i].target or "" for i in given]
        found.update(
            zip(given, model.force([items[i].source for i in given], targets, **forcing), strict=True)
        )
    return [found[i] for i in range(len(items))]


_FORCING = ("source_language", "target_language", "allow_unknown", "batch_size")


def slots_of(item: Item, generation: Generation, side: Side) -> list[str]:
    """For each token of one side the slot of the task that it carries; `""` for none, and without a task.

    Of two slots in one token ("cats": the noun and the plural) the first counts. An output that is not the
    task's own has no slots.
    """
    tokens = generation.source_tokens if side == "source" else generation.target_tokens
    if item.example is None or (side == "target" and generation.target_text != item.example.target):
        return [""] * len(tokens)
    segments = item.example.source_segments if side == "source" else item.example.target_segments
    return [next((part.slot for part in segments if overlap(part, token)), "") for token in tokens]


# ---- states ----------------------------------------------------------------------------------------------


def side_of(point: str) -> Side:
    """Whose positions a hook point's rows are: the source's, or the decoder's, one for each output token."""
    return "source" if point.startswith("encoder.") or _reads_source(point) else "target"


def _reads_source(point: str) -> bool:
    return ".cross." in point and point.rpartition(".")[2] in ("k", "v")


def select_rows(model: Seq2Seq, points: str | Iterable[str]) -> list[str]:
    """The hook points that match, in the model's order; all of them have one vector per position.

    Raises:
        UnknownNameError: a pattern matches no hook point.
        InputError: attention patterns, whose rows are as long as the text, are among them.
    """
    chosen = select(points, model.hook_points())
    for name in chosen:
        if name.rpartition(".")[2] in ("pattern", "scores"):
            raise InputError(
                f"{name} holds attention, not one vector per position; leave patterns and scores out"
            )
    return chosen


def as_rows(tensor: Tensor) -> Tensor:
    """One output's activations as rows [position, width]; the heads of q, k, v and z stand side by side."""
    found = tensor[0]
    return found if found.dim() == 2 else found.transpose(0, 1).flatten(1)


def state_batches(
    model: Seq2Seq,
    generations: Sequence[Generation],
    points: Sequence[str],
    *,
    batch_size: int = 16,
    memory_budget: int = DEFAULT,
) -> Iterator[list[tuple[int, Mapping[str, Tensor]]]]:
    """The states of outputs at hook points, one teacher-forced pass per batch; nothing is kept.

    Between two batches the model is as it was before.

    Yields:
        For each output of a batch its index and, by hook point, its states [position, width] where the model
        lies. Batches are of like lengths, so indices do not ascend.

    Raises:
        InputError: outputs of another vocabulary, or a batch size below 1.
    """
    require_batch_size(batch_size)
    require_same_vocabulary(model, generations)
    if not generations:
        return
    model.require_parity()
    longest = max(len(g.source_tokens) for g in generations), max(len(g.target_tokens) for g in generations)
    size = rows_within(memory_budget // 4, forward_row_bytes(model, *longest), batch_size)
    for part in batches(generations, size):
        with model.lock, analysed(model.hf):
            found = passes(model.hf, model.family, generations, points, part)
        yield [(index, {name: as_rows(view) for name, view in views.items()}) for index, views in found]


def tokens_of(generation: Generation, side: Side) -> tuple[Sequence[Token], Sequence[Token]]:
    """The token that each row of a side is about, and the one that is read there.

    In the encoder both are the same. Decoder position t is about the output token t that it writes, and reads
    the one before, or the decoder start.
    """
    if side == "source":
        return generation.source_tokens, generation.source_tokens
    return generation.target_tokens, (generation.decoder_start, *generation.target_tokens[:-1])
