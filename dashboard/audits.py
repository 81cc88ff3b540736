"""Audits in the runs folder: what one found, output by output, its reviews, and the jobs that make them."""

from __future__ import annotations

import hashlib
import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from dashboard import cache, model_jobs
from dashboard.catalogue import Choice, Place, choices
from dashboard.examples import Example
from dashboard.model_jobs import is_about, of_kind
from explain.audit import FILE, FINDINGS, OUTPUTS, Audit, Flag, load_audit, load_calibration
from explain.audit.measuring import Row
from explain.audit.reviews import Review, keep, withdraw
from explain.audit.reviews import review as made_now
from explain.audit.shards import FOLDER, from_table_list
from explain.errors import ExplainError, FileError, InputError
from explain.files import replacing
from explain.report.audit import audit_page, rewrite_audit
from explain.runs import Run

KIND = "audit"
MOST_LISTED = 200
"""Outputs that are listed at once."""
_MOST_FINDINGS = 500_000  # rows of a table that a page reads
_SECONDS = 1 / 60  # for an output, on one core, with a model as small as the demo's and texts of a line
_TESTS = 12.0
_SMALL = 4e6
_LOCKS: dict[str, threading.Lock] = {}
# What the command of an audit may say, for it to be given again from a page.
_OPTIONS = {
    *("--out", "--task", "--data", "--calibration", "--calibrate-on", "--policy", "--examples", "--forced"),
    *("--training", "--seed", "--num-beams", "--max-new-tokens", "--source-language", "--target-language"),
    *("--allow-unknown", "--source-column", "--target-column", "--device", "--dtype", "--resume"),
}


# ---- which there are -------------------------------------------------------------------------------------


def everything(place: Place) -> list[Run]:
    """The audits in the runs folder, newest first."""
    return of_kind(place, KIND)


def finished(run: Run) -> bool:
    """Whether there is something to open."""
    return run.state == "done" and (run.path / FILE).is_file()


def opened(run: Run) -> Audit:
    """What an audit found.

    Raises:
        FileError: it is missing, broken or of another kind.
    """
    path = run.path / FILE
    try:
        stat = path.stat()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    return _opened(str(path), stat.st_mtime_ns, stat.st_size)


@st.cache_resource(max_entries=8, show_spinner=False)
def _opened(path: str, changed: int, size: int) -> Audit:
    found = load_audit(path)
    try:  # a file from somewhere else may hold anything
        audit_page(found, command="")
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise FileError(f"{path} is a broken audit: {type(error).__name__} {error}") from None
    return found


def model_of(place: Place, run: Run, audit: Audit) -> Choice | None:
    """The audited model, where it can still be opened and is what it was."""
    found = list(choices(place).values())
    # The one that the audit names comes first; any other of the same weights does as well.
    found.sort(key=lambda choice: not is_about(run, choice))
    for choice in found:
        try:
            if cache.facts(choice)["digest"] == audit.model_digest:
                return choice
        except ExplainError:
            continue
    return None


