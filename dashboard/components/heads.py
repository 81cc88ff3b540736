"""The grid of heads: every layer and head of one side as a small map, on one canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st
from streamlit.components.v2 import component

from dashboard.components import asset, packed
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number

_HEADS = component(
    "explain_heads",
    html='<div class="heads"></div>',
    css=asset("heads.css"),
    js=asset("heads.js"),
)
SIZE = 48
"""Largest width and height of a small map, in its own cells."""


def shrunk(pattern: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Maps [..., query, key] with at most `size` rows and columns.

    A cell that stands for several holds the largest of them, so that a single strong weight stays visible.
    """
    for axis in (-2, -1):
        length = pattern.shape[axis]
        if length > size:
            starts = np.linspace(0, length, size + 1).astype(int)[:-1]
            pattern = np.maximum.reduceat(pattern, starts, axis=axis)
    return pattern


def heads(
    patterns: Sequence[np.ndarray],
    *,
    key: str,
    theme: Theme,
    layer: int,
    head: int,
    limit: float,
    on_choose: Callable[[int, int], object],
) -> None:
    """Show the grid, layers down and heads across.

    Args:
        patterns: one array [head, query, key] for each layer.
        key: unique on the page.
        theme: whose colours.
        layer: the chosen layer; negative for none.
        head: the chosen head; negative for all of a layer.
        limit: the weight at the end of the colour scale.
        on_choose: called, before the page runs again, with the layer and head that were chosen.
    """
    small = [shrunk(pattern) for pattern in patterns]
    maps = np.concatenate([np.clip(np.rint(part / (limit or 1.0) * 255), 0, 255) for part in small])

    def changed() -> None:
        event = st.session_state[key].chosen
        if isinstance(event, dict):
            on_choose(int(event["layer"]), int(event["head"]))

    _HEADS(
        key=key,
        data={
            "maps": packed(maps, "u1"),
            "rows": small[0].shape[1],
            "columns": small[0].shape[2],
            "heads": [part.shape[0] for part in small],
            "layer": layer,
            "head": head,
            "colours": list(colours.colours("sequential", theme)),
            "high": number(limit, 2),
        },
        on_chosen_change=changed,
    )
