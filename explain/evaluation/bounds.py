"""The lowest and the highest that any order of tokens can reach: a beam search over nested sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sets = NDArray[np.bool_]
Numbers = NDArray[np.float64]

Value = Callable[[Sets], Numbers]
"""Sets [n, features] -> probabilities [n]."""

Orders = list[list[int]]
"""For each set the features that may be changed, the most promising first."""

# Probabilities that differ by less than this part of the one without or with everything count as the same.
_NEAR = 0.01


def bounds(value: Value, features: int, sizes: Sequence[int], beams: int) -> tuple[float, float]:
    """The lowest and the highest mean of `value` over nested sets of the given sizes that a search finds.

    An order of the features is a chain of such sets: the first k of the order, for every size k. Any chain
    lies between the two as long as the search has not missed a better one.

    Args:
        value: of sets of features.
        features: how many there are.
        sizes: of the sets, each at least 1 and at most `features`; a size given twice counts twice.
        beams: how many sets are followed at a time.
    """
    near = _NEAR * float(value(np.array([[False], [True]]).repeat(features, axis=1)).max())
    lowest = _Search(lambda sets: -value(sets), features, tuple(sizes), beams, ceiling=0.0, near=near)
    highest = _Search(value, features, tuple(sizes), beams, ceiling=1.0, near=near)
    return -lowest.best(), highest.best()


def normalised(mean: Numbers, lowest: float, highest: float) -> Numbers:
    """AOPC from 0 for the lowest that an order can reach to 1 for the highest (NAOPC; Edin et al. 2024).

    AOPC is p(x) minus the mean probability, so that it is lowest where the mean is highest. nan where all
    orders come to about the same.
    """
    range_ = highest - lowest
    return (highest - mean) / range_ if range_ > _NEAR * highest else np.full(mean.shape, np.nan)


@dataclass(frozen=True, eq=False)
class _Step:
    """Sets that lie one step further on their chains."""

    count: int  # of features changed
    sets: Sets  # [n, features]
    values: Numbers  # [n]
    parents: NDArray[np.int64]  # [n], the number of the set that each comes from
    orders: Orders  # of the parents


@dataclass(frozen=True, eq=False)
class _Search:
    """The search for the chain with the highest mean of `value`, which is never above `ceiling`."""

    value: Value
    features: int
    sizes: tuple[int, ...]
    beams: int
    ceiling: float
    near: float

    def best(self) -> float:
        """The highest mean, of chains that grow from nothing and of chains that shrink from everything.

        Growing finds what does most by itself. Where only several features together do anything, no first
        step shows which; shrinking does, as it throws away what is not missed.
        """
        grown = self._chain(growing=True)
        return grown if self._topped(grown) else max(grown, self._chain(growing=False))

    def _topped(self, value: float) -> bool:
        return value >= self.ceiling - self.near

    def _chain(self, *, growing: bool) -> float:
        """The highest mean over one chain."""
        size, sets = (0 if growing else self.features), np.full((1, self.features), not growing)
        now, orders = float(self.value(sets)[0]), self._orders(sets, growing)
        left = len(self.sizes) - self.sizes.count(size)
        totals = np.array([now * self.sizes.count(size)])
        for goal in sorted(set(self.sizes), reverse=not growing):
            while size != goal:
                step = self._step(sets, orders, now, size, goal)
                size += step.count if growing else -step.count
                done = self.sizes.count(size)
                # Sets are compared by their sum if their value stays what it is now.
                kept = _first(step.sets, totals[step.parents] + left * step.values, self.beams)
                left -= done
                totals = (totals[step.parents] + done * step.values)[kept]
                sets, orders = step.sets[kept], [step.orders[parent] for parent in step.parents[kept]]
                now = float(step.values[kept].max())
        return float(totals.max() / len(self.sizes))

    def _step(self, sets: Sets, orders: Orders, now: float, size: int, goal: int) -> _Step:
        """Change as many features as the value bears, in the order of what each does alone to its set.

        While the value is as high as can be, the old order serves as long as it stays so.

        Args:
            sets: [n, features], all of one size.
            orders: for each set what may be changed, as it was for an earlier set of its chain.
            now: the highest value of the sets.
            size: of the sets.
            goal: the size that they should come to.
        """
        growing, topped, count = goal > size, self._topped(now), abs(goal - size)
        if topped:
            found = self._changed(sets, orders, count, growing)
            if self._topped(found.values.max()):
                return found
        orders = self._orders(sets, growing)
        count = count if topped else min(count, max(1, size // 2))
        found = self._changed(sets, orders, count, growing)
        while count > 1 and found.values.max() < now - self.near:
            count //= 2
            found = self._changed(sets, orders, count, growing)
        return found

    def _orders(self, sets: Sets, growing: bool) -> Orders:
        """For each set [n, features] what can be changed, best first by what each does alone."""
        parents, changed = np.nonzero(sets != growing)
        candidates = sets[parents]
        candidates[np.arange(len(parents)), changed] = growing
        values = self.value(candidates)
        own = (parents == number for number in range(len(sets)))
        return [changed[mine][np.argsort(-values[mine], kind="stable")].tolist() for mine in own]

    def _changed(self, sets: Sets, orders: Orders, count: int, growing: bool) -> _Step:
        """From each set up to `beams` with `count` features changed.

        These are the first of its order, the last of which gives way to those after it.
        """
        found, parents = [], []
        for number, (chosen, order) in enumerate(zip(sets, orders, strict=True)):
            rest = [feature for feature in order if chosen[feature] != growing]
            for last in rest[count - 1 : count - 1 + self.beams]:
                changed = chosen.copy()
                changed[[*rest[: count - 1], last]] = growing
                found.append(changed)
                parents.append(number)
        candidates = np.array(found)
        return _Step(count, candidates, self.value(candidates), np.array(parents), orders)


def _first(sets: Sets, outlook: Numbers, count: int) -> list[int]:
    """The numbers of the `count` different sets with the best outlook."""
    kept: dict[bytes, int] = {}
    for number in np.argsort(-outlook, kind="stable").tolist():
        kept.setdefault(sets[number].tobytes(), number)
    return list(kept.values())[:count]
