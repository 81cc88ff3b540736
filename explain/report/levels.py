"""Which level a map is drawn at: the finest of token, word and sentence that a reader can still take in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explain.errors import InputError, UnknownNameError
from explain.report.labels import plural
from explain.results import REDUCTIONS, Attribution, Token, group_sentences, group_words

# A map with more columns or rows than this is drawn at the next coarser level.
FIT_COLUMNS = 150
FIT_ROWS = 120
_COARSER = {"token": ("word", "sentence"), "span": ("word", "sentence"), "word": ("sentence",)}
CHOICES = ("token", "word", "sentence")


@dataclass(frozen=True, eq=False)
class Fitted:
    """An attribution at the level it is drawn at; `note` says why it was merged, and is empty otherwise."""

    attribution: Attribution
    note: str


def check_level(level: str | None, over: str) -> None:
    """Refuse a level or reduction that there is not, and a reduction with nothing to reduce.

    Raises:
        InputError: no such level, or another reduction than the sum between tokens.
        UnknownNameError: no such reduction.
    """
    if level is not None and level not in CHOICES:
        raise InputError(f"level is {level!r}; it is one of {', '.join(CHOICES)}")
    if over not in REDUCTIONS:
        raise UnknownNameError("reduction", over, REDUCTIONS)
    if level == "token" and over != "sum":
        raise InputError(f"over={over} merges tokens, and level token merges none; choose word or sentence")


def at_level(attribution: Attribution, level: str, over: str = "sum") -> Attribution:
    """The attribution at the level, or at its own where that is the same or coarser."""
    if level not in _COARSER.get(attribution.level, ()):
        return attribution
    return attribution.words(over=over) if level == "word" else attribution.sentences(over=over)


def groups_at(level: str, tokens: Sequence[Token], text: str) -> list[list[int]]:
    """Which tokens of a text each row or column at the level stands for; one each where none is merged."""
    group = {"word": group_words, "sentence": group_sentences}.get(level)
    return [[index] for index in range(len(tokens))] if group is None else group(tokens, text)


def levels_of(attribution: Attribution) -> tuple[str, ...]:
    """The levels that the attribution can be drawn at, its own first."""
    return (attribution.level, *_COARSER.get(attribution.level, ()))


def columns_of(attribution: Attribution) -> int:
    """How many columns a map has: source, decoder start, and earlier output."""
    begun = bool((attribution.start != 0).any())
    return len(attribution.source_tokens) + begun + len(attribution.target_tokens)


def fits(attribution: Attribution) -> bool:
    """A map of it can be read at a glance."""
    return columns_of(attribution) <= FIT_COLUMNS and len(attribution.target_tokens) <= FIT_ROWS


def fitted(attribution: Attribution, over: str = "sum", *, whole: Attribution | None = None) -> Fitted:
    """The attribution at the finest level whose map fits, else the coarsest; the note says what was merged.

    One sentence is no map: a text without sentence ends is left as it is. `whole` is the attribution whose
    numbers a reader can have, where it is finer.
    """
    if fits(attribution):
        return Fitted(attribution, "")
    told = whole or attribution
    output = plural(len(told.target_tokens), f"output {told.level}")
    size = f"{len(told.source_tokens):,} source and {output} do not fit"
    where = f"the numbers of every {told.level} are in the CSV and JSON"
    coarser = [at_level(attribution, level, over) for level in levels_of(attribution)[1:]]
    useful = [found for found in coarser if sum(not token.special for token in found.source_tokens) > 1]
    if not useful:
        return Fitted(attribution, f"{size}, and there are no sentences to merge them by; {where}.")
    best = next((found for found in useful if fits(found)), useful[-1])
    return Fitted(best, f"Shown by {best.level}: {size}; {where}.")
