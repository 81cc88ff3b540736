"""The same kind of model with fewer parts, weights taken over by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from explain.model.families import Family, Side


def rebuilt(
    hf: PreTrainedModel, changes: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> PreTrainedModel:
    """A model of the same class with a changed configuration and these weights, in evaluation mode.

    Args:
        hf: the model that says the class, the rest of the configuration, dtype and device.
        changes: entries of the configuration.
        weights: every entry of the new model's state, with shapes that fit the configuration.
    """
    config = copy.deepcopy(hf.config)
    for name, value in changes.items():
        setattr(config, name, value)
    make: Any = type(hf)
    with torch.random.fork_rng(devices=[]):
        made = make(config)
    made.load_state_dict(dict(weights))
    made.generation_config = copy.deepcopy(hf.generation_config)
    return made.to(device=hf.device, dtype=hf.dtype).eval()


def layer_prefix(side: Side, layer: int) -> str:
    """What the names of a layer's weights begin with."""
    return f"{side.stack}.{side.layers}.{layer}."


def is_t5(family: Family) -> bool:
    """T5's configuration has one number of heads for both stacks, and one of neurons; its heads have a width.

    In the others a head's width is the model's width over the number of heads, so no head can be taken out.
    """
    return family.name == "T5"
