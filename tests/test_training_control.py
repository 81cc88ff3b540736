"""Training under control: watched, paused, stopped, killed, steered, and what goes wrong said clearly."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import explain
from explain import terminal
from explain.cli import app
from explain.errors import (
    ExplainError,
    FileError,
    InputError,
    RunError,
    TrainingError,
    UnknownNameError,
)
from explain.runs import Run, list_runs
from explain.training import jobs
from explain.training.batches import Batches
from explain.training.checkpoints import last_checkpoint
from explain.training.config import TrainConfig, open_run
from explain.training.crew import Parts, together
from explain.training.train import _Job, train
from tests.models import network, tokenizer

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
        assert torch.rand(3).sum() + np.random.rand(3).sum() + random.random() > 0
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


# ---- the learning rate ----------------------------------------------------------------------------------


def rates(run: Run) -> dict[int, float]:
    """The learning rate of each recorded step."""
    return {one["step"]: one["learning_rate"] for one in run.progress() if one["kind"] == "step"}


@pytest.fixture
def every_step(monkeypatch):
    """Each step is recorded, however fast."""
    monkeypatch.setattr("explain.training.record.RECORD_SECONDS", 0.0)


@pytest.fixture(scope="module")
def changed(options, tmp_path_factory):
    """A run whose learning rate was changed after step 6, while it went on."""
    run = open_run(options, tmp_path_factory.mktemp("runs") / "changed")

    def ask(record):
        if record["step"] == 6 and record["kind"] == "evaluation":
            run.request_rate(1e-4)
            assert run.requested_rate() == 1e-4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explain.training.record.RECORD_SECONDS", 0.0)
        train(options, run, ask)
    return run


def test_the_learning_rate_changes_from_the_next_step_on(changed, options, tmp_path):
    course = rates(changed)
    assert course[6] > 1e-3 > 1e-4 >= course[7] > course[20] > 0
    assert changed.manifest["recipe"]["rates"] == [[6, 1e-4]]
    assert [
        (one["step"], one["highest"]) for one in changed.progress() if one["kind"] == "learning_rate"
    ] == [(6, 1e-4)]
    assert changed.requested_rate() is None


def test_a_changed_run_can_be_made_again_and_resumed(changed, options, tmp_path, every_step):
    again = dataclasses.replace(options, lr_at=("6:0.0001",))
    run = open_run(again, tmp_path / "again")
    # Stopped before the change, so that what was planned is kept over the resumption.
    train(again, run, lambda one: run.request("stop") if one["step"] == 4 else None)
    resumed = dataclasses.replace(options, resume=True)
    train(resumed, open_run(resumed, run.path))
    assert rates(run) == rates(changed)
    assert run.manifest["model_digest"] == changed.manifest["model_digest"]
    notes = [one["step"] for one in run.progress() if one["kind"] == "learning_rate"]
    assert notes == [6]


def test_a_change_asked_of_a_stopped_run_holds_when_it_is_resumed(changed, options, tmp_path, every_step):
    run = open_run(options, tmp_path / "run")
    train(options, run, lambda one: run.request("stop") if one["step"] == 6 else None)
    run.request_rate(1e-4)
    # A job that was killed while it took the request up leaves it to the next one.
    (run.path / "learning_rate").rename(run.path / ".learning_rate")
    resumed = dataclasses.replace(options, resume=True)
    train(resumed, open_run(resumed, run.path))
    assert rates(run) == rates(changed)
    assert run.manifest["model_digest"] == changed.manifest["model_digest"]
    with pytest.raises(RunError, match="it is done"):
        run.request_rate(1e-4)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_learning_rate_is_refused(changed, rate):
    with pytest.raises(InputError, match="above 0"):
        changed.request_rate(rate)


# ---- how a step is computed -----------------------------------------------------------------------------


NO_DROPOUT = {"bart": "dropout", "t5": "dropout_rate"}


@pytest.fixture(scope="module", params=NO_DROPOUT)
def init(request, tmp_path_factory):
    """A model without dropout, so that one step can be computed in two ways."""
    folder = tmp_path_factory.mktemp("models") / request.param
    changes: dict[str, Any] = {NO_DROPOUT[request.param]: 0.0}
    network(request.param, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def further(init, folder, **changes):
    """Three steps of training a model further on odd-sized batches: its weights, by name."""
    data = folder / "words.tsv"
    folder.mkdir()
    rows = ["the cat sees a big dog\tle chat", "a bird\tun oiseau la maison", "the old river is near\tla"] * 3
    data.write_text("\n".join(["source\ttarget", *rows, ""]), encoding="utf-8")
    fields = {"data": str(data), "init": str(init), "steps": 3, "batch_size": 7, "lr": 1e-2, **changes}
    config = TrainConfig(**fields)
    run = open_run(config, folder / "run")
    train(config, run)
    return run, load_file(run.path / "model" / "model.safetensors")


def alike(ours, theirs):
    """Whether two models' weights are the same, up to the rounding of sums.

    Biases of keys are left out: softmax does not notice them, so that their gradient is rounding alone, which
    Adam makes as large as any other.
    """
    names = [name for name in theirs if not name.endswith("k_proj.bias")]
    return all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in names)


@pytest.fixture(scope="module")
def plain(init, tmp_path_factory):
    """The steps computed as usual."""
    return further(init, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("way", [{"accumulate": 3}, {"gradient_checkpointing": True}, {"accumulate": 20}])
def test_a_step_in_parts_or_with_less_memory_is_the_same_step(plain, init, tmp_path, way):
    run, weights = further(init, tmp_path / "other", **way)
    (one, *_), (other, *_) = ([r for r in r.progress() if r["kind"] == "step"] for r in (run, plain[0]))
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert alike(weights, plain[1])


def test_bfloat16_is_for_computing_only(plain, init, tmp_path):
    run, weights = further(init, tmp_path / "other", bf16=True)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    ours, theirs = run.manifest["result"]["loss"], plain[0].manifest["result"]["loss"]
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)
    # What is measured is the model as it is kept, in float32.
    scored = explain.load(run.path)
    pair = scored.force("the cat sees a big dog", "le chat")
    assert torch.isfinite(pair.log_probs).all()


def test_gradients_are_clipped_where_asked(init, tmp_path):
    free, _ = further(init, tmp_path / "free", clip=0.0)
    tight, _ = further(init, tmp_path / "tight", clip=1e-6)
    norms = [[one["grad_norm"] for one in run.progress() if one["kind"] == "step"] for run in (free, tight)]
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-4)  # the norm before it is clipped
    assert norms[0][0] > 0.1
    assert free.manifest["recipe"]["clip"] == 0


def test_parts_of_a_batch_weigh_as_many_tokens_as_they_hold():
    inputs = [[5] * size + [2] for size in (3, 9, 1, 5, 2)]
    labels = [[6] * size + [2] for size in (1, 7, 2, 2, 4)]
    batches = Batches(inputs, labels, steps=2, batch_size=4, seed=0, pad_id=1)
    for size, count in ((1, 2), (2, 1), (2, 3)):
        for step in (0, 1):
            parts = [
                Parts(batches, count=count, rank=rank, size=size)[step * count + part]
                for part in range(count)
                for rank in range(size)
            ]
            whole = batches[step]
            rows = [row for part in parts if part["weight"] for row in part["labels"].tolist()]
            told = sorted([id_ for id_ in row if id_ >= 0] for row in rows)
            assert told == sorted([id_ for id_ in row if id_ >= 0] for row in whole["labels"].tolist())
            assert sum(part["weight"] for part in parts) == pytest.approx(1.0)
            assert all(part["attention_mask"].any(0).all() for part in parts), "no more padding than needed"


# ---- early stopping -------------------------------------------------------------------------------------


def test_training_ends_when_nothing_gets_better(options, tmp_path):
    watch = Onlooker()
    config = dataclasses.replace(options, lr=1e-12, patience=3)
    run = open_run(config, tmp_path / "run")
    result = train(config, run, watch=watch)
    evaluations = [one for one in run.progress() if one["kind"] == "evaluation"]
    assert [one["best"] for one in evaluations[-3:]] == [False] * 3
    assert result["steps"] == evaluations[-1]["step"] == watch.looks[-1] < 20
    assert run.state == "done"
    assert run.manifest["best"]["step"] == evaluations[-4]["step"]
    assert "no better score in 3 evaluations" in (run.path / "log.txt").read_text()


def test_a_run_killed_as_it_ended_early_ends_where_it_was(options, tmp_path, monkeypatch):
    config = dataclasses.replace(options, lr=1e-12, patience=2)
    run = open_run(config, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(
            "explain.training.train._Job.finish", lambda self: (_ for _ in ()).throw(OSError("gone"))
        )
        with pytest.raises(OSError, match="gone"):
            train(config, run)
    step = last_checkpoint(run.path / "checkpoints")
    resumed = dataclasses.replace(config, resume=True)
    result = train(resumed, open_run(resumed, run.path))
    assert step is not None
    assert result["steps"] == int(step.name.removeprefix("checkpoint-")) < 20


def test_a_model_found_best_just_before_a_kill_is_kept_by_the_next_process(
    options, finished, tmp_path, monkeypatch, every_step
):
    run = open_run(options, tmp_path / "run")
    with monkeypatch.context() as patch:

        def gone(self):
            if self.better and self.better["step"] == 8:
                raise OSError("killed between checkpoint and model")

        patch.setattr("explain.training.train._Job.keep_best", gone)
        with pytest.raises(OSError, match="between"):
            train(options, run)
    assert run.manifest.get("best") is None
    resumed = dataclasses.replace(options, resume=True)
    train(resumed, open_run(resumed, run.path), lambda one: run.request("stop") if one["step"] == 9 else None)
    assert run.manifest["best"]["step"] == 8
    train(resumed, open_run(resumed, run.path))
    assert run.manifest["model_digest"] == finished.manifest["model_digest"]


def test_a_model_that_was_kept_is_not_replaced_by_a_later_checkpoint(
    options, tmp_path, monkeypatch, every_step
):
    run, keep = open_run(options, tmp_path / "run"), _Job.keep_best
    with monkeypatch.context() as patch:

        def gone(self):
            keep(self)
            if self.best and self.best["step"] == 8:
                raise OSError("killed after the model was kept")

        patch.setattr("explain.training.train._Job.keep_best", gone)
        with pytest.raises(OSError, match="was kept"):
            train(options, run)
    kept = (run.path / "model" / "model.safetensors").read_bytes()
    resumed = dataclasses.replace(options, resume=True)
    train(resumed, open_run(resumed, run.path), lambda one: run.request("stop") if one["step"] == 9 else None)
    assert last_checkpoint(run.path / "checkpoints").name == "checkpoint-9"
    assert (run.path / "model" / "model.safetensors").read_bytes() == kept


# ---- trackers -------------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_named(options, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"mlflow: it is not installed here \(pip install mlflow\)"):
        open_run(dataclasses.replace(options, report_to=("mlflow",)), tmp_path / "run")
    with pytest.raises(UnknownNameError, match="unknown tracker 'excel'"):
        open_run(dataclasses.replace(options, report_to=("excel",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def reporting_to(options, tracker, monkeypatch):
    """Options that report to a tracker, as if it were installed."""
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", tracker)
    monkeypatch.setattr("explain.training.config.TRACKERS", {"mlflow": ("json",)})
    return dataclasses.replace(options, steps=4, report_to=("mlflow",))


def test_trackers_hear_of_every_record_and_then_of_the_end(options, tmp_path, monkeypatch, capsys):
    heard: list[tuple[int, dict[str, float]]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            heard.append((state.global_step, logs or {}))

        def on_train_end(self, args, state, control, **kwargs):
            heard.append((state.global_step, {"end": 1.0}))

    config = reporting_to(options, Tracker, monkeypatch)
    train(config, open_run(config, tmp_path / "run"))
    losses = [logs["loss"] for _, logs in heard if "grad_norm" in logs]
    assert len(losses) >= 2
    assert [step for step, logs in heard if "eval_exact_match" in logs] == [1, 2, 3, 4]
    assert "test_exact_match" in heard[-2][1]
    assert [logs for _, logs in heard if "end" in logs] == [heard[-1][1]]
    assert capsys.readouterr().out == ""


class Failing(TrainerCallback):
    """A tracker that cannot do what `event` asks of it."""

    event = ""

    def on_train_begin(self, args, state, control, **kwargs):
        self.fail("begin")

    def on_log(self, args, state, control, **kwargs):
        self.fail("log")

    def fail(self, event):
        if event == self.event:
            raise OSError(f"no {event}: the store is gone\nand much more")


def test_a_tracker_that_cannot_begin_is_one_clear_line(options, tmp_path, monkeypatch):
    config = reporting_to(options, type("Tracker", (Failing,), {"event": "begin"}), monkeypatch)
    run = open_run(config, tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"^--report-to mlflow cannot begin: OSError: no begin: the store is gone$"
    ):
        train(config, run)
    assert run.state == "failed"
    without = dataclasses.replace(config, report_to=())
    train(without, open_run(without, run.path))  # nothing was trained, so the folder is free
    assert run.state == "done"


def test_a_tracker_that_fails_on_the_way_ends_no_training(options, tmp_path, monkeypatch):
    config = reporting_to(options, type("Tracker", (Failing,), {"event": "log"}), monkeypatch)
    run = open_run(config, tmp_path / "run")
    train(config, run)
    assert run.state == "done"
    said = [line for line in run.log_tail() if "mlflow hears no more" in line]
    assert len(said) == 1
    assert said[0].endswith("OSError: no log: the store is gone")


@pytest.mark.parametrize(
    ("processes", "reason", "error", "message"),
    [
        (
            "2",
            "[gloo/pair.cc] Connection reset by peer",
            TrainingError,
            "another process of this run has ended",
        ),
        ("2", "the weights are of another shape", RuntimeError, "another shape"),
        ("1", "[gloo/pair.cc] Connection reset by peer", RuntimeError, "Connection reset"),
    ],
)
def test_a_process_that_others_wait_for_in_vain_is_said_clearly(
    monkeypatch, processes, reason, error, message
):
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(error, match=message), together():
        raise RuntimeError(reason)


# ---- what goes wrong ------------------------------------------------------------------------------------


def stopped_at(options, folder, step=8):
    """A run that was stopped, with a checkpoint."""
    run = open_run(options, folder)
    train(options, run, lambda one: run.request("stop") if one["step"] == step else None)
    return run


def go_on(run):
    """Resume a run in this process."""
    config = TrainConfig(resume=True)
    return train(config, open_run(config, run.path))


@pytest.fixture(scope="module")
def stopped(options, tmp_path_factory):
    """A stopped run, to be copied."""
    return stopped_at(options, tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture
def copied(stopped, tmp_path):
    """A stopped run of the test's own."""
    return Run(Path(shutil.copytree(stopped.path, tmp_path / "run")))


