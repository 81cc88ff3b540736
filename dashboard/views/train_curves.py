"""Curves of a run: loss, learning rate, gradient norm, drawn from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from dashboard import frame
from explain.report import colours, plots
from explain.report.plot_style import finish

Records = Sequence[dict[str, Any]]
MOST = 2_000
"""Points of a line; of more every n-th is drawn."""


def curves(records: Records, recipe: dict[str, Any]) -> None:
    """The loss in full width, what steers it below, side by side."""
    if not any(record.get("loss") is not None for record in records):
        st.caption("The first step is not done yet; its loss will stand here.")
        return
    theme = frame.theme()
    frame.figure(
        plots.training_curve(_thinned(records), theme=theme),
        "Loss: nats per token, 0 is perfect. Exact match: share of held-out outputs that are right, 1 is "
        "all. A validation loss that rises while the training loss falls means that the model learns its "
        "texts by heart.",
        key="curve",
        alt="Lines: training and validation loss by step",
    )
    left, right = st.columns(2, gap="large")
    with left:
        frame.figure(
            rate_curve(records, theme),
            "How large the optimiser's steps were: they grow while it warms up, then shrink. A dotted line "
            "is a change of the highest one.",
            key="rate",
            alt="Line: learning rate by step",
        )
    with right:
        clip = recipe.get("clip")
        frame.figure(
            norm_curve(records, theme, clip=float(clip) if isinstance(clip, (int, float)) else 0.0),
            "How steep the loss was, before clipping; what lies above the dashed line was cut to it. A norm "
            "that climbs is the first sign of a learning rate that is too high.",
            key="norm",
            alt="Line: norm of the gradient by step",
        )


def rate_curve(records: Records, theme: colours.Theme) -> go.Figure:
    """The learning rate by step, from 0, with a line where its highest was changed."""
    steps, rates = _series(records, "learning_rate")
    drawn = go.Figure(_line(steps, rates, "learning rate", ".2e", theme))
    for record in records:
        if record.get("kind") == "learning_rate":
            drawn.add_vline(
                x=record["step"],
                line={"color": colours.MUTED[theme], "width": 1, "dash": "dot"},
                annotation_text=f"{record['highest']:.1e}",
                annotation_font_color=colours.MUTED[theme],
            )
    drawn.update_xaxes(title_text="training step")
    drawn.update_yaxes(title_text="learning rate", rangemode="tozero", tickformat="~g")
    return finish(drawn, theme, height=240)


def norm_curve(records: Records, theme: colours.Theme, *, clip: float) -> go.Figure:
    """The gradient's norm before clipping by step, on a logarithmic axis, with a line where it is cut."""
    steps, norms = _series(records, "grad_norm")
    kept = norms > 0
    drawn = go.Figure(_line(steps[kept], norms[kept], "gradient norm", ".3g", theme))
    if clip > 0:
        drawn.add_hline(y=clip, line={"color": colours.MUTED[theme], "width": 1, "dash": "dash"})
    drawn.update_xaxes(title_text="training step")
    spread = float(norms[kept].max() / norms[kept].min()) if kept.any() else 1.0
    drawn.update_yaxes(title_text="gradient norm (log)", type="log", dtick="D2" if spread < 50 else 1)
    return finish(drawn, theme, height=240)


def _line(steps: np.ndarray, values: np.ndarray, name: str, form: str, theme: colours.Theme) -> go.Scatter:
    return go.Scatter(
        x=steps,
        y=values,
        mode="lines+markers" if len(steps) < 3 else "lines",
        line={"color": colours.ACCENT[theme], "width": 2},
        hovertemplate=f"step %{{x}}<br>{name} %{{y:{form}}}<extra></extra>",
        showlegend=False,
    )


def _series(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [
        (record["step"], record[name])
        for record in _thinned(records)
        if record.get("kind") == "step" and isinstance(record.get(name), (int, float))
    ]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs], dtype=np.float64)


def _thinned(records: Records) -> Records:
    """All evaluations and changes, and so many steps as a screen has room for."""
    steps = [record for record in records if record.get("kind") == "step"]
    if len(steps) <= MOST:
        return records
    every = math.ceil(len(steps) / MOST)
    kept = {id(record) for record in [*steps[::every], steps[-1]]}
    return [record for record in records if record.get("kind") != "step" or id(record) in kept]
