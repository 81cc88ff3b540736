"""Training: data files, tokenizer, batches, recipes, and runs that stop, pause, die and go on."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import explain
from explain.errors import (
    EmptyTextError,
    EncodingError,
    FileError,
    InputError,
    ModelError,
    RunError,
    TextTooLongError,
    TrainingError,
    UnknownNameError,
)
from explain.runs import Run, model_folder
from explain.training import recipes
from explain.training.batches import Batches
from explain.training.config import TrainConfig, demo_plan, open_run
from explain.training.data import Pair, digest, read_table, shuffle, split
from explain.training.recipes import Recipe
from explain.training.tokenizer import build_tokenizer
from explain.training.train import train
from tests.models import FAMILIES, network, tiny, tokenizer
from tests.tokenizers import real_tokenizer

PAIRS = [
    Pair('He said "no', "Il a dit « non »"),
    Pair("l'été, 12 kg", "summer, 12 kg"),
    Pair("two  spaces \u2028 here", "ok"),
]


def write(path, pairs=PAIRS, columns=("source", "target")):
    """The pairs as a file of the kind that its ending says."""
    frame = pd.DataFrame([(pair.source, pair.target) for pair in pairs], columns=list(columns))
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.to_parquet(path)
        return path
    if name.endswith(".tsv"):
        lines = ["\t".join(columns), *(f"{pair.source}\t{pair.target}" for pair in pairs)]
        text = "\n".join(lines) + "\n"
    elif name.endswith(".csv"):
        text = frame.to_csv(index=False)
    elif name.endswith(".jsonl"):
        rows = [dict(zip(columns, (pair.source, pair.target), strict=True)) for pair in pairs]
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "".join(f"{pair.source}\n" for pair in pairs)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


# ---- data files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet", "a.tsv.gz", "a.csv.gz", "a.jsonl.gz", "A.TSV.GZ"]
)
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, name):
    path = tmp_path / name
    write(tmp_path / name.lower()).rename(path)
    pairs = read_table(path)
    assert pairs == PAIRS
    assert digest(pairs) == digest(PAIRS)


def test_columns_can_be_named_and_targets_left_out(tmp_path):
    path = write(tmp_path / "a.csv", columns=("en", "fr"))
    assert read_table(path, "en", "fr") == PAIRS
    assert read_table(path, "fr", "en")[1] == Pair("summer, 12 kg", "l'été, 12 kg")
    assert read_table(path, "en", need_target=False)[0] == Pair('He said "no')
    assert read_table(write(tmp_path / "a.txt"), need_target=False)[2].source == PAIRS[2].source


def test_windows_files_are_read_as_they_are(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufeffsource\ttarget\r\na\tb\r\n\r\n".encode())
    assert read_table(path) == [Pair("a", "b")]


BAD_FILES = {
    "missing": ("a.tsv", None, FileError, "cannot read .*a.tsv: No such file"),
    "missing parquet": ("a.parquet", None, FileError, "no such file"),
    "unknown kind": ("a.xlsx", b"x", FileError, r"use \.tsv"),
    "zipped parquet": ("a.parquet.gz", b"x", FileError, r"use \.tsv"),
    "broken parquet": ("a.parquet", b"PAR1 no", FileError, "cannot be read as Parquet"),
    "sources only": ("a.txt", b"x\n", FileError, "sources only"),
    "empty": ("a.tsv", b"", FileError, "is empty"),
    "white space": ("a.csv", b" \n\n", FileError, "is empty"),
    "no rows": ("a.tsv", b"source\ttarget\n", FileError, "no rows"),
    "no column": (
        "a.tsv",
        b"src\ttgt\na\tb\n",
        FileError,
        "no column 'source'; its columns: src, tgt; .*--source",
    ),
    "no target": ("a.csv", b"source,tgt\na,b\n", FileError, "no column 'target'.*--target-column"),
    "not UTF-8": (
        "a.tsv",
        "source\ttarget\na\té\n".encode("latin-1"),
        EncodingError,
        "line 2.*save it as UTF-8",
    ),
    "ragged": ("a.tsv", b"source\ttarget\na\tb\nc\n", FileError, "line 3 has another number of fields"),
    "ragged csv": ("a.csv", b"source,target\na,b,c\n", FileError, "line 2 has another number"),
    "open quote": ("a.csv", b'source,target\n"a,b\n', FileError, "check the quotation marks"),
    "cut gzip": (
        "a.tsv.gz",
        gzip.compress(b"source\ttarget\n" * 99)[:-12],
        FileError,
        "not a whole gzip file",
    ),
    "no gzip": ("a.tsv.gz", b"source\ttarget\n", FileError, "not a whole gzip file"),
    "bad JSON": (
        "a.jsonl",
        b'{"source": "a", "target": "b"}\n{"sou\n',
        FileError,
        "line 2 is not valid JSON",
    ),
    "no object": ("a.jsonl", b'["a"]\n', FileError, "line 1 is not a JSON object"),
    "a number": (
        "a.jsonl",
        b'{"source": 3, "target": "b"}\n',
        FileError,
        "line 1: the source is not a text but 3",
    ),
    "a surrogate": ("a.jsonl", b'{"source": "\\ud800", "target": "b"}\n', EncodingError, "half a character"),
    "empty source": ("a.tsv", b"source\ttarget\na\tb\n \tb\n", EmptyTextError, "line 3 has an empty source"),
    "empty target": ("a.csv", b"source,target\na,\n", EmptyTextError, "line 2 has an empty target"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_place(tmp_path, case):
    name, data, error, message = BAD_FILES[case]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)
    assert type(caught.value) is error


def test_a_null_in_parquet_is_an_empty_text(tmp_path):
    pd.DataFrame({"source": ["a", None], "target": ["b", "c"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(EmptyTextError, match="row 2 has an empty source"):
        read_table(tmp_path / "a.parquet")


def test_a_split_is_disjoint_and_does_not_depend_on_the_order():
    pairs = [Pair(f"source {number % 90}", f"target {number}") for number in range(180)]
    train_pairs, held_out = split(pairs, 10)
    assert len({pair.source for pair in held_out}) == 10
    assert not {pair.source for pair in held_out} & {pair.source for pair in train_pairs}
    assert len(train_pairs) + len(held_out) == 180
    assert {pair.source for pair in split(pairs[::-1], 10)[1]} == {pair.source for pair in held_out}
    assert {pair.source for pair in split(pairs, 10, seed=1)[1]} != {pair.source for pair in held_out}
    assert split(pairs[:1]) == (pairs[:1], pairs[:1])
    assert sorted(map(len, split(pairs[:2]))) == [1, 1]
    assert shuffle(pairs[:90]) == shuffle(pairs[:90][::-1]) != pairs[:90]


# ---- tokenizer ------------------------------------------------------------------------------------------

TEXTS = ["The cat's 12 houses, l'homme aujourd'hui.", "Le chat, 2026-03-01!"] * 3


@pytest.fixture(scope="module")
def small():
    """A tokenizer trained on a few words."""
    return build_tokenizer(TEXTS, 1000)


@given(st.text())
def test_every_text_comes_back_unchanged(small, text):
    assert small.decode(small(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["a </s> b", "<pad><mask>", "  two  spaces ", "日本語 🎉 é\u0301"])
def test_texts_that_look_special_come_back_unchanged(small, text):
    ids = small(text)["input_ids"]
    assert small.decode(ids, skip_special_tokens=True) == text
    assert [id_ for id_ in ids if id_ in small.all_special_ids] == [small.eos_token_id]


def test_words_are_whole_and_digits_alone(small):
    tokens = small.convert_ids_to_tokens(small(TEXTS[0])["input_ids"])
    assert [token.replace("Ġ", " ") for token in tokens] == [
        "The", " cat'", "s", " 1", "2", " houses", ",", " l'", "homme", " aujourd'", "hui", ".", "</s>",
    ]  # fmt: skip


def test_offsets_are_of_words_without_their_spaces(small):
    text = "The cat's 12 houses"
    spans = small(text, return_offsets_mapping=True)["offset_mapping"]
    assert [text[start:end] for start, end in spans] == ["The", "cat'", "s", "1", "2", "houses", ""]


def test_a_saved_tokenizer_is_the_same_without_a_warning(small, tmp_path, capfd):
    small.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert set(again("The cat")) == {"input_ids", "attention_mask"}
    for text in (*TEXTS, "a </s> b"):
        assert again(text)["input_ids"] == small(text)["input_ids"]
        assert again(text_target=text)["input_ids"] == small(text)["input_ids"]
        assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text
    assert again.mask_token == "<mask>"
    assert again.padding_side == "right"
    assert capfd.readouterr() == ("", "")


# ---- batches and recipes --------------------------------------------------------------------------------


def make_batches(**changes):
    rng = np.random.default_rng(0)
    inputs = [[*rng.integers(5, 50, size=size), 1] for size in rng.integers(1, 20, size=103)]
    options = {
        "steps": 50,
        "batch_size": 10,
        "seed": 0,
        "pad_id": 0,
        "mask_id": 2,
        "masking": 0.1,
        "keep": (0, 1),
    }
    return inputs, Batches(inputs, [[row[0], 1] for row in inputs], **{**options, **changes})


def test_an_epoch_sees_every_pair_once():
    inputs, batches = make_batches(masking=0.0)
    assert batches.steps_per_epoch == 11
    for epoch in (0, 1):
        seen = []
        for step in range(11 * epoch, 11 * epoch + 11):
            batch = batches[step]
            rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
            seen += [tuple(row[: sum(mask)]) for row, mask in rows]
            tokens = int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum())
            assert tokens == batches.tokens(step)
        assert sorted(seen) == sorted(map(tuple, inputs))


def test_a_batch_depends_on_seed_and_step_alone():
    _, one = make_batches()
    _, two = make_batches()
    for step in (33, 0, 7):
        for name, tensor in one[step].items():
            assert torch.equal(tensor, two[step][name])
    assert not torch.equal(make_batches(seed=1)[1][0]["labels"], one[0]["labels"])


def test_masking_hides_words_only():
    _, batches = make_batches()
    _, plain = make_batches(masking=0.0)
    hidden, words = 0, 0
    for step in range(50):
        masked, whole = batches[step]["input_ids"], plain[step]["input_ids"]
        changed = masked != whole
        assert (masked[changed] == 2).all()
        assert not changed[(whole == 0) | (whole == 1)].any()
        hidden += int(changed.sum())
        words += int((whole > 1).sum())
    assert 0.07 < hidden / words < 0.13


def test_a_recipe_can_be_written_down_and_read_back():
    recipe = recipes.for_task("clinic").with_changes(learning_rate=1e-3, steps=None)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.learning_rate == 1e-3
    assert recipe.with_changes(epochs=2.0).steps == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1.0}, "learning rate"),
        ({"batch_size": 0}, "batch size"),
        ({"epochs": 0.0}, "above 0"),
    ],
)
def test_a_recipe_refuses_senseless_numbers(change, message):
    with pytest.raises(InputError, match=message):
        recipes.for_model().with_changes(**change)


def test_a_recipe_refuses_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean adam"):
        recipes.for_model().with_changes(optimizer="adan")
    with pytest.raises(UnknownNameError, match="known: bart, t5"):
        recipes.for_file(100, "gpt")


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_follows_its_schedule(schedule):
    recipe = dataclasses.replace(Recipe(), schedule=schedule, warmup=10, learning_rate=1.0)
    optimizer = recipes.build_optimizer(recipe, torch.nn.Linear(2, 2))
    course = recipes.build_schedule(recipe, optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(course.get_last_lr()[0])
        optimizer.step()
        course.step()
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == max(rates) == 1.0
    assert rates[-1] == 1.0 if schedule == "constant" else 0 < rates[-1] < 0.02


def test_larger_files_get_larger_models():
    sizes = [recipes.for_file(pairs).shape.width for pairs in (100, 5_000, 29_000)]
    assert sizes == sorted(set(sizes))


# ---- options and run folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a task"),
        ({"task": "translate", "data": "a.tsv"}, "either a task"),
        ({"task": "translate", "steps": 1, "epochs": 1.0}, "either --steps or --epochs"),
        ({"task": "translate", "steps": 0}, "--steps"),
        ({"task": "translate", "epochs": -1.0}, "--epochs"),
        ({"task": "translate", "seed": -1}, "--seed"),
        ({"task": "translate", "validation": "b.tsv"}, "--validation"),
        ({"data": "a.tsv", "init": "m", "family": "t5"}, "--family"),
        ({"data": "a.tsv", "target_language": "fr_XX"}, "--init"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        open_run(TrainConfig(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_can_be_written_down_and_read_back():
    config = TrainConfig(task="clinic", lr=1e-3, seed=2)
    assert TrainConfig.from_dict({**config.to_dict(), "a_later_option": 1}) == config


def test_a_folder_that_is_not_this_run_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty and not a run"):
        open_run(TrainConfig(task="translate"), tmp_path)
    with pytest.raises(RunError, match="no run folder"):
        open_run(TrainConfig(task="translate", resume=True), tmp_path / "nowhere")
    audit = Run.create(tmp_path / "audit", kind="audit")
    with pytest.raises(RunError, match="not a training run"):
        open_run(TrainConfig(resume=True), audit.path)


def test_the_demo_trains_three_models_two_of_them_side_by_side():
    plan = demo_plan()
    assert [one.name for one in plan] == ["translate", "invoice", "clinic"]
    for one in plan:
        one.config.check()
    assert [one.threads for one in plan if one.stage == 1] == [1, 1]


# ---- training -------------------------------------------------------------------------------------------

SUBJECTS = {"a cat": "un chat", "a bird": "un oiseau", "the dog": "le chien", "the tree": "l'arbre"}
VERBS = {"sees": "voit", "likes": "aime", "eats": "mange", "knows": "connaît"}


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """A file of 64 sentences."""
    pairs = [
        Pair(f"{a} {verb} {b}.", f"{SUBJECTS[a]} {VERBS[verb]} {SUBJECTS[b]}.")
        for a in SUBJECTS
        for verb in VERBS
        for b in SUBJECTS
    ]
    return str(write(tmp_path_factory.mktemp("data") / "pairs.tsv.gz", pairs))


def begin(config, out):
    """Train without anyone watching."""
    run = open_run(config, out)
    return run, train(config, run)


@pytest.fixture(scope="module")
def options(pairs_file):
    """A run of 40 steps."""
    return TrainConfig(data=pairs_file, steps=40, batch_size=16)


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """A whole run, its result, and the records that a watcher was shown."""
    seen = []
    run = open_run(options, tmp_path_factory.mktemp("runs") / "whole")
    result = train(options, run, seen.append)
    return run, result, seen


def test_a_run_ends_with_a_model_and_its_numbers(finished):
    run, result, _ = finished
    manifest = run.manifest
    assert manifest["state"] == "done"
    assert manifest["result"] == result
    assert set(result) == {"loss", "token_accuracy", "exact_match", "chrf", "examples", "seconds", "steps"}
    assert result["steps"] == 40
    assert result["examples"] == 5
    assert result["token_accuracy"] > 0.3
    model = explain.load(run.path)
    assert manifest["model_digest"] == model.digest
    assert manifest["data_digest"].startswith("sha256:")
    assert model.generate("a cat sees the dog.").target_tokens


def test_a_finished_run_holds_no_pickles_and_no_litter(finished):
    run = finished[0]
    names = {path.name for path in model_folder(run.path).iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert {path.name for path in run.path.iterdir()} == {"run.json", "progress.jsonl", "log.txt", "model"}
    assert len({path.stat().st_mode for path in model_folder(run.path).iterdir()}) == 1
    config = json.loads((run.path / "model" / "config.json").read_text())
    assert config.get("use_cache", True) is True


def test_a_trained_model_writes_without_a_warning(finished, capfd):
    model = explain.load(finished[0].path)
    assert model.hf.generation_config.max_new_tokens == 62
    inputs = model.tokenizer("a cat sees the dog.", return_tensors="pt")
    for options in ({}, {"max_new_tokens": 5}):
        ids = model.hf.generate(**inputs, **options)
        assert ids.shape[1] <= 63
    assert capfd.readouterr() == ("", "")


def test_the_live_record_says_how_it_goes(finished):
    run, _, seen = finished
    records = run.progress()
    assert json.loads(json.dumps(seen)) == records
    steps = [record for record in records if record["kind"] == "step"]
    assert steps[0]["step"] == 1
    assert steps[-1]["step"] == steps[-1]["total_steps"] == 40
    wanted = {"loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds", "epoch"}
    assert all(wanted <= set(record) for record in steps)
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    assert [record["step"] for record in evaluations] == list(range(4, 41, 4))
    assert {"loss", "exact_match", "token_accuracy", "chrf", "best", "samples"} <= set(evaluations[0])
    assert set(evaluations[0]["samples"][0]) == {"source", "target", "output"}
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert records[-1]["kind"] == "result"


def test_the_same_seed_gives_the_same_model(finished, options, tmp_path):
    run, _ = begin(options, tmp_path / "again")
    assert run.manifest["model_digest"] == finished[0].manifest["model_digest"]


def test_a_stopped_run_goes_on_to_the_same_model(finished, options, tmp_path):
    run = open_run(options, tmp_path / "run")
    assert train(options, run, lambda record: run.request("stop") if record["step"] == 12 else None) == {}
    assert run.state == "stopped"
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["checkpoint-12"]
    assert (model_folder(run.path) / "config.json").exists()
    with pytest.raises(RunError, match="earlier run; resume it"):
        open_run(options, run.path)

    resumed = dataclasses.replace(options, resume=True)
    result = train(resumed, open_run(resumed, run.path))
    assert result["steps"] == 40
    assert run.manifest["model_digest"] == finished[0].manifest["model_digest"]
    evaluations = [record["step"] for record in run.progress() if record["kind"] == "evaluation"]
    assert evaluations == list(range(4, 41, 4))
    seconds = [record["seconds"] for record in run.progress()]
    assert seconds == sorted(seconds)
    with pytest.raises(RunError, match="nothing to resume"):
        open_run(resumed, run.path)


CHILD = """
import json, sys
from explain.training.config import TrainConfig, open_run
from explain.training.train import train
config = TrainConfig(**json.loads(sys.argv[2]))
train(config, open_run(config, sys.argv[1]), lambda record: print(record["step"], flush=True))
"""


def test_a_killed_run_goes_on_to_the_same_model(finished, options, tmp_path):
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "run"), json.dumps(options.to_dict())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 10:
                break
        child.kill()
    run = Run.open(tmp_path / "run")
    assert run.state == "failed"
    assert run.manifest["error"] == "the process ended without a word; resume it"
    resumed = TrainConfig(resume=True)
    assert train(resumed, open_run(resumed, run.path))["steps"] == 40
    assert run.state == "done"
    assert run.manifest["model_digest"] == finished[0].manifest["model_digest"]


def test_a_checkpoint_or_model_cut_short_by_a_kill_is_not_taken(finished, options, tmp_path):
    run = open_run(options, tmp_path / "run")
    train(options, run, lambda record: run.request("stop") if record["step"] == 8 else None)
    (run.path / "checkpoints" / ".writing-abc" / "checkpoint-12").mkdir(parents=True)
    (run.path / "model").rename(run.path / ".model-old")
    (run.path / ".model-new").mkdir()
    resumed = TrainConfig(resume=True)
    train(resumed, open_run(resumed, run.path))
    assert run.manifest["model_digest"] == finished[0].manifest["model_digest"]
    assert {path.name for path in run.path.iterdir()} == {"run.json", "progress.jsonl", "log.txt", "model"}


def test_a_resumed_run_keeps_its_options_and_its_data(options, tmp_path):
    path = write(tmp_path / "pairs.tsv", [Pair(f"word {number}", "mot") for number in range(30)])
    config = dataclasses.replace(options, data=str(path))
    run = open_run(config, tmp_path / "run")
    train(config, run, lambda record: run.request("stop"))
    with pytest.raises(RunError, match="begun with --steps 40, not 50"):
        open_run(TrainConfig(resume=True, steps=50), run.path)
    open_run(TrainConfig(resume=True, data=str(path), seed=0), run.path)
    write(path, [Pair("other", "autre"), *read_table(path)])
    resumed = TrainConfig(resume=True)
    with pytest.raises(RunError, match="changed since it was begun"):
        train(resumed, open_run(resumed, run.path))


def test_a_job_that_died_before_it_began_can_be_resumed(options, tmp_path):
    run = Run.create(tmp_path / "run", kind="train")
    with pytest.raises(RunError, match="does not say how it was begun"):
        open_run(TrainConfig(resume=True), run.path)
    again = dataclasses.replace(options, steps=2, resume=True)
    assert train(again, open_run(again, run.path))["steps"] == 2


def test_a_paused_run_waits(options, tmp_path):
    run = open_run(dataclasses.replace(options, steps=4), tmp_path / "run")
    states = []

    def go_on():
        states.append(run.state)
        run.request("continue")

    def watch(record):
        if record["step"] == 2 and not states:
            run.request("pause")
            threading.Timer(0.3, go_on).start()

    assert train(dataclasses.replace(options, steps=4), run, watch)["steps"] == 4
    assert states == ["paused"]
    assert run.state == "done"


def test_ctrl_c_keeps_a_checkpoint(options, tmp_path):
    run = open_run(options, tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(
            options, run, lambda record: os.kill(os.getpid(), signal.SIGINT) if record["step"] == 8 else None
        )
    assert run.state == "stopped"
    assert (run.path / "checkpoints" / "checkpoint-8").is_dir()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_no_number_fails_with_advice(options, tmp_path):
    run = open_run(options, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"step \d+; use a smaller learning rate"):
        train(dataclasses.replace(options, lr=1e30), run)
    assert run.state == "failed"
    assert "smaller learning rate" in run.manifest["error"]


def test_t5_from_scratch_by_adamw(options, tmp_path):
    config = dataclasses.replace(options, family="t5", optimizer="adamw", steps=6)
    run, _ = begin(config, tmp_path / "run")
    assert type(explain.load(run.path).hf).__name__ == "T5ForConditionalGeneration"


def test_a_task_is_learned_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr("explain.training.prepare.VALIDATION", 50)
    config = TrainConfig(task="translate", steps=2, batch_size=8)
    _, result = begin(config, tmp_path / "run")
    assert result["examples"] == 50
    assert result["chrf"] is None
    with pytest.raises(UnknownNameError, match="did you mean translate"):
        begin(TrainConfig(task="translat"), tmp_path / "other")


@pytest.mark.slow
def test_a_small_model_learns_to_translate(tmp_path):
    _, result = begin(TrainConfig(task="translate", steps=400), tmp_path / "run")
    assert result["exact_match"] > 0.8


# ---- training a given model further ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_pair(tmp_path_factory):
    """A file of one pair of sentences, in words that the tests' models know."""
    path = tmp_path_factory.mktemp("one") / "one_pair.tsv"
    return str(write(path, [Pair("the cat sees a big dog", "le chat la maison un chien")]))


