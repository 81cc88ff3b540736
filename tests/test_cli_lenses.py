"""`explain analyze heads, lens, contributions, align`: what they write, and one line for wrong input."""

from __future__ import annotations

import csv
import json
import re

import pytest

from explain import terminal
from explain.analysis import Contributions, HeadSurvey, Lens, WordAlignment
from explain.cli import app
from explain.training.handmade import COPY, copy_model

TEXT = "the cat sees a big dog"
SOME = {
    "lens": ["--text", TEXT, "--watch", "chat"],
    "contributions": ["--text", TEXT, "--target", "le chat", "--position", "1", "--contrast", "maison"],
    "align": ["--text", TEXT, "--target", "le chat"],
}
READERS = {"heads": HeadSurvey, "lens": Lens, "contributions": Contributions, "align": WordAlignment}
SCHEMAS = {"align": "alignment"}


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def copier_folder(tmp_path_factory):
    """The hand-set copy model as a folder."""
    path = tmp_path_factory.mktemp("copier")
    model = copy_model()
    model.hf.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Sources with outputs."""
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    path.write_text("source\ttarget\nthe cat sees a dog\tle chat la maison\na bird\tun oiseau\n", "utf-8")
    return path


def options_of(command, pairs):
    return ["--data", pairs, "--forced"] if command == "heads" else SOME[command]


@pytest.mark.parametrize("command", READERS)
def test_json_reads_back_and_says_how_it_was_made(cli, folder, pairs, tmp_path, command):
    out = tmp_path / "r.json"
    status, said, _ = cli("analyze", command, folder, *options_of(command, pairs), "--out", out)
    assert status == 0
    assert f"wrote {out}" in said
    data = json.loads(out.read_text("utf-8"))
    assert data["schema"] == f"explain/{SCHEMAS.get(command, command)}@1"
    assert data["command"].startswith(f"explain analyze {command}")
    assert data["versions"]["torch"]
    assert data["model_digest"].startswith("sha256:")
    assert data["data_digest"].startswith("sha256:")
    found = READERS[command].from_dict(data)
    assert found.to_dict().keys() <= data.keys()


@pytest.mark.parametrize("command", READERS)
def test_csv_is_a_table(cli, folder, pairs, tmp_path, command):
    out = tmp_path / "r.csv"
    assert cli("analyze", command, folder, *options_of(command, pairs), "--out", out)[0] == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 3
    lists = {"heads": "roles", "lens": "top", "contributions": "promoted"}.get(command)
    if lists:
        assert all(isinstance(json.loads(row[lists]), list) for row in rows)


@pytest.mark.parametrize("command", READERS)
def test_html_is_one_offline_page_and_the_same_every_time(cli, folder, pairs, tmp_path, command):
    pages = []
    for _ in range(2):
        cli("analyze", command, folder, *options_of(command, pairs), "--out", tmp_path / "r.html")
        pages.append((tmp_path / "r.html").read_text("utf-8"))
    assert pages[0] == pages[1]
    assert "Content-Security-Policy" in pages[0]
    assert not re.search(r"<script|https?://|@import|url\(", pages[0])
    assert "What this page cannot tell you" in pages[0]
    assert f"explain analyze {command}" in pages[0]


def test_the_copy_head_is_named_on_the_page_and_the_terminal(cli, copier_folder, tmp_path):
    (tmp_path / "s.txt").write_text("a b c d\ne f g\nh a h\n", "utf-8")
    out = tmp_path / "heads.html"
    status, said, _ = cli("analyze", "heads", copier_folder, "--data", tmp_path / "s.txt", "--out", out)
    assert status == 0
    assert said.splitlines()[2].split()[:4] == [COPY.block, "head", str(COPY.index), "alignment"]
    html = out.read_text("utf-8")
    assert f"The outputs need {COPY.block} head {COPY.index} most" in html
    assert "1 alignment, 1 copy" in html


def test_the_right_alignment_is_printed(cli, copier_folder, tmp_path):
    status, said, _ = cli(
        "analyze", "align", copier_folder, "--text", "a b", "--head", "1.0", "--out", tmp_path / "a.json"
    )
    assert status == 0
    assert [line.split() for line in said.splitlines()[3:5]] == [["a", "a", "1.000"], ["b", "b", "1.000"]]


def test_the_encoder_side_writes_from_each_layer(cli, copier_folder, tmp_path):
    out = tmp_path / "lens.json"
    status, _, _ = cli("analyze", "lens", copier_folder, "--text", "a b", "--side", "encoder", "--out", out)
    assert status == 0
    data = json.loads(out.read_text("utf-8"))
    assert data["name"] == "decoder_lens"
    assert data["outputs"] == ["a b"] * 3


def test_a_task_brings_its_known_answers(cli, folder, tmp_path):
    """A model that knows none of the words is refused; with unknown words allowed there is no gold."""
    arguments = ("analyze", "heads", folder, "--task", "translate", "--examples", 3)
    status, _, error = cli(*arguments, "--out", tmp_path / "h.json")
    assert (status, error.count("\n")) == (2, 1)
    status, _, _ = cli(*arguments, "--allow-unknown", "--max-new-tokens", 4, "--out", tmp_path / "h.json")
    assert status == 0
    data = json.loads((tmp_path / "h.json").read_text("utf-8"))
    assert data["data"] == "translate"
    assert data["statistics"]["aligned"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads", "--out", "h.json"], "give either --task NAME or --data FILE"),
        (["heads", "--task", "translate", "--data", "x.tsv", "--out", "h.json"], "give either"),
        (["heads", "--task", "translate", "--forced", "--out", "h.json"], "--forced is about"),
        (["heads", "--task", "translat", "--out", "h.json"], "did you mean translate"),
        (["heads", "--task", "translate", "--out", "h.txt"], "'.txt' is not one of .html, .json, .csv"),
        (["heads", "--data", "missing.tsv", "--out", "h.json"], "missing.tsv"),
        (["lens", "--text", TEXT, "--side", "middle", "--out", "l.json"], "unknown side"),
        (["lens", "--text", TEXT, "--watch", "le chat", "--out", "l.json"], "is 2 tokens"),
        (["lens", "--text", TEXT, "--top", "0", "--out", "l.json"], "top is 0"),
        (["lens", "--text", "", "--out", "l.json"], "empty"),
        (["contributions", "--text", TEXT, "--position", "999", "--out", "c.json"], "outside the output"),
        (["contributions", "--text", TEXT, "--out", "c.json"], "position"),
        (["align", "--text", TEXT, "--head", "one", "--out", "a.json"], "write it as LAYER.HEAD"),
        (["align", "--text", TEXT, "--head", "7.0", "--out", "a.json"], "no cross-attention"),
        (["align", "--text", TEXT, "--aligned-to", "both", "--out", "a.json"], "unknown convention"),
    ],
)
def test_wrong_input_is_one_line_and_status_two(cli, folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    status, _, error = cli("analyze", command, folder, *rest)
    assert status == 2
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())  # nothing was written
