"""A look at the model while it trains, that changes nothing of the training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from explain.runs import Run


class Watch(Protocol):
    """Someone who looks at the model before the first step, at the steps that are due, and after the last.

    What is found is kept in the run folder, a file for each step: a resumed run goes back to its last
    checkpoint and looks again at the steps after it, at the same weights, so that the file is written anew.
    """

    def due(self, step: int) -> bool:
        """Whether to look after this step; step 0 and the last one are always looked at."""
        ...

    def look(self, model: PreTrainedModel, tokenizer: Any, step: int, run: Run) -> None:
        """Look at the model, which is in evaluation mode; random numbers drawn here are not training's."""
        ...


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode; then give back modes, gradients and random states.

    A model that trains in bfloat16 computes in float32 meanwhile, as it will when it is done.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    mixed = model.__dict__.pop("forward", None) if hasattr(model, "_original_forward") else None
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        model.eval()
        yield
    finally:
        if mixed is not None:
            model.forward = mixed
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_cuda:
            torch.cuda.set_rng_state_all(on_cuda)
