"""The command that evaluates methods on a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explain import terminal
from explain.cli.common import (
    Beams,
    Device,
    Dtype,
    MaxNew,
    Memory,
    Model,
    SourceColumn,
    SourceLanguage,
    TargetColumn,
    TargetLanguage,
    Unknown,
    app,
    open_model,
    reading,
)
from explain.errors import InputError
from explain.files import command_line, write_text
from explain.terminal import say

if TYPE_CHECKING:
    from explain.evaluation import Evaluation


@app.command()
def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Run folder; evaluation.json and .html are written there.")],
    task: Annotated[str | None, typer.Option(help="A task with known answers; see explain tasks.")] = None,
    data: Annotated[Path | None, typer.Option(help="File of sources, with outputs or without.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="See explain methods; may be repeated; all by default.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Outputs to explain.")] = 50,
    other: Annotated[
        list[str] | None,
        typer.Option(help="The same model trained with another seed, for stability; may be repeated."),
    ] = None,
    alignments: Annotated[
        Path | None, typer.Option(help="Gold alignments in Pharaoh format (i-j sure, i?j possible).")
    ] = None,
    one_based: Annotated[bool, typer.Option("--one-based", help="Alignments count words from 1.")] = False,
    target_first: Annotated[
        bool, typer.Option("--target-first", help="Alignments name the output's word first.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    memory: Memory = 1024,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Find out which methods to believe on this model: known answers, faithfulness, controls, trust cards."""
    from explain.attribution import REGISTRY, Cancelled
    from explain.evaluation import FILE, EvaluationSettings, read_alignments
    from explain.evaluation import evaluate as measure
    from explain.report import evaluation_page
    from explain.runs import JobStopped, Run, is_run
    from explain.training import tasks as room
    from explain.training.data import read_table

    if (task is None) == (data is None):
        raise InputError("give either --task NAME or --data FILE")
    if alignments is not None and data is None:
        raise InputError("--alignments are of the pairs of --data FILE")
    for name in method or ():
        REGISTRY.get(name)
    subject = room.get(task) if task is not None else None
    pairs = None if data is None else read_table(data, source_column, target_column, need_target=False)
    gold = None
    if alignments is not None and pairs is not None:
        gold = read_alignments(alignments, pairs, one_based=one_based, target_first=target_first)
    opened = open_model(model, device, dtype)
    others = [open_model(name, device, dtype) for name in other or ()]
    title = f"{Path(model).name} on {task or (data.name if data else '')}"
    config = {
        "model": model,
        "task": task,
        "data": data and str(data),
        "methods": method,
        "examples": examples,
    }
    run = Run.create(out, kind="evaluate", title=title, config=config, seed=seed)
    started = time.monotonic()

    def tell(done: int, total: int) -> None:
        seconds = round(time.monotonic() - started, 1)
        run.append({"kind": "step", "step": done, "total_steps": total, "seconds": seconds})
        progress(done, total)

    with run.running(), terminal.progress("evaluating") as progress:
        try:
            found = measure(
                opened,
                subject if subject is not None else pairs or [],
                methods=method,
                others=others,
                alignments=gold,
                settings=EvaluationSettings(examples=examples, seed=seed),
                memory_budget=memory * 2**20,
                generate={
                    "num_beams": num_beams,
                    "max_new_tokens": max_new_tokens,
                    **reading(allow_unknown, source_language, target_language),
                },
                progress=tell,
                should_stop=lambda: not run.wait_while_paused(),
                name=None if data is None else data.name,
            )
        except Cancelled:
            raise JobStopped from None
        found.save(out / FILE)
        write_text(out / "evaluation.html", evaluation_page(found, command=command_line()))
        if is_run(model):
            found.save(Path(model) / FILE)
        run.update(
            model_digest=found.model_digest,
            data_digest=found.data_digest,
            result={"best": found.ranking[0] if found.ranking else None, "examples": found.task.examples},
        )
    if run.state != "done":
        return terminal.INTERRUPTED
    say(terminal.table(*_evaluation_table(found)))
    say(f"\nwrote {out / FILE} and {out / 'evaluation.html'}")
    if is_run(model):
        say(f"kept with {model}: its trust cards now stand beside every map")
    return terminal.DONE


def _evaluation_table(found: Evaluation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The ranking as a table: verdict and the figures behind it."""
    columns = ("method", "verdict", "P@1", "mass", "comprehensiveness", "shuffled weights", "adds up")
    rows = []
    for name in found.ranking:
        item = found.methods[name]
        gold, faithful, sums = item.gold, item.faithfulness, item.completeness
        shuffled = None if item.randomisation is None else item.randomisation.passed
        rows.append(
            (
                name,
                item.card.verdict,
                _share(None if gold is None else gold.scores.precision_at_1.value),
                _share(None if gold is None else gold.scores.mass.value),
                "-" if faithful is None else f"{faithful.comprehensiveness.value:.3f}",
                {True: "changes", False: "stays", None: "-"}[shuffled],
                _share(sums.within if sums is not None and sums.claimed else None),
            )
        )
    return columns, rows


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
