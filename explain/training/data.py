"""Text pairs from data files (see `explain.training.rows`), their digest and their division."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explain.errors import EmptyTextError, EncodingError, FileError, InputError
from explain.files import digest_json
from explain.training.rows import ENDINGS, BadRow, Columns, Row, files_of, head, read_text, rows_of, to_label

__all__ = [
    "ENDINGS",
    "BadRow",
    "Columns",
    "Pair",
    "digest",
    "files_of",
    "head",
    "iter_table",
    "read_table",
    "read_text",
    "shuffle",
    "split",
]


@dataclass(frozen=True, slots=True)
class Pair:
    """One source text and, where there is one, the text it should become."""

    source: str
    target: str = ""


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
    bad: list[BadRow] | None = None,
) -> Iterator[tuple[Pair, dict[str, str]]]:
    """The pairs of a data file, in order, each with the texts of `others`, further columns by name.

    A `.txt` file holds one source per line. Of a folder, all data files in it are read, by name. Without
    `need_target` the target column may be missing, and its texts may be empty. One row (of Parquet: one
    batch) is in memory at a time.

    Args:
        path: the file or folder.
        source_column: name of the column with the sources.
        target_column: name of the column with the targets.
        need_target: whether every row must have a target.
        others: further columns.
        bad: where to put the rows that cannot be used; left out, the first of them is an error.

    Raises:
        FileError: the file is missing, of an unknown kind, broken or empty, or lacks a column.
        EncodingError: it is not UTF-8.
        EmptyTextError: a row has no text where one is needed.
    """
    columns = Columns(source_column, target_column, need_target, tuple(others))
    for file in files_of(path):
        yield from _iter_file(file, columns, bad)


def _iter_file(
    path: Path, columns: Columns, bad: list[BadRow] | None
) -> Iterator[tuple[Pair, dict[str, str]]]:
    rows = rows_of(path, columns, strict=bad is None)
    empty, first = True, None
    for row in rows:
        try:
            if isinstance(row, BadRow):
                raise row.error
            pair = _to_pair(path, row, columns.need_target)
        except (FileError, InputError) as error:
            if bad is None:
                raise
            first = first or error
            bad.append(BadRow(path, row.place, error))
            continue
        empty = False
        yield pair, {key: to_label(value) for key, value in row.others.items()}
    if first is not None and empty:
        raise first
    if empty:
        raise FileError(f"{path} has no rows")


def digest(pairs: Iterable[Pair]) -> str:
    """The digest of the pairs' texts, whatever kind of file they came from."""
    return digest_json([[pair.source, pair.target] for pair in pairs])


def split(
    pairs: Sequence[Pair], held_out: int | None = None, seed: int = 0, share: float = 0.05
) -> tuple[list[Pair], list[Pair]]:
    """Divide pairs into those to train on and those held out; no source text is in both.

    Which side a source is on is a hash of the seed and its own text: rows that are added or put in another
    order move no other row. (With so few that none would be held out, the one with the lowest hash is.)

    Args:
        pairs: what to divide.
        held_out: how many distinct sources to hold out, instead of a share; rows that are added may then
            move others. A single source cannot be divided and is returned as both.
        seed: another seed gives another division.
        share: share of the distinct sources to hold out, on average.
    """
    ranked = sorted({pair.source for pair in pairs}, key=lambda text: _rank(text, seed))
    if len(ranked) < 2:
        return list(pairs), list(pairs)
    if held_out is None:
        below = round(share * 2**32).to_bytes(4, "big")
        held_out = max(1, sum(_rank(text, seed)[:4] < below for text in ranked))
    chosen = set(ranked[: min(held_out, len(ranked) - 1)])
    train = [pair for pair in pairs if pair.source not in chosen]
    return train, [pair for pair in pairs if pair.source in chosen]


def shuffle(pairs: Iterable[Pair], seed: int = 0) -> list[Pair]:
    """The pairs in an order that depends on the seed and the sources alone."""
    return sorted(pairs, key=lambda pair: _rank(pair.source, seed))


def _rank(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


def _to_pair(path: Path, row: Row, need_target: bool) -> Pair:
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
    except UnicodeEncodeError as error:
        if "\udc80" <= text[error.start] <= "\udcff" and path.suffix.lower() != ".parquet":
            raise EncodingError(
                f"{path}, {place}: the {side} is not UTF-8; save the file as UTF-8, or take the row out"
            ) from None
        raise EncodingError(
            f"{path}, {place}: the {side} holds half a character (a lone surrogate)"
        ) from None
    return text
