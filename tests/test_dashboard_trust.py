"""Which method to believe, on the page Trust and beside the maps; driven without a browser."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

import explain
from dashboard import catalogue, evaluations, examples, inputs
from dashboard.catalogue import Place
from dashboard.components.ranking import to_data
from dashboard.evaluations import Plan
from dashboard.examples import Example
from dashboard.views import new_evaluation, trust_card
from dashboard.views.method import by_kind
from explain.errors import ExplainError, FileError, InputError
from explain.evaluation import (
    FILE,
    METRICS,
    CardPolicy,
    Completeness,
    Estimate,
    Evaluation,
    Faithfulness,
    Gold,
    GoldScores,
    MethodEvaluation,
    TaskFacts,
    TrustCard,
    Verification,
)
from explain.evaluation.cards import card_of, ranking
from explain.evaluation.randomisation import Randomisation, StageScores
from explain.report.ranking import ranking as ranking_of
from explain.runs import Run
from tests.jobs import said, started
from tests.models import network, tokenizer
from tests.test_dashboard import TEXT, open_page, parts, save_run, texts

HOSTILE = "<img src=http://evil/x.png onerror=alert(1)> ![x](http://evil/x.png) $a$ :red[b]"


def near(value: float, n: int = 40) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, n)


def gold(right: float) -> Gold:
    scores = GoldScores(**{name: near(right) for name in METRICS})
    return Gold(scores, {"contrastive": scores}, near(0.1), near(0.2), {})


def faithful(gain: float) -> Faithfulness:
    curve = (0.9, 0.5, 0.1)
    numbers = {field.name: near(gain) for field in dataclasses.fields(Faithfulness)[:9]}
    return Faithfulness(
        **numbers, fractions=(0.0, 0.5, 1.0), deletion_curve=curve, insertion_curve=curve[::-1]
    )


def shuffled(left: float) -> Randomisation:
    stages = (
        StageScores("decoder.0", near(0.6), near(0.5)),
        StageScores("embeddings", near(left), near(0.1)),
    )
    passed = left < 0.2
    return Randomisation(
        stages,
        near(0.1),
        near(left - 0.1),
        passed,
        "the maps come from the weights" if passed else "part of the maps stays",
    )


def method(name: str, right: float, gain: float, left: float, *, problem: str = "") -> MethodEvaluation:
    fine = not problem
    found = MethodEvaluation(
        name,
        {"batch_size": 16},
        gold(right) if fine else None,
        faithful(gain) if fine else None,
        Completeness(False, 0.01, 0, math.nan, math.nan) if fine else None,
        shuffled(left) if fine else None,
        near(0.1) if fine else None,
        None,
        TrustCard(name, "unavailable", "", ()),
        problem,
    )
    return dataclasses.replace(found, card=card_of(found, CardPolicy()))


def made(digest: str) -> Evaluation:
    """An evaluation with a method of every verdict: attention is the best, occlusion fails."""
    methods = [
        method("attention", 0.97, 0.5, 0.1),
        method("saliency", 0.6, 0.4, 0.1),
        method("occlusion", 0.99, 0.6, 0.5),
        method("lime", 0, 0, 0, problem="it knows no such family"),
        method("random", 0.2, 0.0, 0.9),
    ]
    return Evaluation(
        TaskFacts("translate", 40, 0.95, 0.99, Verification(40, 38, 100, 80, 76, 200), 10),
        {found.name: found for found in methods},
        faithful(0.0),
        tuple(ranking(methods)),
        {"examples": 40, "seed": 0},
        digest,
        "sha256:data",
    )


def keep(run: Run, **changes: object) -> Evaluation:
    """Keep an evaluation with a run, as `explain evaluate` does."""
    digest = explain.load(str(run.path)).digest
    found = dataclasses.replace(made(digest), **changes)
    found.save(run.path / FILE)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: one evaluated, one whose evaluation is of another state, one without."""
    folder = tmp_path_factory.mktemp("runs")
    keep(save_run(folder, "checked"))
    keep(save_run(folder, "changed", seed=1), model_digest="sha256:other")
    save_run(folder, "unchecked", seed=2).update(config={"task": "translate"})
    (folder / "words.tsv").write_text("source\ttarget\nthe cat\tle chat\na dog\t\n")
    return folder


