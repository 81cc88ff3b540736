"""What a training run is asked for, and the run folder that keeps it."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from explain.errors import InputError, RunError, UnknownNameError
from explain.runs import Run
from explain.runs.follower import Follower, rank
from explain.training import tasks

KIND = "train"
Family: TypeAlias = Literal["bart", "t5"]
FAMILIES: tuple[Family, ...] = ("bart", "t5")
OPTIMIZERS = ("adam", "adamw")
PRESETS = ("tiny", "small", "base")
TOKENIZERS = ("bpe", "unigram", "word", "byte")
CHECKPOINTS = "checkpoints"
TRACKERS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""Trackers and the packages of which one must be installed."""
_LISTS = ("lr_at", "report_to")


@dataclasses.dataclass(frozen=True, slots=True)
class TrainConfig:
    """The options of `explain train`; None means that the recipe decides.

    Attributes:
        task: name of a task with known answers; this or `data`.
        data: a file of pairs, a folder of such files, or a mixture of them (see `explain.training.mixture`).
        init: a model folder, run folder or hub id to train further; None makes a model from scratch.
        steps: number of optimiser steps.
        epochs: number of times to see every pair, instead of `steps`.
        lr: the highest learning rate.
        batch_size: pairs per step.
        optimizer: `adam` or `adamw`.
        seed: decides weights, order and what is held out; None is 0.
        resume: go on from the run's last checkpoint.
        validation: a file of pairs to validate on; left out, some of `data` is held out.
        source_column: name of the source column in the files.
        target_column: name of the target column.
        family: `bart` or `t5`, for a model from scratch.
        source_language: language of the sources, for a multilingual model, such as `en_XX`.
        target_language: language of the targets, which is then the language of every output.
        accumulate: parts that a step's pairs are computed in, one after another: less memory, the same step.
        clip: largest norm of the gradient; 0 does not clip.
        bf16: whether to compute in bfloat16; weights, optimiser and evaluations stay in float32.
        gradient_checkpointing: whether to compute activations again instead of keeping them: less memory.
        patience: evaluations in a row without a better score after which to end; 0 is never.
        lr_at: highest learning rates to change to, as `STEP:RATE`, such as `500:0.001`: after 500 steps.
        report_to: trackers that hear of every record, besides the run folder: see `TRACKERS`.
        preset: size of a model from scratch: `tiny`, `small` or `base`.
        tokenizer: `bpe`, `unigram`, `word` or `byte`, for a model from scratch.
        skip_bad_rows: whether to leave out rows that cannot be used, and say which, instead of refusing them.
        denoise: a file or folder of texts without labels, to learn from before the pairs.
        denoise_steps: number of steps on them; they come before `steps`.
    """

    task: str | None = None
    data: str | None = None
    init: str | None = None
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    seed: int | None = None
    resume: bool = False
    validation: str | None = None
    source_column: str = "source"
    target_column: str = "target"
    family: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    accumulate: int | None = None
    clip: float | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    patience: int | None = None
    lr_at: tuple[str, ...] = ()
    report_to: tuple[str, ...] = ()
    preset: str | None = None
    tokenizer: str | None = None
    skip_bad_rows: bool = False
    denoise: str | None = None
    denoise_steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The options as a JSON object, without `resume`, which says nothing about the result."""
        fields = dataclasses.asdict(self)
        del fields["resume"]
        return fields | {name: list(fields[name]) for name in _LISTS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Read the options back from their JSON object; names it does not know are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {name: value for name, value in data.items() if name in names}
        given |= {name: tuple(given[name]) for name in _LISTS if name in given}
        return cls(**given)

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: says which options.
        """
        if (self.task is None) == (self.data is None):
            raise InputError("name either a task (--task) or a data file (--data)")
        if self.steps is not None and self.epochs is not None:
            raise InputError("give either --steps or --epochs")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")
        if self.epochs is not None and not 0 < self.epochs <= 1_000_000:
            raise InputError(f"--epochs must be above 0 (and at most a million), got {self.epochs}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"the learning rate (--lr) must be above 0, got {self.lr}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"the batch size (--batch-size) must be at least 1, got {self.batch_size}")
        for option, value, least in (
            ("--accumulate", self.accumulate, 1),
            ("--clip", self.clip, 0),
            ("--patience", self.patience, 0),
            ("--denoise-steps", self.denoise_steps, 1),
        ):
            if value is not None and not least <= value < math.inf:
                raise InputError(f"{option} must be at least {least}, got {value}")
        read_rates(self.lr_at)
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise UnknownNameError("tracker", tracker, TRACKERS)
            if not any(importlib.util.find_spec(name) for name in TRACKERS[tracker]):
                raise InputError(
                    f"--report-to {tracker}: it is not installed here (pip install {TRACKERS[tracker][0]})"
                )
        for kind, value, known in (
            ("task", self.task, tasks.names()),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("family", self.family, FAMILIES),
            ("preset", self.preset, PRESETS),
            ("tokenizer", self.tokenizer, TOKENIZERS),
        ):
            if value is not None and value not in known:
                raise UnknownNameError(kind, value, known)
        for option, value in (("--preset", self.preset), ("--tokenizer", self.tokenizer)):
            if self.init is not None and value is not None:
                raise InputError(f"{option} is for a model from scratch; with --init the model decides")
        if (self.denoise is None) != (self.denoise_steps is None):
            raise InputError("denoising needs texts (--denoise FILE) and a number of steps (--denoise-steps)")
        if self.task is not None and self.validation is not None:
            raise InputError("a task brings its own validation pairs; --validation goes with --data")
        if self.init is not None and self.family is not None:
            raise InputError("--family is for a model from scratch; with --init the model decides")
        if self.init is None and (self.source_language or self.target_language):
            raise InputError("languages are for a multilingual model given with --init")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise InputError(f"--seed must be 0 to 2^32 - 1, got {self.seed}")

    def with_whole_paths(self) -> TrainConfig:
        """The options with paths that hold from any folder."""
        changes = {
            name: os.path.abspath(value)
            for name in ("data", "validation", "init", "denoise")
            if (value := getattr(self, name)) is not None and (name != "init" or Path(value).exists())
        }
        return dataclasses.replace(self, **changes)

    def arguments(self, out: str | os.PathLike[str]) -> list[str]:
        """The command line, after `explain`, that trains with these options in the folder `out`."""
        words = ["train", "--out", str(out)]
        for name, value in dataclasses.asdict(self).items():
            option = "--" + name.replace("_", "-")
            if value is None or value is False or value == getattr(_DEFAULTS, name):
                continue
            if value is True:
                words.append(option)
                continue
            for one in value if isinstance(value, (tuple, list)) else (value,):
                words += [option, repr(one) if isinstance(one, float) else str(one)]
        return words

    def title(self) -> str:
        """What the run is called where nobody named it."""
        what = self.task or Path(self.data or "data").name
        return f"{what} from {Path(self.init).name}" if self.init else what


