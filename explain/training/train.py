"""Training a model in a run folder: by Adam, watched live, resumable, the best checkpoint kept."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging

from explain.errors import RunError
from explain.files import digest_json, envelope, remove_folder, replace_folder, restore_folder
from explain.model import wrap
from explain.model.loading import open_model
from explain.runs import JobStopped, Run
from explain.runs.follower import rank
from explain.training.checkpoints import check_identity, last_checkpoint, step_of, writing
from explain.training.config import CHECKPOINTS, TrainConfig, merge
from explain.training.crew import summed, together
from explain.training.loop import Loop, Shaping
from explain.training.prepare import plan, prepare
from explain.training.recipes import Recipe
from explain.training.record import LiveRecord, Progress
from explain.training.scoring import Encoded, Scores, score
from explain.training.trackers import close, guard
from explain.training.watch import Watch, undisturbed

MODEL = "model"
SAMPLE = 100
"""Number of validation pairs that are scored while training goes on."""


def train(
    config: TrainConfig, run: Run, progress: Progress | None = None, *, watch: Watch | None = None
) -> dict[str, Any]:
    """Train as `config` says in the folder of `run` (from `open_run`), and keep the best model there.

    The run ends as `done`; asked to stop, it writes a checkpoint and ends as `stopped`.

    Args:
        config: the options; with `resume`, those that the run was begun with hold.
        run: the run folder.
        progress: called with every record that goes into `progress.jsonl`.
        watch: who looks at the model before, at certain steps and after; training is the same without.

    Returns:
        exact_match, token_accuracy, loss, chrf, examples, seconds and steps of the best model on the
        validation pairs; empty where the run was stopped.

    Raises:
        TrainingError: the loss became NaN or infinite.
        ExplainError: data, model or options that cannot be used.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    result: dict[str, Any] = {}
    with run.running(), quietly():
        if config.resume:
            config = dataclasses.replace(merge(config, run), resume=True)
        result = learn(config, run, progress, watch=watch, manifest={"config": config.to_dict()})
    if result and rank() == 0:
        remove_folder(run.path / CHECKPOINTS)
    return result


