"""One output under two conditions: another text, another model, or the same model with a part silenced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dashboard import analyses, cache, snippets
from dashboard.catalogue import Choice
from dashboard.examples import Example
from explain.analysis import Edit, functions_in_all
from explain.comparison.inside import blocks_of
from explain.comparison.pair import HeadShift, head_shifts
from explain.evaluation.agreement import same_tokens
from explain.model import Seq2Seq
from explain.results import Attribution, Generation

FURTHEST = 5
"""Heads whose maps are kept: those that look elsewhere the most."""


@dataclass(frozen=True)
class Pair:
    """Two conditions.

    Attributes:
        choice: the model of A.
        example: its text.
        rival: the model of B.
        other: its text.
        edits: what is silenced in B.
        key: plain values that B is known by.
        names: what A and B are called.
    """

    choice: Choice
    example: Example
    rival: Choice
    other: Example
    edits: tuple[Edit, ...]
    key: tuple[str, ...]
    names: tuple[str, str]

    def changed(self) -> AbstractContextManager[Seq2Seq]:
        """The model of B, with what is silenced silenced for as long as the block runs."""
        model = cache.model(self.rival)
        return model.intervene(functions_in_all(self.edits)) if self.edits else nullcontext(model)


@dataclass(frozen=True, eq=False)
class Both:
    """The same output explained under both conditions.

    Attributes:
        a, b: A's output, given to either of them.
        map_a, map_b: its attribution.
        aligned: both have the same tokens, or as many at the same places; else only the texts compare.
        shifts: how far every head looks elsewhere; empty where places do not match.
        patterns: of the heads that do most: patterns [query, key] of A and of B.
    """

    a: Generation
    b: Generation
    map_a: Attribution
    map_b: Attribution
    aligned: bool
    shifts: tuple[HeadShift, ...]
    patterns: tuple[tuple[HeadShift, Tensor, Tensor], ...]

    @property
    def map_b_by_place(self) -> Attribution:
        """B's map with A's tokens: where both are aligned, agreement is about places and not about names."""
        return replace(
            self.map_b, source_tokens=self.map_a.source_tokens, target_tokens=self.map_a.target_tokens
        )


def written(pair: Pair) -> Generation:
    """What B writes by itself."""
    if not pair.edits:
        return cache.generation(pair.rival, pair.other)

    def make() -> Generation:
        with pair.changed() as model:
            return model.generate(pair.other.source, should_stop=cache.unwanted, **pair.other.controls)

    return analyses.kept(analyses.key("written", pair.rival, pair.other.id, *pair.key), make)


def explained(pair: Pair, output: str, method: str, tell: Callable[[int, int], None]) -> Both:
    """Explain A's output under both conditions.

    By text, so that both read it alike; what A wrote is then a given output.
    """
    asked = {"method": method, "should_stop": cache.unwanted}
    first = cache.model(pair.choice)
    a = first.force(pair.example.source, output, **analyses.reading(pair.example))
    tell(0, 3)
    map_a = first.attribute(a, **asked)
    tell(1, 3)
    with pair.changed() as second:
        b = second.force(pair.other.source, output, **analyses.reading(pair.other))
        map_b = second.attribute(b, **asked)
    tell(2, 3)
    aligned = len(a.source_tokens) == len(b.source_tokens) and same_tokens(a.target_tokens, b.target_tokens)
    shifts: Sequence[HeadShift] = ()
    patterns = []
    if aligned:
        looks_a = first.capture(a, "*.pattern", dtype=torch.float32)
        with pair.changed() as second:
            looks_b = second.capture(b, "*.pattern", dtype=torch.float32)
            blocks = blocks_of(first, second)
        shifts = head_shifts(looks_a, looks_b, blocks, same=pair.choice == pair.rival)
        furthest = sorted((s for s in shifts if s.bits > 0), key=lambda shift: -shift.bits)[:FURTHEST]
        patterns = [
            (
                shift,
                looks_a[f"{shift.a}.pattern"][0, shift.head],
                looks_b[f"{shift.b}.pattern"][0, shift.partner],
            )
            for shift in furthest
        ]
    tell(3, 3)
    return Both(a, b, map_a, map_b, aligned, tuple(shifts), tuple(patterns))


def python(pair: Pair, output: str, method: str, *, heads: bool = False) -> list[str]:
    """Lines that explain A's output under both conditions, as `map_a` and `map_b`.

    Args:
        pair: the two conditions.
        output: what A wrote.
        method: the attribution method.
        heads: with what every head looks at, as `looks_a` and `looks_b`, and `shifts`.
    """
    same = pair.choice == pair.rival
    opened = snippets.opened(pair.choice)
    rival = "rival = model" if same else snippets.opened(pair.rival)[-1].replace("model =", "rival =")
    first = snippets.call(
        "model.force", [repr(pair.example.source), repr(output)], analyses.reading(pair.example)
    )
    second = snippets.call(
        "rival.force", [repr(pair.other.source), repr(output)], analyses.reading(pair.other)
    )
    lines = [*opened, rival, *_edits(pair), f"a = {first}", f"map_a = model.attribute(a, method={method!r})"]
    inside = [f"b = {second}", f"map_b = rival.attribute(b, method={method!r})"]
    if heads:
        lines.insert(1, "from explain.comparison.inside import blocks_of")
        lines.insert(2, "from explain.comparison.pair import head_shifts")
        lines.append('looks_a = model.capture(a, "*.pattern")')
        inside += [
            'looks_b = rival.capture(b, "*.pattern")',
            f"shifts = head_shifts(looks_a, looks_b, blocks_of(model, rival), same={same})",
        ]
    if pair.edits:
        names = "Edit, functions_in_all"
        lines.insert(1, f"from explain.analysis import {names}")
        return [*lines, "with rival.intervene(functions_in_all(edits)):", *(f"    {line}" for line in inside)]
    return [*lines, *inside]


def _edits(pair: Pair) -> list[str]:
    if not pair.edits:
        return []
    return [
        f"edits = [{', '.join(f'Edit({e.point!r}, {e.where!r}, {float(e.value)!r})' for e in pair.edits)}]"
    ]
