"""From options to what training needs: pairs, tokens, a model, a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from explain.errors import InputError, ModelError, TextTooLongError
from explain.files import digest_json
from explain.model.int8 import is_int8
from explain.model.loading import open_model
from explain.model.text import special_ids
from explain.training import presets, recipes, tasks
from explain.training.batches import Batches, MixedBatches, StagedBatches
from explain.training.config import TrainConfig, read_rates
from explain.training.data import Pair, digest
from explain.training.denoising import ROW, DenoisingBatches, count_spans, pack, sentinel_ids
from explain.training.material import Material, Share, of_files, read_texts
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
    """All that training needs.

    Attributes:
        recipe: how to train.
        model: the model to train.
        tokenizer: its tokenizer.
        train: pairs to train on; those of a mixture task by task.
        validation: pairs to score.
        steps: number of steps, those on texts without labels included.
        digest: of all that is learnt from and scored.
        chrf: whether chrF says how good an output is.
        forced_bos: the first token of every output, such as a language code.
        shares: the tasks of a mixture; none where there is one.
        validation_tasks: for each validation pair its task's number in `shares`.
        texts: rows of token ids of texts without labels, without the ends of the texts.
        notes: what is worth a line in the log.
        facts: fields for `run.json`.
    """

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: Any
    train: Encoded
    validation: Encoded
    steps: int
    digest: str
    chrf: bool
    forced_bos: int | None
    shares: tuple[Share, ...] = ()
    validation_tasks: tuple[int, ...] = ()
    texts: Sequence[Sequence[int]] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def validation_of(self, task: int) -> Encoded:
        """The validation pairs of a mixture's task."""
        rows = [row for row, number in enumerate(self.validation_tasks) if number == task]
        part = self.validation
        return Encoded(
            [part.pairs[row] for row in rows],
            [part.inputs[row] for row in rows],
            [part.labels[row] for row in rows],
        )


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
        material = Material(*_task_pairs(config.task, recipe, seed))
    else:
        material = of_files(config)
        recipe = recipe or _changed(_file_recipe(config, material.train), config)
    texts = read_texts(config)
    set_seed(seed)
    origin = str(checkpoint) if checkpoint is not None else config.init
    if origin is None:
        model, tokenizer, encoded, rows = _from_scratch(recipe, material, texts, config)
    else:
        model, tokenizer, _ = open_model(origin, device="cpu")
        if is_int8(model):
            raise ModelError(
                f"{origin} is in int8, which no training can change: its steps are smaller than what int8 "
                "tells apart; train the original, then quantise"
            )
        _set_languages(tokenizer, config)
        encoded = _encode_pairs(tokenizer, material.train, material.validation)
        _check_tokens(encoded, model)
        rows = _encode_texts(tokenizer, texts, getattr(model.config, "max_position_embeddings", None))
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
        steps=recipe.denoise_steps + (recipe.steps or _steps(recipe, len(material.train))),
        digest=_digest(material, texts),
        chrf=config.task is None,
        forced_bos=forced_bos,
        shares=material.shares,
        validation_tasks=material.validation_tasks[: len(validation.pairs)],
        texts=rows,
        notes=material.notes,
        facts=material.facts,
    )


def plan(data: Prepared, seed: int) -> Batches:
    """The batch of every step: on texts without labels first, if there are any, then on the pairs.

    Raises:
        ModelError: the tokenizer lacks the sentinels that denoising needs.
    """
    recipe, tokenizer = data.recipe, data.tokenizer
    options: dict[str, Any] = {
        "steps": data.steps - recipe.denoise_steps,
        "batch_size": recipe.batch_size,
        "seed": seed,
        "pad_id": tokenizer.pad_token_id,
        "mask_id": tokenizer.mask_token_id,
        "masking": recipe.masking,
        "keep": special_ids(tokenizer),
    }
    pairs = data.train.inputs, data.train.labels
    if data.shares:
        sizes, rates = [share.train for share in data.shares], [share.rate for share in data.shares]
        last: Batches = MixedBatches(*pairs, sizes=sizes, rates=rates, **options)
    else:
        last = Batches(*pairs, **options)
    if not recipe.denoise_steps:
        return last
    first = DenoisingBatches(
        data.texts,
        sentinel_ids(tokenizer),
        steps=recipe.denoise_steps,
        batch_size=recipe.batch_size,
        seed=seed,
        pad_id=tokenizer.pad_token_id,
        eos_id=tokenizer.eos_token_id,
    )
    return StagedBatches(first, last)