@pytest.fixture
def example(runs: Path) -> str:
    return examples.save(Place(runs), Example(TEXT, None, {"max_new_tokens": 6}))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    import streamlit as st

    yield
    st.cache_data.clear()


def choice_of(runs: Path, name: str) -> catalogue.Choice:
    return catalogue.choose(Place(runs), name)


def copy_of(runs: Path, name: str, into: Path) -> Run:
    import shutil

    shutil.copytree(runs / name, into / name)
    return Run.open(into / name)


def button(app: AppTest, label: str):
    return next(each for each in app.button if each.label == label)


# ---- none yet --------------------------------------------------------------------------------------------


def test_without_an_evaluation_the_page_says_what_one_measures_and_costs(runs):
    app = open_page(runs, "trust", model="unchecked")
    assert not app.error
    for words in ("Known answers", "Faithfulness", "Shuffled weights", "Very roughly", "close this page"):
        assert words in said(app)
    assert app.selectbox(key="view_data").options[0] == "English to French: known answers"
    assert not button(app, "Evaluate").disabled


def test_a_model_without_task_or_data_can_be_evaluated_on_a_file_alone(tmp_path):
    save_run(tmp_path, "bare")
    app = open_page(tmp_path, "trust", model="bare")
    assert button(app, "Evaluate").disabled
    (tmp_path / "own.csv").write_text("source\nthe cat\n")
    app.run()
    assert app.selectbox(key="view_data").options == ["own.csv"]
    assert not button(app, "Evaluate").disabled
    assert "1 source, 0 with an output" in said(app)


def test_the_data_that_a_model_was_trained_on_are_offered_first(tmp_path):
    own = tmp_path / "elsewhere" / "pairs.tsv"
    own.parent.mkdir()
    own.write_text("en\tfr\nthe cat\tle chat\n")
    runs = tmp_path / "runs"
    config = {"task": None, "data": str(own), "source_column": "en", "target_column": "fr"}
    save_run(runs, "own").update(config=config)
    app = open_page(runs, "trust", model="own")
    assert not app.error
    assert app.selectbox(key="view_data").options == ["pairs.tsv (what it was trained on)"]
    assert "1 source, 1 with an output" in said(app)
    choice = choice_of(runs, "own")
    assert evaluations.own_reading(choice) == {"source-column": "en", "target-column": "fr"}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../etc/passwd", "file:/etc/hosts", "none.tsv", "task:clinic"]
)
def test_a_link_reads_no_data_but_the_dashboards(runs, started, name):
    app = open_page(runs, "trust", model="unchecked", data=name)
    assert len(app.error) == 1
    assert button(app, "Evaluate").disabled
    assert "root:" not in said(app)


def test_a_file_without_the_column_says_so(runs):
    app = open_page(runs, "trust", model="unchecked", data="words.tsv")
    assert not app.error
    app.text_input(key="trust_source-column_False").set_value("english").run()
    assert "no column" in app.error[0].value
    assert button(app, "Evaluate").disabled


# ---- jobs ------------------------------------------------------------------------------------------------


def test_a_click_starts_the_command_line(runs, started):
    app = open_page(runs, "trust", model="unchecked", count="7")
    button(app, "Evaluate").click().run()
    assert not app.exception
    (job,) = started
    model, out = str(runs / "unchecked"), str(runs / "evaluate-unchecked")
    assert job.words == ["evaluate", model, "--task", "translate", "--examples", "7", "--out", out]
    assert (str(job.path), job.kind) == (out, "evaluate")
    assert job.config["model"] == model
    # The page now shows the job, and there is nothing left to click twice.
    assert "Evaluating the methods on unchecked" in said(app)
    assert not any(each.label == "Evaluate" for each in app.button)


