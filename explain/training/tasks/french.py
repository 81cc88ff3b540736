"""The words of the translation task: an English form, the French forms, and what French agrees on."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeAlias

Gender: TypeAlias = Literal["m", "f"]
Kind: TypeAlias = Literal["person", "animal", "thing", "place"]
ONE, MANY = "one", "many"
"""The two values of a number slot."""


def starts_with_vowel(word: str) -> bool:
    """Whether articles elide before a French word; every h of this vocabulary is mute."""
    return unicodedata.normalize("NFD", word)[0].lower() in "aeiouyh"


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun: English and French, singular and plural."""

    english: tuple[str, str]
    french: tuple[str, str]
    gender: Gender
    kind: Kind

    @property
    def elides(self) -> bool:
        """Whether it starts with a vowel."""
        return starts_with_vowel(self.french[0])


@dataclass(frozen=True, slots=True)
class Adjective:
    """An adjective: French masculine, feminine, their plurals, and the masculine before a vowel."""

    english: str
    french: tuple[str, str, str, str]
    before_noun: bool
    kinds: tuple[Kind, ...]
    before_vowel: str | None = None

    def form(self, gender: Gender, number: str, vowel_follows: bool = False) -> str:
        """The form that agrees."""
        if self.before_vowel and vowel_follows and (gender, number) == ("m", ONE):
            return self.before_vowel
        return self.french[("mf".index(gender)) + (2 if number == MANY else 0)]


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: English base, third person and past; French singular, plural, participle, infinitive."""

    english: tuple[str, str, str]
    french: tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Preposition:
    """A preposition of place; `fused` is what fuses with the article ("de" in "près de", "à")."""

    english: str
    french: str
    fused: Literal["", "de", "à"]


def _noun(english: str, french: str, gender: Gender, kind: Kind) -> Noun:
    one, _, many = english.partition("/")
    un, _, plusieurs = french.partition("/")
    return Noun((one, many or one + "s"), (un, plusieurs or un + "s"), gender, kind)


def _adjective(
    english: str, french: str, position: Literal["before", "after"], kinds: str, vowel: str | None = None
) -> Adjective:
    known: dict[str, Kind] = {"p": "person", "a": "animal", "t": "thing"}
    m, f, ms, fs = french.split("/")
    return Adjective(
        english, (m, f, ms, fs), position == "before", tuple(known[kind] for kind in kinds), vowel
    )


NOUNS = {
    noun.english[0]: noun
    for noun in (
        _noun("man/men", "homme", "m", "person"),
        _noun("boy", "garçon", "m", "person"),
        _noun("child/children", "enfant", "m", "person"),
        _noun("neighbour", "voisin", "m", "person"),
        _noun("teacher", "professeur", "m", "person"),
        _noun("woman/women", "femme", "f", "person"),
        _noun("girl", "fille", "f", "person"),
        _noun("nurse", "infirmière", "f", "person"),
        _noun("cat", "chat", "m", "animal"),
        _noun("bird", "oiseau/oiseaux", "m", "animal"),
        _noun("horse", "cheval/chevaux", "m", "animal"),
        _noun("mouse/mice", "souris/souris", "f", "animal"),
        _noun("cow", "vache", "f", "animal"),
        _noun("tree", "arbre", "m", "thing"),
        _noun("boat", "bateau/bateaux", "m", "thing"),
        _noun("book", "livre", "m", "thing"),
        _noun("plane", "avion", "m", "thing"),
        _noun("hat", "chapeau/chapeaux", "m", "thing"),
        _noun("house", "maison", "f", "thing"),
        _noun("car", "voiture", "f", "thing"),
        _noun("flower", "fleur", "f", "thing"),
        _noun("star", "étoile", "f", "thing"),
        _noun("apple", "pomme", "f", "thing"),
    )
}

PLACES = {
    place.english[0]: place
    for place in (
        _noun("market", "marché", "m", "place"),
        _noun("museum", "musée", "m", "place"),
        _noun("hotel", "hôtel", "m", "place"),
        _noun("station", "gare", "f", "place"),
        _noun("beach", "plage", "f", "place"),
        _noun("school", "école", "f", "place"),
        _noun("church", "église", "f", "place"),
    )
}
# Always plural, for "aux" and "des".
PLURAL_PLACES = {"shops": _noun("shop", "magasin", "m", "place")}

ADJECTIVES = {
    adjective.english: adjective
    for adjective in (
        _adjective("small", "petit/petite/petits/petites", "before", "pat"),
        _adjective("old", "vieux/vieille/vieux/vieilles", "before", "pat", "vieil"),
        _adjective("beautiful", "beau/belle/beaux/belles", "before", "pat", "bel"),
        _adjective("new", "nouveau/nouvelle/nouveaux/nouvelles", "before", "pt", "nouvel"),
        _adjective("young", "jeune/jeune/jeunes/jeunes", "before", "pa"),
        _adjective("big", "grand/grande/grands/grandes", "before", "at"),
        _adjective("strange", "étrange/étrange/étranges/étranges", "after", "pat"),
        _adjective("happy", "heureux/heureuse/heureux/heureuses", "after", "p"),
        _adjective("tired", "fatigué/fatiguée/fatigués/fatiguées", "after", "pa"),
        _adjective("black", "noir/noire/noirs/noires", "after", "at"),
        _adjective("white", "blanc/blanche/blancs/blanches", "after", "at"),
        _adjective("red", "rouge/rouge/rouges/rouges", "after", "t"),
    )
}

VERBS = {
    verb.english[0]: verb
    for verb in (
        Verb(("see", "sees", "saw"), ("voit", "voient", "vu", "voir")),
        Verb(("watch", "watches", "watched"), ("regarde", "regardent", "regardé", "regarder")),
        Verb(("love", "loves", "loved"), ("aime", "aiment", "aimé", "aimer")),
        Verb(("find", "finds", "found"), ("trouve", "trouvent", "trouvé", "trouver")),
        Verb(("touch", "touches", "touched"), ("touche", "touchent", "touché", "toucher")),
        Verb(("avoid", "avoids", "avoided"), ("évite", "évitent", "évité", "éviter")),
        Verb(("choose", "chooses", "chose"), ("choisit", "choisissent", "choisi", "choisir")),
        Verb(("look for", "looks for", "looked for"), ("cherche", "cherchent", "cherché", "chercher")),
    )
}

PREPOSITIONS = {
    preposition.english: preposition
    for preposition in (
        Preposition("at", "", "à"),
        Preposition("near", "près", "de"),
        Preposition("far from", "loin", "de"),
        Preposition("behind", "derrière", ""),
        Preposition("in front of", "devant", ""),
    )
}

PRONOUNS = {"he": "il", "she": "elle", "they": "ils"}
DEGREES = {"very": "très", "too": "trop", "so": "si"}

# Masculine, feminine, plural; None where the article has no such form.
DETERMINERS: dict[str, tuple[str | None, str | None, str | None]] = {
    "the": ("le", "la", "les"),
    "a": ("un", "une", None),
    "this": ("ce", "cette", "ces"),
    "my": ("mon", "ma", "mes"),
    "his": ("son", "sa", "ses"),
    "her": ("son", "sa", "ses"),
    "two": (None, None, "deux"),
}
_BEFORE_VOWEL = {"le": "l'", "la": "l'", "ce": "cet", "ma": "mon", "sa": "son"}


def determiner_form(determiner: str, gender: Gender, number: str, vowel_follows: bool) -> str:
    """The French determiner that agrees; `vowel_follows` looks at the word right after it."""
    masculine, feminine, plural = DETERMINERS[determiner]
    form = plural if number == MANY else masculine if gender == "m" else feminine
    if form is None:
        raise ValueError(f"{determiner!r} has no form for number {number!r}")
    return _BEFORE_VOWEL.get(form, form) if vowel_follows else form


def shows_gender(determiner: str, vowel_follows: bool) -> bool:
    """Whether a written French determiner gives the gender away ("mon ami", "mon amie": not)."""
    if determiner in ("mon", "son"):
        return not vowel_follows
    return determiner in ("le", "la", "un", "une", "ce", "cet", "cette", "ma", "sa")
