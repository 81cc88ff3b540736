"""What every Plotly figure looks like, on a light page and on a dark one."""

from __future__ import annotations

import plotly.graph_objects as go

from explain.report import colours
from explain.report.colours import Theme


def finish(
    figure: go.Figure, theme: Theme, *, height: int, title: str = "", margin_top: int | None = None
) -> go.Figure:
    """Template, page colours and margins, given explicitly: importing Streamlit changes the defaults."""
    figure.update_layout(
        template="plotly_dark" if theme == "dark" else "plotly_white",
        paper_bgcolor=colours.PAGE[theme],
        plot_bgcolor=colours.EMPTY[theme] if _is_map(figure) else colours.PAGE[theme],
        font={"color": colours.INK[theme]},
        height=height,
        margin={"l": 70, "r": 30, "t": margin_top or (50 if title else 24), "b": 60},
    )
    if title:
        figure.update_layout(title={"text": title, "font": {"size": 15}})
    return figure


def _is_map(figure: go.Figure) -> bool:
    return any(isinstance(trace, go.Heatmap) for trace in figure.data)
