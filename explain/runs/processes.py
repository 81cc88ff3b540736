"""Which processes are alive: a number and a start time, since numbers are used again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any


def own_process() -> dict[str, Any]:
    """What a manifest keeps of this process, for `is_alive`."""
    return {"pid": os.getpid(), "process_started": process_start(os.getpid())}


def is_alive(process: Mapping[str, Any]) -> bool:
    """Whether the process with this `pid` and start is still there; numbers are used again."""
    pid = process.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    start = process_start(pid)
    return start is not None and start == process.get("process_started")


def process_start(pid: int) -> str | None:
    """When a process started, as a text to compare; None when it is dead or waits to be collected."""
    if Path("/proc/self/stat").exists():
        try:
            # The name, in brackets, may hold anything; the fields after it are state (3) ... start (22).
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id")
            prefix = boot.read_text().strip() if boot.exists() else ""
        except OSError:
            return None
        return None if fields[0] in "ZXx" else f"{prefix}:{fields[19]}"
    try:
        found = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return None
    status, _, start = found.stdout.strip().partition(" ")
    return start.strip() if start and not status.startswith("Z") else None


def end_process(process: Mapping[str, Any], patience: float = 10.0) -> bool:
    """Kill the process with this `pid` and start; True when it is gone within `patience` seconds."""
    if is_alive(process):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            os.kill(process["pid"], signal.SIGKILL)
    end = time.monotonic() + patience
    while is_alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(process)


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let a termination signal end the block as Ctrl-C does, so that the run says `stopped`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
