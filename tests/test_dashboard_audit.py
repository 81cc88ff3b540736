"""The page Audit, driven without a browser: opening, starting, looking at outputs, giving verdicts."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import explain
from dashboard import audits, catalogue, model_jobs, saved
from dashboard.audits import Plan
from dashboard.catalogue import Place
from dashboard.views import audit as page_audit
from explain.audit import load_audit
from explain.audit.reviews import load_reviews
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.runs import Run
from explain.training.data import Pair
from tests.audits import audited
from tests.jobs import said, started
from tests.test_dashboard import open_page, parts, save_run, texts

HOSTILE = "<img src=http://evil/x.png onerror=alert(1)> ![x](http://evil/x.png) $a$ :red[b]"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seq2Seq]:
    """A runs folder with a model of a task, and the model."""
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder, "tiny").update(config={"task": "translate"})
    return folder, explain.load(str(folder / "tiny"))


@pytest.fixture(scope="module")
def runs(opened, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an audit, with one that has no calibration, and with a file to audit."""
    folder, model = opened
    runs = tmp_path_factory.mktemp("audited")
    shutil.copytree(folder / "tiny", runs / "tiny")
    audited(runs, "plain", model, runs / "tiny", calibrated=False, maps=0)
    audited(runs, "audit", model, runs / "tiny")
    (runs / "notes.tsv").write_text("source\tward\nthe cat\teast\n")
    return runs


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a test may change."""
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    import streamlit as st

    yield
    st.cache_data.clear()


def button(app: AppTest, label: str):
    return next(each for each in app.button if each.label == label)


def component(app: AppTest, name: str) -> dict:
    (found,) = [
        each for each in parts(app, "bidi_component") if each.proto.component_name == f"explain_{name}"
    ]
    return json.loads(found.proto.json)


def listed(app: AppTest) -> list[int]:
    return [row["number"] for row in component(app, "suspects")["rows"]]


def strips(app: AppTest) -> dict[str, dict]:
    return {strip["id"]: strip for strip in component(app, "strips")["strips"]}


# ---- starting one ----------------------------------------------------------------------------------------


def test_without_an_audit_the_page_says_what_one_does_and_costs(opened):
    app = open_page(opened[0], "audit", model="tiny")
    assert not app.error
    for words in ("Detectors", "Clean outputs", "Very roughly", "close this page"):
        assert words in said(app)
    assert app.selectbox(key="audit_data").value == "task:translate"
    assert "clean outputs of its task" in app.selectbox(key="audit_clean").options[0]
    assert not button(app, "Audit").disabled


def test_one_click_starts_an_audit_that_calibrates_first(opened, tmp_path, started):
    shutil.copytree(opened[0] / "tiny", tmp_path / "tiny")
    app = open_page(tmp_path, "audit", model="tiny")
    button(app, "Audit").click().run()
    assert not app.exception
    assert not app.error
    (job,) = started
    assert job.words == [
        *("audit", str(tmp_path / "tiny"), "--task", "translate", "--examples", "300"),
        *("--calibrate-on", "translate", "--out", str(tmp_path / "audit-tiny")),
    ]
    assert app.session_state["explain_view"].run == "audit-tiny"
    assert "Auditing tiny on translate" in said(app)
    job.run.update(state="running", started="2020-01-01T00:00:00+00:00")
    job.run.append({"kind": "step", "step": 30, "total_steps": 120, "seconds": 1.0})
    app.run()
    assert "output 30 of 120" in parts(app, "progress")[0].proto.text.replace("\\", "")
    button(app, "Cancel").click().run()
    assert job.run.requested() == "stop"
    assert "Asked to stop" in said(app)
    job.run.update(state="failed", error=HOSTILE)
    app.run()
    assert "This audit failed: <img" in said(app)
    assert "![x]" not in texts(app)


def test_a_file_a_calibration_and_a_policy(own, started):
    from tests.audits import calibration

    model, found = explain.load(str(own / "tiny")), load_audit(own / "audit")
    made = calibration(model, found, {"forced": False, "generate": {"max_new_tokens": 6}})
    made.save(own / "clean.json")
    (own / "foreign.json").write_text('{"schema": "explain/calibration@1"}')
    place, choice = Place(own), catalogue.choose(Place(own), "tiny")
    assert list(audits.calibrations(place, choice)) == ["clean.json"]
    app = open_page(own, "audit", model="tiny", run="audit")
    app.selectbox(key="audit_data").set_value("file:notes.tsv")
    app.selectbox(key="audit_clean").set_value("clean.json")
    app.text_area(key="audit_policy").set_value("rate: 2")
    app.run()
    button(app, "Audit").click().run()
    assert "the policy, line 1: rate" in app.error[0].value.replace("\\", "")
    assert not started
    app.text_area(key="audit_policy").set_value("slices:\n  - column: ward\n")
    app.toggle(key="audit_unknown").set_value(True)
    button(app, "Audit").click().run()
    words = started[0].words
    assert words[2:6] == ["--data", str(own / "notes.tsv"), "--examples", "300"]
    assert words[6:8] == ["--calibration", str(own / "clean.json")]
    assert "--allow-unknown" in words
    assert Path(words[words.index("--policy") + 1]).read_text() == "slices:\n  - column: ward\n"


def test_two_starts_are_one_job(opened, tmp_path, started):
    shutil.copytree(opened[0] / "tiny", tmp_path / "tiny")
    place = Place(tmp_path)
    choice, plan = catalogue.choose(place, "tiny"), Plan("translate", None, 5)
    first, second = (audits.start(place, choice, plan) for _ in range(2))
    assert first == second
    first.update(state="done")
    assert audits.start(place, choice, plan).name == "audit-tiny-2"


def interrupted(place: Path, command: str) -> Run:
    run = Run.create(place, kind="audit", command=command)
    run.append({"kind": "step", "step": 30, "total_steps": 120})
    run.update(state="stopped")
    return run


def test_an_interrupted_audit_goes_on_by_a_click(opened, tmp_path, monkeypatch):
    shutil.copytree(opened[0] / "tiny", tmp_path / "tiny")
    out, begun = tmp_path / "audit-tiny", []
    monkeypatch.setattr(model_jobs, "start_job", lambda *given, **named: begun.append((given, named)))
    words = f"audit {tmp_path / 'tiny'} --task translate --out {out}"
    interrupted(out, f"explain {words}")
    app = open_page(tmp_path, "audit", run="audit-tiny")
    assert "stopped after 30 of 120 outputs" in str([each.value for each in app.info])
    button(app, "Resume").click().run()
    assert not app.exception
    assert begun == [(([*words.split(), "--resume"], out), {"kind": "audit"})]


def test_a_command_from_elsewhere_is_shown_and_never_given(opened, tmp_path):
    place = Place(tmp_path / "runs")
    shutil.copytree(opened[0] / "tiny", place.runs / "tiny")
    (tmp_path / "secret.tsv").write_text("source\nx\n")
    model, out = place.runs / "tiny", place.runs / "odd"
    run = interrupted(out, f"explain audit {model} --task translate --out {out}")
    assert audits.resuming(place, run) is not None
    for command in (
        f"explain train --task translate --out {out}",
        f"explain audit {tmp_path} --task translate --out {out}",
        f"explain audit {model} --data {tmp_path / 'secret.tsv'} --out {out}",
        f"explain audit {model} --data={tmp_path / 'secret.tsv'} --out {out}",
        f"explain audit {model} --task translate --out {place.runs / 'another'}",
        f"explain audit {model} --task translate --engine ray --ray-address ray://evil:1 --out {out}",
        "explain",
        "explain audit 'open quote",
    ):
        run.update(command=command)
        assert audits.resuming(place, run) is None, command
    app = open_page(place.runs, "audit", run="odd")
    assert not app.exception
    assert "Resume" not in [each.label for each in app.button]
    assert "open quote --resume" in str([each.value for each in app.code])


def test_more_outputs_parameters_and_text_cost_more():
    few = audits.seconds(100, 300_000, 40)
    assert 0 < audits.seconds(100, 300_000, 40, tests=False) < few < audits.seconds(900, 300_000, 40)
    assert few < min(audits.seconds(100, 60_000_000, 40), audits.seconds(100, 300_000, 400))


# ---- looking at one --------------------------------------------------------------------------------------


def test_the_verdict_the_outputs_and_the_detectors_are_shown(runs):
    app = open_page(runs, "audit", model="tiny")
    assert not app.error
    audit = load_audit(runs / "audit")
    assert "3 of 6 outputs are flagged, 50" in said(app).replace("\u00a0", " ")
    assert "Do not rely on these outputs unseen" in said(app)
    assert listed(app) == [suspect.number for suspect in audit.suspects]
    shown = strips(app)
    assert [token["t"] for token in shown["output"]["tokens"]] == list(audit.suspects[0].tokens)
    assert shown["source"]["role"] == "lit"  # its map is kept with the audit
    assert "flagged by Least likely token" in shown["output"]["notes"][audit.suspects[0].flags[0].places[0]]
    assert "clean outputs have at least" in said(app)
    assert len(parts(app, "plotly_chart")) == 2
    assert "of clean outputs are as strange" in said(app).replace("\u00a0", " ")
    cells = str([table.value.to_numpy().tolist() for table in app.table]).replace("\\", "")
    assert "length: up to 6" in cells
    assert "0: certain of every token" in cells


def test_every_view_is_a_link(runs):
    audit = load_audit(runs / "audit")
    number = audit.suspects[1].number
    named = {"detector": "log_prob_min", "shade": "log_prob_min", "step": "1"}
    app = open_page(runs, "audit", model="tiny", run="audit", finding=str(number), **named)  # pyright: ignore
    assert f"Output {number}" in said(app)
    assert component(app, "strips")["picked"] == [1, 2]
    assert strips(app)["output"]["bar"]["title"] == "nats"
    app.selectbox(key="view_detector").set_value("unreviewed").run()
    assert app.session_state["explain_view"].detector == "unreviewed"
    # What a link names and there is not falls back to what there is.
    app = open_page(runs, "audit", model="tiny", run="gone", finding="999", detector="gone", shade="gone")
    assert not app.error
    assert f"Output {audit.suspects[0].number}" in said(app)


def test_a_map_is_made_where_none_is_kept_and_leads_to_attribution(runs):
    number = load_audit(runs / "audit").suspects[2].number
    app = open_page(runs, "audit", model="tiny", run="audit", finding=str(number))
    assert strips(app)["source"]["role"] == "lit"
    assert "has not been checked yet" in said(app)
    app.button(key="audit_attribution").click().run()
    assert not app.exception
    view = app.session_state["explain_view"]
    assert (view.model, view.method) == ("tiny", "value_zeroing")
    assert json.loads((runs / ".dashboard" / "texts" / f"{view.example}.json").read_text())["target"] is None


def test_an_audit_without_calibration_gives_no_verdict(runs):
    app = open_page(runs, "audit", model="tiny", run="plain")
    assert "There is no calibration" in said(app)
    assert "Not calibrated, so nothing says" in said(app)
    assert len(listed(app)) == 6


def test_an_audit_whose_model_is_gone_or_changed_is_still_read(own):
    shutil.rmtree(own / "tiny")
    app = open_page(own, "audit", run="audit")
    assert not app.error
    assert "is not here, or has changed" in said(app)
    assert strips(app)["source"]["role"] == "lit"
    app = open_page(own, "audit", run="audit", finding=str(load_audit(own / "audit").suspects[2].number))
    assert strips(app)["source"]["role"] == "plain"
    shutil.rmtree(own / "audit" / "shards")
    app = open_page(own, "audit", run="audit")
    assert not app.error
    assert listed(app)


@pytest.mark.parametrize("name", ["audit.json", "findings.parquet", "reviews.json"])
def test_a_broken_file_is_one_line(own, name):
    (own / "audit" / name).write_text("{")
    app = open_page(own, "audit", model="tiny", run="audit")
    assert len(app.error) == 1
    assert name in app.error[0].value.replace("\\", "")


@pytest.mark.parametrize(
    "change",
    [
        {"reviews": {"reviewed": 3}},
        {"detectors": {"log_prob": {"rate": 0.1}}},
        {"tests": {"swaps": {"slots": {"sex": {"swaps": 3}}}}},
        {"suspects": [3]},
    ],
)
def test_a_broken_audit_is_one_line(own, change):
    path = own / "audit" / "audit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    app = open_page(own, "audit", model="tiny", run="audit")
    assert len(app.error) == 1
    assert "broken audit" in app.error[0].value


def test_an_audit_by_detectors_that_are_not_known_here_is_read(own):
    path = own / "audit" / "audit.json"
    path.write_text(path.read_text().replace("log_prob_min", "not_here"))
    app = open_page(own, "audit", model="tiny", run="audit")
    assert not app.error
    assert not app.exception
    assert "not_here" in said(app)


def test_hostile_text_is_shown_as_text(opened, tmp_path):
    folder, model = opened
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    pairs = [Pair(f"{HOSTILE} {i}", f"{HOSTILE} {'chat ' * i}") for i in range(5)]
    run = audited(tmp_path, "audit", model, tmp_path / "tiny", pairs=pairs, maps=0, allow_unknown=True)
    data = json.loads((run.path / "audit.json").read_text())
    data |= {"reason": HOSTILE, "data": HOSTILE, "model": HOSTILE, "verdict": "fail"}
    data["checks"] = [{"name": HOSTILE, "passed": False, "reason": HOSTILE}]
    data["tests"] = {HOSTILE: {"passed": None, "reason": HOSTILE}}
    (run.path / "audit.json").write_text(json.dumps(data))
    run.update(title=HOSTILE)
    audit = load_audit(run.path)
    number = audit.suspects[0].number
    row = audits.row_of(audit, number)
    assert row is not None
    audits.review(run, audit, row, "wrong", HOSTILE, HOSTILE[:40])
    app = open_page(tmp_path, "audit", model="tiny", run="audit", finding=str(number))
    assert not app.exception
    assert not app.error
    marked = [each.value for kind in (app.markdown, app.caption, app.warning) for each in kind]
    assert not any("![x]" in text or ":red[b" in text or "$a$" in text for text in marked)
    assert "<img src" in said(app)


# ---- verdicts --------------------------------------------------------------------------------------------


def test_a_verdict_is_kept_counted_and_taken_back(own):
    audit = load_audit(own / "audit")
    number = audit.suspects[0].number
    app = open_page(own, "audit", model="tiny", run="audit")
    key = f"audit_{number}"
    app.button(key=f"FormSubmitter:review_{key}-Save the verdict").click().run()
    assert "Choose one of the three" in said(app)
    app.button_group(key=f"verdict_{key}").set_value("wrong")
    app.text_area(key=f"note_{key}").set_value("no cat there")
    app.text_input(key=f"reviewer_{key}").set_value("Ada")
    app.button(key=f"FormSubmitter:review_{key}-Save the verdict").click().run()
    assert not app.exception
    (one,) = load_reviews(own / "audit")
    assert (one.number, one.verdict, one.note, one.reviewer) == (number, "wrong", "no cat there", "Ada")
    assert "a precision of 100" in said(app)
    assert component(app, "suspects")["rows"][0]["said"] == "wrong"
    assert "no cat there" in (own / "audit" / "audit.html").read_text()
    # Another session, after a reload.
    app = open_page(own, "audit", model="tiny", run="audit")
    assert "Ada: wrong" in said(app).replace("**", "")
    button(app, "Next without a verdict").click().run()
    assert app.session_state["explain_view"].finding == audit.suspects[1].number
    app = open_page(own, "audit", model="tiny", run="audit")
    button(app, "Take back").click().run()
    assert load_reviews(own / "audit") == ()
    assert load_audit(own / "audit").reviews is None


def test_a_policy_in_the_form_is_checked_by_line(tmp_path):
    with pytest.raises(InputError, match=r"the policy, line 2.*'limits'"):
        audits.keep_policy(Place(tmp_path), "rate: 0.01\nlimits: 3\n")
    with pytest.raises(InputError, match="is not under"):
        audits.keep_policy(Place(tmp_path), "tests: {canary: {file: /etc/passwd}}\n")
    assert audits.keep_policy(Place(tmp_path), "rate: 0.01\n").read_text() == "rate: 0.01\n"


# ---- elsewhere -------------------------------------------------------------------------------------------


def test_runs_and_reports_opens_an_audit(runs):
    app = open_page(runs, "runs", run="audit")
    assert not app.error
    assert "fail, 6 outputs" in said(app)
    button(app, "Open in Audit").click().run()
    assert not app.exception
    assert app.session_state["explain_view"].run == "audit"


def test_an_audit_is_brought_in_from_its_json_alone(own):
    run = saved.bring_in(Place(own), "theirs.json", (own / "audit" / "audit.json").read_bytes())
    app = open_page(own, "audit", model="tiny", run=run.name)
    assert not app.error
    audit = load_audit(run.path)
    row = audit.suspects[0]
    key = f"{run.name}_{row.number}"
    app.button_group(key=f"verdict_{key}").set_value("right")
    app.button(key=f"FormSubmitter:review_{key}-Save the verdict").click().run()
    assert not app.error
    assert load_audit(run.path).reviews["right"] == 1  # pyright: ignore


def test_titles_say_what_came_out(runs):
    assert page_audit._title(Run.open(runs / "audit")) == "audit · tiny on texts · fail"
