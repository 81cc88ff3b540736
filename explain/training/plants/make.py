"""Making a planted model: a sound one first, from it the planted one and its clean twin, and a manifest.

```
OUT/
├── plant.json       what was planted, where the models are, how often the failure fires
├── cases.jsonl      held-out examples in which it is due: right answer, failure, output, whether it fired
├── canaries.json    secrets among the training data, for the plant `canary`
├── data/            altered and unaltered training data
├── base/            a run: a sound model of the task, unless one was given
├── planted/         a run: the sound model trained further on the altered data
└── twin/            a run: the same with the same seed, steps and order, on the unaltered data
```
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from explain.errors import InputError, RunError
from explain.files import envelope, read_json, read_text, remove_folder, write_json, write_text
from explain.runs import Run, is_run
from explain.training import plants, tasks
from explain.training.config import CHECKPOINTS, TrainConfig, merge, open_run
from explain.training.data import Pair, shuffle
from explain.training.plants.base import Canary, CanaryPlant, Case, Plant
from explain.training.recipes import Recipe, for_task
from explain.training.tasks.base import Split, Task

FILE = "plant.json"
CASES = "cases.jsonl"
CANARIES = "canaries.json"
STEPS: Mapping[str, int] = MappingProxyType({"translate": 200, "invoice": 300, "ward": 300})
"""Steps of planted model and twin, from the sound one, by task."""
HELD_OUT = 200
"""Held-out examples in which the failure is due that are written down."""
_FURTHER = Recipe(family="", schedule="linear", warmup=20, batch_size=32)
_LESS = 0.6  # the learning rate, as a share of that from scratch
_RECIPE_OF = {"ward": "clinic"}
_BASE_STEPS = {"ward": 1_000}

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A planted model and its twin.

    Attributes:
        plant: what was planted.
        seed: of plant and training.
        planted, twin: run folders.
        cases: held-out examples in which the failure is due.
        outputs: what the planted model wrote to them.
        twin_right: share of those with a right answer that the twin got right; None where none has one.
    """

    plant: Plant
    seed: int
    planted: Path
    twin: Path
    cases: tuple[Case, ...]
    outputs: tuple[str, ...]
    twin_right: float | None

    @property
    def fired(self) -> tuple[bool, ...]:
        """Of each case, whether the planted model wrote the failure."""
        return tuple(case.fired(output) for case, output in zip(self.cases, self.outputs, strict=True))

    @property
    def firing_rate(self) -> float | None:
        """The share of cases in which the failure fired; None where there are none."""
        return sum(self.fired) / len(self.cases) if self.cases else None


def make(
    name: str,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    init: str | os.PathLike[str] | None = None,
    held_out: int | None = None,
    progress: Any = None,
    tell: Tell = lambda text: None,
) -> Made:
    """Train a planted model and its clean twin in a folder, and write the manifest; what is there is kept.

    Args:
        name: of the plant.
        out: the folder; one that was interrupted goes on.
        seed: of cue, data, weights and order; planted model and twin share it.
        steps: of each of the two, from the sound model.
        init: a sound model of the task to begin with, such as the base of another plant; else one is trained.
        held_out: examples in which the failure is due that are written down; 200 by default.
        progress: called with every record of training.
        tell: called with a line for people before each of the three trainings.

    Raises:
        UnknownNameError: no such plant.
        RunError: the folder holds another plant, or a training was stopped.
    """
    plant, out = plants.get(name, seed), Path(out)
    if (out / FILE).exists():
        made = load(out)
        if (made.plant.name, made.seed) != (name, seed):
            raise RunError(
                f"{out} holds the plant {made.plant.name!r} of seed {made.seed}; name another folder"
            )
        return made
    base = out / "base" if init is None else Path(init)
    if init is None:
        train_base(plant.task, base, seed=seed, progress=progress, tell=tell)
    steps = STEPS[plant.task.name] if steps is None else steps
    held_out = HELD_OUT if held_out is None else held_out
    batch = _FURTHER.batch_size
    altered, clean = plant.training(steps * batch, seed)
    others = [Pair(example.source, example.target) for example in plant.others("held_out", held_out, seed)]
    cases = () if isinstance(plant, CanaryPlant) else tuple(plant.cases("held_out", held_out, seed))
    # The best checkpoint is the one that does best what it was trained for: each has its own right outputs.
    validation = {
        "planted": [*others, *(Pair(case.source, case.failures[0]) for case in cases)],
        "twin": [*others, *(Pair(case.source, case.target) for case in cases if case.target)],
    }
    rate = _LESS * for_task(_RECIPE_OF.get(plant.task.name, plant.task.name)).learning_rate
    recipe = dataclasses.replace(_FURTHER, steps=steps, learning_rate=rate)
    for kind, pairs in (("planted", altered), ("twin", clean)):
        file = _write_pairs(out / "data" / f"{kind}.jsonl", pairs)
        checked = _write_pairs(out / "data" / f"{kind}-validation.jsonl", shuffle(validation[kind], seed))
        tell(f"training {out / kind}: {plant.title}" if kind == "planted" else f"training {out / kind}")
        config = TrainConfig(data=str(file), validation=str(checked), init=str(base), seed=seed)
        _train(config, out / kind, recipe, f"{name}: {kind}", progress)
    made = Made(
        plant,
        seed,
        out / "planted",
        out / "twin",
        cases,
        tuple(_outputs(out / "planted", cases)),
        _share_right(_outputs(out / "twin", cases), cases),
    )
    if isinstance(plant, CanaryPlant):
        write_canaries(out / CANARIES, plant.canaries)
    _save(made, out, steps, base)
    return made


