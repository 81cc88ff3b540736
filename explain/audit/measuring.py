"""From sources to rows: outputs written or given, their evidence, and every detector's score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from explain.audit import detectors as room
from explain.audit.detectors import Context, Score
from explain.audit.evidence import Evidence, gather
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.results import Generation
from explain.training.data import Pair

_FORCING = ("source_language", "target_language", "allow_unknown")


@dataclass(frozen=True, eq=False)
class Row:
    """One audited output, or why there is none.

    Attributes:
        number: its place in the data, from 0.
        source, output: the texts; the output is "" where there is a problem.
        expected: the output that the data give; "" where they give none.
        source_tokens, tokens: the texts of the tokens.
        length: output tokens.
        scores: by detector.
        problem: why the source could not be read; "" where it could.
    """

    number: int
    source: str
    expected: str = ""
    output: str = ""
    source_tokens: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    length: int = 0
    scores: Mapping[str, Score] = field(default_factory=dict)
    problem: str = ""


def outputs_of(
    model: Seq2Seq, pairs: Sequence[Pair], controls: Mapping[str, Any], *, forced: bool
) -> list[Generation | str]:
    """The outputs of sources, or the data's own, scored; in the place of one that cannot be read, why."""

    def write(part: Sequence[Pair]) -> list[Generation]:
        sources = [pair.source for pair in part]
        if not forced:
            return model.generate(sources, **controls)
        shared = {key: value for key, value in controls.items() if key in _FORCING}
        return model.force(sources, [pair.target for pair in part], **shared)

    try:
        return [*write(pairs)]
    except InputError:
        found: list[Generation | str] = []
        for pair in pairs:
            try:
                found += write([pair])
            except InputError as error:
                found.append(str(error))
        return found


def measure(
    model: Seq2Seq,
    pairs: Sequence[Pair],
    names: Sequence[str],
    context: Context,
    *,
    first: int = 0,
    forced: bool = False,
    controls: Mapping[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Rows of pairs, numbered from `first`, with the scores of the detectors `names`.

    Raises:
        ModelError: the model cannot be run.
    """
    outputs = outputs_of(model, pairs, controls or {}, forced=forced)
    written = [output for output in outputs if isinstance(output, Generation)]
    evidence = iter(gather(model, written, room.needs_of(names), check=check))
    rows = []
    for number, (pair, output) in enumerate(zip(pairs, outputs, strict=True), start=first):
        if isinstance(output, str):
            rows.append(Row(number, pair.source, pair.target, problem=output))
        else:
            rows.append(_row(number, pair, next(evidence), names, context))
    return rows


def _row(number: int, pair: Pair, evidence: Evidence, names: Sequence[str], context: Context) -> Row:
    generation = evidence.generation
    return Row(
        number=number,
        source=pair.source,
        expected=pair.target,
        output=generation.target_text,
        source_tokens=tuple(token.text for token in generation.source_tokens),
        tokens=tuple(token.text for token in generation.target_tokens),
        length=len(generation.target_tokens),
        scores={name: room.get(name).score(evidence, context).rounded() for name in names},
    )
