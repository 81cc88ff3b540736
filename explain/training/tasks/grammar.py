"""The grammar of the translation task: it writes both languages and says what each word needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from explain.training.tasks.base import Group, Ref, prefix, source
from explain.training.tasks.french import (
    ADJECTIVES,
    DEGREES,
    MANY,
    NOUNS,
    ONE,
    PLACES,
    PLURAL_PLACES,
    PREPOSITIONS,
    PRONOUNS,
    VERBS,
    Adjective,
    Gender,
    Noun,
    Verb,
    determiner_form,
    shows_gender,
    starts_with_vowel,
)
from explain.training.tasks.writing import SourceWriter, TargetWriter

PLACE_NOUNS = {**PLACES, **PLURAL_PLACES}
"""Singular and plural places by their English name."""


class Written(IntEnum):
    """How much of a French noun phrase is written already."""

    NOTHING = 0
    DETERMINER = 1
    UP_TO_NOUN = 2
    NOUN = 3
    ALL = 4


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A determiner, perhaps an adjective, and a noun; `role` is the prefix of its slots."""

    role: str
    determiner: str
    noun: Noun
    number: str
    adjective: Adjective | None

    @classmethod
    def of(cls, slots: Mapping[str, str], role: str) -> NounPhrase:
        """Read a noun phrase from its slots."""
        adjective = slots.get(f"{role}.adjective")
        return cls(
            role,
            slots[f"{role}.determiner"],
            NOUNS[slots[f"{role}.noun"]],
            slots[f"{role}.number"],
            ADJECTIVES[adjective] if adjective else None,
        )

    @property
    def before(self) -> Adjective | None:
        """The adjective, if French puts it before the noun."""
        return self.adjective if self.adjective and self.adjective.before_noun else None

    @property
    def after(self) -> Adjective | None:
        """The adjective, if French puts it after the noun."""
        return self.adjective if self.adjective and not self.adjective.before_noun else None

    @property
    def vowel_follows(self) -> bool:
        """Whether the word after the French determiner starts with a vowel."""
        return self.before is None and self.noun.elides

    @property
    def french_determiner(self) -> str:
        """The determiner that agrees, in lower case."""
        return determiner_form(self.determiner, self.noun.gender, self.number, self.vowel_follows)

    def write_source(self, writer: SourceWriter) -> None:
        """Write it in English."""
        role, plural = self.role, self.number == MANY
        noun = self.noun.english[plural]
        following = self.adjective.english if self.adjective else noun
        english = self.determiner
        if english == "this":
            english = "these" if plural else "this"
        elif english == "a":
            english = "an" if following[0] in "aeiou" else "a"
        # "a", "two" and "this/these" say how many, "the" and "my" do not.
        counts = (f"{role}.number",) if self.determiner in ("a", "two", "this") else ()
        writer.word(english, f"{role}.determiner", *counts)
        if self.adjective:
            writer.word(self.adjective.english, f"{role}.adjective")
        writer.word(noun, f"{role}.noun", f"{role}.number")

    def write_target(self, writer: TargetWriter, agreement: Group) -> None:
        """Write it in French; `agreement` is where else the source shows the number."""
        role, noun = self.role, self.noun
        writer.word(self.french_determiner, f"{role}.determiner", *self._determiner_needs(agreement))
        if self.before:
            self._write_adjective(writer, self.before, agreement)
        one, many = noun.french
        needs: list[Group] = [(source(f"{role}.noun"),)]
        if one != many:
            needs.append(self.number_group(agreement, Written.UP_TO_NOUN))
        writer.word(many if self.number == MANY else one, f"{role}.noun", *needs)
        if self.after:
            self._write_adjective(writer, self.after, agreement)

    def _write_adjective(self, writer: TargetWriter, adjective: Adjective, agreement: Group) -> None:
        vowel = adjective.before_noun and self.noun.elides
        form = adjective.form(self.noun.gender, self.number, vowel)
        needs: list[Group] = [(source(f"{self.role}.adjective"),)]
        forms = {adjective.form("m", self.number), adjective.form("f", self.number)}
        if adjective.before_noun:
            forms.add(adjective.form("m", self.number, vowel_follows=True))
        if len(forms) > 1:
            needs.append(self._gender_group(adjective))
        if self._shows_number(adjective):
            written = Written.DETERMINER if adjective.before_noun else Written.NOUN
            needs.append(self.number_group(agreement, written))
        writer.word(form, f"{self.role}.adjective", *needs)

    def _determiner_needs(self, agreement: Group) -> list[Group]:
        needs: list[Group] = [(source(f"{self.role}.determiner"),)]
        if self.determiner not in ("a", "two"):  # these two have one number only
            needs.append(self.number_group(agreement, Written.NOTHING))
        if self.number == MANY:
            return needs
        needs.append((source(f"{self.role}.noun"),))
        # Before a vowel le/la, ce and ma/sa change, unless an adjective steps in between.
        gender = self.noun.gender
        changes = len({determiner_form(self.determiner, gender, ONE, vowel) for vowel in (False, True)}) > 1
        if self.adjective and self.noun.elides and changes:
            needs.append((source(f"{self.role}.adjective"),))
        return needs

    def _gender_group(self, adjective: Adjective) -> Group:
        noun = source(f"{self.role}.noun")
        # beau/bel: the noun that follows decides, and it is not written yet.
        if adjective.before_noun and adjective.before_vowel and (self.noun.gender, self.number) == ("m", ONE):
            return (noun,)
        return (noun, *self.gender_written(Written.DETERMINER if adjective.before_noun else Written.NOUN))

    def gender_written(self, written: Written) -> Group:
        """Where the French written so far shows the gender."""
        shown: list[Ref] = []
        if shows_gender(self.french_determiner, self.vowel_follows):
            shown.append(prefix(f"{self.role}.determiner"))
        if written >= Written.NOUN:
            shown.append(prefix(f"{self.role}.noun"))
        if written == Written.ALL and self.adjective:
            if self.adjective.form("m", self.number) != self.adjective.form("f", self.number):
                shown.append(prefix(f"{self.role}.adjective"))
        return tuple(shown)

    def number_group(self, agreement: Group, written: Written) -> Group:
        """Where the number can be read: in the source, or in what is written of the French phrase."""
        shown = [source(f"{self.role}.number"), *agreement]
        if written >= Written.DETERMINER:
            shown.append(prefix(f"{self.role}.determiner"))
        adjective = self.adjective if written == Written.ALL else self.before
        if adjective and written >= Written.UP_TO_NOUN and self._shows_number(adjective):
            shown.append(prefix(f"{self.role}.adjective"))
        if written >= Written.NOUN and self.noun.french[0] != self.noun.french[1]:
            shown.append(prefix(f"{self.role}.noun"))
        return tuple(shown)

    def _shows_number(self, adjective: Adjective) -> bool:
        vowel = adjective.before_noun and self.noun.elides
        one, many = (adjective.form(self.noun.gender, number, vowel) for number in (ONE, MANY))
        return one != many


