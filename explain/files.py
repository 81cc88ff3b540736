"""Files written whole or not at all, digests, and the envelope that every JSON result carries."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from explain.errors import EncodingError, FileError

PACKAGES = ("explain", "torch", "transformers", "captum")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it onto `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one. The folder is made when it is missing.

    Raises:
        FileError: the folder cannot be made or written to.
    """
    goal = Path(path)
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=goal.parent, prefix=f".{goal.name}.", suffix=goal.suffix)
    except OSError as error:
        raise FileError(f"cannot write {goal}: {error.strerror or error}") from None
    os.close(handle)
    # mkstemp makes files private; results are as readable as any file of this user.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, goal)
    except OSError as error:  # a full disk, or a folder where the file should be
        raise FileError(f"cannot write {goal}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder, where there is one: out of sight first, so that nobody sees half of it under its name.

    What cannot be removed stays, hidden, and is removed by the next call for the same folder.
    """
    folder = Path(path)
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def replace_folder(new: str | os.PathLike[str], goal: str | os.PathLike[str]) -> None:
    """Put the folder `new` in the place of `goal`: whoever looks sees the old folder or the new one, whole.

    Linux lets the two change names in one step, whenever this process is killed. Where that cannot be done,
    `goal` is first moved to `.NAME-old`, and `restore_folder` puts it back after a kill between the two.

    Raises:
        OSError: it cannot be done; `goal` is as before.
    """
    new, goal = Path(new), Path(goal)
    if not goal.exists():
        os.replace(new, goal)
        return
    old = new
    if not _exchange(new, goal):
        old = _moved_aside(goal)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(goal, old)
        os.replace(new, goal)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(goal: str | os.PathLike[str]) -> None:
    """Undo what a process left that was killed in `replace_folder`."""
    goal = Path(goal)
    old = _moved_aside(goal)
    if old.exists() and not goal.exists():
        os.replace(old, goal)
    shutil.rmtree(old, ignore_errors=True)


def _moved_aside(goal: Path) -> Path:
    return goal.with_name(f".{goal.name}-old")


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system cannot."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8, atomically, and return the path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write `data` as indented JSON, atomically; NaN and infinity become null."""
    return write_text(path, dump_json(data) + "\n")


def dump_json(data: Any, *, indent: int | None = 1) -> str:
    """Turn `data` into standard JSON text: keys in the order given, NaN and infinity as null."""
    return json.dumps(_finite(data), ensure_ascii=False, indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file (a byte-order mark is dropped).

    Raises:
        FileError: the file is missing or cannot be read.
        EncodingError: the file is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8 and try again"
        ) from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None


def read_json(path: str | os.PathLike[str], schema: str | None = None) -> dict[str, Any]:
    """Read a JSON object and check that it is of the `schema` (such as `"run"`) asked for.

    Raises:
        FileError: the file is missing, broken, or holds something else.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"{path} is not valid JSON (line {error.lineno}): it may be cut short") from None
    if not isinstance(data, dict):
        raise FileError(f"{path} does not hold a JSON object")
    wanted = None if schema is None else f"explain/{schema}@1"
    if wanted is not None and data.get("schema") != wanted:
        raise FileError(f"{path} is not a {wanted} file (its schema is {data.get('schema')!r})")
    return data


def digest_bytes(*parts: bytes) -> str:
    """Digest of the parts in order: `sha256:` and 64 hexadecimal digits."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return f"sha256:{state.hexdigest()}"


def digest_json(data: Any) -> str:
    """Digest of a value's canonical JSON."""
    return digest_bytes(json.dumps(_finite(data), sort_keys=True, ensure_ascii=False).encode())


def digest_file(path: str | os.PathLike[str]) -> str:
    """Digest of a file's bytes.

    Raises:
        FileError: the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def command_line() -> str:
    """The command that made the result, as one would type it again."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py":  # started as `python -m explain.cli`
        program = "explain"
    return shlex.join([program, *sys.argv[1:]])


def envelope(
    schema: str,
    *,
    seed: int | None = None,
    model_digest: str | None = None,
    data_digest: str | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """The fields that every JSON result begins with: schema, versions, seed, digests, command."""
    return {
        "schema": f"explain/{schema}@1",
        "versions": versions(),
        "seed": seed,
        "model_digest": model_digest,
        "data_digest": data_digest,
        "command": command if command is not None else command_line(),
    }
