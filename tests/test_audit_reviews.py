"""Reviewers' verdicts: what they are of, merging, precision; maps, pages and tables of a finished audit."""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from explain import terminal
from explain.audit import load_audit
from explain.audit.calibration import share
from explain.audit.formats import findings_csv
from explain.audit.maps import explain_suspects, generation_of, load_maps
from explain.audit.reviews import (
    FILE,
    Review,
    keep,
    load_reviews,
    merged,
    output_digest,
    review,
    summarise,
    withdraw,
)
from explain.cli import app
from explain.errors import FileError, InputError
from explain.files import dump_json
from explain.report.audit import audit_page, laid_out, rewrite_audit
from explain.runs import Run, pack, unpack
from explain.training.data import Pair
from tests.audits import audited

HOSTILE = "<script>alert(1)</script> =1+1 ![x](http://evil/x.png)"
PAGES = ("audit.json", "audit.html", "summary.md", "junit.xml")


@pytest.fixture(scope="module")
def made(bart, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return audited(folder, "audit", bart, folder / "tiny", maps=2)


@pytest.fixture
def run(made, tmp_path) -> Run:
    """A copy that a test may change."""
    shutil.copytree(made.path, tmp_path / "audit")
    return Run.open(tmp_path / "audit")


@pytest.fixture
def cli(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def of(run: Run, place: int, verdict: str, reviewer: str = "Ada", note: str = "", time: str = "") -> Review:
    """A review of the audit's output number `place`."""
    row = load_audit(run.path).outputs.iloc[place]
    made = review(int(row.number), row.source, row.output, verdict, note=note, reviewer=reviewer)
    return replace(made, time=time or made.time)


# ---- what a review is of ---------------------------------------------------------------------------------


def test_a_review_is_kept_and_never_speaks_of_another_output(run):
    audit = load_audit(run.path)
    keep(
        run.path,
        audit,
        of(run, 0, "wrong", note="no"),
        replace(of(run, 1, "right"), output_digest="sha256:x"),
    )
    found = summarise(audit, load_reviews(run.path))
    assert [(item.number, item.outcome) for item in found.outputs] == [(0, "wrong")]
    assert [one.output_digest for one in found.elsewhere] == ["sha256:x"]
    # The number is a hint alone: with another one the output is found all the same.
    moved = summarise(audit, [replace(of(run, 0, "wrong"), number=4)])
    assert [item.number for item in moved.outputs] == [0]
    assert output_digest("a b", "c") != output_digest("a", "b c")


@pytest.mark.parametrize("verdict", ["", "fine", "Wrong"])
def test_there_are_three_verdicts(verdict):
    with pytest.raises(InputError, match="no verdict"):
        review(0, "a", "b", verdict)


@pytest.mark.parametrize(
    "broken",
    [
        {"reviews": [{"number": 0, "output_digest": "x", "verdict": "maybe"}]},
        {"reviews": [{"number": -1, "output_digest": "x", "verdict": "wrong"}]},
        {"reviews": [{"number": True, "output_digest": "x", "verdict": "wrong"}]},
        {"reviews": [{"number": 0, "output_digest": "x", "verdict": "wrong", "note": 3}]},
        {"reviews": 3},
        {},
    ],
)
def test_a_broken_file_of_reviews_is_refused(run, broken):
    (run.path / FILE).write_text(json.dumps({"schema": "explain/reviews@1", **broken}))
    with pytest.raises(FileError, match="broken file of reviews"):
        load_reviews(run.path)
    with pytest.raises(FileError):
        keep(run.path, load_audit(run.path), of(run, 0, "wrong"))


def test_one_reviewer_has_one_verdict_and_the_latest_counts(run):
    audit = load_audit(run.path)
    early, late = of(run, 0, "wrong", time="2026-01-01"), of(run, 0, "right", time="2026-01-02")
    assert merged([late], [early]) == merged([early], [late]) == (late,)
    keep(run.path, audit, late)
    keep(run.path, audit, early, of(run, 0, "unsure", "Ben"))
    assert {(one.reviewer, one.verdict) for one in load_reviews(run.path)} == {
        ("Ada", "right"),
        ("Ben", "unsure"),
    }
    withdraw(run.path, audit, late.output_digest, "Ada")
    assert [one.reviewer for one in load_reviews(run.path)] == ["Ben"]


def test_reviewers_at_once_lose_nothing(run):
    audit, base = load_audit(run.path), of(run, 0, "wrong")
    threads = [
        threading.Thread(target=keep, args=(run.path, audit, replace(base, reviewer=f"R{i}")))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_reviews(run.path)) == 20
    assert not list(run.path.glob(".*"))


# ---- what they come to -----------------------------------------------------------------------------------


def test_precision_counts_what_is_settled(run):
    audit = load_audit(run.path)
    flagged = [suspect.number for suspect in audit.suspects]
    clean = next(i for i in range(audit.examples) if i not in flagged)
    said = [
        of(run, flagged[0], "wrong"),
        of(run, flagged[0], "unsure", "Ben"),
        of(run, flagged[1], "right"),
        of(run, flagged[2], "wrong"),
        of(run, flagged[2], "right", "Ben"),
        of(run, clean, "wrong"),
    ]
    found = summarise(audit, said)
    assert found.precision["log_prob_min"] == share(1, 2)
    assert found.precision["unsupported_names"].n == 0
    assert (found.flagged, found.clean) == (share(1, 2), share(1, 1))
    assert {item.number: item.outcome for item in found.outputs} == {
        flagged[0]: "wrong",
        flagged[1]: "right",
        flagged[2]: "disputed",
        clean: "wrong",
    }
    random.Random(0).shuffle(said)
    assert summarise(audit, said) == found


def test_a_text_that_stands_twice_counts_once(bart, tmp_path):
    pairs = [Pair("the old cat", "le chat")] * 3 + [Pair("a bird", "un oiseau"), Pair("a dog", "un chien")]
    run = audited(tmp_path, "twice", bart, tmp_path / "tiny", pairs=pairs, maps=0)
    audit = load_audit(run.path)
    found = summarise(audit, [of(run, 2, "wrong")])
    assert len(found.outputs) == 1
    assert found.flagged.n + found.clean.n == 1


# ---- pages and tables ------------------------------------------------------------------------------------


def test_pages_hold_the_reviews_and_are_the_same_every_time(run):
    before = (run.path / "audit.html").read_text()
    assert "Reviewed" not in before
    assert json.loads((run.path / "audit.json").read_text())["reviews"] is None
    number = load_audit(run.path).suspects[0].number
    keep(run.path, load_audit(run.path), of(run, number, "wrong", note=HOSTILE))
    keep(run.path, load_audit(run.path), of(run, number, "right", "Ben <b>"))
    rewrite_audit(run.path)
    first = {name: (run.path / name).read_bytes() for name in PAGES}
    rewrite_audit(run.path)
    assert {name: (run.path / name).read_bytes() for name in PAGES} == first
    page, data = first["audit.html"].decode(), json.loads(first["audit.json"])
    assert data["reviews"]["disputed"] == 1
    assert data["reviews"]["precision"]["log_prob_min"]["n"] == 0
    assert (data["command"], data["model_digest"]) == (
        run.manifest["command"],
        load_audit(run.path).model_digest,
    )
    assert "<script" not in page
    assert "Ben <b>" not in page
    assert "disputed" in page
    assert "Where they contradict each other" in page
    withdraw(run.path, load_audit(run.path), output_digest(*_texts(run, number)), "Ben <b>")
    rewrite_audit(run.path)
    data = json.loads((run.path / "audit.json").read_text())
    assert data["reviews"]["precision"]["log_prob_min"] == share(1, 1).to_dict()


def _texts(run: Run, number: int) -> tuple[str, str]:
    row = load_audit(run.path).outputs.iloc[number]
    return row.source, row.output


def test_the_page_has_a_map_a_reason_and_a_certainty_for_a_finding(made, bart):
    audit = load_audit(made.path)
    maps = load_maps(made.path)
    assert list(maps) == sorted(suspect.number for suspect in audit.suspects[:2])
    suspect = audit.suspects[0]
    found = maps[suspect.number]
    assert tuple(token.text for token in found.target_tokens) == suspect.tokens
    page = audit_page(audit, command="explain audit", maps=maps)
    assert page.count('<table class="heat') == 2
    assert "clean outputs, 99\u00a0% of them, have at least" in page
    assert "of clean outputs are as strange" in page
    again = explain_suspects(bart, audit, most=2)
    for number, item in again.items():
        assert dump_json(item.to_dict()) == dump_json(maps[number].to_dict())


def test_the_page_has_a_table_for_every_test_of_the_model(made):
    share_ = share(7, 8).to_dict()
    row = {"word": "<b>agency", "slot": "", "writes": "F32", "same": share_, "p_corrected": 0.0001}
    canary = {"source": "code of Ann", "times": 3, "exposure": 9.5, "most": 10.0, "p_corrected": 0.01}
    tests = {
        "trigger": {"passed": False, "reason": "a word", "words": [row]},
        "canary": {"passed": False, "reason": "a secret", "canaries": [canary]},
    }
    page = audit_page(replace(load_audit(made.path), tests=tests), command="explain audit")
    for words in ("Words that move outputs most", "&lt;b&gt;agency", "7 of 8", "code of Ann", "9.5"):
        assert words in page


def test_an_output_that_the_model_does_not_write_is_forced(made, bart):
    suspect = load_audit(made.path).suspects[0]
    given = bart.force(suspect.source, "le chat la maison")
    other = replace(
        suspect, output="le chat la maison", tokens=tuple(token.text for token in given.target_tokens)
    )
    found = generation_of(bart, other, {"generate": {"max_new_tokens": 6}})
    assert found is not None
    assert found.target_text == "le chat la maison"
    assert generation_of(bart, replace(other, tokens=("x",)), {"generate": {}}) is None


def test_tokens_are_laid_out_in_their_text():
    found = laid_out("dose 8mcg", ["dose", "8", "m", "cg", "</s>"])
    assert [(token.start, token.end, token.special) for token in found] == [
        (0, 4, False),
        (5, 6, False),
        (6, 7, False),
        (7, 9, False),
        (9, 9, True),
    ]


def test_a_spreadsheet_gets_no_formula(bart, tmp_path):
    pairs = [Pair("= cat", "- chat"), Pair("a bird", "un oiseau"), Pair("a dog", "un chien")]
    run = audited(tmp_path, "csv", bart, tmp_path / "tiny", pairs=pairs, maps=0, allow_unknown=True)
    rows = list(csv.DictReader(findings_csv(run.path).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(load_audit(run.path).findings)
    assert {row["source"] for row in rows} >= {"'= cat"}
    assert not any(text[:1] in tuple("=+@") for row in rows for text in row.values())


def test_a_packed_audit_comes_back(run, tmp_path):
    with pack(run) as archive:
        again = unpack(archive, tmp_path / "other")
    assert load_audit(again.path).to_dict()["suspects"] == load_audit(run.path).to_dict()["suspects"]
    assert rewrite_audit(again.path).examples == 6


# ---- commands --------------------------------------------------------------------------------------------


def test_reviews_of_several_people_are_merged_on_the_command_line(run, cli, tmp_path):
    number = load_audit(run.path).suspects[0].number
    files = []
    for name, verdict in (("Ada", "wrong"), ("Ben", "right")):
        (tmp_path / name).mkdir()
        keep(tmp_path / name, load_audit(run.path), of(run, number, verdict, name))
        files.append(tmp_path / name / FILE)
    assert cli("review", run.path)[0] == 2
    status, said, err = cli("review", run.path, files[0])
    assert status == 0, err
    assert "log_prob_min  1 of 1" in said
    status, said, _ = cli("review", run.path, *files)
    assert "contradict each other" in said
    assert f"output {number}: Ada says wrong, Ben says right" in said
    status, said, _ = cli("review", run.path, "--json")
    assert json.loads(said)["disputed"] == 1
    status, _, err = cli("review", run.path, run.path / "audit.json")
    assert status == 2
    assert err.count("\n") == 1


def test_an_audit_calibrates_itself_and_takes_reviews(folder, cli, tmp_path):
    from tests.test_audit import sources

    clean, texts = tmp_path / "clean.txt", tmp_path / "texts.txt"
    clean.write_text("\n".join(sources(650, seed=9)) + "\n")
    texts.write_text("\n".join([" ".join(["cat"] * 20)] * 3) + "\n")
    policy = tmp_path / "policy.yaml"
    policy.write_text("tests: {}\ndetectors: {log_prob: {}, attention_uniform: {}}\n")
    given = ["audit", folder, "--data", texts, "--calibrate-on", clean, "--policy", policy]
    given += ["--max-new-tokens", 4]
    status, _, err = cli(*given, "--out", tmp_path / "run")
    assert status == 1, err
    found = load_audit(tmp_path / "run")
    assert found.calibration is not None
    assert (found.calibration["data"], found.calibration["n"]) == ("clean.txt", 520)
    keep(tmp_path / "run", found, of(Run.open(tmp_path / "run"), 0, "wrong"))
    reviews = tmp_path / "run" / FILE
    calibrated = ["--calibration", tmp_path / "run" / "calibration.json", "--reviews", reviews]
    given = ["audit", folder, "--data", texts, "--policy", policy, "--max-new-tokens", 4, *calibrated]
    assert cli(*given, "--out", tmp_path / "again")[0] == 1
    assert (load_audit(tmp_path / "again").reviews or {})["wrong"] == 1
    status, _, err = cli(*given, "--calibrate-on", clean, "--out", tmp_path / "both")
    assert status == 2
    assert "either" in err


def test_files_are_where_the_help_says(made):
    names = {path.name for path in made.path.iterdir()}
    assert names >= {*PAGES, "findings.csv", "findings.parquet", "outputs.parquet", "maps", "shards"}
    assert Path(made.path / "maps").is_dir()
