"""The command line: what it makes, and one clear line with exit status 2 for every wrong input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf

from explain import terminal
from explain.cli import app
from explain.errors import ExplainError
from explain.results import load_attribution, load_capture
from tests.models import network, tokenizer

TEXT = "the cat sees a big dog"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_help_and_import_are_light():
    """`import explain` and `explain --help` load none of the heavy packages."""
    code = """
import sys, explain, explain.cli
from explain import terminal
sys.argv = ["explain", "--help"]
assert terminal.run(explain.cli.app) == 0
heavy = {"torch", "transformers", "pandas", "streamlit", "captum", "plotly"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in (
        "methods hook-points tasks runs doctor generate capture attribute report evaluate train demo".split()
    ):
        assert command in done.stdout


def test_every_command_has_help(cli):
    for command in [c.name or c.callback.__name__ for c in app.registered_commands]:
        status, out, _ = cli(command, "--help")
        assert status == 0
        assert out.startswith("Usage: explain " + command)


def test_methods_as_json(cli):
    status, out, _ = cli("methods", "--json")
    rows = json.loads(out)
    assert status == 0
    assert {"name", "kind", "signed", "objective", "contrast", "completeness", "families", "paper"} <= set(
        rows[0]
    )


def test_methods_are_listed_by_kind_and_fit_a_terminal(cli, monkeypatch):
    from explain.attribution import REGISTRY

    first = next(iter(REGISTRY.rows.values()))
    longest = replace(first, name="discretized_integrated_gradients", paper="Somebody " * 20)
    monkeypatch.setitem(REGISTRY.rows, longest.name, longest)
    lines = cli("methods")[1].splitlines()
    assert max(map(len, lines)) <= 100
    kinds = list(dict.fromkeys(method.kind for method in REGISTRY.rows.values()))
    assert [line for line in lines if line in kinds] == kinds
    for name, method in REGISTRY.rows.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.startswith(f"  {name}")
        above = [line for line in lines[: lines.index(line)] if line in kinds]
        assert above[-1] == method.kind


def test_tasks_print_samples(cli):
    status, out, _ = cli("tasks")
    assert status == 0
    assert all(name in out for name in ("translate", "invoice", "clinic"))
    rows = json.loads(cli("tasks", "--json")[1])["tasks"]
    assert all(row["samples"] for row in rows)


def test_hook_points(cli, folder):
    status, out, _ = cli("hook-points", folder)
    assert status == 0
    assert "decoder.1.cross.pattern" in out.splitlines()
    assert json.loads(cli("hook-points", folder, "--json")[1])["points"] == out.split()


def test_doctor_passes_a_good_model(cli, folder):
    status, out, _ = cli("doctor", folder)
    assert status == 0
    assert "FAIL" not in out
    report = json.loads(cli("doctor", folder, "--json")[1])
    assert report["passed"]
    assert report["schema"] == "explain/doctor@1"


def test_generate(cli, folder, tmp_path):
    status, out, _ = cli("generate", folder, "--text", TEXT, "--max-new-tokens", "4")
    assert status == 0
    assert len(out.split()) == 4
    (tmp_path / "in.txt").write_text("the cat\na bird\n", "utf-8")
    status, out, _ = cli("generate", folder, "--input", tmp_path / "in.txt", "--json", "--num-beams", "2")
    data = json.loads(out)
    assert data["schema"] == "explain/generation@1"
    assert [item["source_text"] for item in data["generations"]] == ["the cat", "a bird"]
    assert len(data["generations"][0]["beams"]) == 2


def test_capture(cli, folder, tmp_path):
    out = tmp_path / "c.safetensors"
    assert cli("capture", folder, "--text", TEXT, "--points", "decoder.*.cross.pattern", "--out", out)[0] == 0
    assert set(load_capture(out)) == {"decoder.0.cross.pattern", "decoder.1.cross.pattern"}


@pytest.mark.parametrize("ending", ["json", "csv", "parquet", "safetensors", "html"])
def test_attribute(cli, folder, tmp_path, ending):
    out = tmp_path / f"a.{ending}"
    arguments = ("--text", TEXT, "--target", "le chat", "--method", "occlusion", "--contrast", "maison")
    assert cli("attribute", folder, *arguments, "--option", "by=pad", "--out", out)[0] == 0
    if ending == "html":
        assert "<html" in out.read_text("utf-8")
        return
    att = load_attribution(out)
    assert (att.method, att.contrast, att.config["by"]) == ("occlusion", "maison", "pad")
    assert [t.text for t in att.target_tokens] == ["le", "chat", "</s>"]


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (["--position", "1"], [[1, 2]]),
        (["--position", "0:2", "--position", "3"], [[0, 2], [3, 4]]),
        (["--position", "output", "--memory", "1"], None),
    ],
)
def test_attribute_explains_the_positions_asked_for(cli, folder, tmp_path, asked, rows):
    out = tmp_path / "map.json"
    given = ["--text", "the cat sees a dog", "--target", "le chat la maison", "--out", out]
    status, _, err = cli("attribute", folder, *given, "--method", "saliency", *asked)
    assert (status, err) == (0, "")
    found = json.loads(out.read_text())
    explained = [any(score != 0 for score in row) for row in found["source_scores"]]
    assert sum(explained) == (1 if rows is None else len(rows))
    if rows is not None:
        assert found["config"]["positions"] == rows