def save(model, folder):
    """A model folder as its owner would make it."""
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pair_is_its_own_validation_and_its_loss_falls(family, one_pair, tmp_path):
    init = save(tiny(family), tmp_path / "model")
    config = TrainConfig(data=one_pair, init=init, lr=5e-5, steps=20)
    run, result = begin(config, tmp_path / "run")
    losses = [record["loss"] for record in run.progress() if record["kind"] == "evaluation"]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert result["examples"] == 1
    recipe = run.manifest["recipe"]
    assert (recipe["optimizer"], recipe["learning_rate"], recipe["betas"]) == ("adam", 5e-5, [0.9, 0.999])
    assert explain.load(run.path).hf.config.model_type == family


def test_the_given_model_stays_as_it_was(one_pair, tmp_path):
    init = save(tiny("t5"), tmp_path / "model")
    before = explain.load(init).digest
    first, _ = begin(TrainConfig(data=one_pair, init=init, epochs=3), tmp_path / "run")
    assert first.manifest["result"]["steps"] == 3
    assert explain.load(init).digest == before
    second, _ = begin(TrainConfig(data=one_pair, init=str(first.path), steps=1), tmp_path / "further")
    assert second.manifest["model_digest"] != first.manifest["model_digest"]


@pytest.mark.parametrize("family", ["mbart50", "m2m_100"])
def test_a_multilingual_model_learns_its_target_language(family, one_pair, tmp_path):
    words = real_tokenizer(family, tmp_path)
    model = network(
        family.removesuffix("50"),
        vocab_size=len(words) + 110,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.eos_token_id,
    )
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    french = "fr_XX" if family == "mbart50" else "fr"
    config = TrainConfig(data=one_pair, init=str(tmp_path / "model"), steps=1, target_language=french)
    run, _ = begin(config, tmp_path / "run")
    code = words.lang_code_to_id[french] if family == "mbart50" else words.get_lang_id(french)
    assert explain.load(run.path).hf.generation_config.forced_bos_token_id == code
    with pytest.raises(InputError, match="knows no language"):
        begin(dataclasses.replace(config, target_language="xx"), tmp_path / "other")


