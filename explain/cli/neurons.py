"""Commands about neurons and hidden states: analyze neurons, project, probe, cka."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain import terminal
from explain.cli.common import (
    AsJson,
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
    analyze,
    open_model,
    reading,
)
from explain.errors import InputError, RunError
from explain.files import command_line, dump_json, envelope, replacing, write_json, write_text
from explain.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from explain.analysis import NeuronSurvey
    from explain.runs import Run

ENDINGS = (".html", ".json", ".csv", ".parquet")
KIND = "neurons"
# Neurons of a layer that the JSON file spells out; the tables have all.
MOST = 20

Task = Annotated[str | None, typer.Option(help="A task with known answers; see explain tasks.")]
Data = Annotated[Path | None, typer.Option(help="File of sources, with outputs or without.")]
Examples = Annotated[int | None, typer.Option(min=1, help="Texts at most; 500 of a task by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every random choice.")]
Out = Annotated[Path, typer.Option(help=f"FILE.{{{','.join(ending[1:] for ending in ENDINGS)}}}")]
Points = Annotated[
    list[str] | None, typer.Option("--points", help="Hook points by glob pattern; may be repeated.")
]


@analyze.command("neurons")
def neurons(
    model: Model,
    out: Annotated[Path, typer.Option(help="Run folder; tables, neurons.json and .html are written there.")],
    task: Task = None,
    data: Data = None,
    points: Points = None,
    examples: Examples = None,
    top: Annotated[int, typer.Option(min=1, help="Examples kept per neuron.")] = 10,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the same command's work.")] = False,
    seed: Seed = 0,
    max_new_tokens: MaxNew = 128,
    memory: Memory = 1024,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Find out what every neuron responds to: figures, most active examples, most active token types."""
    from explain.analysis.neurons import NEURONS, STATE, survey_neurons
    from explain.attribution import Cancelled
    from explain.runs import JobStopped

    texts, name = _texts(task, data, source_column, target_column)
    opened = open_model(model, device, dtype)
    config = {"model": model, "task": task, "data": data and str(data), "examples": examples, "top": top}
    run = _run(out, resume, f"{Path(model).name} on {name}", config, seed)
    started = time.monotonic()

    def tell(done: int, total: int) -> None:
        seconds = round(time.monotonic() - started, 1)
        run.append({"kind": "step", "step": done, "total_steps": total, "seconds": seconds})
        progress(done, total)

    with run.running(), terminal.progress("looking at neurons") as progress:
        try:
            found = survey_neurons(
                opened,
                texts,
                points or NEURONS,
                examples=examples,
                top=top,
                seed=seed,
                folder=out,
                name=name,
                memory_budget=memory * 2**20,
                progress=tell,
                should_stop=lambda: not run.wait_while_paused(),
                **_options(max_new_tokens, allow_unknown, source_language, target_language),
            )
        except Cancelled:
            raise JobStopped from None
        _write_neurons(out, found, seed)
        (out / STATE).unlink(missing_ok=True)
        run.update(
            model_digest=found.model_digest,
            data_digest=found.data_digest,
            result={"neurons": sum(each.neurons for each in found.summary()), "texts": found.generations},
        )
    if run.state != "done":
        return terminal.INTERRUPTED
    rows = [
        (each.point, f"{each.neurons}", f"{each.dead}", f"{each.active:.3f}", f"{each.selectivity:.2f}")
        for each in found.summary()
    ]
    say(terminal.table(("hook point", "neurons", "never above 0", "above 0", "selectivity"), rows))
    say(f"\nwrote {out}")
    return terminal.DONE


def _run(out: Path, resume: bool, title: str, config: dict[str, Any], seed: int) -> Run:
    from explain.runs import Run

    if not resume:
        return Run.create(out, kind=KIND, title=title, config=config, seed=seed)
    run = Run.open(out)
    if run.manifest.get("kind") != KIND:
        raise RunError(f"{out} holds a {run.manifest.get('kind')} run, which cannot go on with neurons")
    if run.state == "done":
        raise RunError(f"{out} is done already; there is nothing to resume")
    return run


