"""Methods that read the model's own computation: attention, value vectors, hidden states, relevance."""

from explain.attribution.internals import attention

METHODS = (*attention.METHODS,)

__all__ = ["METHODS"]
