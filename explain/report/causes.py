"""Pages about causes: one offline page for an ablation, a knockout, a patching, or an output written anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from explain.files import envelope
from explain.report import causal_plots, colours
from explain.report.causal_plots import Grid
from explain.report.labels import array, decimals_for, listed, number, plural, shorten, shown, token_label
from explain.report.maps import Cell, Heading, Legend
from explain.report.render import page
from explain.report.sections import colophon, settings_rows

if TYPE_CHECKING:
    from explain.analysis import Ablation, Disagreement, Knockout, MeanAblation, Patching, Redecoded

# A map with more columns is left to the figure and the data: the table of the strongest parts says the rest.
MOST_COLUMNS = 110
WRITTEN_COLUMNS = 30
STRONGEST = 12
# Maps of single output tokens, to open; of longer outputs the strongest.
MOST_ROWS = 24
_DASH = "–"

_LIMITS = (
    "An intervention shows what this model needs on this input and this output. It does not say that another "
    "input, or another model, works the same way.",
    "Parts that do the same stand in for each other: a part whose loss changes nothing can still be used.",
    "Activations of another run, zeros and hidden tokens are states that the model may not have been trained "
    "on; part of an effect may come from that.",
    "What is changed early can act by many ways later on; a place that carries an effect is not always the "
    "place that computes it.",
)


@dataclass(frozen=True, slots=True)
class GridView:
    """A map as the template draws it."""

    title: str
    corner: str
    column_axis: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    legend: Legend
    dense: bool
    upright: bool


def grid_view(grid: Grid) -> GridView:
    """The table of a map: every cell a number and a colour level."""
    decimals = decimals_for(grid.scale)
    dense = len(grid.columns) > WRITTEN_COLUMNS
    width = sum(max(4, len(label)) for label in grid.columns)
    return GridView(
        title=grid.title,
        corner=f"{grid.row_axis} ↓",
        column_axis=grid.column_axis,
        columns=tuple(Heading(shorten(shown(label)), "", shown(label)) for label in grid.columns),
        rows=tuple(
            (shown(label), tuple(_cell(grid, label, i, values, decimals) for i, values in enumerate(row)))
            for label, row in zip(grid.rows, grid.values.tolist(), strict=True)
        ),
        legend=Legend(
            steps=tuple(colours.css_class(step) for step in range(-colours.LEVELS, colours.LEVELS + 1)),
            low=number(-grid.scale, decimals, signed=True),
            middle="0",
            high=number(grid.scale, decimals, signed=True),
            units=grid.units,
            ends=grid.ends if grid.scale else "every number is 0",
        ),
        dense=dense,
        upright=dense or width > 84,
    )


def _cell(grid: Grid, row: str, column: int, value: float, decimals: int) -> Cell:
    if math.isnan(value):
        return Cell("", "not defined", "na")
    text = number(value, decimals, signed=True)
    css = colours.css_class(colours.level(value, grid.scale)) or "zero"
    return Cell(text, f"{shown(row)} · {shown(grid.columns[column])}: {text}", css)


def ablation_page(result: Ablation | MeanAblation, *, command: str | None = None) -> str:
    """What the output, or many outputs, lose without each part of the model, as one offline page."""
    many = not hasattr(result, "spans")
    unit = _unit(result.units)
    what, how = str(result.config.get("what", "parts")), str(result.config.get("how", "zero"))
    of = f"{result.config['outputs']} outputs" if many else f"‘{_excerpt(result)}’"
    best = result.top(STRONGEST)
    lead = f"Each of {plural(len(result.parts), what[:-1] if what.endswith('s') else what, what)} was "
    lead += {
        "zero": "set to zero by itself",
        "mean": "replaced by its mean over other outputs by itself",
        "resample": "replaced by what it holds for other inputs by itself",
    }[how]
    lead += ", the output held as it is."
    if best and abs(best[0][1]) > 0:
        verb = "costs" if best[0][1] > 0 else "adds"
        lead += f" Most depends on {best[0][0].name}: without it the output {verb} "
        lead += f"{number(abs(best[0][1]))} {unit}" + (" per token, on average" if many else " in all") + "."
    return _page(
        f"What {of} would lose without parts of the model",
        lead,
        result,
        maps=_maps(result),
        help=causal_plots.ABLATION_HELP,
        strongest=_strongest(best, unit),
        command=command,
    )


def patching_page(result: Patching, found: Disagreement | None = None, *, command: str | None = None) -> str:
    """What one run's activations restore in the run of another, as one offline page.

    Args:
        result: of `patch` or `attribution_patching`.
        found: how far the estimate is from patching itself, where both were computed.
        command: the command that makes the page again.
    """
    maps = _maps(result)
    difference = float((result.other_value - result.value).sum())
    lead = (
        f"Two texts differ in {_differing(result)}. The activations of ‘{shown(result.other_text)}’ were put "
        f"into the run of ‘{shown(result.source_text)}’, one place at a time"
        + ("." if result.exact else ", estimated to first order.")
        + f" All together they change the objective of the output by {number(difference, signed=True)} "
        f"{_unit(result.units)}."
    )
    best = _patched_best(result)
    if best:
        lead += f" The place that does most of it alone: {best[0][0]} ({number(best[0][1])} of 1)."
    notes = []
    if found is not None:
        notes.append(
            f"The estimate against patching itself, over {plural(found.cells, 'cell')}: correlation "
            f"{number(found.correlation)}, mean distance {number(found.mean)}, largest "
            f"{number(found.largest)}; "
            f"{number(100 * found.overlap, 0)}\u00a0% of the {found.k} strongest places are the same."
        )
    elif not result.exact:
        notes.append("How far these estimates are off was not measured: leave out --approximate to know.")
    return _page(
        f"Where ‘{shorten(result.other_text, 60)}’ differs from ‘{shorten(result.source_text, 60)}’ inside",
        lead,
        result,
        texts=[
            ("Clean text" if not result.noising else "Other text", result.other_text),
            ("Patched run", result.source_text),
            ("Output", result.target_text),
        ],
        maps=maps,
        help=maps[0]["help"] if maps else "",
        strongest=[(name, number(value, 3, signed=True)) for name, value in best],
        notes=notes,
        command=command,
    )


def knockout_page(results: Sequence[Knockout], *, command: str | None = None) -> str:
    """What output tokens lose when tokens are hidden from the target's attention, as one offline page.

    Args:
        results: of the same output, such as a sweep over the source and one over the prefix.
        command: the command that makes the page again.
    """
    first = results[0]
    grids = causal_plots.on_one_scale(
        [
            causal_plots.knockout_grid(result, window)
            for result in results
            for window in range(result.grid.shape[1])
        ]
    )
    best = []
    for result in results:
        effect = array(result.effect)
        for part, row in np.argwhere(np.isfinite(effect)).tolist():
            best.append((result.parts[part], result.rows[row], float(effect[part, row]), result))
    best = sorted(best, key=lambda item: -abs(item[2]))[:STRONGEST]
    unit = _unit(first.units)
    lead = "Tokens were hidden from the attention of the output, and the output held as it is."
    if best:
        part, row, value, result = best[0]
        verb = "costs" if value > 0 else "adds"
        lead += (
            f" Hiding {_hidden(result, part)} {verb} ‘{shown(row)}’ {number(abs(value))} {unit}: the most."
        )
    return _page(
        f"What ‘{_excerpt(first)}’ needed to look at",
        lead,
        first,
        maps=[_map(grid, opened=True) for grid in grids],
        help=causal_plots.KNOCKOUT_HELP,
        strongest=[
            (f"‘{row}’ without {_hidden(result, part)}", f"{number(value, 3, signed=True)} {unit}")
            for part, row, value, result in best
        ],
        command=command,
    )


def redecoded_page(result: Redecoded, changes: Sequence[str] = (), *, command: str | None = None) -> str:
    """What a model writes as it is and under an intervention, side by side, as one offline page.

    Args:
        result: of `redecode`.
        changes: what was changed, in words.
        command: the command that makes the page again.
    """
    from markupsafe import Markup

    lost = array(result.lost)
    what = listed([shown(change) for change in changes]) or listed(list(result.points))
    lead = f"With {what} changed, the model writes " + ("another output." if result.changed else "the same.")
    total = float(lost.sum())
    less = "less" if total >= 0 else "more"
    lead += f" The output it wrote before is {number(abs(total))} nats {less} likely then."
    rows = [
        {
            "kind": {"equal": "", "replace": "other", "delete": "gone", "insert": "new"}[row["kind"]],
            "before": token_label(row["before"]) if row["before"] else _DASH,
            "was": _log_prob(row["log_prob"]),
            "now": _log_prob(row["log_prob_changed"]),
            "after": token_label(row["after"]) if row["after"] else _DASH,
            "new": _log_prob(row["log_prob_after"]),
        }
        for row in result.to_frame().to_dict("records")
    ]
    head = envelope("redecoded", model_digest=result.before.model_digest, command=command or "")
    return page(
        "causes.html.jinja",
        title=f"‘{shorten(result.before.target_text, 60)}’, written anew",
        lead=lead,
        texts=[("Source", result.before.source_text)],
        diff=Markup(causal_plots.diff_html(result)),
        tokens=rows,
        maps=[],
        help="",
        strongest=[],
        notes=[],
        limits=_LIMITS,
        settings=settings_rows({"changed": list(changes), "hook points": list(result.points)}),
        colophon=colophon(head),
        command=command,
        versions=head["versions"],
    )


def _page(
    title: str,
    lead: str,
    result: Any,
    *,
    maps: list[dict[str, Any]],
    help: str,
    strongest: Sequence[tuple[str, str]],
    command: str | None,
    texts: Sequence[tuple[str, str]] | None = None,
    notes: Sequence[str] = (),
) -> str:
    head = envelope("causes", model_digest=result.model_digest or None, command=command or "")
    settings: dict[str, Any] = {"objective": result.objective, "units": result.units, **result.config}
    if texts is None:
        source = getattr(result, "source_text", None)
        texts = [] if source is None else [("Source", source), ("Output", result.target_text)]
    if getattr(result, "contrast", None) is not None:
        settings["contrast"] = result.contrast
    return page(
        "causes.html.jinja",
        title=title,
        lead=lead,
        texts=texts,
        diff="",
        tokens=[],
        maps=maps,
        help=help,
        strongest=strongest,
        notes=notes,
        limits=_LIMITS,
        settings=settings_rows(settings),
        colophon=colophon(head),
        command=command,
        versions=head["versions"],
    )


def _maps(result: Any) -> list[dict[str, Any]]:
    """The maps of the whole output, then of every output token, which wait to be opened."""
    maps = [_map(grid, opened=True) for grid in causal_plots.grids_of(result)]
    rows = range(len(getattr(result, "spans", ())))
    if len(rows) > 1:
        strength = np.nanmax(np.abs(np.nan_to_num(array(result.effect))), axis=0)
        chosen = sorted(np.argsort(-strength, kind="stable")[:MOST_ROWS].tolist())
        for row in chosen:
            if strength[row] > 0:
                maps += [_map(grid, opened=False) for grid in causal_plots.grids_of(result, row)]
    return [found for found in maps if found["view"] is not None]


def _map(grid: Grid, *, opened: bool) -> dict[str, Any]:
    fits = len(grid.columns) <= MOST_COLUMNS
    return {"view": grid_view(grid) if fits else None, "help": grid.help, "opened": opened}


def _patched_best(result: Patching) -> list[tuple[str, float]]:
    """The places that carry most of the whole output's difference, by name with their token."""
    difference = float((result.other_value - result.value).sum())
    if abs(difference) < 1e-4:
        return []
    shares = (result.change.sum(1) / difference).tolist()
    counting = [place for place, share in enumerate(shares) if abs(share) >= 0.005]
    order = sorted(counting, key=lambda place: -abs(shares[place]))[:STRONGEST]
    found = []
    for place in order:
        part = result.parts[place]
        token = result.token(part)
        start = part.position == 0 and not part.of_source
        label = "" if token is None else f" {causal_plots.START if start else f'‘{token_label(token)}’'}"
        found.append((part.name + label, shares[place]))
    return found