def test_fast_methods_and_a_file(runs, tmp_path, started):
    copy_of(runs, "unchecked", tmp_path)
    (tmp_path / "words.tsv").write_text("source\ttarget\nthe cat\tle chat\n")
    app = open_page(tmp_path, "trust", model="unchecked", scope="fast", data="file:words.tsv")
    app.toggle(key="trust_unknown").set_value(True).run()
    button(app, "Evaluate").click().run()
    words = started[0].words
    assert words[2:4] == ["--data", str(tmp_path / "words.tsv")]
    assert "--allow-unknown" in words
    named = [words[at + 1] for at, word in enumerate(words) if word == "--method"]
    assert named == list(evaluations.fast_methods())
    assert "attention" in named
    assert {"integrated_gradients", "shapley_sampling", "random"}.isdisjoint(named)


def test_two_starts_are_one_job_and_models_do_not_disturb_each_other(runs, tmp_path, started):
    for name in ("unchecked", "changed"):
        copy_of(runs, name, tmp_path)
    place, plan = Place(tmp_path), Plan("translate", None, 5)
    first, second = (evaluations.start(place, choice_of(tmp_path, "unchecked"), plan) for _ in range(2))
    assert first == second
    other = evaluations.start(place, choice_of(tmp_path, "changed"), plan)
    assert [job.run for job in started] == [first, other]
    assert evaluations.jobs(place, choice_of(tmp_path, "changed")) == [other]
    first.update(state="done")
    again = evaluations.start(place, choice_of(tmp_path, "unchecked"), plan)
    assert again.name == "evaluate-unchecked-2"


def test_a_job_shows_how_far_it_is_and_can_be_cancelled(runs, tmp_path, started):
    copy_of(runs, "unchecked", tmp_path)
    run = evaluations.start(Place(tmp_path), choice_of(tmp_path, "unchecked"), Plan("translate", None, 5))
    run.update(state="running", started="2020-01-01T00:00:00+00:00")
    run.append({"kind": "step", "step": 3, "total_steps": 12, "seconds": 1.0})
    app = open_page(tmp_path, "trust", model="unchecked")
    assert "step 3 of 12" in parts(app, "progress")[0].proto.text.replace("\\", "")
    button(app, "Cancel").click().run()
    assert run.requested() == "stop"
    assert "Asked to stop" in said(app)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_job_that_came_to_nothing_says_why_and_can_be_started_again(runs, tmp_path, started, state):
    copy_of(runs, "unchecked", tmp_path)
    run = evaluations.start(Place(tmp_path), choice_of(tmp_path, "unchecked"), Plan("translate", None, 5))
    run.update(state=state, error=HOSTILE if state == "failed" else None)
    app = open_page(tmp_path, "trust", model="unchecked")
    assert ("The last evaluation failed: <img" if state == "failed" else "was stopped") in said(app)
    assert "![x]" not in texts(app)
    assert not button(app, "Evaluate").disabled


def test_an_evaluation_made_later_hides_an_older_failure(runs, tmp_path, started):
    run = copy_of(runs, "checked", tmp_path)
    job = evaluations.start(Place(tmp_path), choice_of(tmp_path, "checked"), Plan("translate", None, 5))
    job.update(state="failed", error="too old to matter")
    keep(run)
    assert "too old to matter" not in said(open_page(tmp_path, "trust", model="checked"))


