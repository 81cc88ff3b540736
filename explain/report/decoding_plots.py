"""Figures of what sampling makes of a model's distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import array, number, plot_label
from explain.report.plot_style import finish
from explain.results import Alternative


def reshaped_bars(
    tokens: Sequence[Alternative],
    after: Any,
    *,
    step: int,
    written: int | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """The probabilities (0 to 1) of one step as the model gives them, and as sampling draws from them.

    Args:
        tokens: what to show, such as `generation.alternatives(step, 8)`, with the model's log-probabilities.
        after: float [tokens], log-probabilities of the same tokens (see `explain.model.sampling.reshaped`);
            `-inf` where one is cut off.
        step: output position, for the title.
        written: id of the token that stands in the output; it is marked.
        theme: whose colours.
    """
    values = array(after)
    labels = [plot_label(token.text) + (" ●" if token.id == written else "") for token in tokens]
    ramp = colours.colours("sequential", theme)
    places = np.arange(len(tokens))
    cut = [math.isinf(float(value)) for value in values]
    before = go.Bar(
        name="as the model gives it",
        orientation="h",
        x=np.exp(np.array([token.log_prob for token in tokens], dtype=np.float32)),
        y=places,
        marker={"color": ramp[3], "line": {"color": ramp[14], "width": 1}},
        customdata=_column(labels, [number(token.log_prob, 3) for token in tokens]),
        hovertemplate="<b>%{customdata[0]}</b><br>probability %{x:.4f}<br>log-probability %{customdata[1]} "
        "nats<extra>as the model gives it</extra>",
    )
    drawn = go.Bar(
        name="as sampling draws it",
        orientation="h",
        x=np.exp(values),
        y=places,
        marker={"color": ramp[14], "line": {"color": ramp[14], "width": 1}},
        text=["cut off" if gone else "" for gone in cut],
        textposition="outside",
        cliponaxis=False,
        textfont={"color": colours.MUTED[theme], "size": 11},
        customdata=_column(
            labels, ["cut off" if gone else number(float(v), 3) for v, gone in zip(values, cut, strict=True)]
        ),
        hovertemplate="<b>%{customdata[0]}</b><br>probability %{x:.4f}<br>log-probability %{customdata[1]} "
        "nats<extra>as sampling draws it</extra>",
    )
    figure = go.Figure([before, drawn])
    figure.update_layout(
        barmode="group",
        bargap=0.28,
        bargroupgap=0.0,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    figure.update_xaxes(title_text="probability", range=[0, 1])
    figure.update_yaxes(
        autorange="reversed",
        type="category",
        labelalias={str(place): label for place, label in enumerate(labels)},
        ticklabelstandoff=8,
        showgrid=False,
        zeroline=False,
    )
    return finish(figure, theme, height=130 + 38 * len(tokens), title=f"Step {step}")


def _column(*fields: Sequence[str]) -> np.ndarray:
    return np.array([list(values) for values in zip(*fields, strict=True)], dtype=object).reshape(
        -1, len(fields)
    )
