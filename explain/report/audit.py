"""The page of an audit: the verdict, the outputs to look at and why, the conditions, methods and limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explain.files import envelope, read_json, write_json, write_text
from explain.report import sections, trust
from explain.report.facts import facts_of
from explain.report.labels import (
    DASH,
    listed,
    number,
    percent,
    plural,
    setting_text,
    shorten,
    shown,
    token_label,
)
from explain.report.render import page
from explain.report.sections import MethodView, colophon, settings_rows
from explain.results import Attribution, Token

if TYPE_CHECKING:
    from explain.audit import Audit, Detector, Flag, Suspect
    from explain.evaluation import Evaluation

PAGE = "audit.html"
TITLE = "Which outputs should not be trusted?"
# Verdict to CSS class, sign and word.
MARKS = {
    "pass": ("passes", "✓", "pass"),
    "fail": ("fails", "✗", "fail"),
    "uncalibrated": ("missing", DASH, "uncalibrated: no verdict"),
}
CHECKS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("open", "?")}
MOST_FLAGS = 4
"""Detectors that are named for a part of the data."""
MOST_CHECKS = 8
"""Conditions that did not pass and are shown at once."""
# What reviewers agree on to CSS class, sign and word.
OUTCOMES = {
    "wrong": ("failed", "✗", "wrong"),
    "right": ("passed", "✓", "right: a false alarm"),
    "unsure": ("open", "?", "unsure"),
    "disputed": ("failed", "≠", "disputed"),
}
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

    `sure` says how sure it is in a sentence; `outcome` is what reviewers agree on, None before any did.
    """

    number: int
    excerpt: str
    expected: str
    source: tuple[Piece, ...]
    output: tuple[Piece, ...]
    why: tuple[str, ...]
    sure: str
    outcome: Mark | None
    reviews: tuple[tuple[str, str, str], ...]
    map: MethodView | None


@dataclass(frozen=True, slots=True)
class DetectorRow:
    """One detector with what it found, as texts; `precision` is as reviewed."""

    title: str
    sees: str
    paper: str
    bound: str
    zero: str
    flagged: str
    allowed: str
    excess: str
    precision: str
    more: bool


def about(name: str) -> Detector:
    """What the registry says of a detector; its name alone, where an audit was made with others."""
    from explain.audit import DETECTORS, Detector, Score

    found = DETECTORS.get(name)
    if found is not None:
        return found
    return Detector(name, shown(name), "", "both", "output", (), "", "", lambda *_: Score(math.nan))


# ---- files -----------------------------------------------------------------------------------------------


def write_audit(folder: Path, audit: Audit, command: str, evaluation: Evaluation | None = None) -> Audit:
    """Write all that people and machines take of a finished audit into its folder; returns it as written.

    `audit.json`, `audit.html`, `findings.csv`, `junit.xml` and `summary.md`, with the maps and the reviews
    that lie there. The evaluation is kept beside them, so that the folder alone is enough for another page.

    Raises:
        FileError: the folder cannot be written to, or holds broken maps or reviews.
    """
    from explain.audit.formats import findings_csv
    from explain.evaluation import FILE

    if evaluation is not None:
        evaluation.save(folder / FILE)
    findings_csv(folder)
    head = envelope(
        "audit",
        seed=audit.settings.get("seed"),
        model_digest=audit.model_digest,
        data_digest=audit.data_digest,
        command=command,
    )
    return _written(folder, audit, head, evaluation)


def rewrite_audit(folder: Path) -> Audit:
    """Write the pages of a finished audit again, with the reviews that lie there now.

    What it was made with stays what it says: versions, digests, command.

    Raises:
        FileError: the audit, its maps, its evaluation or its reviews are broken or cannot be written.
    """
    from explain.audit import FILE, load_audit
    from explain.evaluation import kept_evaluation

    audit = load_audit(folder)
    data = read_json(folder / FILE, "audit")
    head = {name: data.get(name) for name in envelope("audit")}
    return _written(folder, audit, head, kept_evaluation(folder, audit.model_digest))


