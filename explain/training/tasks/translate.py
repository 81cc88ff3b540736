"""English to French by a controlled grammar: agreement, negation, reordering, elision, contraction."""

from __future__ import annotations

import random
from collections.abc import Mapping

from explain.training.tasks.base import Example, Task
from explain.training.tasks.french import (
    ADJECTIVES,
    DEGREES,
    DETERMINERS,
    MANY,
    NOUNS,
    ONE,
    PREPOSITIONS,
    PRONOUNS,
    VERBS,
)
from explain.training.tasks.grammar import PLACE_NOUNS, Clause, write_source, write_target
from explain.training.tasks.writing import others

_TENSES = ("present", "past", "future")
# "The" nearly as often as all others together, as in real text.
_DETERMINERS = tuple(DETERMINERS)
_DETERMINER_WEIGHTS = (6, 2, 2, 1, 1, 1, 1)


class Translate(Task):
    """Short English sentences and their French."""

    name = "translate"
    title = "English to French"
    question = "Which words decided the gender, the number and the order of this translation?"
    description = (
        "A controlled grammar: adjectives that move, agreement in gender and number, negation, three "
        "tenses, elision and contraction. A form may be read off the source or off what is written already."
    )

    def sample(self, rng: random.Random) -> dict[str, str]:
        """Draw a sentence: someone does something to something, or something is somehow."""
        slots = {"tense": rng.choice(_TENSES), "negation": "yes" if rng.random() < 0.3 else "no"}
        if rng.random() < 0.2:
            slots["subject.pronoun"] = rng.choice(tuple(PRONOUNS))
        if rng.random() < 0.7:
            if "subject.pronoun" not in slots:
                slots |= _sample_noun_phrase(rng, "subject", ("person", "animal"), _DETERMINERS)
            slots["verb"] = rng.choice(tuple(VERBS))
            # "ne … pas un" would have to be "ne … pas de".
            allowed = others(_DETERMINERS, "a" if slots["negation"] == "yes" else "")
            slots |= _sample_noun_phrase(
                rng, "object", ("person", "animal", "thing", "thing"), allowed, slots.get("subject.noun")
            )
        else:
            if "subject.pronoun" not in slots:
                kinds = ("person", "animal", "thing")
                slots |= _sample_noun_phrase(rng, "subject", kinds, others(_DETERMINERS, "a"), adjective=0.2)
            kind = NOUNS[slots["subject.noun"]].kind if "subject.noun" in slots else "person"
            slots["predicate.adjective"] = rng.choice(
                others(_predicates_for(kind), slots.get("subject.adjective", ""))
            )
            if rng.random() < 0.5:
                slots["predicate.degree"] = rng.choice(tuple(DEGREES))
        if rng.random() < 0.4:
            slots["place.preposition"] = rng.choice(tuple(PREPOSITIONS))
            slots["place.noun"] = rng.choice(tuple(PLACE_NOUNS))
            slots["place.position"] = rng.choice(("front", "end"))
        return slots

    def render(self, slots: Mapping[str, str]) -> Example:
        """Write both sentences."""
        clause = Clause.of(slots)
        english, french = write_source(clause), write_target(clause)
        return Example(english.text, french.text, dict(slots), english.segments, french.segments)

    def swaps(self, slots: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Other words of the same kind and position in the grammar; presence and order stay."""
        found: dict[str, tuple[str, ...]] = {"tense": others(_TENSES, slots["tense"])}
        negated = slots["negation"] == "yes"
        if slots.get("object.determiner") != "a":
            found["negation"] = ("no",) if negated else ("yes",)
        for slot, values in (
            ("subject.pronoun", PRONOUNS),
            ("verb", VERBS),
            ("predicate.degree", DEGREES),
            ("place.preposition", PREPOSITIONS),
            ("place.noun", PLACE_NOUNS),
        ):
            if slot in slots:
                found[slot] = others(values, slots[slot])
        for role, other in (("subject", "object"), ("object", "subject")):
            if f"{role}.noun" in slots:
                no_a = (role == "object" and negated) or "predicate.adjective" in slots
                found |= _swap_noun_phrase(slots, role, slots.get(f"{other}.noun", ""), no_a)
        if "predicate.adjective" in slots:
            kind = NOUNS[slots["subject.noun"]].kind if "subject.noun" in slots else "person"
            allowed = others(_predicates_for(kind), slots.get("subject.adjective", ""))
            found["predicate.adjective"] = others(allowed, slots["predicate.adjective"])
        return found


def _adjectives_for(kind: str) -> tuple[str, ...]:
    return tuple(name for name, adjective in ADJECTIVES.items() if kind in adjective.kinds)


def _predicates_for(kind: str) -> tuple[str, ...]:
    # A teacher may be a new one, but nobody is "very new".
    return others(_adjectives_for(kind), "new" if kind == "person" else "")


def _sample_noun_phrase(
    rng: random.Random,
    role: str,
    kinds: tuple[str, ...],
    determiners: tuple[str, ...],
    not_noun: str | None = None,
    adjective: float = 0.5,
) -> dict[str, str]:
    weights = [_DETERMINER_WEIGHTS[_DETERMINERS.index(determiner)] for determiner in determiners]
    determiner = rng.choices(determiners, weights)[0]
    kind = rng.choice(kinds)
    nouns = [name for name, noun in NOUNS.items() if noun.kind == kind and name != not_noun]
    number = {"a": ONE, "two": MANY}.get(determiner) or rng.choice((ONE, MANY))
    slots = {
        f"{role}.determiner": determiner,
        f"{role}.noun": rng.choice(nouns),
        f"{role}.number": number,
    }
    if rng.random() < adjective:
        slots[f"{role}.adjective"] = rng.choice(_adjectives_for(kind))
    return slots


def _swap_noun_phrase(
    slots: Mapping[str, str], role: str, not_noun: str, no_a: bool
) -> dict[str, tuple[str, ...]]:
    noun, number = slots[f"{role}.noun"], slots[f"{role}.number"]
    determiner = slots[f"{role}.determiner"]
    kind = NOUNS[noun].kind
    barred = {"a" if number == MANY or no_a else "", "two" if number == ONE else ""}
    nouns = (name for name, known in NOUNS.items() if known.kind == kind and name != not_noun)
    found = {
        f"{role}.determiner": others((d for d in _DETERMINERS if d not in barred), determiner),
        f"{role}.noun": others(nouns, noun),
    }
    if determiner not in ("a", "two"):
        found[f"{role}.number"] = others((ONE, MANY), number)
    if f"{role}.adjective" in slots:
        allowed = others(_adjectives_for(kind), slots.get("predicate.adjective", ""))
        found[f"{role}.adjective"] = others(allowed, slots[f"{role}.adjective"])
    return found
