"""Commands that look inside a model without changing it: heads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain import terminal
from explain.cli.common import (
    Beams,
    Device,
    Dtype,
    MaxNew,
    Model,
    SourceColumn,
    SourceLanguage,
    TargetColumn,
    TargetLanguage,
    Unknown,
    analyze,
    open_model,
    reading,
)
from explain.errors import FileError, InputError
from explain.files import digest_json, dump_json, envelope, replacing, write_json
from explain.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from explain.model import Seq2Seq
    from explain.results import Generation
    from explain.training.tasks import TokenGold

ENDINGS = (".json", ".csv")
Out = Annotated[Path, typer.Option(help=f"FILE.{{{','.join(ending[1:] for ending in ENDINGS)}}}")]
Task = Annotated[str | None, typer.Option(help="A task with known answers; see explain tasks.")]
Data = Annotated[Path | None, typer.Option(help="File of sources, with outputs or without.")]
Forced = Annotated[bool, typer.Option("--forced", help="Look at the file's outputs, not the model's.")]


@analyze.command()
def heads(
    model: Model,
    out: Out,
    task: Task = None,
    data: Data = None,
    examples: Annotated[int, typer.Option(min=1, help="Outputs to look at.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the examples that a task draws.")] = 0,
    forced: Forced = False,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Find out what every attention head looks at, what role that gives it, and how much outputs need it."""
    from explain.analysis.heads import head_roles, head_statistics

    _check_out(out)
    if (task is None) == (data is None):
        raise InputError("give either --task NAME or --data FILE")
    if forced and data is None:
        raise InputError("--forced is about the outputs of --data FILE")
    if task is not None:
        from explain.training import tasks

        tasks.get(task)
    columns = source_column, target_column
    pairs = [] if data is None else _pairs(data, columns, forced)[:examples]
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    gold: list[TokenGold | None] | None = None
    if task is not None:
        generations, gold = _of_task(opened, task, examples, seed, {**shared, **controls})
    elif forced:
        generations = opened.force([source for source, _ in pairs], [target for _, target in pairs], **shared)
    else:
        generations = opened.generate([source for source, _ in pairs], **shared, **controls)
    with terminal.progress("looking at heads") as progress:
        statistics = head_statistics(opened, generations, gold, progress=progress)
    roles = head_roles(statistics)
    found = {"task": task, "statistics": statistics.to_dict(), "roles": roles.to_dict()}
    digest = digest_json([[item.source_text, item.target_text] for item in generations])
    frame = statistics.to_frame().assign(role=[row.role for row in roles.rows])
    _save(out, "heads", found, frame, seed=seed, model_digest=opened.digest, data_digest=digest)
    say(f"wrote {out}")


def _of_task(
    model: Seq2Seq, task: str, examples: int, seed: int, options: dict[str, Any]
) -> tuple[list[Generation], list[TokenGold | None]]:
    """A task's held-out outputs, and of those that are right what each token depends on."""
    from explain.training import tasks

    drawn = tasks.get(task).examples("held_out", examples, seed)
    generations = model.generate([example.source for example in drawn], **options)
    gold = [
        tasks.token_gold(example, own.source_tokens, own.target_tokens)
        if own.finished and own.target_text == example.target
        else None
        for example, own in zip(drawn, generations, strict=True)
    ]
    return generations, gold


def _pairs(data: Path, columns: tuple[str, str], forced: bool) -> list[tuple[str, str]]:
    """The rows of a file; with `forced` each needs an output."""
    from explain.training.data import read_table

    pairs = read_table(data, *columns, need_target=False)
    if forced and not all(pair.target for pair in pairs):
        raise FileError(f"--forced needs an output for every source in column {columns[1]!r} of {data}")
    return [(pair.source, pair.target or "") for pair in pairs]


def _check_out(out: Path) -> None:
    """Refuse an ending that cannot be written, before any work."""
    if out.suffix not in ENDINGS:
        raise InputError(f"{out}: the ending {out.suffix!r} is not one of {', '.join(ENDINGS)}")


def _save(out: Path, schema: str, found: dict[str, Any], frame: pd.DataFrame, **head: Any) -> None:
    """Write a result in the format that the ending names."""
    if out.suffix == ".json":
        write_json(out, {**envelope(schema, **head), **found})
        return
    with replacing(out) as temporary:
        # Every text is quoted: a lone carriage return in a token would otherwise end its row.
        frame.map(_cell).to_csv(
            temporary, index=False, encoding="utf-8", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )


def _cell(value: Any) -> Any:
    """A list as JSON text; everything else as it is."""
    return (
        dump_json(list(value), indent=None)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )
