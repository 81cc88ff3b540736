"""Activation patching: what one input's activations restore in the run of another, place by place."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from explain.analysis.edits import Limits, recorded, values_under
from explain.analysis.effects import Site, SiteEffects, asked_of, numbers, sites_of, tensor_of
from explain.attribution.gradients.batch import jacobian_rows
from explain.attribution.memory import DEFAULT, backward_row_bytes, rows_within
from explain.attribution.objectives import Contrast, Objective, Positions, Question, question
from explain.attribution.passes import values_from_states
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.attention import PointFunction, Tap, tapped
from explain.model.forward import source_embeddings, states_of, target_embeddings
from explain.model.hooks import analysed, hooked, select
from explain.results import Generation, Token

# Objectives that differ by less, relative to their size, are taken to be the same: float32 tells no more.
_SAME = 1e-5


@dataclass(frozen=True, eq=False)
class Patching(SiteEffects):
    """How far one run's activations, put into another run place by place, carry it over.

    `effect` is float [parts, rows]: (f(patched) − f(run)) / (f(other) − f(run)). 0: putting them in changes
    nothing, 1: it does as much as all of them together; below 0 and above 1 both happen. nan where the two
    runs do not differ: then there is nothing to carry over. `value` [rows] is f(run), the objective of the
    run that was patched; source text and tokens are that run's.

    Denoising puts clean activations into the corrupted run: 1 restores the clean answer, so the place is
    enough for it. Noising puts corrupted ones into the clean run: 1 destroys the answer, so it is needed.

    Attributes:
        change: float [parts, rows], f(patched) − f(run), in `units`.
        other_value: float [rows], f of the run that the activations come from.
        other_text: its source text.
        other_tokens: its source tokens.
        noising: the run is the clean one.
        exact: computed by patching; else a first-order estimate.
    """

    change: Tensor
    other_value: Tensor
    other_text: str
    other_tokens: tuple[Token, ...]
    noising: bool
    exact: bool

    def at(self, parts: Collection[Site]) -> Self:
        """The same at some of the places alone, in this result's order."""
        chosen = [number for number, part in enumerate(self.parts) if part in parts]
        kept = tuple(self.parts[number] for number in chosen)
        return replace(self, parts=kept, effect=self.effect[chosen], change=self.change[chosen])

    def _numbers(self, number: int, row: int) -> dict[str, float]:
        own = {"change": float(self.change[number, row]), "other_value": float(self.other_value[row])}
        return {**super()._numbers(number, row), **own}

    def to_dict(self) -> dict[str, Any]:
        """The patching as a JSON object; null stands for nan."""
        return {
            **super().to_dict(),
            "change": numbers(self.change),
            "other_value": numbers(self.other_value),
            "other_text": self.other_text,
            "other": [token.to_dict() for token in self.other_tokens],
            "noising": self.noising,
            "exact": self.exact,
        }

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super()._read(data),
            "change": tensor_of(data["change"]),
            "other_value": tensor_of(data["other_value"]),
            "other_text": data["other_text"],
            "other_tokens": tuple(Token.from_dict(item) for item in data["other"]),
            "noising": data["noising"],
            "exact": data["exact"],
        }


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far a first-order estimate is from patching itself, over all places and rows where both exist.

    Attributes:
        cells: how many there are.
        correlation: Pearson's, −1 to 1; nan where one of them does not vary.
        largest: the largest |estimate − effect|; 0 is exact.
        mean: the mean of |estimate − effect|.
        k: how many of the strongest places are compared in each row, where so many have an effect.
        overlap: share of the k strongest places (by magnitude) that both name, mean over rows; 1 is all.
    """

    cells: int
    correlation: float
    largest: float
    mean: float
    k: int
    overlap: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object; null stands for nan."""
        return {key: None if value != value else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the figures back from their JSON object."""
        known: dict[str, Any] = {key: math.nan if value is None else value for key, value in data.items()}
        return cls(**known)


def patch(
    model: Seq2Seq,
    clean: Generation,
    corrupted: Generation,
    points: str | Iterable[str] = "decoder.*.residual",
    by: Sequence[str] = ("layer", "position"),
    *,
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    positions: Positions = None,
    noising: bool = False,
    only: Collection[Site] | None = None,
    **limits: Unpack[Limits],
) -> Patching:
    """Put the clean run's activations into the corrupted run, one place at a time.

    Causal tracing after Meng et al. 2022 (arXiv:2202.05262), with another text instead of noise as in Wang et
    al. 2022 (arXiv:2211.00593). All places are rows of one batch; those of the decoder share one encoder row.

    Args:
        model: an opened model.
        clean: the input that is answered, as `model.force(clean_text, output)`.
        corrupted: another source of the same number of tokens with the same output, as
            `model.force(other_text, output)`.
        points: hook points or globs.
        by: what makes a place of its own: some of `layer`, `head`, `position`, `neuron`, as far as the hook
            points have them (`head` and `position` inside attention, else `position` and `neuron`). Axes
            that are not named are patched as one.
        objective: as for `attribute`.
        contrast: a foil; the answer to the corrupted source is a good one.
        positions: target tokens to explain; None is all of them.
        noising: put the corrupted run's activations into the clean run instead.
        only: of these places, those to patch, such as the strongest of an estimate; None is all.
        **limits: see `Limits`.

    Raises:
        UnknownNameError: no such hook point or objective.
        InputError: inputs that do not fit each other, or an axis that a hook point does not have.
        Cancelled: `should_stop` said so.
    """
    pair = _Pair.of(model, clean, corrupted, points, (objective, contrast, positions), noising)
    sites = [site for site in sites_of(pair.activations, by) if only is None or site in only]
    versions = [site.edits(pair.activations) for site in sites]
    found = values_under(model, pair.run, pair.asked, [(), *versions], **limits)
    return pair.result(sites, found[0], found[1:] - found[0], by, exact=True)


def attribution_patching(
    model: Seq2Seq,
    clean: Generation,
    corrupted: Generation,
    points: str | Iterable[str] = "decoder.*.residual",
    by: Sequence[str] = ("layer", "position"),
    *,
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    positions: Positions = None,
    noising: bool = False,
    memory_budget: int = DEFAULT,
) -> Patching:
    """Estimate `patch` to first order: gradient · (clean − corrupted) at every place, from one backward pass.

    After Nanda 2023 (neelnanda.io/attribution-patching) and Syed et al. 2023 (arXiv:2310.10348). Exact where
    the objective is linear in the activations; `disagreement` says how far it is off elsewhere, which is most
    where softmax and norms saturate. Two forward passes and one backward pass (batched over rows), however
    many places there are.

    Args:
        model: an opened model.
        clean: as for `patch`, and so are all others.
        corrupted: another source with the same output.
        points: hook points or globs.
        by: what makes a place of its own.
        objective: what is explained.
        contrast: a foil.
        positions: target tokens to explain; None is all of them.
        noising: put the corrupted run's activations into the clean run instead.
        memory_budget: bytes to use beside the model.

    Raises:
        UnknownNameError, InputError: as for `patch`.
    """
    pair = _Pair.of(model, clean, corrupted, points, (objective, contrast, positions), noising)
    sites = sites_of(pair.activations, by)
    with model.lock, analysed(model.hf):
        value, products = _first_order(model, pair, memory_budget)
    change = torch.stack([_added(site, products) for site in sites])
    return pair.result(sites, value, change, by, exact=False)


def measured_disagreement(
    estimate: Patching,
    model: Seq2Seq,
    clean: Generation,
    corrupted: Generation,
    cells: int = 64,
    **question: Any,
) -> Disagreement:
    """How far an estimate is off, measured by patching some of its places: the strongest, and others evenly.

    Args:
        estimate: of `attribution_patching`.
        model: the model that it is about.
        clean: the clean input that it was made of.
        corrupted: the corrupted one.
        cells: how many places are patched.
        **question: `objective`, `contrast`, `positions` as for the estimate, and `Limits`.

    Raises:
        InputError: as for `patch` and `disagreement`; cells below 1.
    """
    if cells < 1:
        raise InputError(f"cells is {cells}; at least one place must be patched")
    strongest = [part for part, _ in estimate.top(cells // 2)]
    every = max(1, len(estimate.parts) // max(1, cells - len(strongest)))
    chosen = {*strongest, *estimate.parts[::every][: cells - len(strongest)]}
    points, by = estimate.config["points"], estimate.config["by"]
    exact = patch(model, clean, corrupted, points, by, noising=estimate.noising, only=chosen, **question)
    return disagreement(exact, estimate.at(chosen))


def disagreement(patching: Patching, estimate: Patching, k: int = 5) -> Disagreement:
    """How far attribution patching is from patching, on the same places and rows.

    Raises:
        InputError: the two are about different places, rows or inputs; k below 1.
    """
    same = [
        (item.parts, item.spans, item.objective, item.contrast, item.source_text, item.other_text)
        for item in (patching, estimate)
    ]
    if same[0] != same[1] or k < 1:
        raise InputError("compare two results of the same places, rows and inputs, and k of at least 1")
    there = ~patching.effect.isnan() & ~estimate.effect.isnan()
    one, other = patching.effect[there].double(), estimate.effect[there].double()
    if not len(one):
        return Disagreement(0, math.nan, math.nan, math.nan, k, math.nan)
    apart = (one - other).abs()
    rows = there.all(0).nonzero()[:, 0].tolist()
    overlaps = [_overlap(patching.effect[:, row].abs(), estimate.effect[:, row].abs(), k) for row in rows]
    overlaps = [share for share in overlaps if share is not None]
    return Disagreement(
        cells=len(one),
        correlation=_correlation(one, other),
        largest=float(apart.max()),
        mean=float(apart.mean()),
        k=k,
        overlap=sum(overlaps) / len(overlaps) if overlaps else math.nan,
    )


def _overlap(one: Tensor, other: Tensor, k: int) -> float | None:
    """Share of the k largest entries that both have; k is less where fewer places have an effect at all."""
    k = min(k, int((one > _SAME).sum()))
    if not k:
        return None
    return len({*one.topk(k).indices.tolist()} & {*other.topk(k).indices.tolist()}) / k


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = one.norm() * other.norm()
    return float(one @ other / scale) if float(scale) > 0 else math.nan


# ---- inside ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two runs of the same length and output.

    Attributes:
        model: the opened model.
        run, other: the run that is patched, and the one that the activations come from.
        asked: what is explained.
        contrast: its foil.
        activations: the other run's tensors by hook point, without the batch dimension.
        value: [rows], the other run's objective.
        noising: the run is the clean one.
    """

    model: Seq2Seq
    run: Generation
    other: Generation
    asked: Question
    contrast: Contrast | None
    activations: Mapping[str, Tensor]
    value: Tensor
    noising: bool

    @classmethod
    def of(
        cls,
        model: Seq2Seq,
        clean: Generation,
        corrupted: Generation,
        points: str | Iterable[str],
        what: tuple[Objective, Contrast | None, Positions],
        noising: bool,
    ) -> _Pair:
        _require_pair(model, clean, corrupted)
        objective, contrast, positions = what
        asked = question(model, clean, objective, contrast, positions=positions)
        names = select(points, model.hook_points())
        run, other = (clean, corrupted) if noising else (corrupted, clean)
        (tensors,) = recorded(model, [other], list(dict.fromkeys([*names, "logits"])))
        value = asked(tensors["logits"]).float().cpu()
        activations = {name: tensors[name] for name in names}
        return cls(model, run, other, asked, contrast, activations, value, noising)

    def result(
        self, sites: Sequence[Site], value: Tensor, change: Tensor, by: Sequence[str], *, exact: bool
    ) -> Patching:
        """The patching from f(run) [rows] and what each place changes [sites, rows]."""
        difference = self.value - value
        size = torch.maximum(self.value.abs(), value.abs()).clamp_min(1)
        effect = torch.where(difference.abs() > _SAME * size, change / difference, torch.nan)
        config = {"points": list(self.activations), "by": list(by)}
        return Patching(
            parts=tuple(sites),
            effect=effect,
            value=value,
            change=change,
            other_value=self.value,
            other_text=self.other.source_text,
            other_tokens=self.other.source_tokens,
            noising=self.noising,
            exact=exact,
            **asked_of(self.model, self.run, self.asked, self.contrast, config),
        )


def _require_pair(model: Seq2Seq, clean: Generation, corrupted: Generation) -> None:
    """Refuse inputs whose activations do not stand side by side.

    Raises:
        InputError: sources of different lengths, or different outputs.
    """
    lengths = len(clean.source_tokens), len(corrupted.source_tokens)
    if lengths[0] != lengths[1]:
        raise InputError(
            f"the clean source has {lengths[0]} tokens and the corrupted one {lengths[1]}; patching needs as "
            "many on both sides, so that positions correspond"
        )
    same_output = clean.target_ids.tolist() == corrupted.target_ids.tolist()
    if not same_output or clean.decoder_start.id != corrupted.decoder_start.id:
        raise InputError(
            f"the outputs differ ({len(clean.target_tokens)} and {len(corrupted.target_tokens)} tokens); "
            "force the same one on both: model.force(clean, output) and model.force(corrupted, output)"
        )


def _first_order(model: Seq2Seq, pair: _Pair, budget: int) -> tuple[Tensor, dict[str, Tensor]]:
    """f(run) [rows], and by hook point gradient · (other − run), [rows, *one input's tensor]."""
    hf, family, device, names = model.hf, model.family, model.device, list(pair.activations)
    source = source_embeddings(hf, family, pair.run.source_ids[None].to(device)).requires_grad_()
    target = target_embeddings(hf, family, pair.run.decoder_input_ids[None].to(device)).requires_grad_()
    mask = torch.ones(source.shape[:2], dtype=torch.long, device=device)
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> PointFunction:
        def keep(tensor: Tensor) -> Tensor:
            # Where an intervention has cut the tensor off from the input, the gradient begins here.
            cut = not tensor.requires_grad
            kept[name] = tensor.detach().requires_grad_() if cut else tensor.view_as(tensor)
            return kept[name]

        return keep

    functions = {name: keeper(name) for name in names}
    # Plain attention: fused attention has no batched gradient.
    with torch.enable_grad(), tapped(hf, Tap({}, {})), hooked(hf, family, functions):
        states = states_of(hf, family, source, mask)
        values = values_from_states(model, pair.asked, states, target, mask)  # [1, rows]
    lengths = source.shape[1], target.shape[1]
    size = rows_within(budget, backward_row_bytes(model, *lengths), values.shape[1])
    chunks = jacobian_rows(values[:, None], [kept[name] for name in names], size, lambda: None)
    products = {}
    for name, *parts in zip(names, *chunks, strict=True):
        gradient = torch.cat(parts)[:, 0]  # [rows, *tensor]
        run, other = kept[name].detach()[0], pair.activations[name]
        # What is masked is the same in both runs, and may be infinite.
        products[name] = (gradient * torch.where(run == other, 0, other - run)).float().cpu()
    return values[0].detach().float().cpu(), products


def _added(site: Site, products: Mapping[str, Tensor]) -> Tensor:
    """What the products [rows, *tensor] of one place add up to: [rows]."""
    total = torch.zeros(())
    for point in site.points:
        index = tuple(slice(None) if number is None else number for number in site.where(point))
        total = total + products[point][(slice(None), *index)].flatten(1).sum(1)
    return total
