"""The grid of heads: every layer and head of one side as a small map, on one canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from streamlit.components.v2 import component

from dashboard.components import asset, packed, told
from dashboard.state import turns
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number

_HEADS = component(
    "explain_heads",
    html='<div class="heads"></div>',
    css=asset("heads.css"),
    js=asset("heads.js"),
)
SIZE = 64
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
    maps: np.ndarray,
    counts: Sequence[int],
    *,
    key: str,
    theme: Theme,
    layer: int,
    head: int,
    limit: float,
    on_choose: Callable[[int, int], object],
    tags: Sequence[Sequence[str]] = (),
    notes: Sequence[Sequence[str]] = (),
) -> None:
    """Show the grid, layers down and heads across.

    Args:
        maps: uint8 [map, row, column], by layer and head; 255 is `limit` (see `shrunk`).
        counts: how many heads each layer has.
        key: unique on the page.
        theme: whose colours.
        layer: the chosen layer; negative for none.
        head: the chosen head; negative for all of a layer.
        limit: the weight at the end of the colour scale.
        on_choose: called, before the page runs again, with the layer and head that were chosen; -1 and -1
            when the choice was taken back, a layer and -1 when all heads of it were chosen.
        tags: for each layer and head a word to stand under its map.
        notes: for each layer and head what is read out about it.
    """

    def changed() -> None:
        event = told(key, "chosen")
        if isinstance(event, dict):
            on_choose(int(event["layer"]), int(event["head"]))

    _HEADS(
        key=key,
        data={
            "maps": packed(maps, "u1"),
            "rows": maps.shape[1],
            "columns": maps.shape[2],
            "heads": list(counts),
            "layer": layer,
            "head": head,
            "colours": list(colours.colours("sequential", theme)),
            "high": number(limit, 2),
            "tags": [list(row) for row in tags],
            "notes": [list(row) for row in notes],
            "turn": turns(),
        },
        on_chosen_change=changed,
    )
