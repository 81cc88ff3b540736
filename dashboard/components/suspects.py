"""Outputs to look at, as a list to pick from: what each says, why it is there, what reviewers said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from streamlit.components.v2 import component

from dashboard.components import asset, told
from explain.report import colours
from explain.report.colours import Theme

_SUSPECTS = component(
    "explain_suspects",
    html='<div class="suspects"></div>',
    css=asset("suspects.css"),
    js=asset("suspects.js"),
)


class Suspect(TypedDict):
    """One row: its number, its text, why it is there, and a sign and a word for what reviewers said."""

    number: int
    text: str
    why: str
    sign: str
    said: str
    picked: bool


def suspects(
    rows: Sequence[Suspect], *, key: str, theme: Theme, label: str, on_pick: Callable[[int], object]
) -> None:
    """Show the list; `on_pick` is called, before the page runs again, with the number that was picked."""

    def changed() -> None:
        event = told(key, "picked")
        if isinstance(event, dict) and isinstance(event.get("number"), int):
            on_pick(event["number"])

    _SUSPECTS(
        key=key,
        data={
            "rows": list(rows),
            "label": label,
            "muted": colours.MUTED[theme],
        },
        on_picked_change=changed,
    )
