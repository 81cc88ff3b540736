"""The tab Neurons: what does a single neuron respond to?"""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from dashboard import analyses, cache, frame, snippets, state
from dashboard.catalogue import Choice, Place
from dashboard.components.strips import Bar, Strip, strips
from dashboard.labels import plain
from dashboard.views import costly, many_texts
from explain.analysis import Neuron, NeuronSurvey, PointSummary, survey_neurons
from explain.report.labels import number, plural, shorten, shown, whole_percent
from explain.report.neuron_plots import neuron_says, shade_limit
from explain.results import Token

USUAL = 200
OFFERED = 100
"""Neurons of a layer that are offered, the most telling first."""
EXAMPLES = 8
KINDS = {"token": "token", "input": "token read before", "slot": "slot"}


def show(place: Place, choice: Choice) -> None:
    """Draw the tab."""
    with st.container(border=True):
        texts = many_texts.ask(place, choice, USUAL)
    if texts is None:
        return
    model = cache.model(choice)
    found: NeuronSurvey | None = costly.result(
        analyses.key("neurons", choice, *texts.key),
        lambda tell: survey_neurons(
            model,
            texts.data,
            examples=texts.count,
            name=texts.name,
            progress=tell,
            should_stop=cache.unwanted,
            **texts.options,
        ),
        label="Go through the texts",
        cost=analyses.seconds(choice, 2 * texts.count, texts.tokens),
        note=f"Going through {plural(texts.count, 'text')}.",
        ask=True,
    )
    if found is None:
        return
    summary = found.summary()
    known = [each.point for each in summary]
    view = state.current()
    point = view.point if view.point in known else known[-1]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    left.selectbox(
        "Layer",
        known,
        format_func=_layer,
        **state.bind("point", shown=point, neuron=-1),
    )
    telling = found.most_selective(point, OFFERED)
    by_index = {each.index: each for each in telling}
    neuron = _chosen(found, point, telling, view.neuron)
    if neuron is None:
        st.caption("None of the neurons of this layer is ever active on these texts.")
        return
    by_index.setdefault(neuron.index, neuron)
    right.selectbox(
        "Neuron, the most telling first",
        list(by_index),
        format_func=lambda index: _option(by_index[index]),
        **state.bind("neuron", shown=neuron.index),
    )
    _neuron(neuron)
    _types(neuron)
    _summary(choice, texts, found, summary)


def _chosen(found: NeuronSurvey, point: str, telling: list[Neuron], wanted: int) -> Neuron | None:
    if 0 <= wanted < int(found.counts[point].found["values"].shape[0]):
        return found.neuron(point, wanted)
    return telling[0] if telling else None


def _layer(point: str) -> str:
    side, layer, *_ = point.split(".")
    return f"{side} layer {layer}"


def _option(neuron: Neuron) -> str:
    if not neuron.kind:
        return f"neuron {neuron.index}"
    what = f"{KINDS[neuron.kind]} ‘{shorten(shown(neuron.label))}’"
    return f"neuron {neuron.index} · {what} · {number(neuron.selectivity, 1)} σ"


def _neuron(neuron: Neuron) -> None:
    """What it responds to, and the texts where it is most active."""
    frame.section(f"{_layer(neuron.point).capitalize()}, neuron {neuron.index}")
    st.markdown(plain(neuron_says(neuron)))
    limit = shade_limit(neuron) or 1.0
    bar = Bar("diverging", limit, "activation", ends=("below 0", "active"), noun="activation")
    rows = []
    for rank, each in enumerate(neuron.examples[:EXAMPLES]):
        tokens, text = _joined(each.context)
        notes = ["here it is most active" if at == each.at else "" for at in range(len(tokens))]
        rows.append(
            Strip(
                f"example_{rank}",
                f"{rank + 1}. {number(each.value, 2)} at ‘{shorten(shown(each.token), 16)}’",
                tokens,
                text,
                values=list(each.values),
                bar=bar,
                notes=notes,
                legend=rank == 0,
            )
        )
    strips(rows, key="neuron_examples", theme=frame.theme())
    st.caption(
        "The places in these texts where the neuron is most active, with what stands around them. The "
        "stronger the blue of a token, the more active it is there; orange is below 0, no colour is 0. All "
        "on one scale."
    )


def _joined(pieces: tuple[str, ...]) -> tuple[list[Token], str]:
    """Tokens of a stretch of text, with places in it."""
    tokens, text = [], ""
    for piece in pieces:
        text += " " if text else ""
        tokens.append(Token(piece, 0, len(text), len(text) + len(piece), False, False))
        text += piece
    return tokens, text


def _types(neuron: Neuron) -> None:
    """The tokens and slots at which it is most active on average."""
    kinds = {kind: types for kind, types in neuron.types.items() if types}
    if not kinds:
        return
    st.markdown("**What it responds to on average**")
    columns = st.container(key="neuron_types").columns(len(kinds))
    for column, (kind, types) in zip(columns, kinds.items(), strict=True):
        with column:
            st.table(
                pd.DataFrame(
                    [
                        {
                            KINDS[kind]: plain(shown(each.label)),
                            "mean": number(each.mean, 2, signed=True),
                            "active": whole_percent(each.active),
                            "times": f"{each.rows:,}",
                        }
                        for each in types
                    ]
                ),
                border="horizontal",
                hide_index=True,
            )
    st.caption(
        "Mean: of its activation at these tokens. Active: share of them at which it is above 0. Only what "
        "occurs five times or more is listed."
    )


def _summary(
    choice: Choice, texts: many_texts.Texts, found: NeuronSurvey, summary: list[PointSummary]
) -> None:
    """All layers in a table, and everything to take away."""
    with st.expander("All layers, and the numbers of every neuron", key="neuron_layers"):
        st.table(
            pd.DataFrame(
                [
                    {
                        "layer": _layer(each.point),
                        "neurons": f"{each.neurons:,}",
                        "never active": f"{each.dead:,}",
                        "active": whole_percent(each.active),
                        "median selectivity": "–"
                        if math.isnan(each.selectivity)
                        else f"{number(each.selectivity, 1)} σ",
                        "positions": f"{each.rows:,}",
                    }
                    for each in summary
                ]
            ),
            border="horizontal",
            hide_index=True,
        )
        st.caption(
            "Selectivity: how far the mean activation at the label that a neuron responds to most lies above "
            "its mean elsewhere, in standard deviations (σ) over all positions."
        )
        st.download_button(
            "Numbers (CSV)",
            data=lambda: found.to_frame().to_csv(index=False, lineterminator="\n"),
            file_name="explain-neurons.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            key="file_neurons",
        )
        if texts.key[0] != "texts":
            subject = repr(texts.name) if texts.key[0] == "task" else f"read_table({str(texts.key[1])!r})"
            lines = snippets.opened(choice)
            lines.insert(1, "from explain.analysis import survey_neurons")
            if texts.key[0] != "task":
                lines.insert(2, "from explain.training.data import read_table")
            else:
                lines.insert(2, "from explain.training import tasks")
                subject = f"tasks.get({texts.name!r})"
            lines += [
                f"survey = survey_neurons(model, {subject}, examples={texts.count})",
                "print(survey.to_frame())",
            ]
            st.code("\n".join(lines), language="python", wrap_lines=True)