def test_attribute_with_a_contrast_input_or_span(cli, folder, tmp_path):
    out = tmp_path / "map.json"
    given = ["attribute", folder, "--text", "the cat sees a dog", "--method", "saliency", "--out", out]
    status, _, _ = cli(*given, "--objective", "kl_divergence", "--contrast-input", "a bird")
    assert status == 0
    assert json.loads(out.read_text())["objective"] == "kl_divergence"
    given += ["--target", "le chat la maison"]
    assert cli(*given, "--contrast", "chien oiseau", "--contrast-span", "1:3")[0] == 0
    assert json.loads(out.read_text())["config"]["contrasted"] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--position", "x"], "no whole number"),
        (["--position", "99"], "outside the output"),
        (["--contrast", "chat", "--contrast-span", "1"], "START:END"),
        (["--objective", "kl_divergence"], "belong together"),
        (["--memory", "0"], "number of bytes"),
    ],
)
def test_attribute_refuses_positions_that_make_no_sense(cli, folder, tmp_path, asked, message):
    given = ["attribute", folder, "--text", "the cat sees a dog", "--out", tmp_path / "map.json"]
    status, _, err = cli(*given, *asked)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "level", "grouped"),
    [
        ([], "token", None),
        (["--words"], "word", ["word: sum"]),
        (["--level", "word", "--over", "max_abs"], "word", ["word: max_abs"]),
        (["--words", "--level", "word"], "word", ["word: sum"]),
        (["--level", "sentence"], "sentence", ["sentence: sum"]),
    ],
)
def test_attribute_between_tokens_words_and_sentences(cli, folder, tmp_path, asked, level, grouped):
    out = tmp_path / "a.json"
    words = ("--text", TEXT, "--target", "le chat", "--method", "input_x_gradient", *asked)
    status, _, err = cli("attribute", folder, *words, "--out", out)
    assert status == 0, err
    att = load_attribution(out)
    assert (att.level, att.config.get("grouped")) == (level, grouped)
    assert len(att.source_tokens) == (2 if level == "sentence" else 7)


@pytest.mark.parametrize("command", ["attribute", "report"])
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--level", "paragraph"], "token, word, sentence"),
        (["--level", "word", "--over", "max"], "did you mean max_abs"),
        (["--level", "token", "--over", "mean"], "merges none"),
    ],
)
def test_a_wrong_level_is_one_line_before_the_model_is_opened(cli, tmp_path, command, asked, message):
    out = tmp_path / "a.html"
    status, _, err = cli(command, tmp_path / "no-model", "--text", TEXT, *asked, "--out", out)
    assert status == 2
    assert message in err


def test_words_and_another_level_are_two_questions(cli, tmp_path):
    words = ("--text", TEXT, "--words", "--level", "sentence", "--out", tmp_path / "a.json")
    status, _, err = cli("attribute", tmp_path / "no-model", *words)
    assert status == 2
    assert "give one of them" in err


def test_report_by_sentence(cli, folder, tmp_path):
    out = tmp_path / "r.html"
    words = ("--text", TEXT, "--method", "attention", "--level", "sentence", "--max-new-tokens", "4")
    assert cli("report", folder, *words, "--out", out)[0] == 0
    assert "Each row is an output sentence." in out.read_text("utf-8")
    data = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert data["settings"]["level"] == "sentence"
    assert data["examples"][0]["attributions"][0]["level"] == "token"


def test_report(cli, folder, tmp_path):
    (tmp_path / "in.tsv").write_text("source\ttarget\nthe cat\tle chat\na bird\tun oiseau\n", "utf-8")
    out = tmp_path / "r.html"
    methods = ("--method", "saliency", "--method", "attention")
    first = cli("report", folder, "--input", tmp_path / "in.tsv", *methods, "--forced", "--out", out)
    assert first[0] == 0, first
    data = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert [e["target_text"] for e in data["examples"]] == ["le chat", "un oiseau"]
    assert [a["method"] for a in data["examples"][0]["attributions"]] == ["saliency", "attention"]
    before = out.read_bytes()
    cli("report", folder, "--input", tmp_path / "in.tsv", *methods, "--forced", "--out", out)
    assert out.read_bytes() == before, "the same input gives the same bytes"


