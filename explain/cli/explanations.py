"""Commands that explain outputs: attribute, report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain import terminal
from explain.cli.common import (
    Beams,
    Contrast,
    ContrastInput,
    ContrastSpan,
    Device,
    Dtype,
    Input,
    Level,
    MaxNew,
    Memory,
    Model,
    Objective,
    Options,
    Over,
    Position,
    SourceColumn,
    SourceLanguage,
    TargetColumn,
    TargetLanguage,
    Text,
    Tolerance,
    Unknown,
    app,
    kept_with,
    one_output,
    open_model,
    read_options,
    read_sources,
    reading,
)
from explain.errors import FileError, InputError
from explain.files import write_text
from explain.terminal import say

if TYPE_CHECKING:
    from explain.runs import Run


@app.command()
def attribute(
    model: Model,
    text: Annotated[str, typer.Option("--text", help="One source text.")],
    out: Annotated[Path, typer.Option(help="FILE.{html,json,csv,parquet,safetensors}")],
    target: Annotated[str | None, typer.Option(help="A given output instead of the model's own.")] = None,
    method: Annotated[str, typer.Option(help="See explain methods.")] = "integrated_gradients",
    objective: Objective = "log_prob",
    contrast: Contrast = None,
    contrast_span: ContrastSpan = None,
    contrast_input: ContrastInput = None,
    position: Position = None,
    tolerance: Tolerance = 0.01,
    memory: Memory = 1024,
    option: Options = None,
    level: Level = None,
    over: Over = "sum",
    words: Annotated[bool, typer.Option("--words", help="The same as --level word.")] = False,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Score what every source token and earlier output token did to each output token."""
    from explain.report import attribution_page
    from explain.report.levels import at_level
    from explain.results.formats import check_ending

    check_ending(out)
    level = _level(level, over, words)
    opened = open_model(model, device, dtype)
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    shared = reading(allow_unknown, source_language, target_language)
    generation = one_output(opened, text, target, shared, **controls)
    result = opened.attribute(
        generation,
        method=method,
        target=objective,
        contrast=contrast,
        contrast_span=None if contrast_span is None else _span(contrast_span, "--contrast-span"),
        contrast_input=contrast_input,
        positions=_positions(position),
        tolerance=tolerance,
        memory_budget=memory << 20,
        **read_options(option or []),
    )
    result = at_level(result, level, over)
    if out.suffix == ".html":
        write_text(out, attribution_page(result, evaluation=kept_with(model, opened)))
    else:
        result.save(out)
    say(f"output: {generation.target_text}")
    defined = result.completeness_error[~result.completeness_error.isnan()]
    if len(defined):
        beyond = int((defined > tolerance).sum())
        worst = f"completeness error: at most {float(defined.max()):.2%}"
        say(f"{worst}; {beyond} of {len(defined)} {level}s over {tolerance:g}")
    say(f"wrote {out}")


def _positions(given: list[str] | None) -> Any:
    """What --position asks for, as `attribute` takes it."""
    if not given:
        return None
    if given == ["output"]:
        return "output"
    return [_span(item, "--position") if ":" in item else _number(item, "--position") for item in given]


def _span(text: str, name: str) -> tuple[int, int]:
    start, colon, end = text.partition(":")
    if not colon:
        raise InputError(f"{name} {text!r}: write it as START:END, such as 2:5 for the tokens 2, 3 and 4")
    return _number(start, name), _number(end, name)


def _number(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} {text!r}: {text!r} is no whole number") from None


def _level(level: str | None, over: str, words: bool) -> str:
    """The level that --level and --words ask for together; token where neither does."""
    from explain.report.levels import check_level

    if words and level not in (None, "word"):
        raise InputError(f"--words and --level {level} ask for two things; give one of them")
    found = level or ("word" if words else "token")
    check_level(found, over)
    return found


@app.command()
def report(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(help="FILE.html, with FILE.json beside it; or a run folder, which gets both."),
    ],
    text: Text = None,
    input: Input = None,
    method: Annotated[list[str] | None, typer.Option(help="See explain methods; may be repeated.")] = None,
    objective: Objective = "log_prob",
    contrast: Contrast = None,
    tolerance: Tolerance = 0.01,
    level: Annotated[
        str | None,
        typer.Option(help="Maps by token, word or sentence; by default words, or sentences if too many."),
    ] = None,
    over: Over = "sum",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows of the file.")] = None,
    forced: Annotated[
        bool, typer.Option("--forced", help="Explain the file's outputs, not the model's.")
    ] = False,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Write an attribution report: one offline HTML file, and its data as JSON beside it."""
    import explain.report as room
    from explain.attribution import REGISTRY
    from explain.report.levels import check_level

    check_level(level, over)
    chosen = method or ["integrated_gradients", "attention"]
    for name in chosen:
        REGISTRY.get(name)
    if out.suffix not in (".html", ""):
        raise InputError(f"{out}: a report is a file that ends in .html, or a run folder")
    pairs = read_sources(text, input, source_column, target_column)[:limit]
    if forced and any(target is None for _, target in pairs):
        raise FileError(f"--forced needs an output for every source in column {target_column!r} of {input}")
    opened = open_model(model, device, dtype)
    data = pairs if forced else [source for source, _ in pairs]
    run = None if out.suffix else _report_run(out, model, title, chosen, len(pairs))
    with _at_work(run) as (tell, also):
        made = room.report(
            opened,
            data,
            methods=chosen,
            objective=objective,
            contrast=contrast,
            generate={
                "num_beams": num_beams,
                "max_new_tokens": max_new_tokens,
                **reading(allow_unknown, source_language, target_language),
            },
            evaluation=kept_with(model, opened),
            progress=tell,
            title=title,
            level=level,
            over=over,
            tolerance=tolerance,
            **also,
        )
        page = out if run is None else out / "report.html"
        made.save(page)
        if run is not None:
            run.update(model_digest=made.head["model_digest"], data_digest=made.head["data_digest"])
    if run is not None and run.state != "done":
        return terminal.INTERRUPTED
    say(f"wrote {page} and {page.with_suffix('.json')} ({len(pairs)} examples, {len(chosen)} methods)")
    return terminal.DONE


def _report_run(out: Path, model: str, title: str | None, methods: list[str], examples: int) -> Run:
    """The run that a report in a folder of its own is."""
    from explain.report.labels import plural
    from explain.runs import Run

    config = {"model": model, "methods": methods, "examples": examples}
    run = Run.create(
        out,
        kind="report",
        title=title or f"{plural(examples, 'output')} of {Path(model).name}",
        config=config,
    )
    run.update(result={"examples": examples, "methods": methods})
    return run


@contextmanager
def _at_work(run: Run | None) -> Iterator[tuple[terminal.Progress, dict[str, Any]]]:
    """Progress on the terminal; with a run, into its folder as well, and it can be paused and stopped."""
    from explain.attribution import Cancelled
    from explain.runs import JobStopped

    with terminal.progress("explaining") as progress:
        if run is None:
            yield progress, {}
            return

        def tell(done: int, total: int) -> None:
            run.append({"kind": "step", "step": done, "total_steps": total})
            progress(done, total)
            run.check()

        with run.running():
            try:
                yield tell, {"should_stop": lambda: not run.wait_while_paused()}
            except Cancelled:
                raise JobStopped from None
