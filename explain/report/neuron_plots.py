"""Figures of neurons and hidden states: a projection, probes by layer, similarity of layers, shaded examples.

Plotly figures are plain functions of results, as in `explain.report.plots`. A label is told apart by colour
and by mark, in figures and in the pages' own drawings alike.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.analysis.representations import Row, buckets
from explain.errors import InputError, UnknownNameError
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number, percent, plot_label, plot_text, shorten, shown, token_label
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.analysis import Neuron, NeuronExample, Probe, ProbeReport, Projection, Similarity

COLOURED_BY = ("token", "input", "slot", "length", "position")
NONE, OTHER = "(none)", "other"
# Labels with a colour and a mark of their own; further ones share the grey of `other`.
MOST_LABELS = 12
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
# Colours of a page's own drawings, which a page shows light or dark: 3:1 at least on either background.
ON_BOTH = ("#3578c0", "#c8601a", "#1d8a68", "#a45bb5", "#937612", "#cc4a76")


# ---- projection ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """The points of one label: their indices, and the label's colour and mark by number; None for `other`."""

    label: str
    points: tuple[int, ...]
    style: int | None


def groups(rows: Sequence[Row], by: str, most: int = MOST_LABELS) -> list[Group]:
    """The rows of a projection by label: the most frequent ones, then what is left, `other`.

    Ranges of lengths and positions come in their order, names by frequency.

    Raises:
        UnknownNameError: rows have no such label.
    """
    by = require_colouring(by)
    if by in ("length", "position"):
        numbers = [getattr(row, by) for row in rows]
        labels = buckets(numbers, 6)
        order = list(dict.fromkeys(label for _, label in sorted(zip(numbers, labels, strict=True))))
    else:
        labels = [str(getattr(row, by)) for row in rows]
        counts = Counter(label for label in labels if label)
        order = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:most]
    members: dict[str, list[int]] = {label: [] for label in order}
    rest: dict[str, list[int]] = {OTHER: [], NONE: []}
    for index, label in enumerate(labels):
        (members[label] if label in members else rest[OTHER if label else NONE]).append(index)
    found = [Group(label, tuple(members[label]), style) for style, label in enumerate(order)]
    return found + [Group(label, tuple(points), None) for label, points in rest.items() if points]


def require_colouring(by: str) -> str:
    """What points can be coloured by.

    Raises:
        UnknownNameError: not by this.
    """
    if by not in COLOURED_BY:
        raise UnknownNameError("colouring", by, COLOURED_BY)
    return by


def projection_figure(projection: Projection, by: str = "slot", *, theme: Theme = "light") -> go.Figure:
    """Hidden states on a plane, coloured by `token`, `input`, `slot`, `length` or `position`.

    Of a projection in three dimensions the first two are shown.

    Raises:
        UnknownNameError: rows have no such label.
    """
    figure = go.Figure()
    series = colours.SERIES[theme]
    # What has no colour of its own lies beneath.
    for group in sorted(groups(projection.rows, by), key=lambda group: group.style is not None):
        own = group.style is not None
        rows = [projection.rows[i] for i in group.points]
        trace = go.Scatter(
            name=plot_label(group.label, 32),
            legendrank=group.style if group.style is not None else 1_000_000,
            mode="markers",
            x=projection.coordinates[list(group.points), 0],
            y=projection.coordinates[list(group.points), 1],
            marker={
                "color": series[group.style % len(series)]
                if group.style is not None
                else colours.MUTED[theme],
                "symbol": _SYMBOLS[group.style % len(_SYMBOLS)] if group.style is not None else "circle-open",
                "size": 7 if own else 4,
                "opacity": 0.8 if own else 0.4,
            },
            customdata=[
                [
                    plot_label(row.token),
                    plot_label(row.input),
                    plot_label(row.slot or NONE),
                    row.position,
                    row.length,
                    row.example,
                ]
                for row in rows
            ],
            hovertemplate="<b>%{customdata[0]}</b>, read %{customdata[1]}<br>slot %{customdata[2]}"
            "<br>position %{customdata[3]} of %{customdata[4]}, text %{customdata[5]}<extra></extra>",
        )
        figure.add_trace(trace)
    figure.update_xaxes(title_text=_axis(projection, 0), zeroline=False)
    figure.update_yaxes(title_text=_axis(projection, 1), zeroline=False)
    figure.update_layout(showlegend=True, legend={"title": {"text": plot_text(by)}, "itemsizing": "constant"})
    return finish(figure, theme, height=560, title=plot_text(f"{projection.point} · {projection.by.upper()}"))


