"""The two tables of an audit, written shard by shard: every output with its scores, and every flag."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from explain.audit import detectors as room
from explain.audit.flagging import Count
from explain.audit.inputs import GROUP, Inputs
from explain.audit.measuring import Row
from explain.audit.result import FINDINGS, OUTPUTS, Flag
from explain.audit.shards import Shards
from explain.files import replacing

FINDING_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),
        ("detector", pa.string()),
        ("level", pa.string()),
        ("place", pa.int32()),  # -1: the output as a whole
        ("token", pa.string()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p_value", pa.float64()),
        ("words", pa.list_(pa.string())),
        ("source", pa.string()),
        ("output", pa.string()),
        ("slices", pa.string()),
    ]
)
"""`findings.parquet`: one row per flagged output, or per flagged token where a detector names tokens."""


def write_tables(
    folder: Path, shards: Shards, inputs: Inputs, count: Count, check: Callable[[], None]
) -> None:
    """Merge the shards into the two final tables, one group of shards in memory at a time.

    Args:
        folder: where they go.
        shards: all of them measured.
        inputs: the texts, with the columns of slices.
        count: takes every output in, in order.
        check: called between shards; may raise to end the work.
    """
    outputs = pa.schema(
        [
            ("number", pa.int64()),
            ("source", pa.string()),
            ("output", pa.string()),
            ("expected", pa.string()),
            ("length", pa.int32()),
            ("problem", pa.string()),
            ("flags", pa.list_(pa.string())),
            *((name, pa.float64()) for name in shards.names),
        ]
    )
    with replacing(folder / OUTPUTS) as one, replacing(folder / FINDINGS) as other:
        with _Table(one, outputs) as every, _Table(other, FINDING_COLUMNS) as flagged:
            for index, rows in enumerate(shards):
                check()
                lines, found = [], []
                own_columns = inputs.rows(shards.part(index))
                for row, (_, own) in zip(rows, own_columns, strict=True):
                    flags = count.add(row, own)
                    lines.append(_line(row, flags))
                    slices = {p.name: p.value(own, row.length) for p in count.policy.slices}
                    found += [each for flag in flags for each in _findings(row, flag, slices)]
                every.add(lines)
                flagged.add(found)


class _Table:
    """A Parquet file that is written in large row groups: each costs memory as long as the file is open."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer, self._schema = pq.ParquetWriter(path, schema), schema
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        if not rows:
            return
        self._waiting.append(pa.Table.from_pylist(list(rows), schema=self._schema))
        self._rows += len(rows)
        if self._rows >= GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(
            pa.concat_tables(self._waiting).combine_chunks(), row_group_size=self._rows or 1
        )
        self._waiting, self._rows = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()


def _line(row: Row, flags: Sequence[Flag]) -> dict[str, Any]:
    return {
        "number": row.number,
        "source": row.source,
        "output": row.output,
        "expected": row.expected,
        "length": row.length,
        "problem": row.problem,
        "flags": [flag.detector for flag in flags],
        **{name: score.value for name, score in row.scores.items()},
    }


def _findings(row: Row, flag: Flag, slices: Mapping[str, str]) -> list[dict[str, Any]]:
    level = room.get(flag.detector).level
    tokens = row.source_tokens if level == "source" else row.tokens
    common = {
        "number": row.number,
        "detector": flag.detector,
        "level": level,
        "low": flag.low,
        "high": flag.high,
        "p_value": flag.p_value,
        "words": list(flag.words),
        "source": row.source,
        "output": row.output,
        "slices": json.dumps(dict(slices), ensure_ascii=False),
    }
    if not flag.places:
        return [{**common, "place": -1, "token": "", "score": flag.score}]
    values = row.scores[flag.detector].tokens
    return [{**common, "place": i, "token": tokens[i], "score": values[i]} for i in flag.places]
