"""One audit: outputs measured shard by shard, flagged, counted, and judged by a policy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from explain.attribution import Cancelled
from explain.audit import detectors as room
from explain.audit.calibrate import words_digest
from explain.audit.calibration import Calibration, Rule, load_calibration, share
from explain.audit.detectors import Context
from explain.audit.engine import Work, measure_missing, require_engine
from explain.audit.flagging import Count
from explain.audit.inputs import FILE as INPUTS
from explain.audit.inputs import Inputs, Texts, write_inputs
from explain.audit.model_tests import run_tests
from explain.audit.policy import Policy, policy_of, read_policy
from explain.audit.result import FILE, FINDINGS, OUTPUTS, Audit, Refused
from explain.audit.shards import FOLDER, SIZE, Shards
from explain.audit.tables import write_tables
from explain.audit.verdict import checks_of, verdict_of
from explain.errors import InputError
from explain.evaluation.run import Data, read_data
from explain.files import digest_json, replacing
from explain.model import Seq2Seq
from explain.model.recording import TemporaryFolder
from explain.training import data as texts
from explain.training import tasks
from explain.training.tasks import Task

OF_TASK = 1_000
"""Examples of a task that are audited unless told otherwise."""


def audit(
    model: Seq2Seq,
    data: Data,
    *,
    policy: Policy | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    words: frozenset[str] | None = None,
    examples: int | None = None,
    forced: bool = False,
    generate: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    source_column: str = "source",
    target_column: str = "target",
    name: str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Audit:
    """Find out which outputs of a model should not be trusted, and what it relies on that it should not.

    Outputs are measured in shards of 64 that are written as they are done; an audit that was interrupted
    goes on where it was when it is given the same folder again, and ends with the same tables.

    Args:
        model: an opened model.
        data: a task or its name, a data file, sources, or (source, output) pairs.
        policy: which detectors, at which rates, and what fails; a file, a mapping, or what `read_policy`
            gives. By default all that were calibrated, at one false alarm in a hundred.
        calibration: what `calibrate` gives, or its file. Without it scores are shown and nothing is flagged.
        words: the words of the training data, for `unseen_words`.
        examples: the most to audit; by default 1,000 of a task, and all of other data.
        forced: audit the data's own outputs instead of the model's.
        generate: controls for `model.generate`; by default those of the calibration.
        seed: of what a task draws, and of the tests.
        folder: where shards and tables are kept; by default a temporary one that lives as long as the result.
        source_column: of a data file.
        target_column: of a data file.
        name: what the data are called, where they are not a task or a file.
        engine: `local`, or `ray`: the shards are measured by Ray's workers, with the same result.
        ray_address: of a Ray cluster that runs already; by default `RAY_ADDRESS`, else one on this machine.
        progress: called with (done, all) after every shard.
        should_stop: asked between passes; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: no such task, detector or engine.
        InputError: data, policy or calibration that cannot be used; a calibration of another model; Ray is
            not installed.
        RunError: the folder holds shards of something else.
        Cancelled: `should_stop` said so.
    """
    require_engine(engine)
    policy = _policy(policy)
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = load_calibration(calibration, model.digest)
    if calibration is not None:
        _require_same(calibration, model, words, forced, generate)
        if generate is None:
            generate = calibration.settings["generate"]
    controls = dict(generate or {})
    title, task, rows = _read(data, policy, examples, seed, name, source_column, target_column)
    context = Context(None if calibration is None else calibration.references, words)
    names = _names(policy, calibration, context)
    rules = _rules(policy, calibration, names)
    keeper = TemporaryFolder() if folder is None else None
    where = Path(keeper.path if keeper is not None else folder or ".")

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    plan = {
        "model_digest": model.digest,
        "detectors": list(names),
        "references": None if context.references is None else digest_json(context.references.to_dict()),
        "training_words": words_digest(words),
        "controls": controls,
        "forced": forced,
        "shard_size": SIZE,
    }
    rows = _with_outputs(rows) if forced else rows
    shards, digest = _begin(where, names, plan, rows, policy.columns)
    pairs = shards.inputs()
    work = Work(names, context, forced, controls)
    tell = progress or (lambda done, total: None)
    measure_missing(engine, model, shards, work, progress=tell, check=check, address=ray_address)
    count = Count(policy, rules, calibration, names, known_answers=task is not None)
    write_tables(where, shards, pairs, count, check)
    tests = run_tests(model, policy, task, pairs, controls, seed=seed, check=check)
    checks = checks_of(
        policy, rules, count.flagged, count.parts(), count.outputs, count.refused, tests
    ) if rules else []  # fmt: skip
    verdict, reason = verdict_of(calibration, checks, count.outputs, policy.fewest)
    return Audit(
        verdict=verdict,
        reason=reason,
        examples=len(pairs),
        detectors={name: count.result(name) for name in names},
        flagged=share(count.any, count.outputs) if rules else None,
        expected=calibration.any_of(rules) if calibration is not None and rules else None,
        checks=tuple(checks),
        parts=tuple(count.parts()),
        tests=tests,
        combination=count.combination(),
        reference=count.reference(),
        suspects=tuple(count.suspects()),
        refused=Refused(count.refused, tuple(count.refusals)),
        policy=policy.to_dict(),
        calibration=None if calibration is None else _origin(calibration),
        settings={
            "generate": controls,
            "forced": forced,
            "seed": seed,
            "examples": len(pairs),
            "shard_size": SIZE,
            "known_answers": task is not None,
            "training_words": None if words is None else len(words),
        },
        model=model.name,
        data=title,
        model_digest=model.digest,
        data_digest=digest,
        folder=where,
        keeper=keeper,
    )


# ---- what was asked --------------------------------------------------------------------------------------


def _policy(given: Any) -> Policy:
    if given is None or isinstance(given, Policy):
        return given or Policy()
    return policy_of(given) if isinstance(given, Mapping) else read_policy(given)


def _require_same(
    calibration: Calibration,
    model: Seq2Seq,
    words: frozenset[str] | None,
    forced: bool,
    generate: Mapping[str, Any] | None,
) -> None:
    """Refuse a calibration of another model or of outputs that came about in another way."""
    if calibration.model_digest != model.digest:
        raise InputError(
            f"the calibration is of another model ({calibration.model_digest[:19]}…, not "
            f"{model.digest[:19]}…); calibrate this model and try again"
        )
    if calibration.settings["forced"] != forced:
        kinds = ("the model's own outputs", "given outputs")
        raise InputError(
            f"the calibration is of {kinds[calibration.settings['forced']]}, but {kinds[forced]} are to be "
            "audited; calibrate on the same kind"
        )
    if generate is not None and dict(generate) != dict(calibration.settings["generate"]):
        raise InputError(
            "the calibration's outputs were decoded in another way "
            f"({json.dumps(calibration.settings['generate'])}); use the same controls for both"
        )
    if words is not None and calibration.words is not None and words_digest(words) != calibration.words:
        raise InputError("the calibration was made with other training data; give the same to both")


def _read(
    data: Data,
    policy: Policy,
    examples: int | None,
    seed: int,
    name: str | None,
    source_column: str,
    target_column: str,
) -> tuple[str, Task | None, Iterator[Texts]]:
    """What the data are called, the task if they are one, and every row with the columns of slices."""
    is_task = isinstance(data, Task) or (isinstance(data, str) and data in tasks.names())
    is_file = isinstance(data, (str, os.PathLike)) and not is_task
    if policy.columns and not is_file:
        raise InputError(f"the policy slices by the column {policy.columns[0]!r}, which only a file can have")
    if is_file:
        path = cast("str | os.PathLike[str]", data)
        rows = texts.iter_table(path, source_column, target_column, False, policy.columns)
        return name or Path(path).name, None, islice(rows, examples)
    most = examples if examples is not None else OF_TASK if is_task else sys.maxsize
    title, task, pairs = read_data(data, most, seed, name=name, whole=True, half="second")
    return title, task, ((pair, {}) for pair in pairs)


def _with_outputs(rows: Iterable[Texts]) -> Iterator[Texts]:
    """The rows, each of which must have an output."""
    for row in rows:
        if not row[0].target:
            raise InputError("the outputs of the data are to be audited: they need one for every source")
        yield row


def _begin(
    folder: Path,
    names: Sequence[str],
    plan: Mapping[str, Any],
    rows: Iterable[Texts],
    columns: Sequence[str],
) -> tuple[Shards, str]:
    """The shards of an audit, new or as an interrupted run left them, with their texts, and those' digest."""
    with replacing(folder / FOLDER / INPUTS) as temporary:
        digest = write_inputs(temporary, rows, columns)
        shards = Shards(folder, names, len(Inputs(temporary)))
        shards.begin({"data_digest": digest, **plan})
    # What a killed process was writing.
    left = [*shards.folder.glob(".*")]
    left += [path for name in (OUTPUTS, FINDINGS, FILE) for path in folder.glob(f".{name}.*")]
    for path in left:
        path.unlink(missing_ok=True)
    return shards, digest


