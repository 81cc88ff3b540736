"""The control: random scores, which every method must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from explain.attribution.inputs import split_prefix
from explain.attribution.registry import Method, Scores, Work


@dataclass(frozen=True, slots=True)
class RandomSettings:
    """The seed of the random numbers, from 0 to 2⁶³ - 1."""

    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be at least 0 and below 2**63")


def _random(work: Work, settings: RandomSettings) -> list[Scores]:
    results = []
    for generation in work.generations:
        work.check()
        dice = torch.Generator().manual_seed(settings.seed)
        rows = len(generation.target_tokens)
        source = torch.rand(rows, len(generation.source_tokens), generator=dice)
        prefix, start = split_prefix(torch.rand(rows, rows, generator=dice).tril())
        results.append(Scores(source, prefix, start))
        work.done(1)
    return results


METHODS = (
    Method(
        name="random",
        label="Random control",
        kind="control",
        signed=False,
        objective=False,
        contrast=False,
        completeness=False,
        paper="",
        reads="Random numbers between 0 and 1: what a method must beat before it is believed.",
        settings=RandomSettings,
        run=_random,
    ),
)
