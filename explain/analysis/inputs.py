"""What the analyses ask of their inputs before they run the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.families import vocabulary_size
from explain.results import Generation

Progress = Callable[[int, int], None]


def require_same_vocabulary(model: Seq2Seq, generations: Sequence[Generation]) -> None:
    """Refuse outputs with ids that the model has no embedding for.

    Raises:
        InputError: there is one.
    """
    size = vocabulary_size(model.hf)
    for generation in generations:
        if max(int(generation.source_ids.max()), int(generation.target_ids.max())) >= size:
            raise InputError("this output was written with another vocabulary than the model's")


def require_batch_size(size: int) -> None:
    """Refuse a batch size below 1.

    Raises:
        InputError: it is.
    """
    if not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size is {size!r}; it must be at least 1")