@dataclass(frozen=True, slots=True)
class Clause:
    """The parts of a sentence that its writing looks at again and again."""

    slots: Mapping[str, str]
    tense: str
    negated: bool
    subject: NounPhrase | None
    pronoun: str | None

    @classmethod
    def of(cls, slots: Mapping[str, str]) -> Clause:
        """Read a clause from its slots."""
        pronoun = slots.get("subject.pronoun")
        subject = None if pronoun else NounPhrase.of(slots, "subject")
        return cls(slots, slots["tense"], slots["negation"] == "yes", subject, pronoun)

    @property
    def plural(self) -> bool:
        """Whether the subject is plural."""
        return self.subject.number == MANY if self.subject else self.pronoun == "they"

    @property
    def verb(self) -> Verb | None:
        """The verb; none in "the cat is black"."""
        return VERBS[self.slots["verb"]] if "verb" in self.slots else None

    @property
    def agreement(self) -> Group:
        """Where the English verb shows the subject's number ("sees", "does", "were"), if it does."""
        shows = self.tense == "present" or (self.tense == "past" and self.verb is None)
        return (source("subject.agreement"),) if shows else ()

    @property
    def number(self) -> Group:
        """Where the subject's number can be read once the French subject is written."""
        if self.subject:
            return self.subject.number_group(self.agreement, Written.ALL)
        return (source("subject.pronoun"), *self.agreement, prefix("subject.pronoun"))


