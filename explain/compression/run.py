"""Compressing a model in a run folder: quantise, prune or distil, then measure what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from explain.analysis.importance import head_importance
from explain.compression import distil, prune
from explain.compression.config import CompressConfig, parse_head
from explain.compression.figures import FILE, Accuracy, Compression, size_of, speed_of
from explain.errors import InputError
from explain.files import remove_folder
from explain.model import Seq2Seq, load
from explain.model.families import max_positions, vocabulary_size
from explain.model.int8 import is_int8, quantised
from explain.model.loading import resolve_path
from explain.runs import Run, is_run
from explain.training import recipes
from explain.training.config import CHECKPOINTS
from explain.training.data import digest
from explain.training.loop import Shaping
from explain.training.prepare import encode_pairs, read_pairs
from explain.training.recipes import Recipe
from explain.training.record import Progress
from explain.training.scoring import Encoded, score
from explain.training.train import MODEL, learn, put_in_order, quietly, save_model

START = "start"
"""Folder of the model that training begins with, gone when the run is done."""

_EXAMPLES = 64
"""Training pairs that importance by gradient is averaged over."""

_FINETUNE = 1 / 3
"""Share of the highest learning rate that fine-tuning after pruning begins with."""

_PAIRS = 20_000
_DISTIL_RATE = 3e-4


def compress(
    config: CompressConfig, run: Run, progress: Progress | None = None, *, resume: bool = False
) -> Compression | None:
    """Compress a model as `config` says in the folder of `run` (from `open_run`), and measure the result.

    The original is opened and never written to. The run ends as `done` with `model/`, a model folder like
    any other, and `compression.json`; asked to stop while it trains, it ends as `stopped` and can be resumed.

    Args:
        config: the options, from `open_run`.
        run: the run folder.
        progress: called with every record of training.
        resume: go on from the last checkpoint of training.

    Returns:
        What was measured; None where the run was stopped.

    Raises:
        InputError: options that the model does not allow, such as more layers than it has.
        ExplainError: a model or data that cannot be used.
        KeyboardInterrupt: after Ctrl-C.
    """
    result = None
    with run.running(), quietly():
        put_in_order(run.path / MODEL)
        original = load(config.model)
        if is_int8(original.hf):
            raise InputError(f"{config.model} is in int8 already; compress the original instead")
        data = _Pairs(config, original)
        origin = _origin_recipe(config.model)
        if config.quantize:
            save_model(quantised(original.hf), original.tokenizer, run.path / MODEL)
        else:
            smaller, shaping = _smaller(config, original, data)
            if config.trains == 0:
                save_model(smaller, original.tokenizer, run.path / MODEL)
            else:
                _train(config, run, progress, original, smaller, shaping, origin, resume)
        # A model made from this one is trained as its ancestor was.
        run.update(model=MODEL, **({} if origin is None else {"origin_recipe": origin.to_dict()}))
        result = _measure(config, run, original, data)
        result.save(run.path / FILE)
        run.update(
            model_digest=result.compressed_digest, data_digest=result.data_digest, result=_summary(result)
        )
    if result is not None:
        for name in (START, CHECKPOINTS):
            remove_folder(run.path / name)
    return result


class _Pairs:
    """The pairs to measure on and to train on; none where neither task nor data is known."""

    def __init__(self, config: CompressConfig, model: Seq2Seq):
        self.held_out: Encoded | None = None
        self.train: Encoded | None = None
        self.chrf = config.data is not None
        self.digest: str | None = None
        if config.task is None and config.data is None:
            return
        train, held_out = read_pairs(config.training(init=None), _EXAMPLES)
        languages = {"src_lang": config.source_language, "tgt_lang": config.target_language}
        for name, value in languages.items():
            if value is not None:
                setattr(model.tokenizer, name, value)
        self.held_out = encode_pairs(model.tokenizer, held_out[:1000], model.hf)
        self.train = encode_pairs(model.tokenizer, train[:_EXAMPLES], model.hf)
        self.digest = digest(self.held_out.pairs)


def _smaller(config: CompressConfig, model: Seq2Seq, data: _Pairs) -> tuple[PreTrainedModel, Shaping | None]:
    """The pruned model or the student as it is before training, and what shapes its training."""
    hf, family = model.hf, model.family
    if config.distill:
        chosen = distil.choose_layers(hf, family, config.distill)
        loss = distil.distillation_loss(hf, alpha=config.alpha, temperature=config.temperature)
        return distil.student(hf, family, chosen), Shaping(loss=loss)
    held = Shaping(begin=lambda trained: prune.hold_zeros(family, trained))
    if config.heads:
        return prune.silence_heads(hf, family, [parse_head(name) for name in config.heads]), held
    assert config.prune is not None
    if config.structure == "heads":
        importance = _head_gradients(model, data) if config.by == "gradient" else None
        return prune.prune_heads(hf, family, config.prune, importance), held
    sensitivity = None
    if config.by == "gradient":
        assert data.train is not None
        sensitivity = prune.sensitivities(hf, family, data.train, int(hf.config.pad_token_id))
    if config.structure == "neurons":
        return prune.prune_neurons(hf, family, config.prune, sensitivity), held
    return prune.prune_weights(hf, family, config.prune, sensitivity), held


def _head_gradients(model: Seq2Seq, data: _Pairs) -> dict[str, torch.Tensor]:
    """Gradient importance [head] of every head by block, over the first training pairs."""
    assert data.train is not None
    pairs = data.train.pairs
    forced = model.force([p.source for p in pairs], [p.target for p in pairs], allow_unknown=True)
    found: dict[str, list[float]] = {}
    for row in head_importance(model, forced).rows:
        found.setdefault(row.head.block, []).append(row.importance)
    return {block: torch.tensor(values) for block, values in found.items()}


# ---- training --------------------------------------------------------------------------------------------


def _train(
    config: CompressConfig,
    run: Run,
    progress: Progress | None,
    original: Seq2Seq,
    smaller: PreTrainedModel,
    shaping: Shaping | None,
    origin: Recipe | None,
    resume: bool,
) -> None:
    start = run.path / START
    put_in_order(start)
    save_model(smaller, original.tokenizer, start)
    training = replace(config.training(init=str(start)), resume=resume)
    learn(training, run, progress, recipe=_recipe(config, origin), shaping=shaping)


def _origin_recipe(model: str) -> Recipe | None:
    """The recipe that a run folder's model was first trained with."""
    if not is_run(model):
        return None
    manifest = Run.open(model).manifest
    stored = manifest.get("origin_recipe") or manifest.get("recipe")
    try:
        return Recipe.from_dict(stored) if stored else None
    except (KeyError, TypeError):
        return None


