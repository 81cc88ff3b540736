"""What `explain compress` is asked for, and the run folder that keeps it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explain.analysis.heads import Head
from explain.compression.prune import require_share
from explain.errors import InputError, RunError, UnknownNameError
from explain.runs import Run, is_run
from explain.training.config import TrainConfig

KIND = "compress"
SCHEMES = ("int8",)
STRUCTURES = ("weights", "heads", "neurons")
IMPORTANCE = ("magnitude", "gradient")

_TRAINING = {field.name for field in dataclasses.fields(TrainConfig)} - {
    "init",
    "family",
    "optimizer",
    "resume",
}


@dataclasses.dataclass(frozen=True, slots=True)
class CompressConfig:
    """The options of `explain compress`; one of `quantize`, `prune`, `heads` and `distill` says what is done.

    Attributes:
        model: what to compress: a model folder, a run folder or a hub id.
        quantize: `int8`.
        prune: the share to prune, between 0 and 1.
        structure: what is pruned: single `weights`, whole `heads` or feed-forward `neurons`.
        by: what counts as unimportant: small `magnitude`, or a small effect on the loss (`gradient`).
        heads: heads to silence by name, `decoder.1.cross.0`, instead of a share.
        distill: layers of the student: `1`, `2:1` (encoder:decoder) or their numbers, `0,3:0`.
        finetune_steps: optimiser steps after pruning, zeros held at zero; None: no fine-tuning.
        steps: optimiser steps of distillation; None: as many as the model itself was trained for.
        alpha: distillation: weight of the teacher's distributions, 0 to 1; the targets have the rest.
        temperature: distillation: what logits are divided by.
        lr: the highest learning rate; None: that of the model's own run (a third of it after pruning).
        batch_size: pairs per step; None: as in the model's own run.
        task: the task to measure and train on; the model's own by default.
        data: a file of pairs instead.
        validation: a file of pairs to measure on; left out, some of `data` is held out.
        source_column: name of the source column.
        target_column: name of the target column.
        source_language: language of the sources of a multilingual model.
        target_language: language of its outputs.
        seed: decides order and what is held out; None: that of the model's own run.
    """

    model: str
    quantize: str | None = None
    prune: float | None = None
    structure: str = "weights"
    by: str = "magnitude"
    heads: tuple[str, ...] = ()
    distill: str | None = None
    finetune_steps: int | None = None
    steps: int | None = None
    alpha: float = 0.5
    temperature: float = 2.0
    lr: float | None = None
    batch_size: int | None = None
    task: str | None = None
    data: str | None = None
    validation: str | None = None
    source_column: str = "source"
    target_column: str = "target"
    source_language: str | None = None
    target_language: str | None = None
    seed: int | None = None

    @property
    def kind(self) -> str:
        """`quantize`, `prune` or `distill`."""
        return "quantize" if self.quantize else "distill" if self.distill else "prune"

    @property
    def trains(self) -> int | None:
        """Number of optimiser steps, 0 where nothing is trained, None where the recipe decides."""
        return self.steps if self.kind == "distill" else self.finetune_steps or 0

    def to_dict(self) -> dict[str, Any]:
        """The options as a JSON object."""
        return {**dataclasses.asdict(self), "heads": list(self.heads)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompressConfig:
        """Read the options back from their JSON object."""
        names = {field.name for field in dataclasses.fields(cls)}
        fields = {name: value for name, value in data.items() if name in names}
        return cls(**{**fields, "heads": tuple(fields.get("heads") or ())})

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: says which options.
        """
        asked = [
            name
            for name in ("quantize", "prune", "heads", "distill")
            if getattr(self, name) not in (None, ())
        ]
        if len(asked) != 1:
            raise InputError(
                "name one of --quantize, --prune, --head and --distill; for two, compress the result"
            )
        for kind, value, known in (
            ("quantisation", self.quantize or SCHEMES[0], SCHEMES),
            ("structure", self.structure, STRUCTURES),
            ("importance", self.by, IMPORTANCE),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)
        if self.prune is not None:
            require_share(self.prune)
        for name in self.heads:
            parse_head(name)
        if self.finetune_steps is not None and (self.kind != "prune" or self.finetune_steps < 1):
            raise InputError("--finetune-steps goes with pruning and must be at least 1")
        if self.steps is not None and (self.kind != "distill" or self.steps < 1):
            raise InputError("--steps goes with --distill and must be at least 1")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"--alpha must be 0 to 1, got {self.alpha}")
        if not 0.1 <= self.temperature <= 100:
            raise InputError(f"--temperature must be 0.1 to 100, got {self.temperature}")
        if self.task is not None and self.data is not None:
            raise InputError("give either --task or --data")
        needs = "distilling" if self.distill else "fine-tuning" if self.trains else ""
        needs = needs or (
            "importance by gradient" if self.prune is not None and self.by == "gradient" else ""
        )
        if self.task is None and self.data is None:
            if needs:
                raise InputError(f"{needs} needs pairs: name a task (--task) or a data file (--data)")
            return
        self.training(init=None).check()

    def training(self, init: str | None) -> TrainConfig:
        """The training options among these, for a model folder `init`."""
        shared = {name: getattr(self, name) for name in _TRAINING if hasattr(self, name)}
        if init is None:  # only to find pairs
            shared |= {"source_language": None, "target_language": None}
        return TrainConfig(**{**shared, "steps": self.trains or None, "init": init})

    def filled(self) -> CompressConfig:
        """The options with whole paths, and task, data and seed from the model's own run where not given."""
        config = self
        if Path(self.model).exists():
            config = dataclasses.replace(config, model=os.path.abspath(self.model))
            if is_run(self.model):
                run = Run.open(self.model)
                own = run.config
                if self.seed is None:
                    config = dataclasses.replace(config, seed=own.get("seed"))
                if self.task is None and self.data is None:
                    config = dataclasses.replace(config, **_own_pairs(own))
        paths = {
            n: os.path.abspath(v) for n in ("data", "validation") if (v := getattr(config, n)) is not None
        }
        return dataclasses.replace(config, **paths)

    def title(self) -> str:
        """What the run is called where nobody named it."""
        what = {
            "quantize": f"in {self.quantize}",
            "distill": f"distilled to {self.distill} layers",
            "prune": f"without {', '.join(self.heads)}"
            if self.heads
            else f"without {self.prune or 0:.0%} of its {self.structure}",
        }[self.kind]
        return (
            f"{Path(self.model).name} {what}{', fine-tuned' if self.kind == 'prune' and self.trains else ''}"
        )


