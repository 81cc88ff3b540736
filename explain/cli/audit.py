"""The commands that calibrate detectors on clean outputs and audit others with them."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
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
    app,
    kept_with,
    open_model,
    reading,
)
from explain.errors import InputError, RunError
from explain.files import command_line
from explain.terminal import say

if TYPE_CHECKING:
    from explain.audit import Audit, Calibration
    from explain.model import Seq2Seq
    from explain.runs import Run

TaskName = Annotated[str | None, typer.Option("--task", help="A task with known answers; see explain tasks.")]
DataFile = Annotated[Path | None, typer.Option("--data", help="File of sources, with outputs or without.")]
Examples = Annotated[int | None, typer.Option(min=1, help="The most outputs; all of a file by default.")]
Forced = Annotated[bool, typer.Option("--forced", help="The data's own outputs, not the model's.")]
Training = Annotated[
    Path | None, typer.Option(help="The training data, for words that were never seen in training.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of every random choice.")]
_WHERE = ("--engine", "--ray-address")
Reviews = Annotated[
    list[Path] | None,
    typer.Option(
        "--reviews", help="Verdicts of reviewers on these outputs, a reviews.json; may be repeated."
    ),
]


@app.command()
def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Where the calibration is written, a .json file.")],
    task: TaskName = None,
    data: DataFile = None,
    detector: Annotated[
        list[str] | None, typer.Option(help="A detector; may be repeated; all fast ones by default.")
    ] = None,
    examples: Examples = None,
    only_right: Annotated[
        bool,
        typer.Option(
            "--only-right",
            help="Leave out what differs from the data's own output; not where others may be as good.",
        ),
    ] = False,
    forced: Forced = False,
    training: Training = None,
    seed: Seed = 1,
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
    """Score clean outputs, so that explain audit knows which scores are suspicious."""
    from explain.audit import DETECTORS
    from explain.audit import calibrate as measure
    from explain.audit import detectors as room
    from explain.training.data import read_table

    subject = _subject(task, data, source_column, target_column, need_target=forced or only_right)
    for name in detector or ():
        room.get(name)
    if isinstance(subject, Path):
        subject = read_table(subject, source_column, target_column, need_target=False)
    opened = open_model(model, device, dtype)
    with terminal.progress("calibrating") as progress:
        found = measure(
            opened,
            subject,
            examples=examples,
            detectors=detector,
            words=_words(training, source_column, target_column),
            only_right=only_right,
            forced=forced,
            generate=_controls(num_beams, max_new_tokens, allow_unknown, source_language, target_language),
            seed=seed,
            name=None if data is None else data.name,
            progress=progress,
        )
    found.save(out)
    rows = []
    for name in found.scores:
        row = DETECTORS[name]
        bound = found.rule(name, 0.01).pooled.to_json(row.direction)
        rows.append((name, _bound(bound, row.direction), row.units))
    say(terminal.table(("detector", "flags scores, 1 false alarm in 100", "unit"), rows))
    say(f"\n{len(found.lengths)} clean outputs; wrote {out}")
    if not found.enough:
        terminal.note("explain: fewer than 500 clean outputs: audits with this calibration give no verdict")
    return terminal.DONE


@app.command()
def audit(
    model: Model,
    out: Annotated[Path, typer.Option(help="Run folder; audit.json, .html and findings.parquet go there.")],
    task: TaskName = None,
    data: DataFile = None,
    calibration: Annotated[
        Path | None, typer.Option(help="What explain calibrate wrote; without it nothing is flagged.")
    ] = None,
    calibrate_on: Annotated[
        str | None,
        typer.Option(
            metavar="TASK|FILE",
            help="Calibrate first, on a task or a file of clean outputs; kept as calibration.json in --out. "
            "What differs from the data's own outputs is left out.",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="YAML: which detectors, rates, slices and tests, and what fails.")
    ] = None,
    examples: Examples = None,
    forced: Forced = False,
    training: Training = None,
    reviews: Reviews = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the same result from Ray's workers.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster that runs already; default: RAY_ADDRESS, or one here.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted audit in --out.")
    ] = False,
    seed: Seed = 0,
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
    """Find out which outputs not to trust; exit status 1 where the policy is broken."""
    from explain.attribution import Cancelled
    from explain.audit import FILE, load_calibration, read_policy
    from explain.audit import audit as measure
    from explain.audit.engine import require_engine
    from explain.audit.maps import explain_suspects, save_maps
    from explain.audit.reviews import keep, load_reviews
    from explain.report.audit import write_audit
    from explain.runs import JobStopped

    require_engine(engine)
    subject = _subject(task, data, source_column, target_column, need_target=forced)
    rules = None if policy is None else read_policy(policy)
    words = _words(training, source_column, target_column)
    given = [load_reviews(path) for path in reviews or ()]
    clean = _clean(calibrate_on, calibration, source_column, target_column)
    opened = open_model(model, device, dtype)
    evaluation = kept_with(model, opened)
    calibrated = None if calibration is None else load_calibration(calibration, opened.digest)
    config = {
        "model": model,
        "task": task,
        "data": data and str(data),
        "calibration": calibration and str(calibration),
        "calibrate_on": calibrate_on,
        "policy": policy and str(policy),
        "examples": examples,
        "engine": engine,
    }
    run = _run(out, resume, f"{Path(model).name} on {task or (data.name if data else '')}", config, seed)
    command = run.manifest["command"]
    started = time.monotonic()

    def tell(done: int, total: int) -> None:
        seconds = round(time.monotonic() - started, 1)
        run.append({"kind": "step", "step": done, "total_steps": total, "seconds": seconds})
        progress(done, total)

    found: Audit | None = None
    controls = _controls(num_beams, max_new_tokens, allow_unknown, source_language, target_language)
    with run.running(), terminal.progress("calibrating" if clean else "auditing") as progress:
        try:
            if clean is not None:
                calibrated = _calibrated(
                    opened,
                    clean,
                    out / "calibration.json",
                    command,
                    detectors=None if rules is None else rules.detectors,
                    words=words,
                    only_right=clean.with_outputs,
                    forced=forced,
                    generate=controls,
                    progress=tell,
                    should_stop=lambda: not run.wait_while_paused(),
                )
            found = measure(
                opened,
                subject,
                policy=rules,
                calibration=calibrated,
                words=words,
                examples=examples,
                forced=forced,
                generate=controls,
                seed=seed,
                folder=out,
                source_column=source_column,
                target_column=target_column,
                name=None if data is None else data.name,
                engine=engine,
                ray_address=ray_address,
                progress=tell,
                should_stop=lambda: not run.wait_while_paused(),
            )
            save_maps(
                out,
                explain_suspects(
                    opened,
                    found,
                    evaluation=evaluation,
                    should_stop=lambda: not run.wait_while_paused(),
                ),
            )
        except Cancelled:
            raise JobStopped from None
        if given:
            keep(out, found, *(one for each in given for one in each))
        found = write_audit(out, found, command, evaluation)
        run.update(
            model_digest=found.model_digest,
            data_digest=found.data_digest,
            result={"verdict": found.verdict, "examples": found.examples},
        )
    if run.state != "done" or found is None:
        return terminal.INTERRUPTED
    say(terminal.table(*_table(found)))
    say(f"\n{found.verdict}: {found.reason}")
    say(
        f"wrote {out / FILE}, audit.html, findings.parquet, findings.csv, outputs.parquet, junit.xml and "
        "summary.md"
    )
    return terminal.OVER_POLICY if found.verdict == "fail" else terminal.DONE


@app.command()
def review(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="The folder of a finished audit.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Reviews to merge in: each a reviews.json, or its folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What the reviews come to, as JSON.")] = False,
) -> int:
    """Merge reviewers' verdicts into a finished audit, and write its pages again.

    A review is attached only to the very output that it is of. Of one reviewer on one output the latest
    counts; where reviewers contradict each other the output is listed, and counts neither for a detector nor
    against it.
    """
    from explain.audit import load_audit
    from explain.audit.reviews import keep, load_reviews
    from explain.files import dump_json
    from explain.report.audit import precision_text, review_sentences, rewrite_audit

    found = load_audit(audit)
    given = [one for path in files or () for one in load_reviews(path)]
    if given:
        keep(audit, found, *given)
    elif not load_reviews(audit):
        raise InputError(
            f"there are no reviews in {audit} yet; name a file of them, or give some in the dashboard"
        )
    found = rewrite_audit(audit).reviews or {}
    if as_json:
        say(dump_json(found))
        return terminal.DONE
    from explain.audit import Share

    rows = [
        (name, precision_text(part))
        for name, item in found["precision"].items()
        if (part := Share.from_dict(item)).n
    ]
    if rows:
        say(terminal.table(("detector", "wrong of those settled (95 % interval)"), rows))
    for line in review_sentences(found):
        say(line)
    for item in found["outputs"]:
        if item["outcome"] == "disputed":
            said = ", ".join(
                f"{one['reviewer'] or 'a reviewer'} says {one['verdict']}" for one in item["reviews"]
            )
            say(f"output {item['number']}: {said}")
    say(f"wrote {audit / 'audit.json'} and audit.html")
    return terminal.DONE


@dataclass(frozen=True)
class _CleanData:
    """What to calibrate on: a task's name or a file."""

    subject: Any
    with_outputs: bool
    source_column: str
    target_column: str


