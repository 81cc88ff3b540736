"""What is explained: a number for every output position, from the logits at that position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.families import vocabulary_size
from explain.model.forward import logits_from_ids, project, project_to
from explain.model.hooks import analysed
from explain.results import Alternative, Generation, Token

# (logits [..., target, vocabulary], ids [target]) -> [..., target]
ObjectiveFunction = Callable[[Tensor, Tensor], Tensor]


def _pick(values: Tensor, ids: Tensor) -> Tensor:
    index = ids.to(values.device).expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)


def _log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    return _pick(logits.float().log_softmax(-1), ids)


def _logit(logits: Tensor, ids: Tensor) -> Tensor:
    return _pick(logits.float(), ids)


def _probability(logits: Tensor, ids: Tensor) -> Tensor:
    return _pick(logits.float().softmax(-1), ids)


def _entropy(logits: Tensor, ids: Tensor) -> Tensor:
    log_probs = logits.float().log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def _kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    log_probs = logits.float().log_softmax(-1)
    return (log_probs.exp() * (log_probs - reference.to(log_probs.device))).sum(-1)


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table of objectives: its function, its unit, and whether it looks at the token."""

    function: ObjectiveFunction
    units: str
    of_token: bool = True


OBJECTIVES = {
    "log_prob": Kind(_log_prob, "nats of log-probability"),
    "logit": Kind(_logit, "logits"),
    "probability": Kind(_probability, "probability"),
    "entropy": Kind(_entropy, "nats of entropy", of_token=False),
}

KL = "kl_divergence"
"""Compares with a contrast input: KL(p(·|input, prefix) ‖ p(·|contrast input, prefix)), in nats."""

Objective = str | ObjectiveFunction
"""A name, or a function (logits [..., target, vocabulary], ids [target]) -> [..., target]."""

Span = tuple[int, int]
Positions = int | Span | str | Sequence["int | Span"] | None


@dataclass(frozen=True, eq=False)
class Question:
    """What to explain about one generation.

    Each row of the answer is one number: the objective of a target token, or its sum over a span of them.

    Attributes:
        objective: a name in `OBJECTIVES`, `kl_divergence`, or the name of the user's own function.
        units: what a score of 1 is worth.
        targets: int [target], the tokens that were written.
        foils: int [target], what might have been written instead, or None without a contrast.
        contrasted: bool [target], where there is a foil that differs; all true without a contrast.
        spans: the rows: target tokens [start, end) explained as one, in order and apart.
        function: the user's own objective, or None.
        reference: float [target, vocabulary], log-probabilities given the contrast input, or None.
    """

    objective: str
    units: str
    targets: Tensor
    foils: Tensor | None
    contrasted: Tensor
    spans: tuple[Span, ...]
    function: ObjectiveFunction | None = None
    reference: Tensor | None = None

    @property
    def length(self) -> int:
        """How many target positions matter: nothing after the last row's last token does."""
        return self.spans[-1][1]

    @property
    def every_token(self) -> bool:
        """Each target token is a row of its own."""
        return len(self.spans) == len(self.targets)

    @property
    def is_log_prob(self) -> bool:
        """The rows are the log-probabilities of all target tokens, so nothing else need be computed."""
        plain = self.function is None and self.foils is None and self.objective == "log_prob"
        return plain and self.every_token

    def __call__(self, logits: Tensor) -> Tensor:
        """The explained numbers: logits [..., target, vocabulary] -> [..., rows].

        The target axis may end early, at `length`.
        """
        where = self._positions
        return self._rows(self._values(logits if self._whole(logits) else logits[..., where, :], where))

    def of_hidden(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        """The explained numbers from decoder output: hidden [..., target, width] -> [..., rows].

        Only positions of a row are projected, and only the rows of the output matrix that the objective
        reads: a logit, or a difference of log-probabilities, needs no softmax over the vocabulary.
        """
        where = self._positions
        hidden = hidden if self._whole(hidden) else hidden[..., where, :]
        linear = self.objective == "logit" or (self.objective == "log_prob" and self.foils is not None)
        if not linear or self.function is not None:
            return self._rows(self._values(project(hf, hidden), where))
        value = project_to(hf, hidden, self.targets[where].to(hidden.device)).float()
        if self.foils is not None:
            foil = project_to(hf, hidden, self.foils[where].to(hidden.device)).float()
            value = self._where_contrasted(value - foil, where)
        return self._rows(value)

    @property
    def _positions(self) -> list[int]:
        return [position for start, end in self.spans for position in range(start, end)]

    def _whole(self, values: Tensor) -> bool:
        """No position of [..., target, something] is left out."""
        return values.shape[-2] == sum(end - start for start, end in self.spans)

    def _values(self, logits: Tensor, where: list[int]) -> Tensor:
        """Logits [..., positions, vocabulary] of the positions `where` -> [..., positions]."""
        ids = self.targets[where]
        if self.function is not None:
            value = self.function(logits, ids.to(logits.device))
            if not isinstance(value, Tensor) or value.shape != logits.shape[:-1]:
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"the objective {self.objective} returned {found}; it must return a tensor of shape "
                    f"{tuple(logits.shape[:-1])}, a number for every position"
                )
            if logits.requires_grad and not value.requires_grad:
                raise InputError(
                    f"the objective {self.objective} does not depend on the logits by differentiable steps: "
                    "there is no gradient to explain; perturbation methods need none"
                )
            return value.float()
        if self.reference is not None:
            return _kl_divergence(logits, self.reference[where])
        function = OBJECTIVES[self.objective].function
        value = function(logits, ids)
        if self.foils is None:
            return value
        return self._where_contrasted(value - function(logits, self.foils[where]), where)

    def _where_contrasted(self, difference: Tensor, where: list[int]) -> Tensor:
        contrasted = self.contrasted[where].to(difference.device)
        return torch.where(contrasted, difference, torch.zeros_like(difference))

    def _rows(self, values: Tensor) -> Tensor:
        if values.shape[-1] == len(self.spans):
            return values
        sizes = [end - start for start, end in self.spans]
        return torch.stack([part.sum(-1) for part in values.split(sizes, dim=-1)], dim=-1)


