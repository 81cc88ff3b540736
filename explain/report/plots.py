"""Plotly figures as plain functions of results.

Tokens are placed by position and labelled by text, so repeated tokens stay apart; as many labels are drawn as
fit, and more when the reader zooms in. Every colour has a bar with its numbers, and scales are fixed, never
left to Plotly. Texts are escaped: Plotly would read them as HTML. Positions and steps count from 0, as in
`Generation.alternatives` and in the JSON files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.report import colours
from explain.report.colours import Theme
from explain.report.decoding_plots import reshaped_bars
from explain.report.facts import facts_of, scale_ends
from explain.report.labels import (
    array,
    number,
    objective_name,
    plot_label,
    plot_text,
    probability,
    score_limit,
    shorten,
)
from explain.report.plot_style import finish
from explain.report.trust_plots import cascade_figure, deletion_figure, ranking_figure
from explain.results import Attribution, Generation, Token

__all__ = [
    "alternatives_bars",
    "attention_map",
    "attribution_map",
    "cascade_figure",
    "deletion_figure",
    "entropy_strip",
    "ranking_figure",
    "reshaped_bars",
    "token_log_probs",
    "training_curve",
]

# Past this many rows or columns there is no line between the cells.
MOST_SPACED = 80
# The label of the decoder start, which stands before the earlier output.
START = "(start)"


def attribution_map(attribution: Attribution, *, theme: Theme = "light") -> go.Figure:
    """The scores as a heat map: output tokens down; source, then start and earlier output tokens across.

    Both panels share one scale. It is symmetric round 0 for a signed method (blue above 0 supports, orange
    below 0 opposes) and runs from 0 for the others.
    """
    columns = [plot_label(token) for token in attribution.source_tokens]
    rows = [plot_label(token) for token in attribution.target_tokens]
    limit = score_limit(attribution) or 1.0
    signed = attribution.signed
    low, scale = (-limit, "diverging") if signed else (0.0, "sequential")
    noun = attribution.level
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        column_widths=_widths(len(columns), len(rows)),
    )
    shared = {
        "zmin": low,
        "zmax": limit,
        "colorscale": colours.colorscale(scale, theme),
        "hoverongaps": False,
        **_gaps(len(rows), max(len(rows), len(columns))),
    }
    panels = (
        ("source", 1, array(attribution.source), np.arange(len(columns))),
        ("start", 2, array(attribution.start)[:, None], np.array([-1])),
        ("prefix", 2, _past(attribution), np.arange(len(rows))),
    )
    bar = {
        "title": {"text": _bar_title(attribution), "side": "right", "font": {"size": 12}},
        "tickformat": ".2~g",
    }
    for name, column, scores, positions in panels:
        heat = go.Heatmap(
            name=name,
            z=scores,
            x=positions,
            y=np.arange(len(rows)),
            hovertemplate=_score_hover(noun, name, signed),
            showscale=name == "prefix",
            colorbar=bar,
            **shared,
        )
        figure.add_trace(heat, row=1, col=column)
    figure.update_xaxes(title_text=f"source {noun}", **_ticks(columns), row=1, col=1)
    figure.update_xaxes(title_text=f"earlier output {noun}", **_ticks([START, *rows], -1), row=1, col=2)
    figure.update_yaxes(title_text=f"output {noun}", row=1, col=1)
    figure.update_yaxes(autorange="reversed", **{**_ticks(rows), "tickangle": 0})
    return finish(figure, theme, height=_height(len(rows)), title=_title(attribution))


def attention_map(
    pattern: Any,
    query_tokens: Sequence[Token | str],
    key_tokens: Sequence[Token | str],
    *,
    title: str = "",
    query_name: str = "output token",
    key_name: str = "source token",
    zmax: float | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """One attention pattern [query, key] as a heat map; weights are 0 to 1 and each row sums to 1.

    The scale runs from 0 to `zmax`: give 1 to compare heads, leave it out to use the largest weight here.
    """
    weights = array(pattern)
    rows, columns = [plot_label(token) for token in query_tokens], [plot_label(token) for token in key_tokens]
    if zmax is None:
        zmax = float(np.nanmax(weights)) if weights.size and not np.isnan(weights).all() else 1.0
    hover = "<b>%{y}</b> (%{pointNumber[0]}) looks at <b>%{x}</b> (%{pointNumber[1]})<br>weight %{z:.4f}"
    heat = go.Heatmap(
        z=weights,
        x=np.arange(len(columns)),
        y=np.arange(len(rows)),
        zmin=0.0,
        zmax=zmax or 1.0,
        colorscale=colours.colorscale("sequential", theme),
        colorbar={"title": {"text": "attention weight (each row sums to 1)", "side": "right"}},
        hovertemplate=f"{hover}<extra></extra>",
        hoverongaps=False,
        **_gaps(len(rows), len(columns)),
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text=key_name, **_ticks(columns))
    figure.update_yaxes(title_text=query_name, autorange="reversed", **{**_ticks(rows), "tickangle": 0})
    return finish(figure, theme, height=_height(len(rows)), title=plot_text(title))


def token_log_probs(generation: Generation, *, theme: Theme = "light") -> go.Figure:
    """The log-probability of each output token as bars, in nats: 0 is certain, lower is less likely."""
    values = array(generation.log_probs)
    labels = [plot_label(token) for token in generation.target_tokens]
    ramp = colours.colours("doubt", theme)
    shares = np.exp(np.minimum(values, 0))
    bars = go.Bar(
        x=np.arange(len(labels)),
        y=values,
        marker={
            "color": [ramp[colours.doubt_level(float(share))] for share in np.nan_to_num(shares)],
            "line": {"color": colours.MUTED[theme], "width": 1},
        },
        customdata=_column([probability(float(value)) for value in values]),
        hovertemplate="<b>%{x}</b> · step %{pointNumber}<br>log-probability %{y:.4f} nats"
        "<br>probability %{customdata[0]}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_xaxes(title_text="output token", **_ticks(labels))
    figure.update_yaxes(title_text="log-probability (nats; 0 = certain)", rangemode="tozero")
    return finish(figure, theme, height=320)


def entropy_strip(generation: Generation, *, theme: Theme = "light") -> go.Figure:
    """The entropy of the next-token distribution at each step, in nats, as one row: 0 is no doubt at all."""
    values = array(generation.entropy)
    labels = [plot_label(token) for token in generation.target_tokens]
    top = float(np.nanmax(values)) if values.size and not np.isnan(values).all() else 0.0
    strip = go.Heatmap(
        z=values[None, :],
        x=np.arange(len(labels)),
        y=np.array([0]),
        zmin=0.0,
        zmax=top or 1.0,
        colorscale=colours.colorscale("doubt", theme),
        colorbar={"title": {"text": "entropy (nats)", "side": "right"}, "nticks": 3},
        hovertemplate="<b>%{x}</b> · step %{pointNumber[1]}<br>entropy %{z:.4f} nats<extra></extra>",
        **_gaps(1, len(labels)),
    )
    figure = go.Figure(strip)
    figure.update_xaxes(title_text="output token", **_ticks(labels))
    figure.update_yaxes(visible=False)
    return finish(figure, theme, height=200)


def training_curve(records: Iterable[Mapping[str, Any]], *, theme: Theme = "light") -> go.Figure:
    """Training and validation loss (nats per token) and, where measured, exact match (0 to 1) by step.

    `records` are lines of a run's `progress.jsonl`: of kind `step` with the training `loss`, of kind
    `evaluation` with the validation `loss` and `exact_match`. Others are ignored; of two records of one step
    (a job that resumed) the later counts.
    """
    lines = list(records)
    trained = [record for record in lines if record.get("kind") == "step"]
    evaluated = [record for record in lines if record.get("kind") == "evaluation"]
    loss, held_out = _series(trained, "loss"), _series(evaluated, "loss")
    match = _series(evaluated, "exact_match")
    panels = 2 if match[0].size else 1
    figure = make_subplots(rows=panels, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    blue, orange, green = colours.SERIES[theme][:3]
    curves = (
        ("training loss", loss, blue, "solid", 1),
        ("validation loss", held_out, orange, "dash", 1),
        ("exact match (validation)", match, green, "dot", 2),
    )
    for name, (steps, values), colour, dash, row in curves:
        if not steps.size:
            continue
        unit = "" if row == 2 else " nats per token"
        trace = go.Scatter(
            name=name,
            x=steps,
            y=values,
            mode="lines+markers" if steps.size < 40 else "lines",
            line={"color": colour, "dash": dash, "width": 2},
            hovertemplate=f"step %{{x}}<br>{name} %{{y:.4f}}{unit}<extra></extra>",
        )
        figure.add_trace(trace, row=row, col=1)
    figure.update_xaxes(title_text="training step", row=panels, col=1)
    figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
    if panels == 2:
        figure.update_yaxes(title_text="exact match", range=[0, 1.02], row=2, col=1)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, showlegend=True)
    return finish(figure, theme, height=300 + 180 * (panels - 1), margin_top=40)


def alternatives_bars(generation: Generation, step: int, k: int = 5, *, theme: Theme = "light") -> go.Figure:
    """What the model might have written at `step`: the k most likely tokens by probability (0 to 1).

    The token that stands in the output is filled; it gets a bar of its own when it is not among the k.

    Raises:
        InputError: there is no such step, or fewer than k alternatives were kept.
    """
    token = generation.target_tokens[step] if 0 <= step < len(generation.target_tokens) else None
    found = generation.alternatives(step, k)
    entries = [
        (item.text, item.log_prob, item.rank, token is not None and item.id == token.id) for item in found
    ]
    if token is not None and not any(chosen for *_, chosen in entries):
        entries.append((token.text, float(generation.log_probs[step]), int(generation.ranks[step]), True))
    labels = [plot_label(text) for text, *_ in entries]
    ramp = colours.colours("sequential", theme)
    bars = go.Bar(
        orientation="h",
        x=np.exp(np.array([log_prob for _, log_prob, *_ in entries], dtype=np.float32)),
        y=np.arange(len(entries)),
        marker={
            "color": [ramp[14] if chosen else ramp[3] for *_, chosen in entries],
            "line": {"color": ramp[14], "width": 1},
        },
        customdata=_column(
            labels,
            [str(rank) for _, _, rank, _ in entries],
            [number(log_prob, 3) for _, log_prob, *_ in entries],
            [" (in the output)" if chosen else "" for *_, chosen in entries],
        ),
        hovertemplate="<b>%{customdata[0]}</b>%{customdata[3]}<br>rank %{customdata[1]}<br>"
        "probability %{x:.4f}<br>log-probability %{customdata[2]} nats<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_xaxes(title_text="probability", range=[0, 1])
    figure.update_yaxes(title_text="token", autorange="reversed", **_ticks(labels))
    return finish(figure, theme, height=110 + 30 * len(entries), title=f"Step {step}")


def _past(attribution: Attribution) -> np.ndarray:
    """Prefix scores with nan where no score is possible; within-word effects stand on the diagonal."""
    prefix, within = array(attribution.prefix), array(attribution.within)
    past = np.where(np.tri(len(within), k=-1, dtype=bool), prefix, np.nan)
    np.fill_diagonal(past, np.where(within == 0, np.nan, within))
    return past


def _series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of what the records call `name`; steps ascend and are unique."""
    found: dict[float, float] = {}
    for record in records:
        step = record.get("step")
        value = record.get(name)
        if not isinstance(step, (int, float)) or not isinstance(value, (int, float)):
            continue
        if math.isfinite(value):
            found[step] = float(value)
    steps = sorted(found)
    return np.array(steps), np.array([found[step] for step in steps], dtype=np.float32)


