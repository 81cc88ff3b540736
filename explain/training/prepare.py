"""From options to what training needs: pairs, tokens, a model, a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from explain.errors import InputError, ModelError, TextTooLongError
from explain.model.int8 import is_int8
from explain.model.loading import open_model
from explain.model.text import special_ids
from explain.training import recipes, tasks
from explain.training.config import TrainConfig, read_rates
from explain.training.data import Pair, digest, read_table, shuffle, split
from explain.training.recipes import Recipe
from explain.training.scoring import Encoded
from explain.training.tokenizer import build_tokenizer, choose_vocabulary, encode

VALIDATION = 1_000
"""Number of pairs that the last evaluation scores, at most."""

_TASK_VOCABULARY = 2_000
_FEWEST_POSITIONS = 64
_T5_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that training needs."""

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: Any
    train: Encoded
    validation: Encoded
    steps: int
    digest: str
    chrf: bool
    forced_bos: int | None


def prepare(config: TrainConfig, *, checkpoint: Path | None = None, recipe: Recipe | None = None) -> Prepared:
    """Read or draw the pairs, make or open the model, and encode.

    Args:
        config: the options.
        checkpoint: where a resumed run takes model and tokenizer from.
        recipe: the recipe that a resumed run was begun with.

    Raises:
        ExplainError: data or model that cannot be used; each kind has its own class.
    """
    config.check()
    seed = config.seed or 0
    if config.task is not None:
        recipe = recipe or _changed(
            recipes.for_model() if config.init else recipes.for_task(config.task, config.family), config
        )
        pairs = _task_pairs(config.task, recipe, seed)
    else:
        pairs = _file_pairs(config, seed)
        recipe = recipe or _changed(_file_recipe(config, pairs[0]), config)
    set_seed(seed)
    origin = str(checkpoint) if checkpoint is not None else config.init
    if origin is None:
        model, tokenizer, encoded = _from_scratch(recipe, *pairs, task=config.task is not None)
    else:
        model, tokenizer, _ = open_model(origin, device="cpu")
        if is_int8(model):
            raise ModelError(
                f"{origin} is in int8, which no training can change: its steps are smaller than what int8 "
                "tells apart; train the original, then quantise"
            )
        _set_languages(tokenizer, config)
        encoded = _encode_pairs(tokenizer, *pairs)
        _check_tokens(encoded, model)
    train, validation = encoded
    forced_bos = _forced_bos(tokenizer, train)
    if forced_bos is not None:
        model.generation_config.forced_bos_token_id = forced_bos
    return Prepared(
        recipe=recipe,
        model=model,
        tokenizer=tokenizer,
        train=train,
        validation=validation,
        steps=recipe.steps or _steps(recipe, len(pairs[0])),
        digest=digest([*pairs[0], *pairs[1]]),
        chrf=config.task is None,
        forced_bos=forced_bos,
    )


def _steps(recipe: Recipe, pairs: int) -> int:
    """Steps that the recipe's epochs make."""
    per_epoch = -(-pairs // min(recipe.batch_size, pairs))
    return max(1, round(recipe.epochs * per_epoch))


Split = tuple[list[Pair], list[Pair]]


def read_pairs(config: TrainConfig, count: int) -> Split:
    """The pairs that training with these options would see (of a task the first `count`), and those held out.

    Raises:
        ExplainError: a task or data that cannot be used.
    """
    seed = config.seed or 0
    if config.task is not None:
        return _task_pairs(config.task, Recipe(examples=count), seed)
    return _file_pairs(config, seed)


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], model: PreTrainedModel) -> Encoded:
    """Pairs with the ids that `model` reads and is to write.

    Raises:
        ExplainError: pairs that the model has no tokens or no positions for; nothing is cut.
    """
    encoded = _encoded(tokenizer, pairs)
    _check_tokens((encoded,), model)
    return encoded


def _changed(recipe: Recipe, config: TrainConfig) -> Recipe:
    return recipe.with_changes(
        steps=config.steps,
        epochs=config.epochs,
        learning_rate=config.lr,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        accumulate=config.accumulate,
        clip=config.clip,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        patience=config.patience,
        rates=read_rates(config.lr_at) or None,
    )