def _axis(projection: Projection, place: int) -> str:
    if projection.explained:
        return f"component {place + 1} ({percent(projection.explained[place])} of the variance)"
    return f"UMAP {place + 1} (no unit)"


# ---- probes ----------------------------------------------------------------------------------------------


def probe_figure(report: ProbeReport, *, theme: Theme = "light") -> go.Figure:
    """Accuracy of the probes by layer with their control and the majority label, and selectivity beneath.

    Shares of test tokens, 0 to 1, with 95 % intervals over texts.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.65, 0.35], vertical_spacing=0.06)
    blue, orange, green = colours.SERIES[theme][:3]
    muted = colours.MUTED[theme]
    lines: tuple[tuple[str, str, str, str, int], ...] = (
        ("probe", "accuracy", blue, "circle", 1),
        ("control task", "control", orange, "diamond", 1),
        ("selectivity (probe − control)", "selectivity", green, "square", 2),
    )
    runs = _sides(report.probes)
    for name, field, colour, symbol, row in lines:
        for place, run in enumerate(runs):
            shares = [getattr(probe, field) for probe in run]
            trace = go.Scatter(
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                mode="lines+markers",
                x=[plot_text(probe.point) for probe in run],
                y=[share.value for share in shares],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [share.high - share.value for share in shares],
                    "arrayminus": [share.value - share.low for share in shares],
                    "thickness": 1.5,
                    "width": 4,
                },
                line={"color": colour, "width": 2, "dash": "dash" if field == "control" else "solid"},
                marker={"symbol": symbol, "size": 8, "color": colour},
                hovertemplate=f"<b>%{{x}}</b><br>{name} %{{y:.1%}}<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=1)
    for place, run in enumerate(runs):
        trace = go.Scatter(
            name="always the most frequent label",
            legendgroup="majority",
            showlegend=place == 0,
            mode="lines",
            x=[plot_text(probe.point) for probe in run],
            y=[probe.majority for probe in run],
            line={"color": muted, "width": 2, "dash": "dot"},
            hovertemplate="<b>%{x}</b><br>most frequent label %{y:.1%}<extra></extra>",
        )
        figure.add_trace(trace, row=1, col=1)
    figure.add_hline(y=0, line={"color": muted, "width": 1}, row=2, col=1)  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(title_text="hook point", row=2, col=1)
    figure.update_yaxes(title_text="right labels", range=[-0.02, 1.04], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title_text="selectivity", tickformat=".0%", row=2, col=1)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, showlegend=True)
    return finish(figure, theme, height=520, margin_top=60)


def _sides(probes: Sequence[Probe]) -> list[list[Probe]]:
    """Encoder and decoder apart: no line leads from the one to the other."""
    found: dict[str, list[Probe]] = {}
    for each in probes:
        found.setdefault(each.point.split(".")[0], []).append(each)
    return list(found.values())


# ---- similarity ------------------------------------------------------------------------------------------


def similarity_figure(
    similarity: Similarity, *, name_a: str = "", name_b: str = "", theme: Theme = "light"
) -> go.Figure:
    """Debiased linear CKA of every two hook points as a heat map from 0 (unrelated) to 1 (the same).

    What was not compared is empty. A model's name stands at its axis.
    """
    values = similarity.values.double().numpy()
    heat = go.Heatmap(
        z=values,
        x=[plot_text(point) for point in similarity.points_b],
        y=[plot_text(point) for point in similarity.points_a],
        zmin=0.0,
        zmax=1.0,
        colorscale=colours.colorscale("sequential", theme),
        colorbar={"title": {"text": "CKA (1 = same up to rotation and scale)", "side": "right"}},
        texttemplate="%{z:.2f}" if max(values.shape) <= 14 else None,
        hovertemplate="<b>%{y}</b><br><b>%{x}</b><br>CKA %{z:.3f}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text=plot_text(name_b), type="category", showgrid=False, tickangle=-45)
    figure.update_yaxes(
        title_text=plot_text(name_a), type="category", autorange="reversed", showgrid=False, automargin=True
    )
    height = 200 + max(26, min(44, 700 // max(1, len(values)))) * len(values)
    return finish(figure, theme, height=max(360, min(1200, height)))


# ---- neurons ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shade:
    """One token of an example: its text, the level of its colour (−20 to 20), and its activation in words."""

    text: str
    level: int
    title: str
    here: bool


def shades(example: NeuronExample, limit: float) -> list[Shade]:
    """The tokens of an example with the level of each; `limit` is the activation at the end of the scale."""
    return [
        Shade(
            text=token_label(token),
            level=colours.level(value, limit),
            title=f"activation {number(value, 3, signed=True)}",
            here=place == example.at,
        )
        for place, (token, value) in enumerate(zip(example.context, example.values, strict=True))
    ]


def shade_limit(neuron: Neuron) -> float:
    """The end of a neuron's colour scale: the largest activation among its examples, without its sign."""
    found = [abs(value) for each in neuron.examples for value in each.values if math.isfinite(value)]
    return max(found, default=0.0)


