"""The page Inside, driven without a browser."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import dataclasses
import json

import pytest

from dashboard import analyses, cache, catalogue, examples, state
from dashboard.catalogue import Place
from dashboard.examples import Example
from dashboard.views import costly
from explain.analysis.source_edits import source_edits
from explain.errors import InputError
from explain.report.panels import lens_steps, panels_figure
from explain.training import tasks
from tests.models import tiny
from tests.test_dashboard import TEXT, _clean, example, open_page, parts, runs, texts


def specs(app) -> list[dict]:
    return [json.loads(each.proto.spec) for each in parts(app, "plotly_chart")]


def said(app) -> str:
    return texts(app).replace("\\", "")


def other(runs, example: str, text: str) -> str:
    own = examples.load(Place(runs), example)
    return examples.save(Place(runs), dataclasses.replace(own, source=text, origin=example))


def test_lenses_show_layers_a_token_and_who_wrote_it(runs, example):
    app = open_page(runs, "inside", example=example, step="1")
    assert not app.error
    lens, steps, bars = specs(app)
    assert [shape["x0"] for shape in lens["layout"]["shapes"]] == [0.5]
    assert len(steps["data"]) == 1
    assert bars["layout"]["title"]["text"].endswith("(step 1)")
    assert "add up to the model's own number" in said(app)
    app.segmented_control(key="view_lens").set_value("encoder").run()
    assert specs(app)[0]["layout"]["title"]["text"].startswith("DecoderLens")
    app.segmented_control(key="view_parts").set_value("head").run()
    assert len(specs(app)[2]["data"][0]["x"]) > 0
    assert state.to_parameters(app.session_state["explain_view"])["parts"] == "head"


def test_a_contrast_is_followed_through_the_layers_and_changes_the_parts(runs, example):
    app = open_page(runs, "inside", example=example, step="1")
    plain_bars = specs(app)[2]
    view = app.session_state["explain_view"]
    place = Place(runs)
    choice = catalogue.choose(place, view.model)
    written = cache.generation(choice, examples.load(place, example))
    id_ = next(each.id for each in written.alternatives(1, 3) if each.id != written.target_tokens[1].id)
    again = open_page(runs, "inside", example=example, step="1", contrast="x", foil=str(id_))
    assert not again.error
    assert len(specs(again)[1]["data"]) == 2
    assert specs(again)[2]["data"] != plain_bars["data"]


def test_a_word_of_several_tokens_or_none_is_told(runs, example):
    app = open_page(runs, "inside", example=example, watch="cat, zzz")
    assert len(app.error) + said(app).count("cannot be followed") == 1
    assert len(specs(app)[1]["data"]) == 2


def test_heads_lead_to_writing_anew(runs, example):
    app = open_page(runs, "inside", example=example, inside="causes")
    (figure,) = specs(app)
    assert [trace["name"] for trace in figure["data"]] == [
        "Encoder",
        "Decoder, its own output",
        "Decoder, the source",
    ]
    axis = figure["layout"]["coloraxis"]
    assert axis["cmin"] == -axis["cmax"]
    button = next(each for each in app.button if (each.key or "").startswith("without_"))
    button.click().run()
    assert not app.exception
    view = app.session_state["explain_view"]
    assert view.cause == "writing"
    assert view.silenced == button.key.removeprefix("without_")
    assert {"anew", "anew_lost"} <= {part.key for part in parts(app, "bidi_component")}


def test_a_hidden_source_token_can_be_written_without(runs, example):
    app = open_page(runs, "inside", example=example, inside="causes", cause="writing", silenced="source 1")
    assert not app.error
    assert "anew" in {part.key for part in parts(app, "bidi_component")}
    assert "Hidden((1,)" in app.code[0].value


@pytest.mark.parametrize("place", ["decoder.9.cross", "source 99", "<b>"])
def test_a_link_to_a_place_that_is_not_there_asks_for_one(runs, example, place):
    app = open_page(runs, "inside", example=example, inside="causes", cause="writing", silenced=place)
    assert not app.error
    assert "Nothing is silenced yet" in said(app)


def test_hidden_tokens_have_a_map_for_each_side(runs, example):
    app = open_page(runs, "inside", example=example, inside="causes", cause="tokens")
    assert not app.error
    one, two = specs(app)
    assert one["data"][0]["zmax"] == two["data"][0]["zmax"], "both maps are on one scale"


def test_a_word_is_swapped_in_one_click_and_carried_over(runs, example):
    app = open_page(runs, "inside", example=example, inside="causes", cause="source")
    assert "Pick a change above" in said(app)
    next(each for each in app.button if each.key == "edit_0").click().run()
    assert not app.exception
    assert not app.error
    assert len(specs(app)) == 2
    app.selectbox(key="view_point").set_value("*.z").run()
    assert len(specs(app)) == 3


def test_a_text_of_another_length_is_told(runs, example):
    id_ = other(runs, example, f"{TEXT} {TEXT}")
    app = open_page(runs, "inside", example=example, inside="causes", cause="source", other=id_)
    assert "has 9 tokens, the text as it is has 5" in app.warning[0].value.replace("\\", "")


def test_neurons_wait_for_a_click_and_come_back_by_link(runs, example):
    app = open_page(runs, "inside", example=example, inside="neurons")
    assert "Neuron, the most telling first" not in [each.label for each in app.selectbox]
    app.button(key="start_neurons").click().run()
    assert not app.exception
    assert not app.error
    app.selectbox(key="view_point").set_value("encoder.0.mlp.hidden").run()
    again = open_page(
        runs, "inside", example=example, inside="neurons", point="encoder.1.mlp.hidden", neuron="3"
    )
    assert again.selectbox(key="view_neuron").value == 3
    assert "Encoder layer 1, neuron 3" in [header.value for header in again.header]


def test_states_lie_on_a_plane(runs, example):
    app = open_page(runs, "inside", example=example, inside="projector", colour="position")
    assert not app.error
    (figure,) = specs(app)
    assert "of the variance" in figure["layout"]["xaxis"]["title"]["text"]
    assert "slot" not in app.selectbox(key="view_colour").options


# ---- parts -----------------------------------------------------------------------------------------------


def test_suggested_changes_keep_the_number_of_tokens(bart):
    found = source_edits(bart, "the old cat sleeps")
    assert len(found) == 3
    for edit in found:
        assert edit.text != "the old cat sleeps"
        assert len(bart.source_ids(edit.text)) == len(bart.source_ids("the old cat sleeps"))


def test_words_of_a_slot_are_swapped_for_each_other(bart):
    pool = tasks.get("translate").examples("held_out", 60, 0)
    words = {part.slot for each in pool for part in each.source_segments}
    assert words
    (edit, *_) = source_edits(bart, "the cat sleeps near the house", pool, allow_unknown=True)
    fillers = {}
    for each in pool:
        for part in each.source_segments:
            fillers.setdefault(part.slot, set()).add(each.source[part.start : part.end])
    assert any({edit.was, edit.now} <= known for known in fillers.values())


def test_the_shelf_lets_go_of_the_oldest():
    shelf = analyses.Shelf(2)
    for number in range(3):
        shelf.put(("key", number), number)
    assert [shelf.get(("key", number)) for number in range(3)] == [None, 1, 2]


def test_what_takes_long_is_asked_for_first(runs, example, monkeypatch):
    monkeypatch.setattr(costly, "PATIENCE", 0.0)
    analyses.shelf.clear()
    app = open_page(runs, "inside", example=example, inside="causes")
    assert not specs(app)
    app.button(key="start_ablation").click().run()
    assert len(specs(app)) == 1


def test_figures_refuse_what_is_not_there(t5):
    from explain.analysis import logit_lens

    lens = logit_lens(t5, t5.force("the cat", "le chat"))
    with pytest.raises(InputError):
        lens_steps(lens, 99)
    with pytest.raises(InputError):
        panels_figure([], [])
    assert len(lens_steps(lens, 0).data[0].y) == len(lens.layers)
