"""Perturbation methods as a whole: rows, causality, seeds, cost, memory, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from explain.attribution import REGISTRY
from explain.attribution.inputs import BASELINES
from explain.attribution.memory import TooLargeError
from explain.attribution.perturbation.features import features_of
from explain.attribution.perturbation.presence import Presence
from explain.errors import InputError
from explain.model.hooks import analysed
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import tiny
from tests.test_attribution import generation_of
from tests.test_hiding import CLOSE, work_of

METHODS = [name for name, row in REGISTRY.rows.items() if row.kind == "perturbation"]
SAMPLING = ["shapley_sampling", "kernel_shap", "lime", "contextcite"]


def run(model, generation, name, options=None, **asked):
    """The raw scores of a method, row by row of the question."""
    work, _ = work_of(model, generation, **asked)
    row = REGISTRY.get(name)
    with model.lock, analysed(model.hf):
        return row.run(work, row.options(options or {}))[0]


# ---- the methods on a model ----


@pytest.mark.parametrize("name", METHODS)
def test_a_linear_model_is_explained_by_its_weights(name):
    """Cut everything but one source token's way into the output: only that token has a score."""
    model = tiny("bart")
    generation = generation_of(model)

    def only_token_2(x):  # cross-attention values of every other source token are lost
        kept = torch.zeros_like(x)
        kept[:, :, 2] = x[:, :, 2]
        return kept

    # The encoder mixes positions unless its attention is silenced; the decoder sees its prefix no more.
    cut = {"encoder.*.self.z": torch.zeros_like, "decoder.*.self.z": torch.zeros_like}
    with model.intervene({**cut, "decoder.*.cross.v": only_token_2}):
        att = model.attribute(generation, method=name, **({"by": "zero"} if name in SAMPLING else {}))
    strength = att.source.abs().mean(0)
    assert int(strength.argmax()) == 2
    assert float(strength[2]) > 2 * float(strength[[i for i in range(len(strength)) if i != 2]].max())


@pytest.mark.parametrize("name", METHODS)
def test_what_comes_after_has_exactly_no_effect(bart, name):
    generation = generation_of(bart)
    scores = run(bart, generation, name, positions=[1, (2, 4)])
    assert scores.source.shape == (2, len(generation.source_tokens))
    assert scores.prefix.shape == (2, len(generation.target_tokens))
    assert scores.start.tolist() == [0, 0]
    assert float(scores.prefix[0, 1:].abs().max()) == 0
    assert float(scores.prefix[1, 3:].abs().max()) == 0
    assert float(scores.prefix[1, :3].abs().min()) > 0 or name == "contextcite"


@pytest.mark.parametrize("name", METHODS)
def test_a_span_is_explained_as_the_sum_of_its_tokens(bart, name):
    generation = generation_of(bart)
    known = [field.name for field in dataclasses.fields(REGISTRY.get(name).settings)]
    options = {"unit": "token"} if "unit" in known else {}
    one = run(bart, generation, name, options, positions="output")
    torch.testing.assert_close(one.value, generation.log_probs.sum()[None], **CLOSE)
    if name not in ("occlusion", "feature_ablation"):
        return
    every = run(bart, generation, name, options)
    torch.testing.assert_close(one.source[0], every.source.sum(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.prefix[0], every.prefix.sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_contrasts_and_objectives_go_through_every_method(bart, name):
    generation = generation_of(bart)
    logit = run(bart, generation, name, objective="logit", contrast="maison")
    assert float(logit.source[3].abs().max()) == 0, "token 3 is the foil itself"
    assert float(logit.source[1].abs().max()) > 0


@pytest.mark.parametrize("name", SAMPLING)
def test_a_seed_is_a_result(bart, name):
    generation = generation_of(bart)
    options = {"method": name, "samples": 6, "unit": "token"}
    first, again = (bart.attribute(generation, **options, seed=3).source for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, bart.attribute(generation, **options, seed=4).source)
    torch.testing.assert_close(first, bart.attribute(generation, **options, seed=3, rows=5).source, **CLOSE)


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("by", ["delete", "mask"])
def test_every_way_to_hide_serves_every_sampling_method(t5, name, by):
    att = t5.attribute(generation_of(t5), method=name, by=by, samples=5)
    assert att.source.isfinite().all()
    assert att.config["by"] == by


def test_one_set_of_samples_serves_every_output_token(bart):
    generation = generation_of(bart)
    rows = []
    layer = bart.hf.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    try:
        for name, extra in (("lime", 0), ("kernel_shap", 2), ("contextcite", 1)):
            rows.clear()
            bart.attribute(generation, method=name, samples=40)
            assert sum(rows) == 40 + extra, name
    finally:
        handle.remove()


def test_nothing_is_computed_after_the_last_token_that_was_asked_about(bart):
    generation = generation_of(bart)
    shapes = []
    layer = bart.hf.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape[:2])))
    try:
        run(bart, generation, "occlusion", positions=1)
    finally:
        handle.remove()
    assert shapes == [(len(generation.source_tokens) + 1 + 1, 2)]


