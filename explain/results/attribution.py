"""A feature attribution: what every source token and every earlier target token did to each target token."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explain.errors import InputError
from explain.results.grouping import (
    LEVELS,
    REDUCTIONS,
    Partition,
    Reduction,
    checked_partition,
    partition_of,
    reduction,
)
from explain.results.sentences import group_sentences
from explain.results.tokens import Token, group_words, merge_tokens

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


# Of a smaller difference between input and baseline no share can be told.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of source and prefix for each target token, with the evidence for them.

    Attributes:
        method: name in `explain.methods()`.
        objective: what was explained: `log_prob`, `logit`, `probability`, `entropy`; `""` when the method
            explains no objective (attention).
        contrast: the foil text, or None; scores then explain objective(token) - objective(foil).
        units: what a score of 1 means, in words.
        signed: scores below 0 count against the target token; else all are at least 0.
        source: float [target, source].
        prefix: float [target, target]; entry [t, u] is the effect of target token u on target token t and
            is 0 for u >= t.
        start: float [target], the effect of the decoder-start token.
        within: float [target], effects between the tokens of one group (the subwords of a word); 0 before
            `group()`.
        value: float [target], the objective with the whole input; nan without an objective.
        baseline_value: float [target], the objective at the baseline; nan where the method has none.
        completeness_error: float [target], |sum of scores - (value - baseline_value)| over
            |value - baseline_value|; 0 is exact, nan where undefined.
        log_probs: float [target], nats.
        config: every setting that shaped the numbers.
        level: what a row and a column stand for: `token`, `span`, `word` or `sentence`.
    """

    method: str
    objective: str
    contrast: str | None
    units: str
    signed: bool
    source_text: str
    target_text: str
    source_tokens: tuple[Token, ...]
    target_tokens: tuple[Token, ...]
    source: Tensor
    prefix: Tensor
    start: Tensor
    within: Tensor
    value: Tensor
    baseline_value: Tensor
    completeness_error: Tensor
    log_probs: Tensor
    config: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str = ""
    level: str = "token"

    def __post_init__(self) -> None:
        target, source = len(self.target_tokens), len(self.source_tokens)
        shapes: dict[str, tuple[int, ...]] = {"source": (target, source), "prefix": (target, target)}
        for name in ("start", "within", "value", "baseline_value", "completeness_error", "log_probs"):
            shapes[name] = (target,)
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(f"{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if target and float(self.prefix.triu().abs().max()) > 0:
            raise InputError("prefix scores must be causal: entry [t, u] is 0 for u >= t")

    @property
    def converged(self) -> Tensor:
        """Bool [target]: the completeness error is defined and within the tolerance asked for."""
        return self.completeness_error <= float(self.config.get("tolerance", 0.01))

    @property
    def source_share(self) -> Tensor:
        """Float [target]: what of each row's score came from the source, Σ source / (Σ source + Σ prefix).

        1 is all from the source, 0 all from what was already written; outside 0 to 1 the two pull in opposite
        directions. The decoder start and `within` are not counted. The first row, which has no prefix, is 1.
        nan where the two add up to 0 (less than 1e-9 either way): then there is nothing to share out.
        """
        source, prefix = self.source.double().sum(1), self.prefix.double().sum(1)
        both = source + prefix
        return torch.where(both.abs() < 1e-9, torch.nan, source / both).float()

    def group(
        self,
        source_groups: Partition | None = None,
        target_groups: Partition | None = None,
        *,
        over: str = "sum",
        level: str = "span",
    ) -> Attribution:
        """The same attribution between groups of tokens.

        `over` reduces the effects of the tokens that cause: `sum` keeps their sign and what they add up to,
        `mean` is their average, `max_abs` the one furthest from 0, with its sign. Over the tokens that are
        explained, effects are summed where the method explains an objective (the log-probability of a word is
        the sum over its subwords), and averaged where it does not (attention); that comes first. Effects
        between tokens of one group go to `within`.

        Only sums can be checked against the objective: with another reduction `completeness_error` is nan.
        `config["grouped"]` tells what was done.

        Args:
            source_groups: a partition of the source tokens: lists that hold every index once and in
                order; None leaves every token alone.
            target_groups: the same for the target tokens.
            over: `sum`, `mean` or `max_abs`.
            level: what the groups are: `token`, `span`, `word` or `sentence`.

        Raises:
            InputError: the groups are no partition, or there is no such level.
            UnknownNameError: there is no such reduction.
        """
        if level not in LEVELS:
            raise InputError(f"level is {level!r}; it is one of {', '.join(LEVELS)}")
        across = reduction(over)
        columns = _checked(source_groups, len(self.source_tokens), "source_groups")
        rows = _checked(target_groups, len(self.target_tokens), "target_groups")
        down = REDUCTIONS["sum" if self.objective else "mean"]

        def explained(scores: Tensor, reduce: Reduction) -> Tensor:
            columns = scores.double() if scores.dim() == 2 else scores.double()[:, None]
            return reduce(columns.T, rows).T

        def number(values: Tensor) -> Tensor:
            return explained(values, REDUCTIONS["sum"])[:, 0]

        source = across(explained(self.source, down), columns)
        prefix = across(explained(self.prefix + self.within.diag(), down), rows)
        start = explained(self.start, down)[:, 0]
        value, base = number(self.value), number(self.baseline_value)
        known = number(self.completeness_error)
        error = _completeness(source.sum(1) + prefix.sum(1) + start, value, base)
        # A token that stays alone keeps its error, which its method may know better than float32 sums.
        error = torch.where(torch.tensor([len(row) == 1 for row in rows], dtype=torch.bool), known, error)
        undefined = known.isnan() | (over != "sum")
        return replace(
            self,
            source_tokens=_merged(self.source_tokens, columns, self.source_text, level),
            target_tokens=_merged(self.target_tokens, rows, self.target_text, level),
            source=source.float(),
            prefix=prefix.tril(-1).float(),
            start=start.float(),
            within=prefix.diagonal().float(),
            value=value.float(),
            baseline_value=base.float(),
            completeness_error=torch.where(undefined, torch.nan, error).float(),
            log_probs=number(self.log_probs).float(),
            config={**self.config, "grouped": [*self.config.get("grouped", ()), f"{level}: {over}"]},
            level=level,
        )

    def words(self, *, over: str = "sum") -> Attribution:
        """The same attribution between words: subwords merged on both axes; see `group` and `group_words`.

        Raises:
            InputError: the attribution is between sentences, which cannot be taken apart.
            UnknownNameError: there is no such reduction.
        """
        reduction(over)
        if self.level == "word":
            return self
        if self.level == "sentence":
            raise InputError("this attribution is between sentences; make words from the one between tokens")
        source = group_words(self.source_tokens, self.source_text)
        return self.group(source, group_words(self.target_tokens, self.target_text), over=over, level="word")

    def sentences(self, *, over: str = "sum") -> Attribution:
        """The same attribution between sentences of both texts; see `group` and `group_sentences`.

        Raises:
            UnknownNameError: there is no such reduction.
        """
        reduction(over)
        if self.level == "sentence":
            return self
        source = group_sentences(self.source_tokens, self.source_text)
        target = group_sentences(self.target_tokens, self.target_text)
        return self.group(source, target, over=over, level="sentence")

    def spans(
        self,
        source: Sequence[tuple[int, int]] = (),
        target: Sequence[tuple[int, int]] = (),
        *,
        over: str = "sum",
    ) -> Attribution:
        """The same attribution with the tokens [a, b) of each span merged, and every other token alone.

        Raises:
            InputError: a span is empty, outside the tokens, or overlaps another.
            UnknownNameError: there is no such reduction.
        """
        columns = partition_of(source, len(self.source_tokens), "source")
        return self.group(columns, partition_of(target, len(self.target_tokens), "target"), over=over)

    def top(self, step: int, k: int = 5) -> list[tuple[str, int, float]]:
        """The k strongest influences on target token `step`, as (side, index, score), strongest first."""
        scores = [("source", i, x) for i, x in enumerate(self.source[step].tolist())]
        scores += [("prefix", u, x) for u, x in enumerate(self.prefix[step, :step].tolist())]
        return sorted(scores, key=lambda item: -abs(item[2]))[:k]

    def to_dict(self) -> dict[str, Any]:
        """The attribution as the JSON object of `explain/attribution@1`, without the envelope."""
        return {
            "method": self.method,
            "objective": self.objective,
            "contrast": self.contrast,
            "units": self.units,
            "signed": self.signed,
            "level": self.level,
            "config": dict(self.config),
            "source_text": self.source_text,
            "target_text": self.target_text,
            "source": [token.to_dict() for token in self.source_tokens],
            "target": [token.to_dict() for token in self.target_tokens],
            "source_scores": self.source.tolist(),
            "prefix_scores": self.prefix.tolist(),
            "start_scores": self.start.tolist(),
            "within_scores": self.within.tolist(),
            "value": self.value.tolist(),
            "baseline_value": self.baseline_value.tolist(),
            "completeness_error": self.completeness_error.tolist(),
            "log_probs": self.log_probs.tolist(),
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Attribution:
        """Read an attribution back from its JSON object; null stands for nan."""
        target, source = len(data["target"]), len(data["source"])

        def tensor(name: str, *shape: int) -> Tensor:
            return torch.tensor(_numbers(data[name]), dtype=torch.float32).reshape(shape)

        return cls(
            method=data["method"],
            objective=data["objective"],
            contrast=data["contrast"],
            units=data["units"],
            signed=data["signed"],
            level=data["level"],
            config=data["config"],
            source_text=data["source_text"],
            target_text=data["target_text"],
            source_tokens=tuple(Token.from_dict(item) for item in data["source"]),
            target_tokens=tuple(Token.from_dict(item) for item in data["target"]),
            source=tensor("source_scores", target, source),
            prefix=tensor("prefix_scores", target, target),
            start=tensor("start_scores", target),
            within=tensor("within_scores", target),
            value=tensor("value", target),
            baseline_value=tensor("baseline_value", target),
            completeness_error=tensor("completeness_error", target),
            log_probs=tensor("log_probs", target),
            model_digest=data["model_digest"],
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of a target token and what may have influenced it.

        Columns describe the target token (`target_…`), the `side` (`source`, `prefix`, `start`), the
        influencing token (`index`, `text`, `id`, …), the `score`, and the target token's evidence.
        """
        from explain.results.formats import to_frame

        return to_frame(self)

    def save(self, path: str | Path) -> Path:
        """Write to `.json`, `.csv`, `.parquet`, `.safetensors` (all read back) or `.html` (a page).

        Raises:
            InputError: the ending is none of these.
            FileError: the file cannot be written.
        """
        from explain.results.formats import save

        return save(self, path)

    def plot(self) -> Figure:
        """A Plotly heat map, targets down, source and prefix across."""
        return _report().plots.attribution_map(self)

    def to_html(self) -> str:
        """One offline HTML page with the maps and how to read them."""
        return _report().attribution_page(self)


def load_attribution(path: str | Path) -> Attribution:
    """Read an attribution written by `Attribution.save`.

    Raises:
        InputError: the ending is not one that can be read back.
        FileError: the file is missing, broken or of another kind.
    """
    from explain.results.formats import load

    return load(path)


def _report() -> Any:
    # Drawing lives in a room above this one and is bound by name, late, so that imports go only down.
    return importlib.import_module("explain.report")


def _checked(groups: Partition | None, size: int, name: str) -> list[list[int]]:
    return [[i] for i in range(size)] if groups is None else checked_partition(groups, size, name)


def _merged(
    tokens: Sequence[Token], groups: Sequence[Sequence[int]], text: str, level: str
) -> tuple[Token, ...]:
    """One token for each group; words and sentences lose the white space round them."""
    strip = level in ("word", "sentence")
    return tuple(
        tokens[group[0]] if len(group) == 1 and not strip else merge_tokens(tokens, group, text)
        for group in groups
    )


def _completeness(total: Tensor, value: Tensor, base: Tensor) -> Tensor:
    difference = value - base
    error = (total - difference).abs() / difference.abs()
    return torch.where(difference.abs() > _SAME, error, torch.nan)


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float("nan") if value is None else value
