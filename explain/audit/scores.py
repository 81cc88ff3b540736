"""What detectors compute: one number for an output, and where it has them one for every token."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from explain.audit.evidence import Evidence
from explain.audit.references import References, cdf, doubt, logarithm

INERT = 0.1
"""A source token is inert when hiding it costs no output token more than this many nats."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = ".!?;:\n"


@dataclass(frozen=True, slots=True)
class Score:
    """What one detector says of one output.

    Attributes:
        value: the number that is calibrated; nan where it is not defined.
        tokens: for detectors of tokens the number of every token, of which `value` is the extreme.
        words: what was found, where it is words.
    """

    value: float
    tokens: tuple[float, ...] = ()
    words: tuple[str, ...] = ()

    def rounded(self) -> Score:
        """Six significant digits, so that equal outputs have equal scores wherever they are in a batch."""
        return Score(_rounded(self.value), tuple(map(_rounded, self.tokens)), self.words)


def _rounded(value: float) -> float:
    return value if math.isnan(value) else float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class Context:
    """What some detectors compare with: clean references, and the words of the training data."""

    references: References | None = None
    words: frozenset[str] | None = None


def lowest(values: Tensor) -> Score:
    """The lowest of the tokens' numbers, with all of them."""
    return extreme(values, min)


def extreme(values: Tensor, pick: Callable[[list[float]], float]) -> Score:
    """What `pick` takes of the tokens' numbers, with all of them; undefined ones aside."""
    tokens = tuple(values.tolist())
    known = [value for value in tokens if not math.isnan(value)]
    return Score(pick(known) if known else math.nan, tokens)


def mean(values: Tensor) -> Score:
    """The mean over the tokens that have a number; nan of none."""
    return Score(float(values.nanmean()) if len(values) else math.nan)


def gathered(value: Tensor | None) -> Tensor:
    """A part of the evidence, which whoever asks for a detector has gathered."""
    assert value is not None, "the evidence that this detector needs was not gathered"
    return value


def to_uniform(attention: Tensor) -> float:
    """Wasserstein distance of the mean cross-attention to uniform, 0 (uniform) to 1.

    With the 0/1 cost this is ½ Σ|π − 1/S|, where π [source] is the mean of attention [target, source] over
    the target (Guerreiro 2023, arXiv:2212.09631).
    """
    mass = attention.mean(0)
    return float((mass - 1 / len(mass)).abs().sum() / 2)


def repetition(ids: list[int]) -> float:
    """The share of bigrams that the output held before: 0 none, towards 1 all."""
    pairs = list(pairwise(ids))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def longest_copy(ids: list[int]) -> int:
    """The most tokens in a row that the output held before, at any earlier place (they may overlap)."""
    row, longest, given = np.zeros(len(ids), dtype=np.int64), 0, np.asarray(ids)
    for end in range(1, len(ids)):
        # row[k] is how long the stretches that end at k and at `end` are the same.
        row = np.where(given == given[end], np.concatenate([[0], row[:-1]]) + 1, 0)
        row[end:] = 0
        longest = max(longest, int(row.max()))
    return longest


def numbers_of(text: str) -> list[str]:
    """The numbers of a text as they stand there, leading zeros aside."""
    return [found.lstrip("0") or "0" for found in _NUMBER.findall(text)]


def names_of(text: str) -> list[str]:
    """The words with a capital that do not begin a sentence."""
    found = []
    for match in _WORD.finditer(text):
        before = text[: match.start()].rstrip(" \"'«“‘([")
        starts = not before or before[-1] in _SENTENCE_END
        if match.group()[0].isupper() and not starts:
            found.append(match.group())
    return found


def words_of(text: str) -> list[str]:
    """The words of a text without their case."""
    return [word.casefold() for word in _WORD.findall(text)]


def absent(found: Iterable[str], known: Iterable[str]) -> Score:
    """How many different items of `found` are not among the known ones, and which."""
    there = set(known)
    missing = tuple(item for item in dict.fromkeys(found) if item not in there)
    return Score(float(len(missing)), words=missing)


def unsupported_names(evidence: Evidence, _: Context) -> Score:
    """Names of the output that are not in the source."""
    source = set(words_of(evidence.generation.source_text))
    names = names_of(evidence.generation.target_text)
    return absent(names, [name for name in names if name.casefold() in source])


