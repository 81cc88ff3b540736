"""What every page looks like: its head, the theme, notices, figures with the sentence that explains them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard.components.picture import picture
from dashboard.labels import plain
from explain.errors import ExplainError
from explain.report.colours import ACCENT, INK, LINE, MUTED, PAGE, Theme
from explain.report.figure_files import figure_page, figure_table

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_CODE = {"light": (ACCENT["light"], "#0b6b2e"), "dark": (ACCENT["dark"], "#5fd0a5")}
_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "explain"},
    "responsive": True,
}


def theme() -> Theme:
    """The theme that the reader sees."""
    return "dark" if st.context.theme.type == "dark" else "light"


def ink() -> str:
    """The colour of the text that the reader sees."""
    return INK[theme()]


def style() -> None:
    """Measures that Streamlit's settings cannot express; no user text comes near this."""
    # Streamlit writes white on the primary colour, which on a dark page is light.
    ink = PAGE["dark"] if theme() == "dark" else "#ffffff"
    keyword, string = _CODE[theme()]
    st.html(
        "<style>"
        f'[data-testid^="stBaseButton-primary"]:not(:disabled) *,[data-testid="stMultiSelect"] [data-tag] *'
        f"{{color:{ink}!important}}"
        ".stMainBlockContainer{max-width:76rem;padding-top:3.2rem;padding-bottom:6rem}"
        "@media(max-width:640px){.stMainBlockContainer{padding-left:1rem;padding-right:1rem}"
        '[class*="st-key-map_"]{overflow-x:auto}[class*="st-key-map_"]>*{min-width:46rem}'
        '[class*="st-key-wide_"]{overflow-x:auto}[class*="st-key-wide_"]>*{min-width:36rem}'
        ".st-key-wide_ablation>*{min-width:46rem}}"
        # A narrow page scrolls wide figures sideways: their edge fades for as long as there is more to see.
        "@media(max-width:640px){@supports(animation-timeline:scroll()){"
        "@keyframes fade{from,99%{mask-image:linear-gradient(to left,transparent,#000 3rem)}"
        "to{mask-image:none}}"
        '[class*="st-key-map_"],[class*="st-key-wide_"]{animation:fade linear;'
        "animation-timeline:scroll(self inline)}}}"
        ".stMainBlockContainer h1{font-size:1.65rem;font-weight:650;padding:.2rem 0 .3rem}"
        ".stMainBlockContainer h2{font-size:1.12rem;font-weight:620;padding:.9rem 0 .4rem}"
        '[class*="st-key-paler_"]{opacity:.62;transition:opacity .15s}'
        '[class*="st-key-paler_"]:hover,[class*="st-key-paler_"]:focus-within{opacity:1}'
        f'[data-testid="stSidebarNavLink"]:focus-visible{{outline:2px solid {ACCENT[theme()]}}}'
        ".st-key-jobs button{min-height:0;padding:.1rem 0}"
        # Streamlit's own colours of code are too pale on a light page.
        f'[data-testid="stCode"] .token:is(.keyword,.builtin,.boolean,.function){{color:{keyword}}}'
        f'[data-testid="stCode"] .token.string{{color:{string}}}'
        ".st-key-neuron_types :is(td,th){padding-left:.2rem;padding-right:.2rem}"
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


def figure(
    drawn: Figure,
    help: str,
    *,
    key: str,
    alt: str,
    zoom: bool = False,
    data: pd.DataFrame | Callable[[], pd.DataFrame] | None = None,
    python: str = "",
) -> None:
    """A Plotly figure, one sentence on how to read it, and beside that everything to take it away.

    Every figure can be saved as a picture (PNG, SVG; drawn in the browser), as an offline page that can still
    be zoomed (HTML) and as its numbers (CSV). Nothing of it is made before it is asked for.

    Args:
        drawn: the figure.
        help: how to read it, in a sentence.
        key: unique on the page; `map_` and `wide_` at its beginning let a narrow page scroll it sideways. It
            also names the files.
        alt: what a screen reader says in its place.
        zoom: it is too large to be read whole, so a part can be drawn larger.
        data: the table behind it, or a function that makes it; left out, it is read off the figure.
        python: the lines that make the same figure with the public interface (see `dashboard.snippets`).
    """
    drawn.update_layout(dragmode="zoom" if zoom else False, font={"family": FONT})
    st.plotly_chart(drawn, theme=None, key=key, config=_CONFIG, alt=alt, width="stretch")
    more = " Drag over a part of the map to see it larger, with all its labels; double-click for the whole."
    with st.container(horizontal=True, vertical_alignment="top", wrap=False, key=f"under_{key}"):
        st.caption(plain(help + (more if zoom else "")), width="stretch")
        _save(drawn, help, key, alt, data, python)


def _save(
    drawn: Figure,
    help: str,
    key: str,
    alt: str,
    data: pd.DataFrame | Callable[[], pd.DataFrame] | None,
    python: str,
) -> None:
    """What a figure can be taken away as, tucked away until it is wanted."""
    name = f"explain-{key.removeprefix('map_').removeprefix('wide_').replace('_', '-')}"

    def page() -> str:
        return figure_page(drawn, alt, help, python)

    def table() -> str:
        found = data() if callable(data) else figure_table(drawn) if data is None else data
        return found.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

    offered: tuple[tuple[str, str, str, Callable[[], str], str], ...] = (
        ("Page (HTML)", ".html", "text/html", page, "One offline page that can still be zoomed, about 5 MB."),
        ("Numbers (CSV)", ".csv", "text/csv", table, "What the figure shows, as a table."),
    )
    with st.popover("Save", type="tertiary", icon=":material/download:", key=f"save_{key}"):
        picture(key, name, key=f"picture_{key}")
        for column, (label, ending, mime, make, note) in zip(st.columns(2), offered, strict=True):
            column.download_button(
                label,
                data=make,
                file_name=f"{name}{ending}",
                mime=mime,
                help=note,
                on_click="ignore",
                width="stretch",
                key=f"file_{key}{ending}",
            )
        if python:
            st.caption("The same in Python")
            st.code(python, language="python", wrap_lines=True)


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