def _write_neurons(out: Path, found: NeuronSurvey, seed: int) -> None:
    """The tables, then the JSON and the page; each whole or not at all."""
    from explain.report.neuron_pages import neurons_page

    tables = {"neurons": found.to_frame(), "examples": found.examples_frame(), "types": found.types_frame()}
    for name, frame in tables.items():
        _write_parquet(out / f"{name}.parquet", frame)
    found.save(out / "neurons.safetensors")
    head = envelope("neurons", seed=seed, model_digest=found.model_digest, data_digest=found.data_digest)
    write_json(out / "neurons.json", {**head, **found.to_dict(most=MOST)})
    write_text(out / "neurons.html", neurons_page(found, command=command_line()))


@analyze.command("project")
def project(
    model: Model,
    out: Out,
    point: Annotated[str, typer.Option(help="Hook point, such as decoder.1.residual.")],
    task: Task = None,
    data: Data = None,
    by: Annotated[str, typer.Option(help="pca, or umap (needs the extra umap).")] = "pca",
    colour: Annotated[
        str | None,
        typer.Option(help="token, input, slot, length or position; slot of a task, else token."),
    ] = None,
    rows: Annotated[int, typer.Option(min=4, help="Tokens at most.")] = 5_000,
    examples: Examples = None,
    seed: Seed = 0,
    max_new_tokens: MaxNew = 128,
    memory: Memory = 1024,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Put the hidden states of a data set on a plane: a mark per token, coloured by what it is."""
    from explain.analysis.projection import By, require_projection
    from explain.analysis.projection import project as place
    from explain.report.neuron_pages import projection_page
    from explain.report.neuron_plots import require_colouring

    _check_out(out)
    kind: By = require_projection(by)
    shade = require_colouring(colour or ("slot" if task else "token"))
    texts, name = _texts(task, data, source_column, target_column)
    opened = open_model(model, device, dtype)
    reads = _options(max_new_tokens, allow_unknown, source_language, target_language)
    table = _states(opened, texts, [point], examples, seed, name, memory, reads)[0]
    found = place(table, kind, rows=rows, seed=seed)
    _save(
        out,
        "projection",
        found,
        lambda: projection_page(found, shade, command=command_line()),
        seed=seed,
        model_digest=found.model_digest,
        data_digest=found.data_digest,
    )
    kept = f"; {sum(found.explained):.1%} of the variance" if found.explained else ""
    say(f"{len(found.rows)} of {found.total} tokens{kept}; trustworthiness {found.trustworthiness:.2f}")
    say(f"wrote {out}")


@analyze.command("probe")
def probe(
    model: Model,
    out: Out,
    task: Task = None,
    data: Data = None,
    label: Annotated[str, typer.Option(help="slot, token, input, length or position.")] = "slot",
    points: Points = None,
    examples: Examples = None,
    seed: Seed = 0,
    max_new_tokens: MaxNew = 128,
    memory: Memory = 1024,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Find out at which layer a label can be read off the hidden states, beside a control task."""
    from explain.analysis.probes import probe as measure
    from explain.analysis.representations import LABELS
    from explain.analysis.similarity import RESIDUALS
    from explain.errors import UnknownNameError
    from explain.report.neuron_pages import probe_page

    _check_out(out)
    if label not in LABELS:
        raise UnknownNameError("label", label, LABELS)
    texts, name = _texts(task, data, source_column, target_column)
    if label == "slot" and task is None:
        raise InputError("slots are known of a task's own examples: give --task NAME, or another --label")
    opened = open_model(model, device, dtype)
    reads = _options(max_new_tokens, allow_unknown, source_language, target_language)
    tables = _states(opened, texts, points or list(RESIDUALS), examples, seed, name, memory, reads)
    with terminal.progress("probing") as progress:
        found = measure(tables, label, seed=seed, progress=progress)
    _save(
        out,
        "probes",
        found,
        lambda: probe_page(found, command=command_line()),
        seed=seed,
        model_digest=found.model_digest,
        data_digest=found.data_digest,
    )
    rows = [
        (
            each.point,
            *(
                f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})"
                for s in (each.accuracy, each.control, each.selectivity)
            ),
            f"{each.majority:.3f}",
        )
        for each in found.probes
    ]
    say(terminal.table(("hook point", "right", "control", "selectivity", "most frequent"), rows))
    say(f"\nwrote {out}")


