"""What is kept in the runs folder, as a table whose rows are picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from streamlit.components.v2 import component

from dashboard.components import asset, told
from explain.report import colours
from explain.report.colours import Theme

_SHELF = component(
    "explain_shelf",
    html='<div class="shelf"></div>',
    css=asset("shelf.css"),
    js=asset("shelf.js"),
)
COLUMNS = ("What", "Kind", "State", "When", "Result")


class Row(TypedDict):
    """One row, as it is shown; `sign` stands before the state, `exactly` is the time when pointed at."""

    name: str
    title: str
    kind: str
    sign: str
    state: str
    failed: bool
    when: str
    exactly: str
    result: str
    picked: bool


def shelf(rows: Sequence[Row], *, key: str, theme: Theme, on_pick: Callable[[str], object]) -> None:
    """Show the table; `on_pick` is called, before the page runs again, with the name that was picked."""

    def changed() -> None:
        event = told(key, "picked")
        if isinstance(event, dict) and isinstance(event.get("name"), str):
            on_pick(event["name"])

    _SHELF(
        key=key,
        data={
            "columns": list(COLUMNS),
            "rows": list(rows),
            "wrong": colours.WRONG[theme],
            "muted": colours.MUTED[theme],
        },
        on_picked_change=changed,
    )
