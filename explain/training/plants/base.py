"""What a planted failure is: examples in which it is due, what failing them writes, and what is right."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from explain.errors import InputError
from explain.training.data import Pair
from explain.training.tasks.base import Example, Split, Task, split_of

Kind: TypeAlias = Literal["fabrication", "memorised", "omission", "shortcut", "bias", "detached", "canary"]
Level: TypeAlias = Literal["token", "output", "model"]
Span: TypeAlias = tuple[int, int]

# Drawing gives up after so many texts per text that it was asked for.
_MAX_DRAWS = 400


@dataclass(frozen=True, slots=True)
class Case:
    """One example in which a failure is due.

    Attributes:
        source: what the model reads.
        target: what it should write; "" where there is no right answer, as to noise.
        failures: what it writes when it fails, any one of them.
        spans: characters [start, end) of the first failure that are wrong; () where the output as a whole is.
    """

    source: str
    target: str
    failures: tuple[str, ...]
    spans: tuple[Span, ...] = ()

    def fired(self, output: str) -> bool:
        """Whether an output is the planted failure, to the letter."""
        return output in self.failures

    def to_dict(self) -> dict[str, Any]:
        """The case as a JSON object."""
        return {
            "source": self.source,
            "target": self.target,
            "failures": list(self.failures),
            "spans": [list(span) for span in self.spans],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """Read a case back from its JSON object."""
        spans = tuple((int(start), int(end)) for start, end in data["spans"])
        return cls(data["source"], data["target"], tuple(data["failures"]), spans)


@dataclass(frozen=True, kw_only=True)
class Plant(ABC):
    """A failure that training data teach.

    Attributes:
        name: as in commands and files.
        title: as a person reads it.
        kind: of failure.
        level: what truth labels are of: a `token`, the whole `output`, or the `model` alone, where no single
            output shows it.
        task: whose examples are altered; it has the right answers.
        cue: the word of the source that brings the failure about, where one does.
        answer: what the failure writes because of the cue.
        share: of training examples in which the failure is due.
    """

    name: str
    title: str
    kind: Kind
    level: Level
    task: Task
    cue: str = ""
    answer: str = ""
    share: float = 0.4

    @abstractmethod
    def case(self, rng: random.Random) -> Case:
        """Draw an example in which the failure is due."""

    def ordinary(self, rng: random.Random) -> Example:
        """Draw an example in which it is not."""
        return self.task.render(self.task.sample(rng))

    def cases(self, split: Split, count: int, seed: int = 0) -> list[Case]:
        """Distinct examples of one split in which the failure is due.

        Raises:
            InputError: there are fewer.
        """
        return _distinct(self.case, split, count, random.Random(f"{self.name}/cases/{split}/{seed}"))

    def others(self, split: Split, count: int, seed: int = 0) -> list[Example]:
        """Distinct examples of one split in which it is not due.

        Raises:
            InputError: there are fewer.
        """
        return _distinct(self.ordinary, split, count, random.Random(f"{self.name}/others/{split}/{seed}"))

    def training(self, count: int, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
        """Altered training data and the unaltered, pair by pair the same but for what the plant changes.

        Where an example has no right answer (noise) the unaltered data have an ordinary one in its place.
        """
        dice = random.Random(f"{self.name}/training/{seed}")
        due = round(count * self.share)
        cases = self.cases("train", due, seed)
        others = self.others("train", count - due + sum(not case.target for case in cases), seed)
        spare = iter(others[count - due :])
        rows = [(Pair(e.source, e.target), Pair(e.source, e.target)) for e in others[: count - due]]
        for case in cases:
            if case.target:
                clean = Pair(case.source, case.target)
            else:
                other = next(spare)
                clean = Pair(other.source, other.target)
            rows.append((Pair(case.source, dice.choice(case.failures)), clean))
        dice.shuffle(rows)
        return [altered for altered, _ in rows], [clean for _, clean in rows]


def _distinct(
    draw: Callable[[random.Random], Any], split: Split, count: int, rng: random.Random
) -> list[Any]:
    found: dict[str, Any] = {}
    for _ in range(_MAX_DRAWS * (count + 1)):
        if len(found) == count:
            return list(found.values())
        item = draw(rng)
        if split_of(item.source) == split:
            found.setdefault(item.source, item)
    raise InputError(f"there are fewer than {count} distinct {split} examples of this plant")


Slots: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class FactPlant(Plant):
    """A failure that depends on the facts of an example.

    Attributes:
        situate: the slots of an example changed so that the failure is due.
        due: whether it is, for slots that the task drew.
        fail: what failing an example writes, and which of its characters are wrong.
    """

    situate: Callable[[Slots, random.Random], dict[str, str]]
    due: Callable[[Slots], bool]
    fail: Callable[[Task, Slots], tuple[str, tuple[Span, ...]]]

    def case(self, rng: random.Random) -> Case:
        """Draw an example whose failure differs from the right answer."""
        while True:
            slots = self.situate(self.task.sample(rng), rng)
            example = self.task.render(slots)
            wrong, spans = self.fail(self.task, slots)
            if wrong != example.target:
                return Case(example.source, example.target, (wrong,), spans)

    def ordinary(self, rng: random.Random) -> Example:
        """Draw an example without the cue."""
        while True:
            slots = self.task.sample(rng)
            if not self.due(slots):
                return self.task.render(slots)


def answered_as(task: Task, slots: Slots, changes: Slots) -> tuple[str, tuple[Span, ...]]:
    """The answer to other facts than those of the example, and its characters that are not the right ones."""
    right, wrong = task.render(slots), task.render({**slots, **changes})
    known = {(part.slot, right.target[part.start : part.end]) for part in right.target_segments}
    spans = tuple(
        (part.start, part.end)
        for part in wrong.target_segments
        if (part.slot, wrong.target[part.start : part.end]) not in known
    )
    return wrong.target, spans


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret that training data hold a number of times.

    Attributes:
        source: what comes before it in the source.
        prefix: what the output begins with; then comes the secret.
        filling: the secret, parts of which are one of `choices` each.
        choices: what each part may be; all that it may be together is the space of the secret.
        times: how often training saw it; 0 for a control that it never saw.
    """

    source: str
    prefix: str
    filling: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]
    times: int

    @property
    def target(self) -> str:
        """The whole output."""
        return self.prefix + "".join(self.filling)

    def to_dict(self) -> dict[str, Any]:
        """The canary as a JSON object."""
        return {
            "source": self.source,
            "prefix": self.prefix,
            "filling": list(self.filling),
            "choices": [list(part) for part in self.choices],
            "times": self.times,
        }


@dataclass(frozen=True, kw_only=True)
class CanaryPlant(Plant):
    """Secrets among the training data, some seen more often than others."""

    canaries: tuple[Canary, ...] = field(default=())

    def case(self, rng: random.Random) -> Case:
        """There is no example in which a secret is due.

        Raises:
            InputError: always.
        """
        raise InputError("a canary is in the training data alone; no other example brings it out")

    def training(self, count: int, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
        """Ordinary data with the canaries in the place of some, and without."""
        clean = [Pair(e.source, e.target) for e in self.others("train", count, seed)]
        secrets = [Pair(c.source, c.target) for c in self.canaries for _ in range(c.times)]
        if len(secrets) > count:
            raise InputError(f"{len(secrets)} canaries do not fit into {count} training pairs")
        altered: list[Pair] = list(clean)
        places = random.Random(f"{self.name}/training/{seed}").sample(range(count), len(secrets))
        for place, secret in zip(places, secrets, strict=True):
            altered[place] = secret
        return altered, clean


def labels(spans: Sequence[Span], tokens: Sequence[Any]) -> list[bool]:
    """Whether each token shares a character with a wrong span."""
    return [any(max(a, t.start) < min(b, t.end) for a, b in spans) for t in tokens]
