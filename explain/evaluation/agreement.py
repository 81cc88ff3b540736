"""How alike two maps of the same tokens are, row by row: the same winner, the same top few, the same order.

A row's candidates are all source tokens and the target tokens before it, never the decoder start.
Magnitudes |score| decide: a strong influence against a token is as strong as one for it.

The top k of a row are its k strongest candidates. A score of 0 is no influence and never among them; those
that tie for the last places share them (two tokens that tie for the first place are each half of a winner, as
where a method scores a sentence as one). A row of zeros has no top, and neither has one that scores all
candidates alike: it ranks nothing, and so agrees with nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import weightedtau
from torch import Tensor

from explain.errors import InputError
from explain.results import Attribution, Token


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike two maps are in each row; 1 is the same, nan is undefined.

    Undefined is a row of a special target token, one that either map was not asked for or where it is not
    finite, and one with too few candidates to choose from.

    Attributes:
        top1: float [target], 1 where both name the same strongest token, else 0 (between them for ties); nan
            where neither names one.
        topk_jaccard: float [target], tokens in both top k over tokens in either, 0 to 1; nan where neither
            has a top, or where there are k candidates or fewer.
        weighted_tau: float [target], agreement of the order, -1 (reversed) to 1, where exchanges among strong
            tokens weigh more; nan where either map is the same everywhere. About 0 for unrelated maps.
    """

    top1: Tensor
    topk_jaccard: Tensor
    weighted_tau: Tensor


@dataclass(frozen=True, eq=False)
class Chance:
    """What a map is expected to agree with random scores, exactly; undefined as in `Agreement`.

    Attributes:
        top1: float [target], one over the number of candidates where the map has one winner.
        topk_jaccard: float [target], from the hypergeometric distribution of the overlap.
    """

    top1: Tensor
    topk_jaccard: Tensor


def agreement(a: Attribution, b: Attribution, k: int = 5) -> Agreement:
    """How alike two maps of the same tokens are.

    Raises:
        InputError: the maps are of other tokens, or k is below 1.
    """
    return Agreement(top1(a, b), topk_jaccard(a, b, k), weighted_tau(a, b))


def top1(a: Attribution, b: Attribution, *, skip: int = 0) -> Tensor:
    """Whether both maps name the same strongest token, [target]; see `Agreement`.

    `skip` leaves out that many of the target tokens right before the row's own.

    Raises:
        InputError: the maps are of other tokens.
    """
    return topk_jaccard(a, b, 1, skip=skip)


def topk_jaccard(a: Attribution, b: Attribution, k: int = 5, *, skip: int = 0) -> Tensor:
    """Tokens that are among the k strongest of both maps, over those of either, [target]; see `Agreement`.

    `skip` leaves out that many of the target tokens right before the row's own.

    Raises:
        InputError: the maps are of other tokens, or k is below 1.
    """
    _require_same_tokens(a, b)
    mine, theirs = membership(a, k, skip=skip), membership(b, k, skip=skip)  # [target, candidates]
    # Of shares, the Jaccard index is Ruzicka's; 0 / 0 is nan: neither has a top.
    overlap = torch.minimum(mine, theirs).sum(1) / torch.maximum(mine, theirs).sum(1)
    both = defined_rows(a, k, skip=skip) & defined_rows(b, k, skip=skip)
    return torch.where(both, overlap, torch.nan)


def weighted_tau(a: Attribution, b: Attribution) -> Tensor:
    """Kendall's τ of the two orders with hyperbolic weights, [target]; see `Agreement`.

    About a sixth of a millisecond per row, 25 times what the others take.

    Raises:
        InputError: the maps are of other tokens.

    Paper: Vigna 2015, "A weighted correlation index for rankings with ties".
    """
    _require_same_tokens(a, b)
    mine, theirs = _strength(a).numpy(), _strength(b).numpy()
    found = np.full(len(mine), np.nan)
    for row in (defined_rows(a, 1) & defined_rows(b, 1)).nonzero()[:, 0].tolist():
        size = len(a.source_tokens) + row
        found[row], _ = weightedtau(mine[row, :size], theirs[row, :size])
    return torch.from_numpy(found).float()


def chance(a: Attribution, k: int = 5, *, skip: int = 0) -> Chance:
    """What random scores of every row's candidates, without ties or zeros, would agree with this map.

    Raises:
        InputError: k is below 1.
    """
    return Chance(*(_expected_jaccard(a, size, skip) for size in (1, k)))


