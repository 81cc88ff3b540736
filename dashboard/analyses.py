"""What the pages Inside and Compare show: analyses of one output, of a pair, or of many texts.

Results are kept by plain values, the last few of them, for all sessions. Unlike `dashboard.cache`, these
can be asked whether a result is there, so that a page knows beforehand whether the reader must wait; and what
computes may draw its progress.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import streamlit as st

from dashboard import cache
from dashboard.catalogue import Choice
from dashboard.examples import Example

T = TypeVar("T")
Key = tuple[Hashable, ...]
Progress = Callable[[int, int], None]
MOST = 64
"""Results that are kept."""
# Floating-point operations in a second that a processor does for a model, and seconds that a run of it costs
# besides.
_SPEED = 2e10
_RUN = 1.5e-3


class Shelf:
    """The last results by key; safe to use from several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._found: OrderedDict[Key, Any] = OrderedDict()

    def get(self, key: Key) -> Any:
        """The result of that key, None without one."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Key, found: Any) -> None:
        """Keep a result, and let go of the oldest."""
        with self._lock:
            self._found[key] = found
            while len(self._found) > self._most:
                self._found.popitem(last=False)


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The results of all sessions."""
    return Shelf(MOST)


def key(name: str, choice: Choice, *more: Hashable) -> Key:
    """What a result is kept by: the analysis, the model as it is now, and plain values."""
    return (name, str(choice.folder), choice.stamp, *more)


def kept(wanted: Key, make: Callable[[], T]) -> T:
    """The result of a key, made where it is not there; for what takes no time to speak of."""
    found = shelf().get(wanted)
    if found is None:
        found = make()
        shelf().put(wanted, found)
    return found


def seconds(choice: Choice, runs: int, tokens: int) -> float:
    """Very roughly how long a processor takes to run a model so many times over so many tokens."""
    parameters = int(cache.facts(choice)["parameters"])
    return runs * (_RUN + 2.0 * parameters * tokens / _SPEED)


def reading(example: Example) -> dict[str, Any]:
    """The options of an example that say how its text is read."""
    return {name: example.controls[name] for name in cache.READING if name in example.controls}
