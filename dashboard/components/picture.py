"""Saving a figure of the page as a picture, drawn in the reader's own browser."""

from __future__ import annotations

from streamlit.components.v2 import component

from dashboard.components import asset

_PICTURE = component(
    "explain_picture",
    html='<div class="picture"></div>',
    css=asset("picture.css"),
    js=asset("picture.js"),
)


def picture(figure: str, name: str, *, key: str) -> None:
    """Offer the figure whose key is `figure` as PNG and SVG, in files called `name`."""
    _PICTURE(key=key, data={"figure": figure, "name": name})
