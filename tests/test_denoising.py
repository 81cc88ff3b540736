"""Denoising: which spans are hidden, in what form, and a run that learns from text before pairs."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.errors import FileError, InputError, ModelError
from explain.runs import Run
from explain.training import recipes
from explain.training.batches import Batches, StagedBatches
from explain.training.config import TrainConfig, open_run
from explain.training.denoising import DENSITY, DenoisingBatches, corrupt, count_spans, pack, sentinel_ids
from explain.training.prepare import prepare
from explain.training.recipes import Recipe
from explain.training.train import train
from tests.models import tiny

SENTINELS = list(range(1000, 1030))
EOS, PAD = 1, 0


def restored(source: list[int], target: list[int]) -> list[int]:
    """The text that a source and a target were made of."""
    spans: dict[int, list[int]] = {}
    for id_ in target:
        if id_ in SENTINELS:
            last = id_
            spans[last] = []
        else:
            spans[last].append(id_)
    found = []
    for id_ in source:
        found += spans[id_] if id_ in SENTINELS else [id_]
    return found


@given(st.integers(2, 120), st.integers(0, 2**31))
@settings(deadline=None)
def test_source_and_target_together_are_the_text(length, seed):
    ids = np.arange(10, 10 + length)
    source, target = (part.tolist() for part in corrupt(ids, SENTINELS, np.random.default_rng(seed)))
    hidden, spans = count_spans(length)
    assert restored(source, target) == ids.tolist()
    assert [id_ for id_ in source if id_ in SENTINELS] == SENTINELS[:spans]
    assert [id_ for id_ in target if id_ in SENTINELS] == SENTINELS[: spans + 1]
    assert target[-1] == SENTINELS[spans]
    assert len(target) == hidden + spans + 1
    places = [place for place, id_ in enumerate(source) if id_ in SENTINELS]
    assert all(b - a > 1 for a, b in pairwise(places))  # or they would be one span


def test_fifteen_per_cent_in_spans_of_three_anywhere():
    assert count_spans(1) == (0, 0)
    assert count_spans(100) == (15, 5)
    rng = np.random.default_rng(0)
    hidden = np.zeros(40)
    for _ in range(2_000):
        source, _ = corrupt(np.arange(40), SENTINELS, rng)
        hidden += ~np.isin(np.arange(40), source)
    assert hidden.mean() / 2_000 == pytest.approx(DENSITY, abs=0.01)
    assert hidden.min() / 2_000 > DENSITY / 4  # the ends as well
    assert hidden.max() / 2_000 < DENSITY * 1.5


@given(st.lists(st.lists(st.integers(2, 99), max_size=30), max_size=12), st.integers(2, 20))
def test_packing_loses_nothing(texts, longest):
    rows = pack([[*text, EOS] for text in texts], EOS, longest)
    whole = [id_ for text in texts for id_ in text]
    assert all(1 < len(row) <= longest for row in rows)
    found = [id_ for row in rows for id_ in row]
    assert len(whole) - len(found) <= len(texts)  # a row of one token hides nothing
    places = iter(whole)
    assert all(id_ in places for id_ in found)
    assert pack([[5, 6, EOS], [7, 8, EOS], [9, EOS]], EOS, 4) == [[5, 6, 7, 8]]
    assert pack([[5, 6, 7, 8, 9, EOS]], EOS, 3) == [[5, 6, 7], [8, 9]]


def make(seed: int = 0) -> DenoisingBatches:
    rng = np.random.default_rng(1)
    rows = [rng.integers(10, 90, size=size).tolist() for size in rng.integers(2, 40, size=53)]
    return DenoisingBatches(rows, SENTINELS, steps=30, batch_size=8, seed=seed, pad_id=PAD, eos_id=EOS)


def test_a_batch_depends_on_seed_and_step_alone():
    one, two = make(), make()
    for step in (17, 0, 5):
        assert all(torch.equal(one[step][name], tensor) for name, tensor in two[step].items())
    assert not torch.equal(one[0]["labels"], make(seed=1)[0]["labels"])
    # The second time round, other spans of the same texts.
    assert one.steps_per_epoch == 7
    batch = one[3]
    assert one.tokens(3) == int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum())
    for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert row[int(mask.sum()) - 1] == EOS


def test_stages_follow_one_another():
    first = make()
    last = Batches([[5, 1]] * 4, [[6, 1]] * 4, steps=3, batch_size=2, seed=0, pad_id=PAD)
    staged = StagedBatches(first, last)
    assert (len(staged), staged.batch_size, staged.steps_per_epoch) == (33, 2, 2)
    assert torch.equal(staged[29]["labels"], first[29]["labels"])
    assert torch.equal(staged[30]["labels"], last[0]["labels"])
    assert staged.tokens(32) == last.tokens(2)


def test_the_learning_rate_begins_anew_after_denoising():
    recipe = Recipe(warmup=10, denoise_steps=100, learning_rate=1.0)
    course, alone = recipes.course(recipe, 300), recipes.course(Recipe(warmup=10), 200)
    assert [course(step) for step in range(100, 300)] == [alone(step) for step in range(200)]
    assert course(99) < 0.01 < course(50)


def test_too_few_sentinels_are_refused(data, tmp_path):
    model = tiny("t5")
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    config = dataclasses.replace(data, init=str(tmp_path / "model"), tokenizer=None)
    with pytest.raises(ModelError, match=r"needs \d sentinel tokens, such as <extra_id_0>.* has 0"):
        train(config, open_run(config, tmp_path / "run"))


# ---- a run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Ten steps on texts, ten on pairs."""
    folder = tmp_path_factory.mktemp("denoising")
    nouns = {"cat": "chat", "dog": "chien", "bird": "oiseau", "tree": "arbre"}
    pairs = [(f"a {a} sees the {b}", f"un {nouns[a]} voit le {nouns[b]}") for a in nouns for b in nouns]
    rows = "".join(f"{source}\t{target}\n" for source, target in pairs)
    (folder / "pairs.tsv").write_text(f"source\ttarget\n{rows}")
    texts = [text for pair in pairs for text in pair]
    (folder / "texts.txt").write_text("\n\n".join(texts) + "\n")
    return TrainConfig(
        data=str(folder / "pairs.tsv"),
        denoise=str(folder / "texts.txt"),
        denoise_steps=10,
        steps=10,
        batch_size=8,
        tokenizer="word",
    )


