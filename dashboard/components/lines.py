"""Two columns of tokens with lines between them, as thick and dark as their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from streamlit.components.v2 import component

from dashboard.components import asset, packed, told
from dashboard.components.strips import Bar, Strip
from dashboard.state import turns
from explain.report.colours import Theme

_LINES = component(
    "explain_lines",
    html='<div class="lines"></div>',
    css=asset("lines.css"),
    js=asset("lines.js"),
)


def lines(
    left: Strip,
    right: Strip,
    weights: Any,
    bar: Bar,
    *,
    key: str,
    theme: Theme,
    picked: int | None = None,
    on_pick: Callable[[int | None], object] | None = None,
) -> None:
    """Show what each token on the right has to do with those on the left.

    Of the token on the right that is locked, or pointed at, every line is drawn; of a token on the left those
    that lead to it. Of a long text what is near the locked token, and what counts most for it, is shown; the
    rest stands in rows that say how much it comes to.

    Args:
        left: the tokens that lines lead to; only its label and tokens are used.
        right: the tokens that lines come from, to pick one of.
        weights: float [right, left], from 0 on.
        bar: the scale of the weights.
        key: unique on the page.
        theme: whose colours.
        picked: the token on the right that is locked.
        on_pick: called, before the page runs again, with the token that was clicked; None when unlocked.
    """

    def changed() -> None:
        event = told(key, "picked")
        if on_pick is not None and isinstance(event, dict):
            step = event.get("step")
            on_pick(step if isinstance(step, int) else None)

    _LINES(
        key=key,
        data={
            "left": left.to_dict(theme),
            "right": right.to_dict(theme),
            "weights": packed(np.asarray(weights), "f4"),
            "bar": bar.to_dict(theme),
            "picked": picked,
            "turn": turns(),
        },
        on_picked_change=changed,
    )
