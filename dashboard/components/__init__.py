"""Parts of the pages that Streamlit has no widget for, as components v2: one Python, JS and CSS file each."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

import numpy as np
import streamlit as st


def asset(name: str) -> str:
    """The text of a script or style sheet of this package, after what all of its kind share."""
    shared = f"prelude.{name.rpartition('.')[2]}"
    return "".join(files(__name__).joinpath(each).read_text(encoding="utf-8") for each in (shared, name))


def packed(values: Any, kind: str) -> str:
    """An array as base64 of its little-endian bytes; `kind` is `f4` or `u1`."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()).decode("ascii")


def told(key: str, name: str) -> Any:
    """What the component of that key has just told by the trigger `name`; None where it is gone.

    It is gone where the reader has left its page, or asked for something else, before the page was drawn.
    """
    return getattr(st.session_state.get(key), name, None)
