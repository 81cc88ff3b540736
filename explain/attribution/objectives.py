"""What is explained: a number for every output position, from the logits at that position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.families import vocabulary_size
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


@dataclass(frozen=True, eq=False)
class Question:
    """What to explain about one generation.

    Attributes:
        objective: a name in `OBJECTIVES`.
        targets: int [target], the tokens that were written.
        foils: int [target], what might have been written instead, or None without a contrast.
        contrasted: bool [target], where there is a foil that differs; all true without a contrast.
    """

    objective: str
    targets: Tensor
    foils: Tensor | None
    contrasted: Tensor

    @property
    def units(self) -> str:
        """What a score of 1 is worth."""
        return OBJECTIVES[self.objective].units

    def __call__(self, logits: Tensor) -> Tensor:
        """The explained number at every position: logits [..., target, vocabulary] -> [..., target]."""
        function = OBJECTIVES[self.objective].function
        value = function(logits, self.targets)
        if self.foils is None:
            return value
        difference = value - function(logits, self.foils)
        return torch.where(self.contrasted.to(value.device), difference, torch.zeros_like(difference))


Foil = str | int | Token | Alternative
"""A foil: a text, a token's id, or a token or alternative of a generation."""


def question(model: Seq2Seq, generation: Generation, objective: str, contrast: Foil | None) -> Question:
    """Check the objective and line a foil up with the output.

    A foil of one token, or of one word, stands against every output token (a word that is several tokens is
    represented by its first). A longer foil is aligned by position after leading special tokens such as
    language codes; positions past its end, or where it says the same, have nothing to contrast and score 0.

    Raises:
        UnknownNameError: no such objective.
        InputError: a contrast that this objective cannot take, or that never differs from the output.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    targets = generation.target_ids
    everywhere = torch.ones(len(targets), dtype=torch.bool)
    if contrast is None:
        return Question(objective, targets, None, everywhere)
    if not OBJECTIVES[objective].of_token:
        raise InputError(f"the objective {objective} is not about one token, so it takes no contrast")
    foils = _aligned_foils(model, generation, contrast)
    differs = (foils >= 0) & (foils != targets)
    if not differs.any():
        raise InputError(f"the contrast {foil_text(contrast)!r} says the same as the output everywhere")
    return Question(objective, targets, foils.clamp_min(0), differs)


def foil_text(contrast: Foil) -> str:
    """A foil as text, for records and messages."""
    return contrast if isinstance(contrast, str) else str(getattr(contrast, "text", contrast))


def _aligned_foils(model: Seq2Seq, generation: Generation, contrast: Foil) -> Tensor:
    """Foil ids [target]; -1 where there is none."""
    tokens, text = generation.target_tokens, generation.target_text
    # Language codes and the like are no answer to "why this rather than that"; EOS at the end may be.
    lead = next((i for i, token in enumerate(tokens) if not token.special), 0)
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
    ids = [*opening, model.eos_id][:rest]
    return torch.tensor([*[-1] * lead, *ids, *[-1] * (rest - len(ids))])