def _own_pairs(own: Mapping[str, Any]) -> dict[str, Any]:
    """Task or data file of a run, where they are still there."""
    if own.get("task"):
        return {"task": own["task"]}
    if own.get("data") and Path(own["data"]).is_file():
        names = ("data", "validation", "source_column", "target_column", "source_language", "target_language")
        return {name: own[name] for name in names if name in own}
    return {}


def parse_head(name: str) -> Head:
    """The head that `decoder.1.cross.0` names.

    Raises:
        InputError: not of that form.
    """
    block, _, index = name.rpartition(".")
    if block.count(".") != 2 or not index.isdigit():
        raise InputError(f"--head {name!r}: write a block and the head in it, such as decoder.1.cross.0")
    return Head(block, int(index))


def open_run(
    config: CompressConfig, out: str | os.PathLike[str], *, resume: bool = False, command: str | None = None
) -> tuple[CompressConfig, Run]:
    """The options in full and the run folder for `compress`: a new one, or the one that is gone on with.

    Raises:
        InputError: options that do not go together.
        RunError: the folder holds something else, there is nothing to resume, or it was begun otherwise.
    """
    config = config.filled()
    config.check()
    if not resume:
        title, seed = config.title(), config.seed or 0
        return config, Run.create(
            out, kind=KIND, command=command, title=title, config=config.to_dict(), seed=seed
        )
    run = Run.open(out)
    manifest = run.manifest
    if manifest.get("kind") != KIND:
        raise RunError(f"{run.path} is not a compression but of kind {manifest.get('kind')!r}")
    if manifest["state"] == "done":
        raise RunError(f"{run.path} is done; there is nothing to resume")
    if run.config != config.to_dict():
        begun = run.config
        name = next(n for n, value in config.to_dict().items() if begun.get(n) != value)
        raise RunError(
            f"{run.path} was begun with {name} {begun.get(name)!r}; a resumed run keeps its options"
        )
    return config, run
