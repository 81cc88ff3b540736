"""Text pairs from files: tables (.tsv .csv .jsonl .parquet), lists (.txt), each but Parquet also .gz."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from explain.errors import EmptyTextError, EncodingError, FileError
from explain.files import digest_json

ENDINGS = (".tsv", ".csv", ".jsonl", ".txt", ".parquet")
_BATCH = 1_024
"""Rows of a Parquet file that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One source text and, where there is one, the text it should become."""

    source: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row and where it stands in the file, as a person would look it up."""

    place: str
    source: Any
    target: Any
    others: dict[str, Any] = field(default_factory=dict)


def read_table(
    path: str | os.PathLike[str],
    source_column: str = "source",
    target_column: str = "target",
    need_target: bool = True,
) -> list[Pair]:
    """Read the pairs of a data file, in order; see `iter_table` for what a file may hold, and the errors."""
    return [pair for pair, _ in iter_table(path, source_column, target_column, need_target)]


def iter_table(
    path: str | os.PathLike[str],
    source_column: str = "source",
    target_column: str = "target",
    need_target: bool = True,
    others: Sequence[str] = (),
) -> Iterator[tuple[Pair, dict[str, str]]]:
    """The pairs of a data file, in order, each with the texts of `others`, further columns by name.

    A `.txt` file holds one source per line. Without `need_target` the target column may be missing, and its
    texts may be empty. One row (of Parquet: one batch) is in memory at a time.

    Raises:
        FileError: the file is missing, of an unknown kind, broken or empty, or lacks a column.
        EncodingError: it is not UTF-8.
        EmptyTextError: a row has no text where one is needed.
    """
    path = Path(path)
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    if ending not in ENDINGS or (ending == ".parquet" and name.endswith(".gz")):
        raise FileError(
            f"{path}: files of this kind cannot be read; use .tsv, .csv, .jsonl or .txt (each also with .gz) "
            "or .parquet"
        )
    if ending == ".txt" and need_target:
        raise FileError(f"{path} holds sources only; what is asked here needs a table with targets as well")
    columns = Columns(source_column, target_column, need_target, tuple(others))
    rows = _read_parquet(path, columns) if ending == ".parquet" else _READERS[ending](path, columns)
    empty = True
    for row in rows:
        empty = False
        yield _to_pair(path, row, need_target), {key: _to_label(value) for key, value in row.others.items()}
    if empty:
        raise FileError(f"{path} has no rows")


def digest(pairs: Iterable[Pair]) -> str:
    """The digest of the pairs' texts, whatever kind of file they came from."""
    return digest_json([[pair.source, pair.target] for pair in pairs])