Foil = str | int | Token | Alternative
"""A foil: a text, a token's id, or a token or alternative of a generation."""

Contrast = Foil | Mapping[int, Foil]
"""What stands against the output: one foil, or single target tokens' own foils by position."""


def question(
    model: Seq2Seq,
    generation: Generation,
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    *,
    contrast_span: Span | None = None,
    contrast_input: str | None = None,
    positions: Positions = None,
) -> Question:
    """Check the objective and line a foil up with the output.

    Foils by position are explained at those positions alone, unless `positions` says otherwise.

    A foil of one token, or of one word, stands against every output token (a word that is several tokens is
    represented by its first). A longer foil is aligned by position after leading special tokens such as
    language codes, or from the start of `contrast_span`; positions past its end, outside the span, or where
    it says the same have nothing to contrast and score 0.

    Raises:
        UnknownNameError: no such objective.
        InputError: a contrast that this objective cannot take, or that never differs from the output; a
            missing or needless contrast input; positions outside the output.
    """
    name = objective if isinstance(objective, str) else getattr(objective, "__name__", "custom")
    function = None if isinstance(objective, str) else objective
    if function is None and name not in (*OBJECTIVES, KL):
        raise UnknownNameError("objective", name, (*OBJECTIVES, KL))
    if (function is None and name == KL) != (contrast_input is not None):
        raise InputError(f"the objective {KL} and a contrast input belong together; give both or neither")
    targets = generation.target_ids
    foils, contrasted = None, torch.ones(len(targets), dtype=torch.bool)
    if contrast is None and contrast_span is not None:
        raise InputError("a contrast span without a contrast; say what stands against the span")
    if contrast is not None:
        if function is not None or name == KL or not OBJECTIVES[name].of_token:
            raise InputError(f"the objective {name} is not about one token, so it takes no contrast")
        if isinstance(contrast, Mapping):
            if contrast_span is not None:
                raise InputError("foils by position say where they stand; they take no contrast span")
            found = _foils_by_position(model, generation, contrast)
            positions = sorted((found >= 0).nonzero()[:, 0].tolist()) if positions is None else positions
        else:
            found = _aligned_foils(model, generation, contrast, contrast_span)
        contrasted = (found >= 0) & (found != targets)
        if not contrasted.any():
            raise InputError(
                f"the contrast {contrast_text(contrast)!r} says the same as the output everywhere"
            )
        foils = found.clamp_min(0)
    units = OBJECTIVES[name].units if function is None and name != KL else f"units of {name}"
    return Question(
        objective=name,
        units="nats of divergence" if contrast_input is not None else units,
        targets=targets,
        foils=foils,
        contrasted=contrasted,
        spans=spans_of(positions, len(targets)),
        function=function,
        reference=None if contrast_input is None else _reference(model, generation, contrast_input),
    )


def spans_of(positions: Positions, length: int) -> tuple[Span, ...]:
    """The rows to explain: None is every token, `"output"` all as one, else tokens and [start, end) spans.

    Raises:
        InputError: positions outside the output, empty, or that overlap.
    """
    if positions is None:
        return tuple((p, p + 1) for p in range(length))
    if isinstance(positions, str) and positions == "output":
        return ((0, length),)
    if isinstance(positions, (str, bytes)) or not isinstance(positions, (int, Sequence)):
        raise InputError(f"positions {positions!r}: give a token's number, a (start, end) pair, or 'output'")
    pair = isinstance(positions, tuple) and len(positions) == 2 and all(isinstance(p, int) for p in positions)
    items: Sequence[Any] = [positions] if isinstance(positions, int) or pair else positions
    spans = sorted(_span(item, length) for item in items)
    if not spans or any(left[1] > right[0] for left, right in pairwise(spans)):
        raise InputError("positions are empty or overlap; name each target token once")
    return tuple(spans)


