"""The page Generate without a browser: writing, branches, the beam tree, sampling on kept logits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard import catalogue, examples, inputs, snippets, state
from dashboard.catalogue import Place
from dashboard.components import beams as beam_component
from dashboard.components import beside, writing
from dashboard.examples import Example
from dashboard.views import generate, sampling
from explain.errors import FileError
from explain.model.sampling import entropy_of, reshaped
from explain.report import plots
from explain.report.beam_tree import branches
from explain.report.labels import probability
from explain.results import BeamNode, BeamSearch
from tests.models import tiny
from tests.test_dashboard import TEXT, open_page, parts, save_run, texts


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder, "tiny")
    save_run(folder, "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def opened(runs):
    import explain

    return explain.load(runs / "tiny")


def show(runs: Path, page: str = "generate", **link: str) -> AppTest:
    """A session with the first model."""
    return open_page(runs, page, **({"model": "tiny"} | link))


def keep(runs: Path, example: Example) -> str:
    return examples.save(Place(runs), example)


def spec(app) -> dict:
    return json.loads(parts(app, "plotly_chart")[0].proto.spec)


# ---- the form ----------------------------------------------------------------------------------------------


def test_settings_are_behind_one_expander_and_count_when_it_writes(runs):
    app = show(runs)
    assert [expander.label for expander in app.expander] == ["How it decodes"]
    app.segmented_control(key="form_mode").set_value("beams").run()
    app.number_input(key="form_num_beams").set_value(3).run()
    app.text_area(key="form_source").set_value(TEXT)
    assert not app.session_state["explain_view"].example, "nothing is written before it is asked for"
    next(button for button in app.button if button.label == "Write").click().run()
    assert not app.exception
    example = examples.load(Place(runs), app.session_state["explain_view"].example)
    assert example.controls["num_beams"] == 3
    assert app.text_area(key="form_source").value == TEXT


def test_the_form_follows_the_link(runs):
    id_ = keep(runs, Example(TEXT, None, {"do_sample": True, "seed": 5, "top_k": 9, "max_new_tokens": 4}))
    app = show(runs, example=id_)
    assert app.segmented_control(key="form_mode").value == "sample"
    assert app.number_input(key="form_seed").value == 5
    assert app.number_input(key="form_top_k").value == 9


def test_an_output_to_score_is_asked_for_where_it_is_needed(runs):
    app = show(runs)
    assert not [area for area in app.text_area if area.key == "form_target"]
    app.segmented_control(key="form_mode").set_value("given").run()
    app.text_area(key="form_source").set_value(TEXT)
    app.text_area(key="form_target").set_value("le chat")
    next(button for button in app.button if button.label == "Score it").click().run()
    assert not app.error
    assert "given, not written by the model" in texts(app).replace("\\", "")


def test_examples_of_the_task_are_one_click(tmp_path, monkeypatch):
    save_run(tmp_path, "tiny", config={"task": "translate"})
    id_ = keep(tmp_path, Example(TEXT, None, {"max_new_tokens": 3}))
    app = open_page(tmp_path, example=id_)
    picks = [button for button in app.button if str(button.key).startswith("pick_")]
    assert len(picks) == inputs.MORE_SAMPLES
    picks[1].click().run()
    view = app.session_state["explain_view"]
    assert view.example != id_
    assert examples.load(Place(tmp_path), view.example).source.startswith(
        picks[1].label[:8].replace("\\", "")
    )


# ---- branches ----------------------------------------------------------------------------------------------


def branch(runs, opened, *, step=1, **controls) -> tuple[str, str, Example]:
    """A text, and the branch of it that takes another token."""
    settings = {"max_new_tokens": 6, **controls}
    origin = keep(runs, Example(TEXT, None, settings))
    first = opened.generate(TEXT, **settings)
    used = (int(first.target_ids[step]), opened.eos_id)
    other = next(item.id for item in first.alternatives(step, 3) if item.id not in used)
    prefix = (*first.target_ids[:step].tolist(), other)
    example = Example(TEXT, None, settings, prefix=prefix, model=opened.digest, origin=origin)
    return origin, keep(runs, example), example


def test_a_branch_is_a_link_and_stands_beside_where_it_came_from(runs, opened):
    origin, id_, example = branch(runs, opened)
    app = show(runs, example=id_, step="1")
    assert not app.error
    said = texts(app).replace("\\", "")
    chosen = opened.continue_from(TEXT, example.prefix, max_new_tokens=6)
    assert f"You had it write ‘{chosen.target_tokens[1].text}’ instead of" in said
    assert "the first 2 tokens given" in said
    assert {"beside", "generate_writing"} <= {part.key for part in parts(app, "bidi_component")}
    app.button(key="back").click().run()
    view = app.session_state["explain_view"]
    assert (view.example, view.step) == (origin, 1)


def test_choosing_a_token_makes_the_branch(runs, opened, monkeypatch):
    origin, id_, example = branch(runs, opened)
    shown = {}
    monkeypatch.setattr(generate.cache, "facts", lambda choice: {"digest": opened.digest})
    monkeypatch.setattr(generate, "current_place", lambda: Place(runs))
    monkeypatch.setattr(generate.state, "current", lambda: state.View("tiny", origin))
    monkeypatch.setattr(generate.state, "change", lambda **fields: shown.update(fields))
    generate.fork(catalogue.choices(Place(runs))["tiny"], examples.load(Place(runs), origin), example.prefix)
    assert shown == {"example": id_, "step": 1, "query": -1}


def test_a_branch_of_another_model_is_refused_in_one_line(runs, opened):
    _, id_, _ = branch(runs, opened)
    app = show(runs, example=id_, model="other")
    assert not app.exception
    assert len(app.error) == 1
    assert "begin with tokens of another model" in app.error[0].value


def test_a_branch_whose_origin_is_gone_is_shown_alone(runs, opened):
    _, _, example = branch(runs, opened)
    id_ = keep(runs, dataclasses.replace(example, origin="0" * 16))
    app = show(runs, example=id_)
    assert not app.error
    assert "beside" not in {part.key for part in parts(app, "bidi_component")}


@pytest.mark.parametrize("page", ["attention", "attribution"])
def test_a_branch_is_explained_like_any_other_output(runs, opened, page):
    _, id_, _ = branch(runs, opened)
    app = show(runs, page, example=id_, method="input_x_gradient")
    assert not app.error


def test_the_names_of_texts_from_before_there_were_branches_stay():
    from explain.files import digest_json

    example = Example("a", None, {"num_beams": 2})
    old = digest_json({"source": "a", "target": None, "controls": {"num_beams": 2}})
    assert example.id == old.removeprefix("sha256:")[:16]
    assert example.id != dataclasses.replace(example, prefix=(3,), model="m").id


def test_a_branch_survives_its_file_and_broken_ones_are_refused(tmp_path):
    place = Place(tmp_path)
    example = Example("a", None, {}, prefix=(3, 4), model="sha256:0", origin="0" * 16)
    id_ = examples.save(place, example)
    assert examples.load(place, id_) == example
    path = place.hidden / "texts" / f"{id_}.json"
    path.write_text(path.read_text().replace('"prefix": [\n  3', '"prefix": [\n  "x"'))
    with pytest.raises(FileError):
        examples.load(place, id_)


def test_python_of_a_branch_makes_it_again(runs, opened):
    _, _, example = branch(runs, opened)
    lines = snippets.written(catalogue.choices(Place(runs))["tiny"], example)
    scope: dict = {}
    exec("\n".join(lines), scope)
    assert scope["generation"].target_ids[:2].tolist() == list(example.prefix)


# ---- the output, step by step ------------------------------------------------------------------------------


def test_every_step_has_its_alternatives_and_the_written_token(opened):
    sampled = opened.generate(TEXT, do_sample=True, temperature=3.0, seed=2, max_new_tokens=6)
    data = writing.to_data(sampled, 4, "light")
    assert len(data["steps"]) == len(data["tokens"]) == len(sampled.target_tokens)
    for step, shown in enumerate(data["steps"]):
        assert [row["id"] for row in shown["rows"]][:4] == sampled.top_ids[step, :4].tolist()
        written = [row for row in shown["rows"] if row["written"]]
        assert [row["id"] for row in written] == [int(sampled.target_ids[step])]
        assert written[0]["share"] == pytest.approx(math.exp(float(sampled.log_probs[step])), abs=1e-5)
        assert shown["rank"] == int(sampled.ranks[step]) == written[0]["rank"]
        assert shown["entropy"] == pytest.approx(float(sampled.entropy[step]))
    assert data["limit"] >= float(sampled.entropy.max())
    assert any(len(shown["rows"]) == 5 for shown in data["steps"]), "one was ranked below the four"


def test_what_differs_is_marked(opened):
    one, other = opened.force(TEXT, "le chat la maison"), opened.force(TEXT, "le chien la")
    rows = beside.to_data(one, other, ("First", "Second"), "light")["rows"]
    marked = [[token["t"] for token in row["tokens"] if "mark" in token] for row in rows]
    assert marked == [["chat", "maison"], ["chien"]]
    same = beside.to_data(one, one, ("a", "b"), "light")["rows"]
    assert not any("mark" in token for row in same for token in row["tokens"])


# ---- sampling ----------------------------------------------------------------------------------------------


def test_sliders_reshape_the_step_without_the_model(runs, opened, monkeypatch):
    id_ = keep(runs, Example(TEXT, None, {"max_new_tokens": 5}))
    assert not show(runs, example=id_, step="2").slider, "nobody asked"
    app = show(runs, example=id_, step="2", temperature="150")
    app.slider(key="view_temperature").set_value(1.0).run()
    before, after = (trace for trace in spec(app)["data"])
    assert before["x"] == after["x"]
    monkeypatch.setattr(type(opened), "capture", lambda *_, **__: pytest.fail("the model was asked"))
    app.slider(key="view_temperature").set_value(2.0).run()
    app.slider(key="view_top_k").set_value(3).run()
    assert not app.exception
    view = app.session_state["explain_view"]
    assert (view.temperature, view.top_k) == (200, 3)
    written = opened.generate(TEXT, max_new_tokens=5)
    assert "with 3 tokens of 43 left" in texts(app).replace("\\", "")
    assert spec(app)["layout"]["title"]["text"] == "Step 2"
    assert len(written.target_tokens) == 5


def test_what_is_said_of_the_whole_output_is_the_sum_over_its_steps(opened):
    written = opened.generate(TEXT, max_new_tokens=5)
    logits = opened.capture(written, "logits")["logits"][0]
    drawn = reshaped(logits, temperature=0.5)
    said = sampling._says(written, drawn, 1)
    assert f"has a probability of {probability(float(drawn[range(5), written.target_ids].sum()))};" in said
    assert f"→ {float(entropy_of(drawn[1])):.2f} nats" in said
    other = opened.force(TEXT, "le chat")
    cut = reshaped(opened.capture(other, "logits")["logits"][0], top_k=1)
    assert "cannot come about" in sampling._says(other, cut, 0)


@pytest.mark.parametrize("link", [{"temperature": "1"}, {"top_k": "9999999"}, {"top_p": "0"}])
def test_a_link_out_of_range_is_brought_into_it(runs, link):
    app = show(runs, example=keep(runs, Example(TEXT, None, {"max_new_tokens": 3})), **link)
    assert not app.exception
    assert not app.error


def test_bars_before_and_after(opened):
    written = opened.generate(TEXT, max_new_tokens=3)
    tokens = written.alternatives(1, 4)
    after = torch.tensor([-0.1, -2.0, -math.inf, -math.inf])
    figure = plots.reshaped_bars(tokens, after, step=1, written=tokens[0].id)
    before, drawn = figure.data
    assert before.x.tolist() == pytest.approx([math.exp(token.log_prob) for token in tokens], abs=1e-6)
    assert drawn.x.tolist() == pytest.approx([math.exp(-0.1), math.exp(-2.0), 0.0, 0.0])
    assert list(drawn.text) == ["", "", "cut off", "cut off"]
    assert figure.layout.xaxis.range == (0, 1)
    assert "●" in figure.layout.yaxis.labelalias["0"]


# ---- the beam tree -----------------------------------------------------------------------------------------


def nodes() -> BeamSearch:
    """a → b → (c, winner | d, second), and x, dropped."""

    def node(parent, step, text, log_prob, total, place=None):
        score = total / (step + 1)
        return BeamNode(
            parent, step, step, text, " ", False, log_prob, total, score, place is not None, place
        )

    found = tiny("bart").generate(TEXT, max_new_tokens=2)
    kept = (
        node(-1, 0, "a", -0.1, -0.1),
        node(-1, 0, "x", -3.0, -3.0),
        node(0, 1, "b", -0.2, -0.3),
        node(2, 2, "d", -2.0, -2.3, place=1),
        node(2, 2, "c", -0.5, -0.8, place=0),
    )
    return BeamSearch(dataclasses.replace(found, settings={"length_penalty": 1.0}), kept)


def test_the_tree_line_by_line():
    found = nodes()
    lines = branches(found)
    assert [line.nodes for line in lines] == [(0, 2), (4,), (3,)]
    assert [line.depth for line in lines] == [0, 1, 1]
    assert [line.last for line in lines] == [True, False, True]
    assert [line.place for line in lines] == [None, 0, 1]
    assert lines[0].log_prob == pytest.approx(-0.3)
    assert lines[0].forks
    assert lines[1].score == pytest.approx(-0.8 / 3)


def test_dropped_branches_are_shown_on_demand():
    lines = branches(nodes(), dropped=True)
    assert [line.nodes for line in lines] == [(0, 2), (4,), (3,), (1,)]
    assert [line.depth for line in lines] == [1, 2, 2, 1]
    assert [line.open for line in lines] == [(), (True,), (True,), ()]
    assert [line.kept for line in lines] == [True, True, True, False]
    shown = beam_component.to_data(nodes(), lines, "light")["lines"]
    assert [line["dropped"] for line in shown] == [False, False, False, True]
    assert shown[0]["parts"] == [{"t": "a", "g": " ", "s": False}, {"t": "b", "g": " ", "s": False}]


def test_lines_hold_every_node_once(opened):
    found = opened.beam_search(TEXT, num_beams=5, max_new_tokens=8)
    every = [at for line in branches(found, dropped=True) for at in line.nodes]
    assert sorted(every) == list(range(len(found.nodes)))
    kept = [at for line in branches(found) for at in line.nodes]
    assert set(kept) == found.returned()
    assert sorted(line.place for line in branches(found) if line.place is not None) == [0, 1, 2, 3, 4]


def test_a_search_is_made_on_demand_and_goes_into_the_link(runs):
    app = show(runs, example=keep(runs, Example(TEXT, None, {"max_new_tokens": 5})))
    assert "beam_tree" not in {part.key for part in parts(app, "bidi_component")}
    app.button(key="follow").click().run()
    assert not app.exception
    assert app.session_state["explain_view"].beams == 4
    assert "beam_tree" in {part.key for part in parts(app, "bidi_component")}
    app.number_input(key="view_beams").set_value(6).run()
    app.toggle(key="view_dropped").set_value(True).run()
    assert not app.exception
    assert state.to_parameters(app.session_state["explain_view"])["beams"] == "6"


def test_beams_of_a_beam_search_are_shown_at_once(runs):
    id_ = keep(runs, Example(TEXT, None, {"num_beams": 3, "max_new_tokens": 6}))
    app = show(runs, example=id_)
    assert "beam_tree" in {part.key for part in parts(app, "bidi_component")}
    assert "the highest wins" in texts(app)


def test_a_branch_is_searched_on_from_its_beginning(runs, opened):
    _, id_, example = branch(runs, opened, num_beams=3)
    app = show(runs, example=id_)
    assert not app.error
    assert "beam_tree" in {part.key for part in parts(app, "bidi_component")}
    whole = tuple(opened.force(TEXT, "le chat").target_ids.tolist())
    id_ = keep(runs, dataclasses.replace(example, prefix=whole))
    app = show(runs, example=id_)
    assert not app.error
    assert "nothing to search" in texts(app)