def readable(run):
    """The run can still be listed and opened, and its model used."""
    assert run.name in [one.name for one in list_runs(run.path.parent) if not one.problem]
    assert explain.load(run.path).generate("a cat sees the dog.").target_tokens
    assert run.progress()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("torch.save", OSError(errno.ENOSPC, "No space left on device")),
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")),
        (
            "torch.save",
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 20736 vs 20628"),
        ),
        ("transformers.modeling_utils.safe_save_file", SafetensorError("I/O error: No space left on device")),
        # What the library of the tokenizers raises.
        (
            "transformers.PreTrainedTokenizerFast.save_pretrained",
            Exception("No space left on device (os error 28)"),
        ),
    ],
)
def test_a_full_disk_is_said_and_costs_nothing(options, finished, copied, monkeypatch, where, what):
    def full(*args, **kwargs):
        raise what

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(FileError, match=r"cannot write the checkpoint of step .*MiB are free.*resume"):
            go_on(copied)
    assert copied.state == "failed"
    assert "cannot write the checkpoint" in copied.manifest["error"]
    assert [path.name for path in (copied.path / "checkpoints").iterdir()] == ["checkpoint-8"]
    readable(copied)
    go_on(copied)
    assert copied.manifest["model_digest"] == finished.manifest["model_digest"]


