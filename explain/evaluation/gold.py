"""Scores of maps against known answers: pointing game, R-precision, AUPRC, mass accuracy, alignment error."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from explain.evaluation.estimates import Estimate, estimate, ratio
from explain.evaluation.known import Case, RowGold
from explain.results import Attribution

METRICS = ("precision_at_1", "r_precision", "auprc", "mass", "aer")


@dataclass(frozen=True, slots=True)
class GoldScores:
    """How well a method's maps agree with known answers, over output tokens that need something.

    A method is ranked by what speaks *for* the token (its scores, not their magnitude), over the source and
    what of the prefix the gold names. Special tokens of the source take part, the decoder start does not.
    Other prefix tokens count neither way: beside facts, the prefix says how far the output has got, which
    models read off any of its tokens and no swap of a fact can take away. `rows_of(…, prefix="all")` counts
    them as wrong.

    Attributes:
        precision_at_1: share of tokens whose strongest influence is one that they need (the pointing game,
            Zhang et al. 2018); 1 is always.
        r_precision: of the groups that a token needs, the share that its R strongest influences cover, R
            being the fewest tokens that could cover them all. Influences that add nothing new, because what
            they stand for is covered, are passed over.
        auprc: average precision of the whole ranking, by the same rule (area under precision and recall).
        mass: Σ|score| on tokens of the gold over Σ|score| on all, per token, then averaged.
        aer: alignment error rate (Och & Ney 2003) of the strongest source token; 0 is best. Sure is the one
            source token of output tokens that need just it, possible is every source token of the gold.
    """

    precision_at_1: Estimate
    r_precision: Estimate
    auprc: Estimate
    mass: Estimate
    aer: Estimate

    def to_dict(self) -> dict[str, Any]:
        """The scores as a JSON object."""
        return {name: getattr(self, name).to_dict() for name in METRICS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GoldScores:
        """Read the scores back from their JSON object."""
        return cls(**{name: Estimate.from_dict(data[name]) for name in METRICS})


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one output token of one example; nan where a figure has no meaning."""

    example: int
    needed: int  # fewest tokens that cover all groups
    chance: float  # precision at 1 of a random ranking
    precision_at_1: float
    r_precision: float
    auprc: float
    mass: float
    linked: int = 0  # links predicted, and of them sure and possible ones; and sure links in the gold
    sure_found: int = 0
    possible_found: int = 0
    sure: int = 0


def score_row(
    example: int,
    source: np.ndarray,
    prefix: np.ndarray,
    gold: RowGold,
    dice: np.random.Generator,
    neutral: Collection[tuple[str, int]] = (),
) -> Row:
    """One output token's scores [source] and [step] against what it needs; `neutral` counts neither way."""
    if not len(prefix) and not len(source):
        return Row(example, 0, math.nan, math.nan, math.nan, math.nan, math.nan)
    places = [("source", i) for i in range(len(source))] + [("prefix", u) for u in range(len(prefix))]
    aside = np.array([place in gold.neutral or place in neutral for place in places])
    scores = np.where(aside, -np.inf, np.nan_to_num(np.concatenate([source, prefix]), nan=-np.inf))
    members = np.array([[place in group for place in places] for group in gold.groups])
    inside = members.sum(0) > 0
    size = np.where(np.isfinite(scores), np.abs(scores), 0.0)
    total = size.sum()
    top = np.flatnonzero(np.equal(scores, scores.max()))
    # Ties are broken at random: a stable order would favour whatever stands first.
    order = np.lexsort((dice.random(len(scores)), -scores))[: int((~aside).sum())]
    needed = fewest(gold.groups)
    r_precision, auprc = _coverage(members[:, order], needed)
    return Row(
        example,
        needed,
        float(inside[~aside].mean()),
        float(inside[top].mean()),
        r_precision,
        auprc,
        float(size[inside].sum() / total) if total > 0 else math.nan,
        *_link(source, gold),
    )


def _coverage(members: np.ndarray, needed: int) -> tuple[float, float]:
    """R-precision and average precision of members [groups, tokens in order of the ranking]."""
    covered = np.zeros(len(members), dtype=bool)
    counted, precision, at_needed = 0, 0.0, 0.0
    useful = 0
    for column in members.T:
        new = column & ~covered
        if column.any() and not new.any():
            continue  # says again what is covered: neither right nor wrong
        counted += 1
        if new.any():
            useful += 1
            precision += new.sum() * useful / counted
            covered |= new
        if counted == needed:
            at_needed = covered.mean()
        if covered.all():
            break
    if counted < needed:
        at_needed = covered.mean()
    return float(at_needed), float(precision / len(members))


def fewest(groups: Sequence[frozenset[tuple[str, int]]]) -> int:
    """The fewest tokens of which every group has one."""
    members = sorted(frozenset().union(*groups))
    for count in range(1, len(groups)):
        for chosen in combinations(members, count):
            if all(group.intersection(chosen) for group in groups):
                return count
    return len(groups)


