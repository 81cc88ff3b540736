"""Figures of one output under two conditions: which heads look elsewhere, and where to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.errors import InputError
from explain.report import colours
from explain.report.causal_plots import START, Grid
from explain.report.colours import Theme
from explain.report.inside_facts import KINDS
from explain.report.labels import array, plot_text, token_label
from explain.report.plot_style import finish
from explain.results import Generation

if TYPE_CHECKING:
    from explain.comparison.pair import HeadShift

SHIFT_HELP = (
    "Each cell is a head. 0: it looks at the same places in both; the stronger the blue, the more it looks "
    "elsewhere (divergence of its attention in bits, 1 is nothing in common)."
)
DIFFERENCE_HELP = (
    "Each row is a token that looks, each column one that is looked at. Blue (+): B looks there more; orange "
    "(−): A does; 0: both alike."
)


def shifts_figure(shifts: Sequence[HeadShift], *, theme: Theme = "light") -> go.Figure:
    """How far every head looks elsewhere, in bits, layer × head, a panel for each kind of attention.

    Raises:
        InputError: there is no head.
    """
    kinds = {key: [s for s in shifts if _key(s) == key] for key in KINDS}
    panels = {key: own for key, own in kinds.items() if own}
    if not panels:
        raise InputError("no head was compared")
    widths = [1 + max(shift.head for shift in own) for own in panels.values()]
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        horizontal_spacing=0.06,
        column_widths=[width / sum(widths) for width in widths],
        subplot_titles=[KINDS[key] for key in panels],
    )
    deepest = 0
    for column, (key, own) in enumerate(panels.items(), start=1):
        layers = [int(shift.a.split(".")[1]) for shift in own]
        grid = np.full((1 + max(layers), 1 + max(shift.head for shift in own)), np.nan, dtype=np.float32)
        partners = np.full(grid.shape, "", dtype=object)
        for layer, shift in zip(layers, own, strict=True):
            grid[layer, shift.head] = shift.bits
            partners[layer, shift.head] = f"{plot_text(shift.b)} head {shift.partner}"
        deepest = max(deepest, len(grid))
        heat = go.Heatmap(
            name=KINDS[key],
            z=grid,
            x=np.arange(grid.shape[1]),
            y=np.arange(grid.shape[0]),
            coloraxis="coloraxis",
            customdata=partners,
            hoverongaps=False,
            hovertemplate=f"{KINDS[key]}<br>layer %{{y}}, head %{{x}}, beside %{{customdata}}"
            "<br>%{z:.3f} bits<extra></extra>",
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=1, col=column)
        whole = {"dtick": 1, "showgrid": False, "zeroline": False}
        figure.update_xaxes(title_text="head", row=1, col=column, **whole)
        figure.update_yaxes(autorange="reversed", row=1, col=column, **whole)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    known = [shift.bits for shift in shifts if not math.isnan(shift.bits)]
    figure.update_layout(
        coloraxis={
            "cmin": 0.0,
            "cmax": max(known, default=0.0) or 1.0,
            "colorscale": colours.colorscale("sequential", theme),
            "colorbar": {"title": {"text": "bits (0 = the same)", "side": "right"}, "tickformat": ".2~g"},
        }
    )
    figure.update_annotations(font_size=13)
    return finish(figure, theme, height=170 + 40 * deepest, margin_top=44)


def difference_grid(shift: HeadShift, a: object, b: object, generation: Generation) -> Grid:
    """What a head looks at in B less what it looks at in A, query × key.

    Args:
        shift: which head, and its partner.
        a: pattern [query, key] of the head of A.
        b: that of its partner in B, of the same tokens.
        generation: the output of A that they are about.
    """
    side, _, kind = shift.a.split(".")
    source = tuple(token_label(token) for token in generation.source_tokens)
    read = (START, *(token_label(token) for token in generation.target_tokens[:-1]))
    written = tuple(token_label(token) for token in generation.target_tokens)
    encoder = side == "encoder"
    return Grid(
        title=f"{KINDS[side, kind]} · layer {shift.a.split('.')[1]}, head {shift.head}",
        row_axis="source token" if encoder else "output token",
        column_axis="source token" if encoder or kind == "cross" else "earlier output",
        rows=source if encoder else written,
        columns=source if encoder or kind == "cross" else read,
        values=array(b) - array(a),
        units="attention weight, B less A",
        ends="above 0: B looks there more",
        help=DIFFERENCE_HELP,
    )


def _key(shift: HeadShift) -> tuple[str, str]:
    side, _, kind = shift.a.split(".")
    return side, kind
