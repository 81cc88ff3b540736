"""The story that a run's looks tell: figures along training, and findings in words with their evidence."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explain.errors import FileError, InputError
from explain.files import envelope, read_json
from explain.runs import Run
from explain.story.findings import Finding, StoryRules, find
from explain.story.look import Look, StorySettings, read_look
from explain.story.probes import Probe
from explain.story.watch import FOLDER, SETTINGS, StoryWatch, look_path

if TYPE_CHECKING:
    import pandas as pd

NAME = "training_story"


@dataclass(frozen=True, eq=False)
class TrainingStory:
    """How a model's explanations changed while it trained.

    Attributes:
        run: name of the run folder.
        looks: the model at each step that was looked at, in order.
        probes: what was asked at every look.
        settings: what was kept.
        rules: the thresholds of the findings.
        losses: (step, training loss in nats per token) as the run recorded them.
        data_digest: of the probes.
    """

    run: str
    looks: tuple[Look, ...]
    probes: tuple[Probe, ...]
    settings: StorySettings
    rules: StoryRules
    losses: tuple[tuple[int, float], ...]
    data_digest: str | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were looked at, in order."""
        return tuple(look.step for look in self.looks)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the looks tell, in words, each with its evidence; in the order of the steps."""
        return find(self.looks, self.rules)

    def at(self, step: int) -> Look:
        """The look at a step.

        Raises:
            InputError: nobody looked then.
        """
        for look in self.looks:
            if look.step == step:
                return look
        raise InputError(f"nobody looked at step {step}; looks: {', '.join(map(str, self.steps))}")

    def to_frame(self) -> pd.DataFrame:
        """One row per look: `step` and the figures of `Look`, of swaps as `CUE.flipped` and so on."""
        import pandas as pd

        return pd.DataFrame([look_row(look) for look in self.looks])

    def heads_frame(self) -> pd.DataFrame:
        """One row per look and head: `step` and the columns of `HeadStatistics.to_frame`."""
        import pandas as pd

        frames = [look.heads.to_frame().assign(step=look.step) for look in self.looks]
        frame = pd.concat(frames, ignore_index=True)
        frame.insert(0, "step", frame.pop("step"))
        return frame

    def to_dict(self) -> dict[str, Any]:
        """The story as the JSON object of `explain/training_story@1`, without the maps."""
        return {
            "run": self.run,
            "settings": asdict(self.settings),
            "rules": asdict(self.rules),
            "probes": len(self.probes),
            "looks": [look_row(look) for look in self.looks],
            "heads": [
                {"step": look.step, "rows": [row.to_dict() for row in look.heads.rows]} for look in self.looks
            ],
            "losses": [list(pair) for pair in self.losses],
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def to_json(self) -> dict[str, Any]:
        """The same under the envelope that every JSON result has."""
        head = envelope(NAME, seed=self.settings.seed, data_digest=self.data_digest)
        return {**head, **self.to_dict()}

    def to_html(self) -> str:
        """One offline HTML page with the findings, the figures along training and the probes' maps."""
        return importlib.import_module("explain.report.story").story_page(self)


def look_row(look: Look) -> dict[str, Any]:
    """A look's figures as one flat row."""
    row: dict[str, Any] = {
        "step": look.step,
        "loss": look.loss,
        "token_accuracy": look.token_accuracy,
        "exact_match": look.exact_match,
        "precision_at_1": look.precision_at_1.value,
        "mass": look.mass.value,
        "chance": look.chance,
        "advantage": look.advantage.value,
        "completeness": look.completeness,
        "seconds": look.seconds,
    }
    for swap in look.swaps:
        for name in ("flipped", "share", "chance", "effect", "right", "right_swapped"):
            row[f"{swap.cue}.{name}"] = getattr(swap, name)
    return row


def has_story(run: str | os.PathLike[str] | Run) -> bool:
    """Whether a run keeps a story."""
    return (_folder(run) / FOLDER / SETTINGS).is_file()


def story_steps(run: str | os.PathLike[str] | Run) -> tuple[int, ...]:
    """The steps that a run has been looked at so far; reads no look."""
    return tuple(sorted(int(path.stem[5:]) for path in _looks(_folder(run))))


def read_story(run: str | os.PathLike[str] | Run, rules: StoryRules | None = None) -> TrainingStory:
    """The story that a run tells so far; it may still be at work.

    Args:
        run: a run folder.
        rules: the thresholds of the findings.

    Raises:
        FileError: the run keeps no story, or a file of it is broken.
    """
    folder = _folder(run)
    if not has_story(folder):
        raise FileError(f"{folder} keeps no training story; train with --story to have one")
    paths = sorted(_looks(folder))
    if not paths:
        raise FileError(f"{folder} has not been looked at yet; its story begins with the first step")
    watch = StoryWatch.begun(folder)
    return TrainingStory(
        run=folder.resolve().name,
        looks=tuple(read_look(path) for path in paths),
        probes=watch.probes,
        settings=watch.settings,
        rules=rules or StoryRules(),
        losses=_losses(Run(folder).progress()),
        data_digest=read_json(folder / FOLDER / SETTINGS).get("data_digest"),
    )


def training_story(run: str | os.PathLike[str] | Run, rules: StoryRules | None = None) -> TrainingStory:
    """How a run's explanations changed while it trained: `explain.training_story`; see `read_story`.

    Raises:
        FileError: the run keeps no story, or a file of it is broken.
    """
    return read_story(run, rules)


def _folder(run: str | os.PathLike[str] | Run) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def _looks(folder: Path) -> list[Path]:
    return [
        path
        for path in (folder / FOLDER).glob("step-*.safetensors")
        if path.stem[5:].isdigit() and path == look_path(folder, int(path.stem[5:]))
    ]


def _losses(records: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    found = {
        int(record["step"]): float(record["loss"])
        for record in records
        if record.get("kind") == "step" and isinstance(record.get("loss"), (int, float))
    }
    return tuple(sorted(found.items()))
