"""Other columns of a data file, by which an audit can be sliced."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from explain.errors import FileError
from explain.training.data import read_text


def read_columns(path: str | Path, names: Sequence[str], rows: int) -> list[dict[str, str]]:
    """The values of columns, as texts, for every row of a data file that `read_table` has read.

    Raises:
        FileError: the file lacks a column, or has another number of rows.
    """
    path = Path(path)
    if not names:
        return [{} for _ in range(rows)]
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending == ".txt":
        raise FileError(f"{path} has no columns to slice by; use a table, or slice by length")
    if ending == ".parquet":
        table = pd.read_parquet(path)
    elif ending == ".jsonl":
        lines = read_text(path).split("\n")
        table = pd.DataFrame([json.loads(line) for line in lines if line.strip()])
    else:
        tsv = ending == ".tsv"
        table = pd.read_csv(
            path,
            sep="\t" if tsv else ",",
            quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    table.columns = [str(name).strip() for name in table.columns]
    for name in names:
        if name not in table:
            raise FileError(
                f"{path} has no column {name!r} to slice by; its columns: {', '.join(table.columns)}"
            )
    if len(table) != rows:
        raise FileError(
            f"{path} has {len(table)} rows with columns, but {rows} with texts; check it for gaps"
        )
    wanted = table[list(names)].astype(object).where(table[list(names)].notna(), "")
    return [dict(zip(names, map(str, row), strict=True)) for row in wanted.itertuples(index=False, name=None)]
