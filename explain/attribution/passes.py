"""The passes that methods share: the explained numbers from embeddings, with no vocabulary row in vain."""

from __future__ import annotations

from torch import Tensor

from explain.attribution.objectives import Question
from explain.model import Seq2Seq
from explain.model.forward import hidden_of, logits_from_states, projection_hooked


def values_from_states(
    model: Seq2Seq,
    question: Question,
    states: Tensor,  # [n, source, width], encoder output
    target: Tensor,  # [n, target, width], decoder embeddings; may end at `question.length`
    source_mask: Tensor,  # [n, source]
    target_mask: Tensor | None = None,  # [n, target]
) -> Tensor:
    """The explained numbers [n, rows] of n versions of an input whose encoder output is known."""
    hf, family = model.hf, model.family
    if projection_hooked(hf):
        return question(logits_from_states(hf, states, target, source_mask, target_mask))
    return question.of_hidden(hf, hidden_of(hf, family, states, target, source_mask, target_mask))


def values_from_hidden(
    model: Seq2Seq,
    question: Question,
    hidden: Tensor,  # [n, target, width], decoder output
    states: Tensor,  # [n, source, width]
    target: Tensor,  # [n, target, width]
    source_mask: Tensor,  # [n, source]
) -> Tensor:
    """The explained numbers [n, rows] from decoder output; a model whose output is hooked runs as a whole."""
    end = question.length
    if projection_hooked(model.hf):
        return question(logits_from_states(model.hf, states, target[:, :end], source_mask))
    return question.of_hidden(model.hf, hidden[:, :end])
