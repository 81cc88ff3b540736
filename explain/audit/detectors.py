"""The detectors: what each looks at in an output, and the one number that it gives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from explain.audit.evidence import Evidence
from explain.audit.references import References, cdf, doubt, logarithm
from explain.errors import UnknownNameError

Direction = Literal["low", "high", "both"]
Level = Literal["output", "token", "source"]

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


@dataclass(frozen=True, slots=True)
class Detector:
    """One row of the registry.

    Attributes:
        name: as in commands, policies and files.
        title: as a person reads it.
        sees: the failures that it can see.
        direction: whether low scores, high scores or both are suspicious.
        level: `output`, or what its findings name: a `token` of the output or of the `source`.
        needs: the evidence: `scores` (the pass that scored the output), `attention`, `filled` (passes with
            source or prefix filled in), `hiding` (a pass for every source token), `references` (a
            calibration's), `text`, `words` (of the training data).
        units: what the score is in.
        paper: where it is from; "" where it is common practice.
        score: computes it.
        marked: a finding names the tokens whose score is below this; None: those beyond the bounds.
    """

    name: str
    title: str
    sees: str
    direction: Direction
    level: Level
    needs: tuple[str, ...]
    units: str
    paper: str
    score: Callable[[Evidence, Context], Score]
    marked: float | None = None


def _lowest(values: Tensor) -> Score:
    return _extreme(values, min)


def _extreme(values: Tensor, pick: Callable[[list[float]], float]) -> Score:
    tokens = tuple(values.tolist())
    known = [value for value in tokens if not math.isnan(value)]
    return Score(pick(known) if known else math.nan, tokens)


def _mean(values: Tensor) -> Score:
    return Score(float(values.nanmean()) if len(values) else math.nan)


def _part(value: Tensor | None) -> Tensor:
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


def _absent(found: Iterable[str], known: Iterable[str]) -> Score:
    there = set(known)
    missing = tuple(item for item in dict.fromkeys(found) if item not in there)
    return Score(float(len(missing)), words=missing)


def _unsupported_names(evidence: Evidence, _: Context) -> Score:
    source = set(words_of(evidence.generation.source_text))
    names = names_of(evidence.generation.target_text)
    return _absent(names, [name for name in names if name.casefold() in source])


def _plain_ids(evidence: Evidence) -> list[int]:
    return [token.id for token in evidence.generation.target_tokens if not token.special]


def _copied(evidence: Evidence, _: Context) -> Score:
    ids = _plain_ids(evidence)
    return Score(longest_copy(ids) / len(ids) if ids else 0.0)


def _length_ratio(evidence: Evidence, _: Context) -> Score:
    counts = [
        sum(not token.special for token in side)
        for side in (evidence.generation.source_tokens, evidence.generation.target_tokens)
    ]
    return Score(counts[1] / counts[0] if counts[0] else math.nan)


def _inert(evidence: Evidence, _: Context) -> Score:
    """The share of source tokens that no output token needs; per token what hiding it costs at most."""
    dropped = _part(evidence.dropped)  # [source]
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


def _to_references(evidence: Evidence, context: Context) -> Score:
    if context.references is None:
        return Score(math.nan)
    return Score(context.references.attention_distance(cdf(_part(evidence.attention).mean(0))))


def _doubts(evidence: Evidence, references: References) -> list[float]:
    generation = evidence.generation
    return references.doubt.distance(generation.target_ids.tolist(), doubt(generation.log_probs))


def _informs(evidence: Evidence, references: References) -> list[float]:
    ids, values = evidence.generation.target_ids.tolist(), _part(evidence.information).tolist()
    return references.information.distance(ids, values)


def _supports(evidence: Evidence, references: References) -> list[float]:
    ids, values = evidence.generation.target_ids.tolist(), logarithm(_part(evidence.support))
    return references.support.distance(ids, values)


def _doubted(evidence: Evidence, context: Context) -> Score:
    if context.references is None:
        return Score(math.nan)
    return _extreme(torch.tensor(_doubts(evidence, context.references)), max)


def _unusual(evidence: Evidence, context: Context) -> Score:
    if context.references is None:
        return Score(math.nan)
    return _lowest(torch.tensor(_informs(evidence, context.references)))


def _unsupported(evidence: Evidence, context: Context) -> Score:
    if context.references is None:
        return Score(math.nan)
    return _lowest(torch.tensor(_supports(evidence, context.references)))


def _suspicious(evidence: Evidence, context: Context) -> Score:
    """Doubt, missing information and missing support of every token, each where it is worse than usual."""
    if context.references is None:
        return Score(math.nan)
    doubts = torch.tensor(_doubts(evidence, context.references)).clamp(min=0)
    informs = torch.tensor(_informs(evidence, context.references)).clamp(max=0)
    supports = torch.tensor(_supports(evidence, context.references)).clamp(max=0)
    return _extreme(doubts - informs - supports, max)


def _unneeded(evidence: Evidence, context: Context) -> Score:
    """The source token that is needed least, by what is usual for it; special tokens aside."""
    if context.references is None:
        return Score(math.nan)
    generation = evidence.generation
    ids, values = generation.source_ids.tolist(), logarithm(_part(evidence.dropped))
    distances = context.references.needed.distance(ids, values)
    return _lowest(
        torch.tensor(
            [
                math.nan if token.special else distance
                for token, distance in zip(generation.source_tokens, distances, strict=True)
            ]
        )
    )


def _unseen(evidence: Evidence, context: Context) -> Score:
    if context.words is None:
        return Score(math.nan)
    return _absent(words_of(evidence.generation.target_text), context.words)


_GUERREIRO = "Guerreiro 2023, arXiv:2212.09631"
_ROWS = (
    Detector(
        "log_prob",
        "Mean log-probability",
        "most failures, weakly",
        "low",
        "output",
        ("scores",),
        "nats",
        "Guerreiro 2022, arXiv:2208.05309",
        lambda e, _: _mean(e.generation.log_probs),
    ),
    Detector(
        "log_prob_min",
        "Least likely token",
        "a token that the model doubted",
        "low",
        "token",
        ("scores",),
        "nats",
        "",
        lambda e, _: _lowest(e.generation.log_probs),
    ),
    Detector(
        "entropy",
        "Mean entropy",
        "doubt all along",
        "high",
        "output",
        ("scores",),
        "nats",
        "Fomicheva 2020, arXiv:2005.10608",
        lambda e, _: _mean(e.generation.entropy),
    ),
    Detector(
        "entropy_max",
        "Most doubtful token",
        "doubt at one token",
        "high",
        "token",
        ("scores",),
        "nats",
        "",
        lambda e, _: _extreme(e.generation.entropy, max),
    ),
    Detector(
        "information",
        "Mean information from the source",
        "fabricated, defaulted and detached outputs",
        "low",
        "output",
        ("filled",),
        "nats",
        "pointwise mutual information",
        lambda e, _: _mean(_part(e.information)),
    ),
    Detector(
        "information_min",
        "Token that the source speaks against",
        "a token that is likelier without the source",
        "low",
        "token",
        ("filled",),
        "nats",
        "pointwise mutual information",
        lambda e, _: _lowest(_part(e.information)),
    ),
    Detector(
        "information_unusual",
        "Token less read off the source than usual",
        "fabricated and defaulted fields",
        "low",
        "token",
        ("filled", "references"),
        "standard deviations",
        "",
        _unusual,
    ),
    Detector(
        "source_share",
        "Source share",
        "detached and fabricated outputs",
        "both",
        "output",
        ("filled",),
        "share",
        "Dale 2022, arXiv:2212.08597",
        lambda e, _: _mean(_part(e.share)),
    ),
    Detector(
        "attention_uniform",
        "Attention: distance to uniform",
        "memorised and detached outputs",
        "both",
        "output",
        ("attention",),
        "share of the attention",
        _GUERREIRO,
        lambda e, _: Score(to_uniform(_part(e.attention))),
    ),
    Detector(
        "attention_references",
        "Attention: distance to clean outputs",
        "memorised and detached outputs, omissions",
        "high",
        "output",
        ("attention", "references"),
        "share of the source's length",
        _GUERREIRO,
        _to_references,
    ),
    Detector(
        "inert_source",
        "Source that nothing needs",
        "omissions, memorised outputs",
        "high",
        "source",
        ("hiding",),
        "share",
        "",
        _inert,
        marked=INERT,
    ),
    Detector(
        "doubt_unusual",
        "Token that the model doubts more than usual",
        "fabricated and defaulted fields",
        "high",
        "token",
        ("scores", "references"),
        "standard deviations",
        "",
        _doubted,
    ),
    Detector(
        "token_unusual",
        "Token doubted more, informed and supported less than usual",
        "fabricated and defaulted fields, detached outputs",
        "high",
        "token",
        ("filled", "hiding", "references"),
        "standard deviations, summed",
        "",
        _suspicious,
    ),
    Detector(
        "support_unusual",
        "Token with less support in the source than usual",
        "fabricated and defaulted fields, detached and memorised outputs",
        "low",
        "token",
        ("hiding", "references"),
        "standard deviations",
        "",
        _unsupported,
    ),
    Detector(
        "inert_unusual",
        "Source token needed less than usual",
        "omissions, memorised outputs",
        "low",
        "source",
        ("hiding", "references"),
        "standard deviations",
        "",
        _unneeded,
    ),
    Detector("prefix_copying", "Copy of itself", "loops", "high", "output", ("text",), "share", "", _copied),
    Detector(
        "repetition",
        "Repeated bigrams",
        "loops",
        "high",
        "output",
        ("text",),
        "share",
        "",
        lambda e, _: Score(repetition(_plain_ids(e))),
    ),
    Detector(
        "length_ratio",
        "Length of output to source",
        "omissions, padding, cut outputs",
        "both",
        "output",
        ("text",),
        "tokens per token",
        "",
        _length_ratio,
    ),
    Detector(
        "unsupported_numbers",
        "Numbers not in the source",
        "fabricated figures",
        "high",
        "output",
        ("text",),
        "numbers",
        "",
        lambda e, _: _absent(numbers_of(e.generation.target_text), numbers_of(e.generation.source_text)),
    ),
    Detector(
        "unsupported_names",
        "Names not in the source",
        "fabricated names",
        "high",
        "output",
        ("text",),
        "names",
        "",
        _unsupported_names,
    ),
    Detector(
        "unseen_words",
        "Words never seen in training",
        "broken words",
        "high",
        "output",
        ("text", "words"),
        "words",
        "",
        _unseen,
    ),
)

DETECTORS: Mapping[str, Detector] = MappingProxyType({row.name: row for row in _ROWS})
"""Every detector by name."""

FAST = tuple(name for name, row in DETECTORS.items() if "hiding" not in row.needs)
"""Those that cost a fixed number of passes, whatever the source's length."""


def get(name: str) -> Detector:
    """The detector of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in DETECTORS:
        raise UnknownNameError("detector", name, DETECTORS)
    return DETECTORS[name]


def chosen(names: Iterable[str] | None, context: Context) -> tuple[str, ...]:
    """The detectors to use, in the registry's order; by default the fast ones that have what they need.

    Raises:
        UnknownNameError: there is no such detector.
    """
    wanted = set(FAST if names is None else [get(name).name for name in names])
    found = [name for name in DETECTORS if name in wanted]
    if names is None and context.words is None:
        found = [name for name in found if "words" not in DETECTORS[name].needs]
    return tuple(found)


def needs_of(names: Iterable[str]) -> frozenset[str]:
    """The evidence that detectors need together."""
    return frozenset(need for name in names for need in DETECTORS[name].needs)
