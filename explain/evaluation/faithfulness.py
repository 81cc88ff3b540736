"""Is a map faithful to the model? Hide what it ranks first, or keep only that, and look at the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from explain.attribution.memory import DEFAULT
from explain.attribution.perturbation.coalitions import biased_coins
from explain.attribution.perturbation.presence import HIDING
from explain.attribution.perturbation.settings import check_at_least, check_choice
from explain.attribution.registry import Work
from explain.errors import InputError
from explain.evaluation.bounds import bounds, normalised
from explain.evaluation.erasure import (
    Bools,
    Erasure,
    Floats,
    erased,
    erasure_of,
    ranks,
    sizes_of,
    unexplained,
)
from explain.evaluation.estimates import Estimate, estimate
from explain.model import Seq2Seq
from explain.model.hooks import analysed
from explain.options import choice
from explain.results import Attribution, Generation

CONTROL = "random_order"
"""The key of the control: tokens in random order."""

# Deleted tokens move the rest up, so that what is measured is no longer the same text with less to see.
HIDDEN_BY = tuple(way for way in HIDING if way != "delete")

# Draws of one kind must not depend on how many there are of another.
_TOKENS, _TIES, _ORDERS, _SUBSETS, _PAIRS = range(5)


@dataclass(frozen=True, slots=True)
class FaithfulnessSettings:
    """How faithfulness is measured.

    Of each example at most `tokens` target tokens are drawn. Tokens are hidden `by` one of `HIDDEN_BY`: those
    ranked first, at each of `bins` (shares of the tokens that can have an influence, at least one). The
    control is the mean over `orders` random orders; infidelity looks at `subsets` random sets. For `bounded`
    pairs of an example and a target token (0: for none) the bounds of NAOPC are searched, `beams` sets at a
    time. At most `rows` versions go through the model at once, which changes no result.
    """

    by: str = choice("attention", HIDDEN_BY)
    bins: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5)
    tokens: int = 8
    orders: int = 4
    subsets: int = 16
    bounded: int = 16
    beams: int = 3
    rows: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("by", self.by, HIDDEN_BY)
        rising = all(low < high for low, high in pairwise((0, *self.bins, 1)))
        if not self.bins or not rising:
            raise ValueError(f"bins={self.bins} must be shares between 0 and 1 that rise, such as (0.1, 0.5)")
        check_at_least(0, bounded=self.bounded, seed=self.seed)
        check_at_least(1, tokens=self.tokens, orders=self.orders, beams=self.beams, rows=self.rows)
        check_at_least(2, subsets=self.subsets)  # a line through one point explains it, whatever the map


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How faithful one method is to one model, or the control, in the mean over target tokens.

    p is the probability of the target token given the source and what was written before it; x∖r is the input
    without the tokens that the map ranks first, r those alone. Special tokens and the decoder start are
    always there. Unless it says otherwise, a number is a probability.

    Attributes:
        comprehensiveness: p(x) - p(x∖r), in the mean over the bins (AOPC; DeYoung et al. 2020). High is good;
            0: what is ranked first is not needed.
        sufficiency: p(x) - p(r), in the mean over the bins. Low is good; 0: what is ranked first is enough.
        naopc_comprehensiveness: comprehensiveness from 0, the worst that an order can do for this token, to
            1, the best (NAOPC; Edin et al. 2024, arXiv:2408.08137). A search finds both, so that a map may
            lie slightly outside.
        naopc_sufficiency: sufficiency likewise from 0, the lowest and best, to 1, the highest and worst.
        deletion: area under the deletion curve. Low is good.
        insertion: area under the insertion curve. High is good.
        infidelity: share of what hiding random sets does, squared, that scores leave unexplained, summed over
            the set and scaled to fit best (Yeh et al. 2019). 0: all is told; 1: nothing. Hiding more does
            more, so that even equal scores tell a good part: compare with the control.
        advantage: comprehensiveness minus that of random orders on the same tokens; above 0: better than
            chance.
        sufficiency_advantage: sufficiency of random orders minus the method's; above 0: better than chance.
        fractions: shares of the tokens: 0, the bins, 1.
        deletion_curve: mean p without that share of the tokens, those that rank first.
        insertion_curve: mean p with nothing else.
    """

    comprehensiveness: Estimate
    sufficiency: Estimate
    naopc_comprehensiveness: Estimate
    naopc_sufficiency: Estimate
    deletion: Estimate
    insertion: Estimate
    infidelity: Estimate
    advantage: Estimate
    sufficiency_advantage: Estimate
    fractions: tuple[float, ...]
    deletion_curve: tuple[float, ...]
    insertion_curve: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The measures as a JSON object."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Estimate) else list(value)
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Faithfulness:
        """Read the measures back from their JSON object; null stands for nan."""

        def read(value: Any) -> Any:
            if isinstance(value, Mapping):
                return Estimate.from_dict(dict(value))
            return tuple(math.nan if number is None else number for number in value)

        return cls(**{part.name: read(data[part.name]) for part in fields(cls)})


