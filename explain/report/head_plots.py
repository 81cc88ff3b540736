"""What a head does, in words and as a figure: its role, and its figures among those of the other heads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explain.errors import InputError
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.analysis.heads import Head, HeadRole, HeadRow, HeadStatistics

# The figures that are shares, in the order they are drawn in, and what they are shares of.
SHARES = {
    "max_weight": "on its strongest token",
    "relative_entropy": "spread over all tokens",
    "copy": "on the same word in the source",
    "diagonal": "at its own place",
    "previous": "on the token before",
    "next": "on the token after",
    "special": "on special tokens",
}
FIGURE_HELP = (
    "Each mark is a head: where it puts its attention, as a share of it, on average over all tokens. "
    "Spread is 0 when all of it is on one token and 1 when every token gets the same."
)
_SAYS = {
    "alignment": "its strongest source token is the one that the output token comes from",
    "copy": "it looks at source words with the same text as the output word",
    "broad": "it looks almost everywhere alike",
    "sink": "it looks at special tokens, where a head parks attention that it has no use for",
    "mixed": "it has no role that stands out",
}
_PLACES = {
    ("self", -1): "it looks at the token before",
    ("self", 0): "it looks at its own place",
    ("self", 1): "it looks at the token after",
    ("cross", 0): "it looks at the source token at the same relative place",
}


def role_sentence(role: HeadRole, alignment_by: str = "gold") -> str:
    """What a head does, in a sentence for people: every role that holds and why."""
    parts = []
    for name in role.roles:
        if name == "positional" and role.offset is not None:
            says = _PLACES[role.head.kind, role.offset]
        elif name == "alignment" and alignment_by == "copy":
            says = "its strongest source token has the text of the output token"
        else:
            says = _SAYS[name]
        parts.append(f"{name.capitalize()}: {says}")
    return ". ".join(parts) + "."


def head_note(row: HeadRow, role: HeadRole) -> str:
    """A head in a line: `alignment · entropy 0.42 nats · strongest token 0.86`."""
    return (
        f"{role.role} · entropy {number(row.entropy)} nats · strongest token "
        f"{number(row.max_weight)} on average"
    )


def head_figure(
    statistics: HeadStatistics,
    side: str,
    kind: str,
    head: Head | None = None,
    *,
    layer: int | None = None,
    index: int | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """The shares of every head of one side as marks, 0 to 1; the chosen one is filled and has its numbers.

    Args:
        statistics: figures of all heads of a model.
        side: `encoder` or `decoder`.
        kind: `self` or `cross`.
        head: the head to set apart.
        layer: without a head, the layer to set apart.
        index: likewise, the heads of this index.
        theme: whose colours.

    Raises:
        InputError: the model has no such heads.
    """
    rows = [row for row in statistics.rows if (row.head.side, row.head.kind) == (side, kind)]
    if not rows:
        raise InputError(f"the model has no heads of {side} {kind}-attention")
    names = [name for name in SHARES if any(not math.isnan(getattr(row, name)) for row in rows)]

    def apart(row: HeadRow) -> bool:
        if head is not None:
            return row.head == head
        wanted = (layer is None or row.head.layer == layer) and (index is None or row.head.index == index)
        return wanted and (layer is not None or index is not None)

    figure = go.Figure()
    for chosen in (False, True):
        part = [row for row in rows if apart(row) is chosen]
        if part:
            figure.add_trace(_marks(part, names, chosen, theme))
    if head is not None:  # its numbers, in a column beside the marks
        figure.add_trace(_numbers(next(row for row in rows if apart(row)), names, theme))
    figure.update_xaxes(
        range=[-0.03, 1.16 if head is not None else 1.03],
        tickvals=[0, 0.25, 0.5, 0.75, 1],
        title_text="share",
        zeroline=False,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[SHARES[name] for name in names],
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
        automargin=True,
    )
    named = head is not None or layer is not None or index is not None
    finish(figure, theme, height=(124 if named else 100) + 30 * len(names))
    return figure.update_layout(
        margin={"l": 10, "r": 10, "t": 34 if named else 10, "b": 44},
        showlegend=named,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )


def _marks(rows: list[HeadRow], names: list[str], chosen: bool, theme: Theme) -> go.Scatter:
    """One mark for each head and figure."""
    x = np.array([getattr(row, name) for row in rows for name in names], dtype=np.float32)
    y = np.array([place for _ in rows for place in range(len(names))])
    labels = [f"layer {row.head.layer}, head {row.head.index}" for row in rows for _ in names]
    colour = colours.ACCENT[theme] if chosen else colours.MUTED[theme]
    return go.Scatter(
        name=_legend(rows) if chosen else "the other heads",
        x=x,
        y=y,
        mode="markers",
        marker={
            "color": colour,
            "size": 12 if chosen else 8,
            "symbol": "diamond" if chosen else "circle",
            "opacity": 1 if chosen else 0.45,
        },
        customdata=labels,
        hovertemplate="%{customdata}<br>%{x:.3f} %{y}<extra></extra>",
        cliponaxis=False,
    )


def _numbers(row: HeadRow, names: list[str], theme: Theme) -> go.Scatter:
    values = [getattr(row, name) for name in names]
    return go.Scatter(
        x=np.full(len(names), 1.05),
        y=np.arange(len(names)),
        mode="text",
        text=["" if math.isnan(value) else number(value) for value in values],
        textposition="middle right",
        textfont={"size": 12, "color": colours.INK[theme]},
        hoverinfo="skip",
        showlegend=False,
    )


def _legend(rows: list[HeadRow]) -> str:
    layers, heads = {row.head.layer for row in rows}, {row.head.index for row in rows}
    if len(rows) == 1:
        return f"layer {rows[0].head.layer}, head {rows[0].head.index}"
    return f"layer {layers.pop()}" if len(layers) == 1 else f"head {heads.pop()}"
