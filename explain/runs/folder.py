"""A run is a folder: manifest, state, progress and results; a job is a process that works in one.

```
runs/translate/
├── run.json         schema, kind, state, command, versions, seed, digests, times, config, result, error
├── progress.jsonl   one JSON object per line, written while the job works
├── log.txt          what the job had to say
├── control          what someone asked of the job: stop, pause or continue
├── learning_rate    the highest learning rate that someone asked a training job to go on with
├── job.json         the process that `start_job` started, until it reports for itself
└── model/           results; what else lies here depends on the kind of run
```

Nothing here imports torch: the dashboard and `explain runs` list folders without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from explain.errors import ExplainError, FileError, InputError, RunError
from explain.files import dump_json, write_text
from explain.runs.manifest import (
    CONTROL,
    JOB,
    LIVE,
    LOG,
    MANIFEST,
    PROGRESS,
    RATE,
    REQUESTS,
    STATES,
    STEERING,
    new_manifest,
    now,
    queued_process,
    read_manifest,
    write_manifest,
)
from explain.runs.processes import end_process, is_alive, own_process, terminate_as_interrupt

ENDED_WITHOUT_A_WORD = "the process ended without a word; resume it"


class JobStopped(Exception):
    """Raised inside `Run.running` by a job that was asked to stop and has put its work away."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder. Everything is read from disk when asked for, so a `Run` is never out of date.

    `problem` is set by `list_runs` on a folder whose `run.json` cannot be read; such a run counts as failed.
    """

    path: Path
    problem: str = ""

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str,
        command: str | None = None,
        title: str = "",
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Self:
        """Make a run in state `queued` in an empty or missing folder, or adopt one queued there.

        `command` is what makes the run again; left out, it is this process's command line. A run that
        `start_job` queued in this folder is taken over by the job itself, which calls this again. One of the
        same kind that ended before it wrote anything but its log, such as for a mistyped option, gives way.

        Raises:
            RunError: the folder holds something else, or a run that is not waiting.
        """
        run = cls(Path(path))
        manifest = new_manifest(kind, command, title, config, seed)
        if run.path.exists():
            waiting = run._adoptable(kind)
            if waiting is not None:
                manifest["created"] = waiting["created"]
                manifest["title"] = waiting.get("title") or title  # whoever queued it named it
        write_manifest(run.path, manifest)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing run folder.

        Raises:
            RunError: the folder is missing, is not a run, or its `run.json` is broken or foreign.
        """
        run = cls(Path(path))
        read_manifest(run.path)
        return run

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def manifest(self) -> dict[str, Any]:
        """What `run.json` says, except that a run whose process is dead is `failed`.

        Raises:
            RunError: `run.json` cannot be read.
        """
        if self.problem:
            return {"schema": "explain/run@1", "kind": "", "state": "failed", "error": self.problem}
        manifest = read_manifest(self.path)
        if manifest["state"] not in LIVE:
            return manifest
        if manifest["state"] == "queued":
            if is_alive(queued_process(self.path, manifest)):
                return manifest
            last = self.log_tail(1)
            error = f"the job ended before it began: {last[0]}" if last else "the job ended before it began"
        else:
            if is_alive(manifest):
                return manifest
            error = ENDED_WITHOUT_A_WORD
        return manifest | {"state": "failed", "error": error}

    @property
    def state(self) -> str:
        """One of `STATES`."""
        return self.manifest["state"]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was made with."""
        return dict(self.manifest.get("config") or {})

    def update(self, **fields: Any) -> None:
        """Change fields of `run.json`, atomically."""
        if "state" in fields and fields["state"] not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}")
        write_manifest(self.path, read_manifest(self.path) | fields)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line to `progress.jsonl`, on disk before this returns to the caller.

        Raises:
            FileError: the disk is full, or cannot be written to.
        """
        path = self.path / PROGRESS
        line = dump_json(record, indent=None).encode() + b"\n"
        with _adding(path), path.open("ab+") as stream:
            if stream.tell():
                # A line that a killed process left torn must not swallow this one.
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = b"\n" + line
            stream.write(line)

    def progress(self) -> list[dict[str, Any]]:
        """The records of `progress.jsonl` in order; torn lines are left out."""
        try:
            lines = (self.path / PROGRESS).read_bytes().splitlines()
        except OSError:
            return []
        records = []
        for line in lines:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
        return records

    def keep_progress(self, up_to_step: int) -> None:
        """Drop the records after a step, which a job that resumes there will write again."""
        kept = [record for record in self.progress() if record.get("step", 0) <= up_to_step]
        write_text(self.path / PROGRESS, "".join(dump_json(record, indent=None) + "\n" for record in kept))

    def log(self, text: str) -> None:
        """Add a line, with the time, to `log.txt`.

        Raises:
            FileError: the disk is full, or cannot be written to.
        """
        path = self.path / LOG
        with _adding(path), path.open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now().strftime('%H:%M:%S')} {text.rstrip()}\n")

    def log_tail(self, count: int = 50) -> list[str]:
        """The last `count` lines of `log.txt`."""
        try:
            with (self.path / LOG).open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - 400 * count - 4096))
                text = stream.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        return text.splitlines()[-count:] if count > 0 else []

    def request(self, what: str) -> None:
        """Ask the job to `stop`, `pause` or `continue`; it answers at its next step.

        Raises:
            RunError: no job is at work in this run.
        """
        if what not in REQUESTS:
            raise ValueError(f"a request must be one of {', '.join(REQUESTS)}")
        state = self.state
        if state not in LIVE:
            raise RunError(f"{self.path} cannot {what}: its state is {state}")
        write_text(self.path / CONTROL, what)

    def requested(self) -> str | None:
        """What was asked of the job last, if anything."""
        try:
            word = (self.path / CONTROL).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return word if word in REQUESTS else None

    def request_rate(self, rate: float) -> None:
        """Ask a training run for another highest learning rate; it holds from the next step on.

        Warm-up and decay stay as they are: they say which share of it each step takes. A run that is not at
        work takes it up when it is resumed.

        Raises:
            InputError: the rate is not above 0.
            RunError: this is not a training run, or it is done.
        """
        if not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise InputError(f"the learning rate must be above 0, got {rate}")
        manifest = self.manifest
        if manifest.get("kind") != "train" or manifest["state"] == "done":
            what = "it is done" if manifest["state"] == "done" else f"it is of kind {manifest.get('kind')!r}"
            raise RunError(f"{self.path} has no learning rate to change: {what}")
        write_text(self.path / RATE, repr(float(rate)))

    def requested_rate(self) -> float | None:
        """The learning rate that was asked for and not taken up yet, if any."""
        for path in (self.path / RATE, self.path / f".{RATE}"):
            with contextlib.suppress(OSError, ValueError):
                return float(path.read_text(encoding="utf-8"))
        return None

    @contextlib.contextmanager
    def taking_rate(self) -> Iterator[float | None]:
        """For the job: the learning rate asked for, or None; it counts as taken up when the block ends.

        A process that is killed inside the block leaves the request to the one that resumes the run, and a
        request that comes meanwhile is not lost.
        """
        asked, taken = self.path / RATE, self.path / f".{RATE}"
        if asked.exists():
            os.replace(asked, taken)
        elif not taken.exists():
            yield None
            return
        try:
            rate = float(taken.read_text(encoding="utf-8"))
        except ValueError:
            rate = math.nan
        yield rate if 0 < rate < math.inf else None
        taken.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the run's process at once, without its leave, and say so: the run is `stopped`.

        It is resumed from its last checkpoint; `request("stop")` loses nothing and is to be preferred.

        Raises:
            RunError: no process is at work in this run, or it is this very one, or it will not go.
        """
        manifest = self.manifest
        if manifest["state"] not in LIVE:
            raise RunError(f"{self.path} cannot be killed: its state is {manifest['state']}")
        process = queued_process(self.path, manifest) if manifest["state"] == "queued" else manifest
        if process.get("pid") == os.getpid():
            raise RunError(f"{self.path} is at work in this very process; ask it to stop")
        if not end_process(process):
            raise RunError(f"process {process.get('pid')} of {self.path} cannot be ended from here")
        self.log("killed on request")
        self._end("stopped")

    def wait_while_paused(self, interval: float = 0.2) -> bool:
        """For the job: when asked to pause, say so and wait to be told to go on.

        Returns:
            False when the job has been asked to stop, True when it should work on.
        """
        word = self.requested()
        if word == "pause":
            self.update(state="paused")
            while (word := self.requested()) == "pause":
                time.sleep(interval)
            self.update(state="running")
        return word != "stop"

    def check(self) -> None:
        """For jobs that lose nothing by stopping here: wait while paused, raise `JobStopped` on stop."""
        if not self.wait_while_paused():
            raise JobStopped

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """For the job itself: `running` inside, then `done`, `stopped` or `failed` with the reason.

        `JobStopped` ends the block as `stopped` and goes no further. Ctrl-C and a termination signal end it
        as `stopped`, any other exception as `failed`; these go on to the caller.

        Raises:
            RunError: another process is at work in this run.
        """
        before = self.manifest
        if before["state"] in {"running", "paused"} and before.get("pid") != os.getpid():
            raise RunError(f"{self.path} is at work already, in process {before.get('pid')}")
        if before["state"] != "queued":
            (self.path / CONTROL).unlink(missing_ok=True)
        self.update(state="running", started=now(), ended=None, error=None, **own_process())
        (self.path / JOB).unlink(missing_ok=True)
        try:
            with terminate_as_interrupt():
                yield self
        except JobStopped:
            self._end("stopped")
        except KeyboardInterrupt:
            self._end("stopped")
            raise
        except BaseException as error:
            text = str(error) if isinstance(error, ExplainError) else f"{type(error).__name__}: {error}"
            # On a full disk this fails as well, and must not hide what went wrong.
            with contextlib.suppress(OSError, FileError):
                if not isinstance(error, ExplainError):
                    self.log(traceback.format_exc())
                self.log(f"failed: {text}")
            with contextlib.suppress(FileError):
                self._end("failed", text)
            raise
        else:
            self._end("done")

    def _end(self, state: str, error: str | None = None) -> None:
        self.update(state=state, error=error, ended=now())
        (self.path / CONTROL).unlink(missing_ok=True)

    def _adoptable(self, kind: str) -> dict[str, Any] | None:
        """The manifest of a queued run that this process may take over; None where nothing is to be kept."""
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; name a folder that is empty or does not exist yet")
        # A killed process may have left the beginning of a manifest.
        if all(path.name.startswith(".") for path in self.path.iterdir()):
            return None
        if not (self.path / MANIFEST).exists():
            raise RunError(
                f"{self.path} is not empty and not a run; name a folder that is empty or does not exist yet"
            )
        manifest = read_manifest(self.path)
        if manifest["state"] == "queued" and manifest.get("kind") == kind:
            job = queued_process(self.path, {})
            if is_alive(job) and job["pid"] != os.getpid():
                raise RunError(f"{self.path} is at work already, in process {job['pid']}")
            return manifest
        state = self.state
        if state in {"failed", "stopped"} and manifest.get("kind") == kind and self._empty():
            for name in (CONTROL, RATE, JOB):
                (self.path / name).unlink(missing_ok=True)
            return None
        advice = "name another folder" if state == "done" else "resume it or name another folder"
        raise RunError(f"{self.path} holds a {manifest.get('kind')} run already ({state}); {advice}")

    def _empty(self) -> bool:
        """Whether the folder holds nothing of a run's work; empty files and folders are nothing."""
        return all(
            path.name in STEERING
            or path.name.startswith(".")
            or (not any(path.iterdir()) if path.is_dir() else not path.stat().st_size)
            for path in self.path.iterdir()
        )


@contextlib.contextmanager
def _adding(path: Path) -> Iterator[None]:
    """Say clearly which file could not be added to."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None
