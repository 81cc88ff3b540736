"""The command line: one thin function per command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain import terminal
from explain.errors import FileError, InputError
from explain.files import command_line, digest_json, dump_json, envelope, write_text
from explain.terminal import say

if TYPE_CHECKING:
    from explain.evaluation import Evaluation
    from explain.model import Seq2Seq
    from explain.results import Generation

# Columns left for the paper in the table of methods, on a terminal of 100 and beside a name of 32.
PAPER_WIDTH = 36

app = typer.Typer(
    name="explain",
    help="Open up sequence-to-sequence Transformers. MODEL is a model folder, a run folder or a hub id.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run folder or hub id.")]
Text = Annotated[str | None, typer.Option("--text", help="One source text.")]
Input = Annotated[
    Path | None,
    typer.Option("--input", help="File: .txt with a source a line, or a table (.tsv .csv .jsonl …)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Unknown = Annotated[bool, typer.Option("--allow-unknown", help="Accept words outside the vocabulary.")]
SourceColumn = Annotated[str, typer.Option(help="Column with the sources.")]
TargetColumn = Annotated[str, typer.Option(help="Column with the outputs.")]
SourceLanguage = Annotated[str | None, typer.Option(help="Source language of a multilingual model.")]
TargetLanguage = Annotated[str | None, typer.Option(help="Target language of a multilingual model.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
Port = Annotated[int | None, typer.Option(help="Port; the first free one from 8501 by default.")]
Beams = Annotated[int, typer.Option(help="Beams; 1 is greedy.")]
MaxNew = Annotated[int, typer.Option(help="Longest output in tokens.")]


def main() -> None:
    """Entry point of the `explain` command."""
    terminal.prepare()
    sys.exit(terminal.run(app))


# ---- models and inputs -----------------------------------------------------------------------------------


def _open(model: str, device: str = "auto", dtype: str = "float32") -> Seq2Seq:
    import explain

    return explain.load(model, device=device, dtype=dtype)


def _sources(
    text: str | None, file: Path | None, source_column: str, target_column: str
) -> list[tuple[str, str | None]]:
    """(source, given output or None) from --text or --input."""
    if (text is None) == (file is None):
        raise InputError("give either --text TEXT or --input FILE")
    if text is not None:
        return [(text, None)]
    from explain.training.data import read_table

    assert file is not None
    pairs = read_table(file, source_column, target_column, need_target=False)
    return [(pair.source, pair.target or None) for pair in pairs]


# ---- lists -----------------------------------------------------------------------------------------------


@app.command()
def methods(json: AsJson = False) -> None:
    """List the attribution methods: what each needs, gives and means."""
    from explain.attribution import REGISTRY

    records = REGISTRY.records()
    if json:
        say(dump_json(records))
        return
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(record["kind"] for record in records):
        rows.append((kind, "", "", "", "", ""))
        rows += [_method_row(record) for record in records if record["kind"] == kind]
    say(terminal.table(("method", "sign", "objective", "foil", "sum", "paper"), rows))
    say("\nsign: ± scores may be below 0 (against the token); + they are at least 0.")
    say("objective: it explains what --objective names; foil: it takes --contrast.")
    say("sum: the scores of a token add up to what the text changes (completeness).")
    say("paper: a number is its arXiv id; --json has the whole entry, and every method's options.")


def _method_row(record: dict[str, Any]) -> tuple[str, ...]:
    """One row of the table of methods; whole papers are in --json, where they are too long for a terminal."""
    paper = str(record["paper"]).replace("arXiv:", "")
    marks = (_mark(record[name]) for name in ("objective", "contrast", "completeness"))
    sign = "±" if record["signed"] else "+"
    short = paper if len(paper) <= PAPER_WIDTH else f"{paper[: PAPER_WIDTH - 1].rstrip()}…"
    return (f"  {record['name']}", sign, *marks, short)


def _mark(value: bool) -> str:
    return "yes" if value else "-"


@app.command("hook-points")
def hook_points(model: Model, json: AsJson = False) -> None:
    """List a model's hook points: what `capture` can record and `intervene` can replace."""
    opened = _open(model, "cpu")
    points = opened.hook_points()
    if json:
        say(dump_json({**envelope("hook-points", model_digest=opened.digest), "points": points}))
        return
    say("\n".join(points))


