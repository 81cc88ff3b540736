"""Several tasks in one run: the file that names them, the rates that they are drawn at, and their scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from explain.errors import EmptyTextError, FileError, InputError
from explain.runs import Run
from explain.training.batches import MixedBatches
from explain.training.config import TrainConfig, open_run
from explain.training.mixture import Mixture, read_mixture
from explain.training.prepare import prepare
from explain.training.train import train

NOUNS = {"cat": "chat", "dog": "chien", "bird": "oiseau", "tree": "arbre"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables, with other columns, and a mixture of them."""
    path = tmp_path_factory.mktemp("mixture")
    rows = [f"a {a} sees the {b}\tun {NOUNS[a]} voit le {NOUNS[b]}\n" for a in NOUNS for b in NOUNS]
    (path / "pairs.tsv").write_text("source\ttarget\n" + "".join(rows))
    (path / "nouns").mkdir()
    lines = [f"the {a} of the {b},{a}\n" for a in NOUNS for b in NOUNS for _ in range(2)]
    (path / "nouns" / "a.csv").write_text("phrase,noun\n" + "".join(lines))
    (path / "mix.yaml").write_text(
        "tasks:\n"
        "  translate: {data: pairs.tsv}\n"
        '  noun: {data: nouns, prefix: "noun of ", source_column: phrase, target_column: noun}\n'
        "temperature: 2\n"
    )
    return path


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, (0.1, 0.9)),
        ({"temperature": 2}, (0.25, 0.75)),
        ({"limit": 100}, (0.5, 0.5)),
        ({"limit": 300}, (0.25, 0.75)),
    ],
)
def test_rates_follow_the_number_of_pairs(options, rates):
    tasks = {"a": {"data": "a.tsv"}, "b": {"data": "b.tsv"}}
    mixture = Mixture.model_validate({"tasks": tasks, **options})
    assert mixture.rates([100, 900]) == pytest.approx(rates)


def test_tasks_may_say_their_rates():
    tasks = {"a": {"data": "a.tsv", "rate": 3}, "b": {"data": "b.tsv", "rate": 1}}
    assert Mixture.model_validate({"tasks": tasks}).rates([1, 10**6]) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("tasks: {a: {data: x}\n", FileError, "line 2 is not YAML"),
        ("- a\n", FileError, "does not hold a mixture"),
        ("temperature: 2\n", InputError, "tasks: Field required"),
        ("tasks: {}\n", InputError, "tasks"),
        ("tasks: {a: {prefix: x}}\n", InputError, "tasks.a.data: Field required"),
        (
            "tasks: {a: {data: x, weight: 2}}\n",
            InputError,
            "no such key; known: data, validation, prefix, rate",
        ),
        ("tasks: {a: {data: x, rate: 0}}\n", InputError, "greater than 0"),
        ("tasks: {a: {data: x, rate: .inf}}\n", InputError, "tasks.a.rate"),
        ("tasks: {a: {data: x, rate: 1}, b: {data: y}}\n", InputError, "every task a rate, or none"),
        ("tasks: {a: {data: x, rate: 1}}\ntemperature: 2\n", InputError, "need no temperature"),
        ("tasks: {a: {data: x}}\nmixing: all\n", InputError, "mixing: there is no such key; known: tasks"),
    ],
)
def test_a_mixture_that_cannot_be_read_says_why(tmp_path, text, kind, message):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(kind, match=message) as caught:
        read_mixture(tmp_path / "m.yaml")
    assert "m.yaml" in str(caught.value)


def make(**changes) -> MixedBatches:
    rows = [[number + 10, 1] for number in range(60)]
    options = {"steps": 120, "batch_size": 8, "seed": 0, "pad_id": 0}
    return MixedBatches(rows, rows, sizes=[50, 10], rates=[1, 3], **{**options, **changes})


def test_tasks_are_drawn_at_their_rates_and_every_pair_in_turn():
    batches = make()
    drawn = [int(row) for step in range(100) for row in batches.rows(step)]
    small = [row for row in drawn if row >= 50]
    assert len(drawn) == 800
    assert len(small) / len(drawn) == pytest.approx(0.75, abs=0.05)
    for rows in (small, [row for row in drawn if row < 50]):
        counts = Counter(rows)
        # A pool of 50 batches shuffles what it draws, so that only the counts of whole pools show it.
        assert len(counts) == (10 if rows is small else 50)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_mixed_batch_depends_on_seed_and_step_alone():
    whole, again = make(), make()
    order = [int(step) for step in np.random.default_rng(0).permutation(120)[:20]]
    for step in order:
        assert torch.equal(whole[step]["input_ids"], again[step]["input_ids"])
    assert not torch.equal(make(seed=1)[0]["input_ids"], whole[0]["input_ids"])
    assert all(len(batches.rows(119)) == 8 for batches in (whole, again))


@pytest.fixture(scope="module")
def options(folder: Path) -> TrainConfig:
    return TrainConfig(data=str(folder / "mix.yaml"), steps=12, batch_size=8, preset="tiny")


@pytest.fixture(scope="module")
def finished(options: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = open_run(options, tmp_path_factory.mktemp("runs") / "whole")
    train(options, run)
    return run


def test_sources_begin_with_their_task(options):
    ready = prepare(options)
    translate, noun = ready.shares
    sources = [pair.source for pair in ready.train.pairs]
    assert all(source.startswith("translate: a ") for source in sources[: translate.train])
    assert all(source.startswith("noun of the ") for source in sources[translate.train :])
    assert noun.rate > translate.rate
    for number, prefix in enumerate(("translate: ", "noun of ")):
        part = ready.validation_of(number)
        assert part.pairs
        assert all(pair.source.startswith(prefix) for pair in part.pairs)


def test_a_run_scores_each_task_and_says_what_it_mixed(finished):
    manifest = finished.manifest
    assert list(manifest["result"]["tasks"]) == ["translate", "noun"]
    assert (
        sum(one["examples"] for one in manifest["result"]["tasks"].values()) == manifest["result"]["examples"]
    )
    assert [one["prefix"] for one in manifest["tasks"]] == ["translate: ", "noun of "]
    assert "task noun ('noun of '):" in (finished.path / "log.txt").read_text()
    assert manifest["recipe"]["shape"]["width"] == 64


def test_a_stopped_mixture_goes_on_to_the_same_model(options, finished, tmp_path):
    run = open_run(options, tmp_path / "run")
    train(options, run, lambda one: run.request("stop") if one["kind"] == "step" else None)
    assert run.state == "stopped"
    resumed = TrainConfig(resume=True)
    train(resumed, open_run(resumed, run.path))
    assert run.manifest["model_digest"] == finished.manifest["model_digest"]


def test_other_rates_are_other_data(options, folder):
    before = prepare(options).digest
    other = folder / "other.yaml"
    other.write_text((folder / "mix.yaml").read_text().replace("temperature: 2", "temperature: 5"))
    assert prepare(TrainConfig(data=str(other), steps=2)).digest != before


def test_a_mixture_names_its_own_validation_files(folder, tmp_path):
    config = TrainConfig(data=str(folder / "mix.yaml"), validation=str(folder / "pairs.tsv"))
    with pytest.raises(InputError, match="names its tasks' validation files itself"):
        prepare(config)
    (tmp_path / "bad.tsv").write_text("source\ttarget\na\tb\n\tb\n")
    (tmp_path / "m.yaml").write_text("tasks: {one: {data: bad.tsv}}\n")
    with pytest.raises(EmptyTextError, match=r"bad.tsv, line 3 has an empty source"):
        prepare(TrainConfig(data=str(tmp_path / "m.yaml")))