def test_a_multilingual_model_must_be_told_the_target_language(one_pair, tmp_path):
    words = real_tokenizer("mbart50", tmp_path)
    words.tgt_lang = None
    network("mbart", vocab_size=len(words)).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="--target-language"):
        begin(TrainConfig(data=one_pair, init=str(tmp_path / "model")), tmp_path / "run")


def test_languages_need_a_multilingual_model(one_pair, tmp_path):
    config = TrainConfig(data=one_pair, init=save(tiny("t5"), tmp_path / "model"), target_language="fr_XX")
    with pytest.raises(InputError, match="has no languages"):
        begin(config, tmp_path / "run")


def test_a_pair_too_long_for_the_model_is_refused(tmp_path):
    path = write(tmp_path / "long.tsv", [Pair("the cat", "le chat"), Pair("cat " * 80, "le chat")])
    init = save(tiny("bart"), tmp_path / "model")
    with pytest.raises(TextTooLongError, match=r"its source has 81 tokens, the model 64 positions"):
        begin(TrainConfig(data=str(path), init=init), tmp_path / "run")


def test_a_tokenizer_of_another_model_is_refused(one_pair, tmp_path):
    network("t5", vocab_size=10).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="do not belong together"):
        begin(TrainConfig(data=one_pair, init=str(tmp_path / "model")), tmp_path / "run")


def test_training_says_nothing_that_nobody_asked_for(options, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        begin(dataclasses.replace(options, steps=2), tmp_path / "run")
    assert capfd.readouterr() == ("", "")


def test_options_are_read_without_torch():
    code = "import sys, explain.training.config, explain.training.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_looks_alive_while_it_trains(options, tmp_path):
    run = open_run(options, tmp_path / "run")
    seen = []

    def watch(record):
        seen.append((run.state, run.requested(), time.monotonic()))

    train(dataclasses.replace(options, steps=3), run, watch)
    assert {state for state, _, _ in seen} == {"running"}


@pytest.mark.parametrize(
    "options",
    [
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"epochs": float("nan")},
        {"epochs": float("inf")},
        {"seed": 10**20},
        {"batch_size": 0},
        {"optimizer": "foo"},
        {"family": "gpt"},
        {"task": "foo"},
    ],
)
def test_a_wrong_option_is_refused_before_there_is_a_folder(tmp_path, options):
    with pytest.raises(InputError):
        open_run(TrainConfig(**{"task": "translate", **options}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
