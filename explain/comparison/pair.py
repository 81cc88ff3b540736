"""One output of two models, or of one model under two conditions: which heads look elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.optimize import linear_sum_assignment
from torch import Tensor

from explain.comparison.inside import block_rows


@dataclass(frozen=True, slots=True)
class HeadShift:
    """How far a head looks elsewhere than its partner.

    Attributes:
        a: the attention block of A: `decoder.1.cross`.
        b: that of B.
        head: the head of A, from 0.
        partner: the head of B that it is compared with.
        bits: Jensen–Shannon divergence of their patterns, mean over queries: 0 the same, 1 nothing in common.
    """

    a: str
    b: str
    head: int
    partner: int
    bits: float


def head_shifts(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], blocks: Sequence[tuple[str, str]], *, same: bool
) -> list[HeadShift]:
    """The divergence of every head of A from its partner in B, over one output of the same tokens.

    Args:
        a: patterns [1, head, query, key] of A by hook point: `decoder.1.cross.pattern`.
        b: those of B.
        blocks: blocks of A, each with B's.
        same: both are one model, whose heads have the same numbers; else each head gets the partner, one to
            one, that makes the sum smallest: heads of two trainings have no common numbering.
    """
    found = []
    for mine, theirs in blocks:
        rows = block_rows(a[f"{mine}.pattern"], b[f"{theirs}.pattern"], mine).heads
        if same or rows.isnan().any():
            pairs = [(head, head) for head in range(min(rows.shape))]
        else:
            pairs = list(zip(*(ends.tolist() for ends in linear_sum_assignment(rows.numpy())), strict=True))
        found += [HeadShift(mine, theirs, h, p, float(rows[h, p])) for h, p in sorted(pairs)]
    return found
