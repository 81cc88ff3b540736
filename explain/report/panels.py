"""Figures of several maps in one, and of one output token through the layers of a lens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.errors import InputError
from explain.report import colours
from explain.report.causal_plots import Grid
from explain.report.colours import Theme
from explain.report.inside_facts import layer_label
from explain.report.labels import array, plot_label, plot_text, shorten
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.analysis import Lens

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKS = ("circle", "diamond", "square", "triangle-up", "cross", "x")


def panels_figure(grids: Sequence[Grid], names: Sequence[str], *, theme: Theme = "light") -> go.Figure:
    """Maps of few columns side by side, one scale for all of them: symmetric round 0.

    Args:
        grids: the maps.
        names: what each is called.
        theme: whose colours.

    Raises:
        InputError: there is no map.
    """
    if not grids:
        raise InputError("there is no map to draw")
    limit = max(grid.scale for grid in grids) or 1.0
    widths = [max(1, len(grid.columns)) for grid in grids]
    figure = make_subplots(
        rows=1,
        cols=len(grids),
        horizontal_spacing=0.07,
        column_widths=[width / sum(widths) for width in widths],
        subplot_titles=[plot_text(name) for name in names],
    )
    for column, (grid, name) in enumerate(zip(grids, names, strict=True), start=1):
        heat = go.Heatmap(
            name=plot_text(name),
            z=grid.values,
            x=np.arange(len(grid.columns)),
            y=np.arange(len(grid.rows)),
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate=f"{plot_text(name)}<br>%{{y}}, {plot_text(grid.column_axis)} %{{x}}<br>%{{z:+.4g}} "
            f"{plot_text(grid.units)}<extra></extra>",
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=1, col=column)
        shared = {"type": "category", "showgrid": False, "zeroline": False}
        figure.update_xaxes(
            title_text=plot_text(grid.column_axis),
            labelalias={str(place): plot_text(label) for place, label in enumerate(grid.columns)},
            row=1,
            col=column,
            **shared,
        )
        figure.update_yaxes(
            labelalias={str(place): plot_text(label) for place, label in enumerate(grid.rows)},
            autorange="reversed",
            row=1,
            col=column,
            **shared,
        )
    figure.update_layout(
        coloraxis={
            "cmin": -limit,
            "cmax": limit,
            "colorscale": colours.colorscale("diverging", theme),
            "colorbar": {
                "title": {
                    "text": plot_text(shorten(grids[0].units, 60)).replace(" of ", "<br>of "),
                    "side": "right",
                },
                "tickformat": ".2~g",
            },
        }
    )
    figure.update_annotations(font_size=13)
    return finish(figure, theme, height=150 + 40 * max(len(grid.rows) for grid in grids), margin_top=44)


def lens_steps(lens: Lens, step: int, *, theme: Theme = "light") -> go.Figure:
    """How likely a token was at each layer: the one that was written there, and those that were watched.

    Probabilities, 0 to 1; lines are told apart by dash and mark as well.

    Raises:
        InputError: there is no such output token.
    """
    if not 0 <= step < len(lens.target_tokens):
        raise InputError(f"there is no output token {step}; there are {len(lens.target_tokens)}, from 0")
    layers = [layer_label(lens, k) for k in range(len(lens.layers))]
    own = plot_label(lens.target_tokens[step])
    lines = [(f"{own} (written)", array(lens.log_probs)[:, step], array(lens.ranks)[:, step])]
    for w, item in enumerate(lens.watched):
        values = array(lens.watched_log_probs)[:, step, w], array(lens.watched_ranks)[:, step, w]
        lines.append((plot_label(item.text), *values))
    series = colours.SERIES[theme]
    figure = go.Figure()
    for place, (name, log_probs, ranks) in enumerate(lines):
        colour = series[place % len(series)]
        figure.add_trace(
            go.Scatter(
                name=name,
                mode="lines+markers",
                x=np.arange(len(layers)),
                y=np.exp(log_probs),
                customdata=ranks.astype(np.int64),
                line={"color": colour, "width": 2, "dash": _DASHES[place % len(_DASHES)]},
                marker={"symbol": _MARKS[place % len(_MARKS)], "size": 9, "color": colour},
                hovertemplate=f"<b>{name}</b><br>%{{x}}<br>probability %{{y:.3f}}, rank %{{customdata:,}}"
                "<extra></extra>",
            )
        )
    figure.update_xaxes(
        tickmode="array", tickvals=list(range(len(layers))), ticktext=layers, showgrid=False, zeroline=False
    )
    figure.update_yaxes(title_text="probability", range=[-0.03, 1.05], zeroline=False)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})
    return finish(figure, theme, height=280, margin_top=44)
