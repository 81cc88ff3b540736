"""The command that makes a model smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explain import terminal
from explain.cli.common import Model, SourceColumn, SourceLanguage, TargetColumn, TargetLanguage, app
from explain.terminal import say

if TYPE_CHECKING:
    from explain.compression import Compression


@app.command()
def compress(
    model: Model,
    out: Annotated[Path, typer.Option(help="Run folder; it is made, and is a MODEL like any other.")],
    quantize: Annotated[str | None, typer.Option(help="int8: weights in a quarter of the size.")] = None,
    prune: Annotated[float | None, typer.Option(help="Share to prune, between 0 and 1.")] = None,
    structure: Annotated[str, typer.Option(help="What is pruned: weights, heads or neurons.")] = "weights",
    by: Annotated[str, typer.Option(help="What goes first: by magnitude or by gradient.")] = "magnitude",
    head: Annotated[
        list[str] | None, typer.Option(help="Silence this head, such as decoder.1.cross.0; may be repeated.")
    ] = None,
    distill: Annotated[
        str | None, typer.Option(help="Layers of the student: 1, 2:1 (encoder:decoder), or which: 0,3:0,.")
    ] = None,
    finetune_steps: Annotated[int | None, typer.Option(help="Train on after pruning; zeros stay.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of distillation.")] = None,
    alpha: Annotated[float, typer.Option(help="Weight of the teacher's distributions, 0 to 1.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the teacher's distributions.")] = 2.0,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    task: Annotated[
        str | None, typer.Option(help="To measure and train on; the model's own by default.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="File of pairs instead.")] = None,
    validation: Annotated[str | None, typer.Option(help="File of pairs to measure on.")] = None,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    seed: Annotated[int | None, typer.Option(help="Decides order and what is held out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> int:
    """Make a model smaller (int8, pruned, or distilled to fewer layers) and measure what that costs."""
    from explain.compression import FILE, CompressConfig, open_run
    from explain.compression import compress as work

    config = CompressConfig(
        model=model,
        quantize=quantize,
        prune=prune,
        structure=structure,
        by=by,
        heads=tuple(head or ()),
        distill=distill,
        finetune_steps=finetune_steps,
        steps=steps,
        alpha=alpha,
        temperature=temperature,
        lr=lr,
        batch_size=batch_size,
        task=task,
        data=data,
        validation=validation,
        source_column=source_column,
        target_column=target_column,
        source_language=source_language,
        target_language=target_language,
        seed=seed,
    )
    config, run = open_run(config, out, resume=resume)
    with terminal.training_progress() as progress:
        found = work(config, run, progress, resume=resume)
    if found is None:
        say(f"stopped; go on with the same command and --resume ({out})")
        return terminal.INTERRUPTED
    say(terminal.table(("figure", "original", "compressed", "ratio"), _rows(found)))
    if found.kind == "prune" and found.compressed_size.sparsity > found.original_size.sparsity + 0.01:
        say("\nZeros are stored like any other number: the file shrinks only when it is zipped.")
    speed = found.speed
    say(
        f"\nSpeed: {speed.rows} outputs of {speed.tokens} tokens, {speed.rounds} rounds in turns, "
        f"{speed.threads} threads, {speed.device}; ratios {speed.low:.2f} to {speed.high:.2f}."
    )
    if found.original_accuracy is None:
        say("Accuracy was not measured: name a task (--task) or pairs (--data).")
    say(f"wrote {out} and {out / FILE}")
    return terminal.DONE


def _rows(found: Compression) -> list[tuple[str, str, str, str]]:
    rows = []
    for row in found.to_frame().to_dict("records"):
        name = str(row["figure"])
        whole = name in ("parameters", "nonzero", "tokens_per_second") or name.endswith("bytes")
        cells = [
            "-" if value is None or value != value else f"{value:,.0f}" if whole else f"{value:.4f}"
            for value in (row["original"], row["compressed"])
        ]
        ratio = row["ratio"]
        last = found.speed.ratio if name == "tokens_per_second" else ratio
        rows.append((name.replace("_", " "), *cells, "-" if last is None or last != last else f"{last:.2f}"))
    return rows