def test_a_model_that_is_no_run_finds_its_evaluation_among_the_runs(tmp_path, started):
    network("bart").save_pretrained(tmp_path / "plain")
    tokenizer().save_pretrained(tmp_path / "plain")
    place, choice = Place(tmp_path), choice_of(tmp_path, "plain")
    assert evaluations.kept(place, choice) is None
    run = evaluations.start(place, choice, Plan("translate", None, 5))
    made(explain.load(str(tmp_path / "plain")).digest).save(run.path / FILE)
    assert evaluations.kept(place, choice) is None, "a job at work has no result yet"
    run.update(state="done")
    kept = evaluations.kept(place, choice)
    assert kept is not None
    assert (kept.current, kept.best) == (True, "attention")


# ---- the evaluation --------------------------------------------------------------------------------------


def table(app: AppTest) -> dict[str, dict]:
    """The rows of the ranking as the component gets them, by method."""
    (element,) = [
        each for each in parts(app, "bidi_component") if each.proto.component_name == "explain_ranking"
    ]
    return {row["method"]: row for row in json.loads(element.proto.json)["rows"]}


def test_the_answer_the_ranking_and_the_card_are_shown(runs):
    app = open_page(runs, "trust", model="checked")
    assert not app.error
    words = said(app)
    assert "Believe Attention first" in words
    assert "97 % of 40 output tokens" in words.replace("\u00a0", " ")
    assert "76" in words
    rows = table(app)
    assert list(rows) == ["attention", "saliency", "occlusion", "lime", "random"]
    assert [row["off"] for row in rows.values()] == [False, False, True, True, True]
    assert [name for name, row in rows.items() if row["best"]] == ["attention"]
    assert [name for name, row in rows.items() if row["picked"]] == ["attention"]
    assert rows["occlusion"]["failed"]
    assert "✗" in rows["occlusion"]["sign"]
    assert len(parts(app, "plotly_chart")) == 3
    facts = {each.value for each in app.text}
    assert {"translate", "40", "95\u00a0%", "24\u00a0%"} <= facts  # examples, exact match, dropped
    offered = [each.label for each in app.get("download_button")]
    assert offered[-2:] == ["Page (HTML)", "Data (JSON)"]  # those before are the figures'
    assert button(app, "Evaluate again")


def test_a_method_is_picked_and_stands_in_the_link(runs):
    app = open_page(runs, "trust", model="checked", card="occlusion")
    assert [name for name, row in table(app).items() if row["picked"]] == ["occlusion"]
    assert "part of the maps stays" in said(app).lower()
    app.selectbox(key="view_card").set_value("lime").run()
    assert app.session_state["explain_view"].card == "lime"
    assert "it knows no such family" in said(app)
    app.selectbox(key="view_card").set_value("random").run()
    assert not app.error
    assert not app.exception


def test_a_card_leads_to_a_map(runs, example):
    app = open_page(runs, "trust", model="checked", example=example, card="saliency")
    app.button(key="explain_picked").click().run()
    assert app.session_state["explain_view"].method == "saliency"


def test_an_evaluation_of_another_state_of_the_model_says_so(runs, example):
    app = open_page(runs, "trust", model="changed")
    assert "another state of the model" in app.warning[0].value
    assert not button(app, "Evaluate again").disabled
    app = open_page(runs, "attribution", model="changed", example=example, method="occlusion")
    assert "of another state" in said(app)
    assert not app.warning
    assert not any(sign in option for option in app.selectbox(key="view_method").options for sign in "★✗")


def test_a_broken_evaluation_is_one_line_and_hides_no_map(runs, tmp_path, example):
    run = copy_of(runs, "checked", tmp_path)
    whole = json.loads((run.path / FILE).read_text())
    for broken in ("{", json.dumps({**whole, "ranking": ["gone"]}), json.dumps({**whole, "methods": 3})):
        (run.path / FILE).write_text(broken)
        app = open_page(tmp_path, "trust", model="checked")
        assert len(app.error) == 1, broken[:40]
        assert button(app, "Evaluate")
    id_ = examples.save(Place(tmp_path), Example(TEXT, None, {"max_new_tokens": 6}))
    app = open_page(tmp_path, "attribution", model="checked", example=id_)
    assert not app.error
    assert "cannot be read" in said(app)


