"""The page of an audit: the verdict, the outputs to look at and why, the conditions, methods and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explain.files import envelope, read_json, write_json, write_text
from explain.report import trust
from explain.report.audit_findings import (
    OUTCOMES,
    Mark,
    about,
    finding,
    has_known_answers,
    how_sure,
    laid_out,
    pointed_at,
    reviews_of,
    why,
)
from explain.report.audit_tables import (
    combination,
    conditions,
    detector_row,
    precision_text,
    slice_rows,
    test_tables,
)
from explain.report.facts import facts_of
from explain.report.labels import DASH, listed, number, percent, plural, shorten, shown
from explain.report.render import page
from explain.report.sections import colophon, settings_rows
from explain.results import Attribution

if TYPE_CHECKING:
    from explain.audit import Audit
    from explain.evaluation import Evaluation

__all__ = [
    "MARKS",
    "MOST_CHECKS",
    "OUTCOMES",
    "PAGE",
    "TITLE",
    "about",
    "advice",
    "audit_page",
    "calibration_sentence",
    "conditions",
    "detector_row",
    "flagged_sentence",
    "headline",
    "how_sure",
    "laid_out",
    "pointed_at",
    "precision_text",
    "review_sentences",
    "reviews_of",
    "rewrite_audit",
    "sentence",
    "slice_rows",
    "test_tables",
    "why",
    "write_audit",
]

PAGE = "audit.html"
TITLE = "Which outputs should not be trusted?"
# Verdict to CSS class, sign and word.
MARKS = {
    "pass": ("passes", "✓", "pass"),
    "fail": ("fails", "✗", "fail"),
    "uncalibrated": ("missing", DASH, "uncalibrated: no verdict"),
}
MOST_CHECKS = 8
"""Conditions that did not pass and are shown at once."""


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
    findings = [finding(audit, suspect, (maps or {}).get(suspect.number)) for suspect in audit.suspects]
    checks = [check for check in conditions(audit) if check[0] != "passed"]
    used = sorted({attribution.method for attribution in (maps or {}).values()})
    return page(
        "audit.html.jinja",
        title=TITLE,
        verdict=Mark(*MARKS[audit.verdict]),
        reason=headline(audit),
        advice=advice(audit),
        calibrated=bool(audit.flagged),
        judged=audit.flagged is not None,
        facts=_facts(audit),
        findings=findings,
        detectors=[detector_row(audit, name) for name in audit.detectors],
        checks=checks[:MOST_CHECKS],
        more_checks=checks[MOST_CHECKS:],
        passed=[check for check in conditions(audit) if check[0] == "passed"],
        tables=test_tables(audit),
        slices=slice_rows(audit),
        combination=combination(audit),
        known=has_known_answers(audit),
        compared=_compared(audit),
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
    from explain.audit import not_judged

    if audit.verdict == "uncalibrated":
        return sentence(audit.reason)
    failed = sum(check.passed is False for check in audit.checks)
    open_ = not_judged(audit.checks)
    said = f"{failed or 'None'} of {plural(len(audit.checks), 'condition')} failed{open_}."
    found, usual = audit.flagged, audit.expected
    if found is None or usual is None or not found.n:
        return said
    return (
        f"{said} {found.count:,} of {plural(found.n, 'output')} are flagged, {percent(found.value)}; of "
        f"the calibration's clean outputs {percent(usual.value)} are."
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
    if audit.flagged is not None and audit.flagged.n < int(audit.policy.get("fewest", 0)):
        return "So few outputs cannot show much: a pass means next to nothing here."
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
    if audit.flagged is None or audit.expected is None or not audit.flagged.n:
        return ""
    found, usual = audit.flagged, audit.expected
    return (
        f"{plural(found.count, 'output')} of {found.n:,} ({percent(found.value)}; 95\u00a0% interval "
        f"{percent(found.low)} to {percent(found.high)}). Of the calibration's clean outputs "
        f"{percent(usual.value)} ({percent(usual.low)} to {percent(usual.high)}) are flagged by one detector "
        "or another"
    )


def calibration_sentence(audit: Audit) -> str:
    """What the thresholds rest on."""
    origin = audit.calibration
    if origin is None:
        return "none, so scores are shown and nothing is flagged"
    return f"{plural(origin['n'], 'clean output')} of {shown(str(origin['data']))}"


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


def _compared(audit: Audit) -> str:
    """How outputs compare with the data's references, in sentences; "" where there are none."""
    from explain.audit import Share

    found = audit.reference
    if found is None:
        return ""
    equal = Share.from_dict(found["equal"])
    means = [
        f"{number(part['mean'], 1)} of {plural(part['n'], 'output')} {which}"
        for name, which in (("flagged", "with a flag"), ("unflagged", "without a flag"))
        if (part := found["chrf"][name])["n"]
    ]
    return (
        f"{equal.count:,} of {plural(equal.n, 'output')} equal the reference ({percent(equal.low)} to "
        f"{percent(equal.high)}); others may be as good. Mean chrF, 0 (no letters in common with the "
        f"reference) to 100 (equal): {listed(means)}."
    )
