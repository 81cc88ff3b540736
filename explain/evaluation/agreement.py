"""How alike two maps of the same tokens are, row by row: the same winner, the same top few, the same order.

A row's candidates are all source tokens and the target tokens before it, never the decoder start.
Magnitudes |score| decide: a strong influence against a token is as strong as one for it. A score of 0 is no
influence, so it is never among the top; neither are tokens that tie for the last place there, because a tie
ranks nothing. A map that says the same of all tokens has therefore no top at all, and agrees with nothing.
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
        top1: float [target], 1 where both name the same strongest token, else 0; nan where neither names one.
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
    """What a random ranking is expected to reach in each row; undefined as in `Agreement`.

    Attributes:
        top1: float [target], one over the number of candidates.
        topk_jaccard: float [target], exact, from the hypergeometric distribution of the overlap.
    """

    top1: Tensor
    topk_jaccard: Tensor


def agreement(a: Attribution, b: Attribution, k: int = 5) -> Agreement:
    """How alike two maps of the same tokens are.

    Raises:
        InputError: the maps are of other tokens, or k is below 1.
    """
    return Agreement(top1(a, b), topk_jaccard(a, b, k), weighted_tau(a, b))


def top1(a: Attribution, b: Attribution) -> Tensor:
    """Whether both maps name the same strongest token, [target]; see `Agreement`.

    Raises:
        InputError: the maps are of other tokens.
    """
    return topk_jaccard(a, b, 1)


def topk_jaccard(a: Attribution, b: Attribution, k: int = 5) -> Tensor:
    """Tokens that are among the k strongest of both maps, over those of either, [target]; see `Agreement`.

    Raises:
        InputError: the maps are of other tokens, or k is below 1.
    """
    _require_same_tokens(a, b)
    mine, theirs = _top(a, k), _top(b, k)  # [target, candidates]
    overlap = (mine & theirs).sum(1) / (mine | theirs).sum(1)  # 0 / 0 is nan: neither has a top
    return torch.where(defined_rows(a, k) & defined_rows(b, k), overlap, torch.nan)


def weighted_tau(a: Attribution, b: Attribution) -> Tensor:
    """Kendall's τ of the two orders with hyperbolic weights, [target]; see `Agreement`.

    A third of a millisecond per row, a hundred times what the others take.

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


def chance(a: Attribution, k: int = 5) -> Chance:
    """What a random ranking of every row's candidates would agree with this map, without ties or zeros.

    Raises:
        InputError: k is below 1.
    """
    return Chance(*(_expected_jaccard(a, size) for size in (1, k)))


def same_tokens(one: Sequence[Token], other: Sequence[Token]) -> bool:
    """Whether both are the same text in the same places; ids may differ, as between two vocabularies."""
    return [_place(token) for token in one] == [_place(token) for token in other]


def defined_rows(a: Attribution, k: int = 0) -> Tensor:
    """Rows, bool [target], asked for, of a word, finite, and with more than k candidates to choose from."""
    rows = len(a.target_tokens)
    known = torch.tensor([not token.special for token in a.target_tokens], dtype=torch.bool)
    known &= torch.arange(rows) + len(a.source_tokens) > k
    known &= a.source.isfinite().all(1) & a.prefix.isfinite().all(1)
    positions = a.config.get("positions")
    if positions is not None and a.level == "token":
        # The other rows are zeros that nobody computed.
        asked = torch.zeros(rows, dtype=torch.bool)
        asked[[start for start, _ in positions]] = True
        known &= asked
    return known


def _expected_jaccard(a: Attribution, k: int) -> Tensor:
    tops, defined = _top(a, k).sum(1).tolist(), defined_rows(a, k).tolist()
    source = len(a.source_tokens)
    return torch.tensor(
        [
            _jaccard_of_subsets(source + row, top, k) if known else math.nan
            for row, (top, known) in enumerate(zip(tops, defined, strict=True))
        ]
    )


@functools.cache
def _jaccard_of_subsets(n: int, m: int, k: int) -> float:
    """Expected Jaccard index of an m-subset and a random k-subset of n."""
    overlaps = range(max(0, m + k - n), min(m, k) + 1)
    return sum(math.comb(m, i) * math.comb(n - m, k - i) * i / (m + k - i) for i in overlaps) / math.comb(
        n, k
    )


def _strength(a: Attribution) -> Tensor:
    """Magnitudes [target, source + target]; what is no candidate of its row is below 0."""
    absent = torch.ones(len(a.prefix), len(a.prefix), dtype=torch.bool).triu()
    return torch.cat([a.source.abs(), a.prefix.abs().masked_fill(absent, -1)], dim=1).double()


def _top(a: Attribution, k: int) -> Tensor:
    """The k strongest candidates of every row, bool [target, source + target]; fewer for zeros and ties."""
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1")
    strength = _strength(a).nan_to_num(0.0)
    if not strength.numel():
        return strength.bool()
    # Strictly above the next one, which leaves out what ties with it.
    following = strength.topk(min(k + 1, strength.shape[1]), dim=1).values[:, -1:]
    return strength > following.clamp_min(0)


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
