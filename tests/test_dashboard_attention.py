"""The page Attention, driven without a browser."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dashboard import cache, examples, state
from dashboard.catalogue import Place
from dashboard.components.heads import shrunk
from dashboard.examples import Example
from explain.analysis.attention_maps import SIDES
from explain.analysis.heads import Head, HeadRole, HeadRow, HeadStatistics
from explain.errors import InputError
from explain.report.head_plots import SHARES, head_figure, role_sentence
from explain.report.levels import groups_at
from explain.runs import Run
from tests.models import network, tokenizer
from tests.test_dashboard import TEXT, open_page, parts, runs, save_run, texts  # noqa: F401


@pytest.fixture
def example(runs) -> str:  # noqa: F811
    return examples.save(Place(runs), Example(TEXT, "le chat un chien", {}))


def title(app) -> str:
    return json.loads(parts(app, "plotly_chart")[-1].proto.spec)["layout"]["title"]["text"]


@pytest.mark.parametrize("side", SIDES)
def test_rollout_and_maximum_are_offered_and_explained(runs, example, side):  # noqa: F811
    app = open_page(runs, "attention", example=example, side=side, layer=str(state.ROLLOUT))
    assert not app.error
    assert app.selectbox(key="view_head").options == ["mean over 2 heads", "maximum over 2 heads"]
    assert title(app) == "rolled out over layers · mean over heads"
    assert "along all layers" in texts(app).replace("\\", "")
    app.selectbox(key="view_layer").set_value(1).run()
    app.selectbox(key="view_head").set_value(state.MAX).run()
    assert title(app) == "layer 1 · maximum over heads"
    assert "may pass 1" in texts(app).replace("\\", "")


def test_a_head_that_is_chosen_has_its_role_and_figures(runs, example):  # noqa: F811
    app = open_page(runs, "attention", example=example, layer="1", head="0")
    spec = json.loads(parts(app, "plotly_chart")[0].proto.spec)
    assert [trace["name"] for trace in spec["data"][:2]] == ["the other heads", "layer 1, head 0"]
    said = texts(app).replace("\\", "")
    assert any(f"{role}:" in said for role in ("Alignment", "Copy", "Broad", "Positional", "Sink", "Mixed"))
    assert "Over this text." in said
    app.selectbox(key="view_head").set_value(state.MEAN).run()
    assert "Of 2 heads here:" in texts(app).replace("\\", "")


def test_words_and_sentences_are_maps_too(runs):  # noqa: F811
    id_ = examples.save(Place(runs), Example("the cat. a dog", "le chat. un chien", {"allow_unknown": True}))
    for side in SIDES:
        app = open_page(runs, "attention", example=id_, side=side, level="sentence")
        assert not app.error
        heat = json.loads(parts(app, "plotly_chart")[-1].proto.spec)
        assert "sentence" in heat["layout"]["yaxis"]["title"]["text"]
        assert "One sentence" in [header.value for header in app.header]


def test_one_token_as_lines_stands_in_the_link(runs, example):  # noqa: F811
    app = open_page(runs, "attention", example=example, step="1")
    app.segmented_control(key="view_drawn").set_value("lines").run()
    assert "lines_cross_token" in {part.key for part in parts(app, "bidi_component")}
    assert state.to_parameters(app.session_state["explain_view"])["drawn"] == "lines"


def test_python_of_a_map_makes_that_map(runs, example):  # noqa: F811
    for link, wanted in (
        ({"layer": "-2", "head": "-2"}, "rolled_out"),
        ({"layer": "1", "head": "0", "level": "word"}, "layer=1, head=0"),
    ):
        app = open_page(runs, "attention", example=example, **link)
        code = next(each.value for each in app.code if wanted in each.value)
        lines, scope = code.splitlines(), {}
        exec("\n".join(lines[:-1]), scope)
        shown = scope["pattern"]
        assert tuple(shown.shape) == (len(scope["found"].queries), len(scope["found"].keys))
        assert lines[-1].startswith("plots.attention_map(pattern")


def test_a_model_with_a_task_is_judged_on_its_task(tmp_path):
    from explain.training import tasks

    drawn = tasks.get("translate").examples("held_out", cache.TASK_TEXTS, 0)
    words = sorted({word for each in drawn for word in tokens_of(f"{each.source} {each.target}")})
    run = Run.create(
        tmp_path / "taught",
        kind="train",
        command="explain train",
        title="taught",
        config={"task": "translate"},
    )
    spelled = tokenizer(words)
    network("bart", vocab_size=len(spelled)).save_pretrained(run.path / "model")
    spelled.save_pretrained(run.path / "model")
    run.update(state="done", model="model", result={})
    id_ = examples.save(Place(tmp_path), Example(drawn[0].source, drawn[0].target, {}))
    app = open_page(tmp_path, "attention", example=id_)
    assert not app.error
    assert "50 held-out texts of its task" in texts(app).replace("\\", "")
    app.segmented_control(key="view_figures").set_value("text").run()
    assert "over this text" in texts(app).replace("\\", "")


def tokens_of(text: str) -> list[str]:
    return [word for word, _ in tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


# ---- parts -----------------------------------------------------------------------------------------------


def row(layer: int, head: int, **figures: float) -> HeadRow:
    known = {name: math.nan for name in HeadRow.__dataclass_fields__ if name not in ("head", "tokens")}
    return HeadRow(Head(f"decoder.{layer}.cross", head), 5, **(known | figures))


def statistics() -> HeadStatistics:
    rows = tuple(row(n, i, max_weight=0.5 + 0.1 * i, special=0.25 * n) for n in (0, 1) for i in (0, 1))
    return HeadStatistics(rows, 1, 0, math.nan, 0, math.nan)


def test_the_figure_sets_a_head_a_layer_or_nothing_apart():
    found = statistics()
    chosen = head_figure(found, "decoder", "cross", Head("decoder.1.cross", 1))
    assert [trace.name for trace in chosen.data] == ["the other heads", "layer 1, head 1", None]
    assert list(chosen.data[1].x) == pytest.approx([0.6, 0.25])
    assert list(chosen.data[2].text) == ["0.60", "0.25"]
    assert list(chosen.layout.yaxis.ticktext) == [SHARES["max_weight"], SHARES["special"]]
    layer = head_figure(found, "decoder", "cross", layer=0)
    assert [(trace.name, len(trace.x)) for trace in layer.data] == [("the other heads", 4), ("layer 0", 4)]
    assert [trace.name for trace in head_figure(found, "decoder", "cross").data] == ["the other heads"]
    with pytest.raises(InputError):
        head_figure(found, "encoder", "self")


def test_a_role_is_said_with_its_reason():
    head = Head("encoder.0.self", 0)
    said = role_sentence(HeadRole(head, "positional", ("positional", "sink"), 0.9, -1))
    assert said.startswith("Positional: it looks at the token before. Sink: ")
    copied = role_sentence(HeadRole(head, "alignment", ("alignment",), 0.9), alignment_by="copy")
    assert "has the text of the output token" in copied


def test_small_maps_of_many_heads_are_made_quickly():
    pattern = np.random.default_rng(0).random((12, 500, 500), dtype=np.float32)
    assert shrunk(pattern).shape == (12, 64, 64)
    assert shrunk(pattern).max() == pattern.max()


def test_groups_of_tokens_follow_the_level(bart):
    generation = bart.force("the cat. a dog", "le chat. un chien", allow_unknown=True)
    tokens, text = generation.target_tokens, generation.target_text
    assert groups_at("token", tokens, text) == [[index] for index in range(len(tokens))]
    assert len(groups_at("sentence", tokens, text)) < len(groups_at("word", tokens, text))
