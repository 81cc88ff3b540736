"""Presets: sizes of models from scratch, with the learning rate and the first weights that each learns with.

A BART learns from scratch with larger first weights than Hugging Face gives it, a T5 with a higher learning
rate than it is fine-tuned with (see `explain.training.recipes`); the wider the model, the smaller the steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from explain.errors import UnknownNameError
from explain.training.recipes import Recipe, Shape

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "tiny": Shape(width=64, layers=2, heads=4, hidden=256),
        "small": Shape(width=256, layers=4, heads=4, hidden=1024, dropout=0.1),
        "base": Shape(width=512, layers=6, heads=8, hidden=2048, dropout=0.1),
    }
)
"""By name: about 0.4, 8 and 45 million parameters, with a vocabulary of 2,000 tokens."""

_RATES = {"bart": 3e-3, "t5": 5e-3}
_WIDTH = 64
# Twelve layers whose norms come after the sum, as BART's do, stay at the frequencies of the tokens (6.2 nats
# on Multi30k) with the 1e-3 that the rule below gives them, and leave them behind with this.
_DEEP_RATES = {("base", "bart"): 3e-4}


def resize(recipe: Recipe, preset: str) -> Recipe:
    """The recipe with a preset's shape, and the learning rate and warm-up that go with it.

    Raises:
        UnknownNameError: there is no such preset.
    """
    if preset not in SHAPES:
        raise UnknownNameError("preset", preset, SHAPES)
    shape = SHAPES[preset]
    ratio = shape.width / _WIDTH
    return dataclasses.replace(
        recipe,
        shape=shape,
        learning_rate=_DEEP_RATES.get((preset, recipe.family), _RATES[recipe.family] / math.sqrt(ratio)),
        warmup=round(100 * math.sqrt(ratio)),
    )
