"""Tables of hidden states and their projections: against captures, PCA by hand, and past the memory."""

from __future__ import annotations

import importlib
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from explain.analysis import Projection, StateTable, hidden_states, project
from explain.analysis.representations import BUCKETS, Row, buckets
from explain.errors import InputError, UnknownNameError
from explain.files import dump_json
from explain.training.tasks import get
from tests.conftest import OUTPUTS, SENTENCES
from tests.state import assert_same_state, state_of

PAIRS = list(zip(SENTENCES, OUTPUTS, strict=True)) * 12


def table(values: np.ndarray, **changes: object) -> StateTable:
    rows = tuple(Row(i, 0, 1, f"t{i}", i, f"t{i}", "") for i in range(len(values)))
    return StateTable("encoder.0.residual", torch.tensor(values, dtype=torch.float32), rows, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def states(bart):
    return hidden_states(bart, PAIRS, ["encoder.1.residual", "decoder.*.residual"])


def test_rows_are_the_captured_states_in_order(bart, states):
    generations = bart.force([a for a, _ in PAIRS], [b for _, b in PAIRS])
    for point, found in states.items():
        captured = torch.cat([c[point][0] for c in bart.capture(generations, point)])
        assert torch.allclose(found.values, captured, atol=1e-5)
        assert len(found.rows) == len(captured)
    rows = states["decoder.0.residual"].rows
    own = [row for row in rows if row.example == 1]
    tokens = generations[1].target_tokens
    assert [row.token for row in own] == [token.text for token in tokens]
    assert [row.input for row in own] == [generations[1].decoder_start.text, *(t.text for t in tokens[:-1])]
    assert [row.position for row in own] == list(range(len(tokens)))
    assert {row.length for row in own} == {len(tokens)}


def test_past_the_memory_budget_the_same_rows_lie_in_a_file(bart, states, tmp_path):
    found = hidden_states(bart, PAIRS, ["encoder.1.residual", "decoder.*.residual"], memory_budget=40_000)
    for point, each in found.items():
        assert each.folder is not None
        assert torch.allclose(each.values, states[point].values, atol=1e-5)
    folder = found["encoder.1.residual"].folder.path  # pyright: ignore[reportAttributeAccessIssue]
    one = found.pop("encoder.1.residual")
    frame = pd.read_parquet(one.save(tmp_path / "states.parquet"))
    pd.testing.assert_frame_equal(frame, states["encoder.1.residual"].to_frame(), atol=1e-5)
    assert folder.exists()
    del one
    assert not folder.exists()


def test_the_model_stays_as_it_was(model):
    before = state_of(model.hf)
    hidden_states(model, SENTENCES, "*.residual", max_new_tokens=3)
    assert_same_state(before, state_of(model.hf))


def test_pca_is_that_of_the_covariance(states):
    found = project(states["decoder.1.residual"])
    x = states["decoder.1.residual"].values.double().numpy()
    x = x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    assert found.explained == pytest.approx(values[::-1][:2] / values.sum())
    expected = x @ vectors[:, ::-1][:, :2]
    assert np.abs(found.coordinates) == pytest.approx(np.abs(expected), abs=1e-6)
    assert found.trustworthiness > 0.6
    assert found.width == 16
    assert found.total == len(found.rows) == len(x)


def test_flat_states_are_shown_without_loss():
    """Rows that lie in a plane of a wide space: two axes hold everything, and all neighbours stay."""
    draw = np.random.default_rng(0)
    plane = draw.normal(size=(80, 2)) @ draw.normal(size=(2, 12))
    found = project(table(plane))
    assert sum(found.explained) == pytest.approx(1.0)
    assert found.trustworthiness == pytest.approx(1.0)


def test_of_many_rows_a_part_is_drawn_and_stays_what_it_is():
    values = np.random.default_rng(0).normal(size=(300, 5))
    found = project(table(values), rows=50, seed=3)
    again = project(table(values), rows=50, seed=3)
    assert np.array_equal(found.coordinates, again.coordinates)
    assert (len(found.rows), found.total) == (50, 300)
    ids = [row.id for row in found.rows]
    assert ids == sorted(set(ids))
    assert project(table(values), rows=50, seed=4).rows != found.rows


def test_slots_come_from_the_task(bart):
    """Every row of a task's own example carries the slot that its characters have."""
    example = get("translate").examples("held_out", 1)[0]
    text = "the cat sees a dog"
    changed = type(example)(text, "le chat", {}, (type(example.source_segments[0])(4, 7, "noun"),), ())
    found = hidden_states(bart, [changed], "encoder.0.residual")["encoder.0.residual"]
    assert [row.slot for row in found.rows] == ["", "noun", "", "", "", ""]
    assert found.labels("slot") == ["", "noun", "", "", "", ""]


def test_labels(states):
    found = states["encoder.1.residual"]
    assert set(found.labels("length")) == {"3", "7", "10"}
    assert found.labels(lambda row: "first" if row.position == 0 else None)[:2] == ["first", ""]
    with pytest.raises(UnknownNameError):
        found.labels("colour")
    with pytest.raises(InputError, match="--task"):
        found.labels("slot")


def test_buckets_hold_about_as_many_each():
    numbers = [n for n in range(1, 41) for _ in range(3)]
    found = buckets(numbers)
    sizes = [found.count(name) for name in dict.fromkeys(found)]
    assert len(sizes) == BUCKETS
    assert max(sizes) - min(sizes) <= 6
    assert dict.fromkeys(buckets([1, 1, 1, 9])) == {"1": None, "9": None}
    assert buckets([]) == []


def test_comes_back_from_json(states):
    found = project(states["decoder.1.residual"], components=3)
    back = Projection.from_dict(json.loads(dump_json(found.to_dict())))
    assert np.allclose(back.coordinates, found.coordinates)
    assert back.rows == found.rows
    assert back.explained == pytest.approx(found.explained)
    assert list(found.to_frame().columns[:5]) == ["x", "y", "z", "example", "position"]
    few = project(states["decoder.1.residual"], rows=12)
    assert math.isnan(few.trustworthiness)
    assert math.isnan(Projection.from_dict(json.loads(dump_json(few.to_dict()))).trustworthiness)


def test_without_umap_the_message_names_the_extra(states, monkeypatch):
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"explain\[umap\]"):
        project(states["decoder.1.residual"], "umap")


def test_umap_gets_the_settings(states, monkeypatch):
    """What is handed to UMAP, with a stand-in; the package itself is an extra."""
    asked = {}

    class Stand:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, x):
            return x[:, :2]

    monkeypatch.setattr(importlib, "import_module", lambda name: type("umap", (), {"UMAP": Stand}))
    found = project(states["decoder.1.residual"], "umap", seed=5, neighbours=9)
    assert asked == {"n_components": 2, "n_neighbors": 9, "min_dist": 0.1, "random_state": 5}
    assert found.explained == ()
    assert found.settings["neighbours"] == 9
    with pytest.raises(InputError, match="neighbours"):
        project(states["decoder.1.residual"], "umap", neighbours=1)


def test_refuses_what_it_cannot_show(states):
    with pytest.raises(UnknownNameError):
        project(states["decoder.1.residual"], "tsne")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="2 or 3"):
        project(states["decoder.1.residual"], components=4)
    with pytest.raises(InputError, match="at least 4 rows"):
        project(table(np.ones((3, 4))))
    with pytest.raises(InputError, match="do not span"):
        project(table(np.ones((9, 4))))
