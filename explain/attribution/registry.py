"""The registry: a method is a row that says what it needs and gives, and the function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from explain.attribution.memory import DEFAULT
from explain.attribution.objectives import Question
from explain.errors import ExplainError, InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.options import checked
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("gradient", "perturbation", "internals", "control")


@dataclass(frozen=True, eq=False)
class Scores:
    """What a method computes for one generation; see `Attribution` for the meaning of each field.

    A row is what `Question.spans` says: a target token, or several explained as one. Methods that explain no
    objective give a row for every target token.
    """

    source: Tensor  # [rows, source]
    prefix: Tensor  # [rows, target]
    start: Tensor  # [rows]
    baseline_value: Tensor | None = None  # [rows]
    completeness_error: Tensor | None = None  # [rows]
    used: Mapping[str, Any] | None = None  # settings that the method chose while it ran
    value: Tensor | None = None  # [rows], the objective, where the method's own pass has it at hand
    log_probs: Tensor | None = None  # [target], likewise; of every token

    def with_values(self, question: Question, value: Tensor) -> Scores:
        """The same scores with the objective [rows] at the input, which saves computing it again."""
        value = value.detach().float().cpu()
        return replace(self, value=value, log_probs=value if question.is_log_prob else self.log_probs)


class Cancelled(ExplainError):
    """The caller asked to stop."""


@dataclass(frozen=True)
class Work:
    """What a method is given: the opened model and, one by one, generations with their questions.

    `check()` raises `Cancelled` when the caller asked to stop; methods call it between batches.
    `done(n)` reports that n more generations are finished. `budget` is the memory in bytes that the method
    may use beside the model.
    """

    model: Seq2Seq
    generations: Sequence[Generation]
    questions: Sequence[Question]
    tolerance: float
    check: Callable[[], None]
    done: Callable[[int], None]
    budget: int = DEFAULT

    @classmethod
    def watched(
        cls,
        model: Seq2Seq,
        generations: Sequence[Generation],
        questions: Sequence[Question],
        *,
        tolerance: float,
        budget: int,
        progress: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> Work:
        """Work that tells `progress` of every generation done, and ends when `should_stop` says so."""
        finished = 0

        def done(count: int) -> None:
            nonlocal finished
            finished += count
            if progress is not None:
                progress(finished, len(generations))

        def check() -> None:
            if should_stop is not None and should_stop():
                raise Cancelled("stopped as asked")

        return cls(model, generations, questions, tolerance, check, done, budget)


Run = Callable[[Work, Any], list[Scores]]


@dataclass(frozen=True)
class Method:
    """One row of the registry.

    Attributes:
        name: the name everywhere.
        label: the name for people.
        kind: one of `KINDS`.
        signed: scores below 0 mean "against".
        objective: it explains an objective (log-prob, logit…).
        contrast: it takes a foil.
        completeness: scores add up to objective(input) - objective(baseline).
        families: `"all"` or the families it works on.
        paper: where it comes from.
        reads: one sentence: what a score means and what 0 means.
        settings: a frozen dataclass of its options with their defaults.
        run: computes the scores.
    """

    name: str
    label: str
    kind: str
    signed: bool
    objective: bool
    contrast: bool
    completeness: bool
    paper: str
    reads: str
    settings: type
    run: Run
    families: str = "all"

    def options(self, given: Mapping[str, Any]) -> Any:
        """The method's settings with the given options.

        Raises:
            UnknownNameError: the method has no such option.
            InputError: a value that the option cannot take.
        """
        return checked(self.settings, given, f"option of {self.name}")


@dataclass(frozen=True)
class Registry:
    """Methods by name, in the order they were registered."""

    rows: dict[str, Method]

    def add(self, method: Method) -> Method:
        """Register a method.

        Raises:
            InputError: the name is taken, or the kind unknown.
        """
        if method.name in self.rows:
            raise InputError(f"a method named {method.name!r} is registered already")
        if method.kind not in KINDS:
            raise InputError(f"{method.kind!r} is not one of {', '.join(KINDS)}")
        self.rows[method.name] = method
        return method

    def get(self, name: str) -> Method:
        """The method of that name.

        Raises:
            UnknownNameError: there is none; the message names near misses.
        """
        if name not in self.rows:
            raise UnknownNameError("method", name, self.rows)
        return self.rows[name]

    def records(self) -> list[dict[str, Any]]:
        """All rows as JSON objects: what `explain methods --json` prints."""
        columns = "name kind signed objective contrast completeness families paper label reads".split()
        return [
            {**{c: getattr(m, c) for c in columns}, "options": asdict(m.settings())}
            for m in self.rows.values()
        ]

    def frame(self) -> pd.DataFrame:
        """All rows as a table."""
        import pandas as pd

        return pd.DataFrame(self.records()).drop(columns="options")