def _written(folder: Path, audit: Audit, head: Mapping[str, Any], evaluation: Evaluation | None) -> Audit:
    from explain.audit import FILE
    from explain.audit.formats import junit, markdown
    from explain.audit.maps import load_maps
    from explain.audit.reviews import load_reviews, summarise

    audit = replace(audit, folder=folder)
    reviews = load_reviews(folder)
    audit = replace(audit, reviews=summarise(audit, reviews).to_dict() if reviews else None)
    html = audit_page(
        audit, command=str(head["command"]), head=head, maps=load_maps(folder), evaluation=evaluation
    )
    write_json(folder / FILE, {**head, **audit.to_dict()})
    write_text(folder / PAGE, html)
    write_text(folder / "junit.xml", junit(audit))
    write_text(folder / "summary.md", markdown(audit))
    return audit


# ---- the page --------------------------------------------------------------------------------------------


def audit_page(
    audit: Audit,
    *,
    command: str,
    head: Mapping[str, Any] | None = None,
    maps: Mapping[int, Attribution] | None = None,
    evaluation: Evaluation | None = None,
) -> str:
    """One offline HTML page, readable without JavaScript; the same audit gives the same bytes.

    Args:
        audit: what `explain.audit` or `load_audit` gives.
        command: the command that made it.
        head: versions, seed and digests it was made with; by default the present ones.
        maps: of some outputs, by number.
        evaluation: of the model; it says how far the maps can be believed.
    """
    head = head or envelope(
        "audit",
        seed=audit.settings.get("seed"),
        model_digest=audit.model_digest,
        data_digest=audit.data_digest,
        command=command,
    )
    findings = [_finding(audit, suspect, (maps or {}).get(suspect.number)) for suspect in audit.suspects]
    checks = [check for check in conditions(audit) if check[0] != "passed"]
    used = sorted({attribution.method for attribution in (maps or {}).values()})
    return page(
        "audit.html.jinja",
        title=TITLE,
        verdict=Mark(*MARKS[audit.verdict]),
        reason=headline(audit),
        advice=advice(audit),
        calibrated=bool(audit.flagged),
        facts=_facts(audit),
        findings=findings,
        detectors=[detector_row(audit, name) for name in audit.detectors],
        checks=checks[:MOST_CHECKS],
        more_checks=checks[MOST_CHECKS:],
        passed=[check for check in conditions(audit) if check[0] == "passed"],
        tables=test_tables(audit),
        slices=slice_rows(audit),
        combination=_combination(audit),
        refused=audit.refused,
        reviews=_reviews(audit),
        methods=[facts_of(name) for name in used],
        cards=[] if evaluation is None else [trust.card_view(evaluation, facts_of(name)) for name in used],
        make_one=trust.MAKE_ONE if used and evaluation is None else "",
        calibration=calibration_sentence(audit),
        signed=any(item.map is not None and item.map.main.signed for item in findings),
        unsigned=any(item.map is not None and not item.map.main.signed for item in findings),
        versions=head["versions"],
        settings=settings_rows({**audit.settings, "policy": audit.policy, "calibration": audit.calibration}),
        colophon=colophon(head),
        command=command,
    )


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text and text[-1] not in ".!?" else text[:1].upper() + text[1:]


def headline(audit: Audit) -> str:
    """The verdict in a sentence or two, for who has to decide."""
    if audit.verdict == "uncalibrated":
        return sentence(audit.reason)
    failed = sum(check.passed is False for check in audit.checks)
    said = f"{failed or 'None'} of {plural(len(audit.checks), 'condition')} failed."
    found, usual = audit.flagged, audit.expected
    if found is None or usual is None:
        return said
    return (
        f"{said} {found.count:,} of {plural(found.n, 'output')} are flagged, {percent(found.value)}; of "
        f"clean outputs {percent(usual.value)} are."
    )