def test_runs_of_an_empty_folder_teach(cli, tmp_path):
    status, out, _ = cli("runs", "--runs", tmp_path)
    assert status == 0
    assert "explain train --task translate" in out


# ---- wrong inputs ----


def save(path: Path, model: hf.PreTrainedModel) -> Path:
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def nothing(folder: Path, tmp_path: Path) -> Path:
    return tmp_path / "nothing" / "here" / "at all"


def empty_folder(folder: Path, tmp_path: Path) -> Path:
    return tmp_path


def a_file(folder: Path, tmp_path: Path) -> Path:
    return folder / "config.json"


def causal(folder: Path, tmp_path: Path) -> Path:
    return save(
        tmp_path / "gpt", hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1))
    )


def encoder(folder: Path, tmp_path: Path) -> Path:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return save(tmp_path / "bert", hf.BertModel(hf.BertConfig(vocab_size=40, **small)))


def with_nan(folder: Path, tmp_path: Path) -> Path:
    broken = network("t5")
    with torch.no_grad():
        broken.shared.weight[3, 3] = torch.nan
    return save(tmp_path / "nan", broken)


def pickled(folder: Path, tmp_path: Path) -> Path:
    path = copy_of(folder, tmp_path)
    torch.save({}, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def cut_short(folder: Path, tmp_path: Path) -> Path:
    path = copy_of(folder, tmp_path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return path


def bad_config(folder: Path, tmp_path: Path) -> Path:
    path = copy_of(folder, tmp_path)
    (path / "config.json").write_text("{")
    return path


def no_tokenizer(folder: Path, tmp_path: Path) -> Path:
    path = copy_of(folder, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    return path


def missing_weights(folder: Path, tmp_path: Path) -> Path:
    from safetensors.torch import load_file, save_file

    path = copy_of(folder, tmp_path)
    tensors = load_file(path / "model.safetensors")
    del tensors["model.decoder.layers.1.fc1.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def hub_id(folder: Path, tmp_path: Path) -> str:
    return "google-t5/t5-small"


def empty_run(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text('{"schema": "explain/run@1", "state": "running"}')
    return tmp_path


def cut_run(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text('{"schema": "explain/ru')
    return tmp_path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nothing, "there is no model folder"),
        (empty_folder, "has no config.json"),
        (a_file, "is a file; a model is a folder"),
        (causal, "gpt2 is a causal language model"),
        (encoder, "bert is not an encoder–decoder"),
        (with_nan, "holds 1 NaN or infinite numbers"),
        (pickled, "only safetensors weights are opened"),
        (cut_short, "weights in"),
        (bad_config, "configuration in"),
        (no_tokenizer, "tokenizer in"),
        (missing_weights, "lacks 1 weights (first: model.decoder.layers.1.fc1.weight)"),
        (hub_id, "without internet give a local folder"),
        (empty_run, "has no model yet (state: running)"),
        (cut_run, "run.json is not valid JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_cannot_be_opened_is_one_line_and_status_2(cli, folder, tmp_path, model, message):
    status, out, err = cli("generate", model(folder, tmp_path), "--text", TEXT)
    assert status == 2
    assert out == ""
    assert message in err
    line = [line for line in err.splitlines() if line.startswith("explain: ")]
    assert len(line) == 1
    assert "Traceback" not in err


def non_utf8(tmp_path: Path) -> list[str]:
    (tmp_path / "x.tsv").write_bytes(b"source\n\xff\xfe\n")
    return ["--input", str(tmp_path / "x.tsv")]


def no_column(tmp_path: Path) -> list[str]:
    (tmp_path / "x.csv").write_text("text\nhello\n")
    return ["--input", str(tmp_path / "x.csv")]


def no_rows(tmp_path: Path) -> list[str]:
    (tmp_path / "x.csv").write_text("source\n")
    return ["--input", str(tmp_path / "x.csv")]


def unknown_kind(tmp_path: Path) -> list[str]:
    (tmp_path / "x.docx").write_text("hello")
    return ["--input", str(tmp_path / "x.docx")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", ""], "the source is empty"),
        (["--text", " \t "], "the source is empty"),
        (["--text", "cat " * 200], "has 201 tokens, but the model has positions for 64"),
        (["--text", "the quokka"], "'quokka'"),
        ([], "give either --text TEXT or --input FILE"),
        (["--text", "the cat", "--input", "x.txt"], "give either"),
        (["--input", "nowhere.txt"], "nowhere.txt"),
        (non_utf8, "UTF-8"),
        (no_column, "source"),
        (no_rows, "no rows"),
        (unknown_kind, ".docx"),
        (["--text", "the cat", "--num-beams", "0"], "num_beams is 0"),
        (["--text", "the cat", "--temperature", "-1", "--sample"], "temperature is -1"),
        (["--text", "the cat", "--device", "tpu"], "'tpu'"),
        (["--text", "the cat", "--dtype", "float16"], "float16 overflows"),
        (["--text", "the cat", "--seed", "x"], "--seed"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_input_is_one_line_and_status_2(cli, folder, tmp_path, arguments, message):
    arguments = arguments(tmp_path) if callable(arguments) else arguments
    status, out, err = cli("generate", folder, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "integrated_gradientz", "--out", "a.json"], "did you mean integrated_gradients"),
        (["--out", "a.docx"], "the ending '.docx' is not one of .json, .csv"),
        (["--objective", "logprob", "--out", "a.json"], "log_prob"),
        (["--option", "steps", "--out", "a.json"], "name=value"),
        (["--option", "stepps=3", "--out", "a.json"], "did you mean steps"),
        (["--option", "steps=many", "--out", "a.json"], "steps"),
        (["--method", "attention", "--contrast", "chat", "--out", "a.json"], "takes no contrast"),
        (["--out", "/proc/nowhere/a.json"], "/proc/nowhere"),
    ],
)
def test_a_wrong_question_is_one_line_and_status_2(cli, folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = cli("attribute", folder, "--text", TEXT, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_unknown_names_are_refused_everywhere(cli, folder, tmp_path):
    assert cli("report", folder, "--text", TEXT, "--method", "magic", "--out", tmp_path / "r.html")[0] == 2
    assert "html" in cli("report", folder, "--text", TEXT, "--out", tmp_path / "r.pdf")[2]
    assert cli("train", "--task", "trnslate", "--out", tmp_path / "run")[0] == 2
    assert (
        cli(
            "capture", folder, "--text", TEXT, "--points", "decoder.7.*", "--out", tmp_path / "c.safetensors"
        )[0]
        == 2
    )
    assert (
        "safetensors"
        in cli("capture", folder, "--text", TEXT, "--points", "*", "--out", tmp_path / "c.pt")[2]
    )
    status, _, err = cli("frobnicate")
    assert status == 2
    assert "frobnicate" in err


def test_ctrl_c_is_130(cli, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("explain.cli.lists.say", interrupted)
    status, _, err = cli("tasks")
    assert status == 130
    assert "interrupted" in err


def test_every_error_class_is_one_of_ours():
    from explain import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert len(classes) >= 14
    assert all(issubclass(c, ExplainError) for c in classes)


def test_evaluate_writes_a_run_and_keeps_its_cards_with_the_model(cli, folder, tmp_path):
    """A model folder gets no file; a run folder keeps the evaluation, and its maps carry the card."""
    data, gold = tmp_path / "pairs.tsv", tmp_path / "gold.pharaoh"
    data.write_text(f"source\ttarget\n{TEXT}\tle chat\n", encoding="utf-8")
    gold.write_text("0-0 1-1 5?1\n", encoding="utf-8")
    before = sorted(p.name for p in folder.iterdir())
    common = ["--method", "occlusion", "--method", "attention", "--max-new-tokens", "6"]
    out = tmp_path / "first"
    status, said, err = cli("evaluate", folder, "--data", data, *common, "--alignments", gold, "--out", out)
    assert status == 0, err
    assert "occlusion" in said
    assert "attention" in said
    found = json.loads((out / "evaluation.json").read_text())
    assert found["schema"] == "explain/evaluation@1"
    assert found["methods"]["occlusion"]["gold"]["alignments"]["input"]["links"] > 0
    assert "explain evaluate" in found["command"]
    assert "explain evaluate" in (out / "evaluation.html").read_text(encoding="utf-8")
    assert json.loads((out / "run.json").read_text())["state"] == "done"
    assert sorted(p.name for p in folder.iterdir()) == before
    # The same in a run folder.
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    manifest = {**json.loads((out / "run.json").read_text()), "kind": "train", "model": "model"}
    (run / "run.json").write_text(json.dumps(manifest))
    status, _, err = cli("evaluate", run, "--data", data, *common, "--out", tmp_path / "second")
    assert status == 0, err
    assert (run / "evaluation.json").is_file()
    status, _, err = cli(
        "attribute", run, "--text", TEXT, "--method", "occlusion", "--out", tmp_path / "a.html"
    )
    assert status == 0, err
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "random order" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--task NAME or --data FILE"),
        (["--task", "translat"], "translate"),
        (["--task", "translate", "--alignments", "x"], "--alignments are of the pairs"),
        (["--data", "nowhere.tsv"], "nowhere.tsv"),
        (["--task", "translate", "--method", "oclusion"], "occlusion"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(cli, folder, tmp_path, arguments, message):
    status, _, err = cli("evaluate", folder, *arguments, "--out", tmp_path / "out")
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
