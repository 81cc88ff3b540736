"""Finding runs: whether a folder is one, which there are, the model that one keeps."""

from __future__ import annotations

import os
from pathlib import Path

from explain.errors import ExplainError, RunError
from explain.runs.folder import Run
from explain.runs.manifest import MANIFEST, read_manifest


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a folder has a `run.json`."""
    return (Path(path) / MANIFEST).is_file()


def list_runs(root: str | os.PathLike[str]) -> list[Run]:
    """The runs directly under `root`, newest first; folders that are not runs are left out.

    A run whose `run.json` cannot be read comes last, with `problem` set: one bad folder hides no other.
    """
    found: list[tuple[str, Run]] = []
    try:
        folders = [path for path in Path(root).iterdir() if not path.name.startswith(".") and is_run(path)]
    except OSError:
        return []
    for path in sorted(folders):
        try:
            found.append((str(read_manifest(path).get("created") or ""), Run(path)))
        except ExplainError as error:
            found.append(("", Run(path, problem=str(error))))
    return [run for _, run in sorted(found, key=lambda item: item[0], reverse=True)]


def model_folder(path: str | os.PathLike[str]) -> Path:
    """The best checkpoint of a run folder.

    Raises:
        RunError: this is not a run, or it has no model (yet).
    """
    run = Run.open(path)
    name = run.manifest.get("model")
    folder = inside(run.path, name) if isinstance(name, str) and name else None
    if folder is None or not (folder / "config.json").is_file():
        raise RunError(f"{run.path} has no model yet (its state is {run.state})")
    return folder


def inside(root: str | os.PathLike[str], name: str) -> Path:
    """The path `name` under `root`, where `name` comes from outside: it must not lead elsewhere.

    Raises:
        RunError: the name is empty, absolute, or leads out of `root` by `..` or a link.
    """
    base = Path(root).resolve()
    try:
        path = (base / name).resolve()
    except (OSError, ValueError):
        raise RunError(f"{name!r} is not a path") from None
    if path == base or base not in path.parents:
        raise RunError(f"{name!r} is not inside {root}")
    return Path(root) / path.relative_to(base)
