"""Plotly figures of a comparison: how far every method's maps moved, and how far every head did.

A model pair and the floor are told apart by the mark and its word, not by colour alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explain.report import colours
from explain.report.colours import Theme
from explain.report.facts import facts_of
from explain.report.labels import block_label, number, plot_text
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.comparison import Comparison, Figures

PAIR, FLOOR = "A and B", "floor: retrained models"
WRITTEN = 12
"""Heads of a block whose numbers are written into their cells."""


def drift_figure(comparison: Comparison, *, theme: Theme = "light") -> go.Figure:
    """Top-k Jaccard index of every method, 0 to 1, with 95 % intervals, beside the floor's.

    1 is the same strongest tokens; wholly left of the floor is further than retraining moves them.
    """
    names = list(comparison.figures.drift)
    figure = go.Figure()
    if comparison.floor is not None:
        figure.add_trace(_marks(comparison.floor.figures, names, FLOOR, "line-ns", colours.INK[theme], 0.18))
    figure.add_trace(_marks(comparison.figures, names, PAIR, "circle", colours.ACCENT[theme], 0.0))
    figure.update_xaxes(title_text="strongest tokens in common (top-k Jaccard)", range=[0, 1.02])
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[plot_text(facts_of(name).label) for name in names],
        range=[len(names) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"}, showlegend=True)
    return finish(figure, theme, height=150 + 34 * max(2, len(names)), margin_top=50)


def heads_figure(comparison: Comparison, *, theme: Theme = "light") -> go.Figure:
    """Divergence of every head of A from its partner in B, in bits: blocks down, heads across.

    The scale runs from 0 to the floor's mean, or to the largest value where that is more.
    """
    blocks = comparison.figures.attention.blocks
    columns = max((len(block.heads) for block in blocks), default=0)
    values = np.full((len(blocks), columns), math.nan)
    partners = np.full((len(blocks), columns), "", dtype=object)
    for row, block in enumerate(blocks):
        for column, head in enumerate(block.heads):
            values[row, column] = head.divergence.value
            partners[row, column] = f"{plot_text(block_label(block.b))}, head {head.b}"
    known = values[~np.isnan(values)].tolist()
    floor = None if comparison.floor is None else comparison.floor.figures.attention.per_head.value
    known += [] if floor is None or math.isnan(floor) else [floor]
    heat = go.Heatmap(
        z=values,
        x=np.arange(columns),
        y=np.arange(len(blocks)),
        zmin=0.0,
        zmax=max(known, default=0.0) or 1.0,
        colorscale=colours.colorscale("sequential", theme),
        colorbar={"title": {"text": "divergence (bits; 0 = the same)", "side": "right"}},
        customdata=partners,
        texttemplate="%{z:.2f}" if columns <= WRITTEN else "",
        hovertemplate="<b>%{y}, head %{x}</b> and %{customdata}<br>%{z:.4f} bits<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text="head of A", type="category", showgrid=False)
    labels = {str(row): plot_text(block_label(block.a)) for row, block in enumerate(blocks)}
    figure.update_yaxes(
        title_text="attention block",
        type="category",
        labelalias=labels,
        autorange="reversed",
        showgrid=False,
        automargin=True,
    )
    return finish(figure, theme, height=170 + 26 * max(3, len(blocks)))


def _marks(
    figures: Figures, names: list[str], word: str, symbol: str, colour: str, below: float
) -> go.Scatter:
    known = [(i, figures.drift[name].topk_jaccard) for i, name in enumerate(names) if name in figures.drift]
    known = [(i, found) for i, found in known if not math.isnan(found.value)]
    texts = [f"{number(f.value)} ({number(f.low)} to {number(f.high)})" for _, f in known]
    return go.Scatter(
        name=word,
        mode="markers",
        x=[found.value for _, found in known],
        y=[i + below for i, _ in known],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.value for _, found in known],
            "arrayminus": [found.value - found.low for _, found in known],
            "thickness": 2,
            "width": 4,
            "color": colour,
        },
        marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
        customdata=[
            [plot_text(facts_of(names[i]).label), text] for (i, _), text in zip(known, texts, strict=True)
        ],
        hovertemplate=f"<b>%{{customdata[0]}}</b>, {word}<br>%{{customdata[1]}}<extra></extra>",
    )
