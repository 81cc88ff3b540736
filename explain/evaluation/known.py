"""Known answers: which tokens an output token depends on, checked on the model by swapping single facts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from explain.model import Seq2Seq
from explain.results import Generation, Token
from explain.training.tasks import (
    Example,
    Ref,
    TargetSegment,
    Task,
    TokenGroup,
    overlap,
    token_dependencies,
)

# Other values that are tried for each slot, beside those that single tokens ask for.
_VALUES = 2


@dataclass(frozen=True, slots=True)
class RowGold:
    """What one target token needs.

    Attributes:
        groups: tokens ("source", i) or ("prefix", u), of each group any one; () for template text, which
            needs nothing.
        neutral: tokens that count neither way: the task names them, but no swap could show it on the model.
    """

    groups: tuple[TokenGroup, ...]
    neutral: TokenGroup = frozenset()

    @property
    def members(self) -> TokenGroup:
        """The tokens of all groups."""
        return frozenset().union(*self.groups)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Why token `step` and not the foil: a token of any of these groups decides between the two."""

    step: int
    foil: int
    gold: RowGold


@dataclass(frozen=True, slots=True)
class Case:
    """One output with its known answer.

    Attributes:
        generation: the output.
        rows: for each target token what it needs, or None where that is not known.
        contrasts: at most one for each target token.
    """

    generation: Generation
    rows: tuple[RowGold | None, ...]
    contrasts: tuple[Contrast, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """How much of the gold the model itself bears out.

    A dependency is one group that one output token needs. It is *testable* where some other value of the slot
    would change that very token and nothing before it in its word; it is *verified* where the model, given
    that value, writes the token that the task asks for, and goes on writing the old one when any slot is
    swapped that the gold does not name. Dependencies that are not verified are dropped, not scored.

    Attributes:
        examples: examples drawn.
        correct: of them, outputs that are exactly right; only these have a known answer.
        dependencies: groups of all tokens of the correct outputs.
        testable: of them, those that a swap can test.
        verified: of those, the ones that the model bears out.
        swaps: counterfactual inputs that were run.
    """

    examples: int = 0
    correct: int = 0
    dependencies: int = 0
    testable: int = 0
    verified: int = 0
    swaps: int = 0

    @property
    def verified_share(self) -> float:
        """Verified of testable dependencies, 0 to 1; nan without any."""
        return self.verified / self.testable if self.testable else float("nan")

    @property
    def dropped_share(self) -> float:
        """Dependencies that are not scored, of all: untestable or not borne out; nan without any."""
        return 1 - self.verified / self.dependencies if self.dependencies else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """The counts and the two shares as a JSON object."""
        shares = {"verified_share": self.verified_share, "dropped_share": self.dropped_share}
        return {**asdict(self), **shares}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verification:
        """Read the counts back from their JSON object."""
        return cls(**{each.name: data[each.name] for each in fields(cls)})

    def __add__(self, other: Verification) -> Verification:
        mine, theirs = asdict(self), asdict(other)
        return Verification(**{name: mine[name] + theirs[name] for name in mine})


def known_cases(
    model: Seq2Seq,
    task: Task,
    generations: Sequence[Generation],
    examples: Sequence[Example],
    *,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[Case], Verification]:
    """The known answers of outputs, verified on the model by in-distribution swaps; wrong outputs have none.

    Args:
        model: the model that wrote the outputs.
        task: the task that the examples are of.
        generations: its outputs.
        examples: the examples, in the same order.
        seed: of the choice of other values.
        check: called between examples; what it raises ends the work.
    """
    cases, total = [], Verification(examples=len(examples))
    for number, (generation, example) in enumerate(zip(generations, examples, strict=True)):
        check()
        if not generation.finished or generation.target_text != example.target:
            cases.append(Case(generation, (None,) * len(generation.target_tokens)))
            continue
        case, counts = _case(model, task, generation, example, random.Random(f"{seed}/{number}"))
        cases.append(case)
        total += counts
    return cases, total


@dataclass(frozen=True, slots=True)
class _Swap:
    """One slot with another value: the example that the task makes of it, as the model scores it."""

    slot: str
    example: Example
    generation: Generation

    def at(self, segment: TargetSegment, place: int) -> tuple[Token, bool] | None:
        """The token `place` characters into the same segment here, and whether the model would write it."""
        here = next((other for other in self.example.target_segments if other.slot == segment.slot), None)
        if here is None:
            return None
        for token, rank in zip(self.generation.target_tokens, self.generation.ranks.tolist(), strict=True):
            if token.start == here.start + place < here.end and token.end > token.start:
                return token, rank == 1
        return None


def _case(
    model: Seq2Seq, task: Task, generation: Generation, example: Example, dice: random.Random
) -> tuple[Case, Verification]:
    tokens = generation.target_tokens
    needs = token_dependencies(example, generation.source_tokens, tokens)
    swaps = _swaps(model, task, example, tokens, dice)
    counts = Verification(correct=1, swaps=len(swaps))
    rows: list[RowGold | None] = []
    contrasts = []
    for step, token in enumerate(tokens):
        touched = [segment for segment in example.target_segments if overlap(segment, token)]
        if len(touched) != 1:
            # EOS has no gold; a token across two segments has no place of its own in a swapped output.
            rows.append(None)
            counts += Verification(dependencies=len(needs[step]))
            continue
        row, foils, found = _row(example, needs[step], token, touched[0], swaps)
        rows.append(row)
        counts += found
        if foils:
            foil = dice.choice(sorted(foils))
            contrasts.append(Contrast(step, foil, RowGold((foils[foil],))))
    return Case(generation, tuple(rows), tuple(contrasts)), counts


def _swaps(
    model: Seq2Seq, task: Task, example: Example, tokens: Sequence[Token], dice: random.Random
) -> list[_Swap]:
    """Counterfactuals of every slot: a few at random, and for later tokens of a word some that test them."""
    chosen: list[tuple[str, Example]] = []
    for slot, values in sorted(task.swaps(example.slots).items()):
        others = [task.render({**example.slots, slot: value}) for value in dice.sample(values, len(values))]
        kept = dict.fromkeys(range(min(_VALUES, len(others))))
        for segment in example.target_segments:
            if not any(Ref("source", slot) in group for group in segment.depends):
                continue
            for token in tokens:
                if overlap(segment, token) and not any(
                    _parts(others[n], example, segment, token) for n in kept
                ):
                    kept |= dict.fromkeys(
                        [n for n, other in enumerate(others) if _parts(other, example, segment, token)][:1]
                    )
        chosen += [(slot, others[n]) for n in kept]
    if not chosen:
        return []
    forced = model.force([other.source for _, other in chosen], [other.target for _, other in chosen])
    return [_Swap(slot, other, found) for (slot, other), found in zip(chosen, forced, strict=True)]


def _parts(other: Example, example: Example, segment: TargetSegment, token: Token) -> bool:
    """Whether a counterfactual says the same in this segment before the token, and something else there."""
    here = next((found for found in other.target_segments if found.slot == segment.slot), None)
    if here is None:
        return False
    before, end = token.start - segment.start, token.end - segment.start
    was = example.target[segment.start : segment.end]
    now = other.target[here.start : here.end]
    return was[:before] == now[:before] and was[before:end] != now[before:end] and len(now) > before


def _row(
    example: Example,
    needs: Mapping[TokenGroup, frozenset[str]],
    token: Token,
    segment: TargetSegment,
    swaps: Sequence[_Swap],
) -> tuple[RowGold | None, dict[int, TokenGroup], Verification]:
    """The verified gold of one token, its foils with what decides against each, and the counts."""
    place = token.start - segment.start
    named = frozenset[str]().union(*needs.values())
    holds = True
    tests: dict[TokenGroup, list[bool]] = {group: [] for group in needs}
    foils: dict[int, TokenGroup] = {}
    for swap in swaps:
        found = swap.at(segment, place)
        if found is None:
            continue
        other, written = found
        if swap.slot not in named:
            # By text: the same word is another token after an elision, where no space precedes it.
            holds &= written and other.text == token.text
        elif _parts(swap.example, example, segment, token):
            groups = [group for group, slots in needs.items() if swap.slot in slots]
            for group in groups:
                tests[group].append(written)
            if written:
                foils[other.id] = foils.get(other.id, frozenset()).union(*groups)
    testable = [group for group, results in tests.items() if results]
    verified = [group for group in testable if holds and all(tests[group])]
    counts = Verification(dependencies=len(needs), testable=len(testable), verified=len(verified))
    if not holds or (needs and not verified):
        return None, {}, counts
    members = frozenset[tuple[str, int]]().union(*verified)
    named_tokens = frozenset[tuple[str, int]]().union(*needs)
    kept = {foil: group for foil, group in foils.items() if group & members}
    return RowGold(tuple(verified), named_tokens - members), kept, counts