@app.command()
def tasks(json: AsJson = False) -> None:
    """List the tasks with known answers, with samples."""
    from explain.training import tasks as room

    found = [room.get(name) for name in room.names()]
    if json:
        records = [
            {
                "name": t.name,
                "title": t.title,
                "question": t.question,
                "description": t.description,
                "samples": [{"source": e.source, "target": e.target} for e in room.preview(t)],
            }
            for t in found
        ]
        say(dump_json({**envelope("tasks"), "tasks": records}))
        return
    for task in found:
        say(f"{task.name}: {task.title}\n  {task.description}")
        for example in room.preview(task):
            say(f"  source  {example.source}\n  output  {example.target}\n")


@app.command()
def runs(folder: Runs = Path("runs"), json: AsJson = False) -> None:
    """List the runs in a folder with their state."""
    from explain.runs import list_runs

    found = list_runs(folder)
    records = [
        {
            "name": run.path.name,
            "path": str(run.path),
            **{k: run.manifest.get(k) for k in _RUN_COLUMNS},
            "state": run.state,
        }
        for run in found
    ]
    if json:
        say(dump_json({**envelope("runs"), "runs": records}))
        return
    if not records:
        say(f"no runs in {folder}; train one: explain train --task translate --out {folder}/translate")
        return
    rows = [(r["name"], r["kind"], r["state"], r["title"] or "") for r in records]
    say(terminal.table(("name", "kind", "state", "title"), rows))


_RUN_COLUMNS = ("kind", "title", "seed", "model_digest", "data_digest", "result", "error")


# ---- one model -------------------------------------------------------------------------------------------


@app.command()
def doctor(model: Model, device: Device = "auto", dtype: Dtype = "float32", json: AsJson = False) -> int:
    """Check that a model can be explained: parity, attention, tokenizer, dtype. Pass, or why not."""
    from explain.model import doctor as examine

    opened = _open(model, device, dtype)
    checks = examine(opened)
    fine = all(check.passed for check in checks)
    if json:
        found = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks]
        head = envelope("doctor", model_digest=opened.digest)
        say(dump_json({**head, "model": opened.describe(), "passed": fine, "checks": found}))
    else:
        for check in checks:
            say(f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}")
        say("\nThis model can be explained." if fine else "\nThis model cannot be explained as it is.")
    return terminal.DONE if fine else terminal.WRONG_INPUT


