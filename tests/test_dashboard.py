"""The dashboard's pages, driven without a browser."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import dashboard
from dashboard import catalogue, examples, labels, state
from dashboard.catalogue import Place
from dashboard.components.heads import shrunk
from dashboard.examples import Example
from dashboard.serve import serve, server_config
from dashboard.views import method, new_run, options
from explain.errors import FileError, InputError
from explain.files import write_json
from explain.results import Token
from explain.runs import Run
from explain.training import jobs
from tests.models import network, tokenizer

APP = str(Path(dashboard.__file__).with_name("app.py"))
PAGES = ("generate", "attention", "attribution", "inside", "compare", "trust", "audit", "train")
TEXT = "the old cat sleeps"


def save_run(runs: Path, name: str, *, seed: int = 0, positions: int = 64, **fields: object) -> Run:
    """A run folder that is done, with a tiny random model."""
    run = Run.create(runs / name, kind="train", command="explain train", title=name, config={"task": None})
    network("bart", seed=seed, max_position_embeddings=positions).save_pretrained(run.path / "model")
    tokenizer().save_pretrained(run.path / "model")
    for step in range(1, 6):
        run.append(
            {"kind": "step", "step": step, "total_steps": 5, "loss": 6.0 / step, "learning_rate": 1e-3}
        )
    samples = [{"source": "a cat", "target": "un chat", "output": "un <b>chat</b>"}]
    run.append({"kind": "evaluation", "step": 5, "loss": 1.5, "exact_match": 0.5, "samples": samples})
    run.update(state="done", model="model", result={"exact_match": 0.5, "loss": 1.5}, **fields)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder, "tiny")
    return folder


@pytest.fixture
def example(runs: Path) -> str:
    return examples.save(Place(runs), Example(TEXT, None, {"max_new_tokens": 6}))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    import streamlit as st

    yield
    st.cache_data.clear()


def open_page(runs: Path, page: str = "generate", models: tuple[Path, ...] = (), **link: str) -> AppTest:
    """A session that follows a link to a page."""
    app = AppTest.from_file(APP, default_timeout=60)
    app.secrets["explain"] = catalogue.secrets(Place(runs, models))["explain"]
    for name, value in link.items():
        app.query_params[name] = value
    app.run()
    if page != "generate":
        app.switch_page(f"routes/{page}.py").run()
    assert not app.exception, app.exception
    return app


def texts(app: AppTest) -> str:
    """Everything that the page says in captions, texts and messages."""
    kinds = (app.caption, app.markdown, app.text, app.error, app.warning, app.title, app.header)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def parts(app: AppTest, kind: str) -> list:
    return list(app.get(kind))


# ---- pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_an_empty_folder(tmp_path, page):
    app = open_page(tmp_path / "none", page)
    assert len(app.title) == 1
    assert not app.error


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_with_a_model_and_a_text(runs, example, page):
    app = open_page(runs, page, example=example)
    assert not app.error
    assert app.sidebar.selectbox[0].value == "tiny"


def test_a_text_is_written_and_kept(runs):
    app = open_page(runs)
    app.text_area(key="form_source").set_value(TEXT)
    app.button[0].click().run()
    assert not app.exception
    assert not app.error
    assert {"generate_strips", "generate_writing"} <= {part.key for part in parts(app, "bidi_component")}
    assert state.to_parameters(app.session_state["explain_view"])["example"]


def test_an_error_is_one_line_without_a_traceback(runs):
    app = open_page(runs)
    app.text_area(key="form_source").set_value("the ![x](http://evil/x.png) cat")
    app.button[0].click().run()
    assert not app.exception
    assert len(app.error) == 1
    assert "![" not in app.error[0].value


def test_a_given_output_is_scored(runs):
    id_ = examples.save(Place(runs), Example(TEXT, "le chat", {}))
    app = open_page(runs, example=id_)
    assert "given, not written by the model" in texts(app).replace("\\", "")


def test_a_cut_output_says_so(runs):
    id_ = examples.save(Place(runs), Example(TEXT, None, {"max_new_tokens": 1}))
    app = open_page(runs, example=id_)
    assert "cut at 1 tokens" in app.warning[0].value


@pytest.mark.parametrize("name", ["../../etc", "/etc", "someone/model", "none"])
def test_a_link_opens_no_model_but_those_of_the_dashboard(runs, name):
    app = open_page(runs, model=name)
    assert len(app.error) == 1
    assert "is not a model of this dashboard" in app.error[0].value.replace("\\", "")


@pytest.mark.parametrize("name", ["../secret", "0" * 16, "x"])
def test_a_link_to_a_text_that_is_not_there_says_so(runs, name):
    app = open_page(runs, example=name)
    assert len(app.error) == 1


def test_a_model_given_by_name_can_be_chosen(runs, tmp_path):
    network("t5").save_pretrained(tmp_path / "given")
    tokenizer().save_pretrained(tmp_path / "given")
    app = open_page(runs, models=(tmp_path / "given",), model="given")
    assert app.sidebar.selectbox[0].value == "given"
    assert "T5ForConditionalGeneration" in texts(app)


def test_a_choice_stays_over_a_change_of_page(runs, example):
    app = open_page(runs, "attribution", example=example)
    app.selectbox(key="view_method").set_value("saliency").run()
    app.selectbox(key="view_level").set_value("sentence").run()
    app.switch_page("routes/generate.py").run()
    app.switch_page("routes/attribution.py").run()
    assert app.selectbox(key="view_method").value == "saliency"
    assert app.selectbox(key="view_level").value == "sentence"


def test_every_method_of_the_registry_can_be_shown(runs, example):
    from explain.attribution import REGISTRY

    app = open_page(runs, "attribution", example=example)
    for name in REGISTRY.rows:
        app.selectbox(key="view_method").set_value(name).run()
        assert not app.exception, name
        assert not app.error, (name, app.error)
        assert REGISTRY.get(name).reads[:20] in texts(app).replace("\\", "")


def test_settings_of_a_method_go_into_the_link(runs, example):
    app = open_page(runs, "attribution", example=example, method="integrated_gradients")
    app.number_input(key="option_integrated_gradients_steps").set_value(5).run()
    assert json.loads(app.session_state["explain_view"].options) == {"steps": 5}
    assert "steps=5" in app.code[0].value


def test_methods_are_offered_by_kind(runs, example):
    from explain.attribution import REGISTRY

    app = open_page(runs, "attribution", example=example)
    offered = app.selectbox(key="view_method").options
    assert len(offered) == len(REGISTRY.rows)
    kinds = [label.partition(" · ")[0] for label in offered]
    assert [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]] == [
        kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]
    ], "the methods of one kind stand together"
    assert set(REGISTRY.get(name).kind for name in REGISTRY.rows) <= set(method.KIND_NAMES)


def test_layers_of_a_method_are_a_list_and_a_wrong_one_is_one_line(runs, example):
    app = open_page(runs, "attribution", example=example, method="attention")
    app.text_input(key="option_attention_layers").set_value("0, 1").run()
    assert not app.error
    assert json.loads(app.session_state["explain_view"].options) == {"layers": [0, 1]}
    assert "layers=(0, 1)" in app.code[0].value
    app.text_input(key="option_attention_layers").set_value("last").run()
    assert not app.exception
    assert len(app.error) == 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every kind of setting."""

    flag: bool = True
    count: int = 3
    most: int | None = None
    share: float = 0.5
    how: Literal["a", "b"] = "a"
    known: str = dataclasses.field(default="x", metadata={"choices": ("x", "y")})
    free: str = "text"
    names: tuple[str, ...] = ("one",)
    layers: tuple[int, ...] | None = None
    nested: dict[str, int] = dataclasses.field(default_factory=dict)


