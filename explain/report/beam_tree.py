"""A beam search as lines of a tree: what beams share is written once."""

from __future__ import annotations

from dataclasses import dataclass

from explain.results import BeamSearch


@dataclass(frozen=True, slots=True)
class Branch:
    """A stretch of tokens without a fork.

    Attributes:
        nodes: its nodes in the search, in order.
        depth: how many forks lie before it.
        last: no other branch follows at its fork.
        open: for each fork before its own, from the first: whether that has further branches below this line.
        log_prob: the sum of its tokens' log-probabilities in nats: how likely this way on is.
        total: the same from the beginning of the search.
        score: by which beams are compared, where a beam that was returned ends here; else None.
        place: place of that beam, 0 the winner; None for the others.
        kept: part of a beam that was returned; the others were dropped.
        forks: it goes on in several branches.
    """

    nodes: tuple[int, ...]
    depth: int
    last: bool
    open: tuple[bool, ...]
    log_prob: float
    total: float
    score: float | None
    place: int | None
    kept: bool
    forks: bool


def branches(search: BeamSearch, *, dropped: bool = False) -> list[Branch]:
    """The tree line by line, each branch below the one that it grows from, the likelier first.

    Args:
        search: the search.
        dropped: with the branches that the search gave up.
    """
    kept = search.returned()
    children = {
        at: [child for child in found if dropped or child in kept] for at, found in search.children().items()
    }
    # The branch that the best beam goes through comes first, whatever a shorter one's sum says.
    best = {
        at: place for place, end in sorted(search.ends().items(), reverse=True) for at in search.path(end)
    }
    lines: list[Branch] = []
    # Several ways to begin are branches of a fork at the very beginning.
    depth = int(len(children[-1]) > 1)
    waiting: list[tuple[int, int, tuple[bool, ...], bool]] = [
        (at, depth, (), last) for at, last in _ordered(children[-1], best)
    ]
    while waiting:
        at, depth, opened, last = waiting.pop()
        nodes = [at]
        while len(children[nodes[-1]]) == 1 and search.nodes[nodes[-1]].place is None:
            nodes.append(children[nodes[-1]][0])
        end, below = search.nodes[nodes[-1]], children[nodes[-1]]
        lines.append(
            Branch(
                nodes=tuple(nodes),
                depth=depth,
                last=last,
                open=opened,
                log_prob=sum(search.nodes[node].log_prob for node in nodes),
                total=end.total,
                score=end.score if end.place is not None else None,
                place=end.place,
                kept=nodes[-1] in kept,
                forks=bool(below),
            )
        )
        inside = (*opened, not last) if depth else ()
        waiting += [(child, depth + 1, inside, final) for child, final in _ordered(below, best)]
    return lines


def _ordered(children: list[int], best: dict[int, int]) -> list[tuple[int, bool]]:
    """Children the other way round, as a stack wants them, each with whether it is the last."""
    order = sorted(children, key=lambda at: best.get(at, len(best) + 1))
    return [(at, at == order[-1]) for at in reversed(order)]
