"""Jobs: processes that work in a run folder and outlive whoever started them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from explain.errors import RunError
from explain.files import write_json
from explain.runs.folder import Run
from explain.runs.listing import is_run
from explain.runs.manifest import CONTROL, JOB, LIVE, LOG
from explain.runs.processes import own_process, process_start

PROGRAM = ("-m", "explain.cli")


def start_job(
    arguments: Sequence[str],
    run_path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    title: str = "",
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    threads: int | None = None,
) -> Run:
    """Start `explain ARGUMENTS` as a process of its own that outlives this one, and return its run.

    The run is `queued` before the process starts; the process takes it over by `Run.create`, or by
    `Run.open` where it resumes. With `--resume` among
    the arguments, a run that stopped or failed in this folder is queued again.

    Args:
        arguments: the command line after `explain`; it must name `run_path` as its output.
        run_path: the run's folder.
        kind: the kind of run; left out, the command's name.
        title: what the dashboard calls the run.
        config: the job's configuration, shown until the job writes its own.
        seed: the job's random seed.
        threads: number of CPU threads for the job; left out, the machine decides.

    Raises:
        RunError: the folder holds something else, or a job is at work there.
    """
    command = shlex.join(["explain", *arguments])
    kind = kind or arguments[0]
    run = Run(Path(run_path))
    manifest = run.manifest if is_run(run.path) else None
    if manifest is not None and (manifest["state"] in LIVE or "--resume" in arguments):
        if manifest["state"] in LIVE or manifest.get("kind") != kind:
            raise RunError(
                f"{run.path} holds a {manifest.get('kind')} run already ({manifest['state']}); "
                "resume it or name another folder"
            )
        for name in (CONTROL, JOB):
            (run.path / name).unlink(missing_ok=True)
        run.update(state="queued", error=None, ended=None, **own_process())
    else:
        run = Run.create(run.path, kind=kind, command=command, title=title, config=config, seed=seed)
    environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", PYTHONUNBUFFERED="1")
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with (run.path / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    write_json(run.path / JOB, {"pid": process.pid, "process_started": process_start(process.pid)})
    # Someone has to collect the exit status, or the dead process lingers as a zombie.
    threading.Thread(target=process.wait, name=f"job-{process.pid}", daemon=True).start()
    return run
