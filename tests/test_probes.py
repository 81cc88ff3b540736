"""Probes: what is planted is found, what is not is not, and memory is told from knowledge."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from explain.analysis import ProbeReport, StateTable, hidden_states, probe
from explain.analysis.representations import Row
from explain.errors import InputError, UnknownNameError
from explain.files import dump_json
from explain.training.handmade import copy_model

LABELS = ("noun", "verb", "adjective")
DIRECTIONS = np.random.default_rng(9).normal(size=(3, 24)) * 2


def planted(kind: str, texts: int = 80, types: int = 12, point: str = "encoder.0.residual") -> StateTable:
    """States with a label in them: `plain` along three directions, `none` not at all, `types` only by heart.

    `types`: every type of token has a vector of its own, and its label was drawn by lot.
    """
    draw, noise = random.Random(kind), np.random.default_rng(3)
    own = np.eye(24)[:types] * 6
    lot = {t: LABELS[draw.randrange(3)] for t in range(types)}
    rows, states = [], []
    for text in range(texts):
        for position in range(6):
            token = draw.randrange(types)
            label = lot[token] if kind == "types" else LABELS[draw.randrange(3)]
            rows.append(Row(text, position, 6, f"w{token}", token, f"w{token}", label))
            base = DIRECTIONS[LABELS.index(label)] if kind == "plain" else 0
            states.append(base + (own[token] if kind == "types" else 0) + noise.normal(size=24))
    return StateTable(point, torch.tensor(np.array(states), dtype=torch.float32), tuple(rows))


def test_a_planted_label_is_found():
    found = probe(planted("plain")).probes[0]
    assert found.accuracy.value > 0.95
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
    assert found.control.value < 0.6
    assert found.selectivity.low > 0.3
    assert found.converged
    assert set(found.classes) == set(LABELS)


def test_a_label_that_is_not_there_is_not_found():
    found = probe(planted("none")).probes[0]
    assert found.accuracy.low <= 0.45
    assert found.accuracy.value < 0.5
    assert found.majority == pytest.approx(1 / 3, abs=0.12)


def test_what_is_known_by_heart_is_told_apart():
    """Every type has its label by lot: the probe is right, and so is its control."""
    found = probe(planted("types")).probes[0]
    assert found.accuracy.value > 0.95
    assert found.control.value > 0.9
    assert found.selectivity.value < 0.1


def test_in_the_decoder_the_better_memorised_control_counts():
    """States that hold the token read and not the one written: the control by `input` is the one to beat."""
    table = planted("types", point="decoder.0.residual")
    lot = random.Random(1)
    rows = tuple(
        Row(r.example, r.position, r.length, f"v{lot.randrange(12)}", 0, r.input, r.slot) for r in table.rows
    )
    found = probe(StateTable(table.point, table.values, rows)).probes[0]
    assert found.control_by == "input"
    assert found.selectivity.value < 0.1
    encoder = probe(StateTable("encoder.0.residual", table.values, rows)).probes[0]
    assert encoder.control_by == "token"
    assert encoder.selectivity.value > 0.3


def test_texts_are_not_shared_between_parts():
    """A label that only names the text cannot be learnt: no text of training is in the test."""
    table = planted("plain", texts=40)
    first = torch.zeros_like(table.values)
    for number, row in enumerate(table.rows):
        first[number, row.example % 24] = 9.0 + row.example
    names = StateTable(table.point, first, table.rows)
    with pytest.raises(InputError, match="fewer than two labels"):
        probe(names, lambda row: f"text {row.example}")
    report = probe(table)
    assert sum(report.examples) == 40
    assert report.examples == (24, 8, 8)


def test_position_is_in_the_hand_set_model_and_the_token_too():
    """Both are written into the embedding by hand, so both are read without error, and known by heart."""
    model = copy_model()
    texts = [" ".join(random.Random(i).choices("abcdefg", k=5)) for i in range(40)]
    tables = hidden_states(model, texts, ["encoder.embed", "encoder.1.residual"])
    for label in ("position", "token"):
        report = probe(tables, label)
        assert [p.accuracy.value for p in report.probes] == [1.0, 1.0], label
    early = probe(tables, lambda row: "early" if row.position < 2 else "late")
    assert early["encoder.embed"].accuracy.value == 1.0
    assert early["encoder.embed"].control.value > 0.8
    assert early.label == "<lambda>"


def test_the_same_seed_gives_the_same_probe():
    table = planted("plain", texts=30)
    assert probe(table, seed=4).to_dict() == probe(table, seed=4).to_dict()
    assert probe(table, seed=4).to_dict() != probe(table, seed=5).to_dict()


def test_rare_labels_are_left_out_and_counted():
    table = planted("plain")
    rows = [
        Row(r.example, r.position, r.length, r.token, r.id, r.input, "rare" if i < 4 else r.slot)
        for i, r in enumerate(table.rows)
    ]
    report = probe(StateTable(table.point, table.values, tuple(rows)))
    assert report.left_out == pytest.approx(4 / len(rows))
    assert "rare" not in report.probes[0].classes
    two = probe(table, classes=2, rows=50)
    assert len(two.probes[0].classes) == 2
    assert two.probes[0].train == 50


def test_comes_back_from_json():
    report = probe([planted("plain", texts=30), planted("none", texts=30)])
    assert ProbeReport.from_dict(json.loads(dump_json(report.to_dict()))).to_dict() == report.to_dict()
    frame = report.to_frame()
    assert {"point", "accuracy", "accuracy_low", "control", "selectivity", "majority"} <= set(frame.columns)
    assert len(frame) == 2
    with pytest.raises(InputError, match="no probe"):
        report["logits"]


def test_refuses_what_cannot_be_probed():
    table = planted("plain", texts=30)
    with pytest.raises(UnknownNameError):
        probe(table, "colour")
    with pytest.raises(InputError, match="at least 5 texts"):
        probe(planted("plain", texts=3))
    with pytest.raises(InputError, match="fewer than two labels"):
        probe(table, lambda row: "same")
    with pytest.raises(InputError, match="strengths"):
        probe(table, strengths=())
    with pytest.raises(InputError, match="hidden_states"):
        probe([])
