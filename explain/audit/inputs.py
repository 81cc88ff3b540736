"""The texts of an audit in one file on disk, read in parts: memory does not grow with their number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import pyarrow as pa
import pyarrow.parquet as pq

from explain.errors import EmptyTextError, FileError
from explain.training.data import Pair

FILE = "inputs.parquet"
GROUP = 16_384
"""Rows that are in memory at a time; whole shards."""
_OTHER = "column "

Texts = tuple[Pair, dict[str, str]]
"""A pair, and the texts of the columns that slices need, by name."""


def write_inputs(path: Path, rows: Iterable[Texts], columns: Sequence[str] = ()) -> str:
    """Write texts to a Parquet file; their digest, as `explain.training.data.digest` gives it.

    Args:
        path: the file.
        rows: pairs with the texts of other columns.
        columns: the names of these.

    Raises:
        EmptyTextError: there are no rows.
    """
    rows, size, count = iter(rows), 0, 0
    names = ["source", "target", *(_OTHER + name for name in columns)]
    schema = pa.schema([(name, pa.string()) for name in names])
    with pq.ParquetWriter(path, schema) as writer:
        while part := list(islice(rows, GROUP)):
            count += len(part)
            size += sum(len(_json(pair)) for pair, _ in part)
            lines = ((pair.source, pair.target, *(more[name] for name in columns)) for pair, more in part)
            writer.write_table(pa.table(list(zip(*lines, strict=True)), schema=schema))
    if not count:
        raise EmptyTextError("there is nothing to audit: the data have no rows")
    # A digest begins with the length of what it digests, so the texts are read a second time.
    state = hashlib.sha256((size + 2 * count).to_bytes(8, "little"))
    state.update(b"[")
    for number, pair in enumerate(Inputs(path)):
        state.update((b", " if number else b"") + _json(pair))
    state.update(b"]")
    return f"sha256:{state.hexdigest()}"


def _json(pair: Pair) -> bytes:
    return json.dumps([pair.source, pair.target], ensure_ascii=False).encode()


class Inputs(Sequence[Pair]):
    """The pairs of a file of `write_inputs`, as a sequence of which one part is in memory.

    Raises:
        FileError: the file is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise FileError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        self._count = self._file.metadata.num_rows
        self._columns = [name.removeprefix(_OTHER) for name in self._file.schema_arrow.names[2:]]
        self._part, self._at = None, -1

    def __len__(self) -> int:
        return self._count

    def rows(self, numbers: range) -> Iterator[Texts]:
        """The pairs of some numbers with the texts of their other columns."""
        for number in numbers:
            place, at = divmod(number, GROUP)
            if self._part is None or place != self._at:
                self._part, self._at = self._file.read_row_group(place), place
            source, target, *others = (column[at].as_py() for column in self._part.columns)
            yield Pair(source, target), dict(zip(self._columns, others, strict=True))

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        numbers = range(self._count)[index]
        if isinstance(numbers, range):
            return [pair for pair, _ in self.rows(numbers)]
        return self[numbers : numbers + 1][0]

    def __iter__(self) -> Iterator[Pair]:
        return (pair for pair, _ in self.rows(range(self._count)))
