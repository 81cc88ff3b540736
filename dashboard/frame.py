"""What every page looks like: its head, the theme, notices, figures with the sentence that explains them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard.labels import plain
from explain.errors import ExplainError
from explain.report.colours import LINE, MUTED, PAGE, Theme

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "explain"},
    "responsive": True,
}


def theme() -> Theme:
    """The theme that the reader sees."""
    return "dark" if st.context.theme.type == "dark" else "light"


def style() -> None:
    """Measures that Streamlit's settings cannot express; no user text comes near this."""
    # Streamlit writes white on the primary colour, which on a dark page is light.
    ink = PAGE["dark"] if theme() == "dark" else "#ffffff"
    st.html(
        "<style>"
        f'[data-testid^="stBaseButton-primary"]:not(:disabled) *{{color:{ink}!important}}'
        ".stMainBlockContainer{max-width:76rem;padding-top:3.2rem;padding-bottom:6rem}"
        "@media(max-width:640px){.stMainBlockContainer{padding-left:1rem;padding-right:1rem}"
        '[class*="st-key-map_"]{overflow-x:auto}[class*="st-key-map_"]>*{min-width:46rem}'
        '[class*="st-key-wide_"]{overflow-x:auto}[class*="st-key-wide_"]>*{min-width:36rem}}'
        ".stMainBlockContainer h1{font-size:1.65rem;font-weight:650;padding:.2rem 0 .3rem}"
        ".stMainBlockContainer h2{font-size:1.12rem;font-weight:620;padding:.9rem 0 .1rem}"
        '[class*="st-key-paler_"]{opacity:.62;transition:opacity .15s}'
        '[class*="st-key-paler_"]:hover,[class*="st-key-paler_"]:focus-within{opacity:1}'
        ".st-key-answer p{font-size:1.12rem;font-weight:560;line-height:1.5}"
        f".stMainBlockContainer hr{{border-color:{LINE[theme()]}}}"
        f'[data-testid="stCaptionContainer"],[data-testid="stCaptionContainer"] *'
        f"{{color:{MUTED[theme()]}!important;opacity:1}}"
        "</style>"
    )


def head(question: str, answer: str) -> None:
    """The question that a page answers, and in one sentence how."""
    st.title(question, anchor=False)
    st.caption(answer)


def section(title: str) -> None:
    """A heading inside a page."""
    st.header(title, anchor=False)


def figure(drawn: Figure, help: str, *, key: str, alt: str, zoom: bool = False) -> None:
    """A Plotly figure and one sentence on how to read it; `zoom` where it is too large to be read whole."""
    drawn.update_layout(dragmode="zoom" if zoom else False, font={"family": FONT})
    st.plotly_chart(drawn, theme=None, key=key, config=_CONFIG, alt=alt, width="stretch")
    more = " Drag over a part of the map to see it larger, with all its labels; double-click for the whole."
    st.caption(plain(help + (more if zoom else "")))


def paler(wanted: bool, name: str) -> Any:
    """A container whose content is drawn paler where `wanted`, until it is pointed at or focused."""
    return st.container(key=f"{'paler' if wanted else 'full'}_{name}")


def failed(error: ExplainError) -> None:
    """One line on what went wrong, as text."""
    st.error(plain(str(error)), icon=":material/error:")


@contextmanager
def friendly() -> Iterator[None]:
    """Show the errors that this project raises on purpose as one line instead of a traceback."""
    try:
        yield
    except ExplainError as error:
        failed(error)


def empty(title: str, text: str) -> Any:
    """An empty state: what is missing and what to do about it; returns its container."""
    box = st.container(border=True, horizontal_alignment="center")
    box.markdown(f"**{plain(title)}**", text_alignment="center")
    box.caption(plain(text), text_alignment="center")
    return box
