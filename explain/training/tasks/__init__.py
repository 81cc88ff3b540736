"""Tasks with known answers: text pairs whose right explanation is known token by token."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from explain.errors import UnknownNameError
from explain.training.tasks.base import (
    SPLITS,
    Example,
    Half,
    Ref,
    SourceSegment,
    Span,
    Split,
    TargetSegment,
    Task,
    TokenGold,
    TokenGroup,
    half_of,
    overlap,
    preview,
    split_of,
    token_dependencies,
    token_gold,
)
from explain.training.tasks.clinic import Clinic
from explain.training.tasks.invoice import Invoice
from explain.training.tasks.translate import Translate

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (Translate(), Invoice(), Clinic())})
"""Every task by name."""


def names() -> tuple[str, ...]:
    """The names of all tasks."""
    return tuple(TASKS)


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    return TASKS[name]


__all__ = [
    "SPLITS",
    "TASKS",
    "Example",
    "Half",
    "Ref",
    "SourceSegment",
    "Span",
    "Split",
    "TargetSegment",
    "Task",
    "TokenGold",
    "TokenGroup",
    "get",
    "half_of",
    "names",
    "overlap",
    "preview",
    "split_of",
    "token_dependencies",
    "token_gold",
]
