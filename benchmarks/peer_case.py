"""One row of the benchmark: what both sides run, and what is measured of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peer_client import Peer, PeerError
from peer_measure import counted, peak_memory, seconds
from peer_models import Stage
from peer_torch import NEEDS
from torch import Tensor

from explain.attribution import REGISTRY, source_share
from explain.results import Attribution

STEPS = (8, 12, 16, 24, 32, 50, 100, 200)
FINEST = 1e-4  # the tolerance asked of ours where inseq's error is smaller still


@dataclass(frozen=True)
class Case:
    """A row of the benchmark.

    Attributes:
        ours: our method's name, or `source_share`.
        options: of ours.
        peer: inseq's name.
        peer_options: of inseq; `n_samples` is shared among the samples of one explanation.
        reduce: how inseq's scores over the embedding's width become one number.
        compares: which scores must agree: `all`, `magnitude` (inseq drops the sign), `shares`, or "" where
            the two do not compute the same thing; `note` says why.
        samples: samples of one explanation on either side (ours, inseq's); times are then per sample.
        sibling: run on the T5 of the same size.
        note: what a reader must know.
    """

    ours: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: str = ""
    peer_options: Mapping[str, Any] = field(default_factory=dict)
    reduce: str = "sum"
    compares: str = "all"
    samples: tuple[int, int] | None = None
    sibling: bool = False
    slow: bool = False
    note: str = ""


@dataclass
class Result:
    """What was measured of one case; times in seconds, of a sample where the case has samples."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    difference: float | None = None
    largest: float | None = None  # of our source scores, to judge the difference by
    rows: tuple[list[float] | None, list[float] | None] = (None, None)
    peak: tuple[int | None, int | None] = (None, None)
    errors: tuple[float | None, float | None] = (None, None)  # largest completeness error, ours and theirs
    notes: list[str] = field(default_factory=list)

    def ratio(self) -> float | None:
        """How many times faster ours is than inseq, within a repeat where both ran in each."""
        if len(self.theirs) == 1:
            return self.theirs[0] / statistics.median(self.ours)
        return middle([t / o for o, t in zip(self.ours, self.theirs, strict=False)])

    def over_bound(self) -> float | None:
        """How many times longer ours takes than its rows."""
        return middle([o / b for o, b in zip(self.ours, self.bound, strict=False)])

    def record(self) -> dict[str, Any]:
        """Everything measured, for the JSON line."""
        return {
            "seconds": [middle(self.ours), middle(self.theirs), middle(self.bound)],
            "rows": self.rows,
            "peak_bytes": self.peak,
            "completeness_error": self.errors,
            "largest_score": self.largest,
        }


def middle(values: list[float]) -> float | None:
    """The median, None of nothing."""
    return statistics.median(values) if values else None


def registered(case: Case) -> bool:
    """Whether our side of a case exists."""
    return case.ours == "source_share" or case.ours in REGISTRY.rows


def own_options(case: Case, where: Stage) -> dict[str, Any]:
    """Our options, with the baseline that inseq uses on this model."""
    return {key: where.rows.baseline if value == "unk" else value for key, value in case.options.items()}


def our_call(case: Case, where: Stage, options: Mapping[str, Any]) -> Callable[[], Any]:
    """Our side of a case as a call without arguments."""
    if case.ours == "source_share":
        return lambda: source_share(where.model, where.generation, **options)
    return lambda: where.model.attribute(where.generation, method=case.ours, **options)


def errors_of(where: Stage, source: Tensor, decoder: Tensor) -> Tensor:
    """Relative completeness errors [target] of scores, where input and baseline differ at all."""
    rows = where.rows
    with torch.no_grad():
        change = (rows.values(rows.hf, *rows.pair) - rows.values(rows.hf, *rows.base))[0].double()
    error = (source.double().sum(1) + decoder.double().sum(1) - change).abs() / change.abs()
    return error[change.abs() > 1e-6]


def decoder_scores(att: Attribution) -> Tensor:
    """Scores of the decoder's inputs [target, target], the decoder start first, as inseq has them."""
    return torch.cat([att.start[:, None], att.prefix[:, :-1]], dim=1)


def difference(case: Case, where: Stage, ours: Any, theirs: tuple[Tensor, Tensor | None]) -> float | None:
    """The largest difference of the scores where both sides compute the same."""
    source, decoder = theirs
    if not case.compares or decoder is None:
        return None
    if case.compares == "shares":
        total = source.sum(1) + decoder.sum(1)
        return float((ours.share - source.sum(1) / total).abs().max())
    here = ours.source
    if case.compares == "magnitude":
        special = torch.tensor([token.special for token in where.generation.source_tokens])
        here, source = here[:, ~special].abs(), source[:, ~special].abs()
    found = float((here - source).abs().max())
    prefix = decoder_scores(ours)
    prefix = prefix.abs() if case.compares == "magnitude" else prefix
    return max(found, float((prefix - decoder).abs().max()))


def peer_first(name: str, case: Case, where: Stage, peer: Peer | None, result: Result) -> dict[str, Any]:
    """A counted run of inseq, and the options that ours takes to match it.

    Raises:
        PeerError: inseq raised.
    """
    options = own_options(case, where)
    if peer is None:
        return options
    given = dict(case.peer_options)
    for steps in STEPS if name.endswith("1pct") else (None,):
        given |= {} if steps is None else {"n_steps": steps}
        answer = peer.run(case.peer, given, case.reduce, counted=True)
        if case.peer != "integrated_gradients":
            break
        error = float(errors_of(where, *peer.read()).max())  # pyright: ignore[reportArgumentType]
        result.errors = (None, error)
        options.setdefault("tolerance", max(error, FINEST))
        if case.compares == "shares":
            options["tolerance"] = max(error, options["tolerance"])
        if error <= options["tolerance"]:
            break
    if result.errors[1] is not None:
        result.notes.append(f"inseq: {given.get('n_steps', 50)} steps, largest error {result.errors[1]:.1e}")
    result.rows, result.peak = (None, answer["rows"]), (None, answer["peak"])
    result.theirs = [answer["seconds"]]
    options["peer"] = given
    return options


def measure(
    name: str, case: Case, where: Stage, peer: Peer | None, repeats: int, *, once: bool = False
) -> Result:
    """One case: a counted run of both sides, then interleaved repeats of both and of the bound.

    With `once` the counted run is inseq's only one, for models where a second one takes minutes.
    """
    result = Result()
    try:
        options = peer_first(name, case, where, peer, result)
    except PeerError as error:
        result.notes.append(f"inseq raised {error}")
        options, peer = own_options(case, where), None
    given = options.pop("peer", {})
    call = our_call(case, where, options)
    if not once:
        call()
    with counted(where.model.hf) as rows:
        ours, peak = peak_memory(call)
    result.rows, result.peak = (rows.as_list(), result.rows[1]), (peak, result.peak[1])
    error = ours.completeness_error if isinstance(ours, Attribution) else ours.error
    if error is not None and not error.isnan().all():
        result.errors = (float(torch.nan_to_num(error).max()), result.errors[1])
    result.largest = float(ours.source.abs().max())
    if peer is not None:
        result.difference = difference(case, where, ours, peer.read())
    if result.errors[0] is not None:
        result.notes.append(f"ours: largest error {result.errors[0]:.1e}")
    used = (
        dict(ours.config) if isinstance(ours, Attribution) else {"points": ours.points, "steps": ours.steps}
    )
    needs = NEEDS[name](*where.lengths, used)
    here, there = case.samples or (1, 1)
    result.theirs = [taken / there for taken in result.theirs] if once else []
    for _ in range(repeats):
        result.ours.append(seconds(call)[0] / here)
        if peer is not None and not once:
            answer = peer.run(case.peer, given, case.reduce)
            result.theirs.append(answer["seconds"] / there)
        result.bound.append(where.rows.cost(needs) / here)
    return result