def plain_ids(evidence: Evidence) -> list[int]:
    """The ids of the output, special tokens aside."""
    return [token.id for token in evidence.generation.target_tokens if not token.special]


def copied(evidence: Evidence, _: Context) -> Score:
    """The longest stretch that the output held before, a share of its tokens."""
    ids = plain_ids(evidence)
    return Score(longest_copy(ids) / len(ids) if ids else 0.0)


def length_ratio(evidence: Evidence, _: Context) -> Score:
    """Tokens of the output per token of the source, special ones aside."""
    counts = [
        sum(not token.special for token in side)
        for side in (evidence.generation.source_tokens, evidence.generation.target_tokens)
    ]
    return Score(counts[1] / counts[0] if counts[0] else math.nan)


def inert(evidence: Evidence, _: Context) -> Score:
    """The share of source tokens that no output token needs; per token what hiding it costs at most."""
    dropped = gathered(evidence.dropped)  # [source]
    real = [not token.special for token in evidence.generation.source_tokens]
    own = dropped[torch.tensor(real)]
    values = torch.where(torch.tensor(real), dropped, torch.nan)
    share = float((own < INERT).float().mean()) if len(own) else math.nan
    inert = tuple(
        token.text
        for token, cost in zip(evidence.generation.source_tokens, values.tolist(), strict=True)
        if cost < INERT
    )
    return Score(share, tuple(values.tolist()), inert)


def to_references(evidence: Evidence, context: Context) -> Score:
    """How far the mean cross-attention is from that of clean outputs."""
    if context.references is None:
        return Score(math.nan)
    return Score(context.references.attention_distance(cdf(gathered(evidence.attention).mean(0))))


def _doubts(evidence: Evidence, references: References) -> list[float]:
    generation = evidence.generation
    return references.doubt.distance(generation.target_ids.tolist(), doubt(generation.log_probs))


def _informs(evidence: Evidence, references: References) -> list[float]:
    ids, values = evidence.generation.target_ids.tolist(), gathered(evidence.information).tolist()
    return references.information.distance(ids, values)


def _supports(evidence: Evidence, references: References) -> list[float]:
    ids, values = evidence.generation.target_ids.tolist(), logarithm(gathered(evidence.support))
    return references.support.distance(ids, values)


def doubted(evidence: Evidence, context: Context) -> Score:
    """The token that the model doubts most, by what is usual for it."""
    if context.references is None:
        return Score(math.nan)
    return extreme(torch.tensor(_doubts(evidence, context.references)), max)


def unusual(evidence: Evidence, context: Context) -> Score:
    """The token that is read off the source least, by what is usual for it."""
    if context.references is None:
        return Score(math.nan)
    return lowest(torch.tensor(_informs(evidence, context.references)))


def unsupported(evidence: Evidence, context: Context) -> Score:
    """The token with the least support in the source, by what is usual for it."""
    if context.references is None:
        return Score(math.nan)
    return lowest(torch.tensor(_supports(evidence, context.references)))


def suspicious(evidence: Evidence, context: Context) -> Score:
    """Doubt, missing information and missing support of every token, each where it is worse than usual."""
    if context.references is None:
        return Score(math.nan)
    doubts = torch.tensor(_doubts(evidence, context.references)).clamp(min=0)
    informs = torch.tensor(_informs(evidence, context.references)).clamp(max=0)
    supports = torch.tensor(_supports(evidence, context.references)).clamp(max=0)
    return extreme(doubts - informs - supports, max)


def unneeded(evidence: Evidence, context: Context) -> Score:
    """The source token that is needed least, by what is usual for it; special tokens aside."""
    if context.references is None:
        return Score(math.nan)
    generation = evidence.generation
    ids, values = generation.source_ids.tolist(), logarithm(gathered(evidence.dropped))
    distances = context.references.needed.distance(ids, values)
    return lowest(
        torch.tensor(
            [
                math.nan if token.special else distance
                for token, distance in zip(generation.source_tokens, distances, strict=True)
            ]
        )
    )


def unseen(evidence: Evidence, context: Context) -> Score:
    """Words of the output that the training data do not have."""
    if context.words is None:
        return Score(math.nan)
    return absent(words_of(evidence.generation.target_text), context.words)
