"""The detectors: what each looks at in an output, and what its one number means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from explain.audit import scores
from explain.audit.evidence import Evidence
from explain.audit.scores import (
    INERT,
    Context,
    Score,
    longest_copy,
    names_of,
    numbers_of,
    repetition,
    to_uniform,
    words_of,
)
from explain.errors import UnknownNameError

__all__ = [
    "DETECTORS",
    "FAST",
    "INERT",
    "Context",
    "Detector",
    "Direction",
    "Level",
    "Score",
    "chosen",
    "get",
    "longest_copy",
    "names_of",
    "needs_of",
    "numbers_of",
    "repetition",
    "to_uniform",
    "words_of",
]

Direction = Literal["low", "high", "both"]
Level = Literal["output", "token", "source"]


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
        lambda e, _: scores.mean(e.generation.log_probs),
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
        lambda e, _: scores.lowest(e.generation.log_probs),
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
        lambda e, _: scores.mean(e.generation.entropy),
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
        lambda e, _: scores.extreme(e.generation.entropy, max),
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
        lambda e, _: scores.mean(scores.gathered(e.information)),
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
        lambda e, _: scores.lowest(scores.gathered(e.information)),
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
        scores.unusual,
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
        lambda e, _: scores.mean(scores.gathered(e.share)),
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
        lambda e, _: Score(scores.to_uniform(scores.gathered(e.attention))),
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
        scores.to_references,
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
        scores.inert,
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
        scores.doubted,
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
        scores.suspicious,
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
        scores.unsupported,
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
        scores.unneeded,
    ),
    Detector(
        "prefix_copying", "Copy of itself", "loops", "high", "output", ("text",), "share", "", scores.copied
    ),
    Detector(
        "repetition",
        "Repeated bigrams",
        "loops",
        "high",
        "output",
        ("text",),
        "share",
        "",
        lambda e, _: Score(scores.repetition(scores.plain_ids(e))),
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
        scores.length_ratio,
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
        lambda e, _: scores.absent(
            scores.numbers_of(e.generation.target_text), scores.numbers_of(e.generation.source_text)
        ),
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
        scores.unsupported_names,
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
        scores.unseen,
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