@app.command()
def generate(
    model: Model,
    text: Text = None,
    input: Input = None,
    num_beams: Beams = 1,
    do_sample: Annotated[bool, typer.Option("--sample", help="Draw instead of taking the best.")] = False,
    temperature: Annotated[float, typer.Option(help="Below 1 is bolder, above 1 wilder.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k best; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the best that hold this probability.")] = 1.0,
    length_penalty: Annotated[float, typer.Option(help="Above 0 favours longer beams.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages repetition.")] = 1.0,
    no_repeat_ngram_size: Annotated[int, typer.Option(help="No n-gram twice; 0: no limit.")] = 0,
    max_new_tokens: MaxNew = 128,
    min_new_tokens: Annotated[int, typer.Option(help="Shortest output in tokens.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    source_column: SourceColumn = "source",
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    json: AsJson = False,
) -> None:
    """Write the output of a text, or of every text in a file."""
    sources = [source for source, _ in _sources(text, input, source_column, "target")]
    opened = _open(model, device, dtype)
    controls = {
        "num_beams": num_beams,
        "do_sample": do_sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "length_penalty": length_penalty,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "seed": seed,
    }
    shared = _shared(allow_unknown, source_language, target_language)
    with terminal.progress("generating") as progress:
        generations = opened.generate(sources, progress=progress, **shared, **controls)
    if json:
        digest = digest_json(sources)
        head = envelope("generation", seed=seed, model_digest=opened.digest, data_digest=digest)
        say(dump_json({**head, "generations": [g.to_dict() for g in generations]}))
        return
    for generation in generations:
        say(generation.target_text)
        if not generation.finished:
            count = len(generation.target_tokens)
            terminal.note(f"cut at {count} tokens, before its end: {generation.source_text[:60]!r}")


@app.command()
def capture(
    model: Model,
    text: Annotated[str, typer.Option("--text", help="One source text.")],
    points: Annotated[str, typer.Option(help="Glob over hook points, such as 'decoder.*.cross.pattern'.")],
    out: Annotated[Path, typer.Option(help="FILE.safetensors")],
    target: Annotated[str | None, typer.Option(help="A given output instead of the model's own.")] = None,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Record activations and attention of one text into a safetensors file."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: captures are written to .safetensors")
    opened = _open(model, device, dtype)
    shared = _shared(allow_unknown, source_language, target_language)
    captured = opened.capture(_one(opened, text, target, shared), points)
    captured.save(out)
    for name, tensor in captured.items():
        say(f"{name}  {list(tensor.shape)}")
    say(f"wrote {out}")


def _shared(allow_unknown: bool, source_language: str | None, target_language: str | None) -> dict[str, Any]:
    """What `generate` and `force` both take."""
    return {
        "allow_unknown": allow_unknown,
        "source_language": source_language,
        "target_language": target_language,
    }


def _one(
    model: Seq2Seq, text: str, target: str | None, shared: dict[str, Any], **controls: Any
) -> Generation:
    if target is None:
        return model.generate(text, **shared, **controls)
    return model.force(text, target, **shared)


def _options(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs of --option; values are read as JSON where they are JSON, else as text."""
    import json

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--option {pair!r}: write it as name=value")
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value
        options[name.strip().replace("-", "_")] = tuple(read) if isinstance(read, list) else read
    return options


Options = Annotated[
    list[str] | None, typer.Option("--option", help="A method's own option as name=value; may be repeated.")
]
Objective = Annotated[str, typer.Option(help="log_prob, logit, probability, entropy or kl_divergence.")]
Contrast = Annotated[str | None, typer.Option(help="Foil: why this token rather than that one?")]
Level = Annotated[str | None, typer.Option(help="Merge tokens: token, word or sentence.")]
Over = Annotated[str, typer.Option(help="How merged scores are reduced: sum, mean or max_abs.")]
Position = Annotated[
    list[str] | None,
    typer.Option(
        "--position", help="What to explain: a token's number, START:END as one, or output; may be repeated."
    ),
]
ContrastSpan = Annotated[
    str | None, typer.Option(help="START:END, the output tokens that --contrast stands against.")
]
ContrastInput = Annotated[
    str | None, typer.Option(help="Another source; --objective kl_divergence compares with what it gives.")
]
Memory = Annotated[int, typer.Option(help="Memory to use beside the model, MiB; shapes chunks, not results.")]
Tolerance = Annotated[float, typer.Option(help="Largest relative completeness error per token.")]


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
    opened = _open(model, device, dtype)
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    shared = _shared(allow_unknown, source_language, target_language)
    generation = _one(opened, text, target, shared, **controls)
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
        **_options(option or []),
    )
    result = at_level(result, level, over)
    if out.suffix == ".html":
        write_text(out, attribution_page(result, evaluation=_kept(model, opened)))
    else:
        result.save(out)
    say(f"output: {generation.target_text}")
    defined = result.completeness_error[~result.completeness_error.isnan()]
    if len(defined):
        beyond = int((defined > tolerance).sum())
        worst = f"completeness error: at most {float(defined.max()):.2%}"
        say(f"{worst}; {beyond} of {len(defined)} {level}s over {tolerance:g}")
    say(f"wrote {out}")


def _kept(model: str, opened: Seq2Seq) -> Evaluation | None:
    """The evaluation that is kept with MODEL, if it is a run folder and the model is still the same."""
    from explain.evaluation import kept_evaluation
    from explain.runs import is_run

    return kept_evaluation(model, opened.digest) if is_run(model) else None


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
    out: Annotated[Path, typer.Option(help="FILE.html; FILE.json is written beside it.")],
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
) -> None:
    """Write an attribution report: one offline HTML file, and its data as JSON beside it."""
    import explain.report as room
    from explain.attribution import REGISTRY
    from explain.report.levels import check_level

    check_level(level, over)
    chosen = method or ["integrated_gradients", "attention"]
    for name in chosen:
        REGISTRY.get(name)
    if out.suffix != ".html":
        raise InputError(f"{out}: reports are written to .html")
    pairs = _sources(text, input, source_column, target_column)[:limit]
    if forced and any(target is None for _, target in pairs):
        raise FileError(f"--forced needs an output for every source in column {target_column!r} of {input}")
    opened = _open(model, device, dtype)
    data = pairs if forced else [source for source, _ in pairs]
    with terminal.progress("explaining") as progress:
        made = room.report(
            opened,
            data,
            methods=chosen,
            objective=objective,
            contrast=contrast,
            generate={
                "num_beams": num_beams,
                "max_new_tokens": max_new_tokens,
                **_shared(allow_unknown, source_language, target_language),
            },
            evaluation=_kept(model, opened),
            progress=progress,
            title=title,
            level=level,
            over=over,
            tolerance=tolerance,
        )
    made.save(out)
    say(f"wrote {out} and {out.with_suffix('.json')} ({len(pairs)} examples, {len(chosen)} methods)")


# ---- training and the dashboard ------------------------------------------------------------------------


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
    opened = _open(model, device, dtype)
    others = [_open(name, device, dtype) for name in other or ()]
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
                    **_shared(allow_unknown, source_language, target_language),
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


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run folder; it is made.")],
    task: Annotated[str | None, typer.Option(help="See explain tasks.")] = None,
    data: Annotated[
        str | None, typer.Option(help="File of pairs: .tsv .csv .jsonl .parquet, also .gz.")
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
) -> int:
    """Train from scratch or further, on a task or on a file; the result is a run folder."""
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
    )
    run = open_run(config, out)
    from explain.training.train import train as learn

    with terminal.training_progress() as progress:
        result = learn(config, run, progress)
    if not result:
        say(f"stopped; go on with: explain train --out {out} --resume")
        return terminal.INTERRUPTED
    shown = {name: result.get(name) for name in ("exact_match", "token_accuracy", "loss", "chrf")}
    say("  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None))
    say(f"wrote {out} ({result['steps']} steps, {result['seconds']:.0f} s, {result['examples']} examples)")
    return terminal.DONE


def _serve(runs: Path, models: list[Path], host: str, port: int | None, headless: bool) -> None:
    """Serve the dashboard: a package above this one, so it is bound by name."""
    import importlib

    importlib.import_module("dashboard.serve").serve(
        runs, models=models, host=host, port=port, headless=headless
    )


Headless = Annotated[bool, typer.Option("--headless", help="Open no browser.")]
Host = Annotated[str, typer.Option(help="Address to bind; only this machine by default.")]


@app.command()
def dashboard(
    models: Annotated[list[Path] | None, typer.Argument(metavar="[MODEL]…", help="Models to offer.")] = None,
    folder: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = None,
    headless: Headless = False,
) -> None:
    """Open the dashboard over a folder of runs, and over model folders named here."""
    _serve(folder, models or [], host, port, headless)


@app.command()
def demo(
    folder: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = None,
    headless: Headless = False,
    seed: Annotated[int, typer.Option(help="Seed of the three trainings.")] = 0,
) -> None:
    """Train the embedded models once (the first in about a minute), and open the dashboard."""
    from explain.demo import train_models

    train_models(folder, seed)
    _serve(folder, [], host, port, headless)


if __name__ == "__main__":
    main()
