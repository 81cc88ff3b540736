"""The ranking of methods: a table whose rows are picked, with small pictures of the intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamlit.components.v2 import component

from dashboard.components import asset, told
from explain.report import colours
from explain.report.colours import Theme
from explain.report.curves import BAR
from explain.report.ranking import Cell, Ranking, RankRow
from explain.report.trust import USABLE

_RANKING = component(
    "explain_ranking",
    html='<div class="ranking"></div>',
    css=asset("ranking.css"),
    js=asset("ranking.js"),
)


def ranking(
    shown: Ranking,
    *,
    key: str,
    theme: Theme,
    picked: str,
    best: str,
    leads_to: str,
    on_pick: Callable[[str], object],
) -> None:
    """Show the table, the most trustworthy method first; those that failed are greyed.

    Args:
        shown: what `explain.report.ranking` makes of an evaluation.
        key: unique on the page.
        theme: whose colours.
        picked: the method whose card is open.
        best: the most trusted method, empty for none; it gets a star.
        leads_to: key of the container that a pick scrolls to.
        on_pick: called, before the page runs again, with the method that was picked.
    """

    def changed() -> None:
        event = told(key, "picked")
        if isinstance(event, dict) and isinstance(event.get("method"), str):
            on_pick(event["method"])

    _RANKING(key=key, data=to_data(shown, theme, picked, best, leads_to), on_picked_change=changed)


def to_data(shown: Ranking, theme: Theme, picked: str, best: str, leads_to: str) -> dict[str, Any]:
    """The table as the component takes it."""
    return {
        "columns": [[column.name, column.technical] for column in shown.columns],
        "rows": [_row(row, picked, best) for row in shown.rows],
        "caption": shown.caption,
        "width": BAR,
        "wrong": colours.WRONG[theme],
        "muted": colours.MUTED[theme],
        "leadsTo": leads_to,
    }


def _row(row: RankRow, picked: str, best: str) -> dict[str, Any]:
    card = row.card
    return {
        "method": card.method,
        "label": card.label,
        "place": row.place,
        "sign": card.sign,
        "word": card.word,
        "best": bool(best) and card.method == best,
        "off": card.verdict not in USABLE,
        "failed": card.verdict == "fails",
        "picked": card.method == picked,
        "said": row.said,
        "cells": [_cell(cell) for cell in row.cells],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    drawn = cell.picture
    return {
        "value": cell.value,
        "detail": cell.detail,
        "failed": cell.failed,
        "picture": None if drawn is None else [drawn.low, drawn.value, drawn.high, drawn.mark],
    }
