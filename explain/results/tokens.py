"""Tokens with their place in the text, and the words they make up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Scripts written without spaces: there a token is the smallest readable unit.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_APOSTROPHES = "'’"


@dataclass(frozen=True, slots=True)
class Token:
    """One token and the characters `[start, end)` of its text that it stands for.

    `special` marks tokens outside the text (end of sentence, language codes), whose start equals their
    end. `forced` marks target tokens that the model did not choose: a given output, a forced first token.
    """

    text: str
    id: int
    start: int
    end: int
    special: bool = False
    forced: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The token as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Token:
        """Read a token back from its JSON object."""
        return cls(
            text=str(data["text"]),
            id=int(data["id"]),
            start=int(data["start"]),
            end=int(data["end"]),
            special=bool(data["special"]),
            forced=bool(data["forced"]),
        )


def group_words(tokens: Sequence[Token], text: str) -> list[list[int]]:
    """Group the indices of `tokens` into words of `text`, in order; special tokens stand alone.

    A word ends at white space, where letters meet punctuation, and after an apostrophe (`l'|homme`).
    In scripts written without spaces every token is its own word.
    """
    groups: list[list[int]] = []
    for index, token in enumerate(tokens):
        if index and not _breaks(tokens[index - 1], token, text):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _breaks(left: Token, right: Token, text: str) -> bool:
    if left.special or right.special:
        return True
    if right.start < left.end:  # two pieces of one character
        return False
    before, after = text[left.start : left.end], text[right.start : right.end]
    if not before or not after:  # a marker without text of its own belongs to what follows
        return bool(before)
    if before[-1].isspace() or after[0].isspace() or left.end != right.start:
        return True
    if _UNSPACED.match(before[-1]) or _UNSPACED.match(after[0]):
        return True
    if before[-1] in _APOSTROPHES:
        return True
    if after[0] in _APOSTROPHES:
        return not before[-1].isalnum()
    return before[-1].isalnum() != after[0].isalnum()


def merge_tokens(tokens: Sequence[Token], group: Sequence[int], text: str) -> Token:
    """One token that stands for a group: its text runs from the first start to the last end, its id is -1.

    Special tokens in a group add nothing to its text; a group of nothing else is special and shows its names.
    """
    first = tokens[group[0]]
    if len(group) == 1:
        return first if first.special else _stripped(first, text)
    members = [tokens[index] for index in group]
    forced = all(token.forced for token in members)
    ordinary = [token for token in members if not token.special]
    if not ordinary:
        names = " ".join(token.text for token in members)
        return Token(names, -1, first.start, first.start, special=True, forced=forced)
    start, end = ordinary[0].start, max(token.end for token in ordinary)
    return _stripped(Token(text[start:end], -1, start, end, special=False, forced=forced), text)


def _stripped(token: Token, text: str) -> Token:
    surface = text[token.start : token.end]
    left = len(surface) - len(surface.lstrip())
    right = len(surface.rstrip())
    if not surface.strip():
        return token
    return Token(
        text=surface.strip(),
        id=token.id,
        start=token.start + left,
        end=token.start + right,
        special=token.special,
        forced=token.forced,
    )
