"""Figures as files: one offline page that stays interactive, and the numbers behind them as a table."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup, escape

from explain.report.labels import shown

# The figure's own script and styles, and pictures that it draws itself; no request to anywhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 72rem; font: 15px/1.5 system-ui, sans-serif;
color: {ink}; background: {paper}; }}
h1 {{ font-size: 1.3rem; }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid; border-radius: 8px; }}
</style>
</head>
<body>
<h1>{title}</h1>
{figure}
<p>{help}</p>
{python}</body>
</html>
"""


def figure_page(figure: go.Figure, title: str, help: str = "", python: str = "") -> str:
    """The figure as one offline HTML page with Plotly inside (about 5 MB); it can still be zoomed.

    Args:
        figure: as a function of `explain.report.plots` makes it.
        title: heading of the page.
        help: a sentence on how to read the figure.
        python: the lines that make the figure again.
    """
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        include_mathjax=False,
        div_id="figure",  # by itself Plotly would number it at random: the same input, the same bytes
        config={"displaylogo": False, "responsive": True},
    )
    return _PAGE.format(
        policy=POLICY,
        title=escape(shown(title)),
        ink=escape(figure.layout.font.color or "#1b1f24"),
        paper=escape(figure.layout.paper_bgcolor or "#ffffff"),
        figure=Markup(drawn),
        help=escape(shown(help)),
        python=Markup("<pre>{}</pre>\n").format(python) if python else "",
    )


def figure_table(figure: go.Figure) -> pd.DataFrame:
    """The numbers that a figure shows, one row for each cell, bar or point.

    Columns are `series` (name of the trace), `x`, `y`, their labels where the axes have some, `value` for
    the cells of a map, and `low` and `high` where a point has an interval. Cells that hold nothing are left
    out.
    """
    rows = [row for trace in figure.data for row in _rows(figure, trace)]
    table = pd.DataFrame(rows, columns=["series", "x", "x_label", "y", "y_label", "value", "low", "high"])
    empty = [name for name in table.columns[1:] if not table[name].notna().to_numpy().any()]
    return table.drop(columns=empty)


def _rows(figure: go.Figure, trace: Any) -> Iterator[dict[str, Any]]:
    kept = trace.to_plotly_json()
    name = str(kept.get("name") or "")
    of_x = _labels(figure, kept.get("xaxis") or "x", "x")
    of_y = _labels(figure, kept.get("yaxis") or "y", "y")

    def row(x: Any, y: Any) -> dict[str, Any]:
        labels = {"x_label": of_x.get(str(x)), "y_label": of_y.get(str(y))}
        return {"series": name, "x": _bare(x), "y": _bare(y), **labels}

    grid = kept.get("z")
    if grid is not None and np.ndim(grid) == 2:
        cells = np.asarray(grid, dtype=float)
        across = _positions(kept.get("x"), cells.shape[1])
        down = _positions(kept.get("y"), cells.shape[0])
        for y, line in zip(down, cells, strict=False):
            for x, value in zip(across, line, strict=False):
                if np.isfinite(value):
                    yield {**row(x, y), "value": float(value)}
        return
    x, y = kept.get("x"), kept.get("y")
    count = max(len(x) if x is not None else 0, len(y) if y is not None else 0)
    along = "error_x" if kept.get("error_x") else "error_y"
    for at, (one, other) in enumerate(zip(_positions(x, count), _positions(y, count), strict=False)):
        found = row(one, other)
        yield {**found, **_interval(kept.get(along), at, one if along == "error_x" else other)}


def _positions(values: Any, count: int) -> list[Any]:
    return list(range(count)) if values is None else list(values)


def _interval(error: Any, at: int, middle: Any) -> dict[str, Any]:
    """Both ends of the bar through a point."""
    more = (error or {}).get("array")
    if more is None or not isinstance(middle, (int, float, np.number)):
        return {}
    less = error.get("arrayminus")
    less = more if less is None else less
    return {"low": float(middle) - float(less[at]), "high": float(middle) + float(more[at])}


def _labels(figure: go.Figure, axis: str, letter: str) -> Mapping[str, str]:
    """What an axis writes in place of its positions."""
    found = figure.layout[f"{letter}axis{axis.removeprefix(letter)}"]
    kept = found.to_plotly_json() if found is not None else {}
    named = {str(key): html.unescape(str(text)) for key, text in (kept.get("labelalias") or {}).items()}
    places, texts = kept.get("tickvals"), kept.get("ticktext")
    if places is not None and texts is not None:
        named |= {str(at): html.unescape(str(text)) for at, text in zip(places, texts, strict=False)}
    return named


def _bare(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
