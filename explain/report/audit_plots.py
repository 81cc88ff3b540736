"""The Plotly figure of an audit: how much every detector flags, and how much false alarms explain."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from explain.report import colours
from explain.report.audit import about
from explain.report.colours import Theme
from explain.report.labels import percent, plot_text
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.audit import Audit

HELP = (
    "Each dot is the share of outputs that a detector flags, with its 95 % Clopper–Pearson interval; 0 is "
    "none. The upright line is the rate of false alarms that was allowed: an interval wholly to its right is "
    "more than clean outputs explain."
)


def detectors_figure(audit: Audit, *, theme: Theme = "light") -> go.Figure:
    """Flagged share of every calibrated detector, the largest first, its interval and the rate allowed."""
    found = [(name, item, item.flagged) for name, item in audit.detectors.items() if item.flagged is not None]
    found.sort(key=lambda row: -row[2].value)
    figure = go.Figure()
    more = [item.rate < part.low for _, item, part in found]
    for beyond, symbol, name, colour in (
        (True, "diamond", "flagged, more than allowed", colours.WRONG[theme]),
        (False, "circle", "flagged, no more than allowed", colours.ACCENT[theme]),
    ):
        rows = [(i, *row) for i, row in enumerate(found) if more[i] is beyond]
        figure.add_trace(
            go.Scatter(
                name=name,
                mode="markers",
                x=[part.value for *_, part in rows],
                y=[i for i, *_ in rows],
                marker={"symbol": symbol, "size": 9, "color": colour},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [part.high - part.value for *_, part in rows],
                    "arrayminus": [part.value - part.low for *_, part in rows],
                    "color": colour,
                    "thickness": 1.5,
                },
                customdata=[
                    [f"{part.count:,} of {part.n:,}", percent(part.low), percent(part.high)]
                    for *_, part in rows
                ],
                hovertemplate="%{customdata[0]} flagged (%{x:.2%})<br>%{customdata[1]} to %{customdata[2]}"
                "<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            name="allowed",
            mode="markers",
            x=[item.rate for _, item, _ in found],
            y=list(range(len(found))),
            marker={
                "symbol": "line-ns",
                "size": 14,
                "line": {"width": 2, "color": colours.INK[theme]},
            },
            hovertemplate="allowed: %{x:.2%}<extra></extra>",
        )
    )
    top = max((part.high for *_, part in found), default=0.0)
    figure.update_xaxes(
        title_text="share of outputs flagged", range=[-0.02 * top, 1.05 * top or 1], tickformat=".1%"
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(found))),
        # Broken, so that a narrow page has room for the marks.
        ticktext=["<br>".join(map(plot_text, wrap(about(name).title, 24))) for name, *_ in found],
        range=[len(found) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"}, showlegend=True)
    return finish(figure, theme, height=130 + 32 * max(3, len(found)), margin_top=50)
