"""Which features are there: one set of versions of an input that serves every row of its explanation.

A row may only be explained by features that can influence it: the source, and the prefix before it. The
distributions here are such that what a draw says about those features alone is distributed as if it had been
drawn for them alone, so that the same forward rows are right for every row:

- independent coins, and coins with a bias that is drawn once for each version, obviously so;
- random orders, too: leaving some out of a uniform order leaves a uniform order of the rest;
- and the Shapley kernel. π_n(S) ∝ (k−1)! (n−k−1)! for k = |S| is ∫ p^k (1−p)^(n−k) dp / (p (1−p)), coins
  of one bias p; hence π_{n+1}(S) + π_{n+1}(S ∪ {j}) ∝ π_n(S) wherever 0 < k < n. Versions that hide all, or
  none, of a row's features tell nothing about it and have no effect on it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coins(count: int, features: int, chance: float, dice: torch.Generator) -> Tensor:
    """Versions [count, features] where every feature is there with the same chance."""
    return torch.rand(count, features, generator=dice) < chance


def biased_coins(count: int, features: int, dice: torch.Generator) -> Tensor:
    """Versions [count, features] where every number of features is there equally often."""
    chance = torch.rand(count, 1, generator=dice)
    return torch.rand(count, features, generator=dice) < chance


def orders(count: int, features: int, dice: torch.Generator) -> Tensor:
    """Orders [count, features] of the features, every second one the reverse of the one before it.

    An order and its reverse are each uniform, and their errors tend to cancel (Mitchell et al. 2022).
    """
    drawn = torch.rand(-(-count // 2), features, generator=dice).argsort(dim=1)
    return torch.stack([drawn, drawn.flip(1)], dim=1).flatten(0, 1)[:count]


def kernel_draws(count: int, features: int, dice: torch.Generator) -> Tensor:
    """Versions [count, features] drawn from the Shapley kernel, every second the complement of the last.

    Pairs cancel what is odd in their errors (Covert & Lee 2021). Needs at least two features.
    """
    sizes = torch.arange(1, features)
    pairs = -(-count // 2)
    size = 1 + torch.multinomial(1 / (sizes * (features - sizes)), pairs, replacement=True, generator=dice)
    rank = torch.rand(pairs, features, generator=dice).argsort(dim=1).argsort(dim=1)
    drawn = rank < size[:, None]
    return torch.stack([drawn, ~drawn], dim=1).flatten(0, 1)[:count]


def all_coalitions(features: int) -> Tensor:
    """Every version [2^features, features]: none of the features first, all of them last."""
    return (torch.arange(2**features)[:, None] >> torch.arange(features)[None, :]) % 2 == 1


def kernel_weights(present: Tensor) -> Tensor:
    """The Shapley kernel [n] of versions [n, features], up to a factor; 0 where all or none are there."""
    count = present.shape[1]
    size = present.sum(1).double()
    inside = (size > 0) & (size < count)
    size = torch.where(inside, size, 1.0)
    return torch.where(inside, torch.exp(torch.lgamma(size) + torch.lgamma(count - size)), 0.0)
