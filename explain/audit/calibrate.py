"""Calibrating: scores of clean outputs, some of which serve as references for the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from explain.attribution import Cancelled
from explain.audit import detectors as room
from explain.audit.calibration import MOST, Calibration
from explain.audit.detectors import Context
from explain.audit.evidence import gather
from explain.audit.measuring import Row, measure, outputs_of
from explain.audit.references import References, references_of
from explain.errors import InputError
from explain.evaluation.run import Data, read_data
from explain.files import digest_json
from explain.model import Seq2Seq
from explain.results import Generation
from explain.training import data as texts
from explain.training import tasks
from explain.training.data import Pair
from explain.training.tasks import Task

CHUNK = 64
"""Outputs that are in memory at a time."""
_REFERENCES = 5
"""One clean output in so many is a reference."""
_OF_TASK = 1_250


def words_digest(words: frozenset[str] | None) -> str | None:
    """What stands for the training data's words in a calibration; None without any."""
    return None if words is None else digest_json(sorted(words))


def calibrate(
    model: Seq2Seq,
    data: Data,
    *,
    examples: int | None = None,
    detectors: Iterable[str] | None = None,
    words: frozenset[str] | None = None,
    only_right: bool = False,
    forced: bool = False,
    generate: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Calibration:
    """Score outputs that are known to be fine, so that an audit can tell what is not.

    One output in five is a reference that the others are compared with; thresholds come from the others.
    Thresholds hold for outputs like these: of this model, from such data, decoded in this way. Of a task's
    held-out examples calibration sees one half, an audit the other.

    Args:
        model: an opened model.
        data: clean data: a task or its name, a data file, sources, or (source, output) pairs.
        examples: the most to use; by default 1,250 of a task, and all of other data.
        detectors: names of detectors; by default all that need a fixed number of passes.
        words: the words of the training data, without case, for `unseen_words`.
        only_right: leave out what differs from the data's own output.
        forced: score the data's own outputs instead of the model's.
        generate: controls for `model.generate`.
        seed: of the order in which examples are drawn and become references.
        name: what the data are called, where they are not a task or a file.
        progress: called with (done, all).
        should_stop: asked between passes; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: no such task or detector.
        InputError: data that cannot be used, or of which no output is clean.
        Cancelled: `should_stop` said so.
    """
    names = room.chosen(detectors, Context(words=words))
    if "unseen_words" in names and words is None:
        raise InputError("the detector unseen_words needs the training data's words (--training FILE)")
    most = examples if examples is not None else _OF_TASK if _is_task(data) else sys.maxsize
    title, task, pairs = read_data(data, most, seed, name=name, half="first")
    if (forced or only_right) and not all(pair.target for pair in pairs):
        raise InputError("the data need an output for every source, to force it or to compare with it")
    if task is None:
        pairs = texts.shuffle(pairs, seed)
    every = len(pairs)
    references, others = pairs[::_REFERENCES], [p for i, p in enumerate(pairs) if i % _REFERENCES]
    if not others:
        raise InputError(
            f"{every} example{'' if every == 1 else 's'} cannot be calibrated on; give at least 2, better 625"
        )

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, every)

    options: dict[str, Any] = {"controls": dict(generate or {}), "forced": forced}
    found = _references(model, references, names, only_right, options, check, tell)
    context = Context(found, words)
    kept: list[Row] = []
    seen = 0
    for begin in range(0, len(others), CHUNK):
        part = others[begin : begin + CHUNK]
        check()
        rows = measure(model, part, names, context, check=check, **options)
        clean = [row for row in rows if not row.problem and (not only_right or row.output == row.expected)]
        seen += len(clean)
        kept += clean[: MOST - len(kept)]
        tell(len(part))
    if not kept:
        why = "equals the data's own" if only_right else "can be read"
        raise InputError(f"of {every} outputs none {why}, so there is nothing to calibrate on")
    return Calibration(
        scores={name: tuple(row.scores[name].value for row in kept) for name in names},
        lengths=tuple(row.length for row in kept),
        references=found,
        words=words_digest(words),
        settings={
            "only_right": only_right,
            "forced": forced,
            "generate": dict(generate or {}),
            "seed": seed,
            "examples": every,
        },
        data=title,
        seen=seen,
        model_digest=model.digest,
        data_digest=texts.digest(pairs),
    )


def _references(
    model: Seq2Seq,
    pairs: Sequence[Pair],
    names: Sequence[str],
    only_right: bool,
    options: Mapping[str, Any],
    check: Callable[[], None],
    tell: Callable[[int], None],
) -> References | None:
    """The references of clean outputs; None where no detector asks for any."""
    needs = room.needs_of(name for name in names if "references" in room.get(name).needs)
    if "references" not in needs:
        tell(len(pairs))
        return None
    evidence = []
    for begin in range(0, len(pairs), CHUNK):
        part = pairs[begin : begin + CHUNK]
        check()
        outputs = outputs_of(model, part, options["controls"], forced=options["forced"])
        clean = [
            output
            for pair, output in zip(part, outputs, strict=True)
            if isinstance(output, Generation) and (not only_right or output.target_text == pair.target)
        ]
        evidence += gather(model, clean, needs, check=check)
        tell(len(part))
    return references_of(evidence)


def _is_task(data: Data) -> bool:
    return isinstance(data, Task) or (isinstance(data, str) and data in tasks.names())
