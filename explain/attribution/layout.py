"""From what a method computed to an `Attribution`: rows and columns of the same tokens, with evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from explain.attribution.objectives import Contrast, Question, Span, contrast_text
from explain.attribution.registry import Method, Scores
from explain.results import Attribution, Generation
from explain.results.tokens import merge_tokens


def result(
    row: Method,
    generation: Generation,
    question: Question,
    scores: Scores,
    *,
    foil: Contrast | None,
    value: Tensor,  # [rows]
    log_probs: Tensor,  # [target]
    config: Mapping[str, Any],
    model_digest: str,
) -> Attribution:
    """The attribution of one generation.

    Where only some positions were asked for, or several as one, the target tokens of a row become one token,
    and tokens that nobody asked about keep a row of zeros, with nan for its evidence.
    """
    if not row.objective and not question.every_token:
        scores = _averaged(scores, question.spans)
    groups = _partition(question.spans, len(generation.target_tokens))
    undefined = torch.full((len(question.spans),), torch.nan)

    def per_row(found: Tensor | None) -> Tensor:
        return _spread(undefined if found is None else found.float().cpu(), groups, torch.nan)

    prefix = torch.stack(
        [scores.prefix[:, start:end].sum(1) for (start, end), _ in groups], dim=1
    )  # [rows, groups]
    prefix = _spread(prefix.float().cpu(), groups, 0.0)
    config = {**config, **(scores.used or {})}
    if foil is not None:
        config["contrasted"] = question.contrasted.tolist()
    if not question.every_token:
        config["positions"] = [list(span) for span in question.spans]
    return Attribution(
        method=row.name,
        objective=question.objective if row.objective else "",
        contrast=None if foil is None else contrast_text(foil),
        units=question.units if row.objective else "share",
        signed=row.signed,
        source_text=generation.source_text,
        target_text=generation.target_text,
        source_tokens=generation.source_tokens,
        target_tokens=tuple(
            merge_tokens(generation.target_tokens, range(*span), generation.target_text)
            if span[1] - span[0] > 1
            else generation.target_tokens[span[0]]
            for span, _ in groups
        ),
        source=_spread(scores.source.float().cpu(), groups, 0.0),
        prefix=prefix.tril(-1),
        start=_spread(scores.start.float().cpu(), groups, 0.0),
        within=prefix.diagonal().clone(),
        value=per_row(value if row.objective else None),
        baseline_value=per_row(scores.baseline_value),
        completeness_error=per_row(scores.completeness_error),
        log_probs=torch.stack([log_probs[start:end].sum() for (start, end), _ in groups]),
        config=config,
        model_digest=model_digest,
        level="token" if len(groups) == len(generation.target_tokens) else "span",
    )


def _partition(spans: Sequence[Span], length: int) -> list[tuple[Span, int | None]]:
    """All target tokens in order as groups: the rows with their number, the tokens between with None."""
    groups: list[tuple[Span, int | None]] = []
    begin = 0
    for number, (start, end) in enumerate(spans):
        groups += [((p, p + 1), None) for p in range(begin, start)]
        groups.append(((start, end), number))
        begin = end
    return groups + [((p, p + 1), None) for p in range(begin, length)]


def _spread(rows: Tensor, groups: Sequence[tuple[Span, int | None]], absent: float) -> Tensor:
    """Rows [rows, ...] -> [groups, ...], with `absent` where nothing was asked."""
    if len(rows) == len(groups):
        return rows
    spread = torch.full((len(groups), *rows.shape[1:]), absent)
    for place, (_, number) in enumerate(groups):
        if number is not None:
            spread[place] = rows[number]
    return spread


def _averaged(scores: Scores, spans: Sequence[Span]) -> Scores:
    """Rows of tokens -> rows of spans; without an objective there is nothing to add up, so it is averaged."""

    def mean(values: Tensor) -> Tensor:
        return torch.stack([values[start:end].mean(0) for start, end in spans])

    return Scores(
        mean(scores.source),
        mean(scores.prefix),
        mean(scores.start),
        used=scores.used,
        log_probs=scores.log_probs,
    )
