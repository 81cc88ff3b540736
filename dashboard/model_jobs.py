"""Jobs about one model: which there are, which is at work, and starting one of a kind, never two at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dashboard.catalogue import Choice, Place
from explain.errors import ExplainError
from explain.runs import LIVE, Run, free_folder, list_runs, start_job

_STARTING = threading.Lock()


class Plan(Protocol):
    """What a job is to do, as far as all of them are alike."""

    @property
    def task(self) -> str | None:
        """A task with known answers; None for a file."""
        ...

    @property
    def file(self) -> Path | None:
        """A data file; None for a task."""
        ...

    @property
    def examples(self) -> int:
        """How many outputs."""
        ...

    @property
    def reading(self) -> Mapping[str, str | bool]:
        """Further options of the command line, such as `source-column`; True stands for a switch."""
        ...

    @property
    def title(self) -> str:
        """What the data are called."""
        ...


def subject(choice: Choice) -> Path:
    """What stands for the model on the command line; an evaluation is kept there if that is a run folder."""
    return choice.run or choice.folder


def of_kind(place: Place, kind: str) -> list[Run]:
    """The jobs of one kind in the runs folder, at work or ended, newest first."""
    return [run for run in list_runs(place.runs) if not run.problem and _kind(run) == kind]


def _kind(run: Run) -> str:
    try:
        return str(run.manifest.get("kind"))
    except ExplainError:
        return ""


def model_named(run: Run) -> str:
    """The model that a job was asked about, as its configuration says; empty where it says none."""
    try:
        named = run.config.get("model")
    except (ExplainError, TypeError, ValueError):
        return ""
    return named if isinstance(named, str) else ""


def is_about(run: Run, choice: Choice) -> bool:
    """Whether a job was asked about this model."""
    named = model_named(run)
    try:
        return bool(named) and Path(named).resolve() == subject(choice).resolve()
    except (OSError, ValueError):
        return False


def at_work(found: list[Run]) -> Run | None:
    """The first of these that has not ended."""
    return next((run for run in found if run.state in LIVE), None)


def arguments(kind: str, choice: Choice, plan: Plan, own: list[str], out: Path) -> list[str]:
    """The command line, after `explain`, that does the job; `own` are the options of its kind."""
    words = [kind, str(subject(choice))]
    words += ["--task", plan.task] if plan.task is not None else ["--data", str(plan.file)]
    words += ["--examples", str(plan.examples), *own]
    for name, value in plan.reading.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value else []
    return [*words, "--out", str(out)]


def start(
    place: Place,
    kind: str,
    choice: Choice,
    plan: Plan,
    words: Callable[[Path], list[str]],
    config: Mapping[str, Any],
    *,
    title: str = "",
) -> Run:
    """Start a job of a kind, unless one is at work on this model already; returns the one that is at work.

    Args:
        place: where runs are kept.
        kind: of the job.
        choice: the model.
        plan: what is to be done.
        words: the command line for an output folder.
        config: what the run keeps of the plan beside model, data and number of outputs.
        title: what the job is called; left out, the model and its data.

    Raises:
        ExplainError: the runs folder cannot be written to.
    """
    with _STARTING:  # two clicks, or two sessions, start one job
        running = at_work([run for run in of_kind(place, kind) if is_about(run, choice)])
        if running is not None:
            return running
        wanted = f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', choice.name)[:60]}"
        out = free_folder(place.runs.absolute(), wanted)
        return start_job(
            words(out),
            out,
            kind=kind,
            title=title or f"{choice.name} on {plan.title}",
            config={
                "model": str(subject(choice)),
                "task": plan.task,
                "data": plan.file and str(plan.file),
                "examples": plan.examples,
                **config,
            },
            seed=0,
        )