def test_hostile_text_in_an_evaluation_is_shown_as_text(runs, tmp_path):
    run = copy_of(runs, "checked", tmp_path)
    data = json.loads((run.path / FILE).read_text())
    found = data["methods"].pop("attention")
    found["card"] |= {"method": HOSTILE, "reason": HOSTILE}
    found["card"]["checks"] = [{"name": HOSTILE, "passed": True, "reason": HOSTILE}]
    found["randomisation"]["stages"][0]["name"] = HOSTILE
    data["methods"][HOSTILE] = found
    data["ranking"] = [HOSTILE if name == "attention" else name for name in data["ranking"]]
    data["methods"]["saliency"]["card"]["verdict"] = HOSTILE
    data["task"]["name"] = HOSTILE
    (run.path / FILE).write_text(json.dumps(data))
    id_ = examples.save(Place(tmp_path), Example(TEXT, None, {"max_new_tokens": 6}))
    for page, method_ in (("trust", ""), ("attribution", "saliency"), ("attention", "")):
        app = open_page(tmp_path, page, model="checked", example=id_, method=method_)
        assert not app.exception
        assert not app.error
        marked = [each.value for kind in (app.markdown, app.caption, app.warning) for each in kind]
        assert not any("![x]" in text or ":red[" in text or "$a$" in text for text in marked)
        assert not any("![x]" in each.label for each in app.button)
    app = open_page(tmp_path, "trust", model="checked")
    assert "<img src" in said(app)


# ---- beside the maps -------------------------------------------------------------------------------------


def test_methods_are_marked_where_they_are_chosen(runs, example):
    app = open_page(runs, "attribution", model="checked", example=example, method="attention")
    options = dict(zip(by_kind(), app.selectbox(key="view_method").options, strict=True))
    assert options["attention"] == "★ Inside the model · Attention – most trusted"
    assert options["occlusion"] == "✗ Perturbation · Occlusion – fails"
    assert options["saliency"] == "? Gradients · Saliency – doubtful"
    assert options["lime"].endswith("not available")
    assert options["deeplift"] == "Gradients · DeepLift"
    assert "Its strongest influence is one the answer needs" in said(app)
    assert not app.warning


def test_a_method_that_failed_is_shown_with_a_warning_and_a_better_one(runs, example):
    app = open_page(runs, "attribution", model="checked", example=example, method="occlusion")
    assert "failed its checks on this model" in app.warning[0].value
    assert "Fails on this model. Part of the maps stays" in said(app)
    button(app, "Use Attention").click().run()
    assert app.session_state["explain_view"].method == "attention"
    assert not app.warning


def test_a_method_that_was_not_evaluated_says_so(runs, example):
    app = open_page(runs, "attribution", model="checked", example=example, method="input_x_gradient")
    assert "did not look at this method" in said(app)
    assert not app.warning


def test_without_an_evaluation_there_is_one_quiet_line(runs, example):
    for page in ("attribution", "attention"):
        app = open_page(runs, page, model="unchecked", example=example)
        assert "has not been checked yet" in said(app)
        assert not app.warning
        button(app, "Check the methods").click().run()
        assert not app.exception


def test_attention_carries_its_verdict(runs, example):
    app = open_page(runs, "attention", model="checked", example=example)
    assert "taken for an explanation of the output" in said(app)
    app.button(key="trust_page").click().run()
    assert app.session_state["explain_view"].card == "attention"


# ---- parts -----------------------------------------------------------------------------------------------