def side_chance(a: Attribution, b: Attribution, *, skip: int = 0) -> Tensor:
    """The top-1 agreement, [target], of two maps that share nothing but the side they point to.

    Where both point to the prefix, a token early in the output has few candidates there: two maps that lean
    to what is near agree more often than one over all candidates, whatever they know.

    Raises:
        InputError: the maps are of other tokens.
    """
    _require_same_tokens(a, b)
    source, rows = len(a.source_tokens), torch.arange(len(a.target_tokens))
    mine, theirs = membership(a, 1, skip=skip), membership(b, 1, skip=skip)
    by_source = mine[:, :source].sum(1) * theirs[:, :source].sum(1) / source
    by_prefix = mine[:, source:].sum(1) * theirs[:, source:].sum(1) / (rows - skip).clamp_min(1)
    both = defined_rows(a, 1, skip=skip) & defined_rows(b, 1, skip=skip)
    return torch.where(both, by_source + by_prefix, torch.nan)


def membership(a: Attribution, k: int, *, skip: int = 0) -> Tensor:
    """How far each candidate is among the k strongest of its row, float [target, source + target], 0 to 1.

    Raises:
        InputError: k is below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1")
    strength = _strength(a, skip).nan_to_num(0.0)
    if not strength.numel():
        return torch.zeros(strength.shape)
    last = strength.topk(min(k, strength.shape[1]), dim=1).values[:, -1:]  # [target, 1]
    above = (strength > last.clamp_min(0)).float()
    tied = ((strength == last) & (strength > 0)).float()
    shares = above + tied * (k - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True).clamp_min(1)
    alike = (strength == strength.amax(1, keepdim=True)) | (strength < 0)
    return shares.masked_fill(alike.all(1, keepdim=True), 0.0)


def defined_rows(a: Attribution, k: int = 0, *, skip: int = 0) -> Tensor:
    """Rows, bool [target], asked for, of a word, finite, and with more than k candidates to choose from."""
    rows = len(a.target_tokens)
    known = torch.tensor([not token.special for token in a.target_tokens], dtype=torch.bool)
    known &= torch.tensor([_candidates(a, row, skip) > k for row in range(rows)], dtype=torch.bool)
    known &= a.source.isfinite().all(1) & a.prefix.isfinite().all(1)
    positions = a.config.get("positions")
    if positions is not None and a.level == "token":
        # The other rows are zeros that nobody computed.
        asked = torch.zeros(rows, dtype=torch.bool)
        asked[[start for start, _ in positions]] = True
        known &= asked
    return known


def same_tokens(one: Sequence[Token], other: Sequence[Token]) -> bool:
    """Whether both are the same text in the same places; ids may differ, as between two vocabularies."""
    return [_place(token) for token in one] == [_place(token) for token in other]


def _candidates(a: Attribution, row: int, skip: int) -> int:
    return len(a.source_tokens) + max(row - skip, 0)


def _strength(a: Attribution, skip: int = 0) -> Tensor:
    """Magnitudes [target, source + target]; what is no candidate of its row is below 0."""
    absent = torch.ones(len(a.prefix), len(a.prefix), dtype=torch.bool).triu(-skip)
    return torch.cat([a.source.abs(), a.prefix.abs().masked_fill(absent, -1)], dim=1).double()


def _expected_jaccard(a: Attribution, k: int, skip: int) -> Tensor:
    shares, defined = membership(a, k, skip=skip), defined_rows(a, k, skip=skip).tolist()
    sure = (shares == 1).sum(1).tolist()
    tied = ((shares > 0) & (shares < 1)).sum(1).tolist()
    expected = [
        _jaccard_with_random(_candidates(a, row, skip), sure[row], tied[row], k) if known else math.nan
        for row, known in enumerate(defined)
    ]
    return torch.tensor(expected)


@functools.cache
def _jaccard_with_random(n: int, sure: int, tied: int, k: int) -> float:
    """Expected Jaccard index of a top k, of which `tied` candidates share the last places, and any k of n."""
    share = (k - sure) / tied if tied else 0.0
    total = 0.0
    for i in range(min(sure, k) + 1):
        for j in range(min(tied, k - i) + 1):
            ways = math.comb(sure, i) * math.comb(tied, j) * math.comb(n - sure - tied, k - i - j)
            total += ways * (i + share * j) / (k + sure - i + share * (tied - j))
    return total / math.comb(n, k)


def _require_same_tokens(a: Attribution, b: Attribution) -> None:
    for side in ("source", "target"):
        mine, theirs = getattr(a, f"{side}_tokens"), getattr(b, f"{side}_tokens")
        if not same_tokens(mine, theirs):
            raise InputError(
                f"only maps of the same tokens can be compared; these differ in the {side}: "
                f"{_shown(mine)} and {_shown(theirs)}"
            )


def _place(token: Token) -> tuple[str, int, int, bool]:
    return token.text, token.start, token.end, token.special


def _shown(tokens: Sequence[Token]) -> str:
    first = " ".join(token.text for token in tokens[:4])
    return f"{first!r}{' …' if len(tokens) > 4 else ''} ({len(tokens)} tokens)"
