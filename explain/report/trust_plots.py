"""Plotly figures of an evaluation: the ranking, deletion and insertion, the cascade of shuffled weights.

How to read each is said by `ranking_help`, `DELETION_HELP` and `CASCADE_HELP` of `explain.report.trust`. A
method is told apart by colour, dash and mark, a verdict by the mark and its word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explain.errors import UnknownNameError
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number, plot_text, shorten, whole_percent
from explain.report.plot_style import finish
from explain.report.trust import MARKS, controls, headline, label_of, number_range, share_range, with_gold

if TYPE_CHECKING:
    from explain.evaluation import Estimate, Evaluation, MethodEvaluation

_SYMBOLS = {"passes": "circle", "doubtful": "diamond", "fails": "x", "control": "circle-open"}
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "hexagon")
_DASHES = ("solid", "dash", "dot", "dashdot")
CHANCE = "chance"
RANDOM_ORDER = "random order"


def ranking_figure(evaluation: Evaluation, *, theme: Theme = "light") -> go.Figure:
    """P@1 of every method with its 95 % interval and chance, the most trustworthy first; shares, 0 to 1.

    Without known answers, the fall of probability when what ranks first is hidden, above that of a random
    order, instead. Methods without the figure are left out; the control stands last.
    """
    gold = with_gold(evaluation)
    names = [*evaluation.ranking, *controls(evaluation)]
    rows = [(name, evaluation.methods[name]) for name in names]
    known = [(name, found, figure) for name, found in rows if _known(figure := _figure(found, gold))]
    figure = go.Figure()
    for verdict, (sign, word) in MARKS.items():
        part = [(i, *item) for i, item in enumerate(known) if item[1].card.verdict == verdict]
        if part:
            figure.add_trace(_ranked(part, f"{sign} {word}", verdict, gold, theme))
    if gold:
        _mark_chance(figure, [(i, found) for i, (_, found, _) in enumerate(known)], theme)
        figure.update_xaxes(title_text="right token first (P@1)", range=[0, 1.02], tickformat=".0%")
    else:
        figure.add_vline(x=0, line={"color": colours.INK[theme], "width": 1})
        figure.update_xaxes(title_text="cost of hiding what ranks first, above a random order (probability)")
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(known))),
        ticktext=[plot_text(_label(evaluation, name)) for name, *_ in known],
        range=[len(known) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"}, showlegend=True)
    return finish(figure, theme, height=130 + 26 * max(3, len(known)), margin_top=50)


def deletion_figure(evaluation: Evaluation, methods: Sequence[str], *, theme: Theme = "light") -> go.Figure:
    """Mean probability of the output token by the share of tokens hidden (deletion) or shown (insertion).

    Shares and probabilities are 0 to 1; the dashed grey line is a random order.

    Raises:
        UnknownNameError: a method was not evaluated.
    """
    found = _found(evaluation, methods)
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=("Deletion", "Insertion")
    )
    for column, part in ((1, "deletion_curve"), (2, "insertion_curve")):
        for name, style, faithful in [
            (RANDOM_ORDER, _control(theme), evaluation.control),
            *((label_of(one.name), _style(i, theme), one.faithfulness) for i, one in enumerate(found)),
        ]:
            if faithful is None or all(math.isnan(value) for value in getattr(faithful, part)):
                continue
            trace = go.Scatter(
                name=plot_text(name),
                legendgroup=name,
                showlegend=column == 1,
                x=list(faithful.fractions),
                y=list(getattr(faithful, part)),
                hovertemplate="%{x:.0%} of the tokens<br>probability %{y:.3f}",
                **style,
            )
            figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_xaxes(title_text="strongest tokens hidden", row=1, col=1)
    figure.update_xaxes(title_text="strongest tokens shown", row=1, col=2)
    figure.update_yaxes(range=[-0.02, 1.02])
    figure.update_yaxes(title_text="probability of the output token", row=1, col=1)
    return _with_legend(finish(figure, theme, height=400, margin_top=40), len(found))


def cascade_figure(evaluation: Evaluation, methods: Sequence[str], *, theme: Theme = "light") -> go.Figure:
    """Share of output tokens with the same strongest token (0 to 1) while more of the weights are shuffled.

    Stages run from the output down, each with its 95 % interval; the dashed grey line is chance.

    Raises:
        UnknownNameError: a method was not evaluated.
    """
    found = _found(evaluation, methods)
    figure, stages, chances = go.Figure(), dict[str, None](), []
    for index, one in enumerate(found):
        if one.randomisation is None or not one.randomisation.stages:
            continue
        result = one.randomisation
        names = [stage.name for stage in result.stages]
        stages |= dict.fromkeys(names)
        chances.append(result.chance_top1.value)
        figures = [stage.top1 for stage in result.stages]
        trace = go.Scatter(
            name=plot_text(label_of(one.name)),
            x=["as learnt", *map(plot_text, names)],
            y=[1.0, *(figure.value for figure in figures)],
            error_y=_errors([None, *figures], theme),
            hovertemplate="shuffled down to %{x}<br>same strongest token %{y:.0%}",
            **_style(index, theme),
        )
        figure.add_trace(trace)
    known = [value for value in chances if not math.isnan(value)]
    if known:
        line = go.Scatter(
            name=CHANCE,
            x=["as learnt", *map(plot_text, stages)],
            y=[sum(known) / len(known)] * (len(stages) + 1),
            hovertemplate="chance %{y:.0%}",
            **_control(theme),
        )
        figure.add_trace(line)
    figure.update_xaxes(title_text="weights shuffled down to", type="category")
    figure.update_yaxes(title_text="same strongest token", range=[-0.02, 1.04], tickformat=".0%")
    return _with_legend(finish(figure, theme, height=400, margin_top=40), len(found))


def _found(evaluation: Evaluation, methods: Sequence[str]) -> list[MethodEvaluation]:
    for name in methods:
        if name not in evaluation.methods:
            raise UnknownNameError("evaluated method", name, evaluation.methods)
    return [evaluation.methods[name] for name in dict.fromkeys(methods)]


def _figure(found: MethodEvaluation, gold: bool) -> Estimate | None:
    if gold:
        return None if found.gold is None else found.gold.scores.precision_at_1
    return headline(found)


def _known(figure: Estimate | None) -> bool:
    return figure is not None and not math.isnan(figure.value)


def _label(evaluation: Evaluation, name: str) -> str:
    place = f"{evaluation.ranking.index(name) + 1}. " if name in evaluation.ranking else ""
    return f"{place}{shorten(label_of(name), 40)}"


def _ranked(
    part: Sequence[tuple[int, str, MethodEvaluation, Any]], word: str, verdict: str, gold: bool, theme: Theme
) -> go.Scatter:
    colour = {"passes": colours.ACCENT, "fails": colours.WRONG, "doubtful": colours.INK}.get(
        verdict, colours.MUTED
    )[theme]
    figures: list[Estimate] = [figure for *_, figure in part]
    texts = [
        f"{whole_percent(figure.value)} ({share_range(figure)})"
        if gold
        else f"{number(figure.value, signed=True)} ({number_range(figure, signed=True)})"
        for figure in figures
    ]
    labels = [plot_text(label_of(name)) for _, name, *_ in part]
    return go.Scatter(
        name=word,
        mode="markers",
        x=[figure.value for figure in figures],
        y=[i for i, *_ in part],
        error_x={**_errors(figures, theme), "color": colour},
        marker={"symbol": _SYMBOLS.get(verdict, "circle-open"), "size": 10, "color": colour},
        customdata=list(zip(labels, texts, strict=True)),
        hovertemplate=f"<b>%{{customdata[0]}}</b> {word}<br>%{{customdata[1]}}<extra></extra>",
    )


def _mark_chance(figure: go.Figure, rows: Sequence[tuple[int, MethodEvaluation]], theme: Theme) -> None:
    marks = [
        (found.gold.chance.value, i)
        for i, found in rows
        if found.gold is not None and not math.isnan(found.gold.chance.value)
    ]
    trace = go.Scatter(
        name=CHANCE,
        mode="markers",
        x=[value for value, _ in marks],
        y=[i for _, i in marks],
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": colours.INK[theme]}},
        hovertemplate="chance %{x:.0%}<extra></extra>",
    )
    figure.add_trace(trace)


def _errors(figures: Sequence[Estimate | None], theme: Theme) -> dict[str, Any]:
    """Intervals as Plotly takes them: the distances above and below the values."""

    def distance(figure: Estimate | None, end: str) -> float:
        value = math.nan if figure is None else abs(getattr(figure, end) - figure.value)
        return 0.0 if math.isnan(value) else value

    return {
        "type": "data",
        "symmetric": False,
        "array": [distance(figure, "high") for figure in figures],
        "arrayminus": [distance(figure, "low") for figure in figures],
        "thickness": 2,
        "width": 4,
    }


def _style(index: int, theme: Theme) -> dict[str, Any]:
    """Colour, dash and mark of the method at this place; no two of the first 24 share all three."""
    series = colours.SERIES[theme]
    colour, turn = series[index % len(series)], index // len(series)
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": _DASHES[turn % len(_DASHES)]},
        "marker": {"symbol": _MARKERS[index % len(_MARKERS)], "size": 8, "color": colour},
    }


def _control(theme: Theme) -> dict[str, Any]:
    return {"mode": "lines", "line": {"color": colours.MUTED[theme], "width": 2, "dash": "dash"}}


def _with_legend(figure: go.Figure, methods: int) -> go.Figure:
    """The legend above a few methods, beside many."""
    if methods <= 4:
        figure.update_layout(legend={"orientation": "h", "y": 1.08, "yanchor": "bottom"}, showlegend=True)
        figure.update_layout(margin={"t": 80})
    else:
        figure.update_layout(showlegend=True, height=max(400, 120 + 22 * methods))
    return figure