def test_the_ranking_goes_to_the_page_with_its_pictures():
    data = to_data(ranking_of(made("sha256:x")), "light", "occlusion", "attention", "trust_card")
    rows = {row["method"]: row for row in data["rows"]}
    low, value, high, chance = (float(place) for place in rows["attention"]["cells"][0]["picture"])
    assert chance < low < value < high <= data["width"]
    assert any(cell["failed"] for cell in rows["occlusion"]["cells"])
    assert rows["lime"]["cells"] == []
    assert "it knows no such family" in rows["lime"]["said"].lower()


def test_nothing_is_the_best_where_everything_fails(tmp_path):
    found = made("sha256:x")
    failing = dataclasses.replace(found, ranking=("occlusion",))
    kept = evaluations.Kept(failing, tmp_path, SimpleNamespace(), True)  # pyright: ignore
    assert kept.best == ""
    assert evaluations.Kept(found, tmp_path, SimpleNamespace(), True).best == "attention"  # pyright: ignore


def test_more_methods_outputs_parameters_and_text_cost_more():
    few = evaluations.seconds(("attention",), 10, 300_000, 40)
    assert 0 < few < evaluations.seconds(("attention",), 50, 300_000, 40)
    assert few < evaluations.seconds(("integrated_gradients",), 10, 300_000, 40)
    assert few < evaluations.seconds(("attention",), 10, 60_000_000, 40)
    assert few < evaluations.seconds(("attention",), 10, 300_000, 400)


def test_times_are_said_as_people_say_them():
    assert [new_evaluation.duration(s) for s in (3, 44, 100, 8000)] == [
        "10 seconds",
        "40 seconds",
        "2 minutes",
        "2 hours",
    ]
    assert [new_evaluation.clock(s) for s in (-1, 8.4, 70)] == ["0 s", "8 s", "1 min 10 s"]


def test_a_data_file_lies_under_the_runs_folder(tmp_path):
    runs = tmp_path / "runs"
    save_run(runs, "tiny")
    place, choice = Place(runs), choice_of(runs, "tiny")
    (runs / "deep" / "er").mkdir(parents=True)
    (runs / "deep" / "er" / "a.csv").write_text("source\nx\n")
    (tmp_path / "outside.csv").write_text("source\nx\n")
    (runs / "link.csv").symlink_to(tmp_path / "outside.csv")
    found = evaluations.data_file(place, choice, "deep/er/a.csv")
    assert found == runs / "deep" / "er" / "a.csv"
    assert evaluations.data_file(place, choice, str(found)) == found
    for text in ("../outside.csv", str(tmp_path / "outside.csv"), "link.csv", "\0", ""):
        with pytest.raises(InputError):
            evaluations.data_file(place, choice, text)
    with pytest.raises(FileError):
        evaluations.data_file(place, choice, "deep")


def test_a_foreign_run_is_no_job_of_a_model(runs, tmp_path):
    copy_of(runs, "unchecked", tmp_path)
    for name, config in (
        ("a", {"model": 3}),
        ("b", {"model": "\0"}),
        ("c", "none"),
        ("d", {"model": "unchecked"}),
    ):
        Run.create(tmp_path / name, kind="evaluate", command="", config={}).update(config=config)
    assert evaluations.jobs(Place(tmp_path), choice_of(tmp_path, "unchecked")) == []


def test_multilingual_models_are_asked_for_their_languages(tmp_path):
    network("mbart").save_pretrained(tmp_path / "many")
    tokenizer().save_pretrained(tmp_path / "many")
    app = open_page(tmp_path, "trust", model="many")
    assert {"Language of the source (code)", "Language of the output (code)"} <= {
        each.label for each in app.text_input
    }
    assert "mBART" in inputs.MULTILINGUAL
    app = open_page(tmp_path, model="many")
    assert "Language of the source (code)" in {each.label for each in app.text_input}


def test_what_stands_beside_a_map_never_breaks_it(monkeypatch, runs):
    def refuse(*_: object) -> None:
        raise ExplainError("no")

    monkeypatch.setattr(evaluations, "kept", refuse)
    assert trust_card.known(choice_of(runs, "checked"))[0] is None