# ---- output by output ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One output to look at.

    Attributes:
        number: its place in the data.
        source, output: the texts.
        flags: the detectors that flag it with their p-values, the surest first.
    """

    number: int
    source: str
    output: str
    flags: tuple[tuple[str, float], ...]


def items(audit: Audit) -> tuple[Item, ...]:
    """The flagged outputs, the surest first; without a calibration, those that the model doubted most.

    Where there are too many flags for a page only the first few that the audit itself names.

    Raises:
        FileError: a table of the audit is broken.
    """
    named = tuple(
        Item(each.number, each.source, each.output, tuple((f.detector, f.p_value) for f in each.flags))
        for each in audit.suspects
    )
    path = None if audit.folder is None else audit.folder / FINDINGS
    if audit.flagged is None or path is None or not path.is_file():
        return named
    try:
        if pq.read_metadata(path).num_rows > _MOST_FINDINGS:
            return named
        stat = path.stat()
        listed = _items(str(audit.folder), stat.st_mtime_ns, stat.st_size)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise FileError(f"{path} is a broken table: {error}") from None
    numbers = {item.number for item in named}
    return (*named, *(item for item in listed if item.number not in numbers))


@st.cache_resource(max_entries=8, show_spinner="Reading the findings …")
def _items(folder: str, changed: int, size: int) -> tuple[Item, ...]:
    rows = pq.read_table(
        Path(folder) / FINDINGS, columns=["number", "detector", "p_value", "source", "output"]
    )
    found: dict[int, Item] = {}
    flags: dict[int, dict[str, float]] = {}
    for row in rows.to_pylist():
        number = row["number"]
        found.setdefault(number, Item(number, row["source"], row["output"], ()))
        flags.setdefault(number, {})[row["detector"]] = row["p_value"]

    def surest(number: int) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(flags[number].items(), key=lambda item: item[1]))

    listed = [replace(item, flags=surest(number)) for number, item in found.items()]
    return tuple(sorted(listed, key=lambda item: (item.flags[0][1], -len(item.flags), item.number)))


def row_of(audit: Audit, number: int) -> Row | None:
    """One output with the scores of its tokens; None where its shard is not there.

    Raises:
        FileError: its shard is broken.
    """
    size = audit.settings.get("shard_size")
    if audit.folder is None or not isinstance(size, int) or size < 1 or number < 0:
        return None
    path = audit.folder / FOLDER / f"{number // size:06d}.parquet"
    if not path.is_file():
        return None
    try:
        columns = set(pq.read_schema(path).names)
        rows = from_table_list(path, [name for name in audit.detectors if name in columns])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is a broken shard: {error}") from None
    return next((row for row in rows if row.number == number), None)


def flags_of(audit: Audit, number: int) -> tuple[Flag, ...]:
    """The flags of one output, the surest first.

    Raises:
        FileError: the table of findings is broken.
    """
    own = next((each for each in audit.suspects if each.number == number), None)
    if own is not None:
        return own.flags
    path = None if audit.folder is None else audit.folder / FINDINGS
    if path is None or not path.is_file() or audit.flagged is None:
        return ()
    try:
        rows = pq.read_table(path, filters=[("number", "==", number)]).to_pylist()
        scores = pq.read_table(path.with_name(OUTPUTS), filters=[("number", "==", number)]).to_pylist()
        found: dict[str, Flag] = {}
        for row in rows:
            name = row["detector"]
            flag = found.get(name) or Flag(
                name, scores[0][name], row["low"], row["high"], row["p_value"], (), tuple(row["words"])
            )
            places = (*flag.places, row["place"]) if row["place"] >= 0 else flag.places
            found[name] = replace(flag, places=places)
    except (OSError, pa.ArrowException, KeyError, IndexError) as error:
        raise FileError(f"{path} is a broken table: {error}") from None
    return tuple(sorted(found.values(), key=lambda flag: flag.p_value))


def example_of(audit: Audit, row: Row) -> Example:
    """The output as a text that the other pages open: written as the audit wrote it, or given."""
    controls = {key: value for key, value in dict(audit.settings.get("generate") or {}).items() if value}
    if not audit.settings.get("forced"):
        return Example(row.source, None, controls)
    return given_example(audit, row)


def given_example(audit: Audit, row: Row) -> Example:
    """The output as a given one."""
    controls = dict(audit.settings.get("generate") or {})
    return Example(row.source, row.output, {key: controls[key] for key in cache.READING if controls.get(key)})


# ---- reviews ---------------------------------------------------------------------------------------------


def review(run: Run, audit: Audit, row: Row, verdict: str, note: str, reviewer: str) -> None:
    """Keep a reviewer's verdict, and write the audit's pages with it.

    Raises:
        ExplainError: it cannot be kept; says why.
    """
    one = made_now(row.number, row.source, row.output, verdict, note=note, reviewer=reviewer)
    with _writing(run):
        keep(run.path, audit, one)
        rewrite_audit(run.path)


def take_back(run: Run, audit: Audit, one: Review) -> None:
    """Take a reviewer's verdict back.

    Raises:
        ExplainError: the reviews cannot be written.
    """
    with _writing(run):
        withdraw(run.path, audit, one.output_digest, one.reviewer)
        rewrite_audit(run.path)


def _writing(run: Run) -> threading.Lock:
    # The pages are written from all reviews that are there, so the last to write has them all.
    return _LOCKS.setdefault(str(run.path.resolve()), threading.Lock())


# ---- jobs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be audited, on what.

    Attributes:
        task: a task with known answers; None for a file.
        file: a data file; None for a task.
        examples: the most outputs.
        clean: what to calibrate on first, a task's name or a file; None with a calibration or without any.
        calibration: a calibration that is there already.
        policy: a policy file.
        reading: further options of the command line, such as `source-column`; True stands for a switch.
    """

    task: str | None
    file: Path | None
    examples: int
    clean: str | Path | None = None
    calibration: Path | None = None
    policy: Path | None = None
    reading: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the data are called."""
        return self.task or (self.file.name if self.file else "")


def calibrations(place: Place, choice: Choice) -> dict[str, Path]:
    """The calibrations of this very model under the runs folder, by their path in it."""
    digest, found = cache.facts(choice)["digest"], {}
    for pattern in ("*.json", "*/calibration*.json"):
        for path in sorted(place.runs.glob(pattern)):
            if path.is_file() and _calibrates(str(path), path.stat().st_mtime_ns) == digest:
                found[str(path.relative_to(place.runs))] = path
    return found


@st.cache_data(max_entries=200, show_spinner=False)
def _calibrates(path: str, changed: int) -> str:
    try:
        found = load_calibration(path)
    except ExplainError:
        return ""
    return found.model_digest


def keep_policy(place: Place, text: str) -> Path:
    """Write a policy into the dashboard's own folder, by its digest, and check it; returns where.

    Raises:
        ExplainError: it is no policy; says which line and why.
    """
    from explain.audit import read_policy

    if len(text) > 100_000:
        raise InputError("a policy has at most 100,000 characters")
    name = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
    path = place.hidden / "policies" / name / "policy.yaml"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
    try:
        canary = getattr(read_policy(path).tests, "canary", None)
        if canary is not None and not Path(canary.file).resolve().is_relative_to(place.runs.resolve()):
            raise InputError(f"{canary.file!r} is not under {place.runs}; put the file there")
    except ExplainError as error:
        path.unlink(missing_ok=True)
        raise InputError(str(error).replace(str(path), "the policy")) from None
    return path


def seconds(outputs: int, parameters: int, characters: float, *, tests: bool = True) -> float:
    """Very roughly how long an audit takes on a processor.

    Args:
        outputs: to score, those of the calibration counted in.
        parameters: of the model.
        characters: of a source, in the mean.
        tests: whether the model's tests are run.
    """
    each = _SECONDS * (1 + parameters / _SMALL) * max(1.0, characters / 60)
    return each * outputs + (_TESTS * (1 + parameters / _SMALL) if tests else 0.0)


def arguments(choice: Choice, plan: Plan, out: Path) -> list[str]:
    """The command line, after `explain`, that makes this audit."""
    own: list[str] = []
    if plan.clean is not None:
        own += ["--calibrate-on", str(plan.clean)]
    if plan.calibration is not None:
        own += ["--calibration", str(plan.calibration)]
    if plan.policy is not None:
        own += ["--policy", str(plan.policy)]
    return model_jobs.arguments(KIND, choice, plan, own, out)


def start(place: Place, choice: Choice, plan: Plan) -> Run:
    """Start the audit, unless this model is being audited already; returns the run that is at work.

    Raises:
        ExplainError: the runs folder cannot be written to.
    """
    return model_jobs.start(
        place,
        KIND,
        choice,
        plan,
        lambda out: arguments(choice, plan, out),
        {
            "calibration": plan.calibration and str(plan.calibration),
            "calibrate_on": plan.clean and str(plan.clean),
            "policy": plan.policy and str(plan.policy),
        },
    )


def resuming(place: Place, run: Run) -> list[str] | None:
    """The command line, after `explain`, that goes on with an interrupted audit.

    A run may come from somewhere else, and its command with it. None stands for one that this dashboard does
    not give by itself: of a model that it does not open, or with a file from outside the runs folder.
    """
    try:
        program, kind, model, *rest = shlex.split(str(run.manifest.get("command") or ""))
    except (ExplainError, ValueError):
        return None
    if (program, kind) != ("explain", KIND):
        return None
    known = {model_jobs.subject(choice).resolve() for choice in choices(place).values()}
    if Path(model).resolve() not in known:
        return None
    options = [word.partition("=")[0] for word in rest if word.startswith("-")]
    if not set(options) <= _OPTIONS or not {"--out"} <= set(options):
        return None
    for word in rest:
        value = word.partition("=")[2] if word.startswith("-") else word
        path = Path(value)
        if value and path.exists() and not path.resolve().is_relative_to(place.runs.resolve()):
            return None
    at = rest.index("--out") + 1 if "--out" in rest else len(rest)
    if at >= len(rest) or Path(rest[at]).resolve() != run.path.resolve():
        return None
    return [kind, model, *(word for word in rest if word != "--resume"), "--resume"]


def resume(place: Place, run: Run) -> None:
    """Go on with an interrupted audit, as a process of its own.

    Raises:
        ExplainError: it cannot be resumed from here, or is at work.
    """
    words = resuming(place, run)
    if words is None:
        raise InputError(f"{run.name} cannot be resumed from here; give its command with --resume")
    model_jobs.start_job(words, run.path, kind=KIND)
