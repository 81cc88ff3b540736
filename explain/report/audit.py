"""The page of an audit: the verdict, the outputs to look at and why, the conditions, methods and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.files import envelope
from explain.report.labels import DASH, number, percent, plural, setting_text, shorten, shown, token_label
from explain.report.render import page
from explain.report.sections import colophon, settings_rows

if TYPE_CHECKING:
    from explain.audit import Audit, Flag, Suspect

TITLE = "Which outputs should not be trusted?"
# Verdict to CSS class, sign and word.
MARKS = {
    "pass": ("passes", "✓", "pass"),
    "fail": ("fails", "✗", "fail"),
    "uncalibrated": ("missing", DASH, "uncalibrated: no verdict"),
}
_CHECKS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("open", "?")}


@dataclass(frozen=True, slots=True)
class VerdictMark:
    """A verdict as a reader sees it: a CSS class, a sign and a word."""

    verdict: str
    sign: str
    word: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text; `flagged` names the detectors that point at it."""

    text: str
    flagged: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One output to look at: both texts token by token, and a sentence for every flag."""

    number: int
    expected: str
    source: tuple[Piece, ...]
    output: tuple[Piece, ...]
    why: tuple[str, ...]


def audit_page(audit: Audit, *, command: str) -> str:
    """One offline HTML page, readable without JavaScript; the same audit gives the same bytes.

    Args:
        audit: what `explain.audit` or `load_audit` gives.
        command: the command that made it.
    """
    from explain.audit import DETECTORS

    head = envelope(
        "audit",
        seed=audit.settings.get("seed"),
        model_digest=audit.model_digest,
        data_digest=audit.data_digest,
        command=command,
    )
    return page(
        "audit.html.jinja",
        title=TITLE,
        verdict=VerdictMark(*MARKS[audit.verdict]),
        reason=f"{audit.reason[:1].upper()}{audit.reason[1:]}.",
        calibrated=bool(audit.flagged),
        facts=_facts(audit),
        findings=[_finding(suspect) for suspect in audit.suspects],
        detectors=[
            (DETECTORS[name], found, _bound(found.threshold), _flagged(audit, name))
            for name, found in audit.detectors.items()
        ],
        checks=[(*_CHECKS[check.passed], check.name, check.reason) for check in audit.checks],
        tests=[(name, *_CHECKS[item["passed"]], item["reason"]) for name, item in audit.tests.items()],
        swaps=_swaps(audit),
        combination=_combination(audit),
        refused=audit.refused,
        versions=head["versions"],
        settings=settings_rows({**audit.settings, "policy": audit.policy, "calibration": audit.calibration}),
        colophon=colophon(head),
        command=command,
    )


def _facts(audit: Audit) -> list[tuple[str, str]]:
    rows = [
        ("Model", f"{shown(audit.model)}, digest {shorten(audit.model_digest, 19)}"),
        ("Data", f"{shown(audit.data)}, {plural(audit.examples, 'output')}"),
    ]
    if audit.flagged is not None and audit.expected is not None:
        rows.append(
            (
                "Flagged",
                f"{plural(audit.flagged.count, 'output')} ({percent(audit.flagged.value)}; 95\u00a0% "
                f"interval {percent(audit.flagged.low)} to {percent(audit.flagged.high)}). Of clean outputs "
                f"{percent(audit.expected.value)} are flagged by one detector or another",
            )
        )
    origin = audit.calibration
    if origin is None:
        rows.append(("Calibration", "none, so scores are shown and nothing is flagged"))
    else:
        rows.append(("Calibration", f"{plural(origin['n'], 'clean output')} of {shown(origin['data'])}"))
    return rows


def _bound(threshold: Any) -> str:
    values = threshold if isinstance(threshold, list) else [threshold]
    texts = [DASH if value is None else number(value, 4) for value in values]
    return " to ".join(texts)


def _flagged(audit: Audit, name: str) -> str:
    found = audit.detectors[name].flagged
    if found is None:
        return DASH
    return f"{found.count} ({percent(found.low)} to {percent(found.high)})"


def _finding(suspect: Suspect) -> Finding:
    from explain.audit import DETECTORS

    by_side: dict[str, dict[int, list[str]]] = {"source": {}, "token": {}}
    for flag in suspect.flags:
        for place in flag.places:
            row = DETECTORS[flag.detector]
            by_side.setdefault(row.level, {}).setdefault(place, []).append(row.title)
    return Finding(
        suspect.number,
        shown(suspect.expected) if suspect.expected != suspect.output else "",
        _pieces(suspect.source_tokens, by_side["source"]),
        _pieces(suspect.tokens, by_side["token"]),
        tuple(_why(flag) for flag in suspect.flags),
    )


def _pieces(tokens: Sequence[str], flagged: dict[int, list[str]]) -> tuple[Piece, ...]:
    return tuple(Piece(token_label(token), "; ".join(flagged.get(i, []))) for i, token in enumerate(tokens))


def _why(flag: Flag) -> str:
    from explain.audit import DETECTORS

    row = DETECTORS[flag.detector]
    sides = [
        f"{word} {number(value, 4)}"
        for word, value in (("at least", flag.low), ("at most", flag.high))
        if not math.isnan(value)
    ]
    words = f" ({', '.join(shown(word) for word in flag.words)})" if flag.words else ""
    return (
        f"{row.title}: {number(flag.score, 4)} {row.units}{words}; clean outputs have {' and '.join(sides)}. "
        f"{percent(flag.p_value)} of clean outputs are as suspicious. It sees {row.sees}."
    )


def _swaps(audit: Audit) -> list[tuple[str, ...]]:
    slots = audit.tests.get("swaps", {}).get("slots", {})
    return [
        (
            name,
            str(item["swaps"]),
            str(item["broken"]),
            _of(item["ignored"]),
            _of(item["moved"]),
            number(item["p_corrected"], 3),
        )
        for name, item in slots.items()
    ]


def _of(item: Any) -> str:
    return f"{item['count']} of {item['n']}" if item["n"] else DASH


def _combination(audit: Audit) -> list[tuple[str, str]]:
    found = audit.combination
    if found is None:
        return []
    ranked = sorted(found["auroc"].items(), key=lambda item: (-item[1], item[0]))
    return [(setting_text(name.replace("_", " ")), number(value, 3)) for name, value in ranked]
