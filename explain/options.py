"""Options given by name, checked against the frozen dataclass that holds them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from explain.errors import InputError, UnknownNameError

T = TypeVar("T")

# Building one takes longer than a small model's forward pass.
_adapter = functools.lru_cache(maxsize=None)(TypeAdapter)


def choice(default: str, choices: Iterable[str]) -> Any:
    """The field of an option that takes one of a few names; forms and lists read them from its metadata."""
    return field(default=default, metadata={"choices": tuple(choices)})


def checked(kind: type[T], given: Mapping[str, Any], label: str) -> T:
    """A `kind` made from the options `given`; `label` is what messages call an option.

    Raises:
        UnknownNameError: there is no such option; the message names near misses.
        InputError: a value of the wrong type or out of range.
    """
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in given:
        if name not in known:
            raise UnknownNameError(label, name, known)
    try:
        return _adapter(kind).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join([label, *(str(part) for part in first["loc"])])
        raise InputError(f"{where}: {first['msg']}") from None
