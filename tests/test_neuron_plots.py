"""Figures and pages of neurons and hidden states: what they show, and that text stays text."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from explain.analysis import (
    Neuron,
    NeuronExample,
    NeuronType,
    Probe,
    ProbeReport,
    Projection,
    Row,
    Share,
    Similarity,
)
from explain.errors import InputError, UnknownNameError
from explain.report import colours
from explain.report.neuron_pages import probe_page, projection_page, similarity_page
from explain.report.neuron_plots import (
    MOST_LABELS,
    ON_BOTH,
    groups,
    neuron_examples_html,
    neuron_says,
    probe_figure,
    projection_figure,
    shades,
    similarity_figure,
)

EVIL = "<img src=x onerror=alert(1)>"
ROWS = tuple(
    Row(i // 5, i % 5, 5 + i // 10, EVIL if i == 0 else f"w{i % 20}", i, "read", "noun" if i % 2 else "")
    for i in range(40)
)
PLANE = Projection(
    "decoder.1.residual", "pca", np.arange(80.0).reshape(40, 2), ROWS, (0.5, 0.25), 0.9, 64, 99, {"seed": 0}
)
NEURON = Neuron(
    point="encoder.0.mlp.hidden",
    index=3,
    mean=0.0,
    std=1.0,
    lowest=-1.0,
    highest=2.0,
    active=0.25,
    dead=False,
    selectivity=3.21,
    kind="token",
    label=EVIL,
    types={"token": (NeuronType(EVIL, 1.5, 9, 1.0),)},
    examples=(NeuronExample(2.0, 4, 1, EVIL, ("a", EVIL, "b"), (-1.0, 2.0, 0.0), 1),),
)


def share(value: float) -> Share:
    return Share(value, value - 0.1, value + 0.1)


PROBES = ProbeReport(
    label="slot",
    probes=tuple(
        Probe(point, share(a), share(c), "token", share(a - c), 0.2, 0.1, True, 60, 20, {"noun": a})
        for point, a, c in (
            ("encoder.embed", 0.6, 0.5),
            ("encoder.0.residual", 0.8, 0.3),
            ("decoder.embed", 0.7, 0.6),
        )
    ),
    examples=(6, 2, 2),
    left_out=0.0,
    seed=0,
)
VALUES = torch.tensor([[1.0, math.nan], [0.4, 0.8]], dtype=torch.float64)
ALIKE = Similarity(
    ("p", "q"), ("p", "q"), VALUES, "token", {"source": 9, "target": 8}, 3, None, "sha256:a", "sha256:b"
)


def test_labels_are_grouped_by_frequency_and_the_rest_is_other():
    by_token = groups(ROWS, "token")
    assert [g.style for g in by_token] == [*range(MOST_LABELS), None]
    assert sum(len(g.points) for g in by_token) == 40
    slots = groups(ROWS, "slot")
    assert [(g.label, len(g.points)) for g in slots] == [("noun", 20), ("(none)", 20)]
    assert [g.label for g in groups(ROWS, "position")] == ["0", "1", "2", "3", "4"]
    with pytest.raises(UnknownNameError):
        groups(ROWS, "colour")


@pytest.mark.parametrize("theme", colours.THEMES)
def test_projection_figure(theme):
    figure = projection_figure(PLANE, "token", theme=theme)
    assert {trace.type for trace in figure.data} == {"scatter"}
    assert sum(len(trace.x) for trace in figure.data) == 40
    styles = {(trace.marker.color, trace.marker.symbol) for trace in figure.data}
    assert len(styles) == len(figure.data)  # a label is told apart by colour and mark
    assert "50" in figure.layout.xaxis.title.text
    assert "<img" not in figure.to_json()
    plain = projection_figure(replace(PLANE, by="umap", explained=()), "slot", theme=theme)
    assert "no unit" in plain.layout.xaxis.title.text


def test_probe_figure_keeps_the_sides_apart():
    figure = probe_figure(PROBES)
    runs = [list(trace.x) for trace in figure.data if trace.name == "probe"]
    assert runs == [["encoder.embed", "encoder.0.residual"], ["decoder.embed"]]
    first = next(trace for trace in figure.data if trace.name == "probe")
    assert list(first.y) == [0.6, 0.8]
    assert first.error_y.array == pytest.approx((0.1, 0.1))
    assert {trace.name for trace in figure.data} == {
        "probe",
        "control task",
        "selectivity (probe − control)",
        "always the most frequent label",
    }


def test_similarity_figure_leaves_empty_what_was_not_compared():
    heat = similarity_figure(ALIKE, name_a="<b>", name_b="two").data[0]
    assert np.isnan(heat.z[0][1])
    assert (heat.zmin, heat.zmax) == (0.0, 1.0)
    assert "<b>" not in similarity_figure(ALIKE, name_a="<b>").layout.yaxis.title.text


def test_examples_are_shaded_and_text_stays_text():
    found = shades(NEURON.examples[0], 2.0)
    assert [each.level for each in found] == [-10, 20, 0]
    assert [each.here for each in found] == [False, True, False]
    text = neuron_examples_html(NEURON)
    assert "<img" not in text
    assert "&lt;img" in text
    assert text.count("<bdi") == 3
    assert "3.2" in neuron_says(NEURON)
    assert "never above 0" in neuron_says(replace(NEURON, dead=True))
    with pytest.raises(InputError):
        neuron_examples_html(replace(NEURON, examples=()))


def test_pages_are_offline_and_say_their_limits():
    pages = {
        "projection": projection_page(PLANE, "token", command="c"),
        "probes": probe_page(PROBES, command="c"),
        "cka": similarity_page(ALIKE, name_a="one", name_b=EVIL, command="c"),
    }
    for name, text in pages.items():
        assert "<script" not in text, name
        assert "<img" not in text, name
        assert "What this page cannot tell you" in text, name
    assert "20 percentage points" not in pages["cka"]
    assert "50 percentage points" in pages["probes"]
    assert pages["projection"] == projection_page(PLANE, "token", command="c")
    assert "selectivity says nothing" in probe_page(replace(PROBES, label="token"), command="c")


def test_colours_of_drawings_read_on_both_backgrounds():
    for colour in ON_BOTH:
        for theme in colours.THEMES:
            assert colours.contrast(colour, colours.PAGE[theme]) >= 3, (colour, theme)