def learn(
    config: TrainConfig,
    run: Run,
    progress: Progress | None = None,
    *,
    recipe: Recipe | None = None,
    shaping: Shaping | None = None,
    watch: Watch | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The work of `train` inside a run that is running already, for runs that do more than train.

    Checkpoints are left in the run folder: whoever calls this removes them when the run is done.

    Args:
        config: the options, whole; with `resume` the last checkpoint is gone on from, if there is one.
        run: the run folder.
        progress: called with every record that goes into `progress.jsonl`.
        recipe: how to train; left out, the options decide. A resumed run keeps the recipe it was begun with.
        shaping: what is done beyond learning from the pairs.
        watch: who looks at the model before, at certain steps and after.
        manifest: fields for `run.json`.

    Raises:
        JobStopped: someone asked for it.
        Everything that `train` raises.
    """
    job = _Job(config, run, progress, recipe, shaping, watch, manifest or {})
    try:
        job.learn()
        return job.finish()
    finally:
        close(job.loop)


class _Job:
    """One process's share of a training run."""

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        progress: Progress | None,
        recipe: Recipe | None,
        shaping: Shaping | None,
        watch: Watch | None,
        manifest: Mapping[str, Any],
    ):
        self.run = run
        progress = progress if rank() == 0 else None
        self.checkpoint = None
        if config.resume:
            recipe = _stored_recipe(run) or recipe
            self.checkpoint = last_checkpoint(run.path / CHECKPOINTS)
        self.data = prepare(config, checkpoint=self.checkpoint, recipe=recipe)
        if rank() == 0:
            put_in_order(run.path / MODEL)
        self.reached = 0 if self.checkpoint is None else step_of(self.checkpoint)
        self._begin(config, manifest)
        seed = config.seed or 0
        self.batches = plan(self.data, seed)
        before = max((record.get("seconds", 0.0) for record in run.progress()), default=0.0)
        self.record = LiveRecord(
            run, self.batches, seconds=before, progress=progress, watch=watch, saved=self.keep_best
        )
        self.loop = Loop(
            self.data.model,
            self.data.tokenizer,
            self.data.recipe,
            self.batches,
            folder=run.path / CHECKPOINTS,
            seed=seed,
            evaluate=self.evaluate,
            shaping=shaping,
            identity=self.identity,
            report_to=config.report_to,
        )
        guard(self.loop, run)
        self.loop.add_callback(self.record)
        self.record.loop = self.loop

    def _begin(self, config: TrainConfig, fields: Mapping[str, Any]) -> None:
        """Write into the manifest what this run is, or see that it still is that."""
        manifest = self.run.manifest
        step = self.reached
        self.run.keep_progress(step)
        self.best: dict[str, Any] | None = None
        self.better: dict[str, Any] | None = None
        self.stale = 0
        architecture = digest_json(
            [[name, list(each.shape)] for name, each in self.data.model.named_parameters()]
        )
        begun = manifest.get("architecture") if self.checkpoint is not None else None
        self.identity = {
            **envelope("checkpoint", seed=config.seed or 0, data_digest=self.data.digest, command=""),
            "run": manifest.get("created"),
            "architecture": begun or architecture,
        }
        if self.checkpoint is not None:
            if manifest.get("data_digest") != self.data.digest:
                raise RunError(
                    f"the data of {self.run.path} changed since it was begun; "
                    "put them back, or begin a new run"
                )
            check_identity(self.checkpoint, self.identity, architecture)
            self._recall(manifest)
        self.run.update(
            **fields,
            **self.data.facts,
            seed=config.seed or 0,
            recipe=self.data.recipe.to_dict(),
            data_digest=self.data.digest,
            architecture=self.identity["architecture"],
            best=self.best,
        )
        self.run.log(
            f"{len(self.data.train.pairs):,} pairs to train on, "
            f"{len(self.data.validation.pairs):,} to validate on; "
            f"{self.data.model.num_parameters():,} parameters; steps {step:,} to {self.data.steps:,}"
        )
        for note in self.data.notes:
            self.run.log(note)

    def _recall(self, manifest: Mapping[str, Any]) -> None:
        """What the evaluations before the checkpoint said; the last may not have been acted on."""
        self.best = manifest.get("best")
        for record in self.run.progress():
            if record.get("kind") != "evaluation":
                continue
            self._count(record["step"], record.get("best"))
            if record.get("best") and record["step"] == self.reached and record.get("rank"):
                self.better = {"step": record["step"], "rank": record["rank"]}
        if self.best is not None and self.best["step"] == self.reached:
            self.better = None  # it is kept already; the next checkpoint is another model
        self.keep_best()

    def _count(self, step: int, best: bool | None) -> None:
        """Count evaluations without a better score; while texts are denoised none is to be expected."""
        self.stale = 0 if best or step <= self.data.recipe.denoise_steps else self.stale + 1

    @property
    def exhausted(self) -> bool:
        """Whether so many evaluations brought no better score that training is to end."""
        return 0 < self.data.recipe.patience <= self.stale

    def learn(self) -> None:
        """Train to the last step.

        Raises:
            JobStopped: someone asked for it.
            KeyboardInterrupt: the same, by Ctrl-C or a termination signal.
        """
        if not self.exhausted:
            with self.record.interrupt.heeded(), together():
                self.loop.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
            self.reached = self.loop.state.global_step
        if not self.record.stopped:
            return
        self.run.log(f"stopped at step {self.reached:,}")
        if self.best is None and rank() == 0:
            self._keep()
        if self.record.interrupt.came:
            raise KeyboardInterrupt
        raise JobStopped

    def evaluate(self) -> None:
        """Score the model on a sample of the validation pairs, and end here where patience is at its end."""
        step, last = self.loop.state.global_step, self.loop.state.global_step >= self.data.steps
        if rank() == 0:
            self._evaluate(step)
        (ended,) = summed([float(self.exhausted and not last)], self.loop.args.device)
        if ended:
            self.run.log(f"no better score in {self.stale} evaluations: training ends at step {step:,}")
            self.record.look(step)
            self.loop.control.should_training_stop = True
        else:
            self.record.obey(step, self.loop.control)

    def _evaluate(self, step: int) -> None:
        scores = self._score(self.data.model, self.data.validation.head(SAMPLE))
        best = self.best is None or scores.rank > tuple(self.best["rank"])
        self.better = {"step": step, "rank": scores.rank} if best else None
        self._count(step, best)
        self.record.write(
            "evaluation",
            step,
            **scores.to_dict(),
            evaluation_seconds=round(scores.seconds, 3),
            best=best,
            rank=scores.rank,
            samples=scores.samples,
        )
        self.record.leave_out(scores.seconds)
        self.run.log(f"step {step:,}: loss {scores.loss:.4f}, exact match {scores.exact_match:.3f}")

    def _score(self, model: PreTrainedModel, pairs: Encoded) -> Scores:
        with undisturbed(model):
            return score(
                model, self.data.tokenizer, pairs, chrf=self.data.chrf, forced_bos=self.data.forced_bos
            )

    def keep_best(self) -> None:
        """After a checkpoint: keep the model if it is the best so far, so that no later one is ever kept."""
        if self.better is not None and rank() == 0:
            self._keep()
            self.best, self.better = self.better, None
            self.run.update(best=self.best)

    def _keep(self) -> None:
        with writing(self.run.path / MODEL, "the model"):
            save_model(self.data.model, self.data.tokenizer, self.run.path / MODEL)
        self.run.update(model=MODEL)

    def finish(self) -> dict[str, Any]:
        """Score the best model on all validation pairs and write down the result."""
        data, model = self.data, self.data.model
        if rank() > 0:
            return {}
        if self.best is not None and self.best["step"] != self.reached:
            model = open_model(self.run.path / MODEL, device=str(model.device))[0]
        scores = self._score(model, data.validation)
        result = scores.to_dict() | {"seconds": round(self.record.seconds, 3), "steps": self.reached}
        if data.shares:
            parts = ((share.name, data.validation_of(number)) for number, share in enumerate(data.shares))
            result["tasks"] = {name: self._score(model, part).to_dict() for name, part in parts if part.pairs}
        self.record.write("result", self.reached, **scores.to_dict(), samples=scores.samples)
        self.run.update(result=result, model_digest=wrap(model, data.tokenizer).digest)
        self.run.log(f"done: exact match {scores.exact_match:.4f}, loss {scores.loss:.4f}")
        return result


def _stored_recipe(run: Run) -> Recipe | None:
    stored = run.manifest.get("recipe")
    try:
        return Recipe.from_dict(stored) if stored else None
    except (KeyError, TypeError):
        raise RunError(f"{run.path} keeps a recipe that this version cannot read; begin a new run") from None


def save_model(model: PreTrainedModel, tokenizer: Any, goal: Path) -> None:
    """Write a model folder aside, then put it in the place of the one before: it is whole or not there."""
    aside = _aside(goal)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        # safetensors makes its file private; a model is as readable as the rest of the run.
        mode = (aside / "config.json").stat().st_mode
        for path in aside.iterdir():
            path.chmod(mode)
        replace_folder(aside, goal)
    finally:  # half a model is not to fill a full disk
        shutil.rmtree(aside, ignore_errors=True)


def put_in_order(goal: Path) -> None:
    """Undo what a process left that was killed while it saved a model."""
    restore_folder(goal)
    shutil.rmtree(_aside(goal), ignore_errors=True)


def _aside(goal: Path) -> Path:
    return goal.with_name(f".{goal.name}-new")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' notes and bars off the terminal: those who train can do nothing about them."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|accelerate|torch)\b")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
