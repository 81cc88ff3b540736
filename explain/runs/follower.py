"""A job of several processes: the first works in the run folder, the others follow it.

`accelerate launch` and `torchrun` say which process is which in the environment.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from explain.errors import RunError
from explain.runs.folder import JobStopped, Run
from explain.runs.listing import is_run

PATIENCE = 60.0
"""Seconds that a process waits for the first one to make the run."""


def rank() -> int:
    """The number of this process among those of the job; 0 is the first."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Follower(Run):
    """The run as a process that is not the first sees it: it reads, and leaves all writing to the first."""

    @classmethod
    def join(cls, path: str | os.PathLike[str]) -> Self:
        """The run that the first process has made or opened, or is about to.

        Raises:
            RunError: there is none after a minute.
        """
        end = time.monotonic() + PATIENCE
        while not is_run(path):
            if time.monotonic() > end:
                raise RunError(f"the first process has made no run in {path}")
            time.sleep(0.05)
        return cls(Path(path))

    def update(self, **fields: Any) -> None:
        """Nothing."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def log(self, text: str) -> None:
        """Nothing."""

    def keep_progress(self, up_to_step: int) -> None:
        """Nothing."""

    def wait_while_paused(self, interval: float = 0.2) -> bool:
        """Go on: the first process waits, and is waited for."""
        return True

    @contextlib.contextmanager
    def taking_rate(self) -> Iterator[float | None]:
        """Take nothing: the first process does."""
        yield None

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Work without a word about it; `JobStopped` ends the block as it does for the first process."""
        with contextlib.suppress(JobStopped):
            yield self
