"""`explain compare`: the files it writes, what it says, and one clear line for every wrong input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from explain import terminal
from explain.cli import app
from explain.comparison import load_comparison
from explain.report import comparison_page
from tests.models import WORDS, network, tiny, tokenizer

SOURCES = "the cat sees a big dog\na bird\n"
FEW = ["--method", "attention", "--method", "occlusion", "--max-new-tokens", "6"]


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def saved(path: Path, hf, words) -> Path:
    hf.save_pretrained(path)
    words.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> list[Path]:
    models = [tiny("bart", seed=seed) for seed in (1, 2)]
    root = tmp_path_factory.mktemp("others")
    return [saved(root / str(i), model.hf, model.tokenizer) for i, model in enumerate(models)]


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text(SOURCES, encoding="utf-8")
    return path


def test_compare_writes_a_run(cli, folder, others, data, tmp_path):
    out = tmp_path / "out"
    status, said, err = cli(
        "compare", folder, others[0], "--data", data, *FEW, "--floor", others[1], "--out", out
    )
    assert status == 0, err
    assert "occlusion" in said
    assert "alarm: " in said
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert found["schema"] == "explain/comparison@1"
    assert "explain compare" in found["command"]
    assert found["data"] == {"name": "texts.txt", "outputs": 2, "examples": 2, "forced": False, "gold": False}
    assert set(found["drift"]) == set(found["floor"]["drift"]) == {"attention", "occlusion"}
    assert found["models"]["floor"][0]["name"] == str(others[1])
    manifest = json.loads((out / "run.json").read_text())
    assert (manifest["kind"], manifest["state"]) == ("compare", "done")
    assert manifest["result"] == {"alarm": found["alarm"], "examples": 2}
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert page == comparison_page(load_comparison(out), command=found["command"])


def test_without_a_floor_it_gives_no_answer(cli, folder, data, tmp_path):
    status, said, err = cli("compare", folder, folder, "--data", data, *FEW, "--out", tmp_path / "out")
    assert status == 0, err
    assert "no answer: " in said
    assert "1.000" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--task NAME or --data FILE"),
        (["--task", "translat"], "translate"),
        (["--data", "nowhere.tsv"], "nowhere.tsv"),
        (["--task", "translate", "--method", "oclusion"], "occlusion"),
        (["--task", "translate", "--floor", "nowhere/at-all/x"], "nowhere"),
        (["--task", "translate", "--examples", "0"], "examples"),
    ],
)
def test_compare_refuses_what_it_cannot_do(cli, folder, tmp_path, arguments, message):
    status, _, err = cli("compare", folder, folder, *arguments, "--out", tmp_path / "out")
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_forced_needs_outputs(cli, folder, data, tmp_path):
    status, _, err = cli("compare", folder, folder, "--data", data, "--forced", "--out", tmp_path / "out")
    assert status == 2
    assert "target" in err
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_one_clear_line(cli, folder, data, tmp_path):
    words = [word for word in WORDS if word != "cat"]
    other = saved(tmp_path / "m", network("bart", vocab_size=len(words) + 5), tokenizer(words))
    status, _, err = cli("compare", folder, other, "--data", data, *FEW, "--out", tmp_path / "out")
    assert status == 2
    assert "both must read the same tokens" in err
    assert "Traceback" not in err


def test_a_floor_that_is_no_floor(cli, folder, others, data, tmp_path):
    status, _, err = cli(
        "compare", folder, others[0], "--data", data, *FEW, "--floor", folder, "--out", tmp_path / "out"
    )
    assert status == 2
    assert "other seeds" in err
