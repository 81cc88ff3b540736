"""Attribution reports as jobs: on which texts, by which methods, and the command line that makes one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboard import cache, examples
from dashboard.catalogue import Choice, Place
from dashboard.examples import Example
from dashboard.model_jobs import subject
from explain.errors import InputError
from explain.files import dump_json, write_text
from explain.report.labels import plural
from explain.runs import Run, free_folder, start_job

KIND = "report"
# Controls of an output that the command line knows by the same names, and switches.
_OPTIONS = ("num_beams", "max_new_tokens", "source_language", "target_language")
_SWITCHES = ("allow_unknown",)
_USUAL: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a report is to hold.

    Attributes:
        texts: examples, each with how its output comes about.
        methods: names, in the order to show them.
        title: heading; empty for the usual one.
        level: what the maps are drawn by; empty for what fits.
    """

    texts: tuple[Example, ...]
    methods: tuple[str, ...]
    title: str = ""
    level: str = ""


def recent(place: Place, count: int = 30) -> dict[str, Example]:
    """The examples that were kept last, newest first, by id; what cannot be read is left out."""
    paths = sorted((place.hidden / "texts").glob("*.json"), key=_changed, reverse=True)
    found = {path.stem: examples.find(place, path.stem) for path in paths[:count]}
    return {id_: example for id_, example in found.items() if example is not None}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def rewritten(texts: Sequence[Example]) -> bool:
    """The report's job can write the outputs again itself; else they are handed to it as they are.

    It can where all are written in one way that the command line has options for.
    """
    first = texts[0].controls
    same = all(text == Example(text.source, None, first) for text in texts)
    unknown = {name for name, value in first.items() if _USUAL.get(name) != value}
    return same and unknown <= {*_OPTIONS, *_SWITCHES}


def start(place: Place, choice: Choice, plan: Plan) -> Run:
    """Start the job that makes the report; returns its run.

    Raises:
        InputError: no text or no method is chosen.
        ExplainError: an output cannot be written, or the runs folder cannot be written to.
    """
    if not plan.texts or not plan.methods:
        raise InputError("a report needs at least one text and one method")
    again = rewritten(plan.texts)
    rows = [{"source": text.source} if again else _given(choice, text) for text in plan.texts]
    lines = "".join(dump_json(row, indent=None) + "\n" for row in rows)
    name = hashlib.sha256(lines.encode()).hexdigest()[:12]
    source = write_text(place.hidden.absolute() / "reports" / f"{name}.jsonl", lines)
    out = free_folder(place.runs.absolute(), f"{KIND}-{choice.name}"[:60])
    return start_job(
        arguments(choice, plan, source, out, forced=not again),
        out,
        kind=KIND,
        title=plan.title or f"{plural(len(plan.texts), 'output')} of {choice.name}",
        config={
            "model": str(subject(choice)),
            "methods": list(plan.methods),
            "examples": len(plan.texts),
        },
    )


def _given(choice: Choice, text: Example) -> dict[str, str]:
    """A text with its output, as it was written or given here."""
    return {"source": text.source, "target": text.target or cache.generation(choice, text).target_text}


def arguments(choice: Choice, plan: Plan, source: Path, out: Path, *, forced: bool) -> list[str]:
    """The command line, after `explain`, that makes the report."""
    words = [KIND, str(subject(choice)), "--input", str(source), "--out", str(out)]
    for name in plan.methods:
        words += ["--method", name]
    if plan.title:
        words += ["--title", plan.title]
    if plan.level:
        words += ["--level", plan.level]
    controls = plan.texts[0].controls
    for name in _OPTIONS:
        decoding = name in ("num_beams", "max_new_tokens")
        if controls.get(name) and not (forced and decoding):
            words += [f"--{name.replace('_', '-')}", str(controls[name])]
    if any(text.controls.get("allow_unknown") for text in plan.texts):
        words.append("--allow-unknown")
    return [*words, "--forced"] if forced else words
