"""Hidden states of a data set as tables: a row per token, with what the token is and where it stands."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from explain.analysis.inputs import Progress
from explain.analysis.states import (
    Data,
    Item,
    Side,
    name_of,
    outputs_of,
    read_items,
    select_rows,
    side_of,
    slots_of,
    state_batches,
    tokens_of,
)
from explain.attribution.memory import DEFAULT
from explain.attribution.registry import Cancelled
from explain.errors import InputError, UnknownNameError
from explain.files import digest_json, replacing
from explain.model import Seq2Seq
from explain.model.recording import TemporaryFolder
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd

# Texts whose outputs are in memory at once.
SHARD = 32
# Rows that go into a Parquet file at once.
_GROUP = 8192
BUCKETS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of states is about.

    Attributes:
        example: number of the text in the data, from 0.
        position: which token of its side, from 0.
        length: how many tokens that side has.
        token: text of the token; in the decoder of the one written there.
        id: its id.
        input: text of the token that is read there; in the encoder the same.
        slot: the slot of the task that the token carries; empty for none.
    """

    example: int
    position: int
    length: int
    token: str
    id: int
    input: str
    slot: str


COLUMNS = tuple(f.name for f in fields(Row))
Label = str | Callable[[Row], str | None]
"""`token`, `input`, `slot`, `position`, `length` (in buckets of about as many rows), or a function of the
row; None or an empty text leaves a row out."""
LABELS = ("token", "input", "slot", "length", "position")


@dataclass(frozen=True, eq=False)
class StateTable:
    """Hidden states at one hook point: a row per token of the texts, in their order.

    Attributes:
        point: the hook point.
        values: float [row, width]; past the memory budget it lies in a file and is read where it is used.
        rows: what each row is about.
        data: what the data are called.
        model_digest: of the model that was looked at.
        data_digest: of the texts.
    """

    point: str
    values: Tensor
    rows: tuple[Row, ...]
    data: str = ""
    model_digest: str = ""
    data_digest: str = ""
    folder: object | None = field(default=None, repr=False)  # lives as long as its files are needed

    def labels(self, label: Label) -> list[str]:
        """One label per row; an empty one stands for none.

        Raises:
            UnknownNameError: there is no such label.
            InputError: no row has one.
        """
        if callable(label):
            found = [label(row) or "" for row in self.rows]
        elif label == "length":
            found = buckets([row.length for row in self.rows])
        elif label in LABELS:
            found = [str(getattr(row, label)) for row in self.rows]
        else:
            raise UnknownNameError("label", label, LABELS)
        if not any(found):
            hint = "; slots are known of a task's own examples (--task NAME)" if label == "slot" else ""
            raise InputError(f"no row of {self.point} has a label{hint}")
        return found

    def take(self, chosen: Sequence[int]) -> StateTable:
        """The table of some of its rows, in memory."""
        index = torch.as_tensor(chosen, dtype=torch.long)
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return StateTable(
            **{
                **own,
                "values": self.values[index],
                "rows": tuple(self.rows[i] for i in chosen),
                "folder": None,
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per token: the columns of `Row`, then `h0`, `h1`, … for the states."""
        import pandas as pd

        return pd.concat([self._columns(slice(None)), self._states(slice(None))], axis=1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as Parquet, a part at a time, with the columns of `to_frame`.

        Raises:
            FileError: the file cannot be written.
        """
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        with replacing(path) as temporary:
            writer = None
            for begin in range(0, max(1, len(self.rows)), _GROUP):
                part = slice(begin, begin + _GROUP)
                frame = pd.concat([self._columns(part), self._states(part)], axis=1)
                table = pa.Table.from_pandas(frame, preserve_index=False)
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
            if writer is not None:
                writer.close()
        return Path(path)

    def _columns(self, part: slice) -> pd.DataFrame:
        import pandas as pd

        rows = self.rows[part]
        return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in COLUMNS})

    def _states(self, part: slice) -> pd.DataFrame:
        import pandas as pd

        values = self.values[part].numpy()
        return pd.DataFrame(values, columns=[f"h{i}" for i in range(values.shape[1])])


