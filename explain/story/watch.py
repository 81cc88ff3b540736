"""Keeping the story while a model trains: `StoryWatch` is what `explain.training.train` takes as `watch`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from explain.errors import ExplainError, FileError, InputError
from explain.files import digest_json, envelope, read_json, write_json
from explain.model import wrap
from explain.runs import Run
from explain.story.look import StorySettings, take_look
from explain.story.probes import Probe, pair_probes, read_probes, task_probes
from explain.training import tasks
from explain.training.config import TrainConfig
from explain.training.prepare import read_pairs

FOLDER = "story"
SETTINGS = "story.json"
_NAME = "story"
_FIRST = 10


class StoryWatch:
    """Looks at the probes before the first step, at steps 10, 20, 40, …, every so many, and after the last.

    What is asked is kept in `RUN/story/story.json`, every look in a file of its own beside it. A look is
    written whole or not at all, and a resumed run writes the looks after its checkpoint anew.
    """

    def __init__(self, probes: Sequence[Probe], settings: StorySettings | None = None):
        """Begin a story.

        Args:
            probes: what is asked at every look.
            settings: what is kept.

        Raises:
            InputError: there is no held-out probe.
        """
        self.probes = tuple(probes)
        self.settings = settings or StorySettings()
        if not any(probe.held_out for probe in self.probes):
            raise InputError("a training story needs at least one held-out example")

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        folder: Path,
        *,
        probes: str | Path | None = None,
        settings: StorySettings | None = None,
    ) -> StoryWatch:
        """The watch of a run: the one that its folder keeps, or a new one, which `keep` writes there.

        Args:
            config: the run's options; they say which examples are held out.
            folder: the run folder; it need not be there yet.
            probes: a file of probes (see `read_probes`). Its rows without a swap stand instead of the
                held-out examples, its swaps beside them.
            settings: what is kept.

        Raises:
            ExplainError: probes or data that cannot be used.
        """
        if (folder / FOLDER / SETTINGS).is_file():
            return cls.begun(folder)
        if config.resume:
            raise InputError(f"{folder} keeps no story to go on with; a story begins with its run")
        settings = settings or StorySettings()
        given = [] if probes is None else read_probes(probes)
        held_out = [probe for probe in given if probe.held_out][: settings.count]
        if not held_out:
            if config.task is not None:
                held_out = task_probes(tasks.get(config.task), settings.count, seed=settings.seed)
            else:
                held_out = pair_probes(read_pairs(config, settings.count)[1], settings.count)
        if given:
            held_out = [replace(probe, swap=None) for probe in held_out]
        return cls([*held_out, *(probe for probe in given if not probe.held_out)], settings)

    @classmethod
    def begun(cls, folder: Path) -> StoryWatch:
        """The watch that a run was begun with.

        Raises:
            FileError: there is none, or its file is broken.
        """
        path = folder / FOLDER / SETTINGS
        data = read_json(path, _NAME)
        try:
            return cls([Probe.from_dict(one) for one in data["probes"]], StorySettings(**data["settings"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"{path} is broken: {type(error).__name__} {error}") from None

    def keep(self, folder: Path) -> None:
        """Write what is asked to the run folder, atomically; a story that was begun there stays as it is."""
        if (folder / FOLDER / SETTINGS).is_file():
            return
        probes = [probe.to_dict() for probe in self.probes]
        head = envelope(_NAME, seed=self.settings.seed, data_digest=digest_json(probes))
        write_json(folder / FOLDER / SETTINGS, {**head, "settings": asdict(self.settings), "probes": probes})

    def due(self, step: int) -> bool:
        """Whether to look after this step."""
        if self.settings.every and step % self.settings.every == 0:
            return True
        times, rest = divmod(step, _FIRST)
        return rest == 0 and times > 0 and times & (times - 1) == 0

    def look(self, model: PreTrainedModel, tokenizer: Any, step: int, run: Run) -> None:
        """Look at the model and keep what is found.

        A look that fails later than before the first step is left out and said in the run's log: training
        does not end because it cannot be told of.

        Raises:
            ExplainError: at step 0, probes that the model cannot read.
        """
        self.keep(run.path)
        started = time.perf_counter()
        try:
            found = take_look(wrap(model, tokenizer), self.probes, step, self.settings)
        except ExplainError as error:
            if step == 0:
                raise
            run.log(f"no look at step {step:,}: {error}")
            return
        replace(found, seconds=round(time.perf_counter() - started, 3)).save(look_path(run.path, step))


def look_path(folder: Path, step: int) -> Path:
    """The file of one look of a run; names sort by step."""
    return folder / FOLDER / f"step-{step:09d}.safetensors"
