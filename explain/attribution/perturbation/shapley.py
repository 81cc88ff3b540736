"""Shapley values: what a token adds on average, whatever else is there, by orders or by regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.attribution.gradients.quadrature import SAME
from explain.attribution.objectives import Question
from explain.attribution.perturbation.coalitions import (
    all_coalitions,
    kernel_draws,
    kernel_weights,
    orders,
)
from explain.attribution.perturbation.features import SPREAD, UNITS, Features, features_of
from explain.attribution.perturbation.presence import (
    HIDING,
    Presence,
    distinct,
    presence_of,
    require_rest,
)
from explain.attribution.perturbation.regression import each_row, shapley_fit
from explain.attribution.perturbation.settings import check_at_least, check_choice, enough
from explain.attribution.registry import Method, Scores, Work
from explain.options import choice
from explain.results import Generation


@dataclass(frozen=True, slots=True)
class ShapleySamplingSettings:
    """What a token adds, in the mean over `samples` random orders in which tokens appear.

    Every second order is the reverse of the one before. Where all combinations are fewer forward rows than
    the orders need, all are tried and the values are exact. `by` says how a token is hidden, `unit` what is
    hidden as one (a `token`, a `word`, a `sentence`; its worth is divided evenly among its tokens). Special
    tokens are always there. At most `rows` versions go through the model at once.
    """

    samples: int = 25
    by: str = choice("attention", HIDING)
    unit: str = choice("token", UNITS)
    seed: int = 0
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("by", self.by, HIDING)
        check_choice("unit", self.unit, UNITS)
        check_at_least(1, samples=self.samples, rows=self.rows)


@dataclass(frozen=True, slots=True)
class KernelShapSettings:
    """Weighted least squares over `samples` combinations of tokens, under the constraint that scores add up.

    Combinations are drawn from the Shapley kernel, in pairs of complements; None is 8 for each unit, at least
    128. Where that is no fewer than all there are, all are tried and the values are exact. `by` says how a
    token is hidden, `unit` what is hidden as one (a `token`, a `word`, a `sentence`; its worth is divided
    evenly among its tokens). Special tokens are always there. At most `rows` versions go through the model at
    once.
    """

    samples: int | None = None
    by: str = choice("attention", HIDING)
    unit: str = choice("token", UNITS)
    seed: int = 0
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("by", self.by, HIDING)
        check_choice("unit", self.unit, UNITS)
        check_at_least(1, samples=self.samples, rows=self.rows)


def _shapley_sampling(work: Work, settings: ShapleySamplingSettings) -> list[Scores]:
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        features, presence = _opened(work, generation, question, settings)
        count = len(features)
        exact = 2**count <= settings.samples * max(1, count - 1) + 2 if count < 24 else False
        if exact:
            present = all_coalitions(count)
            values = presence.values(present).double()
            found = exact_shapley(present, values)
        else:
            dice = torch.Generator().manual_seed(settings.seed)
            drawn = orders(settings.samples, count, dice)
            present, number = _chains(drawn)
            values = presence.values(present).double()
            found = order_means(drawn, values[number])
        used = {"exact": exact, "samples": settings.samples, "versions": len(present)}
        results.append(_scores(settings.unit, features, question, found, values[0], values[-1], used))
        work.done(1)
    return results


def _chains(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The different versions on the way from none to all: bool [n, features], and their numbers.

    The version before the first feature of an order appears is the first, the whole input the last.

    Args:
        drawn: orders [samples, features].

    Returns:
        The versions, and which one is at each step of each order: int [samples, features + 1].
    """
    samples, count = drawn.shape
    rank = drawn.argsort(dim=1)
    present = rank[:, None, :] < torch.arange(count + 1)[None, :, None]  # [samples, features + 1, features]
    first, inverse = distinct(present.flatten(0, 1))
    number = torch.tensor(inverse).reshape(samples, count + 1)
    whole = int(number[0, -1])
    order = [*range(whole), *range(whole + 1, len(first)), whole]
    place = torch.empty(len(first), dtype=torch.long)
    place[torch.tensor(order)] = torch.arange(len(first))
    return present.flatten(0, 1)[torch.tensor(first)[order]], place[number]


