"""What both sides of the benchmark measure themselves with: rows, peak memory, seconds.

Imported in our environment and in inseq's, so it needs torch and nothing else.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Rows:
    """Counts of rows, a row being one sequence of a batch.

    Attributes:
        encoder, decoder: rows that went forward through the stack (through each of its layers: half of the
            layers is half a row). A forward-mode pass carries its tangents along and counts once.
        backward: rows whose gradient was asked for: the batch of the inputs, times the vectors of a
            batched gradient.
    """

    def __init__(self) -> None:
        self.encoder = self.decoder = self.backward = 0.0

    def as_list(self) -> list[float]:
        """Encoder, decoder and backward rows."""
        return [round(self.encoder, 1), round(self.decoder, 1), round(self.backward, 1)]


def _layers(stack: nn.Module) -> nn.ModuleList:
    return stack.layers if hasattr(stack, "layers") else stack.block  # pyright: ignore


@contextmanager
def counted(model: nn.Module) -> Iterator[Rows]:
    """Count the rows of a Hugging Face encoder–decoder as long as the block runs."""
    rows, handles, original = Rows(), [], torch.autograd.grad

    def hook(side: str, share: float) -> Callable[..., None]:
        def count(module: nn.Module, given: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            setattr(rows, side, getattr(rows, side) + share * states.shape[0])

        return count

    def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *rest: Any, **options: Any) -> Any:
        first = inputs if isinstance(inputs, Tensor) else inputs[0]
        vectors = 1
        if options.get("is_grads_batched"):
            vectors = (grad_outputs if isinstance(grad_outputs, Tensor) else grad_outputs[0]).shape[0]
        rows.backward += first.shape[0] * vectors
        return original(outputs, inputs, grad_outputs, *rest, **options)

    for side, stack in (("encoder", model.get_encoder()), ("decoder", model.get_decoder())):  # pyright: ignore
        layers = _layers(stack)
        handles += [layer.register_forward_hook(hook(side, 1 / len(layers))) for layer in layers]
    torch.autograd.grad = grad
    try:
        yield rows
    finally:
        torch.autograd.grad = original
        for handle in handles:
            handle.remove()


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field}")


def peak_memory(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """What a call returns, and by how many bytes the process's resident memory rose at its highest.

    Linux resets the high-water mark on request; unused heap is handed back first, so that memory left over
    from earlier calls does not hide what this one needs. None where the system cannot tell.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return call(), None
    result = call()
    return result, max(_status("VmHWM") - before, 0)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result
