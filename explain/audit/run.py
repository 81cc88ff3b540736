"""One audit: outputs measured shard by shard, flagged, counted, and judged by a policy."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from explain.attribution import Cancelled
from explain.audit import detectors as room
from explain.audit.calibrate import words_digest
from explain.audit.calibration import Calibration, Rule, load_calibration, share
from explain.audit.combine import combine
from explain.audit.detectors import Context
from explain.audit.engine import Work, measure_missing, require_engine
from explain.audit.inputs import FILE as INPUTS
from explain.audit.inputs import GROUP, Inputs, Texts, write_inputs
from explain.audit.measuring import Row
from explain.audit.model_tests import run_tests
from explain.audit.policy import Policy, policy_of, read_policy
from explain.audit.result import (
    FILE,
    FINDINGS,
    OUTPUTS,
    Audit,
    DetectorResult,
    Flag,
    Part,
    Refused,
    Spread,
    Suspect,
)
from explain.audit.shards import FOLDER, SIZE, Shards
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
_SUSPECTS = 25
_REFUSED = 20
_LABELLED = 20_000  # outputs that the combination looks at

FINDING_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),
        ("detector", pa.string()),
        ("level", pa.string()),
        ("place", pa.int32()),  # -1: the output as a whole
        ("token", pa.string()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p_value", pa.float64()),
        ("words", pa.list_(pa.string())),
        ("source", pa.string()),
        ("output", pa.string()),
        ("slices", pa.string()),
    ]
)
"""`findings.parquet`: one row per flagged output, or per flagged token where a detector names tokens."""


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
    count = _Count(policy, rules, calibration, names)
    _write_tables(where, shards, pairs, count, check)
    tests = run_tests(model, policy, task, pairs, controls, seed=seed, check=check)
    checks = checks_of(
        policy, rules, count.flagged, count.parts(), count.outputs, count.refused, tests
    ) if rules else []  # fmt: skip
    verdict, reason = verdict_of(calibration, checks)
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


# ---- flags -----------------------------------------------------------------------------------------------


def flags_of(row: Row, rules: Sequence[Rule], calibration: Calibration) -> tuple[Flag, ...]:
    """The flags of one output, the surest first."""
    found = []
    for rule in rules:
        score = row.scores.get(rule.detector)
        bounds = rule.bounds_at(row.length)
        if score is None or not bounds.outside(score.value):
            continue
        detector = room.get(rule.detector)
        level = detector.level
        places: tuple[int, ...] = ()
        if level != "output":
            below = detector.marked
            places = tuple(
                i
                for i, value in enumerate(score.tokens)
                if (bounds.outside(value) if below is None else value < below)
            )
        found.append(
            Flag(
                detector=rule.detector,
                score=score.value,
                low=bounds.low if math.isfinite(bounds.low) else math.nan,
                high=bounds.high if math.isfinite(bounds.high) else math.nan,
                p_value=calibration.p_value(rule.detector, score.value, row.length),
                places=places,
                words=score.words if level == "output" else (),
            )
        )
    return tuple(sorted(found, key=lambda flag: (flag.p_value, list(room.DETECTORS).index(flag.detector))))


class _Count:
    """What is kept of outputs that pass by: counts, spreads, the most suspicious few."""

    def __init__(
        self, policy: Policy, rules: Sequence[Rule], calibration: Calibration | None, names: Sequence[str]
    ) -> None:
        self.policy, self.rules, self.calibration, self.names = policy, rules, calibration, names
        self.outputs = self.refused = self.any = 0
        self.flagged = {rule.detector: 0 for rule in rules}
        self.refusals: list[tuple[int, str]] = []
        self._spreads = {name: Spread() for name in names}
        self._parts: dict[tuple[str, str], tuple[int, dict[str, int]]] = {}
        self._suspects: list[tuple[tuple[float, ...], Row, tuple[Flag, ...]]] = []
        # Of each labelled output its scores, the number of its source, and whether it is wrong.
        self._labelled = array("d"), array("l"), array("b")
        self._sources: dict[bytes, int] = {}

    def add(self, row: Row, columns: Mapping[str, str]) -> tuple[Flag, ...]:
        """Count one output in; its flags."""
        if row.problem:
            self.refused += 1
            if len(self.refusals) < _REFUSED:
                self.refusals.append((row.number, row.problem))
            return ()
        self.outputs += 1
        flags = flags_of(row, self.rules, self.calibration) if self.calibration is not None else ()
        self.any += bool(flags)
        for flag in flags:
            self.flagged[flag.detector] += 1
        for name, score in row.scores.items():
            self._spreads[name] = self._spreads[name].with_score(score.value)
        for part in self.policy.slices:
            key = part.name, part.value(columns, row.length)
            outputs, own = self._parts.setdefault(key, (0, dict.fromkeys(self.flagged, 0)))
            for flag in flags:
                own[flag.detector] += 1
            self._parts[key] = outputs + 1, own
        self._suspect(row, flags)
        if row.expected and len(self._labelled[1]) < _LABELLED:
            scores, groups, wrong = self._labelled
            scores.extend(row.scores[name].value for name in self.names)
            groups.append(self._sources.setdefault(_short(row.source), len(self._sources)))
            wrong.append(row.output != row.expected)
        return flags

    def _suspect(self, row: Row, flags: tuple[Flag, ...]) -> None:
        if self.rules and not flags:
            return
        # Surest first; of equals those with more flags, then those that the model itself thought unlikely.
        doubt = row.scores.get("log_prob_min") or row.scores.get("log_prob")
        least = math.inf if doubt is None or math.isnan(doubt.value) else doubt.value
        key = (min((f.p_value for f in flags), default=1.0), -len(flags), least, row.number)
        self._suspects.append((key, row, flags))
        if len(self._suspects) >= 4 * _SUSPECTS:
            self._suspects = sorted(self._suspects, key=lambda item: item[0])[:_SUSPECTS]

    def suspects(self) -> list[Suspect]:
        """The most suspicious outputs, first the surest."""
        kept = sorted(self._suspects, key=lambda item: item[0])[:_SUSPECTS]
        return [
            Suspect(
                row.number,
                row.source,
                row.output,
                row.expected,
                row.source_tokens,
                row.tokens,
                {name: score.value for name, score in row.scores.items()},
                flags,
            )
            for _, row, flags in kept
        ]

    def parts(self) -> list[Part]:
        """The slices, in the order of the policy and of their names."""
        order = {part.name: i for i, part in enumerate(self.policy.slices)}
        keys = sorted(self._parts, key=lambda key: (order[key[0]], key[1]))
        return [Part(*key, *self._parts[key]) for key in keys]

    def result(self, name: str) -> DetectorResult:
        """What one detector found."""
        rule = next((rule for rule in self.rules if rule.detector == name), None)
        rate = self.policy.rate_of(name)
        if rule is None:
            return DetectorResult(rate, None, None, math.nan, self._spreads[name], None)
        flagged = share(self.flagged[name], self.outputs)
        return DetectorResult(
            rate=rate,
            threshold=rule.pooled.to_json(room.get(name).direction),
            flagged=flagged,
            excess=rule.excess(flagged.count, flagged.n),
            scores=self._spreads[name],
            calibration=rule.to_dict(),
        )

    def combination(self) -> dict[str, Any] | None:
        """How well detectors tell wrong outputs apart, where the data say which are right."""
        scores, groups, wrong = self._labelled
        if not wrong:
            return None
        columns = {name: scores[place :: len(self.names)] for place, name in enumerate(self.names)}
        return combine(columns, [bool(each) for each in wrong], groups)


def _short(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


# ---- tables ----------------------------------------------------------------------------------------------


def _write_tables(
    folder: Path, shards: Shards, inputs: Inputs, count: _Count, check: Callable[[], None]
) -> None:
    """Merge the shards into the two final tables, one group of shards in memory at a time."""
    outputs = pa.schema(
        [
            ("number", pa.int64()),
            ("source", pa.string()),
            ("output", pa.string()),
            ("expected", pa.string()),
            ("length", pa.int32()),
            ("problem", pa.string()),
            ("flags", pa.list_(pa.string())),
            *((name, pa.float64()) for name in shards.names),
        ]
    )
    with replacing(folder / OUTPUTS) as one, replacing(folder / FINDINGS) as other:
        with _Table(one, outputs) as every, _Table(other, FINDING_COLUMNS) as flagged:
            for index, rows in enumerate(shards):
                check()
                lines, found = [], []
                own_columns = inputs.rows(shards.part(index))
                for row, (_, own) in zip(rows, own_columns, strict=True):
                    flags = count.add(row, own)
                    lines.append(_line(row, flags))
                    slices = {p.name: p.value(own, row.length) for p in count.policy.slices}
                    found += [each for flag in flags for each in _findings(row, flag, slices)]
                every.add(lines)
                flagged.add(found)


class _Table:
    """A Parquet file that is written in large row groups: each costs memory as long as the file is open."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer, self._schema = pq.ParquetWriter(path, schema), schema
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        if not rows:
            return
        self._waiting.append(pa.Table.from_pylist(list(rows), schema=self._schema))
        self._rows += len(rows)
        if self._rows >= GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(
            pa.concat_tables(self._waiting).combine_chunks(), row_group_size=self._rows or 1
        )
        self._waiting, self._rows = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()


def _line(row: Row, flags: Sequence[Flag]) -> dict[str, Any]:
    return {
        "number": row.number,
        "source": row.source,
        "output": row.output,
        "expected": row.expected,
        "length": row.length,
        "problem": row.problem,
        "flags": [flag.detector for flag in flags],
        **{name: score.value for name, score in row.scores.items()},
    }


def _findings(row: Row, flag: Flag, slices: Mapping[str, str]) -> list[dict[str, Any]]:
    level = room.get(flag.detector).level
    tokens = row.source_tokens if level == "source" else row.tokens
    common = {
        "number": row.number,
        "detector": flag.detector,
        "level": level,
        "low": flag.low,
        "high": flag.high,
        "p_value": flag.p_value,
        "words": list(flag.words),
        "source": row.source,
        "output": row.output,
        "slices": json.dumps(dict(slices), ensure_ascii=False),
    }
    if not flag.places:
        return [{**common, "place": -1, "token": "", "score": flag.score}]
    values = row.scores[flag.detector].tokens
    return [{**common, "place": i, "token": tokens[i], "score": values[i]} for i in flag.places]