def faithfulness(
    model: Seq2Seq,
    generations: Sequence[Generation],
    attributions: Mapping[str, Sequence[Attribution]],
    settings: FaithfulnessSettings = FaithfulnessSettings(),
    *,
    check: Callable[[], None] = lambda: None,
    budget: int = DEFAULT,
) -> dict[str, Faithfulness]:
    """How faithful maps are to the model, for each method by name, and for the control `random_order`.

    Tokens of source and prefix are ranked together, by score from the highest down: positive evidence comes
    first. Equal scores are put in random order. Where a source has no special token, hiding all of it leaves
    attention nothing to look at, so there tokens are replaced by padding instead (see `erasure_of`).

    Args:
        model: an opened model.
        generations: the outputs; what was written is forced.
        attributions: for each method a map between tokens of every generation, in the same order.
        settings: how it is measured.
        check: called between batches; an exception ends the work.
        budget: bytes that may be used beside the model; it shapes chunks, not results.

    Raises:
        InputError: maps that are not of these generations token by token; a method named like the control.
    """
    _require_maps(generations, attributions)
    work = Work(model, generations, [], math.nan, check, lambda _: None, budget)
    tokens = [_tokens(item, settings, index) for index, item in enumerate(generations)]
    pairs = _pairs(tokens, settings)
    measured: list[dict[str, Floats]] = []
    if any(tokens):
        model.require_parity()
    with model.lock, analysed(model.hf):
        for index, (generation, rows) in enumerate(zip(generations, tokens, strict=True)):
            if rows:
                erasure = erasure_of(work, generation, rows, settings.by, settings.rows)
                maps = [erasure.scores(found[index]) for found in attributions.values()]
                measured.append(_measure(erasure, maps, pairs.get(index, ()), settings, index))
    examples = [index for index, rows in enumerate(tokens) for _ in rows]
    return {
        name: _result(measured, number, examples, settings)
        for number, name in enumerate((*attributions, CONTROL))
    }


def _require_maps(
    generations: Sequence[Generation], attributions: Mapping[str, Sequence[Attribution]]
) -> None:
    for name, maps in attributions.items():
        if name == CONTROL:
            raise InputError(f"{CONTROL} is the name of the control; give the method another")
        if len(maps) != len(generations):
            raise InputError(f"{len(maps)} maps of {name} for {len(generations)} generations")
        for index, (found, generation) in enumerate(zip(maps, generations, strict=True)):
            ours, theirs = ((x.source_tokens, x.target_tokens) for x in (generation, found))
            # Of single positions, the rows that nobody asked for would count as maps of zeros.
            if ours != theirs or "positions" in found.config:
                raise InputError(
                    f"map {index} of {name} is not between all tokens of generation {index}; give maps of "
                    f"these generations, of every target token and not grouped"
                )


# ---- what is drawn -----------------------------------------------------------------------------------------