def advice(audit: Audit) -> str:
    """What follows from the verdict, for who has to decide."""
    if audit.verdict == "uncalibrated":
        return (
            "Nothing here may be read as a pass or a fail. Calibrate the detectors on outputs that are known "
            "to be fine, and audit again."
        )
    count = 0 if audit.flagged is None else audit.flagged.count
    if audit.verdict == "fail":
        look = f"Look at the {plural(count, 'flagged output')} first" if count else "Look at what failed"
        return f"Do not rely on these outputs unseen. {look}; the conditions that failed are below."
    return (
        "Nothing speaks against these outputs beyond what false alarms explain. That is no proof that each "
        "is right; the flagged ones are still worth a look."
    )


def _facts(audit: Audit) -> list[tuple[str, str]]:
    rows = [
        ("Model", f"{shown(audit.model)}, digest {shorten(audit.model_digest, 19)}"),
        ("Data", f"{shown(audit.data)}, {plural(audit.examples, 'output')}"),
    ]
    said = flagged_sentence(audit)
    if said:
        rows.append(("Flagged", said))
    rows.append(("Calibration", calibration_sentence(audit)))
    found = audit.reviews
    if found is not None:
        parts = [f"{found[name]} {OUTCOMES[name][2]}" for name in OUTCOMES if found[name]]
        rows.append(("Reviewed", f"{plural(found['reviewed'], 'output')}: {', '.join(parts)}"))
    return rows


def flagged_sentence(audit: Audit) -> str:
    """How many outputs are flagged, how sure that is, and how many clean ones would be; "" if unknown."""
    if audit.flagged is None or audit.expected is None:
        return ""
    found = audit.flagged
    return (
        f"{plural(found.count, 'output')} of {found.n:,} ({percent(found.value)}; 95\u00a0% interval "
        f"{percent(found.low)} to {percent(found.high)}). Of clean outputs {percent(audit.expected.value)} "
        "are flagged by one detector or another"
    )


def calibration_sentence(audit: Audit) -> str:
    """What the thresholds rest on."""
    origin = audit.calibration
    if origin is None:
        return "none, so scores are shown and nothing is flagged"
    return f"{plural(origin['n'], 'clean output')} of {shown(str(origin['data']))}"


def detector_row(audit: Audit, name: str) -> DetectorRow:
    """What one detector found, as texts."""
    from explain.audit import Share

    row, found = about(name), audit.detectors[name]
    flagged = DASH
    if found.flagged is not None:
        part = found.flagged
        flagged = f"{part.count} ({percent(part.low)} to {percent(part.high)})"
    reviewed = (audit.reviews or {}).get("precision", {}).get(name)
    return DetectorRow(
        title=row.title,
        sees=row.sees,
        paper=row.paper,
        bound=f"{_bound(found.threshold, row.direction)}",
        zero=zero_means(name),
        flagged=flagged,
        allowed=percent(found.rate),
        excess=DASH if math.isnan(found.excess) else _p(found.excess),
        precision=DASH if reviewed is None else precision_text(Share.from_dict(reviewed)),
        more=not math.isnan(found.excess) and found.excess < float(audit.policy.get("level", 0.05)),
    )


def zero_means(name: str) -> str:
    """What 0 means for a detector's score."""
    row = about(name)
    return _ZERO.get(name) or f"0: no {row.units}" if row.units else ""


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else number(value, 3)


def _bound(threshold: Any, direction: str) -> str:
    values = threshold if isinstance(threshold, list) else [threshold]
    texts = [DASH if value is None else _score(value) for value in values]
    if texts == [DASH]:
        return DASH
    return {"low": f"below {texts[0]}", "high": f"above {texts[0]}"}.get(
        direction, f"outside {' to '.join(texts)}"
    )


def _score(value: float) -> str:
    """A score with four significant digits or so, and no more than it has."""
    if float(value).is_integer():
        return number(value, 0)
    return number(value, 4 if abs(value) < 1 else 3 if abs(value) < 10 else 2)


def precision_text(found: Any) -> str:
    """A precision as reviewed: `3 of 4 wrong (19 % to 99 %)`."""
    if not found.n:
        return DASH
    return f"{found.count} of {found.n} ({percent(found.low)} to {percent(found.high)})"


