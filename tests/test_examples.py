"""The example scripts run, say something, and leave what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"
TEXT = "the cat sees a big dog"


def run(name: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("t5")
    model = tiny("t5")
    model.hf.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def test_why_that_word(folder):
    assert "completeness error" in run("why_that_word.py", folder, TEXT)


def test_where_it_looked(folder):
    lines = run("where_it_looked.py", folder, TEXT).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"decoder.{layer}.cross.pattern head {head}" for layer in range(2) for head in range(2)
    ]


def test_what_if_a_head_is_gone(folder):
    assert run("what_if_a_head_is_gone.py", folder, TEXT).count("nats") == 4


def test_write_a_report(folder, tmp_path):
    run("write_a_report.py", folder, tmp_path / "r.html", TEXT, "a bird")
    assert (tmp_path / "r.html").read_text("utf-8").startswith("<!")
    assert (tmp_path / "r.json").is_file()


def test_finetune_t5(t5_folder):
    """The worked example: the loss falls."""
    lines = run("finetune_t5.py", t5_folder, "the cat sees a dog", "le chat").splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("step")]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    assert sum("most needed" in line for line in lines) == 3


def test_from_source_or_habit(folder):
    said = run("from_source_or_habit.py", folder, TEXT)
    assert said.count("from the source") > 0
    assert "rather than" in said


def test_who_wrote_that_word(folder):
    said = run("who_wrote_that_word.py", folder, TEXT)
    assert said.count("parts add up to within") == said.count("adds most") > 0


def test_same_reasons(folder, tmp_path):
    (tmp_path / "texts.txt").write_text(f"{TEXT}\na bird\n", encoding="utf-8")
    said = run("same_reasons.py", folder, folder, tmp_path / "texts.txt")
    assert "100% of 2 outputs are the same" in said
    assert "attention: 100% of the strongest tokens are shared" in said
    assert "alarm: None" in said


def test_a_smaller_model(folder, tmp_path):
    said = run("a_smaller_model.py", folder, tmp_path / "int8", TEXT)
    assert "disk_bytes" in said
    assert said.count("most needed before") > 0
    assert (tmp_path / "int8" / "compression.json").is_file()


def test_examples_are_short_and_each_has_its_test():
    scripts = sorted(EXAMPLES.glob("*.py"))
    # A test runs a script by its file name, here or beside the tests of what it shows.
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [s.name for s in scripts if f'{s.name}"' not in tests] == []
    assert all(len(script.read_text().splitlines()) <= 40 for script in scripts)


def test_which_method_to_believe(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text(f"{TEXT}\na bird\n", encoding="utf-8")
    said = run("which_method_to_believe.py", folder, tmp_path / "texts.txt", "occlusion", "attention")
    assert said.startswith("1. ")
    assert "evaluation.json" in said


def test_which_outputs_not_to_trust(folder, tmp_path):
    texts = "\n".join(["source\ttarget", *(f"{TEXT}\t" if i else "a bird\t" for i in range(4))])
    (tmp_path / "texts.tsv").write_text(texts, encoding="utf-8")
    data = tmp_path / "texts.tsv"
    said = run("which_outputs_not_to_trust.py", folder, data, data, tmp_path / "audit")
    assert said.startswith("uncalibrated: ")  # four clean outputs are no calibration
    assert "repetition: " in said
    assert (tmp_path / "audit" / "audit.json").is_file()


def test_what_a_neuron_likes(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join([TEXT, "a bird", "the old house"] * 4), encoding="utf-8")
    said = run("what_a_neuron_likes.py", folder, tmp_path / "texts.txt")
    assert said.count("24 neurons") == 4
    assert "responds to" in said
