"""What a run folder holds: the names of its files, its states, and `run.json` read and written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from explain.errors import FileError, RunError
from explain.files import command_line, envelope, read_json, write_json
from explain.runs.processes import own_process

STATES = ("queued", "running", "paused", "stopped", "failed", "done")
LIVE = frozenset({"queued", "running", "paused"})
REQUESTS = ("stop", "pause", "continue")

MANIFEST = "run.json"
PROGRESS = "progress.jsonl"
LOG = "log.txt"
CONTROL = "control"
RATE = "learning_rate"
JOB = "job.json"

STEERING = frozenset({MANIFEST, LOG, CONTROL, RATE, JOB})
"""Files of a run that hold nothing of its work."""


def now() -> str:
    """The time, as manifests write it."""
    return datetime.now(UTC).isoformat()


def new_manifest(
    kind: str, command: str | None, title: str, config: Mapping[str, Any] | None, seed: int | None
) -> dict[str, Any]:
    """The manifest of a run that is queued by this process."""
    head = envelope("run", seed=seed, command=command if command is not None else command_line())
    body = {
        "kind": kind,
        "state": "queued",
        "title": title,
        "created": now(),
        "started": None,
        "ended": None,
        **own_process(),
        "model": None,
        "config": dict(config or {}),
        "result": None,
        "error": None,
    }
    return head | body


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write `run.json` of the run folder `path`, atomically."""
    write_json(path / MANIFEST, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    """What `run.json` of the run folder `path` says.

    Raises:
        RunError: the folder is missing, is not a run, or its `run.json` is broken or foreign.
    """
    if not path.is_dir():
        raise RunError(f"there is no run folder {path}")
    if not (path / MANIFEST).is_file():
        raise RunError(f"{path} is not a run folder: it has no {MANIFEST}")
    try:
        manifest = read_json(path / MANIFEST, "run")
    except FileError as error:
        raise RunError(str(error)) from None
    if manifest.get("state") not in STATES:
        raise RunError(f"{path / MANIFEST} names no known state ({manifest.get('state')!r})")
    return manifest


def queued_process(path: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The process that a queued run waits for: the job, or who is about to start it."""
    try:
        return read_json(path / JOB)
    except FileError:
        return manifest