def slice_rows(audit: Audit) -> list[tuple[str, str, str]]:
    """Part of the data, its outputs, and what flags there, the most flags first."""
    rows = []
    for part in audit.parts:
        flags = sorted(part.flagged.items(), key=lambda item: (-item[1], item[0]))
        texts = [
            f"{about(name).title} {count} ({percent(count / part.outputs)})"
            for name, count in flags
            if count and part.outputs
        ]
        texts = (
            [*texts[:MOST_FLAGS], f"{len(texts) - MOST_FLAGS} more"] if len(texts) > MOST_FLAGS + 1 else texts
        )
        rows.append(
            (f"{part.slice}: {shown(part.value) or DASH}", f"{part.outputs:,}", "; ".join(texts) or "none")
        )
    return rows


def conditions(audit: Audit) -> list[tuple[str, str, str, str]]:
    """Conditions as class, sign, name and reason, those of the whole data that failed first.

    Without a calibration the model's tests stand alone.
    """
    if audit.checks:
        order = {False: 0, None: 1, True: 2}
        ranked = sorted(audit.checks, key=lambda check: (order[check.passed], " where " in check.name))
        return [(*CHECKS[check.passed], condition_name(check.name), check.reason) for check in ranked]
    return [
        (*CHECKS[item["passed"]], condition_name(f"test {name}"), item["reason"])
        for name, item in audit.tests.items()
    ]


def condition_name(name: str) -> str:
    """A condition of the policy as people call it: the detector by its title, then the part of the data."""
    if name.startswith("test "):
        return f"Test: {shown(name.removeprefix('test ').replace('_', ' '))}"
    if name == "refused":
        return "Sources that cannot be read"
    first, where, part = name.partition(" where ")
    title = about(first).title
    return f"{shown(title)}{where}{shown(part)}"


# ---- findings --------------------------------------------------------------------------------------------


