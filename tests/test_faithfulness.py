"""Faithfulness: literal loops over the model's own answers, exhaustive orders, Captum, and the control."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity

import explain
from explain.attribution.memory import DEFAULT
from explain.attribution.registry import Cancelled, Work
from explain.errors import InputError
from explain.evaluation.bounds import bounds, normalised
from explain.evaluation.erasure import erasure_of, infidelity, ranks, sizes_of, unexplained
from explain.evaluation.estimates import Estimate
from explain.evaluation.faithfulness import HIDDEN_BY, Faithfulness, FaithfulnessSettings, faithfulness
from explain.files import dump_json
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import network, tiny, tokenizer
from tests.state import assert_same_state, state_of
from tests.test_hiding import answer

EVERY_TOKEN = FaithfulnessSettings(tokens=100, bounded=0)
QUICK = FaithfulnessSettings(tokens=2, orders=2, subsets=4, bounded=2, beams=1)


def erasure(model, generation, tokens, by="attention"):
    work = Work(model, [], [], 0.01, lambda: None, lambda _: None, DEFAULT)
    return erasure_of(work, generation, tokens, by, 64)


def numbers(found: Faithfulness) -> list[float]:
    """Every number of a result in one list."""
    listed = []
    for part in fields(found):
        value = getattr(found, part.name)
        listed += [value.value, value.low, value.high, value.n] if isinstance(value, Estimate) else value
    return listed


def assert_same(one: dict[str, Faithfulness], other: dict[str, Faithfulness], **close):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_allclose(numbers(one[name]), numbers(other[name]), **(close or {"rtol": 0}))


@pytest.fixture(scope="module")
def outputs(bart):
    return bart.force(SENTENCES, OUTPUTS)


@pytest.fixture(scope="module")
def maps(bart, outputs):
    return {name: bart.attribute(outputs, method=name) for name in ("occlusion", "attention")}


# ---- the definitions, by hand ----


def by_hand(model, generation, att, t, by, bins):
    """Comprehensiveness, sufficiency, and the areas under both curves of one target token."""
    source = [i for i, token in enumerate(generation.source_tokens) if not token.special]
    prefix = [u for u in range(t) if not generation.target_tokens[u].special]
    scores = {("source", i): float(att.source[t, i]) for i in source}
    scores |= {("prefix", u): float(att.prefix[t, u]) for u in prefix}
    order = sorted(scores, key=lambda feature: -scores[feature])

    def p(hidden):
        sides = ([index for side, index in hidden if side == name] for name in ("source", "prefix"))
        return float(answer(model, generation, by, *sides)[t].exp())

    sizes = [max(1, int(len(order) * b + 0.5)) for b in bins]
    without, alone = [p(order[:k]) for k in sizes], [p(order[k:]) for k in sizes]
    whole, nothing = p([]), p(order)
    xs = [0, *bins, 1]
    areas = [
        sum((ys[i] + ys[i + 1]) / 2 * (xs[i + 1] - xs[i]) for i in range(len(xs) - 1))
        for ys in ([whole, *without, nothing], [nothing, *alone, whole])
    ]
    return [whole - sum(without) / len(bins), whole - sum(alone) / len(bins), *areas]


@pytest.mark.parametrize("method", ["occlusion", "attention"])
def test_measures_are_what_the_models_own_answers_say(model, method):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    att = model.attribute(generation, method=method)
    found = faithfulness(model, [generation], {method: [att]}, EVERY_TOKEN)[method]
    steps = [t for t, token in enumerate(generation.target_tokens) if not token.special]
    wanted = [by_hand(model, generation, att, t, "attention", EVERY_TOKEN.bins) for t in steps]
    measures = (found.comprehensiveness, found.sufficiency, found.deletion, found.insertion)
    assert [measure.n for measure in measures] == [len(steps)] * 4
    np.testing.assert_allclose([m.value for m in measures], np.mean(wanted, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", HIDDEN_BY)
def test_every_way_to_hide_is_the_models_own_answer(bart, outputs, maps, by):
    settings = replace(EVERY_TOKEN, by=by, bins=(0.3, 0.6))
    found = faithfulness(bart, outputs[1:2], {"occlusion": maps["occlusion"][1:2]}, settings)["occlusion"]
    wanted = [by_hand(bart, outputs[1], maps["occlusion"][1], t, by, settings.bins) for t in range(2)]
    measures = (found.comprehensiveness, found.sufficiency, found.deletion, found.insertion)
    np.testing.assert_allclose([m.value for m in measures], np.mean(wanted, 0), rtol=1e-4, atol=1e-6)


def test_curves_run_from_everything_to_nothing(bart, outputs, maps):
    found = faithfulness(bart, outputs, maps, EVERY_TOKEN)
    for result in found.values():
        assert result.fractions == (0, *EVERY_TOKEN.bins, 1)
        assert result.deletion_curve == pytest.approx(
            [*result.deletion_curve[:-1], found["random_order"].deletion_curve[-1]]
        )
        assert result.deletion_curve[0] == pytest.approx(result.insertion_curve[-1])
        assert result.deletion_curve[-1] == pytest.approx(result.insertion_curve[0])
    whole = [float(p.exp()) for o in outputs for p in o.log_probs[:-1]]
    assert found["occlusion"].deletion_curve[0] == pytest.approx(np.mean(whole), rel=1e-4)


def test_at_most_so_many_tokens_are_looked_at_and_none_is_special(bart, outputs, maps):
    every = sum(len(output.target_tokens) - 1 for output in outputs)  # all but </s>
    few = sum(min(3, len(output.target_tokens) - 1) for output in outputs)
    found = faithfulness(bart, outputs, maps, EVERY_TOKEN)["occlusion"]
    assert found.comprehensiveness.n == every
    found = faithfulness(bart, outputs, maps, replace(QUICK, tokens=3))["occlusion"]
    assert found.comprehensiveness.n == few


def test_equal_scores_are_ranked_in_random_order():
    ties = np.random.default_rng(0).random((2, 9))
    relevant = np.ones((2, 9), dtype=bool)
    relevant[0, 4:] = False
    rank = ranks(np.zeros((1, 2, 9)), relevant, ties)
    assert sorted(rank[0, 0, :4]) == [0, 1, 2, 3]  # what cannot matter comes last
    assert rank[0, 1].tolist() == ties[1].argsort().argsort().tolist()
    best = ranks(np.arange(9.0)[None, None].repeat(2, 1), relevant, ties)
    assert best[0, 0, :4].tolist() == [3, 2, 1, 0]
    assert sizes_of(relevant, (0.01, 0.3, 0.5)).tolist() == [[1, 1, 2], [1, 3, 5]]


# ---- the control ----


def test_the_control_is_always_there_and_every_advantage_is_over_it(bart, outputs, maps):
    found = faithfulness(bart, outputs, maps, EVERY_TOKEN)
    assert list(found) == ["occlusion", "attention", "random_order"]
    control = found["random_order"]
    assert (control.advantage.value, control.sufficiency_advantage.value) == (0, 0)
    for result in found.values():
        gain = result.comprehensiveness.value - control.comprehensiveness.value
        assert result.advantage.value == pytest.approx(gain)
        gain = control.sufficiency.value - result.sufficiency.value
        assert result.sufficiency_advantage.value == pytest.approx(gain)
    alone = faithfulness(bart, outputs, {}, EVERY_TOKEN)
    assert_same(alone, {"random_order": control}, rtol=1e-4, atol=1e-6)


def test_the_control_averages_orders_that_differ(bart, outputs):
    many = faithfulness(bart, outputs, {}, replace(EVERY_TOKEN, orders=200))["random_order"]
    other = faithfulness(bart, outputs, {}, replace(EVERY_TOKEN, orders=200, seed=1))["random_order"]
    few = faithfulness(bart, outputs, {}, replace(EVERY_TOKEN, orders=1))["random_order"]
    assert many.comprehensiveness.value == pytest.approx(other.comprehensiveness.value, abs=0.005)
    assert many.comprehensiveness.value != few.comprehensiveness.value


# ---- NAOPC ----


def exhaustive(value, features, sizes):
    """The lowest and the highest mean over the chains of all orders."""
    sets = {
        chosen: np.isin(np.arange(features), chosen)
        for k in set(sizes)
        for chosen in combinations(range(features), k)
    }
    known = dict(zip(sets, value(np.array(list(sets.values()))), strict=True))
    means = {
        order: np.mean([known[tuple(sorted(order[:k]))] for k in sizes])
        for order in permutations(range(features))
    }
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return low, high, means[low], means[high]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [(1, 2, 3), (1, 1, 4), (2, 5), (6,)])
def test_a_wide_search_finds_what_trying_all_orders_finds(seed, sizes):
    table = np.random.default_rng(seed).uniform(0.2, 0.8, 64)  # nothing to be read off single features

    def value(sets):
        return table[sets @ (1 << np.arange(6))]

    *_, low, high = exhaustive(value, 6, sizes)
    assert bounds(value, 6, sizes, 100) == pytest.approx((low, high))
    narrow = bounds(value, 6, sizes, 1)
    assert low - 1e-9 <= narrow[0] <= narrow[1] <= high + 1e-9


def test_a_search_finds_features_that_only_matter_together():
    def value(sets):
        return 0.02 + 0.9 * sets[:, [3, 11, 17]].all(1)

    assert bounds(value, 20, (3, 5, 10), 3)[1] == pytest.approx(0.92)
    assert bounds(value, 20, (1, 3), 3)[1] == pytest.approx(0.47)


def test_a_search_of_what_is_plain_costs_little():
    asked = []

    def value(sets):
        asked.append(len(sets))
        return np.where(sets[:, 7], 0.999, 0.001)

    assert bounds(value, 100, (1, 5, 10, 20, 50), 3) == pytest.approx((0.001, 0.999))
    assert sum(asked) < 1_000


def test_normalised_is_nan_where_no_order_matters():
    assert normalised(np.array([0.2, 0.5, 0.6]), 0.2, 0.6).tolist() == pytest.approx([1, 0.25, 0])
    assert np.isnan(normalised(np.array([0.9]), 0.9, 0.9001)).all()


def ordered(att, order):
    """The same map with other scores: the source tokens of an order, the first with the highest score."""
    source = torch.zeros_like(att.source)
    for place, index in enumerate(order):
        source[:, index] = len(order) - place
    return replace(att, source=source, prefix=torch.zeros_like(att.prefix))


def test_the_best_order_of_all_has_naopc_1_and_the_worst_0(bart):
    generation = bart.force(SENTENCES[0], "le")  # one token to explain, by the six of the source
    att = bart.attribute(generation, method="attention")
    settings = FaithfulnessSettings(bins=(0.1, 0.3, 0.5, 0.8), beams=100)
    sizes = sizes_of(np.ones((1, 6), dtype=bool), settings.bins)[0].tolist()
    opened = erasure(bart, generation, [0])

    def kept(sets):
        present = np.pad(sets, ((0, 0), (0, 1)))  # the last feature is the token itself, an input of </s>
        return opened.probabilities(np.zeros(len(sets), dtype=int), present)

    def hidden(sets):
        return kept(~sets)

    most, least, *_ = exhaustive(hidden, 6, sizes)  # hiding the best leaves the lowest probability
    worst, best, *_ = exhaustive(kept, 6, sizes)
    orders = {"most": most, "least": least, "worst": worst, "best": best}
    found = faithfulness(
        bart, [generation], {name: [ordered(att, order)] for name, order in orders.items()}, settings
    )
    assert found["most"].naopc_comprehensiveness.value == pytest.approx(1, abs=0.02)
    assert found["least"].naopc_comprehensiveness.value == pytest.approx(0, abs=0.02)
    assert found["best"].naopc_sufficiency.value == pytest.approx(0, abs=0.02)
    assert found["worst"].naopc_sufficiency.value == pytest.approx(1, abs=0.02)
    assert 0 < found["random_order"].naopc_comprehensiveness.value < 1


def test_only_so_many_pairs_are_bounded(bart, outputs, maps):
    assert faithfulness(bart, outputs, maps, QUICK)["attention"].naopc_sufficiency.n == 2
    none = faithfulness(bart, outputs, maps, replace(QUICK, bounded=0))["attention"]
    assert none.naopc_sufficiency.n == 0
    assert np.isnan(none.naopc_sufficiency.value)


# ---- infidelity ----


@pytest.mark.parametrize("scaled", [True, False])
def test_infidelity_is_captums(bart, outputs, maps, scaled):
    generation, t = outputs[0], 4
    opened = erasure(bart, generation, [t])
    scores, relevant = opened.scores(maps["occlusion"][0]), opened.relevant
    hidden = np.random.default_rng(1).random((24, relevant.shape[1])) < 0.5

    def p(there):
        rows = np.zeros(len(there), dtype=int)
        return torch.from_numpy(opened.probabilities(rows, there.numpy() > 0.5))

    def perturb(inputs):
        return torch.from_numpy(hidden).double(), inputs - torch.from_numpy(hidden).double()

    whole = torch.ones(1, relevant.shape[1], dtype=torch.float64)
    wanted = captum_infidelity(
        p, perturb, whole, torch.from_numpy(scores), n_perturb_samples=24, normalize=scaled
    )
    effects = (p(whole) - p(1 - torch.from_numpy(hidden).double())).numpy()
    sums = scores @ hidden.T
    np.testing.assert_allclose(infidelity(sums, effects, scaled=scaled), wanted.numpy(), rtol=1e-6)
    if scaled:
        share = unexplained(scores[None], relevant, hidden, effects[None])[0]
        np.testing.assert_allclose(share, wanted.numpy() / (effects**2).mean(), rtol=1e-6)


def test_infidelity_is_0_for_all_1_for_nothing_and_nan_without_effect():
    scores = np.array([[[1.0, -2.0, 0.5]]])
    relevant, hidden = np.ones((1, 3), dtype=bool), np.eye(3, dtype=bool)
    effects = 0.1 * scores[0]
    assert unexplained(scores, relevant, hidden, effects) == pytest.approx(0)
    assert unexplained(scores * 0, relevant, hidden, effects) == pytest.approx(1)
    assert np.isnan(unexplained(scores, relevant, hidden, effects * 0)).all()


# ---- nothing twice, nothing by accident ----


def rows_of(model, *given):
    """How many rows go through the decoder."""
    rows = []
    layer = model.hf.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    try:
        faithfulness(model, *given)
    finally:
        handle.remove()
    return sum(rows)


def test_a_version_goes_through_the_model_once_for_all_methods(bart, outputs, maps):
    twice = {"one": maps["occlusion"], "same": maps["occlusion"]}
    assert rows_of(bart, outputs, twice, QUICK) == rows_of(bart, outputs, {"one": maps["occlusion"]}, QUICK)


def test_versions_that_differ_in_what_comes_later_are_one(bart, outputs):
    opened = erasure(bart, outputs[0], [1, 3])
    assert opened.relevant.sum(1).tolist() == [7, 9]
    present = np.ones((2, opened.relevant.shape[1]), dtype=bool)
    present[:, 0] = False
    present[0, 8] = False  # target token 2, which comes after token 1
    first = opened.probabilities(np.array([0, 0]), present)
    assert first[0] == first[1]
    assert len(opened.known) == 1
    opened.probabilities(np.array([1, 1]), present)
    assert len(opened.known) == 2
    np.testing.assert_allclose(opened.every_row(present)[:, 0], first, rtol=1e-5)


def test_a_method_alone_scores_what_it_scores_among_others(bart, outputs, maps):
    settings = replace(QUICK, tokens=4, bounded=4, beams=2)
    together = faithfulness(bart, outputs, maps, settings)
    for name, found in maps.items():
        alone = faithfulness(bart, outputs, {name: found}, settings)
        same = {key: together[key] for key in (name, "random_order")}
        assert_same(alone, same, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("change", [{"budget": 1}, {"rows": 3}])
def test_batches_change_no_result(bart, outputs, maps, change):
    wanted = faithfulness(bart, outputs, maps, QUICK)
    rows = replace(QUICK, rows=change.pop("rows", QUICK.rows))
    # Rounding differs, and NAOPC magnifies it where orders differ little.
    assert_same(faithfulness(bart, outputs, maps, rows, **change), wanted, rtol=1e-3, atol=1e-4)


def test_the_seed_decides(bart, outputs, maps):
    first = faithfulness(bart, outputs, maps, QUICK)
    assert_same(first, faithfulness(bart, outputs, maps, QUICK))
    other = faithfulness(bart, outputs, maps, replace(QUICK, seed=1))
    assert numbers(first["random_order"]) != numbers(other["random_order"])


# ---- corners ----


def test_no_outputs_give_no_numbers(bart):
    found = faithfulness(bart, [], {"occlusion": []})
    assert list(found) == ["occlusion", "random_order"]
    for result in found.values():
        assert result.comprehensiveness.n == result.naopc_sufficiency.n == 0
        assert np.isnan(result.advantage.value)
        assert np.isnan(result.deletion_curve).all()
        assert len(result.deletion_curve) == len(result.fractions) == 7


def test_an_output_of_special_tokens_alone_is_passed_over(bart, outputs, maps):
    tokens = tuple(replace(token, special=True) for token in outputs[1].target_tokens)
    bare = replace(outputs[1], target_tokens=tokens)
    att = replace(maps["occlusion"][1], target_tokens=tokens)
    assert faithfulness(bart, [bare], {"occlusion": [att]}, QUICK)["occlusion"].deletion.n == 0
    both = faithfulness(bart, [bare, outputs[0]], {"occlusion": [att, maps["occlusion"][0]]}, QUICK)
    assert both["occlusion"].deletion.n == 2


def test_one_source_token(bart):
    generation = bart.force("cat", "le chat")
    att = bart.attribute(generation, method="occlusion")
    found = faithfulness(bart, [generation], {"occlusion": [att]}, replace(EVERY_TOKEN, bounded=9))
    result = found["occlusion"]
    # The first target token has one feature only, so every order is the same; the second has two.
    assert result.comprehensiveness.n == 2
    assert result.naopc_comprehensiveness.n <= 1
    assert np.isfinite(result.sufficiency.value)


def test_a_source_without_special_tokens_is_hidden_by_padding():
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = None  # no </s>: every source token can be hidden
    model = explain.wrap(network("bart"), bare)
    generations = model.force(["the cat", "cat"], ["le chat", "chat"])
    maps = {"attention": model.attribute(generations, method="attention")}
    found = faithfulness(model, generations, maps, QUICK)
    assert np.isfinite(found["attention"].comprehensiveness.value)
    assert_same(found, faithfulness(model, generations, maps, replace(QUICK, by="pad")))


def test_results_survive_json(bart, outputs, maps):
    for settings in (QUICK, replace(QUICK, bounded=0)):
        for result in faithfulness(bart, outputs, maps, settings).values():
            data = json.loads(dump_json(result.to_dict()))
            np.testing.assert_array_equal(numbers(Faithfulness.from_dict(data)), numbers(result))
    empty = faithfulness(bart, [], {})["random_order"]
    data = json.loads(dump_json(empty.to_dict()))
    assert data["comprehensiveness"]["value"] is None
    np.testing.assert_array_equal(numbers(Faithfulness.from_dict(data)), numbers(empty))


def test_no_trace_is_left_behind_even_after_an_error():
    model = tiny("t5")
    model.hf.train()
    generations = model.force(SENTENCES, OUTPUTS)
    maps = {"attention": model.attribute(generations, method="attention")}
    before = state_of(model.hf)
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 4:
            raise Cancelled("stopped as asked")

    with pytest.raises(Cancelled):
        faithfulness(model, generations, maps, QUICK, check=check)
    assert_same_state(before, state_of(model.hf))
    faithfulness(model, generations, maps, QUICK)
    assert_same_state(before, state_of(model.hf))


def test_maps_of_something_else_are_refused(bart, outputs, maps):
    found = maps["occlusion"]
    with pytest.raises(InputError, match="2 maps of occlusion for 3 generations"):
        faithfulness(bart, outputs, {"occlusion": found[:2]})
    with pytest.raises(InputError, match="map 0 of occlusion is not between all tokens"):
        faithfulness(bart, outputs, {"occlusion": found[::-1]})
    with pytest.raises(InputError, match="not grouped"):
        faithfulness(bart, outputs, {"occlusion": [att.sentences() for att in found]})
    some = bart.attribute(outputs, method="occlusion", positions=[0])
    with pytest.raises(InputError, match="every target token"):
        faithfulness(bart, outputs, {"occlusion": some})
    with pytest.raises(InputError, match="random_order is the name of the control"):
        faithfulness(bart, outputs, {"random_order": found})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": "delete"}, "by='delete' is not one of attention, pad"),
        ({"bins": ()}, "bins="),
        ({"bins": (0.5, 0.1)}, "that rise"),
        ({"bins": (0.0, 0.5)}, "between 0 and 1"),
        ({"bins": (0.5, 1.0)}, "between 0 and 1"),
        ({"tokens": 0}, "tokens=0 must be at least 1"),
        ({"orders": 0}, "orders=0"),
        ({"subsets": 1}, "subsets=1 must be at least 2"),
        ({"bounded": -1}, "bounded=-1"),
        ({"beams": 0}, "beams=0"),
        ({"rows": 0}, "rows=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FaithfulnessSettings(**wrong)