def neuron_examples_html(neuron: Neuron, *, most: int = 10, theme: Theme = "light") -> str:
    """A neuron's most active examples as a piece of HTML with its own colours; all text is escaped.

    Blue is above 0 and orange below; the token of the example is underlined, and a token's number appears
    where one points at it.
    """
    limit = shade_limit(neuron)
    ramp = colours.colours("diverging", theme)
    lines = []
    for each in neuron.examples[:most]:
        words = []
        for shade in shades(each, limit):
            background = ramp[shade.level + colours.LEVELS]
            style = f"background:{background};color:{colours.text_colour(background)};padding:1px 3px"
            if shade.here:
                style += ";text-decoration:underline;font-weight:600"
            words.append(
                f'<bdi style="{style}" title="{html.escape(shade.title)}">{html.escape(shade.text)}</bdi>'
            )
        value = html.escape(number(each.value, 2))
        lines.append(f"<tr><td>{value}</td><td>{each.example}</td><td>{' '.join(words)}</td></tr>")
    if not lines:
        raise InputError(f"neuron {neuron.index} of {neuron.point} has no examples")
    head = "<tr><th>activation</th><th>text</th><th>tokens</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"


def neuron_name(neuron: Neuron) -> str:
    """How a neuron is called on a page."""
    return f"{neuron.point} · {neuron.index}"


def neuron_says(neuron: Neuron) -> str:
    """What a neuron responds to most, in a sentence."""
    if neuron.dead:
        return "It is never above 0 on these data."
    if not neuron.kind or math.isnan(neuron.selectivity):
        return "No token occurs often enough to say what it responds to."
    what = {"token": "at", "input": "after reading", "slot": "at the slot"}[neuron.kind]
    side = "" if neuron.point.startswith("encoder.") or neuron.kind != "token" else " writing"
    return (
        f"Most active {what}{side} ‘{shown(shorten(neuron.label))}’: {number(neuron.selectivity, 1)} "
        f"standard deviations above its mean elsewhere. Above 0 at {percent(neuron.active)} of the positions."
    )