def _finding(audit: Audit, suspect: Suspect, attribution: Attribution | None) -> Finding:
    source, output = pointed_at(suspect.flags)
    own = reviews_of(audit, suspect.number)
    return Finding(
        number=suspect.number,
        excerpt=shorten(shown(suspect.output), 80),
        expected=shown(suspect.expected) if suspect.expected != suspect.output else "",
        source=_pieces(suspect.source, suspect.source_tokens, source),
        output=_pieces(suspect.output, suspect.tokens, output),
        why=tuple(why(flag) for flag in suspect.flags),
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


def why(flag: Flag, *, sees: bool = True) -> str:
    """Why an output is suspicious to one detector, in a sentence; with `sees`, what the detector is for."""
    row = about(flag.detector)
    sides = [
        f"{word} {_score(value)}"
        for word, value in (("at least", flag.low), ("at most", flag.high))
        if not math.isnan(value)
    ]
    words = f" ({', '.join(shown(word) for word in flag.words)})" if flag.words else ""
    unit = f" {row.units}" if row.units else ""
    said = f"{row.title}: {_score(flag.score)}{unit}{words}; clean outputs have {' and '.join(sides)}."
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
    p = f"p < {_p(least)[1:]}" if _p(least).startswith("<") else f"p = {_p(least)}"
    return (
        f"At most {percent(least)} of clean outputs are as strange to the surest of its detectors ("
        f"{p}), so among {audit.flagged.n:,} clean ones {about} would be{others}."
    )


# ---- reviews ---------------------------------------------------------------------------------------------


def _reviews(audit: Audit) -> dict[str, Any] | None:
    """What reviewers said, for the template."""
    from explain.audit import Share

    found = audit.reviews
    if found is None:
        return None
    precision = {name: Share.from_dict(item) for name, item in found["precision"].items()}
    disputed = [item for item in found["outputs"] if item["outcome"] == "disputed"]
    return {
        "said": review_sentences(found),
        "rows": [
            (about(name).title, precision_text(item), percent(item.value))
            for name, item in precision.items()
            if item.n
        ],
        "disputed": [
            (
                item["number"],
                listed(
                    [
                        f"{shown(one['reviewer']) or 'a reviewer'} says {one['verdict']}"
                        + (f" (“{shown(one['note'])}”)" if one["note"] else "")
                        for one in item["reviews"]
                    ]
                ),
            )
            for item in disputed
        ],
    }


def review_sentences(found: Mapping[str, Any]) -> list[str]:
    """What reviews come to, in sentences; `found` is what stands under `reviews` of `audit.json`."""
    from explain.audit import Share

    flagged, clean = Share.from_dict(found["flagged"]), Share.from_dict(found["unflagged"])
    said = []
    if flagged.n:
        said.append(
            f"Of {plural(flagged.n, 'flagged output')} that reviewers settled, {flagged.count} are wrong: a "
            f"precision of {percent(flagged.value)} (95\u00a0% interval {percent(flagged.low)} to "
            f"{percent(flagged.high)})."
        )
    if clean.n:
        said.append(
            f"Of {plural(clean.n, 'output')} without a flag that they settled, {clean.count} are wrong "
            f"(interval {percent(clean.low)} to {percent(clean.high)})."
        )
    if found["disputed"]:
        said.append(
            f"On {plural(found['disputed'], 'output')} they contradict each other; these count for neither."
        )
    if found["unsure"]:
        said.append(f"On {plural(found['unsure'], 'output')} nobody was sure.")
    if found["elsewhere"]:
        said.append(f"{plural(found['elsewhere'], 'review')} are of outputs that this audit does not have.")
    return said


@dataclass(frozen=True, slots=True)
class TestTable:
    """What a test of the model found, one row each: facts swapped, words tried, secrets ranked."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def test_tables(audit: Audit) -> list[TestTable]:
    """The tables of the model's tests, of those that were run and have one."""
    tables = [
        TestTable(
            "Facts swapped",
            "One fact of a source is swapped for another. Ignored: the output should have changed and did "
            "not. Moved: it should not have changed and did. p is McNemar’s, one-sided, Holm-corrected.",
            ("Fact", "Swaps", "Made wrong", "Ignored", "Moved", "p"),
            tuple(
                (
                    shown(name),
                    str(item["swaps"]),
                    str(item["broken"]),
                    _of(item["ignored"]),
                    _of(item["moved"]),
                    number(item["p_corrected"], 3),
                )
                for name, item in audit.tests.get("swaps", {}).get("slots", {}).items()
            ),
        ),
        TestTable(
            "Words that move outputs most",
            "A word is put into sources, or a fact has this value. Same mistake: of right outputs, those in "
            "which it makes the model write that same wrong token. p is binomial against the limit, "
            "Holm-corrected over all words.",
            ("Word", "Where", "Writes instead", "Same mistake", "p"),
            tuple(
                (
                    shown(row["word"]),
                    shown(row["slot"]) or "put in",
                    shown(row["writes"]) or DASH,
                    _of(row["same"]),
                    _p(row["p_corrected"]),
                )
                for row in audit.tests.get("trigger", {}).get("words", ())
            ),
        ),
        TestTable(
            "Secrets of the training data",
            "Exposure in bits: 0 where every other filling is likelier, the most where none is; of a secret "
            "never seen 1.4 on average. p is Holm-corrected.",
            ("Text with the gap", "In the data", "Exposure", "At most", "p"),
            tuple(
                (
                    shorten(shown(row["source"]), 80),
                    f"{row['times']} times",
                    number(row["exposure"], 1),
                    number(row["most"], 1),
                    _p(row["p_corrected"]),
                )
                for row in audit.tests.get("canary", {}).get("canaries", ())
            ),
        ),
    ]
    return [table for table in tables if table.rows]


def _of(item: Any) -> str:
    return f"{item['count']} of {item['n']}" if item["n"] else DASH


def _combination(audit: Audit) -> list[tuple[str, str]]:
    found = audit.combination
    if found is None:
        return []
    ranked = sorted(found["auroc"].items(), key=lambda item: (-item[1], item[0]))
    return [(setting_text(name.replace("_", " ")), number(value, 3)) for name, value in ranked]
