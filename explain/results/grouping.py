"""Partitions of tokens into groups, and the named reductions over the tokens of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from explain.errors import InputError, UnknownNameError

LEVELS = ("token", "span", "word", "sentence")
Partition = Sequence[Sequence[int]]
Reduction = Callable[[Tensor, Partition], Tensor]


def _sum(scores: Tensor, groups: Partition) -> Tensor:
    place = torch.tensor([row for row, group in enumerate(groups) for _ in group], dtype=torch.long)
    # Not a product with a matrix of 0 and 1: one nan would reach every group.
    return scores.new_zeros(scores.shape[0], len(groups)).index_add_(1, place, scores)


def _mean(scores: Tensor, groups: Partition) -> Tensor:
    return _sum(scores, groups) / torch.tensor([len(group) for group in groups])


def _max_abs(scores: Tensor, groups: Partition) -> Tensor:
    columns = [scores[:, list(group)] for group in groups]
    best = [part.gather(1, part.abs().argmax(1, keepdim=True)) for part in columns]
    return torch.cat(best, 1) if best else scores[:, :0]


# float [row, token] and a partition of the tokens -> float [row, group].
REDUCTIONS: dict[str, Reduction] = {
    "sum": _sum,
    "mean": _mean,
    "max_abs": _max_abs,
}


def reduction(name: str) -> Reduction:
    """The reduction of that name: float [row, token] and a partition to float [row, group].

    `sum` keeps sign and completeness; `mean` is the average; `max_abs` is the entry furthest from 0, with its
    sign.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in REDUCTIONS:
        raise UnknownNameError("reduction", name, REDUCTIONS)
    return REDUCTIONS[name]


def checked_partition(groups: Partition, size: int, name: str) -> list[list[int]]:
    """The groups as lists.

    Raises:
        InputError: they do not hold every index below `size` once and in order.
    """
    try:
        found = [[_index(item) for item in group] for group in groups]
    except TypeError:
        raise InputError(f"{name} must be lists of token indices, such as [[0], [1, 2]]") from None
    if any(not group for group in found):
        raise InputError(f"{name}: group {found.index([])} is empty")
    flat = [index for group in found for index in group]
    for place, index in enumerate(flat):
        if index != place:
            raise InputError(
                f"{name} must hold every token index once and in order: after {place} of them comes "
                f"{index}, not {place}"
            )
    if len(flat) != size:
        raise InputError(f"{name} holds {len(flat)} of {size} tokens; every token belongs to one group")
    return found


def _index(item: object) -> int:
    if isinstance(item, bool) or not hasattr(item, "__index__"):
        raise TypeError
    return int(item)  # pyright: ignore[reportArgumentType]


def partition_of(spans: Sequence[tuple[int, int]], size: int, name: str) -> list[list[int]]:
    """The partition in which each span [a, b) is a group and every other token stands alone.

    Raises:
        InputError: a span is empty, reaches past the tokens, or overlaps another.
    """
    try:
        found = sorted((_index(a), _index(b)) for a, b in spans)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be pairs (first token, token after the last)") from None
    groups, reached = [], 0
    for a, b in found:
        if not 0 <= a < b <= size:
            raise InputError(f"{name}: the span ({a}, {b}) is empty or outside the {size} tokens")
        if a < reached:
            raise InputError(f"{name}: the span ({a}, {b}) overlaps the one that ends at {reached}")
        groups += [[index] for index in range(reached, a)]
        groups.append(list(range(a, b)))
        reached = b
    return groups + [[index] for index in range(reached, size)]
