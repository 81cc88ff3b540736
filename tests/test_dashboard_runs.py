"""Runs & reports, what is brought in, and the jobs in the sidebar; driven without a browser."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

import explain
from dashboard import examples, jobs, reports, saved
from dashboard.catalogue import Choice, Place, choices
from dashboard.examples import Example
from dashboard.reports import Plan
from explain.errors import ExplainError, FileError, InputError
from explain.files import dump_json
from explain.report import Report
from explain.runs import Run, pack
from tests.test_dashboard import APP, TEXT, open_page, parts, save_run, texts

HOSTILE = "<img src=http://evil/x.png> ![x](http://evil/x.png) :red[x] $a$"
assert APP


@pytest.fixture(scope="module")
def results(bart) -> dict[str, bytes]:
    """Results as files: an attribution, a report, and one of another kind."""
    generation = bart.generate(TEXT, max_new_tokens=4)
    report = explain.report(bart, [TEXT], methods=["attention"], generate={"max_new_tokens": 4})
    attribution = bart.attribute(generation, method="attention")
    made = {"report.json": report.to_dict(), "other.json": {"schema": "explain/other@1"}}
    files = {name: dump_json(data).encode() for name, data in made.items()}
    head = {"schema": "explain/attribution@1"}
    return files | {"attribution.json": dump_json({**head, **attribution.to_dict()}).encode()}


@pytest.fixture
def started(monkeypatch):
    """What would have been started."""
    calls = []

    def start(words, path, **also):
        calls.append((words, path, also))
        return Run.create(path, kind=also["kind"], title=also["title"], config=also["config"])

    monkeypatch.setattr(reports, "start_job", start)
    return calls


def shelf(app) -> list[dict]:
    """The rows of the list as the component gets them."""
    (element,) = [p for p in parts(app, "bidi_component") if p.proto.component_name == "explain_shelf"]
    return json.loads(element.proto.json)["rows"]


def said(app) -> str:
    return texts(app).replace("\\", "")


def button(app, label: str):
    return next(each for each in app.button if each.label == label)


# ---- the page --------------------------------------------------------------------------------------------


def test_an_empty_folder_teaches(tmp_path):
    app = open_page(tmp_path / "none", "runs")
    assert not app.error
    assert "Nothing has been made yet" in said(app)
    assert button(app, "Train a model")


def test_everything_is_listed_with_what_came_out(tmp_path):
    save_run(tmp_path, "tiny")
    made = Run.create(tmp_path / "checked", kind="evaluate", config={"model": str(tmp_path / "tiny")})
    made.update(state="done", result={"best": "attention", "examples": 3})
    Run.create(tmp_path / "broke", kind="audit").update(state="failed", error=HOSTILE)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    rows = {row["name"]: row for row in shelf(open_page(tmp_path, "runs", run="tiny"))}
    assert list(rows) == ["broke", "checked", "tiny", "bad"]
    assert rows["tiny"]["result"] == "50 % exactly right"
    assert (rows["checked"]["kind"], rows["checked"]["result"]) == ("Evaluation", "Attention first")
    assert rows["broke"]["failed"]
    assert rows["bad"]["kind"] == "Unreadable"
    assert [name for name, row in rows.items() if row["picked"]] == ["tiny"]


def test_a_training_leads_to_its_pages_and_an_evaluation_to_trust(tmp_path):
    save_run(tmp_path, "tiny")
    made = Run.create(tmp_path / "checked", kind="evaluate", config={"model": str(tmp_path / "tiny")})
    made.update(state="done", result={})
    app = open_page(tmp_path, "runs", run="tiny")
    assert {"Open in Generate", "Open in Train"} <= {each.label for each in app.button}
    assert "Everything (ZIP)" in [each.label for each in app.get("download_button")]
    app = open_page(tmp_path, "runs", run="checked")
    button(app, "Open in Trust").click().run()
    assert app.session_state["explain_view"].model == "tiny"


@pytest.mark.parametrize(
    ("kind", "result", "said"),
    [
        ("compare", {"alarm": False, "examples": 10}, "no alarm, 10 outputs"),
        ("compare", {"alarm": None, "examples": 1}, "no answer, 1 output"),
        ("compress", {"exact_match": 0.5, "exact_match_before": 1.0}, "50 % exactly right, 100 % before"),
        ("compress", {"exact_match": None, "chrf": 80.25}, "chrf 80.250"),
    ],
)
def test_a_result_is_said_in_words(tmp_path, kind, result, said):
    Run.create(tmp_path / "made", kind=kind).update(state="done", result=result)
    (row,) = shelf(open_page(tmp_path, "runs"))
    assert row["result"].replace("\u00a0", " ") == said


def test_kinds_are_filtered(tmp_path):
    save_run(tmp_path, "tiny")
    Run.create(tmp_path / "page", kind="report").update(state="done")
    app = open_page(tmp_path, "runs")
    app.pills(key="saved_kind").set_value("train").run()
    assert [row["name"] for row in shelf(app)] == ["tiny"]


def test_hostile_text_in_a_run_is_shown_as_text(tmp_path):
    run = save_run(tmp_path, "tiny", title=HOSTILE)
    Run.create(tmp_path / "odd", kind=HOSTILE, title=HOSTILE, config={"model": HOSTILE}).update(
        state="failed", error=HOSTILE
    )
    for name in (run.name, "odd"):
        app = open_page(tmp_path, "runs", run=name)
        assert not app.exception
        marked = [each.value for kind in (app.markdown, app.caption, app.error) for each in kind]
        assert not any("![x]" in text or ":red[" in text or "$a$" in text for text in marked)


def test_a_job_is_shown_on_every_page_and_can_be_cancelled(tmp_path):
    save_run(tmp_path, "tiny")
    run = Run.create(tmp_path / "job", kind="report", title=HOSTILE)
    run.update(state="running")
    run.append({"kind": "step", "step": 3, "total_steps": 12})
    for page in ("generate", "trust", "runs"):
        app = open_page(tmp_path, page)
        assert any("25" in each.proto.text for each in parts(app, "progress")), page
    app.button(key="job_stop_job").click().run()
    assert run.requested() == "stop"
    assert app.button(key="job_stop_job").disabled
    run.update(state="done")
    assert not [each for each in open_page(tmp_path).button if str(each.key).startswith("job_")]


def test_nothing_runs_nothing_polls(tmp_path, monkeypatch):
    save_run(tmp_path, "tiny")
    monkeypatch.setattr(jobs, "_list", lambda *_: pytest.fail("polled"))
    open_page(tmp_path)


def test_deleting_asks_first(tmp_path):
    save_run(tmp_path, "tiny")
    app = open_page(tmp_path, "runs", run="tiny", model="tiny")
    app.button(key="saved_delete").click().run()
    assert not app.exception
    assert (tmp_path / "tiny").is_dir()
    assert "cannot be undone" in said(app)
    assert app.button(key="delete_yes")


# ---- reports ---------------------------------------------------------------------------------------------


def test_a_report_is_started_by_the_command_line(tmp_path, started):
    save_run(tmp_path, "tiny")
    id_ = examples.save(Place(tmp_path), Example(TEXT, None, {"num_beams": 2, "max_new_tokens": 6}))
    app = open_page(tmp_path, "runs", model="tiny", example=id_, method="occlusion")
    button(app, "Make the report").click().run()
    assert not app.exception
    words, path, also = started[0]
    assert words[:2] == ["report", str(tmp_path / "tiny")]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--method"] == [
        "occlusion",
        "attention",
    ]
    assert words[words.index("--num-beams") + 1] == "2"
    assert "--forced" not in words
    assert also["config"]["model"] == str(tmp_path / "tiny")
    rows = [json.loads(line) for line in Path(words[words.index("--input") + 1]).read_text().splitlines()]
    assert rows == [{"source": TEXT}]
    assert app.session_state["explain_view"].run == path.name


def test_outputs_that_the_command_line_cannot_write_are_handed_to_it(tmp_path, started):
    save_run(tmp_path, "tiny")
    place = Place(tmp_path)
    sampled = Example(TEXT, None, {"do_sample": True, "seed": 1, "max_new_tokens": 4})
    given = Example(TEXT, "le chat", {})
    assert not reports.rewritten([sampled])
    assert not reports.rewritten([given])
    assert not reports.rewritten([Example(TEXT), Example(TEXT, None, {"num_beams": 2})])
    assert reports.rewritten([Example(TEXT), Example("a cat")])
    choice = choices(place)["tiny"]
    reports.start(
        place, choice, Plan((given, Example("a cat", "un chat", {})), ("attention",), "Mine", "word")
    )
    words = started[0][0]
    assert "--forced" in words
    assert words[words.index("--title") + 1] == "Mine"
    assert words[words.index("--level") + 1] == "word"
    rows = [json.loads(line) for line in Path(words[words.index("--input") + 1]).read_text().splitlines()]
    assert [row["target"] for row in rows] == ["le chat", "un chat"]
    with pytest.raises(InputError):
        reports.start(place, choice, Plan((), ("attention",)))


def test_recent_texts_are_newest_first_and_broken_ones_left_out(tmp_path):
    place = Place(tmp_path)
    first, second = (examples.save(place, Example(text)) for text in ("one", "two"))
    import os

    os.utime(place.hidden / "texts" / f"{first}.json", (1, 1))
    (place.hidden / "texts" / f"{'0' * 16}.json").write_text("{")
    assert list(reports.recent(place)) == [second, first]


# ---- bringing in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("attribution.json", "attribution"), ("report.json", "report")])
def test_a_result_is_brought_in_with_its_page_made_anew(tmp_path, results, name, kind):
    run = saved.bring_in(Place(tmp_path), f"../{name}", results[name])
    assert run.path.parent == tmp_path
    assert (run.manifest["kind"], run.state) == (kind, "done")
    (item,) = saved.everything(Place(tmp_path))
    assert [path.name for path in item.pages] == [name.replace("json", "html")]
    assert item.result.startswith("1 output")
    assert saved.bring_in(Place(tmp_path), name, results[name]).name != run.name


def test_a_report_survives_its_file(results):
    data = json.loads(results["report.json"])
    assert json.loads(dump_json(Report.from_dict(data).to_dict())) == data
    for broken in ({}, {**data, "examples": 3}, {**data, "examples": [{}]}, {**data, "settings": None}):
        with pytest.raises(ExplainError):
            Report.from_dict(broken)


def test_a_run_is_brought_in_from_its_zip(tmp_path):
    run = save_run(tmp_path / "a", "tiny")
    with pack(run) as archive:
        content = archive.read()
    place = Place(tmp_path / "b")
    assert saved.bring_in(place, "tiny.zip", content).name == "tiny"
    assert isinstance(choices(place)["tiny"], Choice)


@pytest.mark.parametrize("name", ["other.json", "x.html", "x.exe", "broken.json", "text.json", "empty.zip"])
def test_a_foreign_file_is_refused_by_name(tmp_path, results, name):
    content = {"broken.json": b"{", "text.json": b"\xff\xfe", "empty.zip": _empty_zip()}.get(name)
    with pytest.raises((FileError, InputError), match=name):
        saved.bring_in(Place(tmp_path), name, content or results.get(name, b""))
    assert not saved.everything(Place(tmp_path))


def test_a_broken_result_is_refused_and_leaves_nothing(tmp_path, results):
    for name in ("attribution.json", "report.json"):
        data = json.loads(results[name])
        for key in list(data):
            for value in (None, 3, "x", [], {}):
                try:
                    saved.bring_in(Place(tmp_path), name, json.dumps({**data, key: value}).encode())
                except ExplainError:
                    continue
    assert all(item.state == "done" for item in saved.everything(Place(tmp_path)))


def _empty_zip() -> bytes:
    made = io.BytesIO()
    zipfile.ZipFile(made, "w").close()
    return made.getvalue()
