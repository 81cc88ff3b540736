"""Plotly figures of what steers a training: its learning rate and the norm of its gradient, by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from explain.report import colours
from explain.report.colours import Theme
from explain.report.plot_style import finish

Records = Sequence[dict[str, Any]]
_SPREAD = 50
"""Largest of a norm over its least, up to which its axis has marks within decades."""


def rate_curve(records: Records, *, theme: Theme = "light") -> go.Figure:
    """The learning rate by step, from 0, with a line where its highest was changed.

    `records` are lines of a run's `progress.jsonl`, as `explain.runs.Run.progress` reads them.
    """
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


def norm_curve(records: Records, *, clip: float = 0.0, theme: Theme = "light") -> go.Figure:
    """The gradient's norm before clipping by step, on a logarithmic axis, with a line where it is cut.

    Args:
        records: as for `rate_curve`.
        clip: the norm that larger ones were cut to; 0 draws no line.
        theme: whose colours.
    """
    steps, norms = _series(records, "grad_norm")
    kept = norms > 0
    drawn = go.Figure(_line(steps[kept], norms[kept], "gradient norm", ".3g", theme))
    if clip > 0:
        drawn.add_hline(y=clip, line={"color": colours.MUTED[theme], "width": 1, "dash": "dash"})
    drawn.update_xaxes(title_text="training step")
    drawn.update_yaxes(title_text="gradient norm (log)", type="log", **_marks(norms[kept]))
    return finish(drawn, theme, height=240)


def _marks(norms: np.ndarray) -> dict[str, Any]:
    """Marks of a logarithmic axis: every decade, or 1, 2 and 5 of each where there are few."""
    if not norms.size or norms.max() > _SPREAD * norms.min():
        return {"dtick": 1}
    decades = range(math.floor(math.log10(norms.min())), math.ceil(math.log10(norms.max())) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def _line(steps: np.ndarray, values: np.ndarray, name: str, form: str, theme: Theme) -> go.Scatter:
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
        for record in records
        if record.get("kind") == "step" and isinstance(record.get(name), (int, float))
    ]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs], dtype=np.float64)
