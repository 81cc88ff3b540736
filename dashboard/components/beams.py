"""A beam search as a tree of text: what beams share stands once, and every way on has its probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from streamlit.components.v2 import component

from dashboard.components import asset, told
from explain.report import colours
from explain.report.beam_tree import Branch
from explain.report.colours import Theme
from explain.report.labels import number, probability, token_label
from explain.results import BeamSearch

_BEAMS = component(
    "explain_beams",
    html='<div class="beams"></div>',
    css=asset("beams.css"),
    js=asset("beams.js"),
)


def beams(
    search: BeamSearch,
    lines: Sequence[Branch],
    *,
    key: str,
    theme: Theme,
    on_choose: Callable[[int], object],
) -> None:
    """Show the tree.

    Args:
        search: the search.
        lines: its tree line by line (see `explain.report.beam_tree`).
        key: unique on the page.
        theme: whose colours.
        on_choose: called, before the page runs again, with the last node of the branch that was chosen.
    """

    def changed() -> None:
        event = told(key, "chosen")
        if isinstance(event, dict) and isinstance(event.get("node"), int):
            on_choose(event["node"])

    _BEAMS(key=key, data=to_data(search, lines, theme), on_chosen_change=changed)


def to_data(search: BeamSearch, lines: Sequence[Branch], theme: Theme) -> dict[str, Any]:
    """The tree as the component takes it."""
    blue = colours.colours("sequential", theme)
    return {
        "lines": [_line(search, line) for line in lines],
        "fill": [blue[3], blue[14]],
        "muted": colours.MUTED[theme],
    }


def _line(search: BeamSearch, line: Branch) -> dict[str, Any]:
    nodes = [search.nodes[at] for at in line.nodes]
    return {
        "node": line.nodes[-1],
        "depth": line.depth,
        "last": line.last,
        "open": list(line.open),
        "parts": [
            {
                "t": token_label(node.text, 60) if node.special else node.text,
                "g": node.lead,
                "s": node.special,
            }
            for node in nodes
        ],
        "share": math.exp(min(0.0, line.log_prob)),
        "p": probability(line.log_prob),
        "total": number(line.total),
        "score": None if line.score is None else number(line.score, 3),
        "place": line.place,
        "kept": line.kept,
        "dropped": not line.kept and not line.forks,
    }
