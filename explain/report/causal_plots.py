"""What changing the inside of a model does, as maps: a cell for every place that was changed.

A `Grid` is a map as plain numbers and labels; `grid_figure` draws it with Plotly, and the pages of
`explain.report.causes` as a table. Scales are symmetric round 0: blue above, orange below.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explain.errors import InputError
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import OBJECTIVES, array, number, plot_text, shorten, shown, token_label
from explain.report.plot_style import finish

if TYPE_CHECKING:
    from explain.analysis import Ablation, Knockout, MeanAblation, Patching, Redecoded

ABLATION_HELP = (
    "Each cell is a part of the model, silenced by itself. Blue (+): it spoke for the output, which loses "
    "that much without it; orange (−): it spoke against it. 0: it alone is not needed, which does not mean "
    "that it is idle: another part may do the same."
)
KNOCKOUT_HELP = (
    "Each row is an output token, each column a token that it may not look at. Blue (+): it needed to look "
    "there; orange (−): looking there spoke against it. 0: it was not needed, or is read somewhere else too."
)
_DENOISING = (
    "Each cell is a place whose activations were taken from the run of the text that was read well, and put "
    "into the run of the other text. 1 (100 %): that alone brings the answer back; 0: it changes nothing; "
    "below 0 it makes things worse."
)
_NOISING = (
    "Each cell is a place whose activations were taken from the run of the other text, and put into the run "
    "of the text that was read well. 1 (100 %): that alone destroys the answer; 0: the place is not needed; "
    "below 0 the answer becomes more likely."
)
_ESTIMATE = " These numbers are first-order estimates, without running the patched model."
START = "(start)"
# A whole output whose two runs differ by less has nothing to carry over.
_SAME = 1e-4


@dataclass(frozen=True, eq=False)
class Grid:
    """A map as numbers and labels.

    Attributes:
        title: what is on the map.
        row_axis, column_axis: what rows and columns are.
        rows, columns: their labels; equal ones stay apart, by position.
        values: float32 [rows, columns]; nan where there is no such place, or nothing is defined.
        units: what 1 is worth.
        ends: what the two ends of the scale mean, in a few words.
        help: how to read it, in a sentence or two.
        limit: the number at the ends of the scale; None is the largest magnitude here.
    """

    title: str
    row_axis: str
    column_axis: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    units: str
    ends: str
    help: str
    limit: float | None = None

    @property
    def scale(self) -> float:
        """The number at the ends of the colour scale; 0 when every number is 0 or undefined."""
        if self.limit is not None:
            return self.limit
        found = np.abs(self.values[np.isfinite(self.values)])
        return float(found.max()) if found.size else 0.0


def on_one_scale(grids: Sequence[Grid]) -> list[Grid]:
    """Maps that are compared by colour: the largest magnitude of all is the end of every scale."""
    limit = max((grid.scale for grid in grids), default=0.0)
    return [replace(grid, limit=limit) for grid in grids]


# ---- results as maps -------------------------------------------------------------------------------------


def points_of(result: Ablation | MeanAblation | Patching) -> list[str]:
    """The kinds of hook point that a result has a map for, in the order of computation."""
    return list(dict.fromkeys(part.point for part in result.parts))


def patching_grid(patching: Patching, point: str, row: int | None = None) -> Grid:
    """Layer × position (or head, or neuron) of one kind of hook point, as a share of what differs.

    Args:
        patching: the result.
        point: such as `decoder.*.residual`; see `points_of`.
        row: of what was explained; None is the whole output: all that was changed over all that differs.

    Raises:
        InputError: nothing was patched there, or there is no such row.
    """
    _require_row(row, len(patching.spans))
    if row is None:
        difference = float((patching.other_value - patching.value).sum())
        same = abs(difference) < _SAME * max(1.0, float(patching.value.sum().abs()))
        values = patching.change.sum(1) / difference if not same else patching.change[:, 0] * math.nan
    else:
        values = patching.effect[:, row]
    about = "the whole output" if row is None else f"‘{patching.rows[row]}’"
    return _site_grid(
        patching,
        point,
        values,
        title=f"{point} · {about}",
        units="share of the difference between the two runs",
        ends="0 = changes nothing, 1 = does as much as all together",
        help=(_NOISING if patching.noising else _DENOISING) + ("" if patching.exact else _ESTIMATE),
    )


def ablation_grid(ablation: Ablation | MeanAblation, point: str, row: int | None = None) -> Grid:
    """Layer × head (position, or neuron) of one kind of hook point: what is lost without each.

    Args:
        ablation: of one output, or the mean over many.
        point: such as `decoder.*.cross.z`; see `points_of`.
        row: of what was explained; None is the whole output, or the mean over outputs.

    Raises:
        InputError: nothing was silenced there, or there is no such row.
    """
    rows = () if not hasattr(ablation, "spans") else ablation.rows  # pyright: ignore[reportAttributeAccessIssue]
    _require_row(row, len(rows))
    effect = ablation.effect
    values = effect if effect.ndim == 1 else effect.sum(1) if row is None else effect[:, row]
    about = f"‘{rows[row]}’" if row is not None else "the whole output" if rows else "mean over outputs"
    return _site_grid(
        ablation,
        point,
        values,
        title=f"{point} · {about}",
        units=ablation.units,
        ends=_ends(ablation.objective),
        help=ABLATION_HELP,
    )


def knockout_grid(knockout: Knockout, window: int = 0) -> Grid:
    """Output tokens × hidden tokens at one window of layers: what each output token loses.

    Raises:
        InputError: there is no such window.
    """
    found = array(knockout.grid)  # [token, window, rows]
    if not 0 <= window < found.shape[1]:
        raise InputError(f"there is no window {window}; there are {found.shape[1]}, counted from 0")
    parts = knockout.parts[window :: found.shape[1]]
    first, last = parts[0].layers
    source = any(part.source for part in parts)
    labels = []
    for part in parts:
        tokens = [knockout.source_tokens[i] for i in part.source]
        tokens += [knockout.target_tokens[u] for u in part.prefix]
        labels.append(" + ".join(token_label(token) for token in tokens))
    side = "source token" if source else "earlier output token"
    values = found[:, window].T.copy()
    for column, part in enumerate(parts):
        if part.prefix and not part.source:  # what comes later cannot be missed
            ends = np.array([end for _, end in knockout.spans])
            values[ends <= min(part.prefix) + 1, column] = np.nan
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return Grid(
        title=f"without looking at {'a' if source else 'an'} {side}, {where}",
        row_axis="output token",
        column_axis=f"hidden {side}",
        rows=tuple(shorten(text) if text.strip() else START for text in knockout.rows),
        columns=tuple(labels),
        values=values,
        units=knockout.units,
        ends=_ends(knockout.objective),
        help=KNOCKOUT_HELP,
    )


def grids_of(result: Ablation | MeanAblation | Patching, row: int | None = None) -> list[Grid]:
    """Every map of a result, on one scale; parts told apart by layer alone share a map for each side."""
    one = patching_grid if hasattr(result, "noising") else ablation_grid
    grids: dict[str, list[Grid]] = {}
    for point in points_of(result):
        grid = one(result, point, row)  # pyright: ignore[reportArgumentType]
        side = point.partition(".")[0]
        grids.setdefault(point if grid.column_axis else side, []).append(grid)
    return on_one_scale([_side_by_side(side, found) for side, found in grids.items()])


def _side_by_side(side: str, grids: Sequence[Grid]) -> Grid:
    """Maps of one column each as one map, a column for each hook point."""
    first = grids[0]
    if first.column_axis:
        return first
    points, about = zip(*(grid.title.split(" · ", 1) for grid in grids), strict=True)
    return replace(
        first,
        title=f"{side} · {about[0]}",
        column_axis="part",
        columns=tuple(point.removeprefix(f"{side}.*").removeprefix(".") or "all of it" for point in points),
        values=np.concatenate([grid.values for grid in grids], axis=1),
    )


def _require_row(row: int | None, count: int) -> None:
    if row is not None and not 0 <= row < count:
        raise InputError(f"row {row} does not exist: there are {count}, counted from 0")


def _ends(objective: str) -> str:
    name = OBJECTIVES.get(objective, objective)
    return f"above 0: the {name} falls without it; below 0: it rises"


def _site_grid(result: Any, point: str, values: Any, **texts: Any) -> Grid:
    """One number per place as layers × the axis that was told apart; heads and positions side by side."""
    from explain.analysis.effects import grid_of

    cells = array(grid_of(result.parts, values, point))  # [layer, head, position, neuron]
    parts = [part for part in result.parts if part.point == point]
    layers = sorted({part.layer for part in parts if part.layer is not None}) or [None]
    heads, positions, neurons = (
        any(getattr(part, axis) is not None for part in parts) for axis in ("head", "position", "neuron")
    )
    rows = (
        [(layer, head) for layer in layers for head in range(cells.shape[1])] if heads and positions else []
    )
    if rows:
        table = cells.reshape(-1, cells.shape[2] * cells.shape[3])
        labels = [f"{_layer(layer)}, head {head}" for layer, head in rows]
    else:
        table = cells.reshape(cells.shape[0], -1)
        labels = [_layer(layer) for layer in layers]
    if positions:
        tokens = [_position(result, next(p for p in parts if p.position == i)) for i in range(cells.shape[2])]
        source = parts[0].of_source
        axis = "source token" if source else "what the decoder reads"
        columns = tokens if not neurons else [f"{t} {n}" for t in tokens for n in range(cells.shape[3])]
    elif heads or neurons:
        axis = "head" if heads else "neuron"
        columns = [str(number) for number in range(table.shape[1])]
    else:
        axis, columns = "", ["all of it"]
    return Grid(
        row_axis="layer, head" if rows else "layer",
        column_axis=axis,
        rows=tuple(labels),
        columns=tuple(columns),
        values=table,
        **texts,
    )


def _layer(layer: int | None) -> str:
    return "all layers" if layer is None else f"layer {layer}"


def _position(result: Any, part: Any) -> str:
    """The token at a place: of the source, with the other run's where they differ, or what is read there."""
    if not part.of_source:
        return START if part.position == 0 else token_label(result.target_tokens[part.position - 1])
    own = token_label(result.source_tokens[part.position])
    others = getattr(result, "other_tokens", None)
    other = own if others is None else token_label(others[part.position])
    return own if own == other else f"{own} ← {other}"


