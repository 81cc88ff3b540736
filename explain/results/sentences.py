"""Sentences: where they end in a text, and which tokens make them up."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

from explain.results.tokens import Token

_CLOSING = "\"'”’»›)\\]}」』）】》〉"
# Full stops that need white space after them: Latin, Arabic, Devanagari, Armenian, Ethiopic, Burmese, Khmer.
_SPACED = ".!?…‼⁇⁈⁉؟۔।॥։።။៕។"
# Full stops of scripts that write no spaces.
_UNSPACED = "。！？｡．"
_END = re.compile(
    f"[{_SPACED}]+(?:[{_CLOSING}]|[ \u00a0\u202f][»›](?!\\S))*(?=\\s|$)|[{_UNSPACED}]+[{_CLOSING}]*"
    "|[\n\r\v\f\x85\u2028\u2029]"
)
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr sen rep gov gen col capt lt sgt rev hon no nos nr vol pp ed eds fig figs eq "
    "sec ch cf vs approx dept est inc ltd co corp al ca bzw usw evtl inkl mme mlle mm sra "
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_WORD_BEFORE = re.compile(r"(\w+)$")


def sentence_starts(text: str) -> list[int]:
    """Where the sentences of `text` start, in order; the first is at 0.

    A sentence ends at `. ! ? …` and their forms in other scripts, closing quotes and brackets included, when
    white space or the end of the text follows (in Chinese and Japanese without it), and at every line break.
    A single full stop ends none after one letter (`J. Smith`, `e.g.`), after a common abbreviation (`Dr.`),
    or after a number that begins a line (`1. First`). That is a rule of thumb: "vitamin B. Then" stays
    whole, and an abbreviation that the short list of common ones lacks is an end.
    """
    starts = [0]
    for match in _END.finditer(text):
        start = match.end() + len(text[match.end() :]) - len(text[match.end() :].lstrip())
        if starts[-1] < start < len(text) and not _goes_on(text, match):
            starts.append(start)
    return starts


def _goes_on(text: str, match: re.Match[str]) -> bool:
    """The full stop belongs to the word before it."""
    if match.group() != ".":
        return False
    # A word of more than 40 characters is no abbreviation; looking further back would cost on long texts.
    word = _WORD_BEFORE.search(text, max(0, match.start() - 40), match.start())
    if word is None:
        return False
    found = word.group(1)
    if found.isdigit():
        line = text[: word.start()].rstrip(" \t")
        return not line or line[-1] in "\n\r"
    return (len(found) == 1 and found.isalpha()) or found.lower() in _ABBREVIATIONS


def group_sentences(tokens: Sequence[Token], text: str) -> list[list[int]]:
    """Group the indices of `tokens` into sentences of `text`, in order; special tokens stand alone.

    See `sentence_starts` for where a sentence ends. A token belongs to the sentence of its first character
    that is not white space, and one without any to the sentence that follows.
    """
    starts = sentence_starts(text)
    groups: list[list[int]] = []
    before: int | None = None
    for index, token in enumerate(tokens):
        rest = text[token.start :]
        place = None if token.special else bisect.bisect(starts, len(text) - len(rest.lstrip()))
        if place is not None and place == before:
            groups[-1].append(index)
        else:
            groups.append([index])
        before = place
    return groups
