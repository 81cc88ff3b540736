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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explain.errors import EmptyTextError, EncodingError, FileError
from explain.files import digest_json

ENDINGS = (".tsv", ".csv", ".jsonl", ".txt", ".parquet")


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


def read_table(
    path: str | os.PathLike[str],
    source_column: str = "source",
    target_column: str = "target",
    need_target: bool = True,
) -> list[Pair]:
    """Read the pairs of a data file, in order.

    A `.txt` file holds one source per line. Without `need_target` the target column may be missing, and its
    texts may be empty.

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
    columns = (source_column, target_column if need_target else None, target_column)
    if ending == ".parquet":
        rows = _read_parquet(path, columns)
    else:
        text = read_text(path)
        rows = _READERS[ending](path, text, columns)
    pairs = [_to_pair(path, row, need_target) for row in rows]
    if not pairs:
        raise FileError(f"{path} has no rows")
    return pairs


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


Columns = tuple[str, str | None, str]
"""Source column, the target column if it must be there, and the target column if it happens to be."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, also a gzipped one.

    Raises:
        FileError: it is missing, broken or empty.
        EncodingError: it is not UTF-8.
    """
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FileError(f"{path} is not a whole gzip file; it may be cut short: fetch it again") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EncodingError(f"{path} is not UTF-8 (line {line}); save it as UTF-8 and try again") from None
    if not text.strip():
        raise FileError(f"{path} is empty")
    return text


def _lines(text: str) -> list[str]:
    # Not splitlines(): it also cuts at characters that may stand inside a text, such as U+2028.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _read_lines(path: Path, text: str, columns: Columns) -> Iterator[_Row]:
    for number, line in enumerate(_lines(text), start=1):
        yield _Row(f"line {number}", line, "")


def _read_tsv(path: Path, text: str, columns: Columns) -> Iterator[_Row]:
    # No quote processing: in tab-separated text a quotation mark is a quotation mark.
    lines = ((number, line.split("\t")) for number, line in enumerate(_lines(text), start=1))
    return _read_cells(path, lines, columns)


def _read_csv(path: Path, text: str, columns: Columns) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

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
    source, target = _find_columns(path, header, columns)
    for number, row in lines:
        if len(header) > 1 and row in ([], [""]):
            continue
        if len(row) != len(header):
            raise FileError(
                f"{path}, line {number} has another number of fields than the header ({len(row)}, not "
                f"{len(header)}); check its tabs, commas and quotation marks"
            )
        yield _Row(f"line {number}", row[source], "" if target is None else row[target])


def _read_jsonl(path: Path, text: str, columns: Columns) -> Iterator[_Row]:
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise FileError(f"{path}, line {number} is not valid JSON; write one object per line") from None
        if not isinstance(record, dict):
            raise FileError(f"{path}, line {number} is not a JSON object, such as {{{columns[0]!r}: …}}")
        names = list(record)
        source, target = _find_columns(f"{path}, line {number}", names, columns)
        yield _Row(f"line {number}", record[names[source]], "" if target is None else record[names[target]])


def _read_parquet(path: Path, columns: Columns) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise FileError(
            f"cannot read {path}: {'it is a folder' if path.exists() else 'there is no such file'}"
        )
    try:
        names = pyarrow.parquet.read_schema(path).names
        source, target = _find_columns(path, names, columns)
        wanted = list(dict.fromkeys(names[index] for index in (source, target) if index is not None))
        table = pyarrow.parquet.read_table(path, columns=wanted)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{path} cannot be read as Parquet: {reason}") from None
    sources = table.column(names[source]).to_pylist()
    targets = [""] * len(sources) if target is None else table.column(names[target]).to_pylist()
    for number, (left, right) in enumerate(zip(sources, targets, strict=True), start=1):
        yield _Row(f"row {number}", left, right)


_READERS = {".txt": _read_lines, ".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}


def _find_columns(where: str | Path, names: Sequence[str], columns: Columns) -> tuple[int, int | None]:
    source, needed, optional = columns
    for name, option in ((source, "--source-column"), (needed, "--target-column")):
        if name is not None and name not in names:
            there = ", ".join(names) or "none"
            raise FileError(f"{where} has no column {name!r}; its columns: {there}; name yours with {option}")
    return names.index(source), names.index(optional) if optional in names else None


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