@pytest.fixture(scope="module")
def finished(data: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = open_run(data, tmp_path_factory.mktemp("runs") / "whole")
    train(data, run)
    return run


def test_a_run_learns_from_text_first(data, finished):
    assert finished.manifest["result"]["steps"] == 20
    assert finished.manifest["recipe"]["denoise_steps"] == 10
    ready = prepare(data)
    assert len(sentinel_ids(ready.tokenizer)) > 1
    assert sum(map(len, ready.texts)) == 32 * 5  # empty lines between texts are no texts


class _StopAt:
    """Asks for a stop after a step: records are written by the clock, looks are not."""

    def __init__(self, step: int):
        self.step = step

    def due(self, step: int) -> bool:
        return step == self.step

    def look(self, model: object, tokenizer: object, step: int, run: Run) -> None:
        if step == self.step:
            run.request("stop")


@pytest.mark.parametrize("stop", [5, 15])
def test_a_run_stopped_in_either_stage_goes_on_to_the_same_model(data, finished, stop, tmp_path):
    run = open_run(data, tmp_path / "run")
    train(data, run, watch=_StopAt(stop))
    assert run.state == "stopped"
    resumed = TrainConfig(resume=True)
    train(resumed, open_run(resumed, run.path))
    assert run.manifest["model_digest"] == finished.manifest["model_digest"]


def test_texts_that_change_are_another_run(data, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("some text to learn from\n")
    changed = prepare(dataclasses.replace(data, denoise=str(texts)))
    assert changed.digest != prepare(data).digest
    texts.write_text("a\n")
    with pytest.raises(InputError, match="no text to denoise"):
        prepare(dataclasses.replace(data, denoise=str(texts)))
    with pytest.raises(FileError, match="cannot read"):
        prepare(dataclasses.replace(data, denoise=str(Path("/nowhere/a.txt"))))
