"""Plotly figures of what is inside a model: head grids, lenses, contributions, induced alignments.

How to read each is said by `explain.report.inside_facts`. Layers, heads and positions count from 0, as in
hook points and JSON files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.errors import InputError, UnknownNameError
from explain.report import colours
from explain.report.colours import Theme
from explain.report.inside_facts import (
    HEAD_FIGURES,
    KINDS,
    LENS_NAMES,
    contribution_question,
    head_units,
    head_values,
    layer_label,
)
from explain.report.labels import array, number, plot_label, plot_text, probability, shorten
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.analysis import Component, Contributions, HeadSurvey, Lens, WordAlignment

__all__ = ["alignment_map", "contributions_bars", "head_grid", "lens_map"]


def head_grid(survey: HeadSurvey, figure: str = "ablation", *, theme: Theme = "light") -> go.Figure:
    """One figure of every head as a heat map, layer × head, a panel for each kind of attention.

    Shares have a scale from 0 to 1, other figures one that ends at the largest value, and signed ones one
    that is symmetric round 0. Distances in tokens and in shares of a length have scales of their own.

    Args:
        survey: what `survey_heads` found.
        figure: a name of `HEAD_FIGURES`.
        theme: whose colours.

    Raises:
        UnknownNameError: there is no such figure.
        InputError: no head has it: there was no gold, say.
    """
    if figure not in HEAD_FIGURES:
        raise UnknownNameError("figure", figure, HEAD_FIGURES)
    facts, values = HEAD_FIGURES[figure], head_values(survey, figure)
    panels = [key for key in KINDS if any((head.side, head.kind) == key for head in values)]
    if not panels:
        raise InputError(f"no head has the figure {figure!r} here; {facts.help}")
    grids = []
    for key in panels:
        own = {head: x for head, x in values.items() if (head.side, head.kind) == key}
        shape = 1 + max(head.layer for head in own), 1 + max(head.index for head in own)
        grid = np.full(shape, np.nan, dtype=np.float32)
        for head, value in own.items():
            grid[head.layer, head.index] = value
        grids.append(grid)
    # Distances of the two kinds are not in the same unit, so that only those within a kind can be compared.
    apart = figure == "distance"
    ends = [float(np.nanmax(np.abs(grid))) or 1.0 for grid in grids]
    limits = [facts.limit or (end if apart else max(ends)) for end in ends]
    widths = [grid.shape[1] for grid in grids]
    plot = make_subplots(
        rows=1,
        cols=len(panels),
        horizontal_spacing=0.14 if apart else 0.06,
        column_widths=[width / sum(widths) for width in widths],
        subplot_titles=[KINDS[key] for key in panels],
    )
    scale = "diverging" if facts.signed else "sequential"
    for column, (key, grid, limit) in enumerate(zip(panels, grids, limits, strict=True), start=1):
        units = _distance_unit(key[1]) if apart else head_units(survey, figure)
        last = column == len(panels)
        bar: dict[str, Any] = {
            "title": {"text": plot_text(units), "side": "right"},
            "tickformat": ".2~g",
        }
        if apart and not last:
            bar["x"] = _panel_end(plot, column)
        heat = go.Heatmap(
            name=KINDS[key],
            z=grid,
            x=np.arange(grid.shape[1]),
            y=np.arange(grid.shape[0]),
            zmin=-limit if facts.signed else 0.0,
            zmax=limit,
            colorscale=colours.colorscale(scale, theme),
            colorbar=bar,
            showscale=apart or last,
            hoverongaps=False,
            xgap=1,
            ygap=1,
            hovertemplate=f"{KINDS[key]}<br>layer %{{y}}, head %{{x}}<br>{facts.label.lower()} %{{z:.4g}} "
            f"{plot_text(units)}<extra></extra>",
        )
        plot.add_trace(heat, row=1, col=column)
        whole = {"dtick": 1, "showgrid": False, "zeroline": False}
        plot.update_xaxes(title_text="head", row=1, col=column, **whole)
        plot.update_yaxes(autorange="reversed", row=1, col=column, **whole)
    plot.update_yaxes(title_text="layer", row=1, col=1)
    height = 190 + 34 * max(grid.shape[0] for grid in grids)
    return finish(plot, theme, height=height, title=f"{facts.label}: {facts.ends}", margin_top=80)


def _panel_end(plot: go.Figure, column: int) -> float:
    """Where a panel ends, in shares of the width; its colour bar stands there."""
    axis: Any = plot.layout["xaxis" if column == 1 else f"xaxis{column}"]
    return float(axis.domain[1]) + 0.005


def _distance_unit(kind: str) -> str:
    return "tokens" if kind == "self" else "share of the length"


def lens_map(lens: Lens, watched: int | None = None, *, most: int = 3, theme: Theme = "light") -> go.Figure:
    """Layers down, output tokens across: what each would write, and how likely the real token was there.

    The text is the most likely token; with `watched`, the rank of that token. Colours are probabilities, 0 to
    1, of the token that the output has, or of the one watched.

    Args:
        lens: what `logit_lens` or `decoder_lens` found.
        watched: the index of a watched token; None shows the output's own.
        most: how many of the most likely tokens to name under the pointer.
        theme: whose colours.

    Raises:
        InputError: there is no such watched token.
    """
    if watched is not None and not 0 <= watched < len(lens.watched):
        raise InputError(f"there is no watched token {watched}; the lens has {len(lens.watched)}")
    log_probs = lens.log_probs if watched is None else lens.watched_log_probs[..., watched]
    ranks = lens.ranks if watched is None else lens.watched_ranks[..., watched]
    subject = "the output's token" if watched is None else f"‘{lens.watched[watched].text.strip()}’"
    rows = [layer_label(lens, k) for k in range(len(lens.layers))]
    columns = [plot_label(token) for token in lens.target_tokens]
    text, hover = [], []
    for k in range(len(rows)):
        cells, notes = [], []
        for t in range(len(columns)):
            names = lens.top_texts[k][t][:most]
            likely = zip(names, lens.top_log_probs[k, t].tolist(), strict=False)
            best = ", ".join(f"{plot_label(name)} {probability(value)}" for name, value in likely)
            cells.append(plot_label(names[0], 10) if watched is None else f"{int(ranks[k, t]):,}")
            notes.append(
                f"most likely: {best}<br>rank of {plot_text(subject)} {int(ranks[k, t]):,}, probability "
                f"{probability(float(log_probs[k, t]))}<br>entropy {number(float(lens.entropy[k, t]))} nats, "
                f"KL to the model {number(float(lens.kl[k, t]))} nats"
            )
        text.append(cells)
        hover.append(notes)
    heat = go.Heatmap(
        z=np.exp(array(log_probs)),
        x=np.arange(len(columns)),
        y=np.arange(len(rows)),
        zmin=0.0,
        zmax=1.0,
        colorscale=colours.colorscale("sequential", theme),
        colorbar={"title": {"text": "probability", "side": "right"}},
        text=text,
        texttemplate="%{text}" if len(columns) <= 30 else None,
        customdata=hover,
        hovertemplate="<b>%{x}</b> (step %{pointNumber[1]}), %{y}<br>%{customdata}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text="output token", **_labelled(columns, slanted=len(columns) > 12))
    side = "decoder" if lens.name == "logit_lens" else "encoder"
    figure.update_yaxes(title_text=side, autorange="reversed", **_labelled(rows))
    return finish(
        figure,
        theme,
        height=180 + 34 * len(rows),
        title=f"{LENS_NAMES[lens.name]}: probability of {plot_text(subject)}",
    )


def contributions_bars(
    found: Contributions,
    kinds: Sequence[str] = ("embed", "block", "bias"),
    *,
    most: int = 20,
    theme: Theme = "light",
) -> go.Figure:
    """What parts of the decoder add to a logit: blue bars speak for the token, orange ones against it.

    Args:
        found: what `contributions` found.
        kinds: which kinds of component; `embed`, `block` and the biases outside blocks add up to the logit.
            `head` and `neuron` stand in the order of their strength, the others in that of computation.
        most: bars at most; the strongest stay.
        theme: whose colours.

    Raises:
        InputError: there is no component of these kinds.
    """
    chosen = chosen_components(found, kinds, most)
    if not chosen:
        raise InputError(f"there is no component of the kinds {', '.join(kinds)}")
    limit = max(abs(part.logit) for part in chosen) or 1.0
    ramp = colours.colours("diverging", theme)
    values = np.array([part.logit for part in chosen], dtype=np.float32)
    names = [plot_text(_part_label(part.name)) for part in chosen]
    bars = go.Bar(
        orientation="h",
        x=values,
        y=np.arange(len(chosen)),
        marker={
            "color": [ramp[colours.level(part.logit, limit) + colours.LEVELS] for part in chosen],
            "line": {"color": colours.MUTED[theme], "width": 1},
        },
        text=[number(part.logit, 2, signed=True) for part in chosen],
        textposition="outside",
        cliponaxis=False,
        customdata=np.array(
            [[_words(part.promoted), _words(part.suppressed)] for part in chosen], dtype=object
        ).reshape(-1, 2),
        hovertemplate="<b>%{y}</b> adds %{x:+.4f} logits<br>promotes %{customdata[0]}<br>suppresses "
        "%{customdata[1]}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.add_vline(x=0, line={"color": colours.INK[theme], "width": 1})
    figure.update_xaxes(
        title_text=plot_text(f"{contribution_question(found)}: below 0 against, above 0 for (logits)"),
        range=[-1.25 * limit, 1.25 * limit],
        zeroline=False,
    )
    figure.update_yaxes(autorange="reversed", automargin=True, **_labelled(names))
    title = f"Who wrote ‘{found.token.text.strip()}’ (step {found.position})"
    return finish(figure, theme, height=130 + 24 * len(chosen), title=plot_text(shorten(title, 80)))


def _part_label(name: str) -> str:
    """A part as one says it: `decoder.1.mlp neuron 3` is `layer 1, feed-forward, neuron 3`."""
    block, _, inside = name.partition(" ")
    _, _, place = block.partition(".")
    layer, _, kind = place.partition(".")
    if not layer.isdecimal():
        return {"embed": "embedding"}.get(place, name)
    return ", ".join(filter(None, (f"layer {layer}", "feed-forward" if kind == "mlp" else kind, inside)))


def chosen_components(found: Contributions, kinds: Sequence[str], most: int) -> list[Component]:
    """Components of some kinds: the strongest `most`, in the order of strength for heads and neurons."""
    parts = [
        part
        for part in found.components
        if part.kind in kinds and (part.kind != "bias" or part.part_of is None)
    ]
    strongest = sorted(parts, key=lambda part: -abs(part.logit))[:most]
    if set(kinds) <= {"head", "neuron"}:
        return strongest
    kept = {part.name for part in strongest}
    return [part for part in parts if part.name in kept]


def _words(tokens: Sequence[Any]) -> str:
    return ", ".join(f"{plot_label(t.text)} {number(t.score, 2, signed=True)}" for t in tokens) or "nothing"


def alignment_map(found: WordAlignment, *, theme: Theme = "light") -> go.Figure:
    """Attention between words, 0 to 1: output words down, source words across; links are framed."""
    columns, rows = ([plot_label(word) for word in side] for side in (found.source_words, found.target_words))
    heat = go.Heatmap(
        z=array(found.matrix),
        x=np.arange(len(columns)),
        y=np.arange(len(rows)),
        zmin=0.0,
        zmax=1.0,
        colorscale=colours.colorscale("sequential", theme),
        colorbar={"title": {"text": "attention<br>0 = none, 1 = all of it", "side": "right"}},
        hoverongaps=False,
        hovertemplate="<b>%{y}</b> (%{pointNumber[0]}) looks at <b>%{x}</b> (%{pointNumber[1]})<br>attention "
        "%{z:.3f}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    marks = go.Scatter(
        x=[i for i, _ in found.links],
        y=[j for _, j in found.links],
        mode="markers",
        marker={
            "symbol": "square-open",
            "size": 16,
            "color": colours.WRONG[theme],
            "line": {"width": 2},
        },
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_trace(marks)
    figure.update_xaxes(title_text="source word", **_labelled(columns, slanted=len(columns) > 12))
    figure.update_yaxes(title_text="output word", autorange="reversed", **_labelled(rows))
    return finish(figure, theme, height=min(1400, 190 + 26 * len(rows)), title="Induced alignment")


def _labelled(labels: Sequence[str], *, slanted: bool = False) -> dict[str, Any]:
    """Positions as ticks, texts as their labels: equal texts stay apart."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": list(labels),
        "tickangle": -90 if slanted else 0,
        "showgrid": False,
        "zeroline": False,
    }
