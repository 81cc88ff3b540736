"""Smaller models: each kind loads like any other, keeps its promises, and leaves the original alone."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import explain
from explain.analysis.heads import Head
from explain.compression import (
    FILE,
    CompressConfig,
    Compression,
    choose_layers,
    compress,
    distillation_loss,
    figures,
    hold_zeros,
    is_int8,
    open_run,
    prune_heads,
    prune_neurons,
    prune_weights,
    quantised,
    sensitivities,
    silence_heads,
    student,
)
from explain.compression.prune import linears
from explain.errors import ExplainError, InputError, ModelError, UnknownNameError
from explain.model import Seq2Seq, doctor
from explain.model.int8 import quantise, restored
from explain.runs import Run
from explain.training.batches import collate
from explain.training.config import TrainConfig
from explain.training.config import open_run as open_training
from explain.training.data import Pair
from explain.training.prepare import encode_pairs
from explain.training.train import train
from tests.conftest import SENTENCES
from tests.models import tiny
from tests.state import assert_same_state, state_of

TEXT = SENTENCES[0]
PAIRS = [("the cat sees a bird", "le chat"), ("a dog runs", "un chien"), ("the house is big", "la maison")]


def reloaded(hf, model: Seq2Seq, path: Path) -> Seq2Seq:
    hf.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return explain.load(path)


def numbers(hf) -> int:
    return sum(p.numel() for n, p in hf.named_parameters() if not n.endswith("weight_scale"))


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch):
    """How fast a tiny random model is, nobody asks."""
    for name, value in (("_ROUNDS", 2), ("_ROWS", 2), ("_TOKENS", 3)):
        monkeypatch.setattr(figures, name, value)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    lines = [
        f"{source} {word}\t{target}" for word in ("old", "new", "red", "blue") for source, target in PAIRS
    ]
    path.write_text("\n".join(["source\ttarget", *lines]) + "\n", encoding="utf-8")
    return path


def done(folder: Path, out: Path, **options) -> Compression:
    config, run = open_run(CompressConfig(str(folder), **options), out)
    found = compress(config, run)
    assert found is not None
    return found


# ---- every family, every kind ----------------------------------------------------------------------------


def test_int8_loads_shrinks_and_is_close(model, tmp_path):
    before = state_of(model.hf)
    small = quantised(model.hf)
    assert_same_state(before, state_of(model.hf))
    opened = reloaded(small, model, tmp_path / "int8")
    model.hf.save_pretrained(tmp_path / "float")
    assert is_int8(opened.hf)
    assert opened.digest == explain.wrap(small, model.tokenizer).digest
    assert all(check.passed for check in doctor(opened))
    kept, whole = (sum(p.nbytes for p in hf.parameters()) for hf in (opened.hf, model.hf))
    assert kept < 0.6 * whole
    assert numbers(opened.hf) == numbers(model.hf)
    given = model.force(TEXT, "le chat"), opened.force(TEXT, "le chat")
    assert (given[0].log_probs - given[1].log_probs).abs().max() < 0.2
    # `from_pretrained` of transformers opens it as well, and it can be saved again.
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "int8")
    assert reloaded(plain, model, tmp_path / "again").digest == opened.digest


def test_pruned_models_and_students_load(model, tmp_path):
    before = state_of(model.hf)
    hf, family = model.hf, model.family
    made = {
        "weights": prune_weights(hf, family, 0.5),
        "neurons": prune_neurons(hf, family, 0.5),
        "heads": prune_heads(hf, family, 0.5),
        "one head": silence_heads(hf, family, [Head("decoder.1.cross", 1)]),
        "student": student(hf, family, choose_layers(hf, family, "1")),
    }
    assert_same_state(before, state_of(hf))
    for name, smaller in made.items():
        opened = reloaded(smaller, model, tmp_path / name)
        assert all(check.passed for check in doctor(opened)), name
        assert opened.generate(TEXT).target_tokens, name
    zeros = sum(int((part.weight == 0).sum()) for part in linears(made["weights"], family).values())
    total = sum(part.weight.numel() for part in linears(hf, family).values())
    assert zeros == pytest.approx(total / 2, abs=1)
    assert numbers(made["neurons"]) < numbers(hf)
    assert numbers(made["student"]) < 0.75 * numbers(hf)
    assert (numbers(made["heads"]) < numbers(hf)) == (family.name == "T5")


def test_neurons_that_do_nothing_can_go_without_a_trace(model):
    """Taking out what is zero anyway changes no output: rows, columns and biases were matched rightly."""
    hf = copy.deepcopy(model.hf)
    for name, part in linears(hf, model.family).items():
        if name.endswith((".fc2", ".wo")):
            part.weight.data[:, ::2] = 0
    smaller = prune_neurons(hf, model.family, 0.5)
    one, other = (explain.wrap(m, model.tokenizer).force(TEXT, "le chat") for m in (hf, smaller))
    assert torch.allclose(one.log_probs, other.log_probs, atol=1e-4)


def test_heads_taken_out_of_t5_do_what_silenced_heads_do(t5):
    """With position biases shared between layers, the same heads must go in all layers of a stack."""
    importance = {block: torch.tensor([2.0, 1.0]) for block in ("encoder.0.self", "encoder.1.self")}
    for layer in (0, 1):
        importance |= {f"decoder.{layer}.self": torch.tensor([1.0, 2.0])}
        importance |= {f"decoder.{layer}.cross": torch.tensor([1.0 + layer, 1.5])}
    smaller = prune_heads(t5.hf, t5.family, 0.5, importance)
    gone = {block: int(scores.argmin()) for block, scores in importance.items()}
    silent = silence_heads(t5.hf, t5.family, [Head(block, index) for block, index in gone.items()])
    one, other = (explain.wrap(m, t5.tokenizer).force(TEXT, "le chat") for m in (smaller, silent))
    assert torch.allclose(one.log_probs, other.log_probs, atol=1e-5)
    assert smaller.config.num_heads == 1


def test_a_student_with_all_of_a_stack_keeps_it(t5):
    made = student(t5.hf, t5.family, choose_layers(t5.hf, t5.family, "2:1,"))
    ids = torch.tensor([[5, 6, 7, 2]])
    assert torch.equal(made.encoder(ids).last_hidden_state, t5.hf.encoder(ids).last_hidden_state)
    assert len(made.decoder.block) == 1


# ---- int8 ------------------------------------------------------------------------------------------------


def test_rounding_is_within_half_a_step():
    weight = torch.randn(6, 9)
    weight[2] = 0
    kept, scale = quantise(weight)
    assert kept.dtype == torch.int8
    assert ((kept * scale - weight).abs() <= scale / 2 + 1e-7).all()
    assert (kept[2] == 0).all()


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_every_method_explains_int8_as_the_same_weights_in_float(family):
    model = tiny(family)
    small = explain.wrap(quantised(model.hf), model.tokenizer)
    twin = explain.wrap(restored(copy.deepcopy(small.hf)), model.tokenizer)
    assert not is_int8(twin.hf)
    one, other = small.force(TEXT, "le chat"), twin.force(TEXT, "le chat")
    for method in explain.methods()["name"]:
        a, b = small.attribute(one, method=method), twin.attribute(other, method=method)
        assert torch.allclose(a.source, b.source, atol=1e-3, equal_nan=True), method
        assert torch.allclose(a.prefix, b.prefix, atol=1e-3, equal_nan=True), method


def test_int8_is_not_trained_further(tmp_path, bart, pairs):
    reloaded(quantised(bart.hf), bart, tmp_path / "int8")
    config = TrainConfig(data=str(pairs), init=str(tmp_path / "int8"), steps=1)
    with pytest.raises(ModelError, match="int8, which no training"):
        train(config, open_training(config, tmp_path / "run"))


# ---- training --------------------------------------------------------------------------------------------


def test_zeros_hold_and_the_rest_learns(bart):
    made = prune_weights(bart.hf, bart.family, 0.5)
    zeros = {name: part.weight == 0 for name, part in linears(made, bart.family).items()}
    before = {name: part.weight.detach().clone() for name, part in linears(made, bart.family).items()}
    hold_zeros(bart.family, made)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(5):
        made(input_ids=torch.tensor([[5, 6, 2]]), labels=torch.tensor([[7, 8, 2]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, part in linears(made, bart.family).items():
        assert torch.equal(part.weight == 0, zeros[name])
        assert not torch.equal(part.weight, before[name])


def test_sensitivities_are_those_of_autograd(bart):
    data = encode_pairs(bart.tokenizer, [Pair(*pair) for pair in PAIRS], bart.hf)
    before = state_of(bart.hf)
    found = sensitivities(bart.hf, bart.family, data, 1)
    assert_same_state(before, state_of(bart.hf))
    name, part = next(iter(linears(bart.hf, bart.family).items()))
    step = 1e-3
    twin = copy.deepcopy(bart.hf)

    def loss(scale: float) -> float:
        with torch.no_grad():
            linears(twin, bart.family)[name].weight.copy_(part.weight * scale)
            return float(twin(**collate(data.inputs, data.labels, 1)).loss)

    slope = (loss(1 + step) - loss(1 - step)) / (2 * step)
    assert float(found[name].sum()) == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_the_teacher_alone_teaches_nothing_new_to_itself(bart):
    inputs = {"input_ids": torch.tensor([[5, 6, 2]]), "labels": torch.tensor([[7, 8, 2]])}
    with torch.no_grad():
        outputs = bart.hf(**inputs)
    soft = distillation_loss(bart.hf, alpha=1.0, temperature=2.0)(inputs, outputs, outputs.loss)
    assert float(soft) == pytest.approx(0, abs=1e-5)
    hard = distillation_loss(tiny("bart", seed=1).hf, alpha=0.0, temperature=2.0)(
        inputs, outputs, outputs.loss
    )
    assert float(hard) == pytest.approx(float(outputs.loss))


# ---- runs ------------------------------------------------------------------------------------------------


def test_a_run_folder_that_is_a_model(folder, tmp_path, pairs):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = done(folder, tmp_path / "run", quantize="int8", data=str(pairs))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    opened = explain.load(tmp_path / "run")
    assert opened.digest == found.compressed_digest == Run.open(tmp_path / "run").manifest["model_digest"]
    assert found.original_digest == explain.load(folder).digest
    assert found.compressed_size.parameters == found.original_size.parameters
    assert found.compressed_size.disk_bytes < found.original_size.disk_bytes
    assert found.compressed_size.memory_bytes < found.original_size.memory_bytes
    assert found.original_accuracy.examples == found.compressed_accuracy.examples > 0
    assert found.speed.low <= found.speed.ratio <= found.speed.high
    assert Compression.load(tmp_path / "run" / FILE) == found
    written = json.loads((tmp_path / "run" / FILE).read_text("utf-8"))
    assert written["schema"] == "explain/compression@1"
    frame = found.to_frame().set_index("figure")
    assert frame.loc["parameters", "ratio"] == 1
    assert Run.open(tmp_path / "run").state == "done"


def test_without_pairs_no_accuracy_is_claimed(folder, tmp_path):
    found = done(folder, tmp_path / "run", prune=0.5, structure="neurons")
    assert found.original_accuracy is None
    assert found.compressed_size.parameters < found.original_size.parameters
    assert found.compressed_size.disk_bytes < found.original_size.disk_bytes


def test_zeros_save_nothing_until_zipped(folder, tmp_path):
    found = done(folder, tmp_path / "run", prune=0.7)
    before, after = found.original_size, found.compressed_size
    assert after.disk_bytes == pytest.approx(before.disk_bytes, rel=0.01)
    assert after.zipped_bytes < 0.9 * before.zipped_bytes
    assert after.sparsity > 0.3


@pytest.mark.parametrize("structure", ["weights", "heads", "neurons"])
def test_pruning_by_gradient(folder, tmp_path, pairs, structure):
    found = done(folder, tmp_path / "run", prune=0.5, structure=structure, by="gradient", data=str(pairs))
    assert found.compressed_size.nonzero < found.original_size.nonzero


def test_fine_tuning_holds_the_zeros(folder, tmp_path, pairs):
    plain = done(folder, tmp_path / "a", prune=0.5, data=str(pairs))
    tuned = done(folder, tmp_path / "b", prune=0.5, data=str(pairs), finetune_steps=30, lr=3e-3, batch_size=4)
    one, other = explain.load(tmp_path / "a"), explain.load(tmp_path / "b")
    for name, part in linears(one.hf, one.family).items():
        assert torch.equal(part.weight == 0, linears(other.hf, other.family)[name].weight == 0)
    assert tuned.compressed_accuracy.loss < plain.compressed_accuracy.loss
    left = {path.name for path in (tmp_path / "b").iterdir()}
    assert left == {"run.json", "progress.jsonl", "log.txt", "model", FILE}


def test_a_student_learns(folder, tmp_path, pairs):
    options = {"distill": "1", "data": str(pairs), "lr": 3e-3, "batch_size": 4}
    found = done(folder, tmp_path / "run", steps=40, **options)
    assert found.compressed_size.layers == (1, 1)
    assert found.compressed_size.parameters < found.original_size.parameters
    losses = [r["loss"] for r in Run.open(tmp_path / "run").progress() if r["kind"] == "evaluation"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_run_that_was_killed_is_gone_on_with(folder, tmp_path, pairs):
    command = [
        sys.executable,
        "-m",
        "explain.cli",
        "compress",
        str(folder),
        "--distill",
        "1",
        "--data",
        str(pairs),
    ]
    command += ["--steps", "100000", "--lr", "1e-3", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(2400):
            if any((tmp_path / "run" / "checkpoints").glob("checkpoint-*")):
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert Run.open(tmp_path / "run").state == "failed"
    assert not (tmp_path / "run" / FILE).exists()
    if (tmp_path / "run" / "model").exists():  # whole, or not there
        explain.load(tmp_path / "run" / "model")
    config = CompressConfig(str(folder), distill="1", data=str(pairs), steps=5, lr=1e-3)
    with pytest.raises(ExplainError, match="was begun with steps 100000"):
        open_run(config, tmp_path / "run", resume=True)
    again, run = open_run(
        CompressConfig(str(folder), distill="1", data=str(pairs), steps=100_000, lr=1e-3),
        tmp_path / "run",
        resume=True,
    )
    seen = []

    def stop(record):
        seen.append(record["step"])
        if len(seen) == 2:
            run.request("stop")

    assert compress(again, run, stop, resume=True) is None
    assert run.state == "stopped"
    assert seen[0] > 0


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name one of"),
        ({"quantize": "int8", "prune": 0.5}, "name one of"),
        ({"quantize": "int4"}, "unknown quantisation"),
        ({"prune": 0.0}, "between 0 and 1"),
        ({"prune": 1.5}, "between 0 and 1"),
        ({"prune": float("nan")}, "between 0 and 1"),
        ({"prune": 0.5, "structure": "layers"}, "unknown structure"),
        ({"prune": 0.5, "by": "luck"}, "unknown importance"),
        ({"prune": 0.5, "by": "gradient"}, "needs pairs"),
        ({"prune": 0.5, "finetune_steps": 5}, "needs pairs"),
        ({"prune": 0.1, "structure": "heads"}, "takes out none"),
        ({"heads": ("decoder.cross.1",)}, "write a block"),
        ({"heads": ("decoder.7.cross.1",)}, "unknown attention block"),
        ({"heads": ("decoder.1.cross.9",)}, "unknown head"),
        ({"distill": "1"}, "needs pairs"),
        ({"distill": "9", "data": "pairs.tsv"}, "keep 1 to 2"),
        ({"distill": "0", "data": "pairs.tsv"}, "keep 1 to 2"),
        ({"distill": "2", "data": "pairs.tsv"}, "a student has fewer"),
        ({"distill": "0,5", "data": "pairs.tsv"}, "the layers are 0 to 1"),
        ({"distill": "two", "data": "pairs.tsv"}, "number of layers"),
        ({"distill": "1", "data": "pairs.tsv", "alpha": 2.0}, "--alpha"),
        ({"distill": "1", "data": "nowhere.tsv"}, "nowhere.tsv"),
        ({"quantize": "int8", "task": "poetry"}, "unknown task"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(folder, tmp_path, pairs, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExplainError, match=message) as caught:
        done(folder, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()


def test_quantising_twice_is_refused(tmp_path, bart):
    reloaded(quantised(bart.hf), bart, tmp_path / "int8")
    config, run = open_run(CompressConfig(str(tmp_path / "int8"), quantize="int8"), tmp_path / "run")
    with pytest.raises(InputError, match="in int8 already"):
        compress(config, run)
    assert run.state == "failed"
    assert not (tmp_path / "run" / "model").exists()


def test_unknown_blocks_are_named(bart):
    with pytest.raises(UnknownNameError, match=r"decoder\.1\.cross"):
        silence_heads(bart.hf, bart.family, [Head("decoder.2.cross", 0)])


def test_command_line(folder, tmp_path, pairs):
    from explain import terminal
    from explain.cli import app

    def status(*arguments: str) -> int:
        before, sys.argv = sys.argv, ["explain", *arguments]
        try:
            return terminal.run(app)
        finally:
            sys.argv = before

    out = str(tmp_path / "run")
    assert status("compress", str(folder), "--prune", "1.5", "--out", out) == 2
    assert status("compress", str(folder), "--quantize", "int8", "--data", str(pairs), "--out", out) == 0
    assert status("compress", out, "--quantize", "int8", "--out", str(tmp_path / "twice")) == 2
    assert status("doctor", out) == 0