def test_every_kind_of_setting_has_a_widget():
    found = {option.name: option for option in options.options_of(SimpleNamespace(settings=Settings))}
    assert list(found) == "flag count most share how known free names layers".split()
    assert (found["how"].choices, found["known"].choices) == (("a", "b"), ("x", "y"))
    assert (found["most"].kind, found["most"].optional) == (int, True)
    assert (found["layers"].read(" 0, -1 "), found["layers"].read("")) == ((0, -1), None)
    assert found["names"].read("two, three") == ("two", "three")
    text = json.dumps(
        {"flag": 1, "count": True, "share": 1, "how": "c", "layers": [0, "1"], "most": None, "no": 1}
    )
    assert options.read(text, list(found.values())) == {"share": 1, "most": None}
    for broken in ("[1]", "{", "null"):
        assert options.read(broken, list(found.values())) == {}


def test_a_long_text_is_mapped_by_sentence_and_its_tokens_can_be_had(tmp_path):
    save_run(tmp_path, "long", positions=300)
    source = ". ".join([TEXT] * 40) + "."
    id_ = examples.save(Place(tmp_path), Example(source, TEXT, {"allow_unknown": True}))
    app = open_page(tmp_path, "attribution", example=id_, method="input_x_gradient")
    assert not app.error
    said = texts(app).replace("\\", "")
    assert "Shown by sentence: 201 source and 5 output tokens do not fit" in said

    def axis() -> str:
        return json.loads(parts(app, "plotly_chart")[0].proto.spec)["layout"]["xaxis"]["title"]["text"]

    assert axis() == "source sentence"
    app.segmented_control(key="map_level_token_sentence").set_value("token").run()
    assert axis() == "source token"
    assert "Drag over a part of the map" in texts(app)


