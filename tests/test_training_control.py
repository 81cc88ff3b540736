"""Training under control: watched, paused, stopped, killed, steered, and what goes wrong said clearly."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from explain.runs import Run
from explain.training.config import TrainConfig, open_run
from explain.training.train import train

SUBJECTS = {"a cat": "un chat", "a bird": "un oiseau", "the dog": "le chien", "the tree": "l'arbre"}
VERBS = {"sees": "voit", "likes": "aime", "eats": "mange", "knows": "connaît"}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of 20 steps on 64 sentences, of a model with dropout."""
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    rows = [
        f"{a} {verb} {b}.\t{SUBJECTS[a]} {VERBS[verb]} {SUBJECTS[b]}."
        for a in SUBJECTS
        for verb in VERBS
        for b in SUBJECTS
    ]
    path.write_text("\n".join(["source\ttarget", *rows, ""]), encoding="utf-8")
    return TrainConfig(data=str(path), steps=20, batch_size=16)


@pytest.fixture(scope="module")
def finished(options: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing happened to."""
    run = open_run(options, tmp_path_factory.mktemp("runs") / "whole")
    train(options, run)
    return run


class Onlooker:
    """Looks every seventh step, uses up random numbers, leaves gradients, and keeps a file for each step."""

    def __init__(self):
        self.looks: list[int] = []

    def due(self, step: int) -> bool:
        return step % 7 == 0

    def look(self, model, tokenizer, step: int, run: Run) -> None:
        assert not any(module.training for module in model.modules())
        torch.rand(3), np.random.rand(3), random.random()
        batch = tokenizer(["a cat sees the dog."], return_tensors="pt")
        model(**batch, labels=batch["input_ids"]).loss.backward()
        folder = run.path / "looks"
        folder.mkdir(exist_ok=True)
        (folder / f"{step}.txt").write_text(f"{sum(p.double().sum().item() for p in model.parameters())}")
        self.looks.append(step)


def kept(run: Run) -> dict[int, str]:
    """What an onlooker kept, by step."""
    return {int(path.stem): path.read_text() for path in Path(run.path / "looks").iterdir()}


def test_training_is_the_same_with_a_watch(options, finished, tmp_path):
    watch = Onlooker()
    run = open_run(options, tmp_path / "run")
    train(options, run, watch=watch)
    assert watch.looks == [0, 7, 14, 20]
    assert run.manifest["model_digest"] == finished.manifest["model_digest"]


def test_a_resumed_run_looks_at_nothing_twice(options, finished, tmp_path):
    whole = open_run(options, tmp_path / "whole")
    train(options, whole, watch=Onlooker())
    run = open_run(options, tmp_path / "run")
    first, second = Onlooker(), Onlooker()
    train(options, run, lambda one: run.request("stop") if one["step"] == 14 else None, watch=first)
    resumed = dataclasses.replace(options, resume=True)
    train(resumed, open_run(resumed, run.path), watch=second)
    assert first.looks + second.looks == [0, 7, 14, 20]
    assert kept(run) == kept(whole)
    assert run.manifest["model_digest"] == finished.manifest["model_digest"]
