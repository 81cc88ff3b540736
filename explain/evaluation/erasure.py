"""A target token's probability with tokens hidden: every version of an input goes through the model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from explain.attribution.objectives import question
from explain.attribution.perturbation.features import features_of
from explain.attribution.perturbation.presence import Presence, presence_of
from explain.attribution.registry import Work
from explain.results import Attribution, Generation

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Effects on a probability whose root mean square is below this are noise.
_NO_EFFECT = 1e-6


@dataclass(frozen=True, eq=False)
class Erasure:
    """One generation whose tokens can be hidden, and the probabilities of some of its target tokens.

    Features are the tokens that may be hidden: those of the source, then those of the prefix; special tokens
    and the decoder start are none. A row is a target token. `known` holds what was computed: the
    probabilities of rows 0 to r, by the version's bits.
    """

    presence: Presence
    tokens: tuple[int, ...]
    relevant: Bools  # [rows, features], what comes before the token
    known: dict[bytes, Floats] = field(default_factory=dict)

    def probabilities(self, rows: Ints, present: Bools) -> Floats:
        """The probabilities [n] of the target tokens `rows` [n] with the features [n, features] present.

        What cannot influence a row is taken to be present, so that versions are the same where they can be.
        """
        there = present | ~self.relevant[rows]
        keys = [bits.tobytes() for bits in np.packbits(there, axis=1)]
        last: dict[bytes, int] = {}
        first: dict[bytes, int] = {}
        for number, (key, row) in enumerate(zip(keys, rows.tolist(), strict=True)):
            if row >= len(self.known.get(key, ())):
                last[key] = max(row, last.get(key, 0))
                first.setdefault(key, number)
        for row in sorted(set(last.values())):
            # Sorted, versions of one source come together and share its encoder states.
            new = sorted(key for key, needed in last.items() if needed == row)
            values = self._upto(row).values(torch.from_numpy(there[[first[key] for key in new]]))
            self.known.update(zip(new, values.double().numpy(), strict=True))
        return np.array([self.known[key][row] for key, row in zip(keys, rows.tolist(), strict=True)])

    def every_row(self, present: Bools) -> Floats:
        """The probabilities [n, rows] of all rows with the features [n, features] present."""
        return self.presence.values(torch.from_numpy(present)).double().numpy()

    def scores(self, attribution: Attribution) -> Floats:
        """What a map between these tokens says of each feature for each row, float [rows, features]."""
        features, chosen = self.presence.features, list(self.tokens)
        # Decoder input p + 1 holds target token p; input 0, the decoder start, is no feature.
        inputs = torch.cat([attribution.start[:, None], attribution.prefix[:, :-1]], dim=1)
        sides = ((attribution.source, features.source), (inputs, features.target))
        return torch.stack([found[chosen].double() @ of.double().T for found, of in sides]).sum(0).numpy()

    def _upto(self, row: int) -> Presence:
        """Rows 0 to `row` alone: the decoder need not run over what comes later."""
        asked = self.presence.question
        return replace(self.presence, question=replace(asked, spans=asked.spans[: row + 1]))


def erasure_of(work: Work, generation: Generation, tokens: Sequence[int], by: str, rows: int) -> Erasure:
    """A generation whose tokens can be hidden, to look at the probability of target tokens `tokens`.

    Attention needs something to look at. That is the source's special tokens (</s>, a language code), which
    are never hidden; of a source without any, tokens are not hidden from attention but replaced by padding.

    Raises:
        InputError: the model has no such token to hide by.
    """
    features = features_of(generation, "token")
    asked = question(work.model, generation, "probability", positions=list(tokens))
    if by == "attention" and bool(features.source.any(0).all()):
        by = "pad"
    presence = presence_of(work, generation, asked, features, by, rows)
    return Erasure(presence, tuple(tokens), features.relevant(asked.spans).numpy())


# ---- ranking -----------------------------------------------------------------------------------------------


def ranks(scores: Floats, relevant: Bools, ties: Floats) -> Ints:
    """The place [maps, rows, features] of each feature in the order of a map: 0 for the highest score.

    Features that cannot influence a row come after all that can.

    Args:
        scores: [maps, rows, features].
        relevant: [rows, features].
        ties: [rows, features], different numbers that decide between equal scores.
    """
    beside = np.broadcast_to(~relevant, scores.shape)
    return np.lexsort((np.broadcast_to(ties, scores.shape), -scores, beside), axis=-1).argsort(-1)


def sizes_of(relevant: Bools, bins: Sequence[float]) -> Ints:
    """How many features [rows, bins] are these shares of those that can influence a row, at least one."""
    counts = relevant.sum(1)[:, None] * np.array(bins)
    return np.maximum(1, np.floor(counts + 0.5)).astype(np.int64)


def erased(erasure: Erasure, rank: Ints, bins: Sequence[float]) -> tuple[Floats, Floats]:
    """Probabilities [maps, rows, bins] without the features that rank first, and with nothing else.

    Args:
        erasure: the generation.
        rank: [maps, rows, features]; see `ranks`.
        bins: shares of the features that can influence a row.
    """
    first = rank[:, :, None, :] < sizes_of(erasure.relevant, bins)[:, :, None]  # [maps, rows, bins, features]
    present = np.stack([~first, first])
    rows = np.broadcast_to(np.arange(len(erasure.relevant))[:, None], present.shape[:-1])
    found = erasure.probabilities(rows.reshape(-1), present.reshape(-1, present.shape[-1]))
    without, alone = found.reshape(rows.shape)
    return without, alone


# ---- infidelity --------------------------------------------------------------------------------------------


def infidelity(sums: Floats, effects: Floats, *, scaled: bool = True) -> Floats:
    """Mean squared difference [...] of what a map says of hidden sets and what hiding them does.

    0: the map foretells every effect. Scaled, sums are multiplied by the number that makes the difference
    smallest, as `captum.metrics.infidelity(normalize=True)` does (Yeh et al. 2019, arXiv:1901.09392).

    Args:
        sums: [..., sets], scores summed over what is hidden.
        effects: [..., sets], what the probability loses.
        scaled: whether the unit of the scores is free.
    """
    if scaled:
        power = (sums**2).sum(-1, keepdims=True)
        fitted = (sums * effects).sum(-1, keepdims=True)
        sums = sums * np.divide(fitted, power, out=np.zeros_like(fitted), where=power > 0)
    return ((sums - effects) ** 2).mean(-1)


def unexplained(scores: Floats, relevant: Bools, hidden: Bools, effects: Floats) -> Floats:
    """The share [maps, rows] of effects that scores leave unexplained; nan where there is no effect.

    Args:
        scores: [maps, rows, features].
        relevant: [rows, features].
        hidden: [sets, features].
        effects: [rows, sets], what the probability loses.
    """
    sums = np.where(relevant, scores, 0) @ hidden.T.astype(np.float64)  # [maps, rows, sets]
    power = np.broadcast_to((effects**2).mean(-1), sums.shape[:-1])
    left = infidelity(sums, np.broadcast_to(effects, sums.shape))
    return np.divide(left, power, out=np.full(left.shape, np.nan), where=power > _NO_EFFECT**2)