def test_sentences_are_picked_as_one(runs):
    id_ = examples.save(Place(runs), Example("the cat. a dog", "le chat. un chien", {"allow_unknown": True}))
    app = open_page(runs, "attribution", example=id_, level="sentence", method="attention", step="4")
    assert not app.error
    assert "Each row is an output sentence" in texts(app).replace("\\", "")
    assert "attribution.sentences()" in app.code[0].value


def test_a_link_from_before_there_were_sentences_still_shows_words():
    assert state.parse({"words": "1"}).level == "word"
    assert state.parse({"words": "1", "level": "sentence"}).level == "sentence"


def test_a_contrast_that_cannot_be_read_is_one_line(runs, example):
    app = open_page(runs, "attribution", example=example)
    app.text_input(key="view_contrast").set_value("zzz").run()
    assert not app.exception
    assert len(app.error) == 1


@pytest.mark.parametrize("side", ["cross", "encoder", "decoder"])
def test_attention_shows_each_side(runs, example, side):
    app = open_page(runs, "attention", example=example, side=side, layer="1", head="0")
    assert not app.error
    assert {f"heads_{side}", f"attention_{side}_token"} <= {part.key for part in parts(app, "bidi_component")}
    spec = json.loads(parts(app, "plotly_chart")[-1].proto.spec)
    assert spec["layout"]["title"]["text"] == "layer 1 · head 0"


def test_a_layer_that_the_model_lacks_becomes_the_mean(runs, example):
    app = open_page(runs, "attention", example=example, layer="99", head="99")
    assert app.selectbox(key="view_layer").value == state.MEAN


# ---- training --------------------------------------------------------------------------------------------


def test_a_run_is_shown_from_its_folder(runs):
    app = open_page(runs, "train", run="tiny")
    assert {metric.label: metric.value for metric in app.metric}["Exact match"] == "0.500"
    assert app.radio(key="view_run").value == "tiny"
    labels_ = [button.label for button in app.button]
    assert "Open in Generate" in labels_
    assert "Stop" not in labels_


