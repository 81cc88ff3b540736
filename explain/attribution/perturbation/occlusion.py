"""Leave one out: what the objective loses when one token, word, sentence or window is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from explain.attribution.inputs import BASELINES
from explain.attribution.perturbation.features import SPREAD, UNITS, features_of, windows_of
from explain.attribution.perturbation.presence import (
    ATTENTION,
    HIDING,
    Presence,
    presence_of,
    require_rest,
)
from explain.attribution.perturbation.settings import check_at_least, check_choice
from explain.attribution.registry import Method, Scores, Work
from explain.options import choice


@dataclass(frozen=True, slots=True)
class OcclusionSettings:
    """`by` says how a token is hidden: from attention, replaced by a baseline's embedding, or deleted.

    `unit` is what is hidden as one: a `token`, a `word`, a `sentence`, or a `span` of `window` tokens that
    slides along; a `window` of 2 or more says so by itself, and is shorter where the text is. What a word or
    sentence is worth is divided evenly among its tokens, so that sums stay right; of windows that overlap, a
    token gets the mean, as in Captum. Special tokens are hidden, too; the decoder start is not. At most
    `rows` hidden versions go through the model at once.

    `attention` is `free` to look elsewhere when something is hidden, or `held` where it looks when nothing
    is: then what the token says is taken away, and its place in the structure of the text is not. That needs
    a baseline in its place.
    """

    by: str = choice("attention", HIDING)
    attention: str = choice("free", ATTENTION)
    unit: str = choice("token", (*UNITS, "span"))
    window: int = 1
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("by", self.by, HIDING)
        check_choice("attention", self.attention, ATTENTION)
        check_choice("unit", self.unit, (*UNITS, "span"))
        check_at_least(1, window=self.window, rows=self.rows)
        if self.window > 1 and self.unit in ("word", "sentence"):
            raise ValueError(f"window={self.window} counts tokens; it does not go with unit={self.unit!r}")
        if self.attention == "held" and self.by not in BASELINES:
            raise ValueError(f"attention='held' needs a baseline in the token's place, not by={self.by!r}")
        if self.window < 2 and self.unit == "span":
            raise ValueError(f"unit='span' needs a window of at least 2 tokens, not window={self.window}")


@dataclass(frozen=True, slots=True)
class FeatureAblationSettings:
    """`baseline` stands for "no token"; `unit` is replaced as one: a `token`, a `word` or a `sentence`.

    What a unit is worth is divided evenly among its tokens. Special tokens stay as they are, as they do for
    gradient methods with a baseline. At most `rows` versions go through the model at once.
    """

    baseline: str = choice("pad", BASELINES)
    unit: str = choice("token", UNITS)
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("baseline", self.baseline, BASELINES)
        check_choice("unit", self.unit, UNITS)
        check_at_least(1, rows=self.rows)


def _occlusion(work: Work, settings: OcclusionSettings) -> list[Scores]:
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        used: dict[str, Any] = {}
        if settings.window > 1:
            features, widths = windows_of(generation, settings.window)
            used = {"unit": "span", **widths}
        else:
            features = features_of(generation, settings.unit, special=True)
            used = {} if settings.unit == "token" else {"spread": SPREAD}
        hidden = presence_of(
            work, generation, question, features, settings.by, settings.rows, settings.attention
        )
        results.append(leave_one_out(hidden, used))
        work.done(1)
    return results


def _feature_ablation(work: Work, settings: FeatureAblationSettings) -> list[Scores]:
    results = []
    used = {} if settings.unit == "token" else {"spread": SPREAD}
    for generation, question in zip(work.generations, work.questions, strict=True):
        features = features_of(generation, settings.unit)
        hidden = presence_of(work, generation, question, features, settings.baseline, settings.rows)
        results.append(leave_one_out(hidden, used))
        work.done(1)
    return results


def leave_one_out(presence: Presence, used: Mapping[str, Any] | None = None) -> Scores:
    """What the objective loses when one feature alone is hidden."""
    presence.work.check()
    features, question = presence.features, presence.question
    # Nothing is spent on what comes after the last token that was asked about.
    left_out = features.relevant(question.spans).any(0).nonzero()[:, 0]
    present = torch.ones(len(left_out) + 1, len(features), dtype=torch.bool)
    present[torch.arange(len(left_out)), left_out] = False
    require_rest(features, present, presence.by)
    values = presence.values(present)
    scores = torch.zeros(len(question.spans), len(features))
    scores[:, left_out] = (values[-1] - values[:-1]).T
    return Scores(*features.spread(scores, question), used=used).with_values(question, values[-1])


METHODS = (
    Method(
        name="occlusion",
        label="Occlusion",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Zeiler & Fergus 2014, arXiv:1311.2901",
        reads="How much the objective falls when the token is hidden; below 0 it rises, so the token spoke "
        "against; 0 means the token alone was not needed. Tokens of a word or sentence share evenly.",
        settings=OcclusionSettings,
        run=_occlusion,
    ),
    Method(
        name="feature_ablation",
        label="Feature ablation",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Kokhlikyan et al. 2020, arXiv:2009.07896",
        reads="How much the objective falls when the token is replaced by the baseline; below 0 it rises, so "
        "the token spoke against; 0 means the token alone was not needed, or is special and was kept.",
        settings=FeatureAblationSettings,
        run=_feature_ablation,
    ),
)
