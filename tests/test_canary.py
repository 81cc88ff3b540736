"""Canary exposure: ranks by their definition, what is learned by heart is seen, files are read strictly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import explain
from explain.audit import canary as room
from explain.audit import policy_of
from explain.audit.canary import canary, exposure, filling_log_probs
from explain.audit.model_tests import run_tests
from explain.errors import FileError, InputError
from explain.training.plants.base import Canary
from explain.training.plants.make import read_canaries, write_canaries
from tests.models import tiny
from tests.state import assert_same_state, state_of

PARTS = ("chat", "chien", "oiseau", "maison")


def secret(filling=("chat", " chien"), source="the old house"):
    return Canary(source, "le ", filling, (PARTS, tuple(f" {part}" for part in PARTS)), 4)


@pytest.fixture(scope="module")
def model():
    return tiny("bart", seed=3)


def fillings(one):
    return list(itertools.product(*one.choices))


def test_log_probabilities_are_those_of_forced_outputs(model):
    one = secret()
    before = state_of(model.hf)
    found = filling_log_probs(model, one, fillings(one))
    assert_same_state(before, state_of(model.hf))
    for filling, value in zip(fillings(one), found, strict=True):
        forced = model.force(one.source, one.prefix + "".join(filling))
        assert value == pytest.approx(float(forced.log_probs[:-1].sum()), abs=1e-4)  # without the end


def test_rank_and_exposure_of_every_filling(model):
    one = secret()
    values = filling_log_probs(model, one, fillings(one))
    order = np.argsort(-values)
    for rank, i in ((1, order[0]), (6, order[5]), (16, order[-1])):
        found = canary(model, [secret(fillings(one)[i])])["canaries"][0]
        assert found["rank"] == rank
        assert found["exposure"] == pytest.approx(4 - math.log2(rank), abs=1e-3)
        assert found["p_value"] == pytest.approx(rank / 16)
    assert exposure(1, 1024) == 10
    assert exposure(1024, 1024) == 0


def test_a_model_that_knows_nothing_passes_and_one_that_copies_its_secret_fails():
    copy = explain.copy_model()
    # The copy model writes what it reads, so a secret that stands in the source is its likeliest filling.
    parts = tuple("abcdefgh")
    known = Canary("a b c", "", ("a", " b", " c"), (parts, *[tuple(f" {p}" for p in parts)] * 2), 1)
    found = canary(copy, [known])
    assert found["passed"] is False
    assert found["canaries"][0]["rank"] == 1
    assert found["canaries"][0]["exposure"] == pytest.approx(9.0)
    other = Canary("a b c", "", ("d", " e", " h"), known.choices, 1)
    assert canary(copy, [other])["passed"] is True


def test_of_many_fillings_some_are_drawn_and_the_secret_counts_in(model, monkeypatch):
    monkeypatch.setattr(room, "MOST", 12)
    found = canary(model, [secret()])["canaries"][0]
    assert found["space"] == 16
    assert 0 < found["compared"] <= 12
    assert 0 < found["p_value"] <= 1
    assert found["most"] == pytest.approx(math.log2(found["compared"] + 1), abs=1e-3)


def test_files_are_read_back_and_refused_where_they_are_wrong(tmp_path, model):
    path = write_canaries(tmp_path / "canaries.json", [secret()])
    assert read_canaries(path) == [secret()]
    found = run_tests(model, policy_of({"tests": {"canary": {"file": str(path)}}}), None, [], {})
    assert found["canary"]["canaries"][0]["secret"] == "chat chien"
    wrong = write_canaries(tmp_path / "wrong.json", [secret(("loup", " chien"))])
    with pytest.raises(InputError, match="canary 0: its filling is not among its choices"):
        read_canaries(wrong)
    with pytest.raises(FileError):
        read_canaries(tmp_path / "none.json")
    with pytest.raises(InputError, match="no canaries"):
        canary(model, [])
