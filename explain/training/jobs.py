"""Training runs as processes of their own, which outlive whoever started them. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from explain.errors import RunError
from explain.files import read_json
from explain.runs import Run, start_job
from explain.runs.manifest import MANIFEST
from explain.training.config import KIND, TrainConfig


def start(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    title: str = "",
    threads: int | None = None,
    more: Sequence[str] = (),
) -> Run:
    """Train as `config` says in the folder `out`, as a process of its own, and return the run at once.

    Steer it with the run: `request("pause")`, `request("continue")`, `request("stop")`, `request_rate(rate)`,
    `kill()`; what it says of itself is `state` and `progress()`.

    Args:
        config: the options.
        out: the run folder; it is made.
        title: what the dashboard calls the run.
        threads: number of CPU threads; left out, the machine decides.
        more: arguments of `explain train` that are not about training, such as `--story`.

    Raises:
        InputError: options that do not go together.
        RunError: the folder holds something else.
    """
    config.check()
    config = config.with_whole_paths()
    where = os.path.abspath(out)
    return start_job(
        [*config.arguments(where), *more],
        where,
        kind=KIND,
        title=title or config.title(),
        seed=config.seed,
        threads=threads,
    )


def resume(run: Run, *, threads: int | None = None) -> Run:
    """Go on with a training run that stopped, failed or was killed, as a process of its own.

    Raises:
        RunError: it is at work, done, or of another kind.
    """
    kind = read_json(run.path / MANIFEST).get("kind")
    if kind != KIND:
        raise RunError(
            f"{run.path} is a run of kind {kind!r}: give the command that began it once more, with --resume"
        )
    if run.state == "done":
        raise RunError(f"{run.path} is done; there is nothing to resume")
    where = str(run.path.absolute())
    return start_job(["train", "--out", where, "--resume"], where, kind=KIND, threads=threads)
