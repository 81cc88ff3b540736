"""The page Attribution, driven without a browser: spans, a second method, foils, what takes long."""

from __future__ import annotations

import pytest

from dashboard import cache, examples
from dashboard.catalogue import Place
from dashboard.examples import Example
from dashboard.views import agreed
from explain.attribution import REGISTRY
from tests.test_dashboard import TEXT, open_page, parts, runs, texts  # noqa: F401


@pytest.fixture
def example(runs) -> str:  # noqa: F811
    return examples.save(Place(runs), Example(TEXT, "le chat un chien", {}))


def said(app) -> str:
    return texts(app).replace("\\", "")


def test_a_span_of_the_link_is_explained_as_one(runs, example):  # noqa: F811
    for level in ("token", "word"):
        app = open_page(
            runs, "attribution", example=example, step="1", end="3", method="input_x_gradient", level=level
        )
        assert not app.error
        assert "What counted most for ‘chat un’" in said(app)
        assert "positions=[(1, 3)]" in app.code[-1].value
    app.selectbox(key="view_method").set_value("attention").run()
    assert not app.error
    assert "What counted most for ‘chat un’" in said(app)


@pytest.mark.parametrize("end", ["0", "1", "99", "-5"])
def test_a_span_that_cannot_be_is_the_step_alone(runs, example, end):  # noqa: F811
    app = open_page(runs, "attribution", example=example, step="1", end=end, method="saliency")
    assert not app.error
    assert "What counted most for ‘chat’" in said(app)


def test_two_methods_are_compared(runs, example):  # noqa: F811
    app = open_page(
        runs, "attribution", example=example, step="1", method="input_x_gradient", second="occlusion"
    )
    assert not app.error
    assert "Do the two agree?" in said(app)
    assert "random scores" in said(app)
    assert REGISTRY.get("occlusion").reads[:20] in said(app)
    assert len(parts(app, "plotly_chart")) == 2
    app.selectbox(key="view_second").set_value("").run()
    assert len(parts(app, "plotly_chart")) == 1
    assert "Do the two agree?" not in said(app)


def test_a_method_is_not_put_beside_itself(runs, example):  # noqa: F811
    app = open_page(runs, "attribution", example=example, method="saliency", second="saliency")
    assert app.selectbox(key="view_second").value == ""


def test_a_typed_contrast_takes_the_place_of_a_picked_one(runs, example):  # noqa: F811
    app = open_page(
        runs, "attribution", example=example, step="1", method="input_x_gradient", contrast="x", foil="7"
    )
    assert not app.error, "the word is unknown, but the token is not"
    assert "contrast=7" in app.code[-1].value
    app.text_input(key="view_contrast").set_value("chien").run()
    assert not app.error
    assert app.session_state["explain_view"].foil == -1
    assert "contrast='chien'" in app.code[-1].value


def test_what_takes_long_waits_for_a_click_and_can_be_stopped(runs, example, monkeypatch):  # noqa: F811
    asked = []
    computed = cache.attribution
    monkeypatch.setattr(agreed, "seconds", lambda *_: 120.0)
    monkeypatch.setattr(cache, "attribution", lambda *a, **k: asked.append(a) or computed(*a, **k))
    app = open_page(runs, "attribution", example=example, method="saliency")
    assert asked == []
    assert app.button(key="start_saliency").label.endswith("(about 2 minutes)")
    app.button(key="start_saliency").click().run()
    assert asked
    app.button(key="stop_saliency").click().run()
    assert app.button(key="start_saliency")


def test_more_steps_parameters_and_tokens_take_longer():
    def of(name: str, parameters: int = 10**8, source: int = 100, target: int = 50) -> float:
        return agreed.seconds(REGISTRY.get(name), parameters, source, target)

    assert of("attention") < of("saliency") < of("integrated_gradients")
    assert of("saliency", 10**6) < of("saliency") < of("saliency", source=200) < of("saliency", target=500)
    assert of("integrated_gradients", 300_000, 12, 11) < agreed.PATIENCE, "the demo never asks"
