"""Which methods to believe on a model: the evaluation that is kept with it, and the jobs that make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from dashboard import cache, model_jobs
from dashboard.catalogue import Choice, Place
from dashboard.model_jobs import is_about, of_kind
from explain.attribution import REGISTRY
from explain.errors import ExplainError, FileError, InputError
from explain.evaluation import FILE, Evaluation
from explain.report.ranking import ranking
from explain.report.trust import answer
from explain.runs import Run, inside
from explain.training import tasks

KIND = "evaluate"
TASK, DATA = "task:", "file:"
# Settings that say how often a method asks the model; methods without them ask it a few times and are done.
_ASKS_OFTEN = frozenset({"samples", "steps"})
# Seconds on one core for a model as small as the demo's and texts of a line: once for each method, and for
# each output; of a fast method, and of one that is not. Measured; a model of four million parameters takes
# twice as long, and so do texts twice as long.
_FAST, _SLOW = (1.2, 0.04), (6.0, 0.33)
_SMALL = 4e6
LINE = 50
"""Characters of such a text."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An evaluation that is there.

    Attributes:
        evaluation: what was found.
        folder: where it lies.
        made: when it was written.
        current: the model is still what was evaluated.
    """

    evaluation: Evaluation
    folder: Path
    made: datetime
    current: bool

    @property
    def best(self) -> str:
        """The most trusted method; empty where none can be trusted."""
        names = self.evaluation.ranking
        return names[0] if names and self.evaluation.methods[names[0]].card.usable else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be evaluated, on what.

    Attributes:
        task: a task with known answers; None for a file.
        file: a data file; None for a task.
        examples: outputs to explain.
        methods: their names; empty for all.
        reading: further options of the command line, such as `source-column`; True stands for a switch.
    """

    task: str | None
    file: Path | None
    examples: int
    methods: tuple[str, ...] = ()
    reading: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the data are called."""
        return self.task or (self.file.name if self.file else "")


def jobs(place: Place, choice: Choice) -> list[Run]:
    """The evaluations of this model in the runs folder, at work or ended, newest first."""
    return [run for run in of_kind(place, KIND) if is_about(run, choice)]


def kept(place: Place, choice: Choice) -> Kept | None:
    """The evaluation kept with the model's run, else the newest of it in the runs folder; None without one.

    Raises:
        FileError: there is one that cannot be read.
        ExplainError: the model cannot be opened.
    """
    folder = _folder(place, choice)
    if folder is None:
        return None
    found = cache.evaluation(folder)
    try:
        _ = answer(found), ranking(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{folder / FILE} is a broken evaluation: {type(error).__name__} {error}") from None
    made = datetime.fromtimestamp((folder / FILE).stat().st_mtime)
    return Kept(found, folder, made, found.model_digest == cache.facts(choice)["digest"])


def _folder(place: Place, choice: Choice) -> Path | None:
    if choice.run is not None and (choice.run / FILE).is_file():
        return choice.run
    ended = (run for run in jobs(place, choice) if run.state == "done" and (run.path / FILE).is_file())
    return next((run.path for run in ended), None)


# ---- what an evaluation is made on -----------------------------------------------------------------------


def sources(place: Place, choice: Choice, files: Mapping[str, Path]) -> dict[str, str]:
    """What this model can be evaluated on, by the name that stands in links: its task, its data, files.

    Args:
        place: where the dashboard works.
        choice: the model.
        files: data files under the runs folder by their path in it.
    """
    found = {}
    if choice.task in tasks.names():
        found[f"{TASK}{choice.task}"] = f"{tasks.get(choice.task).title}: known answers"
    own = own_file(choice)
    if own is not None:
        found[f"{DATA}{own}"] = f"{own.name} (what it was trained on)"
    return found | {f"{DATA}{name}": name for name in files}


def own_file(choice: Choice) -> Path | None:
    """The data file that the model was trained on, where it is still there."""
    named = _config(choice).get("data")
    if not isinstance(named, str) or not named:
        return None
    try:
        path = Path(named).absolute()
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None


def own_reading(choice: Choice) -> dict[str, str]:
    """How the model's own data were read: columns and languages, as options of the command line."""
    names = ("source_column", "target_column", "source_language", "target_language")
    config = _config(choice)
    found = {name: config.get(name) for name in names}
    return {
        name.replace("_", "-"): value for name, value in found.items() if isinstance(value, str) and value
    }


def _config(choice: Choice) -> dict[str, Any]:
    if choice.run is None:
        return {}
    try:
        return Run.open(choice.run).config
    except (ExplainError, TypeError, ValueError):
        return {}


def data_file(place: Place, choice: Choice, text: str) -> Path:
    """The data file that a reader or a link names.

    Raises:
        InputError: it is neither under the runs folder nor what the model was trained on.
        FileError: there is no such file.
    """
    own = own_file(choice)
    if own is not None and text == str(own):
        return own
    root = place.runs.absolute()
    try:
        path = inside(root, str((root / text).resolve().relative_to(root.resolve())))
    except (ExplainError, OSError, ValueError):
        raise InputError(f"{text!r} is not under {place.runs}; put the file there, or upload it") from None
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    return path


# ---- jobs ------------------------------------------------------------------------------------------------


def fast_methods() -> tuple[str, ...]:
    """The methods that ask the model a few times for each output, not for samples or steps."""
    return tuple(name for name in methods() if _is_fast(name))


def methods() -> tuple[str, ...]:
    """Every method but the controls, which always take part."""
    return tuple(name for name, row in REGISTRY.rows.items() if row.kind != "control")


def _is_fast(name: str) -> bool:
    return not _ASKS_OFTEN.intersection(each.name for each in fields(REGISTRY.get(name).settings))


def seconds(names: tuple[str, ...], examples: int, parameters: int, characters: float) -> float:
    """Very roughly how long an evaluation takes on a processor.

    Args:
        names: the methods.
        examples: outputs to explain.
        parameters: of the model.
        characters: of a source, in the mean.
    """
    costs = [_FAST if _is_fast(name) else _SLOW for name in names]
    alone = sum(once + each * examples for once, each in costs)
    return alone * (1 + parameters / _SMALL) * max(1.0, characters / LINE)


def arguments(choice: Choice, plan: Plan, out: Path) -> list[str]:
    """The command line, after `explain`, that makes this evaluation."""
    own = [word for name in plan.methods for word in ("--method", name)]
    return model_jobs.arguments(KIND, choice, plan, own, out)


def start(place: Place, choice: Choice, plan: Plan) -> Run:
    """Start the evaluation, unless this model is being evaluated already; returns the run that is at work.

    Raises:
        ExplainError: the runs folder cannot be written to.
    """
    return model_jobs.start(
        place,
        KIND,
        choice,
        plan,
        lambda out: arguments(choice, plan, out),
        {"methods": list(plan.methods) or None},
    )
