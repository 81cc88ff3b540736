"""The command that compares two models."""

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
    from explain.comparison import Comparison


@app.command()
def compare(
    model_a: Annotated[str, typer.Argument(metavar="MODEL_A", help="The original: folder, run or hub id.")],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="What is compared with it.")],
    out: Annotated[Path, typer.Option(help="Run folder; comparison.json and .html are written there.")],
    task: Annotated[str | None, typer.Option(help="A task with known answers; see explain tasks.")] = None,
    data: Annotated[Path | None, typer.Option(help="File of sources, with outputs or without.")] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(help="A model of MODEL_A's recipe trained with another seed; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="See explain methods; may be repeated; five by default.")
    ] = None,
    forced: Annotated[
        bool, typer.Option("--forced", help="Explain the data's own outputs, not those of MODEL_A.")
    ] = False,
    examples: Annotated[int, typer.Option(min=1, help="Outputs to explain.")] = 50,
    outputs: Annotated[int, typer.Option(min=1, help="Outputs to compare as texts.")] = 200,
    top: Annotated[int, typer.Option(min=1, help="How many strongest tokens are compared.")] = 5,
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
    """Find out whether two models that write the same do so for the same reasons."""
    from explain.attribution import REGISTRY, Cancelled
    from explain.comparison import FILE, ComparisonSettings
    from explain.comparison import compare as measure
    from explain.report import comparison_page
    from explain.runs import JobStopped, Run
    from explain.training import tasks as room
    from explain.training.data import read_table

    if (task is None) == (data is None):
        raise InputError("give either --task NAME or --data FILE")
    for name in method or ():
        REGISTRY.get(name)
    subject = room.get(task) if task is not None else None
    pairs = None if data is None else read_table(data, source_column, target_column, need_target=forced)
    first, second, *others = (open_model(name, device, dtype) for name in (model_a, model_b, *(floor or ())))
    title = f"{Path(model_a).name} and {Path(model_b).name} on {task or (data.name if data else '')}"
    config = {
        "model_a": model_a,
        "model_b": model_b,
        "floor": floor or [],
        "task": task,
        "data": data and str(data),
        "methods": method,
        "examples": examples,
    }
    run = Run.create(out, kind="compare", title=title, config=config, seed=seed)
    started = time.monotonic()

    def tell(done: int, total: int) -> None:
        seconds = round(time.monotonic() - started, 1)
        run.append({"kind": "step", "step": done, "total_steps": total, "seconds": seconds})
        progress(done, total)

    with run.running(), terminal.progress("comparing") as progress:
        try:
            found = measure(
                first,
                second,
                subject if subject is not None else pairs or [],
                floor=others,
                methods=method,
                forced=forced,
                settings=ComparisonSettings(examples=examples, outputs=outputs, k=top, seed=seed),
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
        write_text(out / "comparison.html", comparison_page(found, command=command_line()))
        run.update(
            model_digest=found.a.digest,
            data_digest=found.data_digest,
            result={"alarm": found.alarm.alarm, "examples": found.data.examples},
        )
    if run.state != "done":
        return terminal.INTERRUPTED
    say(terminal.table(*_drift_table(found)))
    answer = {True: "alarm", False: "no alarm", None: "no answer"}[found.alarm.alarm]
    say(f"\n{answer}: {found.alarm.reason}")
    say(f"wrote {out / FILE} and {out / 'comparison.html'}")
    return terminal.DONE


def _drift_table(found: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Agreement of every method's maps, with the floor's in brackets."""
    columns = ("method", "same strongest token", "strongest tokens shared", "order", "change of P@1", "alarm")
    rows = []
    for name, drift in found.figures.drift.items():
        floor = None if found.floor is None else found.floor.figures.drift.get(name)
        cells = [
            _number(getattr(drift, part).value, None if floor is None else getattr(floor, part).value, sign)
            for part, sign in (
                ("top1", ""),
                ("topk_jaccard", ""),
                ("weighted_tau", ""),
                ("p_at_1_change", "+"),
            )
        ]
        alarm = {True: "yes", False: "no", None: "-"}[found.alarm.methods[name].alarm]
        rows.append((name, *cells, alarm))
    rows += [(name, "-", "-", "-", "-", problem) for name, problem in found.problems.items()]
    return columns, rows


def _number(value: float, floor: float | None, sign: str) -> str:
    if value != value:
        return "-"
    beside = "" if floor is None or floor != floor else f" ({floor:{sign}.3f})"
    return f"{value:{sign}.3f}{beside}"
