"""The tab Projector: the states of many tokens on a plane."""

from __future__ import annotations

import math

import streamlit as st

from dashboard import analyses, cache, frame, snippets, state
from dashboard.analyses import Progress
from dashboard.catalogue import Choice, Place
from dashboard.views import costly, many_texts
from explain.analysis import Projection, hidden_states, project
from explain.report.labels import number, plural, whole_percent
from explain.report.neuron_plots import projection_figure

USUAL = 60
MOST_POINTS = 2_000
COLOURS = {
    "slot": "what it stands for",
    "token": "the token",
    "input": "the token read",
    "length": "length of its text",
    "position": "its place in the text",
}


def show(place: Place, choice: Choice) -> None:
    """Draw the tab."""
    model = cache.model(choice)
    known = [p for p in model.hook_points() if p.endswith((".residual", ".embed"))]
    view = state.current()
    point = view.point if view.point in known else known[-1]
    with st.container(border=True):
        texts = many_texts.ask(place, choice, USUAL)
        if texts is None:
            return
        offered = [name for name in COLOURS if texts.slots or name != "slot"]
        colour = view.colour if view.colour in offered else offered[0]
        left, right = st.columns(2)
        left.selectbox("States", known, format_func=_state, **state.bind("point", shown=point))
        right.selectbox(
            "Coloured by",
            offered,
            format_func=lambda name: COLOURS[name],
            **state.bind("colour", shown=colour),
        )

    def make(tell: Progress) -> Projection:
        table = hidden_states(
            model, texts.data, [point], examples=texts.count, name=texts.name, progress=tell, **texts.options
        )[point]
        return project(table, "pca", rows=MOST_POINTS)

    found: Projection | None = costly.result(
        analyses.key("projection", choice, *texts.key, point),
        make,
        label="Put them on a plane",
        cost=analyses.seconds(choice, 2 * texts.count, texts.tokens),
        note=f"Going through {plural(texts.count, 'text')}.",
    )
    if found is None:
        return
    drawn = projection_figure(found, colour, theme=frame.theme())
    drawn.update_layout(title=None, legend={"title": {"text": COLOURS[colour]}})
    frame.figure(
        drawn,
        _reading(found),
        key="wide_projection",
        alt=f"Points: states of {_state(point)}, coloured by {COLOURS[colour]}",
        zoom=True,
        data=found.to_frame,
        python=_python(choice, texts, point, colour),
    )


def _python(choice: Choice, texts: many_texts.Texts, point: str, colour: str) -> str:
    """Lines that make the figure."""
    kind, given, *_ = texts.key
    subject = repr(list(given) if kind == "texts" and isinstance(given, tuple) else given)
    options = {"examples": texts.count, **texts.options}
    table = snippets.call("hidden_states", ["model", subject, repr([point])], options)
    lines = [
        *snippets.opened(choice),
        f"table = {table}[{point!r}]",
        f'found = project(table, "pca", rows={MOST_POINTS})',
    ]
    return snippets.shown(
        lines, ["hidden_states", "project"], f"projection_figure(found, {colour!r})", "neuron_plots"
    )


def _state(point: str) -> str:
    side, *rest = point.split(".")
    return f"{side}, embedding" if rest == ["embed"] else f"{side}, after layer {rest[0]}"


def _reading(found: Projection) -> str:
    part = f" of {found.total:,}, drawn at random" if found.total > len(found.rows) else ""
    share = sum(found.explained[:2])
    said = (
        f"Each mark is a token: its state, {plural(found.width, 'number')}, seen from the side where the "
        f"states differ most (the first two principal components). {plural(len(found.rows), 'token')}{part}. "
        f"The plane holds {whole_percent(share)} of their variance"
    )
    trust = found.trustworthiness
    if not math.isnan(trust):
        said += (
            "; of what looks near here, most is near in the states as well (trustworthiness "
            f"{number(trust)}, 1 is all of it)"
            if trust >= 0.9
            else "; what looks near here need not be near in the states (trustworthiness "
            f"{number(trust)}, 1 is all of it, 0.5 what chance gives)"
        )
    return f"{said}."
