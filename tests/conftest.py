"""Shared fixtures; the environment is set before torch is imported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

from explain.model import Seq2Seq
from tests.models import FAMILIES, tiny

# Shared machines are slow at times; a property is about values, not about time.
settings.register_profile("explain", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("explain")

SENTENCES = ["the cat sees a big dog", "a bird", "the small red house is near the old river"]
OUTPUTS = ["le chat la maison un chien", "un oiseau", "la maison une"]


@pytest.fixture(scope="session", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    """One tiny random model of every family."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def bart() -> Seq2Seq:
    """One tiny BART where the family does not matter."""
    return tiny("bart")


@pytest.fixture(scope="session")
def t5() -> Seq2Seq:
    """One tiny T5."""
    return tiny("t5")


@pytest.fixture(scope="session")
def folder(bart: Seq2Seq, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `save_pretrained` makes it."""
    path = tmp_path_factory.mktemp("models") / "bart"
    bart.hf.save_pretrained(path)
    bart.tokenizer.save_pretrained(path)
    return path
