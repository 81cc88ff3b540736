"""An audit for machines, pull requests and spreadsheets: JUnit XML, GitHub's Markdown, CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from explain.audit import detectors as room
from explain.audit.result import FINDINGS, Audit
from explain.errors import FileError
from explain.files import replacing

_SIGNS = {True: "✅", False: "❌", None: "➖"}
_WORDS = {"pass": "✅ pass", "fail": "❌ fail", "uncalibrated": "➖ uncalibrated"}
# What XML 1.0 cannot hold.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUSPECTS = 5
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = tuple("=+-@\t\r")


def junit(audit: Audit) -> str:
    """One test case per condition of the policy; what was too small to judge is skipped."""
    checks = audit.checks
    suite = ElementTree.Element(
        "testsuite",
        name="explain audit",
        tests=str(max(1, len(checks))),
        failures=str(sum(check.passed is False for check in checks)),
        errors="0",
        skipped=str(sum(check.passed is None for check in checks) or int(not checks)),
    )
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname="explain.audit", name=_clean(check.name))
        if check.passed is False:
            ElementTree.SubElement(case, "failure", message=_clean(check.reason))
        elif check.passed is None:
            ElementTree.SubElement(case, "skipped", message=_clean(check.reason))
    if not checks:
        case = ElementTree.SubElement(suite, "testcase", classname="explain.audit", name="verdict")
        ElementTree.SubElement(case, "skipped", message=_clean(audit.reason))
    ElementTree.indent(suite)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suite, encoding="unicode")}\n'


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def markdown(audit: Audit) -> str:
    """A summary to put under a pull request."""
    lines = [
        f"## Audit of {_cell(audit.model)} on {_cell(audit.data)}: {_WORDS[audit.verdict]}",
        "",
        f"{_cell(audit.reason[:1].upper() + audit.reason[1:])}.",
        "",
        "| detector | sees | flagged (95 % interval) | allowed | mean score |",
        "|---|---|---:|---:|---:|",
    ]
    for name, found in audit.detectors.items():
        part = found.flagged
        flagged = "UNCALIBRATED"
        if part is not None:
            flagged = f"{part.count} of {part.n}"
            flagged += f" ({part.low:.2%} to {part.high:.2%})" if part.n else ""
        row = room.get(name)
        mean = f"{found.scores.mean:.3g} {row.units}" if found.scores.n else "–"
        lines.append(
            f"| {row.title} (`{name}`) | {row.sees} | {flagged} | {found.rate:.2%} | {mean.strip()} |"
        )
    if audit.checks:
        lines += ["", "| | condition | |", "|---|---|---|"]
        lines += [f"| {_SIGNS[c.passed]} | {_cell(c.name)} | {_cell(c.reason)} |" for c in audit.checks]
    elif audit.tests:
        lines += ["", *(f"- **{name}**: {_cell(item['reason'])}" for name, item in audit.tests.items())]
    flagged = [suspect for suspect in audit.suspects if suspect.flags][:_SUSPECTS]
    if flagged:
        lines += ["", "| most suspicious | output | why |", "|---|---|---|"]
        lines += [
            f"| {_cell(s.source)} | {_cell(s.output)} | {', '.join(flag.detector for flag in s.flags)} |"
            for s in flagged
        ]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Text that stays in its table cell and is not read as Markdown or HTML."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!@&])", r"\\\1", flat)


def findings_csv(folder: Path) -> Path:
    """Write `findings.csv` beside `findings.parquet`: the same rows for a spreadsheet, read a part at a time.

    Lists are joined by "; "; a text that a spreadsheet would take for a formula begins with an apostrophe.

    Raises:
        FileError: the table is missing or broken, or the file cannot be written.
    """
    path = folder / FINDINGS
    try:
        with pq.ParquetFile(path) as table, replacing(path.with_suffix(".csv")) as goal:
            with goal.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(table.schema_arrow.names)
                for batch in table.iter_batches(batch_size=4_096):
                    for row in batch.to_pylist():
                        writer.writerow(_plain(value) for value in row.values())
    except (OSError, pa.ArrowException) as error:
        raise FileError(f"{path} is a broken table: {error}") from None
    return path.with_suffix(".csv")


def _plain(value: Any) -> Any:
    text = "; ".join(value) if isinstance(value, list) else value
    return f"'{text}" if isinstance(text, str) and text[:1] in _FORMULA else text