def test_a_broken_run_hides_no_other(runs, tmp_path):
    save_run(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    app = open_page(tmp_path, "train", run="bad")
    assert app.radio(key="view_run").options == ["good", "bad"]
    assert len(app.error) == 1


def test_training_is_started_by_the_command_line(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(jobs, "start_job", lambda words, path, **also: started.append((words, path, also)))
    app = open_page(tmp_path, "train")
    app.selectbox(key="new_what").set_value("translate").run()
    app.number_input(key="new_steps").set_value(7).run()
    next(button for button in app.button if button.label == "Start training").click().run()
    assert not app.exception
    words, path, also = started[0]
    assert words == ["train", "--out", path, "--task", "translate", "--steps", "7", "--seed", "0"]
    assert path == str(tmp_path / "translate")
    assert also["kind"] == "train"


def test_a_name_cannot_lead_out_of_the_runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "start_job", lambda *_, **__: pytest.fail("started"))
    app = open_page(tmp_path, "train")
    app.text_input(key="new_name").set_value("../out").run()
    next(button for button in app.button if button.label == "Start training").click().run()
    assert len(app.error) == 1


def test_an_upload_is_kept_under_the_runs_folder(tmp_path):
    place = Place(tmp_path)
    path = new_run.keep_upload(place, "../../my data.tsv", b"source\ttarget\na\tb\n")
    assert tmp_path / ".dashboard" / "data" in path.parents
    assert path.name == "my_data.tsv"
    assert list(new_run.data_files(place).values()) == [path]
    with pytest.raises(InputError):
        new_run.keep_upload(place, "run.py", b"")


# ---- parts -----------------------------------------------------------------------------------------------


def test_a_view_survives_its_link():
    view = state.View(
        "tiny", "0123456789abcdef", 3, "encoder", 1, 0, 2, "attention", "logit", "chat", "word", "{}", "r"
    )
    assert state.parse(state.to_parameters(view)) == view
    assert state.to_parameters(state.View()) == {}


@pytest.mark.parametrize("text", ["x", "1e3", "--", "", "9" * 20, "²"])
def test_a_link_with_nonsense_is_read_as_the_default(text):
    assert state.parse({"step": text, "layer": text}) == state.View()


def test_an_example_survives_its_file(tmp_path):
    example = Example("<script>", "é\n", {"num_beams": 2})
    place = Place(tmp_path)
    assert examples.load(place, examples.save(place, example)) == example


def test_a_foreign_file_is_no_example(tmp_path):
    place = Place(tmp_path)
    write_json(place.hidden / "texts" / f"{'a' * 16}.json", {"schema": "explain/other@1"})
    with pytest.raises(FileError):
        examples.load(place, "a" * 16)


def test_markdown_is_made_harmless():
    assert labels.plain("![x](http://e) $a$ :b: <i>") == (r"\!\[x\]\(http\:\/\/e\) \$a\$ \:b\: \<i\>")


def test_tokens_know_where_words_begin():
    text = "unhappy cat\nsat"
    spans = [(0, 2), (2, 7), (8, 11), (12, 15)]
    tokens = [Token(text[a:b], 0, a, b) for a, b in spans] + [Token("</s>", 2, 15, 15, special=True)]
    shown = labels.strip_tokens(tokens, text)
    assert [bool(token.get("g")) for token in shown] == [False, False, True, True, True]
    assert [bool(token.get("n")) for token in shown] == [False, False, False, True, False]
    assert shown[-1]["s"] == 1


def test_a_small_map_keeps_the_strongest_weight():
    pattern = np.zeros((2, 200, 130), dtype=np.float32)
    pattern[1, 77, 99] = 1
    small = shrunk(pattern)
    assert small.shape == (2, 64, 64)
    assert small[1].max() == 1
    assert small[0].max() == 0


def test_the_server_is_closed_and_silent():
    config = server_config("127.0.0.1", 8501, headless=True)
    assert config["server.address"] == "127.0.0.1"
    assert config["browser.gatherUsageStats"] is False
    assert config["server.enableXsrfProtection"] is True
    assert config["server.enableCORS"] is True
    assert config["server.fileWatcherType"] == "none"
    assert (
        config["global.minCachedMessageSize"] > 2**30
    )  # see the note there: a page could stand still for good
    assert "127.0.0.1" in config["server.allowedHosts"]
    assert config["server.maxUploadSize"] <= 20


def test_a_taken_port_is_refused(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="is taken"):
            serve(tmp_path, port=other.getsockname()[1], headless=True)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match="no model folder"):
        serve(tmp_path, models=[tmp_path / "none"], headless=True)


def test_libraries_that_stay_are_left_out_of_the_collections_after_every_click():
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import gc, sys; from dashboard.serve import warm; warm(); kept = gc.get_freeze_count();"
            "print(kept, len(gc.get_objects()), 'torch' in sys.modules, 'streamlit' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    frozen, others, torch_is_in, streamlit_is_in = said.stdout.split()
    assert int(frozen) > 100_000 > 10 * int(others)
    assert (torch_is_in, streamlit_is_in) == ("True", "False")
