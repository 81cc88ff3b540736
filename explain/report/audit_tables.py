"""The tables of an audit's page: conditions, detectors, parts of the data, tests of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.report.audit_findings import about, p_text, score_text, zero_means
from explain.report.labels import DASH, number, percent, setting_text, shorten, shown

if TYPE_CHECKING:
    from explain.audit import Audit, DetectorResult

CHECKS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("open", "?")}
MOST_FLAGS = 4
"""Detectors that are named for a part of the data."""


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
        bound=_bound(found.threshold, row.direction) if found.flagged is not None else _spread(found),
        zero=f"{row.units} · {zero_means(name)}" if row.units else zero_means(name),
        flagged=flagged,
        allowed=percent(found.rate),
        excess=DASH if math.isnan(found.excess) else p_text(found.excess),
        precision=DASH if reviewed is None else precision_text(Share.from_dict(reviewed)),
        more=not math.isnan(found.excess) and found.excess < float(audit.policy.get("level", 0.05)),
    )


def _spread(found: DetectorResult) -> str:
    """The scores of all outputs, where nothing says which are too low or too high."""
    scores = found.scores
    if not scores.n:
        return DASH
    ends = f"{score_text(scores.least)} to {score_text(scores.most)}"
    return f"mean {score_text(scores.mean)} ({ends})"


def _bound(threshold: Any, direction: str) -> str:
    values = threshold if isinstance(threshold, list) else [threshold]
    texts = [DASH if value is None else score_text(value) for value in values]
    if texts == [DASH]:
        return DASH
    return {"low": f"below {texts[0]}", "high": f"above {texts[0]}"}.get(
        direction, f"outside {' to '.join(texts)}"
    )


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
            "not. Moved: it should not have changed and did. p of wrong: McNemar’s, one-sided; p of moved: "
            "binomial against the limit; both Holm-corrected together.",
            ("Fact", "Swaps", "Made wrong", "Ignored", "Moved", "p of wrong", "p of moved"),
            tuple(
                (
                    shown(name),
                    str(item["swaps"]),
                    str(item["broken"]),
                    _of(item["ignored"]),
                    _of(item["moved"]),
                    p_text(item["p_corrected"]),
                    p_text(item["p_moved_corrected"]) if "p_moved_corrected" in item else DASH,
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
                    p_text(row["p_corrected"]),
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
                    p_text(row["p_corrected"]),
                )
                for row in audit.tests.get("canary", {}).get("canaries", ())
            ),
        ),
    ]
    return [table for table in tables if table.rows]


def _of(item: Any) -> str:
    return f"{item['count']} of {item['n']}" if item["n"] else DASH


def combination(audit: Audit) -> list[tuple[str, str]]:
    """How well each detector, and all together, tell outputs apart, the best first."""
    found = audit.combination
    if found is None:
        return []
    ranked = sorted(found["auroc"].items(), key=lambda item: (-item[1], item[0]))
    return [(setting_text(name.replace("_", " ")), number(value, 3)) for name, value in ranked]