def _recipe(config: CompressConfig, origin: Recipe | None) -> Recipe:
    """How the smaller model is trained: as the original was, where that is known."""
    distilling = config.kind == "distill"
    recipe = origin or recipes.for_model().with_changes(learning_rate=_DISTIL_RATE if distilling else None)
    rate = config.lr
    if rate is None and origin is not None and not distilling:
        rate = origin.learning_rate * _FINETUNE
    return recipe.with_changes(
        steps=config.trains, learning_rate=rate, batch_size=config.batch_size, examples=_PAIRS
    )


# ---- measuring -------------------------------------------------------------------------------------------


def _measure(config: CompressConfig, run: Run, original: Seq2Seq, data: _Pairs) -> Compression:
    compressed = load(run.path / MODEL, device=str(original.device))
    accuracies = [_accuracy(model, data) for model in (original, compressed)]
    sources = data.held_out.inputs if data.held_out is not None else _made_up(original)
    limit = min(max_positions(original.hf), max_positions(compressed.hf))
    path, local = resolve_path(config.model)
    return Compression(
        kind=config.kind,
        settings=config.to_dict(),
        original_digest=original.digest,
        compressed_digest=compressed.digest,
        original_size=size_of(original, Path(path) if local else None),
        compressed_size=size_of(compressed, run.path / MODEL),
        original_accuracy=accuracies[0],
        compressed_accuracy=accuracies[1],
        speed=speed_of(original, compressed, sources, limit),
        command=run.manifest["command"],
        seed=config.seed or 0,
        data_digest=data.digest,
    )


def _accuracy(model: Seq2Seq, data: _Pairs) -> Accuracy | None:
    if data.held_out is None:
        return None
    forced = getattr(model.hf.generation_config, "forced_bos_token_id", None)
    found = score(model.hf, model.tokenizer, data.held_out, chrf=data.chrf, forced_bos=forced)
    return Accuracy(found.exact_match, found.token_accuracy, found.loss, found.chrf, found.examples)


def _made_up(model: Seq2Seq) -> list[list[int]]:
    """Sources for timing where there are no pairs: what they say does not change how long it takes."""
    special = set(model.tokenizer.all_special_ids)
    plain = [i for i in range(min(vocabulary_size(model.hf), 5000)) if i not in special]
    return [[*(plain[(31 * row + 7 * k) % len(plain)] for k in range(12)), model.eos_id] for row in range(32)]


def _summary(found: Compression) -> dict[str, Any]:
    """What lists of runs show."""
    before, after = found.original_accuracy, found.compressed_accuracy
    scores: Mapping[str, Any] = {}
    if before is not None and after is not None:
        scores = {
            "exact_match": after.exact_match,
            "token_accuracy": after.token_accuracy,
            "loss": after.loss,
            "chrf": after.chrf,
            "exact_match_before": before.exact_match,
        }
    return {
        **scores,
        "parameters": found.compressed_size.parameters,
        "disk_bytes": found.compressed_size.disk_bytes,
        "speed_ratio": found.speed.ratio,
    }
