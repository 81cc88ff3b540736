"""analyze neurons, project, probe and cka: what they make, what they refuse, and going on after kill -9."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explain import terminal
from explain.analysis import ProbeReport, Projection, Similarity, load_neurons
from explain.cli import app
from tests.models import WORDS, tiny

Cli = Callable[..., tuple[int, str, str]]
TABLES = ("neurons.parquet", "examples.parquet", "types.parquet", "neurons.safetensors")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    lines = ["source\ttarget"]
    for _ in range(80):
        lines.append("\t".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 8))) for _ in range(2)))
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "other"
    model = tiny("bart", seed=5)
    model.hf.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


KILLED = """
import functools, os, signal, sys
import explain.analysis.neurons as room
from explain import runs, terminal
from explain.cli import app

room.survey_neurons = functools.partial(room.survey_neurons, every=0.0)
append = runs.Run.append

def fatal(run, record):
    append(run, record)
    if record["step"] >= 64:
        os.kill(os.getpid(), signal.SIGKILL)

runs.Run.append = fatal
sys.argv = ["explain", *sys.argv[1:]]
terminal.run(app)
"""


def test_neurons_go_on_after_kill_9_as_if_nothing_had_been(cli, folder, pairs, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    asked = ("analyze", "neurons", folder, "--data", pairs, "--top", "4", "--out")
    status, out, err = cli(*asked, whole)
    assert status == 0, err
    assert "decoder.1.mlp.hidden" in out
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, asked), str(torn)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (torn / "state.safetensors").is_file()
    assert not (torn / "neurons.json").exists()
    status, _, err = cli(*asked, torn)
    assert status == 2
    assert "resume" in err
    status, _, err = cli(*asked[:6], "5", "--out", torn, "--resume")
    assert status == 2
    assert "top" in err
    status, _, err = cli(*asked, torn, "--resume")
    assert status == 0, err
    for name in TABLES:
        assert (torn / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (torn / "state.safetensors").exists()
    steps = [json.loads(line)["step"] for line in (torn / "progress.jsonl").read_text().splitlines()]
    assert steps == [32, 64, 80]  # nothing was done twice
    found = json.loads((whole / "neurons.json").read_text("utf-8"))
    assert found["schema"] == "explain/neurons@1"
    assert found["model_digest"].startswith("sha256:")
    assert found["data"] == "pairs.tsv"
    assert found["generations"] == 80
    survey = load_neurons(whole / "neurons.safetensors")
    assert len(pd.read_parquet(whole / "neurons.parquet")) == sum(s.neurons for s in survey.summary())
    page = (whole / "neurons.html").read_text("utf-8")
    assert "<script" not in page
    assert "Most active" in page
    status, _, err = cli(*asked, whole, "--resume")
    assert status == 2
    assert "done already" in err


def test_project(cli, folder, pairs, tmp_path):
    base = ("analyze", "project", folder, "--data", pairs, "--point", "decoder.1.residual", "--rows", "200")
    for ending in ("html", "json", "csv", "parquet"):
        status, out, err = cli(*base, "--out", tmp_path / f"p.{ending}")
        assert status == 0, err
        assert "of the variance" in out
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("<title>") >= 200
    assert "pairs.tsv" in page
    found = json.loads((tmp_path / "p.json").read_text("utf-8"))
    assert found["schema"] == "explain/projection@1"
    back = Projection.from_dict(found)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert np.allclose(back.coordinates, table[["x", "y"]])
    assert len(pd.read_csv(tmp_path / "p.csv")) == 200


def test_probe(cli, folder, pairs, tmp_path):
    base = ("analyze", "probe", folder, "--data", pairs, "--label", "position", "--points", "*.embed")
    status, out, err = cli(*base, "--out", tmp_path / "p.json")
    assert status == 0, err
    assert "selectivity" in out
    found = json.loads((tmp_path / "p.json").read_text("utf-8"))
    assert found["schema"] == "explain/probes@1"
    report = ProbeReport.from_dict(found)
    assert [each.point for each in report.probes] == ["encoder.embed", "decoder.embed"]
    assert report.data == "pairs.tsv"
    status, _, err = cli(*base, "--out", tmp_path / "p.html")
    assert status == 0, err
    assert "cannot tell you" in (tmp_path / "p.html").read_text("utf-8")


def test_cka(cli, folder, other, pairs, tmp_path):
    base = ("--data", pairs, "--examples", "20", "--out")
    status, out, err = cli("analyze", "cka", folder, other, *base, tmp_path / "c.json", "--json")
    assert status == 0, err
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert found["schema"] == "explain/cka@1"
    assert json.loads(out)["values"] == found["values"]
    two = Similarity.from_dict(found)
    assert two.model_digest_a != two.model_digest_b
    assert two.value("decoder.1.residual", "decoder.1.residual") < 0.99
    status, _, err = cli("analyze", "cka", folder, *base, tmp_path / "c.html")
    assert status == 0, err
    assert "1.00" in (tmp_path / "c.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("neurons", "--out", "o"), "--task NAME or --data FILE"),
        (("neurons", "--out", "o", "--task", "clinics"), "clinic"),
        (("neurons", "--out", "o", "--data", "nothing.tsv"), "nothing.tsv"),
        (("neurons", "--out", "o", "--resume", "--data", "PAIRS"), "no run folder"),
        (("project", "--out", "o.png", "--point", "logits", "--data", "PAIRS"), ".png"),
        (("project", "--out", "o.html", "--point", "decoder.9.residual", "--data", "PAIRS"), "hook point"),
        (("project", "--out", "o.html", "--point", "logits", "--by", "tsne", "--data", "PAIRS"), "tsne"),
        (("project", "--out", "o.html", "--point", "logits", "--colour", "red", "--data", "PAIRS"), "red"),
        (
            ("project", "--out", "o.html", "--point", "encoder.0.self.pattern", "--data", "PAIRS"),
            "attention",
        ),
        (("probe", "--out", "o.html", "--data", "PAIRS"), "--task NAME"),
        (("probe", "--out", "o.html", "--data", "PAIRS", "--label", "slto"), "slot"),
        (("probe", "--out", "o.html", "--data", "PAIRS", "--label", "token", "--examples", "3"), "5 texts"),
        (("cka", "--out", "o.html", "--data", "PAIRS", "--per", "word"), "per is"),
        (("cka", "--out", "o.html", "--data", "PAIRS", "--points", "*.pattern"), "patterns"),
    ],
)
def test_one_line_says_what_was_wrong(cli, folder, pairs, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    command, *rest = (str(pairs) if each == "PAIRS" else each for each in arguments)
    status, _, err = cli("analyze", command, folder, *rest)
    assert status == 2
    assert says in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("o.*"))