def _names(policy: Policy, calibration: Calibration | None, context: Context) -> tuple[str, ...]:
    """The detectors to run: the policy's, else the calibration's, else the fast ones."""
    if policy.detectors is not None:
        names = room.chosen(policy.detectors, context)
    elif calibration is not None:
        names = tuple(name for name in room.DETECTORS if name in calibration.scores)
        if context.words is None:
            names = tuple(name for name in names if "words" not in room.get(name).needs)
    else:
        names = room.chosen(None, context)
    if context.words is None and "words" in room.needs_of(names):
        raise InputError("the detector unseen_words needs the training data (--training FILE)")
    if calibration is None:  # nothing to compare with
        names = tuple(name for name in names if "references" not in room.get(name).needs)
    return names


def _rules(policy: Policy, calibration: Calibration | None, names: Iterable[str]) -> list[Rule]:
    if calibration is None or not calibration.enough:
        return []
    return [calibration.rule(name, policy.rate_of(name)) for name in names]


def _origin(calibration: Calibration) -> dict[str, Any]:
    """What the audit says of its calibration."""
    return {
        "data": calibration.data,
        "n": len(calibration.lengths),
        "seen": calibration.seen,
        "references": 0 if calibration.references is None else calibration.references.outputs,
        "settings": dict(calibration.settings),
        "model_digest": calibration.model_digest,
        "data_digest": calibration.data_digest,
    }
