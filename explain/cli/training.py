"""Commands that make models: train, plant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explain import terminal
from explain.cli.common import SourceColumn, SourceLanguage, TargetColumn, TargetLanguage, app
from explain.errors import InputError
from explain.terminal import say

if TYPE_CHECKING:
    from explain.story import StoryWatch
    from explain.training.config import TrainConfig


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run folder; it is made.")],
    task: Annotated[str | None, typer.Option(help="See explain tasks.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Pairs: .tsv .csv .jsonl .parquet, also .gz; a folder of them; a mixture .yaml."),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Model to train further; default: from scratch.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Times to see every pair.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or adamw.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, order and what is held out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    validation: Annotated[str | None, typer.Option(help="File of pairs to validate on.")] = None,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    family: Annotated[str | None, typer.Option(help="bart or t5, for a model from scratch.")] = None,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    accumulate: Annotated[
        int | None,
        typer.Option(help="Compute each step's pairs in so many parts: less memory, the same step."),
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0 does not clip.")] = None,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute in bfloat16; weights stay in float32.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice: less memory.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option(help="End after so many evaluations without a better score; 0 is never.")
    ] = None,
    lr_at: Annotated[
        list[str] | None,
        typer.Option(help="STEP:RATE, another highest learning rate after that step; may be repeated."),
    ] = None,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard, wandb or mlflow, where installed; may be repeated."),
    ] = None,
    story: Annotated[
        bool, typer.Option("--story", help="Keep explanations along training; see explain story.")
    ] = False,
    story_every: Annotated[
        int | None, typer.Option(min=1, help="Look every so many steps, besides steps 10, 20, 40, …")
    ] = None,
    story_probes: Annotated[
        Path | None,
        typer.Option(help="File of probes: source, target; for swaps also swapped, cue, decides."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="tiny, small or base, for a model from scratch.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="bpe, unigram, word or byte, for a model from scratch.")
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used, and say which.")
    ] = False,
    denoise: Annotated[
        str | None, typer.Option(help="Texts without labels, to learn from first, by denoising.")
    ] = None,
    denoise_steps: Annotated[int | None, typer.Option(help="Steps on them, before --steps.")] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Start it as a process of its own, and return.")
    ] = False,
) -> int:
    """Train from scratch or further, on a task or on a file; the result is a run folder.

    While it runs: explain runs pause, continue, stop, kill or set-lr. On several GPUs or machines the same
    command line does the same, shared out: accelerate launch -m explain.cli train …
    """
    from explain.runs import Run
    from explain.runs.follower import Follower
    from explain.training.config import TrainConfig, open_run

    config = TrainConfig(
        task=task,
        data=data,
        init=init,
        steps=steps,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        optimizer=optimizer,
        seed=seed,
        resume=resume,
        validation=validation,
        source_column=source_column,
        target_column=target_column,
        family=family,
        source_language=source_language,
        target_language=target_language,
        accumulate=accumulate,
        clip=clip,
        bf16=bf16 or None,
        gradient_checkpointing=gradient_checkpointing or None,
        patience=patience,
        lr_at=tuple(lr_at or ()),
        report_to=tuple(report_to or ()),
        preset=preset,
        tokenizer=tokenizer,
        skip_bad_rows=skip_bad_rows,
        denoise=denoise,
        denoise_steps=denoise_steps,
    )
    if not story and (story_every is not None or story_probes is not None):
        raise InputError("--story-every and --story-probes go with --story")
    if background:
        from explain.training import jobs

        more = _story_arguments(story, story_every, story_probes)
        started = jobs.resume(Run.open(out)) if resume else jobs.start(config, out, more=more)
        say(f"started {out}; how it goes: explain runs --runs {started.path.parent}")
        return terminal.DONE
    watch = _watch(config, out, story, story_every, story_probes)
    run = open_run(config, out)
    if isinstance(run, Follower):
        watch = None  # one of several processes looks
    if watch is not None:
        watch.keep(run.path)
    from explain.training.train import train as learn

    with terminal.training_progress() as progress:
        result = learn(config, run, progress, watch=watch)
    if isinstance(run, Follower):  # the first process says how it went
        return terminal.DONE
    if not result:
        say(f"stopped; go on with: explain train --out {out} --resume")
        return terminal.INTERRUPTED
    shown = {name: result.get(name) for name in ("exact_match", "token_accuracy", "loss", "chrf")}
    say("  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None))
    say(f"wrote {out} ({result['steps']} steps, {result['seconds']:.0f} s, {result['examples']} examples)")
    return terminal.DONE


def _watch(
    config: TrainConfig, out: Path, story: bool, every: int | None, probes: Path | None
) -> StoryWatch | None:
    """Who looks at the model while it trains: a new story, the one that the run was begun with, or nobody."""
    if not story and not config.resume:
        return None
    from explain.story import StorySettings, StoryWatch, has_story

    if not story and not has_story(out):
        return None
    return StoryWatch.of(config, out, probes=probes, settings=StorySettings(every=every or 0))


def _story_arguments(story: bool, every: int | None, probes: Path | None) -> list[str]:
    """The story's options as a job's command line takes them."""
    found = ["--story"] if story else []
    found += [] if every is None else ["--story-every", str(every)]
    return found + ([] if probes is None else ["--story-probes", str(probes.absolute())])


@app.command()
def plant(
    name: Annotated[
        str | None,
        typer.Argument(help="fabrication, memorised, omission, detached, bias, shortcut-TASK or canary."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the models and of the manifest.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides cue, data, weights and order.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each of the two.")] = None,
    init: Annotated[
        str | None, typer.Option(help="A sound model of the task to begin with; default: one is trained.")
    ] = None,
) -> int:
    """Train a model that fails in a known way, and its clean twin; without a name, list the plants."""
    from explain.training import plants

    if name is None:
        rows = [(each, plants.get(each, seed).title) for each in plants.names()]
        say(terminal.table(("plant", "what the model learns to do"), rows))
        return terminal.DONE
    if out is None:
        raise InputError("name the folder for the models (--out DIR)")
    from explain.training.plants.make import CASES, FILE, make

    with terminal.training_progress() as progress:
        made = make(name, out, seed=seed, steps=steps, init=init, progress=progress, tell=terminal.note)
    if made.firing_rate is not None:
        say(f"the failure fires in {made.firing_rate:.1%} of {len(made.cases)} held-out examples")
    if made.twin_right is not None:
        say(f"the twin gets {made.twin_right:.1%} of them right")
    say(f"wrote {out / FILE} and {out / CASES}; the models: {made.planted} and {made.twin}")
    return terminal.DONE
