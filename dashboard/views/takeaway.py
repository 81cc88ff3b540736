"""What can be taken away from a page: files, and the Python that makes them again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import snippets
from dashboard.catalogue import Choice
from dashboard.examples import Example
from dashboard.views.method import Asked
from explain.results import Attribution

FORMATS = {
    ".html": ("Page (HTML)", "text/html", "One offline page with the maps and how to read them."),
    ".json": ("Data (JSON)", "application/json", "Everything, read back by explain.load_attribution."),
    ".csv": (
        "Table (CSV)",
        "text/csv",
        "One row for each pair of an output token and what may have counted.",
    ),
}


def downloads(found: Attribution) -> None:
    """One button for each format; the file is made when it is asked for."""
    with st.container(horizontal=True):
        for ending, (label, mime, help) in FORMATS.items():
            st.download_button(
                label,
                data=_file(found, ending),
                file_name=f"attribution-{found.method}{ending}",
                mime=mime,
                help=help,
                icon=":material/download:",
                on_click="ignore",
                key=f"download_{ending}",
            )


def _file(found: Attribution, ending: str) -> Callable[[], bytes]:
    def make() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return found.save(Path(folder) / f"attribution{ending}").read_bytes()

    return make


def python(
    choice: Choice, example: Example, asked: Asked, *, level: str, span: tuple[int, int] | None = None
) -> list[str]:
    """Lines that compute the same numbers as `attribution`; `span` are output tokens explained as one."""
    settings: dict[str, Any] = {"method": asked.method.name}
    if asked.method.objective:
        settings["target"] = asked.objective
    if asked.contrast:
        settings["contrast"] = asked.foil if asked.foil >= 0 else asked.contrast
    if span is not None:
        settings["positions"] = [span]
        if asked.contrast and asked.foil < 0:
            settings["contrast_span"] = span
    return [
        *snippets.written(choice, example),
        f"attribution = {snippets.call('model.attribute', ['generation'], settings | asked.options)}",
        *([f"attribution = attribution.{level}s()"] if level != "token" else []),
    ]


def snippet(
    choice: Choice, example: Example, asked: Asked, *, level: str, span: tuple[int, int] | None = None
) -> None:
    """Python that computes the same numbers."""
    lines = [*python(choice, example, asked, level=level, span=span), 'attribution.save("attribution.html")']
    with st.expander("The same in Python"):
        st.code("\n".join(lines), language="python", wrap_lines=True)