def _task_pairs(name: str, recipe: Recipe, seed: int) -> Split:
    """The pairs of a task; all seeds share the held-out ones, so that models can be compared."""
    task = tasks.get(name)
    needed = recipe.steps * recipe.batch_size or recipe.examples
    train = task.examples("train", min(recipe.examples, needed), seed)
    held_out = task.examples("held_out", VALIDATION, 0)
    return [Pair(one.source, one.target) for one in train], [Pair(one.source, one.target) for one in held_out]


def _file_pairs(config: TrainConfig, seed: int) -> Split:
    assert config.data is not None
    columns = (config.source_column, config.target_column)
    pairs = read_table(config.data, *columns)
    if config.validation is None:
        train, validation = split(pairs, seed=seed)
    else:
        train, validation = pairs, read_table(config.validation, *columns)
    # Files are often sorted; the sample scored while training goes on should be like the rest.
    return train, shuffle(validation)


def _file_recipe(config: TrainConfig, train: Sequence[Pair]) -> Recipe:
    return recipes.for_model() if config.init else recipes.for_file(len(train), config.family)


def _encode_pairs(
    tokenizer: Any, train: Sequence[Pair], validation: Sequence[Pair]
) -> tuple[Encoded, Encoded]:
    return _encoded(tokenizer, train), _encoded(tokenizer, validation[:VALIDATION])


def _encoded(tokenizer: Any, pairs: Sequence[Pair]) -> Encoded:
    inputs, labels = encode(tokenizer, [pair.source for pair in pairs], [pair.target for pair in pairs])
    return Encoded(pairs, inputs, labels)


def _from_scratch(
    recipe: Recipe, train: Sequence[Pair], validation: Sequence[Pair], *, task: bool
) -> tuple[PreTrainedModel, Any, tuple[Encoded, Encoded]]:
    texts = [text for pair in train for text in (pair.source, pair.target)]
    tokenizer = build_tokenizer(texts, _TASK_VOCABULARY if task else choose_vocabulary(texts))
    encoded = _encode_pairs(tokenizer, train, validation)
    longest = max(len(row) for part in encoded for row in [*part.inputs, *part.labels])
    # Room for texts somewhat longer than those seen.
    positions = max(_FEWEST_POSITIONS, -(-longest // 16) * 16)
    tokenizer.model_max_length = positions if recipe.family == "bart" else max(positions, _T5_LENGTH)
    return recipes.build_model(recipe, tokenizer, positions), tokenizer, encoded


def _check_tokens(encoded: tuple[Encoded, ...], model: PreTrainedModel) -> None:
    """Refuse pairs that the model has no tokens or no positions for; nothing is cut."""
    limit = getattr(model.config, "max_position_embeddings", None) or math.inf
    embeddings: Any = model.get_input_embeddings()
    known = embeddings.weight.shape[0]
    for part in encoded:
        for number, rows in enumerate(zip(part.inputs, part.labels, strict=True), start=1):
            for side, row in zip(("source", "target"), rows, strict=True):
                if max(row, default=0) >= known:
                    raise ModelError(
                        f"the tokenizer gives token {max(row)} and the model has only {known} tokens: "
                        "they do not belong together"
                    )
                if len(row) > limit:
                    raise TextTooLongError(
                        f"pair {number}: its {side} has {len(row)} tokens, the model {limit} positions; "
                        f"shorten it or take it out ({getattr(part.pairs[number - 1], side)[:40]!r} …)"
                    )


def _set_languages(tokenizer: Any, config: TrainConfig) -> None:
    """Set the languages for good: the tokenizer is ours, and is saved with the model."""
    known = getattr(tokenizer, "lang_code_to_id", None) or tokenizer.get_vocab()
    for name, value in (("src_lang", config.source_language), ("tgt_lang", config.target_language)):
        if value is None:
            continue
        if not hasattr(tokenizer, name):
            raise InputError(f"this model's tokenizer has no languages; leave {value!r} out")
        if value not in known and f"__{value}__" not in known:
            raise InputError(f"the tokenizer knows no language {value!r}")
        setattr(tokenizer, name, value)
    if hasattr(tokenizer, "tgt_lang") and tokenizer.tgt_lang is None:
        raise InputError("a multilingual model must be told the language of the targets (--target-language)")


def _forced_bos(tokenizer: Any, data: Encoded) -> int | None:
    """The special token that every target begins with, such as the language code of mBART-50 or NLLB."""
    first = {row[0] for row in data.labels}
    special = special_ids(tokenizer) - {tokenizer.eos_token_id, tokenizer.pad_token_id}
    return first.pop() if len(first) == 1 and first <= special else None