def test_a_disk_too_full_for_any_word_does_not_hide_the_reason(copied, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def work():
        with copied.running():
            monkeypatch.setattr("explain.files.tempfile.mkstemp", full)
            monkeypatch.setattr("explain.runs.Run.log", full)
            raise TrainingError("the real reason")

    with pytest.raises(TrainingError, match="the real reason"):
        work()


def test_a_checkpoint_of_another_run_or_model_is_refused(copied, options, finished, tmp_path):
    wider = dataclasses.replace(options, family="t5")
    other = stopped_at(wider, tmp_path / "other")
    shutil.rmtree(copied.path / "checkpoints")
    shutil.copytree(other.path / "checkpoints", copied.path / "checkpoints")
    with pytest.raises(
        RunError, match="checkpoint-8 belongs to another model; put this run's own checkpoint"
    ):
        go_on(copied)
    assert copied.state == "failed"
    readable(copied)
    again = stopped_at(dataclasses.replace(options, seed=3, data=options.data), tmp_path / "again")
    shutil.rmtree(copied.path / "checkpoints")
    shutil.copytree(again.path / "checkpoints", copied.path / "checkpoints")
    with pytest.raises(RunError, match="belongs to another"):
        go_on(copied)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("identity.json", "does not say which run it belongs to"),
        ("optimizer.pt", "cannot be gone on from: it is broken"),
        ("rng_state.pth", "cannot be gone on from: it is broken"),
        ("model.safetensors", "checkpoint-8"),
        ("tokenizer.json", "checkpoint-8"),
    ],
)
def test_a_broken_checkpoint_is_named(copied, file, message):
    path = copied.path / "checkpoints" / "checkpoint-8" / file
    if file == "tokenizer.json":
        path.unlink()
        path.with_name("tokenizer_config.json").unlink()
    else:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ExplainError, match=message) as caught:
        go_on(copied)
    assert "\n" not in str(caught.value)
    assert copied.state == "failed"
    readable(copied)


