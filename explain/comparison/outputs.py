"""The same forced outputs on another model, and how the outputs themselves differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.comparison.figures import OutputChange
from explain.comparison.samples import Sample
from explain.errors import InputError
from explain.evaluation.stability import forced_on
from explain.model import Seq2Seq
from explain.model.forward import batches
from explain.model.generation import score
from explain.model.hooks import analysed
from explain.results import Generation


def same_outputs(model: Seq2Seq, generations: Sequence[Generation], other: Seq2Seq) -> list[Generation]:
    """The outputs of `model` in the ids of `other`, token by token the same.

    Raises:
        InputError: the other model's tokenizer cuts a text into other tokens, or does not know a word.
    """
    try:
        return forced_on(model, generations, other)
    except InputError as error:
        raise InputError(
            f"{other.name} cannot be compared with {model.name}: both must read the same tokens ({error})"
        ) from None


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model makes of one forced output: log-probabilities [target] in nats, and its first choices."""

    log_probs: Tensor
    choices: tuple[str, ...]


def scored(model: Seq2Seq, generations: Sequence[Generation], batch_size: int = 32) -> list[Scored]:
    """Score forced outputs by their ids, whichever model wrote them.

    First choices are pieces of the vocabulary, so that they can be compared between models that number them
    otherwise.
    """
    found: dict[int, Scored] = {}
    with model.lock, analysed(model.hf):
        for part in batches(generations, batch_size):
            some = [generations[i] for i in part]
            values = score(
                model.hf,
                [item.source_ids for item in some],
                [item.decoder_input_ids for item in some],
                [item.target_ids for item in some],
            )
            for index, value in zip(part, values, strict=True):
                pieces = model.tokenizer.convert_ids_to_tokens(value.top_ids[:, 0].tolist())
                found[index] = Scored(value.log_probs, tuple(map(str, pieces)))
    return [found[i] for i in range(len(generations))]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model writes for all sources, and what it makes of the forced outputs."""

    texts: tuple[str, ...]
    scores: tuple[Scored, ...]


@dataclass(frozen=True, eq=False)
class OutputRows:
    """The numbers of one pair of models behind an `OutputChange`."""

    agreement: Sample
    token_agreement: Sample
    log_prob_change: Sample
    exact_match_a: Sample
    exact_match_b: Sample
    exact_match_change: Sample


def output_rows(a: Outputs, b: Outputs, right: Sequence[str]) -> OutputRows:
    """Compare the outputs of two models; `right` are the right ones, "" where there is none."""

    def matches(texts: Sequence[str]) -> list[float]:
        return [
            float(text == wanted) if wanted else math.nan for text, wanted in zip(texts, right, strict=True)
        ]

    first, second = matches(a.texts), matches(b.texts)
    pairs = list(zip(a.scores, b.scores, strict=True))
    return OutputRows(
        agreement=Sample.each(float(x == y) for x, y in zip(a.texts, b.texts, strict=True)),
        token_agreement=Sample.of(
            [
                torch.tensor([float(m == n) for m, n in zip(x.choices, y.choices, strict=True)])
                for x, y in pairs
            ]
        ),
        log_prob_change=Sample.of([y.log_probs - x.log_probs for x, y in pairs]),
        exact_match_a=Sample.each(first),
        exact_match_b=Sample.each(second),
        exact_match_change=Sample.each(y - x for x, y in zip(first, second, strict=True)),
    )


def output_change(pairs: Sequence[OutputRows], seed: int = 0) -> OutputChange:
    """The figures of one pair, or of several pooled."""

    def pooled(name: str) -> Sample:
        return Sample.joined(getattr(pair, name) for pair in pairs)

    return OutputChange(
        **{name: pooled(name).estimate(seed) for name in OutputRows.__dataclass_fields__},
    )
