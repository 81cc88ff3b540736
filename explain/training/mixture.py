"""Several data files as tasks of one model, told apart by a prefix and mixed at rates (Raffel et al. 2020).

```yaml
tasks:
  translate: {data: pairs.tsv}                       # sources begin with "translate: "
  code: {data: notes/, prefix: "code this note: ", source_column: note, target_column: fields}
temperature: 2        # left out, 1: tasks are drawn in proportion to their number of pairs
limit: 10000          # no task counts for more pairs than this
```

A task of `n` pairs is drawn at a rate in proportion to min(n, limit) ** (1 / temperature): a higher
temperature favours small tasks. Or every task says its own `rate`, of which only the ratios matter. Paths are
relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from explain.errors import FileError, InputError
from explain.files import read_text

ENDINGS = (".yaml", ".yml")

Above = Annotated[float, Field(gt=0, lt=float("inf"))]


class Ingredient(BaseModel):
    """One task: where its pairs are, what its sources begin with, how often it is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    validation: str | None = None
    prefix: str | None = None
    rate: Above | None = None
    source_column: str = "source"
    target_column: str = "target"


class Mixture(BaseModel):
    """Tasks by name, and how they are mixed where they do not say their own rates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Annotated[dict[str, Ingredient], Field(min_length=1)]
    temperature: Above | None = None
    limit: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _rates_of_all_or_none(self) -> Self:
        given = [task.rate is not None for task in self.tasks.values()]
        if any(given) and not all(given):
            raise ValueError("give every task a rate, or none")
        if any(given) and (self.temperature is not None or self.limit is not None):
            raise ValueError("tasks with rates of their own need no temperature and no limit")
        return self

    def prefix(self, name: str) -> str:
        """What the sources of a task begin with."""
        prefix = self.tasks[name].prefix
        return f"{name}: " if prefix is None else prefix

    def rates(self, sizes: Sequence[int]) -> tuple[float, ...]:
        """How often each task is drawn; they add up to 1.

        Args:
            sizes: number of pairs of each task to train on.
        """
        own = [task.rate for task in self.tasks.values() if task.rate is not None]
        if not own:
            most = self.limit or max(sizes)
            own = [min(size, most) ** (1 / (self.temperature or 1.0)) for size in sizes]
        return tuple(rate / sum(own) for rate in own)


def is_mixture(path: str | Path) -> bool:
    """Whether a path names a mixture and not a table of pairs."""
    return Path(path).suffix.lower() in ENDINGS


def read_mixture(path: str | Path) -> Mixture:
    """Read a mixture; its tasks' paths then hold from any folder.

    Raises:
        FileError: the file is missing or is not YAML.
        InputError: it holds something that a mixture has not, or lacks something.
    """
    text = read_text(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise FileError(f"{path}{line} is not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, Mapping):
        raise FileError(f"{path} does not hold a mixture: write tasks by name under `tasks:`")
    try:
        found = Mixture.model_validate(dict(data))
    except ValidationError as error:
        raise InputError(_told(path, error.errors()[0])) from None
    folder = Path(path).absolute().parent
    return found.model_copy(
        update={"tasks": {name: _with_whole_paths(task, folder) for name, task in found.tasks.items()}}
    )


def _told(path: str | Path, first: Any) -> str:
    place = ".".join(str(part) for part in first["loc"]) or "the mixture"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        kind = Ingredient if len(first["loc"]) > 1 else Mixture
        message = f"there is no such key; known: {', '.join(kind.model_fields)}"
    return f"{path}: {place}: {message}"


def _with_whole_paths(task: Ingredient, folder: Path) -> Ingredient:
    paths = {"data": task.data, "validation": task.validation}
    changes = {name: str(folder / path) for name, path in paths.items() if path is not None}
    return task.model_copy(update=changes)
