"""Rows of data files: tables (.tsv .csv .jsonl .parquet) and lists (.txt), most as .gz; bad rows by place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from explain.errors import EncodingError, ExplainError, FileError

ENDINGS = (".tsv", ".csv", ".jsonl", ".txt", ".parquet")
_BATCH = 1_024
"""Rows of a Parquet file that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it stands, and the error that says why."""

    file: Path
    place: str
    error: ExplainError


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands in the file, as a person would look it up."""

    place: str
    source: Any
    target: Any
    others: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read: source, target (which may be missing where it is not needed) and others."""

    source: str
    target: str
    need_target: bool
    others: tuple[str, ...] = ()

    def find(self, where: str | Path, names: Sequence[str]) -> tuple[int, int | None, dict[str, int]]:
        """Their places among `names`; None is a target that is not there.

        Raises:
            FileError: one is missing.
        """
        there = ", ".join(names) or "none"
        needed = [(self.source, "--source-column")]
        needed += [(self.target, "--target-column")] if self.need_target else []
        for name, option in needed:
            if name not in names:
                raise FileError(
                    f"{where} has no column {name!r}; its columns: {there}; name yours with {option}"
                )
        for name in self.others:
            if name not in names:
                raise FileError(f"{where} has no column {name!r} to slice by; its columns: {there}")
        target = names.index(self.target) if self.target in names else None
        return names.index(self.source), target, {name: names.index(name) for name in self.others}


Rows = Iterator[Row | BadRow]


def rows_of(path: Path, columns: Columns, *, strict: bool) -> Rows:
    """The rows of one data file; unless `strict`, whoever makes texts of them looks for what is not UTF-8.

    Raises:
        FileError: files of this kind cannot be read, or hold no targets where they are needed.
    """
    ending = _ending(path)
    if ending is None:
        raise FileError(
            f"{path}: files of this kind cannot be read; use .tsv, .csv, .jsonl or .txt (each also with .gz) "
            "or .parquet"
        )
    if ending == ".txt" and columns.need_target:
        raise FileError(f"{path} holds sources only; what is asked here needs a table with targets as well")
    return _read_parquet(path, columns) if ending == ".parquet" else _READERS[ending](path, columns, strict)


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The data files that a path names: itself, or those of a folder and its subfolders, by name.

    Hidden files and files of other kinds, such as a README, are not data.

    Raises:
        FileError: a folder without data files.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and _ending(file) is not None
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise FileError(f"the folder {path} holds no data files ({', '.join(ENDINGS)})")
    return found


def _ending(path: Path) -> str | None:
    """The ending that says what a file holds; None of a kind that cannot be read."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    readable = ending in ENDINGS and not (ending == ".parquet" and name.endswith(".gz"))
    return ending if readable else None


