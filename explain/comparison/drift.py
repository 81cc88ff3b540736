"""How far the maps of one method move from one model to another, on the same target tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from explain.attribution import SourceShare
from explain.comparison.figures import Drift, ShareChange
from explain.comparison.samples import Sample
from explain.evaluation.agreement import agreement, chance
from explain.evaluation.gold import rows_of
from explain.evaluation.known import Case, RowGold
from explain.results import Attribution, Generation


@dataclass(frozen=True, eq=False)
class DriftRows:
    """The numbers of one pair of models behind a `Drift`; the first five have one for every target token."""

    top1: Sample
    topk_jaccard: Sample
    weighted_tau: Sample
    chance_top1: Sample
    chance_topk: Sample
    p_at_1_a: Sample
    p_at_1_b: Sample
    p_at_1_change: Sample


def drift_rows(
    maps_a: Sequence[Attribution],
    maps_b: Sequence[Attribution],
    cases: Sequence[Case] | None,
    *,
    k: int = 5,
    seed: int = 0,
) -> DriftRows:
    """Compare two models' maps of the same outputs; see `explain.evaluation.agreement` for what counts.

    Args:
        maps_a: of the first model, between tokens.
        maps_b: of the second, in the same order.
        cases: the known answers that both models bear out, see `shared_gold`; None where there are none.
        k: how many strongest tokens `topk_jaccard` compares.
        seed: of the order of ties.
    """
    both = [agreement(a, b, k) for a, b in zip(maps_a, maps_b, strict=True)]
    by_chance = [chance(a, k) for a in maps_a]
    right_a, right_b = ([] if cases is None else rows_of(cases, maps, seed=seed) for maps in (maps_a, maps_b))
    examples = torch.tensor([row.example for row in right_a], dtype=torch.long).numpy()
    first, second = (
        torch.tensor([row.precision_at_1 for row in rows], dtype=torch.float64).numpy()
        for rows in (right_a, right_b)
    )
    return DriftRows(
        top1=Sample.of([each.top1 for each in both]),
        topk_jaccard=Sample.of([each.topk_jaccard for each in both]),
        weighted_tau=Sample.of([each.weighted_tau for each in both]),
        chance_top1=Sample.of([each.top1 for each in by_chance]),
        chance_topk=Sample.of([each.topk_jaccard for each in by_chance]),
        p_at_1_a=Sample(first, examples),
        p_at_1_b=Sample(second, examples),
        p_at_1_change=Sample(second - first, examples),
    )


def drift(pairs: Sequence[DriftRows], seed: int = 0) -> Drift:
    """The figures of one pair, or of several pooled."""
    return Drift(
        **{
            each.name: Sample.joined(getattr(pair, each.name) for pair in pairs).estimate(seed)
            for each in fields(DriftRows)
        }
    )


def shared_gold(a: Sequence[Case], b: Sequence[Case]) -> list[Case]:
    """The known answers that two models both bear out, word for word, of the same forced outputs.

    What an output token needs is verified on each model by itself. A token that one of them reads off
    something else has no answer that would be fair to both, and is left out.
    """
    return [
        Case(one.generation, tuple(_shared(*rows) for rows in zip(one.rows, other.rows, strict=True)))
        for one, other in zip(a, b, strict=True)
    ]


def _shared(one: RowGold | None, other: RowGold | None) -> RowGold | None:
    if one is None or other is None or set(one.groups) != set(other.groups):
        return None
    return RowGold(one.groups, one.neutral | other.neutral)


@dataclass(frozen=True, eq=False)
class ShareRows:
    """The numbers of one pair of models behind a `ShareChange`, a row for every target token."""

    a: Sample
    b: Sample
    change: Sample
    moved: Sample


def share_rows(
    generations: Sequence[Generation], a: Sequence[SourceShare], b: Sequence[SourceShare]
) -> ShareRows:
    """Compare two models' source shares of the same outputs."""
    first, second = (
        [_plain_share(item, share) for item, share in zip(generations, shares, strict=True)]
        for shares in (a, b)
    )
    changes = [y - x for x, y in zip(first, second, strict=True)]
    return ShareRows(
        Sample.of(first), Sample.of(second), Sample.of(changes), Sample.of([each.abs() for each in changes])
    )


def share_change(pairs: Sequence[ShareRows], seed: int = 0) -> ShareChange:
    """The figures of one pair, or of several pooled."""
    return ShareChange(
        **{
            each.name: Sample.joined(getattr(pair, each.name) for pair in pairs).estimate(seed)
            for each in fields(ShareRows)
        }
    )


def _plain_share(generation: Generation, share: SourceShare) -> Tensor:
    """The share [target] within 0 and 1; nan for special tokens and for the first, which has no prefix."""
    aside = torch.tensor([t == 0 or token.special for t, token in enumerate(generation.target_tokens)])
    return share.share.clamp(0, 1).masked_fill(aside, torch.nan)
