"""The training loop: `Seq2SeqTrainer` with our batches, scores, checkpoints and live record."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments

from explain.errors import TrainingError
from explain.training.batches import IGNORED, Batches
from explain.training.recipes import Recipe, build_optimizer, build_schedule


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
        """
        self.shaping = shaping or Shaping()
        if self.shaping.begin is not None:
            self.shaping.begin(model)
        optimizer = build_optimizer(recipe, model)
        super().__init__(
            model=model,
            args=_arguments(folder, batches, recipe, seed),
            train_dataset=batches,
            optimizers=(optimizer, build_schedule(recipe, optimizer, len(batches))),
        )
        self.batches = batches
        self.folder = folder
        # Not given to the trainer as `processing_class`: that would change the model's configuration.
        self.tokenizer_to_save = tokenizer
        self.label_smoothing = recipe.label_smoothing
        self.score_model = evaluate
        self.last_loss = math.nan
        self.last_norm = math.nan
        self.last_rate = math.nan

    def get_train_dataloader(self) -> DataLoader:
        """One item is one whole batch, so that a resumed run skips to its step without making any."""
        return DataLoader(self.batches, batch_size=1, shuffle=False, collate_fn=_only)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean cross-entropy of a target token, smoothed where the recipe says so."""
        if self.label_smoothing:
            labels = inputs["labels"]
            shifted = model.prepare_decoder_input_ids_from_labels(labels=labels)
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
        self.last_loss = loss.item()
        if not math.isfinite(self.last_loss):
            raise TrainingError(
                f"the loss became {self.last_loss} at step {self.state.global_step + 1}; "
                "use a smaller learning rate (--lr)"
            )
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the count walks through all modules at every step."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the model our way."""
        self.score_model()
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: the run's own record says more."""

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        self.last_norm = norm.item()
        self.last_rate = self._get_learning_rate()
        return norm

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = output_dir or self.folder
        model: Any = self.model
        model.save_pretrained(folder, state_dict=state_dict)
        self.tokenizer_to_save.save_pretrained(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint aside and rename it, so that one with a number is whole."""
        goal = self.folder
        goal.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=goal, prefix=".writing-", ignore_cleanup_errors=True) as aside:
            self.args.output_dir = aside
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(goal)
            for written in Path(aside).iterdir():
                shutil.rmtree(goal / written.name, ignore_errors=True)
                os.replace(written, goal / written.name)
                for old in goal.iterdir():
                    if old.name != written.name and old != Path(aside):
                        shutil.rmtree(old, ignore_errors=True)


def _only(items: list[Any]) -> Any:
    return items[0]


def _arguments(folder: Path, batches: Batches, recipe: Recipe, seed: int) -> Seq2SeqTrainingArguments:
    return Seq2SeqTrainingArguments(
        output_dir=str(folder),
        max_steps=len(batches),
        per_device_train_batch_size=batches.batch_size,
        max_grad_norm=recipe.clip,
        seed=seed,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cache=True,
    )
