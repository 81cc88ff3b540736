"""Which models and runs may be opened: those under the runs folder and those named on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

from explain.errors import ExplainError, InputError
from explain.files import digest_json
from explain.runs import Run, list_runs, model_folder

SECTION = "explain"
_HIDDEN = ".dashboard"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the dashboard works: the folder of run folders, and models named on the command line."""

    runs: Path
    models: tuple[Path, ...] = ()

    @property
    def hidden(self) -> Path:
        """The dashboard's own folder: texts and uploaded data."""
        return self.runs / _HIDDEN


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that may be opened: `name` stands in links, `folder` is what is loaded."""

    name: str
    folder: Path
    title: str
    task: str | None = None
    run: Path | None = None

    @property
    def stamp(self) -> str:
        """Changes when a file of the model does, so that caches never show an older model."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        return digest_json([(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in files])


def secrets(place: Place) -> dict[str, Any]:
    """The place as `st.App(secrets=…)` takes it; `current_place` reads it back."""
    return {SECTION: {"runs": str(place.runs), "models": [str(path) for path in place.models]}}


def current_place() -> Place:
    """The place that the server was started with; `runs` here when it was started without one."""
    try:
        section = st.secrets[SECTION]
        return Place(Path(section["runs"]), tuple(Path(path) for path in section["models"]))
    except (KeyError, StreamlitSecretNotFoundError):
        return Place(Path("runs"))


def choices(place: Place) -> dict[str, Choice]:
    """Every model that may be opened, by name, those first that one would want first.

    These are the models named on the command line, then finished runs, newest first, then runs that are still
    learning or broke off, then plain model folders.
    """
    found: dict[str, Choice] = {}
    for path in place.models:
        name = path.resolve().name
        number = 2
        while name in found:
            name = f"{path.resolve().name}-{number}"
            number += 1
        found[name] = _given(name, path)
    for run in sorted(list_runs(place.runs), key=lambda run: run.state != "done"):
        choice = _of_run(run)
        if choice is not None:
            found.setdefault(choice.name, choice)
    for folder in _plain_folders(place.runs):
        found.setdefault(folder.name, Choice(folder.name, folder, folder.name))
    return found


def choose(place: Place, name: str) -> Choice:
    """The model of that name.

    Raises:
        InputError: it is neither under the runs folder nor named on the command line.
    """
    known = choices(place)
    if name not in known:
        raise InputError(
            f"{name!r} is not a model of this dashboard; it opens only models in {place.runs} and those "
            "named when it was started"
        )
    return known[name]


def _of_run(run: Run) -> Choice | None:
    try:
        folder = model_folder(run.path)
        manifest = run.manifest
    except ExplainError:
        return None
    task = run.config.get("task") or None
    return Choice(run.name, folder, str(manifest.get("title") or run.name), task, run.path)


def _plain_folders(root: Path) -> list[Path]:
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    return [path for path in folders if (path / "config.json").is_file()]


def _given(name: str, path: Path) -> Choice:
    try:
        inner = _of_run(Run.open(path))
    except ExplainError:
        inner = None
    return Choice(name, inner.folder, inner.title, inner.task, path) if inner else Choice(name, path, name)
