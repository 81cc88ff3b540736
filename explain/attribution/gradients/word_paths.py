"""Paths through words: one word at a time (sequential IG), and from word to word (discretized IG)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from explain.attribution.gradients.batch import Batch, chosen, each_batch, jacobian_rows
from explain.attribution.gradients.quadrature import relative_error
from explain.attribution.gradients.settings import check_sides
from explain.attribution.inputs import BASELINES, SIDES
from explain.attribution.memory import (
    backward_row_bytes,
    forward_row_bytes,
    graph_row_bytes,
    in_chunks,
    rows_within,
)
from explain.attribution.registry import Method, Scores, Work
from explain.model.families import source_embeddings, target_embeddings, vocabulary_size
from explain.options import choice


def _check(baseline: str, sides: str, **numbers: int) -> None:
    check_sides(sides)
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r} is not one of {', '.join(BASELINES)}")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1")


@dataclass(frozen=True, slots=True)
class SequentialSettings:
    """`baseline` replaces one token at a time, on `sides` (`both`, `source` or `prefix`).

    `rows` such versions go through the model at once.
    """

    baseline: str = choice("pad", BASELINES)
    sides: str = choice("both", SIDES)
    rows: int = 64

    def __post_init__(self) -> None:
        _check(self.baseline, self.sides, rows=self.rows)


def _sequential(work: Work, settings: SequentialSettings) -> list[Scores]:
    """Sequential integrated gradients, integrated exactly.

    The path of token i moves only i's embedding, from the baseline's to its own, so the sum over the width
    of (x_i - b_i) ∫ ∂f/∂x_i along it is f(x) - f(x with b_i), by the fundamental theorem of calculus: one
    forward row per token replaces steps × positions gradients.
    """
    return each_batch(
        work,
        settings.baseline,
        1,
        lambda batch: [_one_token_at_a_time(work, settings, batch)],
        sides=settings.sides,
    )


@torch.no_grad()
def _one_token_at_a_time(work: Work, settings: SequentialSettings, batch: Batch) -> Scores:
    question, source, target = batch.questions[0], batch.source.shape[1], batch.target.shape[1]
    value = batch.values(batch.source, batch.target)[0, 0]
    changed = torch.cat(
        [
            (batch.source != batch.source_baseline).any(-1)[0],
            (batch.target != batch.target_baseline).any(-1)[0],
        ]
    )
    tokens = changed.nonzero()[:, 0]

    def chunk(part: slice) -> Tensor:
        work.check()
        here = torch.nn.functional.one_hot(tokens[part], source + target).bool()[:, :, None]
        versions = [
            torch.where(mask, base, full)
            for mask, base, full in (
                (here[:, :source], batch.source_baseline, batch.source),
                (here[:, source:], batch.target_baseline, batch.target),
            )
        ]
        return value - batch.values(*versions)[0]  # [tokens, rows]

    size = rows_within(work.budget, forward_row_bytes(work.model, source, target), settings.rows)
    scores = torch.zeros(len(question.spans), source + target)
    for part, effects in in_chunks(len(tokens), size, chunk):
        scores[:, tokens[part].cpu()] = effects.T.float().cpu()
    return Scores(*batch.split(scores, 0), used={"integral": "exact"})


@dataclass(frozen=True, slots=True)
class DiscretizedSettings:
    """A path of `steps` points near words, each among the `neighbors` nearest of the one before.

    `baseline` is where it begins, on `sides` (`both`, or `source` or `prefix` while the other stays as it
    is); each step is integrated in `parts`; `rows` points go through the model at once.
    """

    baseline: str = choice("pad", BASELINES)
    sides: str = choice("both", SIDES)
    steps: int = 16
    parts: int = 2
    neighbors: int = 50
    rows: int = 32

    def __post_init__(self) -> None:
        numbers = {"steps": self.steps, "parts": self.parts, "neighbors": self.neighbors}
        _check(self.baseline, self.sides, **numbers, rows=self.rows)


def _discretized(work: Work, settings: DiscretizedSettings) -> list[Scores]:
    """Discretized integrated gradients with the greedy heuristic of the paper."""
    ids = torch.arange(vocabulary_size(work.model.hf), device=work.model.device)
    with torch.no_grad():
        words = [
            embed(work.model.hf, work.model.family, ids).float()
            for embed in (source_embeddings, target_embeddings)
        ]

    def one(batch: Batch) -> list[Scores]:
        paths = [
            refined(
                word_path(base[0].float(), full[0].float(), vocabulary, settings.steps, settings.neighbors),
                settings.parts,
            ).to(full)
            for base, full, vocabulary in (
                (batch.source_baseline, batch.source, words[0]),
                (batch.target_baseline, batch.target, words[1]),
            )
        ]  # each [steps · parts + 1, tokens, width]
        return [_along(work, settings, batch, paths)]

    return each_batch(work, settings.baseline, 1, one, sides=settings.sides)


def word_path(start: Tensor, end: Tensor, words: Tensor, steps: int, neighbors: int) -> Tensor:
    """A monotone path from word to word for every token (Sanyal & Ren 2021, the greedy heuristic).

    From the input towards the baseline, each point is the neighbouring word, not yet visited, whose monotone
    version is nearest to it: coordinates of the word outside the interval between the current point and the
    baseline are replaced by those of the straight line's next point.

    Args:
        start: [tokens, width], the baselines.
        end: [tokens, width], the tokens' own embeddings.
        words: [vocabulary, width].
        steps: how many steps to take.
        neighbors: how many nearest words are looked at.

    Returns:
        float [steps + 1, tokens, width], from `start` to `end`, monotone in every coordinate.
    """
    points, current = [end], end
    # The words at both ends count as visited: a path that stays where it is gets nowhere.
    ends = torch.stack([torch.cdist(end, words).argmin(1), torch.cdist(start, words).argmin(1)], 1)
    visited = torch.zeros(len(end), len(words), dtype=torch.bool, device=end.device).scatter_(1, ends, True)
    for left in range(steps - 1, 0, -1):
        line = start + (current - start) * left / (left + 1)  # the next point of the straight line
        distance = torch.cdist(current, words).masked_fill(visited, torch.inf)
        near = distance.topk(min(neighbors, len(words)), largest=False).indices  # [tokens, neighbors]
        low, high = torch.minimum(start, current), torch.maximum(start, current)
        inside = (words[near] >= low[:, None]) & (words[near] <= high[:, None])
        monotone = torch.where(inside, words[near], line[:, None])  # [tokens, neighbors, width]
        best = (monotone - words[near]).norm(dim=-1).argmin(1, keepdim=True)
        visited.scatter_(1, near.gather(1, best), True)
        current = monotone.gather(1, best[:, :, None].expand(-1, -1, words.shape[1]))[:, 0]
        points.append(current)
    return torch.stack([*points, start]).flip(0)


def refined(path: Tensor, parts: int) -> Tensor:
    """A path [points, tokens, width] with every step cut into equal parts."""
    share = torch.arange(parts, device=path.device) / parts
    between = path[:-1, None] + share[None, :, None, None] * path.diff(dim=0)[:, None]
    return torch.cat([between.flatten(0, 1), path[-1:]])


def _along(work: Work, settings: DiscretizedSettings, batch: Batch, paths: list[Tensor]) -> Scores:
    """The trapezoid rule along both paths at once: scores and how far they are from adding up."""
    question = batch.questions[0]
    source, target = batch.source.shape[1], batch.target.shape[1]
    # Each point stands for half of the stretch before it and half of the one after it.
    halves = [
        torch.nn.functional.pad(path.diff(dim=0), (0, 0, 0, 0, 1, 1)).unfold(0, 2, 1).sum(-1) / 2
        for path in paths
    ]
    columns = [[list(range(len(question.spans)))]]
    row = backward_row_bytes(work.model, source, target)

    def chunk(part: slice) -> Tensor:
        inputs = [path[part].clone().requires_grad_() for path in paths]
        with torch.enable_grad():
            values = chosen(batch.values(*inputs), columns)
        size = rows_within(work.budget // 2, values.shape[1] * row, values.shape[-1])
        found = []
        for gradients in jacobian_rows(values, inputs, size, work.check):
            products = [
                (g.float() * half[part].float()).sum((1, 3))
                for g, half in zip(gradients, halves, strict=True)
            ]
            found.append(torch.cat(products, 1).cpu())  # [columns, source + target]
        return torch.cat(found)

    rows = rows_within(work.budget // 2, graph_row_bytes(work.model, source, target), settings.rows)
    scores = torch.stack([part for _, part in in_chunks(len(paths[0]), rows, chunk)]).sum(0)
    base, value = (side[0].double().cpu() for side in batch.ends())
    difference = value - base
    return Scores(
        *batch.split(scores, 0),
        baseline_value=base.float(),
        completeness_error=relative_error(scores.double().sum(1) - difference, difference).float(),
    )


METHODS = (
    Method(
        name="sequential_integrated_gradients",
        label="Sequential integrated gradients",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Enguehard 2023, arXiv:2305.15853",
        reads="What changes while one token alone moves from the baseline to itself, all others in place; "
        "below 0 it speaks against; 0: the token alone was not needed.",
        settings=SequentialSettings,
        run=_sequential,
    ),
    Method(
        name="discretized_integrated_gradients",
        label="Discretized integrated gradients",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Sanyal & Ren 2021, arXiv:2108.13654",
        reads="A token's share of the difference to the baseline along a path of words; below 0: against. "
        "Few steps add up only roughly; the completeness error says how far off they are.",
        settings=DiscretizedSettings,
        run=_discretized,
    ),
)
