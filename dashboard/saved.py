"""Everything that is kept in the runs folder, as the page Runs & reports lists it, and what is brought in."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dashboard.catalogue import Place
from explain.audit import FILE as AUDIT
from explain.audit import load_audit
from explain.errors import ExplainError, FileError, InputError
from explain.evaluation import FILE, load_evaluation
from explain.files import read_json, write_json, write_text
from explain.report import Report, attribution_page, evaluation_page
from explain.report.audit import audit_page
from explain.report.labels import number, plural, whole_percent
from explain.report.trust import label_of
from explain.results import load_attribution
from explain.runs import LIVE, Run, free_folder, list_runs, unpack

KINDS = {
    "train": "Training",
    "evaluate": "Evaluation",
    "report": "Report",
    "attribution": "Attribution",
    "compress": "Compression",
    "compare": "Comparison",
    "audit": "Audit",
}
ARCHIVE_LIMIT = 256 << 20
"""Bytes that an uploaded run may unpack to."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One thing that is kept.

    Attributes:
        run: its folder.
        kind: what kind of run it is, as in its manifest; empty where that cannot be read.
        state: one of `explain.runs.STATES`.
        title: what it is called.
        made: when it was begun; None where it does not say.
        took: seconds that it was at work; None where it has not ended.
        model: the model that it is about; empty where it names none.
        result: what came out, in a few words.
    """

    run: Run
    kind: str
    state: str
    title: str
    made: datetime | None
    took: float | None
    model: str
    result: str

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.run.name

    @property
    def kind_name(self) -> str:
        """The kind as people say it."""
        return KINDS.get(self.kind) or self.kind.replace("_", " ").capitalize() or "Unreadable"

    @property
    def live(self) -> bool:
        """Its job has not ended."""
        return self.state in LIVE

    @property
    def pages(self) -> list[Path]:
        """The HTML pages that it wrote."""
        return sorted(
            path for path in self.run.path.glob("*.html") if path.is_file() and not path.is_symlink()
        )

    @property
    def data(self) -> list[Path]:
        """The JSON results that it wrote, without what belongs to the run itself."""
        found = (path for path in self.run.path.glob("*.json") if path.is_file() and not path.is_symlink())
        return sorted(path for path in found if path.name not in ("run.json", "job.json"))


def everything(place: Place) -> list[Saved]:
    """All that is kept, newest first; what cannot be read comes last."""
    return [_saved(run) for run in list_runs(place.runs)]


def _saved(run: Run) -> Saved:
    try:
        manifest = run.manifest
    except ExplainError as error:
        manifest = {"kind": "", "state": "failed", "error": str(error)}
    kind = str(manifest.get("kind") or "")
    config = manifest.get("config")
    named = config.get("model") if isinstance(config, Mapping) else None
    begun, ended = _time(manifest.get("started")), _time(manifest.get("ended"))
    return Saved(
        run=run,
        kind=kind,
        state=str(manifest["state"]),
        title=str(manifest.get("title") or ""),
        made=_time(manifest.get("created")),
        took=(ended - begun).total_seconds() if begun and ended else None,
        model=Path(named).name if isinstance(named, str) else run.name if kind == "train" else "",
        result=str(manifest["error"]) if manifest.get("error") else _result(kind, manifest.get("result")),
    )


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (TypeError, ValueError):
        return None


def _result(kind: str, found: Any) -> str:
    """What came out, in a few words."""
    if not isinstance(found, Mapping):
        return ""
    match, best, count = (found.get(name) for name in ("exact_match", "best", "examples"))
    if kind == "train" and isinstance(match, (int, float)):
        return f"{whole_percent(float(match))} exactly right"
    if kind == "evaluate":
        return f"{label_of(best)} first" if isinstance(best, str) and best else "no method can be trusted"
    if kind == "audit" and isinstance(found.get("verdict"), str) and isinstance(count, int):
        return f"{found['verdict']}, {plural(count, 'output')}"
    if kind in ("report", "attribution") and isinstance(count, int):
        methods = found.get("methods")
        used = f", {plural(len(methods), 'method')}" if isinstance(methods, list) else ""
        return f"{plural(count, 'output')}{used}"
    if kind == "compress" and isinstance(match, (int, float)):
        before = found.get("exact_match_before")
        was = f", {whole_percent(float(before))} before" if isinstance(before, (int, float)) else ""
        return f"{whole_percent(float(match))} exactly right{was}"
    if kind == "compare" and isinstance(count, int):
        alarm = found.get("alarm")
        return (
            f"{'no answer' if alarm is None else 'alarm' if alarm else 'no alarm'}, {plural(count, 'output')}"
        )
    return " · ".join(_pairs(found)[:2])


def _pairs(found: Mapping[str, Any]) -> list[str]:
    shown = []
    for name, value in found.items():
        if isinstance(value, (str, bool, int)):
            shown.append(f"{name.replace('_', ' ')} {value}")
        elif isinstance(value, float):
            shown.append(f"{name.replace('_', ' ')} {number(value, 3)}")
    return shown


# ---- what is brought in ----------------------------------------------------------------------------------


def bring_in(place: Place, name: str, content: bytes) -> Run:
    """Keep an uploaded file beside the runs: a run as zip, or a result of this project as JSON.

    Nothing of the file is taken over unread: a zip is checked entry by entry, JSON is read into the object
    that it stands for, and its page is made anew from that.

    Raises:
        ExplainError: it is none of these, broken, or unsafe; says what and why.
    """
    try:
        if name.lower().endswith(".zip"):
            return unpack(io.BytesIO(content), place.runs, limit=ARCHIVE_LIMIT)
        if name.lower().endswith(".json"):
            return _from_json(place, name, content)
    except FileError as error:
        raise FileError(f"{name}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FileError(f"{name} is broken: {type(error).__name__} {error}") from None
    raise InputError(f"{name!r} cannot be brought in; give a run as .zip, or a result as .json")


def _from_json(place: Place, name: str, content: bytes) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.json"
        path.write_bytes(content)
        data = read_json(path)
        schema = str(data.get("schema"))
        if schema == "explain/evaluation@1":
            evaluation = load_evaluation(path)
            kind, file, page = "evaluate", FILE, evaluation_page(evaluation)
            result: dict[str, Any] = {"best": next(iter(evaluation.ranking), None)}
        elif schema == "explain/attribution@1":
            attribution = load_attribution(path)
            kind, file, page = "attribution", "attribution.json", attribution_page(attribution)
            result = {"examples": 1, "methods": [attribution.method]}
        elif schema == "explain/report@1":
            report = Report.from_dict(data)
            kind, file, page = "report", "report.json", report.to_html()
            result = {"examples": len(report.examples), "methods": list(report.facts)}
        elif schema == "explain/audit@1":
            audit = load_audit(path)
            kind, file = "audit", AUDIT
            page = audit_page(audit, command=str(data.get("command")))
            result = {"verdict": audit.verdict, "examples": audit.examples}
        else:
            raise FileError(
                "it is no report, evaluation, audit or attribution of this project "
                f"(its schema is {schema!r})"
            )
    run = Run.create(
        free_folder(place.runs, _folder_name(name, kind)),
        kind=kind,
        command=f"explain dashboard (brought in as {name})",
        title=f"{name}, brought in",
    )
    write_json(run.path / file, data)
    write_text(run.path / f"{Path(file).stem}.html", page)
    run.update(
        state="done", result=result, model_digest=data.get("model_digest"), ended=run.manifest["created"]
    )
    return run


def _folder_name(name: str, kind: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(name).stem).strip("._-")[:50]
    return stem or kind
