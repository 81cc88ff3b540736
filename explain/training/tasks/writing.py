"""Writing texts piece by piece while keeping where each piece lies; dates, which two tasks share."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from explain.training.tasks.base import Group, SourceSegment, TargetSegment, source

Piece: TypeAlias = tuple[str, tuple[str, ...]]
"""Some source text and the slots that it carries."""

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


class Writer:
    """Text so far; `word` puts a space between words, except after an elision ("l'")."""

    def __init__(self, capital: bool = False):
        self._parts: list[str] = []
        self._length = 0
        self._capital = capital

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._parts)

    def _append(self, text: str) -> tuple[int, int]:
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        return start, self._length

    def _append_word(self, text: str, glue: bool) -> tuple[int, int]:
        if self._capital and not self._parts:
            text = text[0].upper() + text[1:]
        if self._parts and not glue and not self._parts[-1].endswith("'"):
            self._append(" ")
        return self._append(text)


class SourceWriter(Writer):
    """Writes a source and its segments."""

    def __init__(self, capital: bool = False):
        super().__init__(capital)
        self._segments: list[SourceSegment] = []

    @property
    def segments(self) -> tuple[SourceSegment, ...]:
        """The segments so far."""
        return tuple(self._segments)

    def word(self, text: str, *slots: str, glue: bool = False) -> None:
        """Add a word that carries these slots; `glue` leaves out the space before it."""
        start, end = self._append_word(text, glue)
        self._segments.extend(SourceSegment(start, end, slot) for slot in slots)

    def fill(self, template: str, pieces: Mapping[str, Sequence[Piece]]) -> None:
        """Add a template as it stands, with its {fields} replaced by their pieces."""
        for literal, field, _, _ in string.Formatter().parse(template):
            if literal:
                self._append(literal)
            for text, slots in pieces[field] if field else ():
                start, end = self._append(text)
                self._segments.extend(SourceSegment(start, end, slot) for slot in slots)


class TargetWriter(Writer):
    """Writes a target and its segments."""

    def __init__(self, capital: bool = False):
        super().__init__(capital)
        self._segments: list[TargetSegment] = []

    @property
    def segments(self) -> tuple[TargetSegment, ...]:
        """The segments so far."""
        return tuple(self._segments)

    def word(self, text: str, slot: str, *depends: Group, glue: bool = False) -> None:
        """Add a word and the groups that it needs (none: template text)."""
        start, end = self._append_word(text, glue)
        unique = tuple(dict.fromkeys(depends))
        self._segments.append(TargetSegment(start, end, slot, unique))


def others(values: Iterable[str], current: str) -> tuple[str, ...]:
    """The values without the current one."""
    return tuple(value for value in values if value != current)


def sample_date(rng: random.Random, name: str) -> dict[str, str]:
    """Slots of a day from 1 to 28, a month and a year from 2010 to 2029.

    A day below ten has the empty text as its first digit, as it is written in the source.
    """
    day = str(rng.randint(1, 28))
    return {
        f"{name}.day.0": day[:-1],
        f"{name}.day.1": day[-1],
        f"{name}.month": rng.choice(MONTHS),
        f"{name}.year.2": rng.choice("12"),
        f"{name}.year.3": rng.choice(string.digits),
    }


def swap_date(slots: Mapping[str, str], name: str) -> dict[str, tuple[str, ...]]:
    """The other values that each part of a date may take on its own."""
    tens, ones = slots[f"{name}.day.0"], slots[f"{name}.day.1"]
    return {
        f"{name}.day.0": others((t for t in ("", "1", "2") if _is_day(t + ones)), tens),
        f"{name}.day.1": others((o for o in string.digits if _is_day(tens + o)), ones),
        f"{name}.month": others(MONTHS, slots[f"{name}.month"]),
        f"{name}.year.2": others("12", slots[f"{name}.year.2"]),
        f"{name}.year.3": others(string.digits, slots[f"{name}.year.3"]),
    }


def _is_day(text: str) -> bool:
    return not text.startswith("0") and 1 <= int(text) <= 28


def date_pieces(slots: Mapping[str, str], name: str, month_first: bool) -> list[Piece]:
    """A date in words: "5 March 2024" or "March 5, 2024"."""
    tens = slots[f"{name}.day.0"]
    # A lone digit carries both facts: which digit it is, and that there are no tens.
    carried = (f"{name}.day.1",) if tens else (f"{name}.day.0", f"{name}.day.1")
    day: list[Piece] = [(tens, (f"{name}.day.0",))] if tens else []
    day.append((slots[f"{name}.day.1"], carried))
    month: Piece = (slots[f"{name}.month"], (f"{name}.month",))
    year: list[Piece] = [("20", ())]
    year += [(slots[f"{name}.year.{i}"], (f"{name}.year.{i}",)) for i in (2, 3)]
    if month_first:
        return [month, (" ", ()), *day, (", ", ()), *year]
    return [*day, (" ", ()), month, (" ", ()), *year]


def write_date(writer: TargetWriter, slots: Mapping[str, str], name: str) -> None:
    """Write a date as ISO 8601, each digit with its own dependence."""
    # Every year starts with 20, so these two digits need nothing.
    writer.word("20", f"{name}.century")
    for i in (2, 3):
        slot = f"{name}.year.{i}"
        writer.word(slots[slot], slot, (source(slot),), glue=True)
    writer.word("-", f"{name}.hyphen.0", glue=True)
    month = f"{name}.month"
    writer.word(f"{MONTHS.index(slots[month]) + 1:02}", month, (source(month),), glue=True)
    writer.word("-", f"{name}.hyphen.1", glue=True)
    for i in (0, 1):
        slot = f"{name}.day.{i}"
        writer.word(slots[slot] or "0", slot, (source(slot),), glue=True)
