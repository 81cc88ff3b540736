"""Activation patching against single interventions, and its first-order estimate where that is exact."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.analysis import (
    Disagreement,
    Edit,
    Patching,
    attribution_patching,
    disagreement,
    patch,
    values_under,
)
from explain.attribution.objectives import question
from explain.attribution.registry import Cancelled
from explain.errors import InputError, UnknownNameError
from explain.training.handmade import (
    COPY,
    DITTO_COPY,
    DITTO_FLAG,
    DITTO_REPEAT,
    LOGIT,
    copy_model,
    ditto_model,
)
from tests.interventions import captured, pair_of, under
from tests.state import assert_same_state, state_of
from tests.test_examples import run

BY = ("layer", "position")
CASES = [
    ("*.residual", BY),
    ("*.z", ("layer", "head")),
    ("decoder.*.cross.pattern", ("layer", "head", "position")),
    ("decoder.*.cross.[kv]", BY),
    ("*.mlp.hidden", ("neuron",)),
    ("*.embed", ("position",)),
    ("logits", ("position",)),
]


@pytest.fixture(scope="module")
def copier():
    return copy_model()


@pytest.fixture(scope="module")
def ditto():
    return ditto_model()


def forced(model, clean, corrupted, output):
    return model.force(clean, output), model.force(corrupted, output)


# ---- patching --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "by"), CASES)
def test_every_cell_is_one_intervention(model, points, by):
    clean, corrupted = pair_of(model)
    result = patch(model, clean, corrupted, points, by)
    states = captured(model, clean, points)
    torch.testing.assert_close(result.value, corrupted.log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.other_value, clean.log_probs, atol=1e-5, rtol=1e-5)
    for number in range(0, len(result.parts), 1 + len(result.parts) // 9):
        part = result.parts[number]
        edits = []
        for point in part.points:
            index = tuple(slice(None) if i is None else i for i in part.where(point))
            edits.append(Edit(point, part.where(point), states[point][index]))
        wanted = under(model, corrupted, edits) - corrupted.log_probs
        torch.testing.assert_close(result.change[number], wanted, atol=1e-5, rtol=1e-4)


def test_all_of_a_layer_carries_everything_over(model):
    """All that the decoder reads of the source: the patched run is the other one."""
    clean, corrupted = pair_of(model)
    for noising in (False, True):
        everything = patch(model, clean, corrupted, "encoder.1.residual", ("layer",), noising=noising)
        one = torch.ones(1, len(clean.target_tokens))
        torch.testing.assert_close(everything.effect, one, atol=1e-3, rtol=0)
        assert everything.noising is noising
        assert everything.source_text == (clean if noising else corrupted).source_text
        assert everything.other_text == (corrupted if noising else clean).source_text


def test_patching_finds_where_the_changed_token_is_carried(copier):
    """Source token 2 differs: it is at its own place in the encoder, then at the step that copies it."""
    clean, corrupted = forced(copier, "a b c d", "a b e d", "a b c d")
    result = patch(copier, clean, corrupted, "*.residual", BY, objective="logit")
    for part, effect in zip(result.parts, result.change, strict=True):
        carries = part.position == 2 and (part.of_source or part.layer == COPY.layer)
        wanted = torch.zeros(5)
        wanted[2] = LOGIT if carries else 0.0
        torch.testing.assert_close(effect, wanted, atol=1e-3, rtol=0)
    # Elsewhere the two runs say the same, and there is nothing to carry over.
    assert result.effect[:, [0, 1, 3, 4]].isnan().all()
    assert not result.effect[:, 2].isnan().any()


def test_patching_finds_the_head_that_copies(copier):
    clean, corrupted = forced(copier, "a b c d", "e f g h", "a b c d")
    result = patch(copier, clean, corrupted, "*.z", ("layer", "head"))
    effects = {part.name: effect[:4] for part, effect in zip(result.parts, result.effect, strict=True)}
    torch.testing.assert_close(
        effects.pop(f"{COPY.block}.z head {COPY.index}"), torch.ones(4), atol=1e-4, rtol=0
    )
    for effect in effects.values():
        torch.testing.assert_close(effect, torch.zeros(4), atol=1e-3, rtol=0)


def test_patching_tells_the_cause_of_a_ditto_from_its_word(ditto):
    """Put "ditto" in the place of a word: the flag and the copying head have to change together."""
    clean, corrupted = forced(ditto, "a ditto c", "a b c", "a a c")
    heads = patch(ditto, clean, corrupted, "decoder.*.z", ("layer", "head"), positions=1, objective="logit")
    change = {part.name: float(effect[0]) for part, effect in zip(heads.parts, heads.change, strict=True)}
    names = [f"{head.block}.z head {head.index}" for head in (DITTO_FLAG, DITTO_REPEAT, DITTO_COPY)]
    assert float(heads.other_value[0] - heads.value[0]) == pytest.approx(LOGIT, abs=1e-2)
    # The flag lets the word be repeated, but "b" is copied beside it; each of both takes part of the answer.
    assert change[names[0]] > 1
    assert change[names[1]] > 1
    assert all(abs(x) < 1e-2 for name, x in change.items() if name not in names)


@pytest.mark.parametrize(("by", "count"), [(("layer",), 2), (("position",), 7), (("layer", "neuron"), 32)])
def test_axes_that_are_not_named_are_one(bart, by, count):
    clean, corrupted = pair_of(bart)
    result = patch(bart, clean, corrupted, "decoder.*.residual", by)
    assert len(result.parts) == count
    sizes = dict(
        zip(("layer", "head", "position", "neuron"), result.grid("decoder.*.residual").shape, strict=False)
    )
    assert {axis: size for axis, size in sizes.items() if size > 1} == {
        axis: {"layer": 2, "position": 7, "neuron": 16}[axis] for axis in by
    }


def test_contrast_and_positions(bart):
    clean, corrupted = pair_of(bart)
    result = patch(bart, clean, corrupted, contrast="oiseau", objective="logit", positions=[1, (3, 5)])
    every = patch(bart, clean, corrupted, contrast="oiseau", objective="logit")
    assert result.rows == ("chat", "maison un")
    torch.testing.assert_close(result.change[:, 0], every.change[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.change[:, 1], every.change[:, 3:5].sum(1), atol=1e-5, rtol=0)


def test_the_same_input_has_nothing_to_carry_over(bart):
    clean, _ = pair_of(bart)
    result = patch(bart, clean, clean)
    assert result.effect.isnan().all()
    torch.testing.assert_close(result.change, torch.zeros_like(result.change), atol=1e-5, rtol=0)
    assert result.top() == []
    found = disagreement(result, attribution_patching(bart, clean, clean))
    assert found.cells == 0
    assert math.isnan(found.correlation)


def test_tables_and_files(bart):
    clean, corrupted = pair_of(bart)
    result = patch(bart, clean, corrupted, "encoder.*.residual")
    frame = result.to_frame()
    assert {"part", "layer", "position", "token", "effect", "change", "value", "other_value"} <= set(frame)
    # The tokens are those of the run that was patched.
    assert frame["token"].iloc[7] == corrupted.source_tokens[1].text == "bird"
    again = Patching.from_dict(result.to_dict())
    assert again.to_dict() == result.to_dict()
    assert again.other_tokens == clean.source_tokens
    assert again.exact
    assert not again.noising


def test_inputs_that_do_not_stand_side_by_side(bart):
    clean, corrupted = pair_of(bart)
    with pytest.raises(InputError, match=r"clean source has 7 tokens and the corrupted one 3"):
        patch(bart, clean, bart.force("a bird", clean.target_text))
    with pytest.raises(InputError, match="the outputs differ"):
        patch(bart, clean, bart.force(corrupted.source_text, "un oiseau"))
    with pytest.raises(InputError, match="has no head"):
        patch(bart, clean, corrupted, by=("head",))
    with pytest.raises(InputError, match="name one or several"):
        patch(bart, clean, corrupted, by="layer")
    with pytest.raises(UnknownNameError, match="hook point"):
        attribution_patching(bart, clean, corrupted, "decoder.5.residual")


def test_nothing_is_left_behind(model):
    clean, corrupted = pair_of(model)
    model.hf.train()
    before = state_of(model.hf)
    patch(model, clean, corrupted, "*.z", ("layer", "head"))
    attribution_patching(model, clean, corrupted, "*.z", ("layer", "head"))
    with pytest.raises(Cancelled):
        patch(model, clean, corrupted, should_stop=lambda: True)
    with pytest.raises(ZeroDivisionError):
        attribution_patching(model, clean, corrupted, objective=lambda logits, ids: logits[..., 0] / (1 // 0))
    assert_same_state(before, state_of(model.hf))
    model.hf.eval()


# ---- its first-order estimate ----------------------------------------------------------------------------


@pytest.mark.parametrize("points", ["decoder.1.residual", "logits"])
@pytest.mark.parametrize("contrast", [None, "oiseau"])
def test_the_estimate_is_exact_where_all_that_follows_is_linear(bart, points, contrast):
    """From the last layer of a BART to a logit there is one linear map."""
    clean, corrupted = pair_of(bart)
    asked = {"objective": "logit", "contrast": contrast, "by": ("layer", "position")}
    if points == "logits":
        asked["by"] = ("position",)
    exact = patch(bart, clean, corrupted, points, **asked)
    estimate = attribution_patching(bart, clean, corrupted, points, **asked)
    torch.testing.assert_close(estimate.change, exact.change, atol=1e-4, rtol=1e-4)
    assert estimate.exact is False
    found = disagreement(exact, estimate)
    assert found.largest < 1e-3
    assert found.overlap == 1
    assert found.correlation == pytest.approx(1, abs=1e-4)


def test_the_estimate_is_gradient_times_difference(model):
    """Written out: autograd on Hugging Face's own pass, with the activation as a leaf."""
    clean, corrupted = pair_of(model)
    points = "encoder.0.residual", "decoder.0.cross.z", "decoder.1.mlp.hidden"
    states = captured(model, clean)
    for point in points:
        estimate = attribution_patching(model, clean, corrupted, point, BY)
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.detach().requires_grad_())
            return kept[0]

        with model.intervene({point: keep}):
            logits = model.hf(
                input_ids=corrupted.source_ids[None],
                decoder_input_ids=corrupted.decoder_input_ids[None],
                use_cache=False,
            ).logits[0]
        values = logits.log_softmax(-1).gather(-1, corrupted.target_ids[:, None])[:, 0]
        for row in (0, 3):
            (gradient,) = torch.autograd.grad(values[row], kept, retain_graph=True)
            products = gradient[0] * (states[point] - kept[0][0].detach())
            for part, change in zip(estimate.parts, estimate.change[:, row], strict=True):
                index = tuple(slice(None) if i is None else i for i in part.where(point))
                torch.testing.assert_close(change, products[index].sum(), atol=1e-5, rtol=1e-4)