def _digest(material: Material, texts: Sequence[str]) -> str:
    """The digest of all that is learnt from; of pairs alone it is theirs."""
    pairs = digest([*material.train, *material.validation])
    if not (material.shares or texts):
        return pairs
    return digest_json([pairs, [[share.train, share.rate] for share in material.shares], list(texts)])


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
    material = of_files(config)
    return material.train, material.validation


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], model: PreTrainedModel) -> Encoded:
    """Pairs with the ids that `model` reads and is to write.

    Raises:
        ExplainError: pairs that the model has no tokens or no positions for; nothing is cut.
    """
    encoded = _encoded(tokenizer, pairs)
    _check_tokens((encoded,), model)
    return encoded


def _changed(recipe: Recipe, config: TrainConfig) -> Recipe:
    if config.preset is not None:
        recipe = presets.resize(recipe, config.preset)
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
        denoise_steps=config.denoise_steps,
    )


def _task_pairs(name: str, recipe: Recipe, seed: int) -> Split:
    """The pairs of a task; all seeds share the held-out ones, so that models can be compared."""
    task = tasks.get(name)
    needed = recipe.steps * recipe.batch_size or recipe.examples
    train = task.examples("train", min(recipe.examples, needed), seed)
    held_out = task.examples("held_out", VALIDATION, 0)
    return [Pair(one.source, one.target) for one in train], [Pair(one.source, one.target) for one in held_out]


def _file_recipe(config: TrainConfig, train: Sequence[Pair]) -> Recipe:
    return recipes.for_model() if config.init else recipes.for_file(len(train), config.family)


def _encode_pairs(
    tokenizer: Any, train: Sequence[Pair], validation: Sequence[Pair]
) -> tuple[Encoded, Encoded]:
    return _encoded(tokenizer, train), _encoded(tokenizer, validation[:VALIDATION])


def _encoded(tokenizer: Any, pairs: Sequence[Pair]) -> Encoded:
    inputs, labels = encode(tokenizer, [pair.source for pair in pairs], [pair.target for pair in pairs])
    return Encoded(pairs, inputs, labels)


def _encode_texts(tokenizer: Any, texts: Sequence[str], positions: int | None) -> list[list[int]]:
    """Texts without labels, in rows that the model has positions for once a sentinel and the end are in."""
    inputs, _ = encode(tokenizer, texts, [""] * len(texts))
    longest = ROW if positions is None else min(ROW, positions - 1)
    rows = pack(inputs, tokenizer.eos_token_id, longest)
    if texts and not rows:
        raise InputError("no text to denoise (--denoise) has two tokens; spans cannot be hidden in them")
    return rows


def _from_scratch(
    recipe: Recipe, material: Material, texts: Sequence[str], config: TrainConfig
) -> tuple[PreTrainedModel, Any, tuple[Encoded, Encoded], list[list[int]]]:
    words = [text for pair in material.train for text in (pair.source, pair.target)] + list(texts)
    tokenizer = build_tokenizer(
        words,
        _TASK_VOCABULARY if config.task is not None else choose_vocabulary(words),
        config.tokenizer or "bpe",
        sentinels=1 + count_spans(ROW)[1] if texts else 0,
    )
    encoded = _encode_pairs(tokenizer, material.train, material.validation)
    rows = _encode_texts(tokenizer, texts, None)
    longest = max(len(row) for part in encoded for row in [*part.inputs, *part.labels])
    longest = max([longest, *(len(row) + 1 for row in rows)])
    # Room for texts somewhat longer than those seen.
    positions = max(_FEWEST_POSITIONS, -(-longest // 16) * 16)
    tokenizer.model_max_length = positions if recipe.family == "bart" else max(positions, _T5_LENGTH)
    return recipes.build_model(recipe, tokenizer, positions), tokenizer, encoded, rows


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
