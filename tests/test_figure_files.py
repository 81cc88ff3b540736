"""Figures as offline pages and as tables, and the Python that makes them again."""

from __future__ import annotations

import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from dashboard import snippets
from dashboard.catalogue import Choice
from dashboard.examples import Example
from explain.report import plots
from explain.report.figure_files import figure_page, figure_table
from tests.conftest import SENTENCES

HOSTILE = "</script><script>alert(1)</script><img src=http://evil/x.png>"


@pytest.fixture(scope="module")
def generation(bart):
    return bart.generate(SENTENCES[0], max_new_tokens=5)


def test_a_page_asks_nobody_and_is_the_same_each_time(bart, generation):
    drawn = plots.attribution_map(bart.attribute(generation, method="attention"))
    page = figure_page(drawn, "Why", "Read it like this.", "import explain")
    assert page == figure_page(drawn, "Why", "Read it like this.", "import explain")
    assert "Plotly.newPlot" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "default-src 'none'" in page
    assert "Read it like this." in page


def test_hostile_text_is_text_on_a_page():
    drawn = plots.attention_map(np.eye(2), [HOSTILE, "b"], ["a", HOSTILE])
    page = figure_page(drawn, HOSTILE, HOSTILE, HOSTILE)
    assert "<script>alert(1)" not in page
    assert "<img src=http" not in page


def test_a_map_becomes_its_cells(bart, generation):
    found = bart.attribute(generation, method="attention")
    table = figure_table(plots.attribution_map(found))
    source = table[table.series == "source"]
    assert len(source) == found.source.numel()
    np.testing.assert_allclose(source.value.to_numpy(), found.source.flatten().numpy(), rtol=1e-6)
    assert source.x_label.iloc[1] == found.source_tokens[1].text
    count = len(found.target_tokens)
    assert (table.series == "prefix").sum() == count * (count - 1) // 2, (
        "cells that hold nothing are left out"
    )


def test_labels_are_as_in_the_text():
    table = figure_table(plots.attention_map(np.eye(2), ["<b>", "&amp;"], ["x", "x"]))
    assert table.y_label.tolist() == ["<b>", "<b>", "&amp;", "&amp;"]
    assert table.x.tolist() == [0, 1, 0, 1]


def test_bars_lines_and_intervals_become_rows(generation):
    bars = figure_table(plots.alternatives_bars(generation, 0, 3))
    assert bars.x.tolist() == pytest.approx(
        [math.exp(a.log_prob) for a in generation.alternatives(0, 3)], rel=1e-5
    )
    points = go.Figure(
        go.Scatter(name="a", x=[1.0, 2.0], y=["m", "n"], error_x={"array": [0.5, 1], "arrayminus": [0.25, 1]})
    )
    table = figure_table(points)
    assert (table.low.tolist(), table.high.tolist()) == ([0.75, 1.0], [1.5, 3.0])
    assert table.y.tolist() == ["m", "n"]
    assert figure_table(go.Figure()).empty


@pytest.mark.parametrize("target", [None, "le chat"])
def test_the_python_of_a_figure_runs(folder, monkeypatch, target):
    shown = []
    monkeypatch.setattr(go.Figure, "show", lambda self: shown.append(self))
    example = Example(SENTENCES[0], target, {} if target else {"max_new_tokens": 4})
    lines = snippets.written(Choice("bart", folder, "bart"), example)
    exec(snippets.drawn(lines, "alternatives_bars(generation, 0, 3)"), {})
    assert len(shown) == 1
