"""Linear surrogates without a constraint: LIME and ContextCite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.attribution.objectives import Question
from explain.attribution.perturbation.coalitions import biased_coins, coins
from explain.attribution.perturbation.features import SPREAD, UNITS, Features, features_of
from explain.attribution.perturbation.presence import HIDING, presence_of, require_rest
from explain.attribution.perturbation.regression import Fit, each_row, lasso_fit, ridge_fit
from explain.attribution.perturbation.settings import check_at_least, check_choice, enough
from explain.attribution.registry import Method, Scores, Work
from explain.options import choice
from explain.results import Generation

REGRESSIONS = ("ridge", "lasso")


@dataclass(frozen=True, slots=True)
class LimeSettings:
    """A linear model fitted to `samples` versions of the input with random tokens hidden.

    As in the original for text, every number of hidden tokens is equally likely, and a version weighs
    √exp(−d²/kernel_width²), d being the cosine distance of what is there to the whole input (the original's
    kernel width of 25 is in per cent). `regression` is `ridge` (the original) or `lasso` (Captum), `alpha`
    its regularisation, relative to the mean squared error. `samples` None is 8 for each unit, at least 128;
    the input itself is one of them. `by` says how a token is hidden, `unit` what is hidden as one (a `token`,
    a `word`, a `sentence`; its weight is divided evenly among its tokens). Special tokens are always there.
    At most `rows` versions go through the model at once.
    """

    samples: int | None = None
    regression: str = choice("ridge", REGRESSIONS)
    alpha: float = 0.001
    kernel_width: float = 0.25
    by: str = choice("attention", HIDING)
    unit: str = choice("token", UNITS)
    seed: int = 0
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("regression", self.regression, REGRESSIONS)
        check_choice("by", self.by, HIDING)
        check_choice("unit", self.unit, UNITS)
        check_at_least(1, rows=self.rows)
        check_at_least(2, samples=self.samples)
        check_at_least(0, alpha=self.alpha)
        if not self.kernel_width > 0:
            raise ValueError(f"kernel_width={self.kernel_width} must be above 0")
        if self.regression == "lasso" and not self.alpha > 0:
            raise ValueError("the lasso needs an alpha above 0")


@dataclass(frozen=True, slots=True)
class ContextCiteSettings:
    """A sparse linear model (LASSO) fitted to `samples` versions where each unit is there with chance `keep`.

    `unit` is what is hidden as one: a `token`, a `word`, a `sentence`, or `auto`, sentences (the paper's)
    where the source has several and else words; its weight is divided evenly among its tokens. `alpha` is the
    LASSO's, on standardised units. The paper explains the log-odds of a whole answer; here it is the
    objective that was asked, of every row, and earlier parts of the output are units, too. `by` says how a
    unit is hidden. Special tokens are always there. At most `rows` versions go through the model at once.
    """

    samples: int = 256
    keep: float = 0.5
    alpha: float = 0.01
    by: str = choice("attention", HIDING)
    unit: str = choice("auto", ("auto", *UNITS))
    seed: int = 0
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("by", self.by, HIDING)
        check_choice("unit", self.unit, ("auto", *UNITS))
        check_at_least(1, rows=self.rows)
        check_at_least(2, samples=self.samples)
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} must be above 0")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep={self.keep} must be between 0 and 1")


def closeness(width: float) -> Callable[[Tensor], Tensor]:
    """LIME's kernel [n] of versions [n, features]: by their cosine distance to the whole input."""

    def weights(present: Tensor) -> Tensor:
        distance = 1 - present.mean(1).sqrt()
        return torch.exp(-(distance**2) / width**2).sqrt()

    return weights


def _lime(work: Work, settings: LimeSettings) -> list[Scores]:
    weights = closeness(settings.kernel_width)
    fit = (ridge_fit if settings.regression == "ridge" else lasso_fit)(settings.alpha, weights)

    def draw(features: int, dice: torch.Generator) -> Tensor:
        # The whole input is one of the samples.
        return biased_coins(enough(settings.samples, features) - 1, features, dice)

    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        features = features_of(generation, settings.unit)
        results.append(_fitted(work, settings, generation, question, features, draw, lambda _: fit, True))
        work.done(1)
    return results


def _contextcite(work: Work, settings: ContextCiteSettings) -> list[Scores]:
    def draw(features: int, dice: torch.Generator) -> Tensor:
        return coins(settings.samples, features, settings.keep, dice)

    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        unit, spans = settings.unit, question.spans
        features = features_of(generation, "sentence" if unit == "auto" else unit)
        if unit == "auto":
            several = int(features.source.any(1).sum()) > 1
            unit = "sentence" if several else "word"
            features = features if several else features_of(generation, unit)

        def fit(row: int, spans: tuple[tuple[int, int], ...] = spans) -> Fit:
            # The paper's alpha is for the mean over the tokens that are explained together.
            return lasso_fit(settings.alpha * (spans[row][1] - spans[row][0]), standardised=True)

        results.append(_fitted(work, settings, generation, question, features, draw, fit, False, unit=unit))
        work.done(1)
    return results


def _fitted(
    work: Work,
    settings: LimeSettings | ContextCiteSettings,
    generation: Generation,
    question: Question,
    features: Features,
    draw: Callable[[int, torch.Generator], Tensor],
    fit: Callable[[int], Fit],
    with_whole: bool,
    **chosen: Any,
) -> Scores:
    work.check()
    presence = presence_of(work, generation, question, features, settings.by, settings.rows)
    drawn = draw(len(features), torch.Generator().manual_seed(settings.seed))
    present = torch.cat([torch.ones(1, len(features), dtype=torch.bool), drawn])
    require_rest(features, present, settings.by)
    values = presence.values(present)
    first = 0 if with_whole else 1  # the whole input gives the objective's value; it need not be a sample
    found = each_row(present[first:], values[first:], features.relevant(question.spans), fit)
    source, prefix, start = (part.float() for part in features.spread(found, question))
    used = {**chosen, "samples": len(present) - first, "features": len(features)}
    if chosen.get("unit", settings.unit) != "token":
        used["spread"] = SPREAD
    return Scores(source, prefix, start, used=used).with_values(question, values[0])


METHODS = (
    Method(
        name="lime",
        label="LIME",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Ribeiro et al. 2016, arXiv:1602.04938",
        reads="The token's weight in a linear model of the objective near the input; below 0: against; 0: "
        "whether it is there makes no difference to that model, or it is special and was kept.",
        settings=LimeSettings,
        run=_lime,
    ),
    Method(
        name="contextcite",
        label="ContextCite",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Cohen-Wang et al. 2024, arXiv:2409.00729",
        reads="An even part of its sentence's or word's weight in a sparse linear model of the objective; "
        "below 0: against; 0: that model does without it, or the token is special and was kept.",
        settings=ContextCiteSettings,
        run=_contextcite,
    ),
)
