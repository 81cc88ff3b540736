"""Work in chunks that fit a memory budget, halved when the memory runs out all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from explain.errors import ExplainError
from explain.model import Seq2Seq
from explain.model.families import layers, vocabulary_size

DEFAULT = 1 << 30
"""Bytes that a method may use beside the model unless told otherwise: 1 GiB."""

Result = TypeVar("Result")


class TooLargeError(ExplainError):
    """Not even one row of an input fits into memory."""


def forward_row_bytes(model: Seq2Seq, source: int, target: int, *, vocabulary: bool = True) -> int:
    """About how many bytes one row of a forward pass without a graph needs at its peak."""
    config = model.hf.config
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    longest = max(source, target)
    blocks = 3 * heads * longest * longest + longest * (6 * width + 2 * _inner(config))
    logits = 3 * target * vocabulary_size(model.hf) if vocabulary else 0
    return _bytes(model) * (max(blocks, logits) + 2 * source * width)


def graph_row_bytes(model: Seq2Seq, source: int, target: int) -> int:
    """About how many bytes one row of a forward pass keeps for its backward passes."""
    config = model.hf.config
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    encoder, decoder = (len(layers(model.hf, side)) for side in (model.family.encoder, model.family.decoder))
    inner = _inner(config)
    kept = encoder * (2 * heads * source * source + source * (8 * width + 2 * inner))
    kept += decoder * (2 * heads * target * (source + target) + target * (12 * width + 2 * inner))
    kept += decoder * 2 * source * width + 3 * target * vocabulary_size(model.hf)
    return _bytes(model) * kept


def backward_row_bytes(model: Seq2Seq, source: int, target: int) -> int:
    """About how many bytes one backward row needs at its peak, the gradients of the inputs included."""
    config = model.hf.config
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    longest = max(source, target)
    blocks = 3 * heads * longest * longest + longest * (6 * width + 2 * _inner(config))
    return _bytes(model) * (max(blocks, 2 * target * vocabulary_size(model.hf)) + (source + target) * width)


def _inner(config: object) -> int:
    """The widest feed-forward layer."""
    return max(int(getattr(config, name, 0) or 0) for name in ("d_ff", "encoder_ffn_dim", "decoder_ffn_dim"))


def _bytes(model: Seq2Seq) -> int:
    # Objectives and normalisations are computed in float32 whatever the weights are.
    return max(4, model.hf.dtype.itemsize)


def rows_within(budget: int, row_bytes: int, most: int) -> int:
    """How many rows of `row_bytes` fit the budget: at least 1, at most `most`."""
    return max(1, min(most, budget // max(1, row_bytes)))


def in_chunks(total: int, rows: int, run: Callable[[slice], Result]) -> Iterator[tuple[slice, Result]]:
    """Run `run(slice)` over `total` rows, `rows` at a time; halve the chunk when memory runs out.

    Raises:
        TooLargeError: not even one row fits.
    """
    begin = 0
    while begin < total:
        part = slice(begin, min(begin + rows, total))
        try:
            result = run(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise TooLargeError("not even one row of this input fits into memory") from error
            rows = max(1, min(rows, total - begin) // 2)
            continue
        yield part, result
        begin = part.stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in ("allocate memory", "out of memory", "not enough memory")
    )
