"""The training loop: `Seq2SeqTrainer` with our batches, scores, checkpoints and live record."""

from __future__ import annotations

import math
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed

from explain.errors import TrainingError
from explain.files import remove_folder, write_json
from explain.runs.follower import rank, world
from explain.training.batches import IGNORED, Batches
from explain.training.checkpoints import IDENTITY, reading, writing
from explain.training.crew import WEIGHT, Parts, summed
from explain.training.recipes import Recipe, build_optimizer, build_schedule, course

WRITING = ".writing"
_LONG = 30 * 24 * 3600
"""Seconds that processes wait for one another: a run may be paused for days."""


@dataclass(frozen=True, slots=True)
class Shaping:
    """What a training run does beyond learning from its pairs.

    Attributes:
        begin: called with the model before the first step, after a resumption as well.
        loss: makes what is learnt from the batch, the model's outputs and the loss on the targets.
    """

    begin: Callable[[PreTrainedModel], None] | None = None
    loss: Callable[[Mapping[str, torch.Tensor], Any, torch.Tensor], torch.Tensor] | None = None


class Loop(Seq2SeqTrainer):
    """Hugging Face's trainer without what a small model would pay for at every step."""

    # Each part of a step is weighted by its tokens: the trainer is not to divide by their number.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        recipe: Recipe,
        batches: Batches,
        *,
        folder: Path,
        seed: int,
        evaluate: Callable[[], Any],
        shaping: Shaping | None = None,
        identity: Mapping[str, Any] | None = None,
        report_to: Sequence[str] = (),
    ):
        """Prepare to train.

        Args:
            model: the model to train, in place.
            tokenizer: its tokenizer, saved with each checkpoint.
            recipe: how.
            batches: one batch per step.
            folder: where checkpoints go.
            seed: torch's seed, for dropout.
            evaluate: called where an evaluation is due.
            shaping: what is done beyond learning from the pairs.
            identity: what each checkpoint says about the run it belongs to.
            report_to: trackers, by the names that the trainer knows.
        """
        self.shaping = shaping or Shaping()
        if self.shaping.begin is not None:
            self.shaping.begin(model)
        optimizer = build_optimizer(recipe, model)
        super().__init__(
            model=model,
            args=_arguments(folder, batches, recipe, seed, report_to),
            train_dataset=batches,
            optimizers=(optimizer, build_schedule(recipe, optimizer, len(batches))),
        )
        if rank() > 0:  # dropout is to be drawn anew for the pairs of each process
            set_seed(seed + rank())
        self.recipe = recipe
        self.identity = dict(identity or {})
        self.batches = batches
        self.folder = folder
        # Not given to the trainer as `processing_class`: that would change the model's configuration.
        self.tokenizer_to_save = tokenizer
        self.label_smoothing = recipe.label_smoothing
        self.score_model = evaluate
        self.last_loss = math.nan
        self._losses: list[float] = []
        self.last_norm = math.nan
        self.last_rate = math.nan

    def get_train_dataloader(self) -> DataLoader:
        """One item is one whole batch, so that a resumed run skips to its step without making any."""
        parts = Parts(self.batches, count=self.recipe.accumulate, rank=rank(), size=world())
        return DataLoader(parts, batch_size=1, shuffle=False, collate_fn=_only)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean cross-entropy of a target token, smoothed where the recipe says so.

        Of a part of a step it is weighted by the part's share of the step's tokens, so that the gradients of
        all parts and processes add up to the whole step's.
        """
        weight = inputs.pop(WEIGHT, 1.0)
        if self.label_smoothing:
            labels = inputs["labels"]
            own: Any = self.model
            shifted = own.prepare_decoder_input_ids_from_labels(labels=labels)
            rest = {name: tensor for name, tensor in inputs.items() if name != "labels"}
            outputs = model(**rest, decoder_input_ids=shifted, use_cache=False)
            loss = torch.nn.functional.cross_entropy(
                outputs.logits.flatten(0, 1),
                labels.flatten(),
                ignore_index=IGNORED,
                label_smoothing=self.label_smoothing,
            )
        else:
            outputs = model(**inputs, use_cache=False)
            loss = outputs.loss
        if self.shaping.loss is not None:
            loss = self.shaping.loss(inputs, outputs, loss)
        value = loss.item()
        if world() == 1:  # several processes find out together, in `step_loss`
            self._check(value, self.state.global_step + 1)
        self._losses.append(weight * value)
        if weight * world() != 1.0:  # the processes' gradients are averaged
            loss = loss * (weight * world())
        return (loss, outputs) if return_outputs else loss

    def _check(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {step}; use a smaller learning rate (--lr), or give this "
                f"run one and resume it: explain runs set-lr {shlex.quote(str(self.folder.parent))} RATE"
            )

    def step_loss(self) -> float:
        """The loss of the step that ends, over all its parts and processes.

        Raises:
            TrainingError: it is not a number.
        """
        loss = sum(self._losses)
        self._losses = []
        if world() > 1:
            loss = summed([loss], self.args.device)[0]
            self._check(loss, self.state.global_step)
        self.last_loss = loss
        return loss

    def change_rate(self, rate: float) -> None:
        """From the next step on, take this as the highest learning rate; the schedule stays as it is."""
        self.recipe = self.recipe.with_rate(self.state.global_step, rate)
        schedule: Any = self.lr_scheduler
        factor = course(self.recipe, len(self.batches))
        schedule.lr_lambdas = [factor] * len(schedule.lr_lambdas)
        rates = [base * factor(schedule.last_epoch) for base in schedule.base_lrs]
        for group, value in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = value
        schedule._last_lr = rates

    def report(self, numbers: Mapping[str, float]) -> None:
        """Tell the trackers."""
        self.callback_handler.on_log(self.args, self.state, self.control, dict(numbers))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the count walks through all modules at every step."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the model our way."""
        self.score_model()
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: the run's own record says more."""

    def _get_num_items_in_batch(self, *args: Any, **kwargs: Any) -> None:
        """Not counted: each part knows its weight."""

    def _clip_grad_norm(self, model: Any) -> Any:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        if grad_norm is None:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients)
        self.last_norm = float(grad_norm)
        self.last_rate = self._get_learning_rate()
        return self.last_norm

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = output_dir or self.folder
        model: Any = self.model
        model.save_pretrained(folder, state_dict=state_dict)
        self.tokenizer_to_save.save_pretrained(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint aside and rename it, so that one with a number is whole.

        Raises:
            FileError: it cannot be written; the one before is still there.
        """
        goal, aside = self.folder, self.folder / WRITING
        if rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(aside)
        try:
            with writing(aside, f"the checkpoint of step {self.state.global_step}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if rank() == 0:
                    self._put_in_place(aside)
        finally:
            self.args.output_dir = str(goal)
            if rank() == 0:
                shutil.rmtree(aside, ignore_errors=True)

    def _put_in_place(self, aside: Path) -> None:
        """Rename the checkpoint that is whole, then drop the one before."""
        for written in aside.iterdir():
            write_json(written / IDENTITY, self.identity | {"step": self.state.global_step})
            remove_folder(self.folder / written.name)
            os.replace(written, self.folder / written.name)
            for old in list(self.folder.iterdir()):
                if old.name != written.name and old != aside:
                    remove_folder(old)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)


def _only(items: list[Any]) -> Any:
    return items[0]


def _arguments(
    folder: Path, batches: Batches, recipe: Recipe, seed: int, report_to: Sequence[str]
) -> Seq2SeqTrainingArguments:
    again = "activation_checkpointing"
    if again not in Seq2SeqTrainingArguments.__dataclass_fields__:  # its name before transformers 5.24
        again = "gradient_checkpointing"
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        max_steps=len(batches),
        per_device_train_batch_size=batches.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        max_grad_norm=recipe.clip,
        bf16=recipe.bf16,
        use_cpu=not torch.accelerator.is_available(),
        ddp_timeout=_LONG,
        ddp_find_unused_parameters=False,
        seed=seed,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to=list(report_to) or "none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cache=True,
        **{again: recipe.gradient_checkpointing, f"{again}_kwargs": {"use_reentrant": False}},
    )
    # One process uses one GPU: for several there is `accelerate launch`, which is faster than threads.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments
