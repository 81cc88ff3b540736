"""Checkpoints: found, told whose they are, and what goes wrong with them said clearly."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from explain.errors import FileError, RunError
from explain.files import read_json

IDENTITY = "identity.json"
"""In a checkpoint, what says which run and which model it belongs to."""

_UNREADABLE = (
    OSError,
    RuntimeError,
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    pickle.UnpicklingError,
)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder of them; those with a number are whole."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return max(found, key=step_of, default=None)


def check_identity(checkpoint: Path, wanted: Mapping[str, Any], architecture: str) -> None:
    """See that a checkpoint belongs to this run and fits its model.

    Args:
        checkpoint: its folder.
        wanted: what a checkpoint of this run says about itself.
        architecture: digest of the shapes of the model that it holds.

    Raises:
        RunError: it is another run's or another model's, or does not say whose it is.
    """
    try:
        found = read_json(checkpoint / IDENTITY, "checkpoint")
    except FileError as error:
        raise RunError(f"{checkpoint} does not say which run it belongs to: {error}") from None
    found["architecture"] = architecture if found.get("architecture") == wanted["architecture"] else None
    for name, what in (("architecture", "model"), ("data_digest", "data"), ("run", "run")):
        if found.get(name) != wanted.get(name):
            raise RunError(
                f"{checkpoint} belongs to another {what}; put this run's own checkpoint back, or begin a new "
                "run"
            )


@contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Say clearly what could not be written, and how much room there is.

    Raises:
        FileError: the disk is full, or cannot be written to.
    """
    try:
        yield
    except Exception as error:
        if not _about_a_file(error):
            raise
        try:
            room = f"{shutil.disk_usage(folder.parent).free / 2**20:,.0f} MiB are free"
        except OSError:
            room = "the folder is gone"
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise FileError(
            f"cannot write {what} in {folder.parent}: {reason} ({room}); make room and resume, "
            "what was kept before is still there"
        ) from None


def _about_a_file(error: Exception) -> bool:
    """Whether writing failed: on a full disk torch says RuntimeError, and tokenizers a plain Exception."""
    if isinstance(error, (OSError, SafetensorError)):
        return True
    plain = type(error) in (RuntimeError, Exception)
    return plain and any(word in str(error) for word in ("writ", "os error", "inline_container"))


@contextmanager
def reading(checkpoint: str | None) -> Iterator[None]:
    """Say clearly which checkpoint cannot be gone on from.

    Raises:
        RunError: it is broken, or another model's.
    """
    try:
        yield
    except _UNREADABLE as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise RunError(
            f"{checkpoint} cannot be gone on from: it is broken, or another model's ({reason}); put it back, "
            "or begin a new run"
        ) from None
