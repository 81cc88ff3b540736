"""The page Compare, driven without a browser."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import json

import pytest
import torch

from dashboard import examples
from dashboard.catalogue import Place, choose
from dashboard.views import compare_runs
from explain.comparison.pair import head_shifts
from explain.report.pair_plots import difference_grid, shifts_figure
from explain.runs import Run
from tests.jobs import started
from tests.test_dashboard import TEXT, _clean, example, open_page, parts, runs, save_run, texts
from tests.test_dashboard_inside import other, said, specs


@pytest.fixture(scope="module")
def rivals(runs):
    save_run(runs, "rival", seed=3)
    return runs


def keys(app) -> set[str]:
    return {part.key for part in parts(app, "bidi_component")}


def test_a_text_with_a_word_changed(runs, example):
    app = open_page(
        runs, "compare", model="tiny", example=example, other=other(runs, example, "the old dog sleeps")
    )
    assert not app.error
    assert {"compare_beside", "compare_strips"} <= keys(app)
    (strips,) = (part for part in parts(app, "bidi_component") if part.key == "compare_strips")
    shown = {strip["id"]: strip for strip in json.loads(strips.proto.json)["strips"]}
    before, after = ([token["t"] for token in shown[f"source_{place}"]["tokens"]] for place in (0, 1))
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [("cat", "dog")]
    assert "strongest overlap by" in said(app)
    assert specs(app)[-2]["layout"]["coloraxis"]["cmin"] == 0


def test_texts_of_two_lengths_are_compared_as_texts_alone(runs, example):
    app = open_page(runs, "compare", model="tiny", example=example, other=other(runs, example, "the cat"))
    assert not app.error
    assert "places cannot be matched" in said(app)
    assert "strongest overlap by" not in said(app)


def test_another_model(rivals, example):
    app = open_page(rivals, "compare", example=example, model="tiny", changed="model", rival="rival")
    assert not app.error
    assert app.selectbox(key="view_rival").value == "rival"
    assert {"compare_beside", "compare_strips"} <= keys(app)
    assert len(specs(app)) == 4


def test_no_other_model_leads_to_training(tmp_path):
    save_run(tmp_path, "alone")
    id_ = examples.save(Place(tmp_path), examples.Example(TEXT, None, {"max_new_tokens": 4}))
    app = open_page(tmp_path, "compare", example=id_, changed="model")
    assert "There is no other model yet" in said(app)


@pytest.mark.parametrize("silenced", ["decoder.0.cross head 1", "decoder.1.mlp", "source 1"])
def test_a_part_silenced(runs, example, silenced):
    app = open_page(runs, "compare", model="tiny", example=example, changed="head", silenced=silenced)
    assert not app.error
    assert {"compare_beside", "compare_strips"} <= keys(app)


def test_a_model_is_as_it_was_after_a_part_was_silenced(runs, example):
    from dashboard import cache

    place = Place(runs)
    choice = choose(place, "tiny")
    before = cache.model(choice).generate(TEXT, max_new_tokens=6).target_ids
    open_page(runs, "compare", model="tiny", example=example, changed="head", silenced="decoder.1.mlp")
    assert torch.equal(cache.model(choice).generate(TEXT, max_new_tokens=6).target_ids, before)
    assert cache.model(choice).intervened == ()


def test_no_comparison_yet_and_how_one_is_started(rivals, started, tmp_path):
    (rivals / "texts.tsv").write_text("source\tthe\nthe cat\tx\n")
    place = Place(rivals)
    one, other = choose(place, "tiny"), choose(place, "rival")
    words = compare_runs.arguments(
        one, compare_runs.Plan(other, (other,), "translate", None, 20), tmp_path / "out"
    )
    assert words[:3] == ["compare", str(rivals / "tiny"), str(rivals / "rival")]
    assert words[words.index("--floor") + 1] == str(rivals / "rival")
    assert words[words.index("--task") + 1] == "translate"
    assert words[-2:] == ["--out", str(tmp_path / "out")]
    app = open_page(rivals, "compare", model="tiny", changed="models")
    assert not app.error
    assert "No two models have been compared yet" in said(app)
    app.button(key="compare_start").click().run()
    assert not app.exception
    assert [job.kind for job in started] == ["compare"]
    assert started[0].title == "tiny and rival"
    assert app.session_state["explain_view"].run == started[0].run.name


def test_a_kept_comparison_is_shown(tmp_path, bart, t5):
    from explain.comparison import FILE, ComparisonSettings, compare

    save_run(tmp_path, "tiny")
    run = Run.create(tmp_path / "compared", kind="compare", title="a and b")
    found = compare(
        bart,
        bart,
        [(TEXT, "le chat"), ("the cat", "un chien")],
        methods=["attention"],
        forced=True,
        settings=ComparisonSettings(examples=2, outputs=2),
    )
    found.save(run.path / FILE)
    run.update(state="done")
    app = open_page(tmp_path, "compare", changed="models", run="compared")
    assert not app.error
    assert len(specs(app)) == 2
    assert "A is" in said(app)
    (run.path / FILE).write_text("{")
    broken = open_page(tmp_path, "compare", changed="models", run="compared")
    assert len(broken.error) == 1


# ---- the Python that makes it ------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{"changed": "model", "rival": "rival"}, {"changed": "head"}])
def test_the_python_beside_a_figure_makes_it(rivals, example, changed):
    """The lines, run as they stand but for drawing, give the heads that the page shows."""
    more = {"silenced": "decoder.0.cross head 1"} if changed["changed"] == "head" else {}
    app = open_page(rivals, "compare", model="tiny", example=example, **changed, **more)
    assert not app.error
    codes = [each.value for each in app.code]
    assert len(codes) == 4
    assert all("explain.load" in code and code.endswith(".show()") for code in codes)
    scope: dict = {}
    exec("\n".join(codes[-1].splitlines()[:-1]), scope)
    shift = scope["shift"]
    assert app.session_state["view_shifted"] == f"{shift.a}.{shift.head}"
    assert max(each.bits for each in scope["shifts"]) == shift.bits
    assert scope["map_a"].source.shape == scope["map_b"].source.shape


def test_the_head_that_is_shown_is_in_the_link(runs, example):
    more = {"changed": "head", "silenced": "decoder.0.cross head 1", "shifted": "decoder.1.self.0"}
    app = open_page(runs, "compare", model="tiny", example=example, **more)
    assert app.session_state["view_shifted"] == "decoder.1.self.0"
    assert any("'decoder.1.self', 0" in each.value for each in app.code)


# ---- parts -----------------------------------------------------------------------------------------------


def test_heads_of_another_training_get_their_nearest_partner(bart):
    output = bart.force(TEXT, "le chat un")
    looks = bart.capture(output, "*.pattern")
    swapped = {name: looks[name].flip(1) for name in looks}
    blocks = [("decoder.1.cross", "decoder.1.cross")]
    apart = head_shifts(looks, swapped, blocks, same=True)
    found = head_shifts(looks, swapped, blocks, same=False)
    assert [(each.head, each.partner) for each in found] == [(0, 1), (1, 0)]
    assert max(each.bits for each in found) < 1e-6 < max(each.bits for each in apart)
    figure = shifts_figure(apart)
    assert figure.layout.coloraxis.cmax == pytest.approx(max(each.bits for each in apart))
    grid = difference_grid(apart[0], torch.zeros(4, 5), torch.ones(4, 5), output)
    assert grid.values.min() == 1
    assert len(grid.rows) == len(output.target_tokens)
