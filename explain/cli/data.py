"""The command that looks at data before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain import terminal
from explain.cli.common import AsJson, SourceColumn, TargetColumn, app
from explain.files import dump_json, envelope
from explain.terminal import say

if TYPE_CHECKING:
    from explain.training.statistics import Lengths, Preview, Statistics

WIDTH = 40


@app.command()
def data(
    file: Annotated[Path, typer.Argument(help="Pairs: a file, a folder of files, or a mixture .yaml.")],
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    validation: Annotated[Path | None, typer.Option(help="File of pairs to validate on.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is held out.")] = 0,
    model: Annotated[str | None, typer.Option(help="Count the tokens of this model.")] = None,
    tokenizer: Annotated[
        str, typer.Option(help="Without a model: bpe, unigram, word or byte, built from the data.")
    ] = "bpe",
    json: AsJson = False,
) -> int:
    """Show a data file's first rows, lengths, words, duplicates, leakage, and every row that is wrong."""
    from explain.training.mixture import is_mixture, read_mixture
    from explain.training.statistics import preview, statistics

    words: Any = tokenizer
    if model is not None:
        from explain.model.loading import open_model

        words = open_model(model, device="cpu")[1]
    mixture = read_mixture(file) if is_mixture(file) else None
    if mixture is None:
        parts = [("", file, validation, (source_column, target_column))]
    else:
        parts = [
            (name, task.data, task.validation, (task.source_column, task.target_column))
            for name, task in mixture.tasks.items()
        ]
    found = []
    for name, path, held_out, (source, target) in parts:
        shown = preview(path, rows)
        numbers = statistics(
            path,
            source_column=source,
            target_column=target,
            validation=held_out,
            seed=seed,
            tokenizer=words,
        )
        found.append((name, shown, numbers))
    rates = [1.0] if mixture is None else mixture.rates([numbers.train for _, _, numbers in found])
    if json:
        records = [
            {"name": name, "rate": rate, "preview": shown.to_dict(), "statistics": numbers.to_dict()}
            for rate, (name, shown, numbers) in zip(rates, found, strict=True)
        ]
        say(dump_json({**envelope("data", seed=seed), "parts": records}))
        return terminal.DONE
    for rate, (name, shown, numbers) in zip(rates, found, strict=True):
        if mixture is not None:
            say(f"task {name}: {rate:.1%} of every batch; sources begin with {mixture.prefix(name)!r}\n")
        _show(shown, numbers)
    return terminal.DONE


def _show(shown: Preview, numbers: Statistics) -> None:
    others = f" (of {len(numbers.files)} files)" if len(numbers.files) > 1 else ""
    say(f"the first rows of {shown.files[0]}{others}:")
    say(terminal.table(shown.columns, [tuple(map(_short, row)) for row in shown.rows]))
    say("")
    counts = (
        (
            "rows that can be used",
            numbers.rows,
            f"{numbers.train:,} to train on, {numbers.held_out:,} held out",
        ),
        ("rows that cannot", len(numbers.bad_rows), "left out here; training refuses them, see below"),
        ("duplicates", numbers.duplicates, "rows that say the same as an earlier one"),
        ("contradictions", numbers.contradictions, "sources with more than one target"),
        ("leaked", numbers.leaked, "held-out rows whose source is trained on"),
        ("nearly leaked", numbers.nearly_leaked, "the same but for case, digits, punctuation, spaces"),
        ("known targets", numbers.known_targets, "held-out rows whose target is trained on"),
    )
    say(terminal.table(("", "number", ""), [(name, f"{count:,}", what) for name, count, what in counts]))
    say("")
    sides = (("source", numbers.source), ("target", numbers.target))
    lengths = [
        (f"{name} {unit}", *_numbers(each))
        for name, side in sides
        for unit, each in (("characters", side.characters), ("tokens", side.tokens))
    ]
    say(terminal.table(("length", "least", "median", "95 %", "most", "mean"), lengths))
    say("")
    for name, side in sides:
        say(
            f"{name}: {side.words:,} distinct words, {side.words_once:,} of them once; "
            f"{side.vocabulary:,} distinct tokens, {side.unknown:,} unknown"
        )
    say(f"tokens: {numbers.tokenizer}")
    if numbers.bad_rows:
        say("\nrows that cannot be used (training leaves them out with --skip-bad-rows):")
        for told in numbers.bad_rows:
            say(f"  {told}")
    say("")


def _numbers(each: Lengths) -> tuple[str, ...]:
    return (
        f"{each.least:,}",
        f"{each.median:,.0f}",
        f"{each.percentile_95:,.0f}",
        f"{each.most:,}",
        f"{each.mean:,.1f}",
    )


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1].rstrip()}…"