# ---- figures ---------------------------------------------------------------------------------------------


def grid_figure(grid: Grid, *, theme: Theme = "light") -> go.Figure:
    """A map as a heat map; the scale is symmetric round 0."""
    limit = grid.scale or 1.0
    heat = go.Heatmap(
        z=grid.values,
        x=np.arange(len(grid.columns)),
        y=np.arange(len(grid.rows)),
        zmin=-limit,
        zmax=limit,
        colorscale=colours.colorscale("diverging", theme),
        colorbar={
            # Two lines: on one, a long unit would be cut off at the height of a short map.
            "title": {
                "text": f"{plot_text(shorten(grid.units, 60))}<br>{plot_text(grid.ends)}",
                "side": "right",
                "font": {"size": 12},
            },
            "tickformat": ".2~g",
        },
        hovertemplate=f"{plot_text(grid.row_axis)} <b>%{{y}}</b><br>{plot_text(grid.column_axis)} "
        "<b>%{x}</b><br>%{z:+.4g}<extra></extra>",
        hoverongaps=False,
        xgap=int(len(grid.columns) <= 80),
        ygap=int(len(grid.rows) <= 80),
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text=plot_text(grid.column_axis), **_ticks(grid.columns))
    figure.update_yaxes(
        title_text=plot_text(grid.row_axis), autorange="reversed", **{**_ticks(grid.rows), "tickangle": 0}
    )
    height = min(1400, max(300, 170 + 24 * len(grid.rows)))
    return finish(figure, theme, height=height, title=plot_text(shorten(grid.title, 100)))


