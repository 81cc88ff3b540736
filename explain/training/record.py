"""The live record of a training run: progress for onlookers, and their wishes carried out."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from explain.runs import Run
from explain.runs.follower import rank
from explain.training.batches import Batches
from explain.training.crew import summed
from explain.training.loop import Loop
from explain.training.watch import Watch, undisturbed

RECORD_SECONDS = 0.5
# A killed job loses what came after its last checkpoint, so a small model, whose checkpoints cost little,
# writes one every few seconds; a large one spends at most this share of its time on them.
CHECKPOINT_SECONDS = 2.0
CHECKPOINT_SHARE = 0.03
EVALUATIONS = 10

Progress = Callable[[Mapping[str, Any]], None]


class Interrupt:
    """Whether Ctrl-C or a termination signal came; the first is kept for later, the second is obeyed."""

    def __init__(self):
        self.came = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Listen inside the block; in a thread other than the main one nothing can be heard."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(_number: int, _frame: FrameType | None) -> None:
            if self.came:
                raise KeyboardInterrupt
            self.came = True

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class LiveRecord(TrainerCallback):
    """Writes how training goes, answers requests, and says when to evaluate and to checkpoint."""

    def __init__(
        self,
        run: Run,
        batches: Batches,
        *,
        seconds: float,
        progress: Progress | None,
        watch: Watch | None = None,
        saved: Callable[[], None],
    ):
        """Begin the record of one process's share of a run.

        Args:
            run: where records go and requests come from.
            batches: the batches of all steps.
            seconds: time spent by earlier processes of the run.
            progress: called with every record.
            watch: who looks at the model while it trains.
            saved: called after each checkpoint.
        """
        self.run = run
        self.batches = batches
        self.progress = progress
        self.watch = watch
        self.saved = saved
        self.interrupt = Interrupt()
        self.stopped = False
        self.loop: Loop | None = None
        self.evaluate_every = max(1, -(-len(batches) // EVALUATIONS))
        now = time.perf_counter()
        self._begun = now - seconds
        self._recorded = now
        self._saved = now
        self._save_cost = 0.0
        self._losses: list[float] = []
        self._tokens = 0
        self._looked = -1

    @property
    def seconds(self) -> float:
        """Time spent so far, that of earlier processes included, pauses not."""
        return time.perf_counter() - self._begun

    def write(self, kind: str, step: int, **fields: Any) -> None:
        """Add a record to the run and show it to whoever asked to see."""
        record = {
            "kind": kind,
            "step": step,
            "total_steps": len(self.batches),
            "epoch": round(step / self.batches.steps_per_epoch, 3),
            "seconds": round(self.seconds, 3),
            **fields,
        }
        self.run.append(record)
        if self.loop is not None and self.loop.args.report_to:
            prefix = {"evaluation": "eval_", "result": "test_"}.get(kind, "")
            numbers = {name: value for name, value in fields.items() if isinstance(value, (int, float))}
            self.loop.report({prefix + name: value for name, value in numbers.items()})
        if self.progress is not None:
            self.progress(record)

    def leave_out(self, seconds: float) -> None:
        """Do not count these seconds in the tokens per second."""
        self._recorded += seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step: the first look, unless the run is resumed and has had it; what was asked."""
        if state.global_step == 0:
            self.look(0)
        self._exchange(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After each step: record, evaluate, checkpoint, pause, change and stop where due."""
        assert self.loop is not None
        step, last = state.global_step, state.global_step >= len(self.batches)
        self._losses.append(self.loop.step_loss())
        self._tokens += self.batches.tokens(step - 1)
        now = time.perf_counter()
        if now - self._recorded >= RECORD_SECONDS or last or step == 1:
            self._write_step(step, now)
        for after, highest in self.loop.recipe.rates:
            if after == step:
                self._note_rate(step, highest)
        # Before the checkpoint of this step: a run that is resumed after it does not look again.
        if last or (self.watch is not None and self.watch.due(step)):
            self.look(step)
        if last or step % self.evaluate_every == 0:
            control.should_evaluate = control.should_save = True
        due = now - self._saved >= max(CHECKPOINT_SECONDS, self._save_cost / CHECKPOINT_SHARE)
        self.obey(step, control, save=due)
        if control.should_save:
            self._saved = now

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a checkpoint: note what it cost, an evaluation before it included."""
        self.saved()
        self._save_cost = time.perf_counter() - self._saved

    def obey(self, step: int, control: TrainerControl, *, save: bool = False) -> None:
        """Pause here, change the learning rate, or stop after a checkpoint, where someone asked for it.

        All processes do what any of them was asked for. The last step ends anyway.
        """
        halted, saving = self._exchange(step, halt=not self._go_on(), save=save)
        if saving:
            control.should_save = True
        if halted and step < len(self.batches):
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def _exchange(self, step: int, *, halt: bool = False, save: bool = False) -> tuple[bool, bool]:
        """Whether any process is to halt and the first wants to save; a learning rate asked for is taken."""
        assert self.loop is not None
        with self.run.taking_rate() as asked:
            wanted = (float(halt), float(save and rank() == 0), asked or 0.0)
            halted, saving, highest = summed(wanted, self.loop.args.device)
            if highest:
                self.loop.change_rate(highest)
                self.run.update(recipe=self.loop.recipe.to_dict())
                self._note_rate(step, highest)
        return halted > 0, saving > 0

    def _note_rate(self, step: int, highest: float) -> None:
        self.write("learning_rate", step, highest=highest)
        self.run.log(f"step {step:,}: the highest learning rate is now {highest:g}")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the last step: do not evaluate and save a second time."""
        control.should_evaluate = control.should_save = False

    def _write_step(self, step: int, now: float) -> None:
        assert self.loop is not None
        elapsed = max(now - self._recorded, 1e-6)
        self.write(
            "step",
            step,
            loss=sum(self._losses) / len(self._losses),
            learning_rate=self.loop.last_rate,
            grad_norm=self.loop.last_norm,
            tokens_per_second=round(self._tokens / elapsed),
        )
        self._recorded, self._losses, self._tokens = now, [], 0

    def look(self, step: int) -> None:
        """Let whoever watches look at the model, once a step."""
        if self.watch is None or rank() > 0 or step == self._looked:
            return
        self._looked = step
        assert self.loop is not None
        before = time.perf_counter()
        model: Any = self.loop.model
        with undisturbed(model):
            self.watch.look(model, self.loop.tokenizer_to_save, step, self.run)
        self.leave_out(time.perf_counter() - before)

    def _go_on(self) -> bool:
        if self.interrupt.came:
            return False
        before = time.perf_counter()
        go_on = self.run.wait_while_paused()
        waited = time.perf_counter() - before
        if waited > 0.1:
            self._begun += waited
            self._recorded += waited
        return go_on