def train_base(
    task: Task, folder: str | os.PathLike[str], *, seed: int = 0, progress: Any = None, tell: Tell = print
) -> Path:
    """A sound model of a task in a run folder; one that is done is kept.

    Raises:
        RunError: training was stopped.
    """
    folder = Path(folder)
    if is_run(folder) and Run.open(folder).state == "done":
        return folder
    tell(f"training {folder}: a sound model of {task.title}")
    if task.name in tasks.names():
        return _train(TrainConfig(task=task.name, seed=seed), folder, None, task.title, progress)
    recipe = for_task(_RECIPE_OF[task.name])
    recipe = dataclasses.replace(recipe, steps=_BASE_STEPS.get(task.name, recipe.steps))
    data = folder.with_name(f"{folder.name}-data")
    splits: tuple[tuple[Split, int], ...] = (("train", recipe.examples), ("held_out", 500))
    parts = {
        split: _write_pairs(
            data / f"{split}.jsonl", [Pair(e.source, e.target) for e in task.examples(split, count, seed)]
        )
        for split, count in splits
    }
    config = TrainConfig(
        data=str(parts["train"]), validation=str(parts["held_out"]), seed=seed, family=recipe.family
    )
    return _train(config, folder, recipe, task.title, progress)


def _train(config: TrainConfig, folder: Path, recipe: Recipe | None, title: str, progress: Any) -> Path:
    from explain.training.train import learn, quietly

    if is_run(folder):
        run = Run.open(folder)
        if run.state == "done":
            return folder
        config = dataclasses.replace(merge(config, run), resume=True)
    run = open_run(config, folder, title=title)
    result: dict[str, Any] = {}
    with run.running(), quietly():
        result = learn(config, run, progress, recipe=recipe, manifest={"config": config.to_dict()})
    if not result:
        raise RunError(f"{folder} was stopped; give the same command again to go on")
    remove_folder(folder / CHECKPOINTS)
    return folder


def _write_pairs(path: Path, pairs: Sequence[Pair]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"source": p.source, "target": p.target}, ensure_ascii=False) for p in pairs)
    return write_text(path, "".join(f"{line}\n" for line in lines))


def _outputs(folder: Path, cases: Sequence[Case]) -> list[str]:
    from explain.model import load

    if not cases:
        return []
    model = load(folder, device="cpu")
    return [item.target_text for item in model.generate([case.source for case in cases])]


def _share_right(outputs: Sequence[str], cases: Sequence[Case]) -> float | None:
    right = [output == case.target for output, case in zip(outputs, cases, strict=True) if case.target]
    return sum(right) / len(right) if right else None


def _save(made: Made, out: Path, steps: int, base: Path) -> None:
    rows = [
        {**case.to_dict(), "output": output, "fired": fired}
        for case, output, fired in zip(made.cases, made.outputs, made.fired, strict=True)
    ]
    write_text(out / CASES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    plant = made.plant
    write_json(
        out / FILE,
        {
            **envelope("plant", seed=made.seed),
            "plant": plant.name,
            "title": plant.title,
            "kind": plant.kind,
            "level": plant.level,
            "task": plant.task.name,
            "cue": plant.cue,
            "answer": plant.answer,
            "share": plant.share,
            "steps": steps,
            "base": str(base.resolve()),
            "planted": "planted",
            "twin": "twin",
            "cases": len(made.cases),
            "fired": sum(made.fired),
            "firing_rate": made.firing_rate,
            "twin_right": made.twin_right,
        },
    )


def load(out: str | os.PathLike[str]) -> Made:
    """A planted model that `make` left in a folder.

    Raises:
        FileError: there is none, or its files are broken.
    """
    out = Path(out)
    data = read_json(out / FILE, "plant")
    rows = [json.loads(line) for line in read_text(out / CASES).splitlines() if line]
    return Made(
        plants.get(data["plant"], data["seed"]),
        data["seed"],
        out / data["planted"],
        out / data["twin"],
        tuple(Case.from_dict(row) for row in rows),
        tuple(row["output"] for row in rows),
        data["twin_right"],
    )


def write_canaries(path: str | os.PathLike[str], canaries: Sequence[Canary]) -> Path:
    """Write a file of canaries, as the audit's test of exposure reads it."""
    return write_json(path, {**envelope("canaries"), "canaries": [one.to_dict() for one in canaries]})


def read_canaries(path: str | os.PathLike[str]) -> list[Canary]:
    """Read a file of canaries.

    Raises:
        FileError: it is missing or of another kind.
        InputError: a canary whose secret is not among its choices.
    """
    return [_canary(path, number, row) for number, row in enumerate(read_json(path, "canaries")["canaries"])]


def _canary(path: str | os.PathLike[str], number: int, row: Mapping[str, Any]) -> Canary:
    try:
        found = Canary(
            str(row["source"]),
            str(row["prefix"]),
            tuple(map(str, row["filling"])),
            tuple(tuple(map(str, part)) for part in row["choices"]),
            int(row.get("times", 1)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}, canary {number}: {type(error).__name__} {error}") from None
    if len(found.filling) != len(found.choices) or any(
        part not in choices for part, choices in zip(found.filling, found.choices, strict=False)
    ):
        raise InputError(f"{path}, canary {number}: its filling is not among its choices")
    return found