def _span(item: Any, length: int) -> Span:
    """A token's number or a pair, counted from the end where negative, as [start, end)."""
    if isinstance(item, int) and not isinstance(item, bool):
        start = item + length if item < 0 else item
        end = start + 1
    elif isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(p, int) for p in item):
        start, end = (p + length if p < 0 else p for p in item)
    else:
        raise InputError(f"position {item!r} is neither a token's number nor a (start, end) pair")
    if not 0 <= start < end <= length:
        raise InputError(f"position {item!r} is outside the output of {length} tokens, or empty")
    return start, end


@torch.no_grad()
def _reference(model: Seq2Seq, generation: Generation, contrast_input: str) -> Tensor:
    """Log-probabilities [target, vocabulary] of the same prefix after the contrast input."""
    source = model.source_ids(contrast_input)[None].to(model.device)
    decoder = generation.decoder_input_ids[None].to(model.device)
    with model.lock, analysed(model.hf):
        return logits_from_ids(model.hf, source, torch.ones_like(source), decoder)[0].float().log_softmax(-1)


def contrast_text(contrast: Contrast) -> str:
    """A contrast as text, for records and messages."""
    if isinstance(contrast, Mapping):
        return ", ".join(f"{place}: {contrast_text(foil)}" for place, foil in sorted(contrast.items()))
    return contrast if isinstance(contrast, str) else str(getattr(contrast, "text", contrast))


def _foils_by_position(model: Seq2Seq, generation: Generation, contrast: Mapping[int, Foil]) -> Tensor:
    """Foil ids [target]; -1 where there is none."""
    found = torch.full((len(generation.target_tokens),), -1)
    for place, foil in contrast.items():
        start, end = _span(place, len(found))
        found[start:end] = _aligned_foils(model, generation, foil, (start, end))[start:end]
    return found


def _aligned_foils(
    model: Seq2Seq, generation: Generation, contrast: Foil, contrast_span: Span | None
) -> Tensor:
    """Foil ids [target]; -1 where there is none."""
    tokens = generation.target_tokens
    if contrast_span is not None:
        start, end = _span(contrast_span, len(tokens))
        places = torch.arange(len(tokens))
        found = _foils_from(model, generation, contrast, start, ends=False)
        return torch.where((places >= start) & (places < end), found, -1)
    # Language codes and the like are no answer to "why this rather than that"; EOS at the end may be.
    lead = next((i for i, token in enumerate(tokens) if not token.special), 0)
    return _foils_from(model, generation, contrast, lead, ends=True)


def _foils_from(model: Seq2Seq, generation: Generation, contrast: Foil, lead: int, *, ends: bool) -> Tensor:
    """Foil ids [target] from position `lead` on; a longer foil that `ends` the output is followed by EOS."""
    tokens, text = generation.target_tokens, generation.target_text
    rest = len(tokens) - lead
    if not isinstance(contrast, str):
        id_ = contrast if isinstance(contrast, int) else getattr(contrast, "id", None)
        if not isinstance(id_, int) or not 0 <= id_ < vocabulary_size(model.hf):
            raise InputError(f"{contrast!r} is no contrast; give a text, an id, or one of alternatives()")
        return torch.tensor([*[-1] * lead, *[id_] * rest])
    # A word inside a sentence is often another token than the same word at its start (" le" and "le").
    opening, inner = model.foil_ids(contrast.strip()), model.foil_ids(f" {contrast.strip()}")
    one_word = not any(c.isspace() for c in contrast.strip()) and any(c.isspace() for c in text.strip())
    if one_word or 1 in (len(opening), len(inner)):
        opening_id = opening[0] if len(opening) == 1 or len(inner) > 1 else inner[0]
        inner_id = inner[0] if len(inner) == 1 or len(opening) > 1 else opening[0]
        spaced = [token.start > 0 and text[token.start - 1].isspace() for token in tokens[lead:]]
        return torch.tensor([*[-1] * lead, *[inner_id if after else opening_id for after in spaced]])
    inside = tokens[lead].start > 0 and text[tokens[lead].start - 1].isspace()
    ids = [*opening, model.eos_id] if ends else list(inner if inside else opening)
    ids = ids[:rest]
    return torch.tensor([*[-1] * lead, *ids, *[-1] * (rest - len(ids))])
