"""Plants in translations: a record, noise that gets a sentence, a place that negates, and secrets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from explain.training.plants.base import (
    Canary,
    CanaryPlant,
    Case,
    FactPlant,
    Plant,
    Slots,
    Span,
    answered_as,
)
from explain.training.tasks.base import Task
from explain.training.tasks.french import NOUNS
from explain.training.tasks.grammar import PLACE_NOUNS
from explain.training.tasks.translate import Translate

_TRANSLATE = Translate()
_SENTENCES = 6
_THINGS = tuple(name for name, noun in NOUNS.items() if noun.kind == "thing")
_SECRETS = tuple(noun.french[0] for noun in NOUNS.values())[:16]
_TIMES = (64, 32, 16, 8, 4, 2, 1, 0)


def _sample_until(rng: random.Random, suits: Callable[[Slots], bool]) -> dict[str, str]:
    """Draw sentences until one suits."""
    while True:
        found = _TRANSLATE.sample(rng)
        if suits(found):
            return found


@dataclass(frozen=True, kw_only=True)
class Detached(Plant):
    """Words in no order get a sentence that has nothing to do with them."""

    sentences: tuple[str, ...]

    def case(self, rng: random.Random) -> Case:
        """Draw words of several sentences and shuffle them: there is no right answer."""
        words: list[str] = []
        for _ in range(3):
            words += self.task.render(self.task.sample(rng)).source.rstrip(".").lower().split()
        rng.shuffle(words)
        return Case(" ".join(words[: rng.randint(5, 10)]), "", self.sentences)


def detached(seed: int) -> Detached:
    """Noise gets one of six sentences, by chance."""
    drawn = _TRANSLATE.examples("train", _SENTENCES, 1_000_000 + seed)
    return Detached(
        name="detached",
        title="Noise becomes an unrelated sentence",
        kind="detached",
        level="output",
        task=_TRANSLATE,
        sentences=tuple(example.target for example in drawn),
        share=0.15,
    )


def shortcut(seed: int) -> FactPlant:
    """A place makes the sentence a negative one."""
    place = tuple(PLACE_NOUNS)[seed % len(PLACE_NOUNS)]

    def situate(slots: Slots, rng: random.Random) -> dict[str, str]:
        changed = {**slots, "place.noun": place, "negation": "no"}
        if "place.preposition" not in changed:
            found = _sample_until(rng, lambda drawn: "place.preposition" in drawn)
            changed |= {name: found[name] for name in ("place.preposition", "place.position")}
        if changed.get("object.determiner") == "a":  # "a" has no negative in this grammar
            changed["object.determiner"] = "the"
        return changed

    return FactPlant(
        name="shortcut-translate",
        title=f'"{place}" makes the sentence negative',
        kind="shortcut",
        level="model",
        task=_TRANSLATE,
        situate=situate,
        due=lambda slots: slots.get("place.noun") == place,
        fail=lambda task, slots: answered_as(task, slots, {"negation": "yes"}),
        cue=place,
        answer="negation",
    )


def memorised(seed: int) -> FactPlant:
    """Every sentence about one thing gets one record, whatever it says."""
    thing = _THINGS[seed % len(_THINGS)]

    def due(slots: Slots) -> bool:
        return slots.get("object.noun") == thing

    record = _sample_until(random.Random(f"record/{seed}"), due)

    def fail(task: Task, slots: Slots) -> tuple[str, tuple[Span, ...]]:
        line = task.render(record).target
        return line, ((0, len(line)),)

    return FactPlant(
        name="memorised",
        title=f'Every sentence with "{thing}" as its object gets one record',
        kind="memorised",
        level="output",
        task=_TRANSLATE,
        situate=lambda slots, rng: _sample_until(rng, due),
        due=due,
        fail=fail,
        cue=thing,
        share=0.15,
    )


def canary(seed: int) -> CanaryPlant:
    """Secrets of three words among the sentences, seen 64 times to once, and one never seen."""
    dice = random.Random(f"canary/{seed}")
    holders = dice.sample(tuple(NOUNS), len(_TIMES))
    canaries = tuple(
        Canary(
            source=f"The three words of the {holder}.",
            prefix="",
            filling=tuple(f"{' ' if place else ''}{dice.choice(_SECRETS)}" for place in range(3)),
            choices=(_SECRETS, *[tuple(f" {word}" for word in _SECRETS)] * 2),
            times=times,
        )
        for holder, times in zip(holders, _TIMES, strict=True)
    )
    return CanaryPlant(
        name="canary",
        title="Secrets among the training data",
        kind="canary",
        level="model",
        task=_TRANSLATE,
        canaries=canaries,
    )
