"""Small changes of a source text that keep its number of tokens: what patching can be tried with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from explain.errors import ExplainError
from explain.model import Seq2Seq
from explain.training.tasks import Example


@dataclass(frozen=True, slots=True)
class SourceEdit:
    """A changed source.

    Attributes:
        text: the whole text.
        was: what stood there.
        now: what stands there instead.
    """

    text: str
    was: str
    now: str


def source_edits(
    model: Seq2Seq,
    source: str,
    examples: Sequence[Example] = (),
    count: int = 3,
    *,
    allow_unknown: bool = False,
) -> list[SourceEdit]:
    """Changes of one place that leave the number of tokens as it is, at most one for each place.

    With examples of a task, a word that fills one of their slots is swapped for another that does; else a
    word of the text is swapped for another word of it.

    Args:
        model: an opened model, whose tokens are counted.
        source: the text.
        examples: of the task that the text is like.
        count: how many at most.
        allow_unknown: words that the tokenizer does not know are accepted.

    Raises:
        ExplainError: the source itself cannot be read.
    """
    own = model.source_ids(source, allow_unknown=allow_unknown).tolist()
    found: dict[tuple[int, str], SourceEdit] = {}
    for start, was, now in (*_by_slot(source, examples), *_by_word(source)):
        if len(found) == count:
            break
        if (start, was) in found:
            continue
        text = source[:start] + now + source[start + len(was) :]
        try:
            ids = model.source_ids(text, allow_unknown=allow_unknown).tolist()
        except ExplainError:
            continue
        if len(ids) == len(own) and ids != own:
            found[start, was] = SourceEdit(text, was, now)
    return list(found.values())


def _by_slot(source: str, examples: Sequence[Example]) -> Iterator[tuple[int, str, str]]:
    """Place, word and replacement for each slot of the examples that a word of the source fills."""
    fillers: dict[str, dict[str, None]] = {}
    for example in examples:
        for part in example.source_segments:
            if part.slot:
                fillers.setdefault(part.slot, {})[example.source[part.start : part.end]] = None
    found: list[tuple[int, str, str]] = []
    for known in fillers.values():
        for was in known:
            place = re.search(rf"(?<!\w){re.escape(was)}(?!\w)", source) if was.strip() else None
            if place is not None:
                found += [(place.start(), was, now) for now in known if now != was and now.strip()]
    # Long words first: they are the ones that mean something.
    yield from sorted(found, key=lambda each: -len(each[1]))


def _by_word(source: str) -> Iterator[tuple[int, str, str]]:
    """The same with the text's own words."""
    words = [(match.start(), match.group()) for match in re.finditer(r"\w+", source)]
    for start, was in words:
        yield from ((start, was, now) for _, now in words if now != was)
