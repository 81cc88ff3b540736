"""Plotly figures of a training story: figures along the steps, heads by steps, a probe's map at one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.errors import UnknownNameError
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import array, block_label, plot_label, plot_text, shorten
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.analysis import Head
    from explain.story import ProbeMap, TrainingStory

HEAD_FIGURES = {
    "alignment": "alignment",
    "relative_entropy": "spread",
    "entropy": "entropy (nats)",
    "max_weight": "strongest weight",
    "copy_top": "strongest token has the same text",
    "previous": "attention on the token before",
    "special": "attention on special tokens",
}
"""What `heads_by_step` can show, and what it is called."""
CURVES_HELP = (
    "Above: the loss in nats per token, 0 is certain. Below: shares, 0 to 1. Precision at 1 is how often the "
    "maps point at what the task names; a cue's curve is how often swapping it, which should change nothing, "
    "changes what the model would write. A vertical line marks where a cue begins to decide."
)
HEADS_HELP = (
    "Each row is a head, each column a look. Alignment: how often the head's strongest source token is the "
    "one that the task names. Spread: 0 is all attention on one token, 1 the same on every token."
)
MAP_HELP = (
    "Rows are the tokens of the right output, columns what stood before: the stronger the colour, the more "
    "the token leans on it. The scale is the same at every step, so that maps of two steps can be compared. "
    "◆ marks a cue that should not matter."
)
# The maps of a probe share one scale; a few outliers of early looks must not pale all others.
_QUANTILE = 0.999


def story_curves(story: TrainingStory, *, theme: Theme = "light") -> go.Figure:
    """Loss in nats (above), and the shares that the looks found (below), by training step.

    Shares are exact match, the maps' precision at 1, and for each cue how often swapping it flips the output.
    A vertical line marks where a cue begins to decide.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.4, 0.6])
    palette = colours.SERIES[theme]
    steps = list(story.steps)
    if story.losses:
        figure.add_trace(
            go.Scatter(
                name="training loss",
                x=[step for step, _ in story.losses],
                y=[loss for _, loss in story.losses],
                mode="lines",
                line={"color": colours.MUTED[theme], "width": 1},
                hovertemplate="step %{x}<br>training loss %{y:.4f} nats per token<extra></extra>",
            ),
            row=1,
            col=1,
        )
    series: list[tuple[str, Sequence[float], int]] = [
        ("loss on held-out probes", [look.loss for look in story.looks], 1),
        ("exact match", [look.exact_match for look in story.looks], 2),
        ("maps' precision at 1", [look.precision_at_1.value for look in story.looks], 2),
    ]
    cues = list(dict.fromkeys(row.cue for look in story.looks for row in look.swaps))
    for cue in cues:
        rows = [look.swap(cue) for look in story.looks]
        series.append(
            (f"“{cue}” flips the output", [math.nan if row is None else row.flipped for row in rows], 2)
        )
    for number, (name, values, panel) in enumerate(series):
        if all(math.isnan(value) for value in values):
            continue
        figure.add_trace(
            go.Scatter(
                name=plot_text(shorten(name, 40)),
                x=steps,
                y=np.array(values, dtype=np.float32),
                mode="lines+markers",
                line={
                    "color": palette[number % len(palette)],
                    "dash": ("solid", "dash", "dot", "dashdot", "longdash")[number % 5],
                    "width": 2,
                },
                marker={"symbol": number % 8, "size": 7},
                hovertemplate="step %{x}<br>%{fullData.name} %{y:.3f}<extra></extra>",
            ),
            row=panel,
            col=1,
        )
    for finding in story.findings:
        if finding.kind == "shortcut":
            figure.add_vline(
                x=finding.step,
                line={"color": colours.WRONG[theme], "width": 1, "dash": "dash"},
                row=2,  # pyright: ignore[reportArgumentType]
                col=1,  # pyright: ignore[reportArgumentType]
                annotation_text=plot_text(f"⚠ {shorten(finding.subject, 24)}"),
                annotation_font_color=colours.WRONG[theme],
            )
    figure.update_xaxes(title_text="training step", row=2, col=1)
    figure.update_yaxes(title_text="loss (nats)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="share", range=[-0.03, 1.05], row=2, col=1)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, showlegend=True)
    return finish(figure, theme, height=520, margin_top=80)


def heads_by_step(
    story: TrainingStory, name: str = "alignment", kind: str | None = None, *, theme: Theme = "light"
) -> go.Figure:
    """One figure of every head that has it (rows) at every look (columns) as a heat map.

    Args:
        story: of a run.
        name: one of `HEAD_FIGURES`.
        kind: `self` or `cross` heads alone; None is all.
        theme: whose colours.

    Raises:
        UnknownNameError: there is no such figure.
    """
    if name not in HEAD_FIGURES:
        raise UnknownNameError("figure of heads", name, HEAD_FIGURES)
    heads, values = head_values(story, name, kind)
    heat = go.Heatmap(
        z=values,
        x=[f"{step:,}" for step in story.steps],
        y=np.arange(len(heads)),
        zmin=0.0,
        zmax=_top(values) if name == "entropy" else 1.0,
        colorscale=colours.colorscale("sequential", theme),
        colorbar={"title": {"text": HEAD_FIGURES[name], "side": "right"}},
        hovertemplate="<b>%{y}</b><br>step %{x}<br>%{z:.3f}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text="training step", type="category", showgrid=False)
    figure.update_yaxes(
        title_text="head",
        type="category",
        labelalias={
            str(row): f"{block_label(head.block)}, head {head.index}" for row, head in enumerate(heads)
        },
        autorange="reversed",
        showgrid=False,
        automargin=True,
    )
    return finish(figure, theme, height=170 + 24 * max(3, len(heads)))


def head_values(
    story: TrainingStory, name: str, kind: str | None = None
) -> tuple[list[Head], np.ndarray]:  # [head, look]
    """The heads that a figure is defined for, in the order of computation, and its values at every look."""
    rows = [
        row.head
        for row in (story.looks[-1].heads.rows if story.looks else ())
        if kind in (None, row.head.kind)
    ]
    values = np.array(
        [[getattr(look.heads[head], name) for look in story.looks] for head in rows], dtype=np.float32
    ).reshape(len(rows), len(story.looks))
    known = [row for row, line in enumerate(values) if not np.isnan(line).all()]
    return [rows[row] for row in known], values[known]


def map_limit(story: TrainingStory, probe: int) -> float:
    """The end of the colour scale that a probe's maps of all steps share."""
    scores = [
        np.abs(array(part)).ravel()
        for look in story.looks
        if probe < len(look.maps)
        for part in (look.maps[probe].source, look.maps[probe].prefix)
    ]
    found = np.concatenate(scores) if scores else np.zeros(0)
    found = found[np.isfinite(found)]
    return float(np.quantile(found, _QUANTILE)) or float(found.max()) or 1.0 if found.size else 1.0


def probe_map(found: ProbeMap, *, limit: float | None = None, theme: Theme = "light") -> go.Figure:
    """A probe's map at one step: right output down; the source, then earlier output across.

    Args:
        found: one of `Look.maps`.
        limit: the number at the end of the colour scale (`map_limit`: the same at all steps); left out, the
            largest score here.
        theme: whose colours.
    """
    source, prefix = array(found.source), array(found.prefix)
    past = np.where(np.tri(len(prefix), k=-1, dtype=bool), prefix, np.nan)
    signed = bool((source < 0).any() or (np.nan_to_num(past) < 0).any())
    limit = limit or max(_top(np.abs(source)), _top(np.abs(past)))
    columns = [
        f"◆ {plot_label(token)}" if i in found.cue else plot_label(token)
        for i, token in enumerate(found.source_tokens)
    ]
    rows = [plot_label(token) for token in found.target_tokens]
    share = min(0.8, max(0.2, len(columns) / max(1, len(columns) + len(rows))))
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.02, column_widths=[share, 1 - share]
    )
    for column, (name, scores) in enumerate((("source", source), ("earlier output", past)), start=1):
        figure.add_trace(
            go.Heatmap(
                name=name,
                z=scores,
                x=np.arange(scores.shape[1]),
                y=np.arange(len(rows)),
                zmin=-limit if signed else 0.0,
                zmax=limit,
                colorscale=colours.colorscale("diverging" if signed else "sequential", theme),
                showscale=column == 2,
                colorbar={"title": {"text": "score (0 = none)", "side": "right"}, "tickformat": ".2~g"},
                hovertemplate=f"<b>%{{y}}</b> leans on {name} <b>%{{x}}</b><br>%{{z:.4f}}<extra></extra>",
                hoverongaps=False,
                xgap=1,
                ygap=1,
            ),
            row=1,
            col=column,
        )
    named = "source token (◆ cue)" if found.cue else "source token"
    figure.update_xaxes(title_text=named, **_ticks(columns), row=1, col=1)
    figure.update_xaxes(title_text="earlier output token", **_ticks(rows), row=1, col=2)
    figure.update_yaxes(title_text="right output", row=1, col=1)
    figure.update_yaxes(autorange="reversed", **{**_ticks(rows), "tickangle": 0})
    return finish(figure, theme, height=min(1400, max(300, 170 + 24 * len(rows))))


def _ticks(labels: Sequence[str]) -> dict[str, Any]:
    """Positions as categories, texts as their labels: equal tokens stay apart."""
    found: dict[str, Any] = {
        "type": "category",
        "labelalias": {str(i): label for i, label in enumerate(labels)},
        "showgrid": False,
        "zeroline": False,
    }
    return {**found, "tickangle": -90} if len(labels) > 12 else found


def _top(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if known.size and known.max() > 0 else 1.0