_DEFAULTS = TrainConfig()


def read_rates(texts: Sequence[str]) -> tuple[tuple[int, float], ...]:
    """(step, highest learning rate after it) of each `STEP:RATE`, by step.

    Raises:
        InputError: a text of another form, or a senseless number.
    """
    rates = []
    for text in texts:
        step, _, rate = text.partition(":")
        try:
            found = int(step), float(rate)
        except ValueError:
            found = -1, 0.0
        if found[0] < 0 or not 0 < found[1] < math.inf:
            raise InputError(f"--lr-at {text!r}: write STEP:RATE, such as 500:0.001")
        rates.append(found)
    return tuple(sorted(rates, key=lambda pair: pair[0]))


def open_run(
    config: TrainConfig, out: str | os.PathLike[str], *, title: str = "", command: str | None = None
) -> Run:
    """The run folder for `train`: a new one, or with `config.resume` the one that is there.

    Raises:
        InputError: options that do not go together.
        RunError: the folder holds something else, or there is nothing to resume.
    """
    if rank() > 0:
        if not config.resume:
            config.check()
        return Follower.join(out)
    if not config.resume:
        config.check()
        config = config.with_whole_paths()
        if any((Path(out) / CHECKPOINTS).glob("checkpoint-*")):
            raise RunError(f"{out} holds checkpoints of an earlier run; resume it or name another folder")
        return Run.create(
            out,
            kind=KIND,
            command=command,
            title=title or config.title(),
            config=config.to_dict(),
            seed=config.seed or 0,
        )
    run = Run.open(out)
    manifest = run.manifest
    if manifest.get("kind") != KIND:
        raise RunError(f"{run.path} is not a training run but of kind {manifest.get('kind')!r}")
    if manifest["state"] == "done":
        raise RunError(f"{run.path} is done; there is nothing to resume")
    merge(config, run)
    return run


def merge(config: TrainConfig, run: Run) -> TrainConfig:
    """The options that a run was begun with; options given again must be the same.

    A job that died before it wrote its options down is begun with those given now.

    Raises:
        RunError: an option differs, or the run's own are not readable.
    """
    begun = run.config
    if not begun and (config.task or config.data):
        config.check()
        return config.with_whole_paths()
    try:
        stored = TrainConfig.from_dict(begun)
        stored.check()
    except (InputError, TypeError) as error:
        raise RunError(f"{run.path} does not say how it was begun: {error}") from None
    defaults = TrainConfig().to_dict()
    if config.report_to:  # who listens changes nothing of the result
        stored = dataclasses.replace(stored, report_to=config.report_to)
    for name, value in config.with_whole_paths().to_dict().items():
        before = stored.to_dict()[name]
        if value != defaults[name] and value != before and not (name == "seed" and value == (before or 0)):
            option = "--" + name.replace("_", "-")
            raise RunError(
                f"{run.path} was begun with {option} {before}, not {value}; a resumed run keeps its options"
            )
    return stored


@dataclasses.dataclass(frozen=True, slots=True)
class DemoRun:
    """One of the models that the demo trains: folder name, title, options, and when to train it.

    Runs of one `stage` can go side by side, each with its number of threads on a machine with two cores.
    """

    name: str
    title: str
    config: TrainConfig
    stage: int
    threads: int


def demo_plan(seed: int = 0) -> tuple[DemoRun, ...]:
    """The runs of `explain demo`: the quickest first, then two side by side."""
    return (
        DemoRun("translate", "Translate: English to French", TrainConfig(task="translate", seed=seed), 0, 2),
        DemoRun("invoice", "Invoice to payment line", TrainConfig(task="invoice", seed=seed), 1, 1),
        DemoRun("clinic", "Clinical note to fields", TrainConfig(task="clinic", seed=seed), 1, 1),
    )