def head(path: str | os.PathLike[str], rows: int) -> tuple[list[str], list[list[str]]]:
    """A file's columns and its first rows, as texts; no more of the file is read.

    Rows with another number of fields than the header are filled up or cut; `iter_table` says what is wrong
    with them.

    Raises:
        FileError, EncodingError: as `iter_table`, for what is read.
    """
    path = Path(path)
    ending = _ending(path)
    if ending == ".parquet":
        records = list(islice(_parquet_records(path, None), rows))
    elif ending == ".jsonl":
        lines = (line for _, line in _texts(path) if line.strip())
        records = [_record(line) for line in islice(lines, rows)]
    elif ending == ".txt":
        return ["source"], [[line] for _, line in islice(_texts(path), rows)]
    elif ending is not None:
        cells: Iterator[list[str]] = (row for _, row in _csv_rows(path))
        if ending == ".tsv":
            cells = (row.split("\t") for _, row in _texts(path))
        first, *others = islice(cells, rows + 1)
        names = [name.strip() for name in first]
        return names, [[*row, *[""] * len(names)][: len(names)] for row in others]
    else:
        rows_of(path, Columns("source", "target", False), strict=True)
        raise AssertionError(path)
    names = list(dict.fromkeys(str(name) for record in records for name in record))
    return names, [[to_label(record.get(name)) for name in names] for record in records]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, also a gzipped one.

    Raises:
        FileError: it is missing, broken or empty.
        EncodingError: it is not UTF-8.
    """
    return "".join(_lines(path))


def _lines(path: Path, strict: bool = True) -> Iterator[str]:
    """The lines of a UTF-8 file, also a gzipped one, each with what ends it.

    Unless `strict`, bytes that are not UTF-8 stand as lone surrogates in all lines but the first, for
    `_to_text` to find.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    number, leading = 0, []  # blank lines before the first text, which may be all there is
    try:
        with opened(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                errors = "strict" if strict or number == 1 else "surrogateescape"
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
                if leading is not None:
                    leading.append(text)
                    if not text.strip():
                        continue
                    yield from leading
                    leading = None
                else:
                    yield text
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FileError(f"{path} is not a whole gzip file; it may be cut short: fetch it again") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise EncodingError(f"{path} is not UTF-8 (line {number}); save it as UTF-8 and try again") from None
    if leading is not None:
        raise FileError(f"{path} is empty")


def _texts(path: Path, strict: bool = True) -> Iterator[tuple[int, str]]:
    """The lines of a file by number, without what ends them and without empty ones at the end."""
    # Not splitlines(): it also cuts at characters that may stand inside a text, such as U+2028.
    empty = 0
    for number, line in enumerate(_lines(path, strict), start=1):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text:
            empty += 1
            continue
        yield from ((number - back, "") for back in range(empty, 0, -1))
        empty = 0
        yield number, text


def _read_lines(path: Path, columns: Columns, strict: bool) -> Rows:
    if columns.others:
        raise FileError(f"{path} has no columns to slice by; use a table, or slice by length")
    for number, line in _texts(path, strict):
        yield Row(f"line {number}", line, "")


def _read_tsv(path: Path, columns: Columns, strict: bool) -> Rows:
    # No quote processing: in tab-separated text a quotation mark is a quotation mark.
    return _read_cells(path, ((number, line.split("\t")) for number, line in _texts(path, strict)), columns)


def _read_csv(path: Path, columns: Columns, strict: bool) -> Rows:
    return _read_cells(path, _csv_rows(path, strict), columns)


def _csv_rows(path: Path, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    # A lone carriage return ends a line as well.
    lines = (part for line in _lines(path, strict) for part in io.StringIO(line, newline=""))
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise FileError(f"{path}, line {reader.line_num}: {error}; check the quotation marks") from None


def _read_cells(path: Path, lines: Iterator[tuple[int, list[str]]], columns: Columns) -> Rows:
    _, header = next(lines)
    header = [name.strip() for name in header]
    source, target, others = columns.find(path, header)
    for number, row in lines:
        if len(header) > 1 and row in ([], [""]):
            continue
        if len(row) != len(header):
            yield _bad(
                path,
                number,
                f"has another number of fields than the header ({len(row)}, not {len(header)}); check its "
                "tabs, commas and quotation marks",
            )
            continue
        more = {name: row[index] for name, index in others.items()}
        yield Row(f"line {number}", row[source], "" if target is None else row[target], more)


def _read_jsonl(path: Path, columns: Columns, strict: bool) -> Rows:
    seen: set[str] = set()
    for number, line in _texts(path, strict):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            yield _bad(path, number, "is not valid JSON; write one object per line")
            continue
        if not isinstance(record, dict):
            yield _bad(path, number, f"is not a JSON object, such as {{{columns.source!r}: …}}")
            continue
        names = list(record)
        # A record may leave out a column that is no text; `seen` tells whether all do.
        seen.update(names)
        try:
            source, target, _ = replace(columns, others=()).find(f"{path}, line {number}", names)
        except FileError as error:
            yield BadRow(path, f"line {number}", error)
            continue
        more = {name: record.get(name) for name in columns.others}
        text = "" if target is None else record[names[target]]
        yield Row(f"line {number}", record[names[source]], text, more)
    if seen:
        columns.find(path, sorted(seen))


def _bad(path: Path, number: int, why: str) -> BadRow:
    return BadRow(path, f"line {number}", FileError(f"{path}, line {number} {why}"))


def _record(line: str) -> dict[str, Any]:
    """The object in a line of JSON; an empty one where there is none."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}


def _read_parquet(path: Path, columns: Columns) -> Rows:
    for number, record in enumerate(_parquet_records(path, columns), start=1):
        target = "" if columns.target not in record else record[columns.target]
        more = {name: record[name] for name in columns.others}
        yield Row(f"row {number}", record[columns.source], target, more)


def _parquet_records(path: Path, columns: Columns | None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with the columns asked for or with all."""
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise FileError(
            f"cannot read {path}: {'it is a folder' if path.exists() else 'there is no such file'}"
        )
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            wanted = names = file.schema_arrow.names
            if columns is not None:
                source, target, others = columns.find(path, names)
                places = [source, *([] if target is None else [target]), *others.values()]
                wanted = list(dict.fromkeys(names[place] for place in places))
            for batch in file.iter_batches(_BATCH, columns=wanted):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{path} cannot be read as Parquet: {reason}") from None


_READERS = {".txt": _read_lines, ".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}


def to_label(value: Any) -> str:
    """A cell of a further column as text; nothing, and NaN, as an empty one."""
    return "" if value is None or value != value else str(value)