def split(pairs: Sequence[Pair], held_out: int | None = None, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Divide pairs into those to train on and those held out; no source text is in both.

    A source's place depends only on the seed and its own text against the others', not on their order.

    Args:
        pairs: what to divide.
        held_out: how many distinct sources to hold out; left out, one in twenty, at most 1,000. A single
            source cannot be divided and is returned as both.
        seed: another seed gives another division.
    """
    ranked = sorted({pair.source for pair in pairs}, key=lambda text: _rank(text, seed))
    if len(ranked) < 2:
        return list(pairs), list(pairs)
    wanted = held_out if held_out is not None else min(1000, max(1, len(ranked) // 20))
    chosen = set(ranked[: min(wanted, len(ranked) - 1)])
    train = [pair for pair in pairs if pair.source not in chosen]
    return train, [pair for pair in pairs if pair.source in chosen]


def shuffle(pairs: Iterable[Pair], seed: int = 0) -> list[Pair]:
    """The pairs in an order that depends on the seed and the sources alone."""
    return sorted(pairs, key=lambda pair: _rank(pair.source, seed))


def _rank(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


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


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, also a gzipped one.

    Raises:
        FileError: it is missing, broken or empty.
        EncodingError: it is not UTF-8.
    """
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, also a gzipped one, each with what ends it."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    number, leading = 0, []  # blank lines before the first text, which may be all there is
    try:
        with opened(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
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


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file by number, without what ends them and without empty ones at the end."""
    # Not splitlines(): it also cuts at characters that may stand inside a text, such as U+2028.
    empty = 0
    for number, line in enumerate(_lines(path), start=1):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text:
            empty += 1
            continue
        yield from ((number - back, "") for back in range(empty, 0, -1))
        empty = 0
        yield number, text


def _read_lines(path: Path, columns: Columns) -> Iterator[_Row]:
    if columns.others:
        raise FileError(f"{path} has no columns to slice by; use a table, or slice by length")
    for number, line in _texts(path):
        yield _Row(f"line {number}", line, "")


def _read_tsv(path: Path, columns: Columns) -> Iterator[_Row]:
    # No quote processing: in tab-separated text a quotation mark is a quotation mark.
    return _read_cells(path, ((number, line.split("\t")) for number, line in _texts(path)), columns)


def _read_csv(path: Path, columns: Columns) -> Iterator[_Row]:
    # A lone carriage return ends a line as well.
    lines = (part for line in _lines(path) for part in io.StringIO(line, newline=""))
    reader = csv.reader(lines, strict=True)

    def cells() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise FileError(f"{path}, line {reader.line_num}: {error}; check the quotation marks") from None

    return _read_cells(path, cells(), columns)


def _read_cells(path: Path, lines: Iterator[tuple[int, list[str]]], columns: Columns) -> Iterator[_Row]:
    _, header = next(lines)
    header = [name.strip() for name in header]
    source, target, others = columns.find(path, header)
    for number, row in lines:
        if len(header) > 1 and row in ([], [""]):
            continue
        if len(row) != len(header):
            raise FileError(
                f"{path}, line {number} has another number of fields than the header ({len(row)}, not "
                f"{len(header)}); check its tabs, commas and quotation marks"
            )
        more = {name: row[index] for name, index in others.items()}
        yield _Row(f"line {number}", row[source], "" if target is None else row[target], more)


def _read_jsonl(path: Path, columns: Columns) -> Iterator[_Row]:
    seen: set[str] = set()
    for number, line in _texts(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise FileError(f"{path}, line {number} is not valid JSON; write one object per line") from None
        if not isinstance(record, dict):
            raise FileError(f"{path}, line {number} is not a JSON object, such as {{{columns.source!r}: …}}")
        names = list(record)
        # A record may leave out a column that is no text; `seen` tells whether all do.
        seen.update(names)
        source, target, _ = replace(columns, others=()).find(f"{path}, line {number}", names)
        more = {name: record.get(name) for name in columns.others}
        text = "" if target is None else record[names[target]]
        yield _Row(f"line {number}", record[names[source]], text, more)
    if seen:
        columns.find(path, sorted(seen))


def _read_parquet(path: Path, columns: Columns) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise FileError(
            f"cannot read {path}: {'it is a folder' if path.exists() else 'there is no such file'}"
        )
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            source, target, others = columns.find(path, names)
            wanted = [names[index] for index in (source, target) if index is not None]
            for batch in file.iter_batches(_BATCH, columns=list(dict.fromkeys([*wanted, *others]))):
                for record in batch.to_pylist():
                    number += 1
                    text = "" if target is None else record[names[target]]
                    more = {name: record[name] for name in others}
                    yield _Row(f"row {number}", record[names[source]], text, more)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{path} cannot be read as Parquet: {reason}") from None


_READERS = {".txt": _read_lines, ".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}


def _to_label(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _to_pair(path: Path, row: _Row, need_target: bool) -> Pair:
    return Pair(
        source=_to_text(path, row.place, "source", row.source, needed=True),
        target=_to_text(path, row.place, "target", row.target, needed=need_target),
    )


def _to_text(path: Path, place: str, side: str, value: Any, *, needed: bool) -> str:
    text = "" if value is None else value
    if not isinstance(text, str):
        raise FileError(f"{path}, {place}: the {side} is not a text but {value!r}; write it as a text")
    if needed and not text.strip():
        raise EmptyTextError(f"{path}, {place} has an empty {side}; fill it in or take the row out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EncodingError(
            f"{path}, {place}: the {side} holds half a character (a lone surrogate)"
        ) from None
    return text