def buckets(numbers: Sequence[int], most: int = BUCKETS) -> list[str]:
    """A label for each number: the range that it falls into, of at most `most` with about as many rows each.

    Equal numbers are in one range, so there may be fewer ranges, and they may be uneven.
    """
    counts = sorted(Counter(numbers).items())
    groups: dict[int, list[int]] = {}
    below = 0
    for place, (number, count) in enumerate(counts):
        middle = (below + count / 2) / len(numbers)
        groups.setdefault(place if len(counts) <= most else int(most * middle), []).append(number)
        below += count
    names = {n: str(g[0]) if len(g) == 1 else f"{g[0]}–{g[-1]}" for g in groups.values() for n in g}
    return [names[number] for number in numbers]


def hidden_states(
    model: Seq2Seq,
    data: Data,
    points: str | Iterable[str],
    *,
    examples: int | None = None,
    seed: int = 0,
    name: str | None = None,
    batch_size: int = 16,
    memory_budget: int = DEFAULT,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> dict[str, StateTable]:
    """Hidden states of a data set, as a table for each hook point.

    Given outputs are taken as they are, else the model writes them. States are float32; past the memory
    budget they go to files that vanish with the tables.

    Args:
        model: an opened model.
        data: a task (or its name), a data file, or texts; see `read_items`.
        points: hook points by glob patterns; attention patterns have no rows of states.
        examples: how many texts at most.
        seed: of drawing a task's examples.
        name: what the data are called; by default their own name.
        batch_size: outputs per pass at most; it does not change the result.
        memory_budget: bytes to use beside the model, half of them for the tables.
        progress: called with (done, all) texts.
        should_stop: asked between batches; True ends the work with `Cancelled`.
        options: of `generate`, where outputs have to be written.

    Raises:
        UnknownNameError: a pattern matches no hook point.
        InputError: no texts, or hook points without one vector per position.
        Cancelled: `should_stop` said so.
    """
    names = select_rows(model, points)
    items = read_items(data, examples, seed)
    stores = {name: _Store(memory_budget // 2 // len(names)) for name in names}
    rows: dict[Side, list[Row]] = {side_of(name): [] for name in names}
    for begin in range(0, len(items), SHARD):
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")
        shard = items[begin : begin + SHARD]
        generations = outputs_of(model, shard, batch_size=batch_size, **options)
        limits = {"batch_size": batch_size, "memory_budget": memory_budget // 2}
        views = dict(each for batch in state_batches(model, generations, names, **limits) for each in batch)
        for point, store in stores.items():
            store.add(torch.cat([views[i][point] for i in range(len(shard))]))
        for side, found in rows.items():
            for i, (item, generation) in enumerate(zip(shard, generations, strict=True)):
                found += _rows(item, generation, side, begin + i)
        if progress is not None:
            progress(begin + len(shard), len(items))
    known = {side: tuple(found) for side, found in rows.items()}
    common = {
        "data": name or name_of(data),
        "model_digest": model.digest,
        "data_digest": digest_json([[item.source, item.target] for item in items]),
    }
    return {
        point: StateTable(point, store.values(), known[side_of(point)], folder=store.folder, **common)
        for point, store in stores.items()
    }


def _rows(item: Item, generation: Generation, side: Side, example: int) -> Iterator[Row]:
    about, read = tokens_of(generation, side)
    slots = slots_of(item, generation, side)
    for position, (token, before, slot) in enumerate(zip(about, read, slots, strict=True)):
        yield Row(example, position, len(about), token.text, token.id, before.text, slot)


class _Store:
    """Rows that keep coming: in memory up to a budget, then in a file."""

    def __init__(self, budget: int):
        self.budget = budget
        self.parts: list[Tensor] = []
        self.folder: TemporaryFolder | None = None
        self.width = 0

    def add(self, rows: Tensor) -> None:
        """Append rows [row, width]."""
        self.width = rows.shape[1]
        self.parts.append(rows.float().cpu())
        if sum(part.numel() for part in self.parts) * 4 > self.budget:
            self._spill()

    def _spill(self) -> None:
        self.folder = self.folder or TemporaryFolder()
        with (self.folder.path / "rows.f32").open("ab") as stream:
            for part in self.parts:
                stream.write(part.contiguous().numpy().tobytes())
        self.parts = []

    def values(self) -> Tensor:
        """Everything that was appended: float [row, width]."""
        if self.folder is None:
            return torch.cat(self.parts)
        if self.parts:
            self._spill()
        mapped: Mapping[Any, Any] | np.ndarray = np.memmap(
            self.folder.path / "rows.f32", dtype=np.float32, mode="r+"
        )
        return torch.from_numpy(mapped).reshape(-1, self.width)
