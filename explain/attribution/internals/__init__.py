"""Methods that read the model's own computation: attention, value vectors, hidden states, relevance."""

from explain.attribution.internals import (
    attention,
    attention_gradient,
    decomposition,
    relevance,
    value_zeroing,
)

METHODS = (
    *attention.METHODS,
    *attention_gradient.METHODS,
    *decomposition.METHODS,
    *value_zeroing.METHODS,
    *relevance.METHODS,
)

__all__ = ["METHODS"]