def _link(source: np.ndarray, gold: RowGold) -> tuple[int, int, int, int]:
    """Links predicted, sure and possible ones among them, and sure links in the gold: 0 or 1 each."""
    possible = {i for side, i in gold.members if side == "source"}
    if not possible:
        return 0, 0, 0, 0
    sure = possible if len(gold.groups) == 1 and len(possible) == 1 == len(gold.members) else set()
    known = np.nan_to_num(source, nan=-np.inf)
    linked = bool(len(source)) and bool((known != known[0]).any() or len(source) == 1)
    best = int(known.argmax()) if linked else -1
    return int(linked), int(best in sure), int(best in possible), len(sure)


def rows_of(
    cases: Sequence[Case], attributions: Sequence[Attribution], *, prefix: str = "gold", seed: int = 0
) -> list[Row]:
    """Score every output token that needs something.

    Args:
        cases: outputs with their known answers.
        attributions: their maps, between tokens, in the same order.
        prefix: `gold` leaves prefix tokens aside that the gold does not name, `all` counts them as wrong.
        seed: of the order of ties.
    """
    found = []
    for number, (case, attribution) in enumerate(zip(cases, attributions, strict=True)):
        for step, gold in enumerate(case.rows):
            if gold is not None and gold.groups:
                aside = _unnamed(gold, step) if prefix == "gold" else ()
                found.append(_scored(number, attribution, step, gold, seed, aside))
    return found


def source_rows_of(cases: Sequence[Case], attributions: Sequence[Attribution], *, seed: int = 0) -> list[Row]:
    """The same on the source side alone: what of the source does each output token need?"""
    found = []
    for number, (case, attribution) in enumerate(zip(cases, attributions, strict=True)):
        source = attribution.source.double().numpy()
        for step, gold in enumerate(case.rows):
            side = None if gold is None else _source_side(gold)
            if side is not None:
                dice = np.random.default_rng([seed, number, step])
                found.append(score_row(number, source[step], np.zeros(0), side, dice))
    return found


def _source_side(gold: RowGold) -> RowGold | None:
    groups = tuple(frozenset(p for p in group if p[0] == "source") for group in gold.groups)
    groups = tuple(group for group in groups if group)
    return RowGold(groups, frozenset(p for p in gold.neutral if p[0] == "source")) if groups else None


def contrast_rows(cases: Sequence[Case], attributions: Sequence[Attribution], *, seed: int = 0) -> list[Row]:
    """Score the contrasted output tokens: which token decides between this word and its foil?"""
    found = []
    for number, (case, attribution) in enumerate(zip(cases, attributions, strict=True)):
        for contrast in case.contrasts:
            step, gold = contrast.step, contrast.gold
            found.append(_scored(number, attribution, step, gold, seed, _unnamed(gold, step)))
    return found


def _scored(
    number: int,
    attribution: Attribution,
    step: int,
    gold: RowGold,
    seed: int,
    aside: Collection[tuple[str, int]],
) -> Row:
    source, prefix = (
        attribution.source[step].double().numpy(),
        attribution.prefix[step, :step].double().numpy(),
    )
    return score_row(number, source, prefix, gold, np.random.default_rng([seed, number, step]), aside)


def _unnamed(gold: RowGold, step: int) -> frozenset[tuple[str, int]]:
    return frozenset(("prefix", u) for u in range(step)) - gold.members


def summary(rows: Iterable[Row], *, seed: int = 0) -> GoldScores:
    """The means over rows, with intervals over examples."""
    rows = list(rows)
    examples = [row.example for row in rows]

    def mean(name: str) -> Estimate:
        return estimate([getattr(row, name) for row in rows], examples, seed=seed)

    right = ratio(
        [row.sure_found + row.possible_found for row in rows],
        [row.linked + row.sure for row in rows],
        examples,
        seed=seed,
    )
    return GoldScores(
        mean("precision_at_1"),
        mean("r_precision"),
        mean("auprc"),
        mean("mass"),
        Estimate(1 - right.value, 1 - right.high, 1 - right.low, right.n),
    )


def multi_token(rows: Iterable[Row]) -> list[Row]:
    """The rows that need two tokens or more."""
    return [row for row in rows if row.needed > 1]


def template_share(cases: Sequence[Case], attributions: Sequence[Attribution], *, seed: int = 0) -> Estimate:
    """How strongly template text is attributed, against text that needs something; 0 is right.

    For each output Σ|score| of its mean template token over that of its mean token with a gold: template text
    should be attributed to nothing. Methods whose rows add up to 1 cannot say so, and stand at about 1.
    """
    found = []
    for case, attribution in zip(cases, attributions, strict=True):
        size = (attribution.source.abs().nansum(1) + attribution.prefix.abs().nansum(1)).tolist()
        template = [size[t] for t, gold in enumerate(case.rows) if gold is not None and not gold.groups]
        content = [size[t] for t, gold in enumerate(case.rows) if gold is not None and gold.groups]
        known = bool(template and content) and sum(content) > 0
        found.append(np.mean(template) / np.mean(content) if known else math.nan)
    return estimate(found, seed=seed)