@pytest.mark.parametrize("name", METHODS)
def test_next_to_nothing_to_hide_is_explained_all_the_same(bart, name):
    generation = bart.force("the", "le")
    assert len(features_of(generation, "token")) == 2
    att = bart.attribute(generation, method=name)
    assert att.source.isfinite().all()
    assert float(att.source[0, 0].abs()) > 0
    sides = (generation.source_tokens, generation.target_tokens)
    source, target = (tuple(dataclasses.replace(t, special=True) for t in side) for side in sides)
    bare = dataclasses.replace(generation, source_tokens=source, target_tokens=target)
    assert len(features_of(bare, "token")) == 0
    att = bart.attribute(bare, method=name)
    assert (float(att.source.abs().max()) > 0) == (name == "occlusion"), "only occlusion hides special tokens"
    assert att.completeness_error.isnan().all()


@pytest.mark.parametrize("name", SAMPLING)
def test_values_that_are_not_numbers_make_scores_that_are_none(bart, name, monkeypatch):
    values = Presence.values

    def holed(self, present):
        found = values(self, present)
        found[1, 2] = torch.nan
        return found

    monkeypatch.setattr(Presence, "values", holed)
    att = bart.attribute(generation_of(bart), method=name, unit="word")
    rows = len(att.source)
    assert att.source.isnan().any(1).tolist() == [t == 2 for t in range(rows)]
    assert att.prefix.isnan().any(1).tolist() == [t == 2 for t in range(rows)]


# ---- memory ----


@pytest.mark.parametrize("name", METHODS)
def test_a_chunk_that_does_not_fit_is_halved(bart, name, monkeypatch):
    generation = generation_of(bart)
    whole = bart.attribute(generation, method=name)
    sizes, chunk = [], Presence.chunk

    def small(self, present):
        sizes.append(len(present))
        if len(present) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return chunk(self, present)

    monkeypatch.setattr(Presence, "chunk", small)
    halved = bart.attribute(generation, method=name)
    torch.testing.assert_close(whole.source, halved.source, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(whole.prefix, halved.prefix, atol=1e-4, rtol=1e-3)
    assert sizes[1] == sizes[0] // 2
    assert max(sizes[-3:]) <= 5


def test_a_row_that_does_not_fit_is_an_error_of_its_own(bart, monkeypatch):
    def none(self, present):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Presence, "chunk", none)
    with pytest.raises(TooLargeError, match="not even one row"):
        bart.attribute(generation_of(bart), method="lime")


def test_the_budget_shapes_the_chunks(bart, monkeypatch):
    sizes, chunk = [], Presence.chunk
    monkeypatch.setattr(Presence, "chunk", lambda self, p: sizes.append(len(p)) or chunk(self, p))
    bart.attribute(generation_of(bart), method="lime", samples=100)
    assert sizes == [50, 50], "two of a size, not 64 and 36"
    sizes.clear()
    bart.attribute(generation_of(bart), method="lime", samples=100, memory_budget=1)
    assert sizes == [1] * 100


# ---- what cannot be asked ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "occlusion", "unit": "page"}, "token, word, sentence, span"),
        ({"method": "occlusion", "unit": "word", "window": 2}, "does not go with"),
        ({"method": "occlusion", "unit": "span"}, "a window of at least 2 tokens"),
        ({"method": "occlusion", "rows": 0}, "rows=0"),
        ({"method": "feature_ablation", "baseline": "noise"}, ", ".join(BASELINES)),
        ({"method": "feature_ablation", "unit": "span"}, "token, word, sentence"),
        ({"method": "shapley_sampling", "samples": 0}, "samples=0"),
        ({"method": "kernel_shap", "samples": -1}, "samples=-1"),
        ({"method": "kernel_shap", "by": "magic"}, "attention, pad"),
        ({"method": "lime", "samples": 1}, "at least 2"),
        ({"method": "lime", "regression": "tree"}, "ridge, lasso"),
        ({"method": "lime", "alpha": -0.1}, "alpha=-0.1"),
        ({"method": "lime", "alpha": 0, "regression": "lasso"}, "above 0"),
        ({"method": "lime", "kernel_width": 0}, "kernel_width"),
        ({"method": "contextcite", "keep": 1}, "between 0 and 1"),
        ({"method": "contextcite", "alpha": 0}, "above 0"),
        ({"method": "contextcite", "unit": "page"}, "auto, token"),
    ],
)
def test_options_without_a_meaning_are_refused(bart, arguments, message):
    with pytest.raises(InputError, match=message):
        bart.attribute(generation_of(bart), **arguments)


def test_a_list_is_explained_one_by_one(bart):
    generations = bart.force(SENTENCES, OUTPUTS)
    told = []
    bart.attribute(generations, method="kernel_shap", progress=lambda done, total: told.append(done))
    assert told == [1, 2, 3]
