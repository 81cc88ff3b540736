"""Parts of the pages that Streamlit has no widget for, as components v2: one Python, JS and CSS file each."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

import numpy as np


def asset(name: str) -> str:
    """The text of a file of this package."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def packed(values: Any, kind: str) -> str:
    """An array as base64 of its little-endian bytes; `kind` is `f4` or `u1`."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()).decode("ascii")