def _clean(
    named: str | None, calibration: Path | None, source_column: str, target_column: str
) -> _CleanData | None:
    """The clean data to calibrate on first, which a file is read once for to refuse a wrong one early."""
    from explain.training import tasks
    from explain.training.data import read_table

    if named is None:
        return None
    if calibration is not None:
        raise InputError("give either --calibration FILE or --calibrate-on DATA")
    if named in tasks.names():
        return _CleanData(named, True, source_column, target_column)
    pairs = read_table(named, source_column, target_column, need_target=False)
    return _CleanData(Path(named), all(pair.target for pair in pairs), source_column, target_column)


def _calibrated(
    opened: Seq2Seq,
    clean: _CleanData,
    goal: Path,
    command: str,
    *,
    forced: bool,
    only_right: bool,
    **options: Any,
) -> Calibration:
    """The calibration that an interrupted run left, or a new one, kept at `goal`."""
    from explain.audit import calibrate as measure
    from explain.audit import load_calibration
    from explain.training.data import read_table

    if goal.is_file():
        return load_calibration(goal, opened.digest)
    data = clean.subject
    if isinstance(data, Path):
        data = read_table(data, clean.source_column, clean.target_column, need_target=forced)
    found = measure(
        opened,
        data,
        forced=forced,
        only_right=only_right and not forced,
        name=clean.subject.name if isinstance(clean.subject, Path) else None,
        seed=1,
        **options,
    )
    found.save(goal, command)
    return found


