"""What is in a data file before anything is trained on it: columns, first rows, lengths, words, faults."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from explain.training.data import Pair, digest, files_of, head
from explain.training.material import divided


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a file, or of a folder's first file.

    Attributes:
        files: the data files, by name.
        columns: names of the columns.
        rows: the first rows, a text for each column.
        source: the column that is likely to hold the sources.
        target: the column that is likely to hold the targets; None where there is only one column.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    source: str
    target: str | None

    def to_dict(self) -> dict[str, Any]:
        """The preview as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts are: the shortest, the middle one, the one that 95 % are no longer than, the longest."""

    least: int
    median: float
    percentile_95: float
    most: int
    mean: float

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        """Summarise at least one length."""
        array = np.asarray(lengths)
        middle, high = np.percentile(array, [50, 95])
        return cls(int(array.min()), float(middle), float(high), int(array.max()), float(array.mean()))


@dataclass(frozen=True, slots=True)
class Side:
    """The sources, or the targets.

    Attributes:
        characters: lengths in characters.
        tokens: lengths in tokens, the end of the text included.
        words: number of distinct words, between white space, as they are written.
        words_once: number of words that occur only once.
        vocabulary: number of distinct tokens used.
        unknown: number of tokens that stand for something the tokenizer does not know.
    """

    characters: Lengths
    tokens: Lengths
    words: int
    words_once: int
    vocabulary: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Pairs in numbers.

    Attributes:
        files: the data files, by name.
        rows: number of rows that can be used, those of a validation file included.
        bad_rows: of each row that cannot be used, where it stands and why.
        train: number of rows to train on.
        held_out: number of rows held out.
        duplicates: number of rows that say the same as an earlier one, source and target.
        contradictions: number of distinct sources that have more than one target.
        leaked: number of held-out rows whose source is among those to train on.
        nearly_leaked: number of further ones whose source is, but for case, digits, punctuation and spaces.
        known_targets: number of held-out rows whose target is also a target to train on.
        source: the sources.
        target: the targets.
        tokenizer: what counted the tokens.
        digest: digest of all rows that can be used.
    """

    files: tuple[str, ...]
    rows: int
    bad_rows: tuple[str, ...]
    train: int
    held_out: int
    duplicates: int
    contradictions: int
    leaked: int
    nearly_leaked: int
    known_targets: int
    source: Side
    target: Side
    tokenizer: str
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a JSON object."""
        return asdict(self)


def preview(path: str | os.PathLike[str], rows: int = 5) -> Preview:
    """The columns and first rows of a data file, or of a folder's first; no more of it is read.

    Raises:
        FileError, EncodingError: the file cannot be read.
    """
    files = files_of(path)
    columns, found = head(files[0], rows)
    source = (
        "source" if "source" in columns else next((name for name in columns if name != "target"), "source")
    )
    others = [name for name in columns if name != source]
    target = "target" if "target" in others else next(iter(others), None)
    return Preview(tuple(map(str, files)), tuple(columns), tuple(map(tuple, found)), source, target)


def statistics(
    path: str | os.PathLike[str],
    *,
    source_column: str = "source",
    target_column: str = "target",
    validation: str | os.PathLike[str] | None = None,
    seed: int = 0,
    tokenizer: Any = "bpe",
) -> Statistics:
    """Describe the pairs of a file or folder, divided as in training; rows that cannot be used are told.

    Args:
        path: a file or folder.
        source_column: name of the column with the sources.
        target_column: name of the column with the targets.
        validation: a file of pairs held out; left out, some of the rows are.
        seed: decides which.
        tokenizer: a model's tokenizer, or the kind of one to build from the rows to train on.

    Raises:
        ExplainError: the file cannot be read, or has no row that can be used.
    """
    columns = (source_column, target_column)
    train, held_out, bad = divided(path, validation, columns, seed=seed, skip=True)
    name = type(tokenizer).__name__
    if isinstance(tokenizer, str):
        from explain.training.tokenizer import build_tokenizer, choose_vocabulary

        texts = [text for pair in train for text in (pair.source, pair.target)]
        name = f"{tokenizer}, built from the rows to train on"
        tokenizer = build_tokenizer(texts, choose_vocabulary(texts), tokenizer)
    # A single source is on both sides.
    rows = train if train == held_out else [*train, *held_out]
    sources = {pair.source for pair in train}
    near = {_plain(source) for source in sources}
    unseen = [pair for pair in held_out if pair.source not in sources]
    targets = {pair.target for pair in train}
    from explain.training.tokenizer import encode

    inputs, labels = encode(tokenizer, [pair.source for pair in rows], [pair.target for pair in rows])
    unknown = getattr(tokenizer, "unk_token_id", None)
    return Statistics(
        files=tuple(str(file) for one in (path, validation) if one is not None for file in files_of(one)),
        rows=len(rows),
        bad_rows=tuple(str(row.error) for row in bad),
        train=len(train),
        held_out=len(held_out),
        duplicates=len(rows) - len(set(rows)),
        contradictions=_contradictions(rows),
        leaked=len(held_out) - len(unseen),
        nearly_leaked=sum(_plain(pair.source) in near for pair in unseen),
        known_targets=sum(pair.target in targets for pair in held_out),
        source=_side([pair.source for pair in rows], inputs, unknown),
        target=_side([pair.target for pair in rows], labels, unknown),
        tokenizer=f"{name} ({len(tokenizer):,} tokens)",
        digest=digest(rows),
    )


def _side(texts: Sequence[str], ids: Sequence[Sequence[int]], unknown: int | None) -> Side:
    words = Counter(word for text in texts for word in text.split())
    tokens = Counter(id_ for row in ids for id_ in row)
    return Side(
        characters=Lengths.of([len(text) for text in texts]),
        tokens=Lengths.of([len(row) for row in ids]),
        words=len(words),
        words_once=sum(count == 1 for count in words.values()),
        vocabulary=len(tokens),
        unknown=0 if unknown is None else tokens[unknown],
    )


def _contradictions(rows: Sequence[Pair]) -> int:
    targets = Counter(pair.source for pair in set(rows))
    return sum(count > 1 for count in targets.values())


def _plain(text: str) -> str:
    """A text without what near copies differ in; every number is the same."""
    return " ".join(re.sub(r"[\W_]+", " ", re.sub(r"\d+", "0", text.casefold())).split())