def _dice(settings: FaithfulnessSettings, stream: int, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([settings.seed, stream, index])


def _tokens(generation: Generation, settings: FaithfulnessSettings, index: int) -> list[int]:
    """The target tokens to look at, drawn from those that are text and that something may explain."""
    seen = any(not token.special for token in generation.source_tokens)
    candidates = []
    for place, token in enumerate(generation.target_tokens):
        if seen and not token.special:
            candidates.append(place)
        seen = seen or not token.special
    count = min(settings.tokens, len(candidates))
    return sorted(_dice(settings, _TOKENS, index).permutation(candidates)[:count].astype(int).tolist())


def _pairs(tokens: Sequence[Sequence[int]], settings: FaithfulnessSettings) -> dict[int, list[int]]:
    """For each example the rows whose bounds are searched."""
    every = [(index, row) for index, rows in enumerate(tokens) for row in range(len(rows))]
    found: dict[int, list[int]] = {}
    for number in sorted(_dice(settings, _PAIRS).permutation(len(every))[: settings.bounded].tolist()):
        index, row = every[number]
        found.setdefault(index, []).append(row)
    return found


# ---- one example -------------------------------------------------------------------------------------------


def _measure(
    erasure: Erasure,
    maps: Sequence[Floats],  # [rows, features] each
    bounded: Sequence[int],
    settings: FaithfulnessSettings,
    index: int,
) -> dict[str, Floats]:
    """Every measure of one example: [maps + 1, rows] or, of curves, [maps + 1, rows, fractions].

    The control is the last.
    """
    shape = erasure.relevant.shape
    # The control is a map of random numbers, measured in the same way.
    drawn = _dice(settings, _ORDERS, index).random((settings.orders, *shape))
    scores = np.concatenate([np.reshape(maps, (-1, *shape)), drawn])
    # Searched first: a search must not depend on what other maps have asked of the model before.
    limits = {row: _bounds(erasure, row, settings) for row in bounded}
    subsets = _subsets(settings, index, shape[1])
    ends = np.array([[True], [False]]).repeat(shape[1], axis=1)
    answers = erasure.every_row(np.concatenate([ends, subsets])).T  # [rows, 2 + subsets]
    whole, nothing = answers[:, 0], answers[:, 1]
    rank = ranks(scores, erasure.relevant, _dice(settings, _TIES, index).random(shape))
    without, alone = erased(erasure, rank, settings.bins)
    found = {
        "comprehensiveness": whole - without.mean(-1),
        "sufficiency": whole - alone.mean(-1),
        "deletion_curve": _between(whole, without, nothing),
        "insertion_curve": _between(nothing, alone, whole),
        "infidelity": unexplained(scores, erasure.relevant, ~subsets, whole[:, None] - answers[:, 2:]),
    }
    widths = np.diff((0, *settings.bins, 1))
    for name in ("deletion", "insertion"):
        curve = found[f"{name}_curve"]
        found[name] = (curve[..., 1:] + curve[..., :-1]) / 2 @ widths
    for name, means in (("naopc_comprehensiveness", without.mean(-1)), ("naopc_sufficiency", alone.mean(-1))):
        found[name] = np.full(means.shape, np.nan)
        for row, limit in limits.items():
            found[name][:, row] = normalised(means[:, row], *limit[name])
    return {
        name: np.concatenate([values[: len(maps)], values[len(maps) :].mean(0, keepdims=True)])
        for name, values in found.items()
    }


def _between(first: Floats, middle: Floats, last: Floats) -> Floats:
    """Curves [maps, rows, fractions] from their ends [rows] and what lies between [maps, rows, bins]."""
    ends = [np.broadcast_to(end[:, None], (*middle.shape[:-1], 1)) for end in (first, last)]
    return np.concatenate([ends[0], middle, ends[1]], axis=-1)


def _bounds(erasure: Erasure, row: int, settings: FaithfulnessSettings) -> dict[str, tuple[float, float]]:
    """The lowest and highest mean probability of a row that an order reaches by hiding, and by keeping."""
    features = np.flatnonzero(erasure.relevant[row])
    sizes = sizes_of(erasure.relevant[[row]], settings.bins)[0].tolist()

    def kept(sets: Bools) -> Floats:
        present = np.ones((len(sets), erasure.relevant.shape[1]), dtype=bool)
        present[:, features] = sets
        return erasure.probabilities(np.full(len(sets), row), present)

    return {
        "naopc_comprehensiveness": bounds(lambda sets: kept(~sets), len(features), sizes, settings.beams),
        "naopc_sufficiency": bounds(kept, len(features), sizes, settings.beams),
    }


def _subsets(settings: FaithfulnessSettings, index: int, features: int) -> Bools:
    """Random versions [subsets, features], as many with few features present as with many."""
    dice = torch.Generator().manual_seed(int(_dice(settings, _SUBSETS, index).integers(2**62)))
    return biased_coins(settings.subsets, features, dice).numpy()


# ---- all examples ------------------------------------------------------------------------------------------


def _result(
    measured: Sequence[Mapping[str, Floats]],
    number: int,
    examples: Sequence[int],
    settings: FaithfulnessSettings,
) -> Faithfulness:
    """What was measured of map `number` in every example, as one; map -1 is the control."""

    def values(name: str, number: int = number) -> Floats:
        return np.concatenate([found[name][number] for found in measured]) if measured else np.zeros(0)

    def mean(name: str) -> Estimate:
        return estimate(values(name).tolist(), examples)

    def ahead(name: str, sign: int) -> Estimate:
        return estimate((sign * (values(name) - values(name, -1))).tolist(), examples)

    def curve(name: str) -> tuple[float, ...]:
        found = values(name)
        return tuple(found.mean(0).tolist()) if len(found) else (math.nan,) * len(fractions)

    fractions = (0.0, *settings.bins, 1.0)
    return Faithfulness(
        comprehensiveness=mean("comprehensiveness"),
        sufficiency=mean("sufficiency"),
        naopc_comprehensiveness=mean("naopc_comprehensiveness"),
        naopc_sufficiency=mean("naopc_sufficiency"),
        deletion=mean("deletion"),
        insertion=mean("insertion"),
        infidelity=mean("infidelity"),
        advantage=ahead("comprehensiveness", 1),
        sufficiency_advantage=ahead("sufficiency", -1),
        fractions=fractions,
        deletion_curve=curve("deletion_curve"),
        insertion_curve=curve("insertion_curve"),
    )