@given(scale=st.floats(0.02, 0.2))
def test_the_estimate_becomes_exact_for_small_differences(bart, scale):
    """Half the difference leaves about a quarter of the error: that is what first order means."""
    clean, corrupted = pair_of(bart)
    point = "decoder.0.residual"
    state, other = (captured(bart, each, point)[point] for each in (corrupted, clean))
    estimate = attribution_patching(bart, clean, corrupted, point, ("layer",))
    steps = [[Edit(point, (), state + share * (other - state))] for share in (scale, scale / 2)]
    values = values_under(bart, corrupted, question(bart, corrupted), [(), *steps])
    errors = [
        float((values[i] - values[0] - share * estimate.change[0]).abs().max())
        for i, share in ((1, scale), (2, scale / 2))
    ]
    assert errors[1] < 0.4 * errors[0] + 1e-4


def test_estimates_of_masked_scores_are_finite(model):
    clean, corrupted = pair_of(model)
    result = attribution_patching(model, clean, corrupted, "*.scores", ("layer", "head"))
    assert bool(result.change.isfinite().all())


def test_disagreement_is_measured(bart):
    clean, corrupted = pair_of(bart)
    exact = patch(bart, clean, corrupted, "*.residual")
    estimate = attribution_patching(bart, clean, corrupted, "*.residual")
    found = disagreement(exact, estimate, k=3)
    there = ~exact.effect.isnan()
    apart = (exact.effect - estimate.effect)[there].abs()
    assert found.cells == int(there.sum())
    assert found.largest == pytest.approx(float(apart.max()), rel=1e-5)
    assert found.mean == pytest.approx(float(apart.mean()), rel=1e-5)
    pair = torch.stack([exact.effect[there], estimate.effect[there]])
    assert found.correlation == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-5)
    assert 0 <= found.overlap <= 1
    assert Disagreement.from_dict(found.to_dict()) == found
    assert disagreement(exact, exact).largest == 0
    with pytest.raises(InputError, match="same places"):
        disagreement(exact, patch(bart, clean, corrupted, "decoder.*.residual"))
    with pytest.raises(InputError, match="at least 1"):
        disagreement(exact, estimate, k=0)


def test_an_intervention_that_cuts_the_input_off(bart):
    """The gradient then begins at the point itself."""
    clean, corrupted = pair_of(bart)
    with bart.intervene({"decoder.0.mlp.out": lambda x: torch.ones_like(x)}):
        result = attribution_patching(bart, clean, corrupted, "decoder.0.mlp.out", ("layer",))
    torch.testing.assert_close(result.change, torch.zeros_like(result.change))


def test_the_example_finds_the_head_that_copies():
    said = run("which_head_copies.py").splitlines()
    start = said.index("heads that bring 'c' back:")
    assert said[start + 1].split() == [
        f"{COPY.block}.z",
        "head",
        str(COPY.index),
        "+1.00",
        "of",
        "the",
        "difference",
    ]
    assert said[start + 6].strip().startswith(f"{COPY.block}.z head {COPY.index}")
