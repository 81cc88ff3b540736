"""Consensus: an influence counts as far as several witnesses agree on it.

Hiding a token says what the model *does* without it, but every way of hiding breaks something else as well:
where attention is free to react, the token's place in the structure goes with it ("24" without its 4 leaves a
2 in the place of the ones); where attention is held, a neighbour that stored what the token said still tells.
Relevance says what the computation at hand *used*, but not what would have happened without. Each errs in
places of its own, so what they agree on is right more often than any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from explain.attribution.inputs import BASELINES, stand_in
from explain.attribution.internals.relevance import RelevanceSettings, attn_lrp
from explain.attribution.internals.states import normalised
from explain.attribution.perturbation.features import features_of
from explain.attribution.perturbation.occlusion import leave_one_out
from explain.attribution.perturbation.presence import ATTENTION, presence_of
from explain.attribution.perturbation.settings import check_at_least, check_choice
from explain.attribution.registry import Method, Scores, Work
from explain.options import choice

AUTO = "auto"
_RULES = RelevanceSettings()


@dataclass(frozen=True, slots=True)
class ConsensusSettings:
    """What hides a token, and how much weight each witness has.

    `by` replaces the token's embedding: `auto` is the mask token, or padding in models without one. `floor`,
    in the objective's units, is what every token is taken to change at least: below it changes are rounding,
    and relevance alone ranks. `relevance` is the power of the share of relevance; 0 does without, and then
    the objective needs no gradient. Special tokens are always there: they are the same in every text and say
    nothing of their own. At most `rows` hidden versions go through the model at once.
    """

    by: str = choice(AUTO, (AUTO, *BASELINES))
    floor: float = 1e-4
    relevance: float = 1.0
    rows: int = 64

    def __post_init__(self) -> None:
        check_choice("by", self.by, (AUTO, *BASELINES))
        check_at_least(0, floor=self.floor, relevance=self.relevance)
        check_at_least(1, rows=self.rows)


def _consensus(work: Work, settings: ConsensusSettings) -> list[Scores]:
    by = stand_in(work.model) if settings.by == AUTO else settings.by
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        features = features_of(generation, "token")
        free, held = (
            leave_one_out(presence_of(work, generation, question, features, by, settings.rows, attention))
            for attention in ATTENTION
        )
        # Side by side, so that shares are of both together: [rows, source + target].
        scores = agreed(torch.stack([_joined(free), _joined(held)]), settings.floor)
        if settings.relevance:
            flow = attn_lrp(
                replace(work, generations=[generation], questions=[question], done=_nothing), _RULES
            )
            text = features.spread(features.relevant(question.spans).float(), question)
            share = normalised(_joined(flow[0]).abs() * torch.cat(text[:2], dim=1))
            scores = (scores + settings.floor) * share**settings.relevance
        source, prefix = scores.split([free.source.shape[1], free.prefix.shape[1]], dim=1)
        results.append(replace(free, source=source, prefix=prefix, used={"by": by}))
        work.done(1)
    return results


def agreed(changes: Tensor, floor: float) -> Tensor:
    """What several measurements of the same changes agree on: [measurement, ...] -> [...].

    The geometric mean of what they find for the token, less that of what they find against it:

        Π_k (max(0, x_k) + floor)^(1/n) − Π_k (max(0, −x_k) + floor)^(1/n)

    One measurement that finds nothing leaves little of what another finds, and where their signs differ
    little is left of either.
    """

    def mean(values: Tensor) -> Tensor:
        return (values.clamp_min(0) + floor).log().mean(0).exp()

    return mean(changes) - mean(-changes)


def _joined(scores: Scores) -> Tensor:
    return torch.cat([scores.source, scores.prefix], dim=1)


def _nothing(count: int) -> None:
    """A generation counts as done when all its witnesses have been heard."""


METHODS = (
    Method(
        name="consensus",
        label="Consensus",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Li et al. 2016, arXiv:1612.08220 (erasure); "
        "Achtibat et al. 2024, arXiv:2402.05602 (relevance)",
        reads="What the objective loses without the token, as far as hiding it with attention free to react "
        "and with attention held agree, scaled by the share of the model's relevance that flows to it; below "
        "0: against; 0: one of the three finds nothing, or the token is special.",
        settings=ConsensusSettings,
        run=_consensus,
    ),
)