def patching_map(
    patching: Patching, point: str, row: int | None = None, *, theme: Theme = "light"
) -> go.Figure:
    """Activation patching at one kind of hook point as a heat map; see `patching_grid`."""
    return grid_figure(patching_grid(patching, point, row), theme=theme)


def ablation_map(
    ablation: Ablation | MeanAblation, point: str, row: int | None = None, *, theme: Theme = "light"
) -> go.Figure:
    """What is lost without each head, neuron, layer or position as a heat map; see `ablation_grid`."""
    return grid_figure(ablation_grid(ablation, point, row), theme=theme)


def knockout_map(knockout: Knockout, window: int = 0, *, theme: Theme = "light") -> go.Figure:
    """What each output token loses without each token to look at, as a heat map; see `knockout_grid`."""
    return grid_figure(knockout_grid(knockout, window), theme=theme)


def _ticks(labels: Sequence[str]) -> dict[str, Any]:
    """Positions as categories, texts as aliases: equal labels stay apart, and as many as fit are drawn."""
    found: dict[str, Any] = {
        "type": "category",
        "labelalias": {str(place): plot_text(label) for place, label in enumerate(labels)},
        "showgrid": False,
        "zeroline": False,
    }
    if len(labels) > 12:
        found["tickangle"] = -90
    return found