def test_a_model_without_its_tokenizer_is_refused(options, tmp_path, init):
    bare = Path(shutil.copytree(init, tmp_path / "model"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    config = TrainConfig(data=options.data, init=str(bare), steps=1)
    run = open_run(config, tmp_path / "run")
    with pytest.raises(ExplainError, match="tokenizer"):
        train(config, run)
    assert run.state == "failed"
    assert "tokenizer" in run.manifest["error"]


def test_a_data_file_that_breaks_on_the_way_costs_nothing(options, finished, tmp_path):
    data = tmp_path / "pairs.tsv"
    shutil.copy(options.data, data)
    config = dataclasses.replace(options, data=str(data))
    run = stopped_at(config, tmp_path / "run")
    whole = data.read_bytes()
    data.write_bytes(whole[:200] + b"\xff\xfe" + whole[200:])
    with pytest.raises(ExplainError, match=r"pairs\.tsv.* line \d+.* not UTF-8"):
        go_on(run)
    assert run.state == "failed"
    readable(run)
    data.write_bytes(whole)
    go_on(run)
    assert run.manifest["model_digest"] == finished.manifest["model_digest"]


def test_a_run_whose_loss_exploded_goes_on_with_a_smaller_rate(options, tmp_path):
    config = dataclasses.replace(options, lr_at=("12:1e30",))
    run = open_run(config, tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"the loss became \w+ at step 1\d; .*explain runs set-lr .* RATE"
    ):
        train(config, run)
    assert run.state == "failed"
    readable(run)
    run.request_rate(1e-3)
    # The checkpoint before it is from step 12 at the latest, which took the senseless rate up.
    assert go_on(run)["steps"] == 20


# ---- processes ------------------------------------------------------------------------------------------


def test_a_run_at_work_in_this_process_is_not_killed(tmp_path):
    run = Run.create(tmp_path / "run", kind="train")
    with pytest.raises(RunError, match="in this very process"), run.running():
        run.kill()
    with pytest.raises(RunError, match="cannot be killed: its state is failed"):
        run.kill()


@pytest.mark.slow
def test_a_run_is_started_steered_killed_and_resumed_as_a_process(options, finished, tmp_path):
    config = dataclasses.replace(options, steps=4000, batch_size=2)
    run = jobs.start(config, tmp_path / "run", threads=1)
    assert run.state in ("queued", "running")

    def wait(until):
        end = time.monotonic() + 120
        while not until():
            assert time.monotonic() < end, run.log_tail(5)
            time.sleep(0.02)

    wait(lambda: len(run.progress()) > 2)
    run.request("pause")
    wait(lambda: run.state == "paused")
    run.request_rate(1e-4)
    run.request("continue")
    wait(lambda: any(one["kind"] == "learning_rate" for one in run.progress()))
    wait(lambda: last_checkpoint(run.path / "checkpoints") is not None)
    run.kill()
    assert run.state == "stopped"
    step = last_checkpoint(run.path / "checkpoints")
    jobs.resume(run, threads=1)
    wait(lambda: run.state == "running" and len(run.progress()) > 2)
    run.request("stop")
    wait(lambda: run.state == "stopped")
    after = last_checkpoint(run.path / "checkpoints")
    assert step is not None
    assert after is not None
    assert int(after.name[11:]) >= int(step.name[11:])
    assert run.manifest["recipe"]["rates"][0][1] == 1e-4


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(plain, init, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    data = plain[0].config["data"]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
        "explain.cli", "train", "--data", data, "--init", str(init), "--steps", "3", "--batch-size", "7",
        "--lr", "0.01", "--out", str(folder / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote") == 1, "only the first process speaks"
    run = Run.open(folder / "run")
    assert run.state == "done"
    assert [one["step"] for one in run.progress() if one["kind"] == "evaluation"] == [1, 2, 3]
    weights = load_file(run.path / "model" / "model.safetensors")
    assert alike(weights, plain[1])


# ---- the command line -----------------------------------------------------------------------------------


def cli(*arguments, capsys):
    """One command in this process: exit status, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_runs_are_steered_by_name_or_path(tmp_path, capsys):
    run = Run.create(tmp_path / "mine", kind="train")
    for name, word in (("pause", "pause"), ("continue", "continue"), ("stop", "stop")):
        assert cli("runs", "--runs", tmp_path, name, "mine", capsys=capsys)[0] == 0
        assert run.requested() == word
    assert cli("runs", "pause", run.path, capsys=capsys)[0] == 0
    assert run.requested() == "pause"
    status, out, _ = cli("runs", "set-lr", "mine", "0.002", "--runs", tmp_path, capsys=capsys)
    assert (status, run.requested_rate()) == (0, 0.002)
    assert "from its next step on" in out
    status, _, err = cli("runs", "set-lr", run.path, "-1", capsys=capsys)
    assert status == 2
    status, _, err = cli("runs", "stop", "nobody", "--runs", tmp_path, capsys=capsys)
    assert (status, "no run folder" in err) == (2, True)


def test_the_options_are_a_command_line_and_back(options):
    config = dataclasses.replace(
        options, bf16=True, lr=3e-4, lr_at=("5:0.1", "9:1e-05"), report_to=("mlflow",), clip=0.5
    )
    words = config.arguments("runs/x")
    assert words[:3] == ["train", "--out", "runs/x"]
    assert words.count("--lr-at") == 2
    assert {"--bf16", "--clip", "0.5", "0.0003"} <= set(words)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