@analyze.command("cka")
def cka(
    model: Model,
    out: Out,
    model_b: Annotated[
        str | None, typer.Argument(metavar="[MODEL_B]", help="Another model to compare with.")
    ] = None,
    task: Task = None,
    data: Data = None,
    points: Points = None,
    per: Annotated[str, typer.Option(help="token, or example: means over a text's tokens.")] = "token",
    minibatch: Annotated[
        int | None, typer.Option(min=4, help="Rows to estimate on at a time; all at once by default.")
    ] = None,
    examples: Examples = None,
    seed: Seed = 0,
    max_new_tokens: MaxNew = 128,
    memory: Memory = 1024,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
    json: AsJson = False,
) -> None:
    """Compare hidden states between layers of a model, or of two models on the same outputs."""
    from explain.analysis.similarity import RESIDUALS, require_per, similarity
    from explain.analysis.states import outputs_of, read_items
    from explain.files import digest_json
    from explain.report.neuron_pages import similarity_page

    _check_out(out)
    unit = require_per(per)
    texts, _ = _texts(task, data, source_column, target_column)
    first = open_model(model, device, dtype)
    second = None if model_b is None else open_model(model_b, device, dtype)
    reads = _options(max_new_tokens, allow_unknown, source_language, target_language)
    items = read_items(texts, examples, seed)
    outputs = outputs_of(first, items, **reads)
    forced = None
    if second is not None:
        shared = reading(allow_unknown, source_language, target_language)
        forced = second.force([g.source_text for g in outputs], [g.target_text for g in outputs], **shared)
        outputs = first.force([g.source_text for g in outputs], [g.target_text for g in outputs], **shared)
    with terminal.progress("comparing") as progress:
        found = similarity(
            first,
            outputs,
            second,
            forced,
            points or RESIDUALS,
            per=unit,
            minibatch=minibatch,
            memory_budget=memory * 2**20,
            progress=progress,
        )
    digest = digest_json([[g.source_text, g.target_text] for g in outputs])
    head = {"seed": seed, "model_digest": first.digest, "data_digest": digest}
    names = {"name_a": Path(model).name, "name_b": Path(model_b or model).name}
    _save(out, "cka", found, lambda: similarity_page(found, **names, command=command_line()), **head)
    if json:
        say(dump_json({**envelope("cka", **head), **found.to_dict()}))
        return
    for point, value in found.same_points().items():
        if second is not None:
            say(f"{point}: {value:.3f}")
    say(f"wrote {out}")


# ---- what they share -------------------------------------------------------------------------------------


def _texts(task: str | None, data: Path | None, source_column: str, target_column: str) -> tuple[Any, str]:
    """The data as the analyses take them, and what they are called."""
    if (task is None) == (data is None):
        raise InputError("give either --task NAME or --data FILE")
    if task is not None:
        from explain.training import tasks

        return tasks.get(task), task
    from explain.training.data import read_table

    assert data is not None
    return read_table(data, source_column, target_column, need_target=False), data.name


def _options(
    max_new_tokens: int,
    allow_unknown: bool,
    source_language: str | None,
    target_language: str | None,
) -> dict[str, Any]:
    """Controls of the outputs that have to be written."""
    return {
        "max_new_tokens": max_new_tokens,
        **reading(allow_unknown, source_language, target_language),
    }


def _states(
    model: Any,
    texts: Any,
    points: list[str],
    examples: int | None,
    seed: int,
    name: str,
    memory: int,
    options: dict[str, Any],
) -> list[Any]:
    """Tables of hidden states, with a progress bar."""
    from explain.analysis.representations import hidden_states

    with terminal.progress("reading hidden states") as progress:
        found = hidden_states(
            model,
            texts,
            points,
            examples=examples,
            seed=seed,
            name=name,
            memory_budget=memory * 2**20,
            progress=progress,
            **options,
        )
    return list(found.values())


def _check_out(out: Path) -> None:
    """Refuse an ending that cannot be written, before any work."""
    if out.suffix not in ENDINGS:
        raise InputError(f"{out}: the ending {out.suffix!r} is not one of {', '.join(ENDINGS)}")


def _save(out: Path, schema: str, found: Any, page: Callable[[], str], **head: Any) -> None:
    """Write a result in the format that the ending names."""
    if out.suffix == ".html":
        write_text(out, page())
    elif out.suffix == ".json":
        write_json(out, {**envelope(schema, **head), **found.to_dict()})
    elif out.suffix == ".parquet":
        _write_parquet(out, found.to_frame())
    else:
        with replacing(out) as temporary:
            found.to_frame().to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)