def _differing(result: Patching) -> str:
    pairs = [
        f"‘{token_label(one)}’ and ‘{token_label(other)}’"
        for one, other in zip(result.other_tokens, result.source_tokens, strict=True)
        if one.id != other.id
    ]
    more = f" and {len(pairs) - 4} more places" if len(pairs) > 4 else ""
    return (", ".join(pairs[:4]) + more) if pairs else "nothing"


def _strongest(best: Sequence[tuple[Any, float]], unit: str) -> list[tuple[str, str]]:
    return [(part.name, f"{number(value, 3, signed=True)} {unit}".strip()) for part, value in best]


def _hidden(result: Knockout, part: Any) -> str:
    texts = [f"source ‘{token_label(result.source_tokens[i])}’" for i in part.source]
    texts += [f"earlier output ‘{token_label(result.target_tokens[u])}’" for u in part.prefix]
    return listed(texts)


def _excerpt(result: Any) -> str:
    return shorten(shown(result.target_text.strip() or "(empty output)"), 80)


def _unit(units: str) -> str:
    return units.split()[0] if units.startswith(("nats", "logits")) else units


def _log_prob(value: Any) -> str:
    return _DASH if value is None or math.isnan(value) else number(float(value), 3)


def record(schema: str, result: Any, **more: Mapping[str, Any] | Any) -> dict[str, Any]:
    """A result as the JSON object of `explain/{schema}@1`."""
    digest = getattr(result, "model_digest", None) or result.before.model_digest
    return {**envelope(schema, model_digest=digest), **result.to_dict(), **more}
