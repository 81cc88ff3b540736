"""Shapley values and linear surrogates: games with known values, their definition, and Captum's numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr import LimeBase

from explain.attribution.perturbation.coalitions import (
    all_coalitions,
    biased_coins,
    kernel_draws,
    kernel_weights,
    orders,
)
from explain.attribution.perturbation.regression import each_row, lasso_fit, ridge_fit, shapley_fit, solve
from explain.attribution.perturbation.shapley import exact_shapley, order_means
from explain.attribution.perturbation.surrogate import closeness
from tests.test_attribution import generation_of
from tests.test_hiding import CLOSE, answer, presence

# ---- games with known values ----


def brute_force(values, own):
    """Shapley values of the features `own` by their definition: values(set) -> float."""
    count = len(own)
    found = []
    for j in own:
        total = 0.0
        others = [i for i in own if i != j]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for chosen in itertools.combinations(others, size):
                total += weight * (values({*chosen, j}) - values(set(chosen)))
        found.append(total)
    return found


def game(count=4, rows=3, seed=0):
    """A game of every coalition, with interactions: present [2^n, n], values [2^n, rows]."""
    present = all_coalitions(count)
    return present, torch.randn(
        2**count, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def test_all_orders_all_coalitions_and_the_regression_give_the_shapley_values():
    present, values = game()
    powers = 2 ** torch.arange(4)

    def value(row):
        return lambda chosen: float(values[sum(2**i for i in chosen), row])

    wanted = torch.tensor([brute_force(value(row), range(4)) for row in range(3)], dtype=torch.float64)
    torch.testing.assert_close(exact_shapley(present, values), wanted)
    drawn = torch.tensor(list(itertools.permutations(range(4))))
    rank = drawn.argsort(1)
    there = rank[:, None, :] < torch.arange(5)[None, :, None]
    torch.testing.assert_close(order_means(drawn, values[(there * powers).sum(-1)]), wanted)
    fitted = each_row(
        present[1:-1],
        values[1:-1],
        torch.ones(3, 4, dtype=torch.bool),
        lambda r: shapley_fit(float(values[0, r]), float(values[-1, r]), kernel_weights(present[1:-1])),
    )
    torch.testing.assert_close(fitted, wanted, atol=1e-9, rtol=1e-9)


def test_an_additive_game_is_recovered_by_every_estimate():
    dice = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 6, dtype=torch.float64, generator=dice)
    weights[:, 3] = 0
    relevant = torch.ones(2, 6, dtype=torch.bool)

    def values(present):
        return present.double() @ weights.T + 0.7

    drawn = orders(5, 6, dice)
    there = drawn.argsort(1)[:, None, :] < torch.arange(7)[None, :, None]
    torch.testing.assert_close(order_means(drawn, values(there.flatten(0, 1)).reshape(5, 7, 2)), weights)
    present = kernel_draws(40, 6, dice)
    low, high = values(torch.zeros(1, 6))[0], values(torch.ones(1, 6))[0]
    even = torch.ones(40, dtype=torch.float64)
    found = each_row(present, values(present), relevant, lambda r: shapley_fit(low[r], high[r], even))
    torch.testing.assert_close(found, weights, atol=1e-9, rtol=0)
    present = biased_coins(60, 6, dice)
    for fit in (ridge_fit(0.0, closeness(0.25)), ridge_fit(1e-8, closeness(0.25))):
        found = each_row(present, values(present), relevant, lambda _, fit=fit: fit)
        torch.testing.assert_close(found, weights, atol=1e-5, rtol=0)
    for fit in (lasso_fit(1e-6, closeness(0.25)), lasso_fit(1e-6, standardised=True)):
        found = each_row(present, values(present), relevant, lambda _, fit=fit: fit)
        torch.testing.assert_close(found, weights, atol=1e-4, rtol=0)
    sparse = each_row(present, values(present), relevant, lambda _: lasso_fit(0.3, standardised=True))
    assert 0 < int((sparse == 0).sum()) < 12


def test_with_too_few_versions_the_smallest_weights_are_taken_and_still_add_up():
    present = torch.tensor([[True, False, False, False, True]])
    fit = shapley_fit(0.0, 3.0, torch.ones(1, dtype=torch.float64))
    found = fit(present.double(), torch.tensor([2.0], dtype=torch.float64))
    assert float(found.sum()) == pytest.approx(3.0)
    assert float(found[[0, 4]].sum()) == pytest.approx(2.0)
    torch.testing.assert_close(found[[1, 2]], found[[3, 3]])
    torch.testing.assert_close(
        solve(torch.zeros(2, 2).double(), torch.zeros(2).double()), torch.zeros(2).double()
    )


@pytest.mark.parametrize("count", [3, 5, 8])
def test_versions_drawn_for_all_features_are_right_for_those_of_one_row(count):
    """The Shapley kernel of n + 1 features, summed over one, is that of n: one draw serves all rows."""
    more = all_coalitions(count + 1)
    summed = kernel_weights(more).reshape(2, -1).sum(0)  # the last feature is the highest bit
    # Where n features are all there or all not, the kernel is infinite and tells nothing.
    inside = slice(1, 2**count - 1)
    ratio = summed[inside] / kernel_weights(all_coalitions(count))[inside]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    drawn = kernel_draws(40_000, count + 3, torch.Generator().manual_seed(0))[:, :count]
    size = drawn.sum(1)
    share = torch.stack([(size == k).sum() for k in range(1, count)]).double()
    wanted = torch.tensor([1 / (k * (count - k)) for k in range(1, count)])
    torch.testing.assert_close(share / share.sum(), wanted.double() / wanted.sum(), atol=0.01, rtol=0)


# ---- the methods on a model ----


@pytest.mark.parametrize("name", ["shapley_sampling", "kernel_shap"])
def test_all_combinations_of_a_short_input_give_its_exact_shapley_values(model, name):
    generation = model.force("a bird", "un oiseau")  # 2 words and 2 words, </s> always there
    att = model.attribute(generation, method=name)
    assert att.config["exact"]
    assert att.config["features"] == 4

    def value(row):
        def of(chosen):
            hidden = set(range(4)) - chosen
            source, target = [f for f in hidden if f < 2], [f - 2 for f in hidden if f >= 2]
            return float(answer(model, generation, "attention", source, target)[row])

        return of

    for row, own in enumerate(([0, 1], [0, 1, 2], [0, 1, 2, 3])):
        wanted = torch.tensor(brute_force(value(row), own))
        torch.testing.assert_close(att.source[row, :2], wanted[:2], **CLOSE)
        torch.testing.assert_close(att.prefix[row, :row], wanted[2:], **CLOSE)
    assert float(att.source[:, 2].abs().max()) == 0


@pytest.mark.parametrize("name", ["shapley_sampling", "kernel_shap"])
@pytest.mark.parametrize("unit", ["token", "word"])
def test_shapley_values_add_up(model, name, unit):
    generation = generation_of(model)
    att = model.attribute(generation, method=name, unit=unit)
    total = att.source.sum(1) + att.prefix.sum(1)
    torch.testing.assert_close(total, att.value - att.baseline_value, **CLOSE)
    assert float(att.completeness_error.nan_to_num().max()) < 1e-3
    everything = answer(model, generation, "attention", range(len(generation.source_ids) - 1), range(9))
    torch.testing.assert_close(att.baseline_value, everything, **CLOSE)


def test_estimates_come_close_to_the_exact_values(bart):
    generation = generation_of(bart)
    opened = presence(bart, generation)
    count = len(opened.features)
    present = all_coalitions(count)
    exact = exact_shapley(present, opened.values(present).double())
    source, prefix, _ = opened.features.spread(exact, opened.question)
    wanted = torch.cat([source, prefix], dim=1).float()
    for name, samples, most in (("shapley_sampling", 60, 0.15), ("kernel_shap", 800, 0.15)):
        att = bart.attribute(generation, method=name, samples=samples)
        assert not att.config["exact"]
        off = (torch.cat([att.source, att.prefix], dim=1) - wanted).norm() / wanted.norm()
        assert float(off) < most, name


@pytest.mark.parametrize("name", ["lime", "contextcite"])
def test_surrogates_order_tokens_as_the_exact_values_do(bart, name):
    generation = generation_of(bart)
    exact = bart.attribute(generation, method="kernel_shap", samples=2**14, target="logit")
    assert exact.config["exact"]
    att = bart.attribute(generation, method=name, samples=800, unit="token", target="logit")
    pair = torch.stack([x.source[:, :-1].flatten() for x in (exact, att)])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.85


# ---- equality with Captum ----


def test_the_lasso_is_captums():
    dice = torch.Generator().manual_seed(0)
    present = biased_coins(60, 7, dice)
    values = present.double() @ torch.randn(7, generator=dice).double() + 0.3 * present[:, 0] * present[:, 1]
    rows = iter(present)
    weights = closeness(0.25)(present.double())
    captum = LimeBase(
        lambda x: values[(present == x.bool()).all(1)][:1],
        SkLearnLasso(alpha=0.01),
        similarity_func=lambda a, b, z, **_: closeness(0.25)(z.double()),
        perturb_func=lambda *_, **__: next(rows)[None].float(),
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda z, *_, **__: z,
        to_interp_rep_transform=None,
    ).attribute(torch.ones(1, 7), n_samples=60, num_interp_features=7)
    fitted = lasso_fit(0.01, lambda _: weights)(present.double(), values)
    torch.testing.assert_close(captum[0].double(), fitted, atol=1e-3, rtol=1e-3)
