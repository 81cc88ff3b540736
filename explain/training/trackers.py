"""Trackers beside the run folder, such as TensorBoard: what fails in one of them ends no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from explain.errors import TrainingError
from explain.runs import Run
from explain.training.config import TRACKERS

FOLDER = "tensorboard"
"""Where TensorBoard's files go in a run folder."""


class Guard(TrainerCallback):
    """A tracker that must begin, and that is left out from the first time on that it fails later."""

    def __init__(self, name: str, tracker: TrainerCallback, run: Run):
        """Guard a tracker.

        Args:
            name: what `--report-to` calls it.
            tracker: the trainer's callback.
            run: its log says what failed.
        """
        self.name = name
        self.tracker = tracker
        self.run = run
        self.failed = False
        self._end: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin.

        Raises:
            TrainingError: the tracker cannot; it says why.
        """
        try:
            self.tracker.on_train_begin(*args, **kwargs)
        except Exception as error:
            raise TrainingError(f"--report-to {self.name} cannot begin: {_reason(error)}") from None

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Hear of a record."""
        self._tell("on_log", args, kwargs)

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        """Hear of a checkpoint."""
        self._tell("on_save", args, kwargs)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing yet: the scores of the best model are still to come, and belong to the same run."""
        self._end = args, kwargs

    def close(self) -> None:
        """Hear of the end, if training came to it."""
        if self._end is not None:
            self._tell("on_train_end", *self._end)

    def _tell(self, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.failed:
            return
        try:
            getattr(self.tracker, event)(*args, **kwargs)
        except Exception as error:
            self.failed = True
            self.run.log(f"{self.name} hears no more, training goes on: {_reason(error)}")


def guard(trainer: Trainer, run: Run) -> None:
    """Guard the trackers of a trainer, and let TensorBoard write into the run folder."""
    trainer.remove_callback(PrinterCallback)  # it would print every record that trackers are told
    handler = trainer.callback_handler
    for number, callback in enumerate(handler.callbacks):
        name = next((each for each in TRACKERS if type(callback) is INTEGRATION_TO_CALLBACK[each]), None)
        if name == "tensorboard":
            vars(callback)["logging_dir"] = str(Path(run.path) / FOLDER)
        if name is not None:
            handler.callbacks[number] = Guard(name, callback, run)


def close(trainer: Trainer) -> None:
    """Tell the trackers that nothing more will come."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, Guard):
            callback.close()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