def order_means(drawn: Tensor, values: Tensor) -> Tensor:
    """Mean of what each feature adds when it appears.

    Args:
        drawn: orders [samples, features].
        values: [samples, features + 1, rows], of what is there before and after each step.

    Returns:
        [rows, features].
    """
    added = values[:, 1:] - values[:, :-1]  # [samples, step, rows]
    index = drawn.argsort(dim=1)[:, :, None].expand(-1, -1, added.shape[2])
    return added.gather(1, index).mean(0).T


def exact_shapley(present: Tensor, values: Tensor) -> Tensor:
    """Shapley values [rows, features] from the values [2^features, rows] of all versions."""
    count = present.shape[1]
    size = present.sum(1).double()
    steps = torch.lgamma(torch.tensor(count + 1.0, dtype=torch.float64))
    with_it = torch.exp(torch.lgamma(size) + torch.lgamma(count - size + 1) - steps)  # (k-1)! (n-k)! / n!
    without = torch.exp(torch.lgamma(size + 1) + torch.lgamma(count - size) - steps)  # k! (n-k-1)! / n!
    weights = torch.where(present, with_it[:, None], -without[:, None])  # [2^features, features]
    return values.T @ weights


def _kernel_shap(work: Work, settings: KernelShapSettings) -> list[Scores]:
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        features, presence = _opened(work, generation, question, settings)
        count, samples = len(features), enough(settings.samples, len(features))
        exact = 2**count - 2 <= samples if count < 24 else False
        if exact:
            inside = all_coalitions(count)[1 : 2**count - 1]
            weights = kernel_weights(inside)
        else:
            inside = kernel_draws(samples, count, torch.Generator().manual_seed(settings.seed))
            weights = torch.ones(len(inside), dtype=torch.float64)
        ends = torch.zeros(2, count, dtype=torch.bool)
        ends[1] = True
        present = torch.cat([ends[:1], inside, ends[1:]])
        values = presence.values(present).double()
        low, high = values[0], values[-1]
        relevant = features.relevant(question.spans)
        found = each_row(
            inside,
            values[1:-1],
            relevant,
            lambda row, low=low, high=high, w=weights: shapley_fit(float(low[row]), float(high[row]), w),
        )
        used = {"exact": exact, "samples": len(inside)}
        results.append(_scores(settings.unit, features, question, found, low, high, used))
        work.done(1)
    return results


def _opened(
    work: Work,
    generation: Generation,
    question: Question,
    settings: ShapleySamplingSettings | KernelShapSettings,
) -> tuple[Features, Presence]:
    work.check()
    features = features_of(generation, settings.unit)
    require_rest(features, torch.zeros(1, len(features), dtype=torch.bool), settings.by)
    return features, presence_of(work, generation, question, features, settings.by, settings.rows)


def _scores(
    unit: str,
    features: Features,
    question: Question,
    found: Tensor,  # [rows, features], double
    low: Tensor,  # [rows], with everything hidden
    high: Tensor,  # [rows]
    used: dict[str, Any],
) -> Scores:
    found = found.masked_fill(~features.relevant(question.spans), 0)
    source, prefix, start = (part.float() for part in features.spread(found, question))
    change = high - low
    off = (source.double().sum(1) + prefix.double().sum(1) - change).abs()
    error = torch.where(change.abs() > SAME, off / change.abs(), torch.nan)
    used |= {"features": len(features)} | ({} if unit == "token" else {"spread": SPREAD})
    scores = Scores(source, prefix, start, low.float(), error.float(), used)
    return scores.with_values(question, high)


METHODS = (
    Method(
        name="shapley_sampling",
        label="Shapley values (sampled orders)",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=True,
        paper="Castro et al. 2009; Štrumbelj & Kononenko 2010; Mitchell et al. 2022, arXiv:2104.12199",
        reads="What the token adds to the objective when it appears, in the mean over orders of appearance; "
        "scores add up to the difference to everything hidden; below 0: against; 0: it adds nothing.",
        settings=ShapleySamplingSettings,
        run=_shapley_sampling,
    ),
    Method(
        name="kernel_shap",
        label="KernelSHAP",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=True,
        paper="Lundberg & Lee 2017, arXiv:1705.07874; Covert & Lee 2021, arXiv:2012.01536",
        reads="An estimate of what the token adds to the objective, in the mean over all combinations of the "
        "others; scores add up to the difference to everything hidden; below 0: against; 0: it adds nothing.",
        settings=KernelShapSettings,
        run=_kernel_shap,
    ),
)
