"""The embedded demo: three small models, trained once by background jobs that the dashboard follows."""

from __future__ import annotations

import time
from pathlib import Path

from explain import terminal
from explain.errors import RunError
from explain.runs import LIVE, Run, is_run, start_job
from explain.training.config import DemoRun, demo_plan

_POLL_SECONDS = 0.5


def train_models(folder: Path, seed: int = 0) -> None:
    """Train what is missing of the demo's models: wait for the first, leave the others to their jobs.

    A model that is there is kept, a run that was interrupted goes on where it was.

    Raises:
        RunError: the first training failed.
    """
    plan = demo_plan(seed)
    first = [item for item in plan if item.stage == 0]
    for item in first:
        run = _begun(item, folder, seed)
        if run is not None:
            terminal.say(f"training {item.name}: {item.title} (about a minute)")
            _follow(run, item)
    for item in plan:
        if item.stage > 0 and _begun(item, folder, seed) is not None:
            terminal.say(f"training {item.name} in the background: {item.title} (see the Train page)")


def _begun(item: DemoRun, folder: Path, seed: int) -> Run | None:
    """The run of a demo model that is still being trained, started if need be; None when it is done."""
    path = folder / item.name
    arguments = ["train", "--task", item.name, "--seed", str(seed), "--out", str(path)]
    if is_run(path):
        run = Run.open(path)
        if run.state == "done":
            return None
        if run.state in LIVE:
            return run
        arguments = ["train", "--out", str(path), "--resume"]
    return start_job(
        arguments,
        path,
        kind="train",
        title=item.title,
        config=item.config.to_dict(),
        seed=seed,
        threads=item.threads,
    )


def _follow(run: Run, item: DemoRun) -> None:
    """Show a job's progress until it ends."""
    with terminal.training_progress() as progress:
        seen = 0
        while True:
            state = run.state
            records = run.progress()
            for record in records[seen:]:
                progress(record)
            seen = len(records)
            if state not in LIVE:
                break
            time.sleep(_POLL_SECONDS)
    if run.state != "done":
        reason = run.manifest.get("error") or "see its log.txt"
        raise RunError(f"training {item.name} ended as {run.state}: {reason} ({run.path})")
    result = run.manifest.get("result") or {}
    exact, seconds = result.get("exact_match", 0), result.get("seconds", 0)
    terminal.say(
        f"{item.name}: {exact:.1%} of {result.get('examples')} held-out outputs exact, {seconds:.0f} s"
    )