def _column(*fields: Sequence[str]) -> np.ndarray:
    """One row of labels per point, as Plotly's custom data takes them."""
    return np.array([list(values) for values in zip(*fields, strict=True)], dtype=object).reshape(
        -1, len(fields)
    )


def _score_hover(noun: str, panel: str, signed: bool) -> str:
    cause = {
        "source": f"source {noun} <b>%{{x}}</b> (position %{{pointNumber[1]}})",
        "prefix": f"earlier output {noun} <b>%{{x}}</b> (position %{{pointNumber[1]}})",
        "start": "decoder start",
    }[panel]
    row = f"output {noun} <b>%{{y}}</b> (step %{{pointNumber[0]}})"
    score = "score %{z:+.5g}" if signed else "score %{z:.5g}"
    return f"{row}<br>{cause}<br>{score}<extra></extra>"


def _ticks(labels: Sequence[str], first: int = 0) -> dict[str, Any]:
    """Positions as categories, texts as their labels.

    On an axis of categories Plotly draws as many labels as fit, and more when the reader zooms in; the texts
    are aliases, so that equal tokens stay apart.
    """
    found: dict[str, Any] = {
        "type": "category",
        "labelalias": {str(first + i): label for i, label in enumerate(labels)},
        "showgrid": False,
        "zeroline": False,
    }
    if len(labels) > 12:
        found["tickangle"] = -90
    return found


def _gaps(rows: int, columns: int) -> dict[str, int]:
    """A line of the page between cells, as long as the cells are wider than it."""
    return {"xgap": int(columns <= MOST_SPACED), "ygap": int(rows <= MOST_SPACED)}


def _widths(source: int, target: int) -> list[float]:
    share = source / max(1, source + target + 1)
    share = min(0.8, max(0.2, share))
    return [round(share, 4), round(1 - share, 4)]


def _height(rows: int) -> int:
    return min(1400, max(300, 170 + 24 * rows))


def _bar_title(attribution: Attribution) -> str:
    limit = score_limit(attribution)
    units = shorten(attribution.units or "score", 60)
    ends = scale_ends(attribution) if limit else "every score is 0"
    # Two lines: on one, a long unit would be cut off at the height of a short map.
    return f"{plot_text(units)}<br>{plot_text(ends)}"


def _title(attribution: Attribution) -> str:
    method, name = facts_of(attribution.method).label, objective_name(attribution)
    return plot_text(shorten(f"{method} · {name}" if name else method, 100))
