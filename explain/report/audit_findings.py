"""The findings of an audit in words: what is flagged in an output, why, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.report import sections
from explain.report.facts import facts_of
from explain.report.labels import number, percent, plural, shorten, shown, token_label
from explain.report.sections import MethodView
from explain.results import Attribution, Token

if TYPE_CHECKING:
    from explain.audit import Audit, Detector, Flag, Suspect

# What reviewers agree on to CSS class, sign and word.
OUTCOMES = {
    "wrong": ("failed", "✗", "wrong"),
    "right": ("passed", "✓", "right: a false alarm"),
    "unsure": ("open", "?", "unsure"),
    "disputed": ("failed", "≠", "disputed"),
}
# ---- files -----------------------------------------------------------------------------------------------
_ZERO = {
    "log_prob": "0: certain of every token",
    "log_prob_min": "0: certain of every token",
    "entropy": "0: no doubt at any token",
    "entropy_max": "0: no doubt at any token",
    "information": "0: as likely with the source hidden",
    "information_min": "0: as likely with the source hidden; below 0: likelier",
    "information_unusual": "0: as much from the source as this token usually has",
    "source_share": "0: hiding the source changes nothing; 1: only the source counts",
    "attention_uniform": "0: looks everywhere alike; 1: at one token",
    "attention_references": "0: looks where clean outputs look",
    "doubt_unusual": "0: as much doubt as this token usually has",
    "token_unusual": "0: nothing about any token is unusual",
    "support_unusual": "0: as much support as this token usually has",
    "inert_unusual": "0: needed as much as usual",
    "inert_source": "0: every source token is needed; 1: none is",
    "prefix_copying": "0: no token repeats; 1: all do",
    "repetition": "0: no pair of tokens twice",
    "length_ratio": "0: empty; 1: as long as the source",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict or an outcome as a reader sees it: a CSS class, a sign and a word."""

    verdict: str
    sign: str
    word: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text; `flagged` names the detectors that point at it, `special` is no part of it."""

    text: str
    flagged: str = ""
    special: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One output to look at: both texts, a sentence for every flag, reviews, and its map where there is one.

    `expected` is the data's own output where it is another; `alike` says how close to it the output is where
    others may be as good, "" where there is one right answer. `sure` says how sure the finding is; `outcome`
    is what reviewers agree on, None before any did.
    """

    number: int
    excerpt: str
    expected: str
    alike: str
    source: tuple[Piece, ...]
    output: tuple[Piece, ...]
    why: tuple[str, ...]
    sure: str
    outcome: Mark | None
    reviews: tuple[tuple[str, str, str], ...]
    map: MethodView | None


def about(name: str) -> Detector:
    """What the registry says of a detector; its name alone, where an audit was made with others."""
    from explain.audit import DETECTORS, Detector, Score

    found = DETECTORS.get(name)
    if found is not None:
        return found
    return Detector(name, shown(name), "", "both", "output", (), "", "", lambda *_: Score(math.nan))


def zero_means(name: str) -> str:
    """What 0 means for a detector's score."""
    row = about(name)
    return _ZERO.get(name) or f"0: no {row.units}" if row.units else ""


def p_text(value: float) -> str:
    """A p-value as a cell shows it: `0.012`, `<0.001`."""
    return "<0.001" if value < 0.001 else number(value, 3)


def score_text(value: float) -> str:
    """A score with four significant digits or so, and no more than it has."""
    if float(value).is_integer():
        return number(value, 0)
    return number(value, 4 if abs(value) < 1 else 3 if abs(value) < 10 else 2)


def finding(audit: Audit, suspect: Suspect, attribution: Attribution | None) -> Finding:
    """One output to look at; `attribution` is its map."""
    source, output = pointed_at(suspect.flags)
    own = reviews_of(audit, suspect.number)
    return Finding(
        number=suspect.number,
        excerpt=shorten(shown(suspect.output), 80),
        expected=shown(suspect.expected) if suspect.expected != suspect.output else "",
        alike=_alike(audit, suspect),
        source=_pieces(suspect.source, suspect.source_tokens, source),
        output=_pieces(suspect.output, suspect.tokens, output),
        why=tuple(why(flag, rate=audit.detectors[flag.detector].rate) for flag in suspect.flags),
        sure=how_sure(audit, suspect.flags),
        outcome=None if own is None else Mark(*OUTCOMES[own["outcome"]]),
        reviews=tuple(
            (
                f"{shown(one['reviewer']) or 'a reviewer'}: {OUTCOMES[one['verdict']][2]}",
                shown(one["note"]),
                one["time"][:10],
            )
            for one in (own or {"reviews": ()})["reviews"]
        ),
        map=None if attribution is None else sections.method_view(attribution, facts_of(attribution.method)),
    )