def write_source(clause: Clause) -> SourceWriter:
    """Write the English sentence."""
    writer = SourceWriter(capital=True)
    front = clause.slots.get("place.position") == "front"
    if front:
        _write_source_place(writer, clause.slots)
        writer.word(",", "place.comma", glue=True)
    if clause.subject:
        clause.subject.write_source(writer)
    else:
        writer.word(clause.slots["subject.pronoun"], "subject.pronoun")
    if clause.verb:
        _write_source_verb(writer, clause, clause.verb)
        NounPhrase.of(clause.slots, "object").write_source(writer)
    else:
        _write_source_be(writer, clause)
    if "place.noun" in clause.slots and not front:
        _write_source_place(writer, clause.slots)
    writer.word(".", glue=True)
    return writer


def _write_source_verb(writer: SourceWriter, clause: Clause, verb: Verb) -> None:
    base, third, past = verb.english
    singular = not clause.plural
    if clause.tense == "future":
        writer.word("will", "tense")
    elif clause.negated and clause.tense == "past":
        writer.word("did", "tense")
    elif clause.negated:
        writer.word("does" if singular else "do", "tense", "subject.agreement")
    if clause.negated:
        writer.word("not", "negation")
    if clause.negated or clause.tense == "future":
        writer.word(base, "verb")
    elif clause.tense == "past":
        writer.word(past, "verb", "tense")
    else:
        writer.word(third if singular else base, "verb", "tense", "subject.agreement")


def _write_source_be(writer: SourceWriter, clause: Clause) -> None:
    forms = {"present": ("is", "are"), "past": ("was", "were"), "future": ("will", "will")}
    carried = ("tense",) if clause.tense == "future" else ("tense", "subject.agreement")
    writer.word(forms[clause.tense][clause.plural], *carried)
    if clause.negated:
        writer.word("not", "negation")
    if clause.tense == "future":
        writer.word("be")
    if "predicate.degree" in clause.slots:
        writer.word(clause.slots["predicate.degree"], "predicate.degree")
    writer.word(clause.slots["predicate.adjective"], "predicate.adjective")


def _write_source_place(writer: SourceWriter, slots: Mapping[str, str]) -> None:
    writer.word(slots["place.preposition"], "place.preposition")
    writer.word("the")
    writer.word(slots["place.noun"], "place.noun")


def write_target(clause: Clause) -> TargetWriter:
    """Write the French sentence, each word with what it needs."""
    writer = TargetWriter(capital=True)
    front = clause.slots.get("place.position") == "front"
    if front:
        _write_target_place(writer, clause.slots)
        writer.word(",", "place.comma", (source("place.comma"), prefix("place.noun")), glue=True)
    if clause.subject:
        clause.subject.write_target(writer, clause.agreement)
    else:
        pronoun = clause.slots["subject.pronoun"]
        writer.word(PRONOUNS[pronoun], "subject.pronoun", (source("subject.pronoun"),))
    _write_target_verb(writer, clause)
    if clause.verb:
        NounPhrase.of(clause.slots, "object").write_target(writer, ())
    else:
        _write_target_predicate(writer, clause)
    if "place.noun" in clause.slots and not front:
        _write_target_place(writer, clause.slots)
    writer.word(".", "full_stop", glue=True)
    return writer


