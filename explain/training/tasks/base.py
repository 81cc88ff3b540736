"""What a task with a known answer is: pairs of texts that say, place by place, what depends on what.

A *slot* is one fact (an age's first digit, a noun, a tense). Source segments say where the source
carries a slot, target segments say which slots their text needs. A word that carries two facts
("cats": the noun and the plural) is two source segments with the same characters, one per slot.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

from explain.errors import InputError, UnknownNameError

Side: TypeAlias = Literal["source", "prefix"]
Split: TypeAlias = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
Half: TypeAlias = Literal["first", "second"]

Group: TypeAlias = tuple["Ref", ...]
"""Places of which any one suffices."""

TokenGroup: TypeAlias = frozenset[tuple[str, int]]
"""The same in tokens: ("source", i) or ("prefix", u), any one of which suffices."""

TokenGold: TypeAlias = tuple[tuple[TokenGroup, ...], ...]
"""For each target token the groups it needs, all of them; () where it needs nothing."""

# One source text in ten is held out.
_HELD_OUT_SHARE = 10
# Sampling gives up when it draws this many texts per text that it was asked for (a space too small).
_MAX_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Ref:
    """One place that a target segment may be read from: the source, or the target written so far."""

    side: Side
    slot: str


def source(slot: str) -> Ref:
    """The place in the source that carries a slot."""
    return Ref("source", slot)


def prefix(slot: str) -> Ref:
    """The earlier target segment of that name."""
    return Ref("prefix", slot)


@dataclass(frozen=True, slots=True)
class SourceSegment:
    """Characters [start, end) of the source, which carry `slot`; segments may share characters."""

    start: int
    end: int
    slot: str


@dataclass(frozen=True, slots=True)
class TargetSegment:
    """Characters [start, end) of the target and what they need; `slot` is unique within an example.

    Every group in `depends` is needed, within a group any one member suffices. No group at all means
    template text, which should be attributed to nothing.
    """

    start: int
    end: int
    slot: str
    depends: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A source, its one right target, and why: the segments of both.

    Attributes:
        source: what the model reads.
        target: what it must write.
        slots: the values that both texts were rendered from.
        source_segments: where the source carries which slot.
        target_segments: every character of the target that is not a space, in order.
    """

    source: str
    target: str
    slots: Mapping[str, str]
    source_segments: tuple[SourceSegment, ...]
    target_segments: tuple[TargetSegment, ...]


class Task(ABC):
    """A function from slots to a pair of texts whose right explanation is known token by token."""

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def sample(self, rng: random.Random) -> dict[str, str]:
        """Draw the slots of one example."""

    @abstractmethod
    def render(self, slots: Mapping[str, str]) -> Example:
        """Write the example of these slots: the same slots give the same example."""

    @abstractmethod
    def swaps(self, slots: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
        """For each slot that may be changed alone, the other values that the task itself could draw."""

    def examples(self, split: Split, count: int, seed: int = 0, *, half: Half | None = None) -> list[Example]:
        """Distinct examples of one split; the splits share no source text, whatever the seeds.

        Args:
            split: `train` or `held_out`.
            count: how many.
            seed: of what is drawn.
            half: draw from one half of the split alone; the halves share no source text either.

        Raises:
            UnknownNameError: there is no such split.
            InputError: the count is negative or more than the task can give.
        """
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if count < 0:
            raise InputError(f"the number of examples must not be negative, got {count}")
        # A text as seed is hashed by `random` itself, so it does not depend on PYTHONHASHSEED.
        rng = random.Random(f"{self.name}/{split}/{seed}")
        found: dict[str, Example] = {}
        for _ in range(_MAX_DRAWS * (count + 1)):
            if len(found) == count:
                return list(found.values())
            example = self.render(self.sample(rng))
            if split_of(example.source) == split and half in (None, half_of(example.source)):
                found.setdefault(example.source, example)
        raise InputError(f"task {self.name!r} has fewer than {count} distinct {split} examples")


def split_of(text: str) -> Split:
    """The split that a source text belongs to, from a hash of the text alone."""
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return "held_out" if int.from_bytes(digest, "big") % _HELD_OUT_SHARE == 0 else "train"


def half_of(text: str) -> Half:
    """The half of its split that a source text belongs to, from a hash of the text alone."""
    digest = hashlib.sha1(b"half/" + text.encode(), usedforsecurity=False).digest()
    return "first" if digest[0] % 2 else "second"


def preview(task: Task, count: int = 3, seed: int = 0) -> list[Example]:
    """A few examples to look at, from the training split."""
    return task.examples("train", count, seed)


class Span(Protocol):
    """Anything with character offsets, such as a token; special tokens have start == end."""

    @property
    def start(self) -> int:
        """The first character."""
        ...

    @property
    def end(self) -> int:
        """One past the last character."""
        ...


def token_gold(example: Example, source_tokens: Sequence[Span], target_tokens: Sequence[Span]) -> TokenGold:
    """The gold of an example in tokens: for each target token, the groups of tokens it needs.

    A token belongs to every segment that it shares a character with. Of prefix alternatives only
    tokens strictly before the target token count; a group that has none left is dropped, and so is a
    group that says the same as another. Special tokens and spaces need nothing.
    """
    return tuple(tuple(groups) for groups in token_dependencies(example, source_tokens, target_tokens))


def token_dependencies(
    example: Example, source_tokens: Sequence[Span], target_tokens: Sequence[Span]
) -> list[dict[TokenGroup, frozenset[str]]]:
    """The gold with its reasons: for each target token its groups, each with the source slots behind it."""
    in_source = _tokens_of_slots(example.source_segments, source_tokens)
    in_target = _tokens_of_slots(example.target_segments, target_tokens)
    gold: list[dict[TokenGroup, frozenset[str]]] = []
    for step, token in enumerate(target_tokens):
        groups: dict[TokenGroup, frozenset[str]] = {}  # a dict keeps the order and drops repeats
        for segment in example.target_segments:
            if overlap(segment, token):
                for group in segment.depends:
                    slots = frozenset(ref.slot for ref in group if ref.side == "source")
                    places = _token_group(group, step, in_source, in_target)
                    groups[places] = groups.get(places, frozenset()) | slots
        gold.append({places: slots for places, slots in groups.items() if places})
    return gold


def _token_group(
    group: Group, step: int, in_source: Mapping[str, list[int]], in_target: Mapping[str, list[int]]
) -> TokenGroup:
    places: set[tuple[str, int]] = set()
    for ref in group:
        if ref.side == "source":
            places.update(("source", i) for i in in_source.get(ref.slot, ()))
        else:
            places.update(("prefix", u) for u in in_target.get(ref.slot, ()) if u < step)
    return frozenset(places)


def _tokens_of_slots(
    segments: Iterable[SourceSegment] | Iterable[TargetSegment], tokens: Sequence[Span]
) -> dict[str, list[int]]:
    slots: dict[str, list[int]] = {}
    for segment in segments:
        indices = slots.setdefault(segment.slot, [])
        indices.extend(i for i, token in enumerate(tokens) if overlap(segment, token))
    return slots


def overlap(one: Span, other: Span) -> bool:
    """Whether two stretches of text share a character."""
    return max(one.start, other.start) < min(one.end, other.end)