def _subject(
    task: str | None, data: Path | None, source_column: str, target_column: str, need_target: bool
) -> Any:
    """The task's name, or the data file, which is read once to refuse a wrong one early."""
    from explain.training import tasks as room
    from explain.training.data import iter_table

    if (task is None) == (data is None):
        raise InputError("give either --task NAME or --data FILE")
    if task is not None:
        return room.get(task).name
    assert data is not None
    for _ in iter_table(data, source_column, target_column, need_target=need_target):
        pass
    return data


def _controls(
    num_beams: int,
    max_new_tokens: int,
    allow_unknown: bool,
    source_language: str | None,
    target_language: str | None,
) -> dict[str, Any]:
    return {
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        **reading(allow_unknown, source_language, target_language),
    }


def _words(training: Path | None, source_column: str, target_column: str) -> frozenset[str] | None:
    """The words of the training data's outputs, and of its sources, from which names are copied."""
    from explain.audit import words_of
    from explain.training.data import read_table

    if training is None:
        return None
    pairs = read_table(training, source_column, target_column)
    return frozenset(word for pair in pairs for text in (pair.source, pair.target) for word in words_of(text))


def _command() -> str:
    """This command line without what only says where the work is done: the result is the same."""
    words, kept = shlex.split(command_line()), []
    while words:
        word = words.pop(0)
        if word in _WHERE:
            del words[:1]
        elif word.partition("=")[0] not in _WHERE:
            kept.append(word)
    return shlex.join(kept)


def _run(out: Path, resume: bool, title: str, config: dict[str, Any], seed: int) -> Run:
    """The run to work in: a new one, or the interrupted one that is there."""
    from explain.runs import Run

    if not resume:
        return Run.create(out, kind="audit", command=_command(), title=title, config=config, seed=seed)
    run = Run.open(out)
    if run.manifest.get("kind") != "audit":
        raise RunError(f"{out} holds a {run.manifest.get('kind')} run, which cannot go on as an audit")
    if run.state == "done":
        raise RunError(f"{out} is done already; name another folder for another audit")
    return run


def _bound(threshold: Any, direction: str) -> str:
    """The scores that are flagged: `below 2.288`; "-" without a calibration."""
    sides = threshold if isinstance(threshold, list) else [threshold]
    texts = ["-" if value is None else f"{value:.4g}" for value in sides]
    if all(text == "-" for text in texts):
        return "-"
    return {"low": f"below {texts[0]}", "high": f"above {texts[0]}"}.get(
        direction, f"outside {' to '.join(texts)}"
    )


def _table(found: Audit) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Detectors with what they flag; without a calibration their mean scores, which are not judged."""
    from explain.audit import DETECTORS

    if found.flagged is None:
        rows = [
            (name, "-" if not item.scores.n else f"{item.scores.mean:.4g}", DETECTORS[name].units)
            for name, item in found.detectors.items()
        ]
        return ("detector", "mean score, UNCALIBRATED", "unit"), rows
    rows = []
    for name, item in found.detectors.items():
        row, part = DETECTORS[name], item.flagged
        share = "-" if part is None or not part.n else f"{part.value:.2%} ({part.low:.2%} to {part.high:.2%})"
        rows.append(
            (
                name,
                f"{_bound(item.threshold, row.direction)} {row.units}".strip(),
                "-" if part is None else str(part.count),
                share,
                f"{item.rate:.2%}",
            )
        )
    return ("detector", "flags scores", "flagged", "share (95 % interval)", "false alarms allowed"), rows
