"""Run folders as zip files, there and back, and away.

A zip comes from outside: what it holds is written only under the folder that it is unpacked to, only as kinds
of files that are never executed, and only up to a size; one that holds anything else is refused by name.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from explain.errors import FileError, RunError
from explain.files import read_json, write_json
from explain.runs.folder import Run
from explain.runs.listing import inside, is_run
from explain.runs.manifest import CONTROL, JOB, LIVE, MANIFEST, RATE

ENDINGS = frozenset(
    ".json .jsonl .txt .md .html .xml .csv .tsv .parquet .safetensors .yaml .yml .model .spm .jinja".split()
)
"""What a file of a run may end in: data and text, nothing that anything executes or unpickles."""
MOST_FILES = 2_000
MOST_BYTES = 1 << 30
_LEFT_OUT = re.compile(r"(checkpoint.*|\..*)")
_CHUNK = 1 << 20


def pack(run: Run) -> BinaryIO:
    """The run's folder as a zip in a temporary file, ready to be read from its beginning.

    Checkpoints, hidden files and what steers a job are left out; so are links.

    Raises:
        RunError: its job is at work, so its files are still changing.
        FileError: a file cannot be read.
    """
    if run.state in LIVE:
        raise RunError(f"{run.name} is still {run.state}; stop it, or wait until it has ended")
    packed = cast(BinaryIO, tempfile.TemporaryFile())  # the caller reads and closes it
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in _files(run.path):
                archive.write(path, f"{run.name}/{path.relative_to(run.path).as_posix()}")
    except OSError as error:
        packed.close()
        raise FileError(f"cannot read {run.path}: {error.strerror or error}") from None
    packed.seek(0)
    return packed


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or _LEFT_OUT.fullmatch(path.name) or path.name in (CONTROL, JOB, RATE):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def unpack(content: IO[bytes], root: str | os.PathLike[str], *, limit: int = MOST_BYTES) -> Run:
    """Put the run that a zip holds under `root`, beside the runs there, and return it.

    The zip holds one run: a `run.json` at its top or in its only folder. A name that is taken gets a number.

    Args:
        content: the zip, as `pack` makes it.
        root: folder of run folders.
        limit: bytes that it may come to.

    Raises:
        FileError: it is no zip, holds no run, or holds what a run never does: links, paths that lead
            elsewhere, encrypted or executable files, more than `limit` bytes.
    """
    place = Path(root)
    try:
        with zipfile.ZipFile(content) as archive:
            files = _checked(archive, limit)
            top, name = _top(files)
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=".import-") as folder:
                made = Path(folder) / "run"
                left = limit
                for path, entry in files.items():
                    left -= _write(archive, entry, made / path.relative_to(top), left)
                _settle(made)
                goal = free_folder(place, name)
                made.rename(goal)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise FileError(f"this is not a zip file that can be read ({error})") from None
    except OSError as error:
        raise FileError(f"cannot write to {place}: {error.strerror or error}") from None
    return Run.open(goal)


def _checked(archive: zipfile.ZipFile, limit: int) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a zip by their path, when all of them may be unpacked."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MOST_FILES:
        raise FileError(f"this zip holds {len(entries):,} files; a run has at most {MOST_FILES:,}")
    if sum(entry.file_size for entry in entries) > limit:
        raise FileError(f"this zip unpacks to more than {limit >> 20:,} MiB")
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in entries:
        path = PurePosixPath(entry.filename)
        mode = entry.external_attr >> 16
        bad = path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename
        if bad or not entry.filename.isprintable() or len(entry.filename) > 240:
            raise FileError(f"this zip holds {entry.filename!r}, which leads out of it")
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise FileError(f"this zip holds {entry.filename!r}, which is a link or a device, not a file")
        if entry.flag_bits & 1:
            raise FileError(f"this zip holds {entry.filename!r}, which is encrypted")
        if path.suffix.lower() not in ENDINGS or any(part.startswith(".") for part in path.parts):
            raise FileError(f"this zip holds {entry.filename!r}, which is not a kind of file that a run has")
        if path in found:
            raise FileError(f"this zip holds {entry.filename!r} twice")
        found[path] = entry
    return found


def _top(files: dict[PurePosixPath, zipfile.ZipInfo]) -> tuple[PurePosixPath, str]:
    """The folder of the zip that is the run, and what to call it."""
    tops = [path.parent for path in files if path.name == MANIFEST and len(path.parts) <= 2]
    if len(tops) != 1 or any(tops[0] not in path.parents for path in files):
        raise FileError(f"this zip does not hold one run: a folder with a {MANIFEST}")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", tops[0].name).lstrip("._-")[:60]
    return tops[0], name or "imported"


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, goal: Path, left: int) -> int:
    """Unpack one file, at most `left` bytes of it, whatever the zip claims; returns how many."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, goal.open("xb") as out:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise FileError(f"this zip unpacks to more than it says, at {entry.filename!r}")
            out.write(chunk)
    return written


def _settle(folder: Path) -> None:
    """Check the manifest of what was unpacked; a job that was at work elsewhere is not at work here."""
    manifest = read_json(folder / MANIFEST, "run")
    if manifest.get("state") in LIVE:
        write_json(folder / MANIFEST, manifest | {"state": "stopped", "pid": None, "process_started": None})
    Run.open(folder)


def free_folder(root: str | os.PathLike[str], wanted: str) -> Path:
    """A folder under `root` that is not there yet, called `wanted`, with a number where that is taken."""
    path, number = Path(root) / wanted, 2
    while path.exists():
        path, number = Path(root) / f"{wanted}-{number}", number + 1
    return path


def remove(root: str | os.PathLike[str], name: str) -> None:
    """Delete the run `name` under `root`, whole or not at all.

    Raises:
        RunError: there is no such run under `root`, it is a link, or its job is at work.
        FileError: it cannot be deleted.
    """
    path = inside(root, name)
    given = Path(root) / name
    if path.parent.resolve() != Path(root).resolve() or given.is_symlink() or not is_run(path):
        raise RunError(f"{name!r} is not a run in {root}")
    state = _state(Run(path))
    if state in LIVE:
        raise RunError(f"{name} is still {state}; stop it before it is deleted")
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".deleted-") as away:
            path.rename(Path(away) / "run")  # gone at once for everyone else
            shutil.rmtree(Path(away) / "run")
    except OSError as error:
        raise FileError(f"cannot delete {path}: {error.strerror or error}") from None


def _state(run: Run) -> str:
    """The run's state; `failed` where its manifest is broken, which must not keep it from being deleted."""
    try:
        return run.state
    except RunError:
        return "failed"