def has_known_answers(audit: Audit) -> bool:
    """Whether the data's own outputs are the only right ones, as in a task; a file's are references."""
    return bool(audit.settings.get("known_answers"))


def _alike(audit: Audit, suspect: Suspect) -> str:
    from explain.audit import chrf

    if has_known_answers(audit) or not suspect.expected:
        return ""
    return f"chrF {number(chrf(suspect.output, suspect.expected), 1)}; 0: nothing in common, 100: equal"


def reviews_of(audit: Audit, number: int) -> Mapping[str, Any] | None:
    """What reviewers said of an output, as under `reviews.outputs` of `audit.json`; None if nothing."""
    found = (audit.reviews or {}).get("outputs", ())
    return next((item for item in found if item["number"] == number), None)


def pointed_at(flags: Iterable[Flag]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """The tokens of source and output that flags point at, each with the titles of the detectors."""
    sides: dict[str, dict[int, list[str]]] = {"source": {}, "token": {}}
    for flag in flags:
        row = about(flag.detector)
        for place in flag.places:
            sides.setdefault(row.level, {}).setdefault(place, []).append(row.title)
    return sides["source"], sides["token"]


def laid_out(text: str, tokens: Sequence[str]) -> tuple[Token, ...]:
    """Tokens of which only the texts are known, placed in the text; what is not there counts as special."""
    found, reached = [], 0
    for token in tokens:
        start = reached + len(text[reached:]) - len(text[reached:].lstrip())
        if token and text.startswith(token, start):
            found.append(Token(token, -1, start, start + len(token)))
            reached = start + len(token)
        else:
            found.append(Token(token, -1, reached, reached, special=True))
    return tuple(found)


def _pieces(text: str, tokens: Sequence[str], flagged: Mapping[int, Sequence[str]]) -> tuple[Piece, ...]:
    found, reached = [], 0
    for place, token in enumerate(laid_out(text, tokens)):
        said = "; ".join(flagged.get(place, ()))
        if token.special:
            found.append(Piece(token_label(token), said, special=True))
            continue
        if text[reached : token.start]:
            found.append(Piece(shown(text[reached : token.start])))
        found.append(Piece(shown(text[token.start : token.end]), said))
        reached = token.end
    if text[reached:]:
        found.append(Piece(shown(text[reached:])))
    return tuple(found)


def why(flag: Flag, *, sees: bool = True, rate: float = math.nan) -> str:
    """Why an output is suspicious to one detector, in a sentence.

    Args:
        flag: the detector, its score and its bounds.
        sees: also say what the detector is for.
        rate: the share of clean outputs allowed beyond the bounds, which is then said; nan leaves it out.
    """
    row = about(flag.detector)
    sides = [
        f"{word} {score_text(value)}"
        for word, value in (("at least", flag.low), ("at most", flag.high))
        if not math.isnan(value)
    ]
    words = f" ({', '.join(shown(word) for word in flag.words)})" if flag.words else ""
    unit = f" {row.units}" if row.units else ""
    most = "" if math.isnan(rate) else f", {percent(1 - rate)} of them,"
    bounds = " and ".join(sides)
    said = f"{row.title}: {score_text(flag.score)}{unit}{words}; clean outputs{most} have {bounds}."
    return f"{said} It sees {row.sees}." if sees else said


def how_sure(audit: Audit, flags: Sequence[Flag]) -> str:
    """How sure it is that an output is strange: how many clean ones are, and how many detectors agree."""
    known = [flag for flag in flags if not math.isnan(flag.p_value)]
    if not known or audit.flagged is None:
        return ""
    least = min(flag.p_value for flag in known)
    chance = least * audit.flagged.n
    others = f"; {plural(len(flags), 'detector')} of {len(audit.detectors)} flag it" if len(flags) > 1 else ""
    about = "less than one" if chance < 0.95 else f"about {round(chance)}"
    p = f"p < {p_text(least)[1:]}" if p_text(least).startswith("<") else f"p = {p_text(least)}"
    return (
        f"At most {percent(least)} of clean outputs are as strange to the surest of its detectors ("
        f"{p}), so among {audit.flagged.n:,} clean ones {about} would be{others}."
    )
