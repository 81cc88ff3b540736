"""Recipes: what a small model looks like and how it learns, per task, per size of a user's data.

The numbers were found by trying. Models of 64 dimensions learn the tasks in about a minute of one CPU thread
when they begin with larger weights than Hugging Face gives a BART (`init_std=0.1`) and take large steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from explain.errors import InputError, UnknownNameError
from explain.training.config import FAMILIES, OPTIMIZERS, Family


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model made from scratch; `layers` is per side."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 256
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How a model learns.

    Attributes:
        family: the family of a model made from scratch; "" where one is given.
        shape: its size.
        learning_rate: the highest learning rate.
        schedule: what follows the warm-up: `cosine` or `linear` towards 0, or `constant`.
        warmup: number of steps in which the learning rate rises from 0.
        steps: number of optimiser steps; 0 means `epochs` decides.
        epochs: number of times that every pair is seen.
        batch_size: pairs per step.
        optimizer: `adam` or `adamw`.
        betas: decay of the optimiser's two averages.
        epsilon: the optimiser's smallest denominator.
        clip: largest norm of the gradient; 0 does not clip.
        masking: share of source tokens hidden behind the mask token while training.
        label_smoothing: share of probability spread over all tokens.
        examples: number of pairs that a task draws; a data file gives what it has.
        accumulate: parts that each step's pairs are computed in, one after another.
        bf16: whether to compute in bfloat16; weights and optimiser stay in float32.
        gradient_checkpointing: whether to compute activations again instead of keeping them.
        patience: evaluations in a row without a better score after which to end; 0 is never.
        rates: (step, highest learning rate after it), where it was changed on the way.
        denoise_steps: number of steps on texts without labels before those on pairs.
    """

    family: str = "bart"
    shape: Shape = Shape()
    learning_rate: float = 3e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 100
    steps: int = 0
    epochs: float = 1.0
    batch_size: int = 64
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-9
    clip: float = 1.0
    masking: float = 0.1
    label_smoothing: float = 0.0
    examples: int = 20_000
    accumulate: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    patience: int = 0
    rates: tuple[tuple[int, float], ...] = ()
    denoise_steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The recipe as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Read a recipe back from its JSON object."""
        fields = dict(data)
        fields["shape"] = Shape(**fields["shape"])
        fields["betas"] = tuple(fields["betas"])
        fields["rates"] = tuple((int(step), float(rate)) for step, rate in fields.get("rates", ()))
        return cls(**fields)

    def with_rate(self, step: int, rate: float) -> Recipe:
        """The recipe with another highest learning rate after a step; what was planned for later is kept."""
        rates = sorted([*self.rates, (step, rate)], key=lambda pair: pair[0])
        return dataclasses.replace(self, rates=tuple(rates))

    def with_changes(self, **changes: Any) -> Recipe:
        """The recipe with the changes that are not None; steps and epochs replace one another."""
        given = {name: value for name, value in changes.items() if value is not None}
        if "epochs" in given and "steps" not in given:
            given["steps"] = 0
        recipe = dataclasses.replace(self, **given)
        _check(recipe)
        return recipe


def _check(recipe: Recipe) -> None:
    if recipe.optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", recipe.optimizer, OPTIMIZERS)
    if recipe.steps < 0 or recipe.epochs <= 0:
        raise InputError("the number of steps or epochs must be above 0")
    if recipe.batch_size < 1:
        raise InputError(f"the batch size must be at least 1, got {recipe.batch_size}")
    if recipe.accumulate < 1 or recipe.clip < 0 or recipe.patience < 0:
        raise InputError("accumulate must be at least 1; clip and patience at least 0")
    if not (math.isfinite(recipe.learning_rate) and recipe.learning_rate > 0):
        raise InputError(f"the learning rate must be above 0, got {recipe.learning_rate}")


_TASKS: Mapping[tuple[str, str], Recipe] = {
    ("translate", "bart"): Recipe(steps=1_000),
    ("translate", "t5"): Recipe(family="t5", learning_rate=5e-3, steps=2_000),
    ("invoice", "bart"): Recipe(learning_rate=2e-3, schedule="linear", steps=1_500),
    ("invoice", "t5"): Recipe(family="t5", learning_rate=5e-3, steps=1_200),
    ("clinic", "bart"): Recipe(learning_rate=2e-3, schedule="linear", steps=1_500),
    ("clinic", "t5"): Recipe(family="t5", learning_rate=5e-3, steps=1_000),
}
_FAMILY_OF_TASK: Mapping[str, Family] = {"translate": "bart", "invoice": "t5", "clinic": "t5"}


def for_task(task: str, family: str | None = None) -> Recipe:
    """The recipe that learns a task; an unknown task gets that of `translate`."""
    family = _known_family(family or _FAMILY_OF_TASK.get(task, "bart"))
    return _TASKS.get((task, family), _TASKS["translate", family])


def for_file(pairs: int, family: str | None = None) -> Recipe:
    """A recipe for a model from scratch on a user's file: larger, and with dropout, as there are more pairs.

    Args:
        pairs: number of pairs to train on.
        family: `bart` or `t5`.
    """
    family = _known_family(family or "bart")
    if pairs < 1_000:
        shape = Shape(dropout=0.1)
    elif pairs < 10_000:
        shape = Shape(width=128, layers=2, heads=4, hidden=512, dropout=0.2)
    else:
        shape = Shape(width=192, layers=3, heads=4, hidden=768, dropout=0.1)
    return Recipe(
        family=family,
        shape=shape,
        learning_rate=2e-3 if family == "bart" else 5e-3,
        warmup=200,
        # About 3,000 steps; with little data a few hundred, with very much one round.
        epochs=round(min(200.0, max(1.0, 200_000 / pairs)), 1),
        masking=0.05,
        label_smoothing=0.1,
    )


def for_model() -> Recipe:
    """The recipe that trains a given model further: Adam as torch has it, at 5e-5, falling to 0."""
    return Recipe(
        family="",
        learning_rate=5e-5,
        schedule="linear",
        warmup=0,
        epochs=3,
        batch_size=16,
        betas=(0.9, 0.999),
        epsilon=1e-8,
        masking=0.0,
    )


def _known_family(name: str) -> Family:
    for family in FAMILIES:
        if family == name:
            return family
    raise UnknownNameError("family", name, FAMILIES)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, positions: int) -> PreTrainedModel:
    """A new model with random weights (from torch's generator) for this tokenizer.

    Args:
        recipe: says the family and the shape.
        tokenizer: gives the vocabulary and the special tokens.
        positions: the longest text in tokens (T5 has no such limit).
    """
    shape = recipe.shape
    start = tokenizer.pad_token_id if recipe.family == "t5" else tokenizer.eos_token_id
    tokens: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "decoder_start_token_id": start,
    }
    if recipe.family == "t5":
        config = T5Config(
            **tokens,
            d_model=shape.width,
            d_kv=shape.width // shape.heads,
            d_ff=shape.hidden,
            num_layers=shape.layers,
            num_heads=shape.heads,
            dropout_rate=shape.dropout,
        )
        model: PreTrainedModel = T5ForConditionalGeneration(config)
    else:
        config = BartConfig(
            **tokens,
            d_model=shape.width,
            encoder_layers=shape.layers,
            decoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=shape.hidden,
            decoder_ffn_dim=shape.hidden,
            dropout=shape.dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            max_position_embeddings=positions,
            init_std=0.1 * math.sqrt(64 / shape.width),
            scale_embedding=False,
            forced_eos_token_id=None,
        )
        model = BartForConditionalGeneration(config)
    # Not max_length: transformers warns whoever then asks for a number of new tokens.
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=positions - 2,
    )
    return model


def build_optimizer(recipe: Recipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over the parameters that are to learn, in one fused call where torch can."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True)


def build_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """The learning rate's course over `steps` steps: a rise over the warm-up, then the schedule."""
    return LambdaLR(optimizer, course(recipe, steps))


def course(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """The learning rate by step, as a multiple of the one that the recipe begins with.

    Warm-up and schedule say which share of the highest learning rate a step takes, anew for denoising and for
    what follows it; `recipe.rates` says what the highest is after which step.
    """
    first = recipe.denoise_steps

    def share(step: int) -> float:
        return _share(recipe, step, first) if step < first else _share(recipe, step - first, steps - first)

    def factor(step: int) -> float:
        changed = [rate for after, rate in recipe.rates if after <= step]
        return share(step) * changed[-1] / recipe.learning_rate if changed else share(step)

    return factor


def _share(recipe: Recipe, step: int, steps: int) -> float:
    """The share of the highest learning rate that one of `steps` steps takes."""
    warmup = min(recipe.warmup, steps // 5)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if recipe.schedule == "linear" else 1.0
