"""An HTML page from a file, shown inside the dashboard and shut in there."""

from __future__ import annotations

from streamlit.components.v2 import component

from dashboard.components import asset

_SHEET = component(
    "explain_sheet",
    html='<div class="sheet"></div>',
    css=asset("sheet.css"),
    js=asset("sheet.js"),
)


def sheet(html: str, *, title: str, key: str) -> None:
    """Show a page as tall as it is: no script of it runs, nothing is loaded, its links lead nowhere else."""
    _SHEET(key=key, data={"html": html, "title": title})
