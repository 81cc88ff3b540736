"""Curves of a run: loss, learning rate, gradient norm, drawn from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard import frame, snippets
from explain.report import plots
from explain.report.training_plots import norm_curve, rate_curve
from explain.runs import Run

Records = Sequence[dict[str, Any]]
MOST = 2_000
"""Points of a line; of more every n-th is drawn."""


def curves(run: Run, records: Records, recipe: dict[str, Any]) -> None:
    """The loss in full width, what steers it below, side by side."""
    if not any(record.get("loss") is not None for record in records):
        st.caption("The first step is not done yet; its loss will stand here.")
        return
    theme, shown = frame.theme(), _thinned(records)
    lines = ["from explain.runs import Run", "", f"records = Run.open({str(run.path)!r}).progress()"]
    frame.figure(
        plots.training_curve(shown, theme=theme),
        "Loss: nats per token, 0 is perfect. Exact match: share of held-out outputs that are right, 1 is "
        "all. A validation loss that rises while the training loss falls means that the model learns its "
        "texts by heart.",
        key="curve",
        alt="Lines: training and validation loss by step",
        python=snippets.drawn(lines, "training_curve(records)"),
    )
    left, right = st.columns(2, gap="large")
    with left:
        frame.figure(
            rate_curve(shown, theme=theme),
            "How large the optimiser's steps were: they grow while it warms up, then shrink. A dotted line "
            "is a change of the highest one.",
            key="rate",
            alt="Line: learning rate by step",
            python=snippets.shown(lines, [], "rate_curve(records)", "training_plots"),
        )
    with right:
        given = recipe.get("clip")
        clip = float(given) if isinstance(given, (int, float)) else 0.0
        frame.figure(
            norm_curve(shown, clip=clip, theme=theme),
            "How steep the loss was, before clipping; what lies above the dashed line was cut to it. A norm "
            "that climbs is the first sign of a learning rate that is too high.",
            key="norm",
            alt="Line: norm of the gradient by step",
            python=snippets.shown(lines, [], f"norm_curve(records, clip={clip})", "training_plots"),
        )


def _thinned(records: Records) -> Records:
    """All evaluations and changes, and so many steps as a screen has room for."""
    steps = [record for record in records if record.get("kind") == "step"]
    if len(steps) <= MOST:
        return records
    every = math.ceil(len(steps) / MOST)
    kept = {id(record) for record in [*steps[::every], steps[-1]]}
    return [record for record in records if record.get("kind") != "step" or id(record) in kept]
