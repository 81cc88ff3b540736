"""The run over a data set: shards that are measured once, written whole, and merged in order.

```
shards/plan.json       what the scores depend on; another plan's shards are refused
shards/inputs.parquet  the texts of all of them
shards/000000.parquet  64 outputs with the scores of every detector
```

A killed run loses the shard that it was in and nothing else. Merging reads one shard at a time, so memory
does not grow with the number of outputs, and the same shards give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from explain.audit import detectors as room
from explain.audit.detectors import Score
from explain.audit.inputs import FILE as INPUTS
from explain.audit.inputs import Inputs
from explain.audit.measuring import Row
from explain.errors import FileError, RunError
from explain.files import read_json, replacing, write_json

SIZE = 64
"""Outputs in a shard."""
FOLDER = "shards"
PLAN = "plan.json"


def schema(names: Sequence[str]) -> pa.Schema:
    """The columns of a shard with the scores of the detectors `names`."""
    texts = pa.list_(pa.string())
    columns: list[tuple[str, pa.DataType]] = [
        ("number", pa.int64()),
        ("source", pa.string()),
        ("expected", pa.string()),
        ("output", pa.string()),
        ("source_tokens", texts),
        ("tokens", texts),
        ("length", pa.int32()),
        ("problem", pa.string()),
    ]
    for name in names:
        columns.append((name, pa.float64()))
        if room.get(name).level != "output":
            columns.append((f"{name}.tokens", pa.list_(pa.float64())))
        columns.append((f"{name}.words", texts))
    return pa.schema([pa.field(name, kind) for name, kind in columns])


def to_table(rows: Sequence[Row], names: Sequence[str]) -> pa.Table:
    """The rows of a shard as a table."""
    columns: dict[str, list[Any]] = {
        key: [getattr(row, key) for row in rows]
        for key in ("number", "source", "expected", "output", "length", "problem")
    }
    columns |= {key: [list(getattr(row, key)) for row in rows] for key in ("source_tokens", "tokens")}
    for name in names:
        found = [row.scores.get(name, Score(float("nan"))) for row in rows]
        columns[name] = [score.value for score in found]
        columns[f"{name}.words"] = [list(score.words) for score in found]
        columns[f"{name}.tokens"] = [list(score.tokens) for score in found]
    own = schema(names)
    return pa.table({key: columns[key] for key in own.names}, schema=own)


def from_table(table: pa.Table, names: Sequence[str]) -> list[Row]:
    """The rows of a shard's table."""
    rows = []
    for item in table.to_pylist():
        scores = {
            name: Score(item[name], tuple(item.get(f"{name}.tokens") or ()), tuple(item[f"{name}.words"]))
            for name in names
            if not item["problem"]
        }
        rows.append(
            Row(
                number=item["number"],
                source=item["source"],
                expected=item["expected"],
                output=item["output"],
                source_tokens=tuple(item["source_tokens"]),
                tokens=tuple(item["tokens"]),
                length=item["length"],
                scores=scores,
                problem=item["problem"],
            )
        )
    return rows


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


class Shards:
    """The shards of one audit in its folder.

    Args:
        folder: the audit's folder.
        names: detectors.
        examples: outputs in all.
    """

    def __init__(self, folder: Path, names: Sequence[str], examples: int) -> None:
        self.folder = folder / FOLDER
        self.names = tuple(names)
        self.examples = examples

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Begin, or go on with what is there.

        Args:
            plan: everything that the scores depend on.

        Raises:
            RunError: the folder has shards of another plan.
        """
        path = self.folder / PLAN
        wanted = {"schema": "explain/audit-plan@1", **plan}
        if self.begun():
            there = read_json(path, "audit-plan")
            different = [key for key in wanted if there.get(key) != wanted[key]]
            if different:
                raise RunError(
                    f"{self.folder.parent} was begun with another {different[0].replace('_', ' ')}; give the "
                    "same again to resume it, or name another folder"
                )
        else:
            write_json(path, wanted)

    def begun(self) -> bool:
        """Whether there is a plan."""
        return (self.folder / PLAN).is_file()

    def inputs(self) -> Inputs:
        """The texts.

        Raises:
            FileError: they are not there.
        """
        return Inputs(self.folder / INPUTS)

    def __len__(self) -> int:
        return -(-self.examples // SIZE)

    def part(self, index: int) -> range:
        """The numbers of a shard's outputs."""
        return range(index * SIZE, min((index + 1) * SIZE, self.examples))

    def path(self, index: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{index:06d}.parquet"

    def missing(self) -> list[int]:
        """The shards that are not there, or not whole."""
        return [index for index in range(len(self)) if not self.whole(index)]

    def whole(self, index: int) -> bool:
        """Whether a shard is there in full."""
        try:
            return pq.read_metadata(self.path(index)).num_rows == len(self.part(index))
        except (OSError, pa.ArrowException):
            return False

    def write(self, index: int, rows: Sequence[Row]) -> None:
        """Write the rows of a shard."""
        write_table(self.path(index), to_table(rows, self.names))

    def __iter__(self) -> Iterator[list[Row]]:
        """The rows of every shard, in order.

        Raises:
            FileError: a shard cannot be read.
        """
        for index in range(len(self)):
            try:
                yield from_table_list(self.path(index), self.names)
            except (OSError, pa.ArrowException, KeyError) as error:
                raise FileError(
                    f"{self.path(index)} is a broken shard: {error}; delete it and resume"
                ) from None


def from_table_list(path: Path, names: Sequence[str]) -> list[Row]:
    """The rows of a shard's file."""
    return from_table(pq.read_table(path), names)