# ---- two outputs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiffPiece:
    """A stretch of an output: its text, and whether only this output has it."""

    text: str
    changed: bool
    title: str


def diff_pieces(redecoded: Redecoded) -> tuple[tuple[DiffPiece, ...], tuple[DiffPiece, ...]]:
    """Both outputs token by token as they stand in their texts: before, and under the intervention."""
    before, after = redecoded.before, redecoded.after
    values = array(redecoded.log_probs).tolist()
    own = {t for change in redecoded.changes if change.kind != "equal" for t in range(*change.before)}
    new = {u for change in redecoded.changes if change.kind != "equal" for u in range(*change.after)}
    says = [
        f"log-probability {number(was, 3)} nats, under the intervention {number(now, 3)} nats"
        for was, now in zip(array(before.log_probs).tolist(), values, strict=True)
    ]
    then = [
        f"log-probability {number(value, 3)} nats, under the intervention"
        for value in array(after.log_probs).tolist()
    ]
    return _pieces(before, own, says), _pieces(after, new, then)


def _pieces(generation: Any, changed: set[int], titles: Sequence[str]) -> tuple[DiffPiece, ...]:
    found, reached, text = [], 0, generation.target_text
    for t, (token, title) in enumerate(zip(generation.target_tokens, titles, strict=True)):
        if token.special:
            found.append(DiffPiece(f" {shown(token.text)}", t in changed, title))
            continue
        start, end = max(token.start, reached), max(token.end, reached)
        if text[reached:start]:
            found.append(DiffPiece(shown(text[reached:start]), False, ""))
        if text[start:end]:
            found.append(DiffPiece(shown(text[start:end]), t in changed, title))
        reached = end
    return tuple(found)


def diff_html(redecoded: Redecoded) -> str:
    """The two outputs as a fragment of HTML: `del` and `ins` mark what only one has; text stays text."""
    lines = []
    for name, mark, pieces in zip(("Before", "After"), ("del", "ins"), diff_pieces(redecoded), strict=True):
        inside = "".join(
            f'<{mark if piece.changed else "span"} title="{html.escape(piece.title)}">'
            f"{html.escape(piece.text)}</{mark if piece.changed else 'span'}>"
            if piece.title
            else html.escape(piece.text)
            for piece in pieces
        )
        lines.append(f'<dt>{name}</dt><dd dir="auto">{inside}</dd>')
    return f'<dl class="texts">{"".join(lines)}</dl>'
