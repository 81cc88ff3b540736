"""One audit: outputs measured shard by shard, flagged, counted, and judged by a policy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from explain.attribution import Cancelled
from explain.audit import detectors as room
from explain.audit.calibrate import words_digest
from explain.audit.calibration import Calibration, Rule, load_calibration, share
from explain.audit.columns import read_columns
from explain.audit.combine import combine
from explain.audit.detectors import INERT, Context
from explain.audit.measuring import Row, measure
from explain.audit.model_tests import run_tests
from explain.audit.policy import Policy, policy_of, read_policy
from explain.audit.result import (
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
from explain.audit.shards import SIZE, Shards
from explain.audit.verdict import checks_of, verdict_of
from explain.errors import EmptyTextError, InputError
from explain.evaluation.run import Data, read_data
from explain.files import digest_json, replacing
from explain.model import Seq2Seq
from explain.model.recording import TemporaryFolder
from explain.training import data as texts
from explain.training import tasks
from explain.training.data import Pair, read_table
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
        progress: called with (done, all) after every shard.
        should_stop: asked between passes; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: no such task or detector.
        InputError: data, policy or calibration that cannot be used; a calibration of another model.
        RunError: the folder holds shards of something else.
        Cancelled: `should_stop` said so.
    """
    policy = _policy(policy)
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = load_calibration(calibration, model.digest)
    if calibration is not None:
        _require_same(calibration, model, words, forced, generate)
        if generate is None:
            generate = calibration.settings["generate"]
    controls = dict(generate or {})
    title, task, pairs, columns = _read(data, policy, examples, seed, name, source_column, target_column)
    if forced and not all(pair.target for pair in pairs):
        raise InputError("the outputs of the data are to be audited: they need one for every source")
    context = Context(None if calibration is None else calibration.references, words)
    names = _names(policy, calibration, context)
    rules = _rules(policy, calibration, names)
    keeper = TemporaryFolder() if folder is None else None
    where = Path(keeper.path if keeper is not None else folder or ".")

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    def measured(numbers: range) -> list[Row]:
        check()
        part = pairs[numbers.start : numbers.stop]
        return measure(
            model, part, names, context, first=numbers.start, forced=forced, controls=controls, check=check
        )

    plan = {
        "model_digest": model.digest,
        "data_digest": texts.digest(pairs),
        "detectors": list(names),
        "references": None if context.references is None else digest_json(context.references.to_dict()),
        "training_words": words_digest(words),
        "controls": controls,
        "forced": forced,
        "shard_size": SIZE,
    }
    shards = Shards(where, names, plan, len(pairs))
    shards.measure_missing(measured, progress or (lambda done, total: None))
    count = _Count(policy, rules, calibration, names)
    _write_tables(where, shards, columns, count)
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
        data_digest=plan["data_digest"],
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
) -> tuple[str, Task | None, list[Pair], list[dict[str, str]]]:
    """What the data are called, the task if they are one, every row of them, and the columns of slices."""
    is_task = isinstance(data, Task) or (isinstance(data, str) and data in tasks.names())
    is_file = isinstance(data, (str, os.PathLike)) and not is_task
    if policy.columns and not is_file:
        raise InputError(f"the policy slices by the column {policy.columns[0]!r}, which only a file can have")
    if is_file:
        pairs = read_table(data, source_column, target_column, need_target=False)  # pyright: ignore
        columns = read_columns(data, policy.columns, len(pairs))  # pyright: ignore
        return name or Path(data).name, None, pairs[:examples], columns[:examples]  # pyright: ignore
    most = examples if examples is not None else OF_TASK if is_task else 10**9
    title, task, pairs = read_data(data, most, seed, name=name, whole=True)
    if not pairs:
        raise EmptyTextError("there is nothing to audit: the data have no rows")
    return title, task, pairs, [{} for _ in pairs]


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
        level = room.get(rule.detector).level
        places: tuple[int, ...] = ()
        if level == "token":
            places = tuple(i for i, value in enumerate(score.tokens) if bounds.outside(value))
        elif level == "source":
            places = tuple(i for i, value in enumerate(score.tokens) if value < INERT)
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
        self._labelled: list[tuple[dict[str, float], str, bool]] = []

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
        if row.expected and len(self._labelled) < _LABELLED:
            values = {name: score.value for name, score in row.scores.items()}
            self._labelled.append((values, row.source, row.output != row.expected))
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
        if not self._labelled:
            return None
        values, sources, wrong = zip(*self._labelled, strict=True)
        return combine({name: [row[name] for row in values] for name in self.names}, wrong, sources)


# ---- tables ----------------------------------------------------------------------------------------------


def _write_tables(folder: Path, shards: Shards, columns: Sequence[Mapping[str, str]], count: _Count) -> None:
    """Merge the shards into the two final tables, one shard in memory at a time."""
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
        with pq.ParquetWriter(one, outputs) as every, pq.ParquetWriter(other, FINDING_COLUMNS) as flagged:
            for rows in shards:
                lines, found = [], []
                for row in rows:
                    own = columns[row.number]
                    flags = count.add(row, own)
                    lines.append(_line(row, flags))
                    slices = {p.name: p.value(own, row.length) for p in count.policy.slices}
                    found += [each for flag in flags for each in _findings(row, flag, slices)]
                every.write_table(pa.Table.from_pylist(lines, schema=outputs))
                flagged.write_table(pa.Table.from_pylist(found, schema=FINDING_COLUMNS))


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