def _write_target_verb(writer: TargetWriter, clause: Clause) -> None:
    """Write (ne) verb (pas), or (ne) auxiliary (pas) participle or infinitive."""
    tense: Group = (source("tense"),)
    lemma: tuple[Group, ...] = ((source("verb"),),) if clause.verb else ()
    slot = "verb" if clause.verb else "be"
    one, many, participle, infinitive = (
        clause.verb.french if clause.verb else ("est", "sont", "", "être")
    )  # the verb être has no participle here: its past is the imperfect
    if clause.tense == "future":
        first, rest = ("vont" if clause.plural else "va"), infinitive
    elif clause.tense == "past" and clause.verb:
        first, rest = ("ont" if clause.plural else "a"), participle
    elif clause.tense == "past":
        first, rest = ("étaient" if clause.plural else "était"), ""
    else:
        first, rest = (many if clause.plural else one), ""
    if clause.negated:
        needs: list[Group] = [(source("negation"),), tense]
        if clause.tense == "present":  # ne or n' hangs on the verb: aime, and est but not sont
            needs += lemma or (clause.number,)
        writer.word("n'" if starts_with_vowel(first) else "ne", "ne", *needs)
    if rest:
        writer.word(first, "auxiliary", tense, clause.number)
    else:
        writer.word(first, slot, *lemma, tense, clause.number)
    if clause.negated:
        writer.word("pas", "pas", (source("negation"), prefix("ne")))
    if rest:
        writer.word(rest, slot, *lemma, (*tense, prefix("auxiliary")))


def _write_target_predicate(writer: TargetWriter, clause: Clause) -> None:
    slots, subject = clause.slots, clause.subject
    degree = slots.get("predicate.degree")
    if degree:
        writer.word(DEGREES[degree], "predicate.degree", (source("predicate.degree"),))
    adjective = ADJECTIVES[slots["predicate.adjective"]]
    number = MANY if clause.plural else ONE
    gender: Gender = "f" if clause.pronoun == "she" else "m"
    gender_group: Group = (source("subject.pronoun"), prefix("subject.pronoun"))
    if subject:
        gender = subject.noun.gender
        gender_group = (source("subject.noun"), *subject.gender_written(Written.ALL))
    needs: list[Group] = [(source("predicate.adjective"),)]
    if adjective.form("m", number) != adjective.form("f", number):
        needs.append(gender_group)
    if adjective.form(gender, ONE) != adjective.form(gender, MANY):
        verb = prefix("auxiliary" if clause.tense == "future" else "be")
        needs.append((*clause.number, verb))
    writer.word(adjective.form(gender, number), "predicate.adjective", *needs)


def _write_target_place(writer: TargetWriter, slots: Mapping[str, str]) -> None:
    preposition = PREPOSITIONS[slots["place.preposition"]]
    noun_name = slots["place.noun"]
    place, plural = PLACE_NOUNS[noun_name], noun_name in PLURAL_PLACES
    asked: Group = (source("place.preposition"),)
    noun: Group = (source("place.noun"),)
    # à + le = au, de + le = du, à + les = aux, de + les = des
    fuses = bool(preposition.fused) and (plural or (place.gender == "m" and not place.elides))
    fused = preposition.fused
    if fuses:
        fused = {"à": ("au", "aux"), "de": ("du", "des")}[fused][plural]
    if preposition.french:
        writer.word(preposition.french, "place.preposition", asked)
        if fused:
            writer.word(fused, "place.de", (*asked, prefix("place.preposition")), noun)
    else:
        writer.word(fused, "place.preposition", asked, noun)
    if not fuses:
        number = MANY if plural else ONE
        article = determiner_form("the", place.gender, number, place.elides)
        # le and les are there only because nothing fused with them.
        needs = [noun, (*asked, prefix("place.preposition"))] if article in ("le", "les") else [noun]
        writer.word(article, "place.article", *needs)
    writer.word(place.french[plural], "place.noun", noun)
