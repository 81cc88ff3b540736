"""What the output loses when heads, sublayers, layers, neurons or positions of the model are silenced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from explain.analysis.edits import Limits, recorded, values_under
from explain.analysis.effects import (
    SiteEffects,
    asked_of,
    numbers,
    position_axis,
    sites_of,
    tensor_of,
    whole_layers,
)
from explain.attribution.objectives import Contrast, Objective, Positions, question
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.hooks import select
from explain.model.seq2seq import as_list
from explain.results import Generation


@dataclass(frozen=True, slots=True)
class What:
    """A row of the table of what can be silenced: where, by which axes, and whether a layer is one part."""

    points: tuple[str, ...]
    by: tuple[str, ...]
    whole_layers: bool = False


_OUTPUTS = ("*.self.out", "*.cross.out", "*.mlp.out")
WHAT: Mapping[str, What] = {
    "heads": What(("*.z",), ("layer", "head")),
    "sublayers": What(_OUTPUTS, ("layer",)),
    "layers": What(_OUTPUTS, ("layer",), whole_layers=True),
    "neurons": What(("*.mlp.hidden",), ("layer", "neuron")),
    "positions": What(("*.residual",), ("layer", "position")),
}
HOW = ("zero", "mean", "resample")


@dataclass(frozen=True, eq=False)
class Ablation(SiteEffects):
    """What the objective loses without each part of the model.

    `effect` is float [parts, rows]: the objective as it is minus the objective without the part, in `units`.
    Above 0 the part spoke for the output, below 0 against it, and 0 means that it alone was not needed
    (another part may do the same). With several references it is the mean over them.

    Attributes:
        spread: float [parts, rows], standard deviation over the references; 0 where there is one replacement.
    """

    spread: Tensor

    def _numbers(self, number: int, row: int) -> dict[str, float]:
        return {**super()._numbers(number, row), "spread": float(self.spread[number, row])}

    def to_dict(self) -> dict[str, Any]:
        """The ablation as a JSON object; null stands for nan."""
        return {**super().to_dict(), "spread": numbers(self.spread)}

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._read(data), "spread": tensor_of(data["spread"])}


def ablate(
    model: Seq2Seq,
    generation: Generation,
    what: str = "heads",
    how: str = "zero",
    *,
    points: str | Iterable[str] | None = None,
    reference: Generation | Sequence[Generation] = (),
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    positions: Positions = None,
    **limits: Unpack[Limits],
) -> Ablation:
    """Silence every part of a kind, each by itself, and see what the objective of the same output loses.

    Head ablation after Michel et al. 2019 (arXiv:1905.10650), resampling after Chan et al. 2022 (causal
    scrubbing). All parts are rows of one batch, and those of the decoder share one encoder row.

    Args:
        model: an opened model.
        generation: the input and the output that is kept.
        what: `heads` (what each head reads, at all positions), `sublayers` (what an attention block or
            feed-forward network adds), `layers` (all that a layer adds; what came in goes on), `neurons` of
            the feed-forward networks, or `positions` of the residual stream after each layer.
        how: what stands there instead: `zero`; the `mean` over all positions of the references; or
            `resample`, what each reference has at the same position (a shorter one starts anew at its end),
            one reference after the other.
        points: hook points or globs instead of the usual ones, with the same axes.
        reference: other generations, for `mean` and `resample`; they should be typical of the data.
        objective: as for `attribute`; `entropy` and own functions too.
        contrast: a foil.
        positions: target tokens to explain; None is all of them.
        **limits: see `Limits`.

    Raises:
        UnknownNameError: no such kind of part, replacement, hook point or objective.
        InputError: references missing or needless; patterns or scores with anything but `zero`.
        Cancelled: `should_stop` said so.
    """
    if what not in WHAT:
        raise UnknownNameError("part", what, WHAT)
    references = as_list(reference)
    _check_replacement(how, references)
    kind = WHAT[what]
    asked = question(model, generation, objective, contrast, positions=positions)
    names = select(kind.points if points is None else points, model.hook_points())
    (own,) = recorded(model, [generation], names)
    sites = sites_of(own, kind.by)
    if kind.whole_layers:
        sites = whole_layers(sites)
    replacements = _replacements(model, own, how, references)
    versions = [site.edits(values) for values in replacements for site in sites]
    # The unchanged input is a row like the others: where nothing changes, the difference is exactly 0.
    found = values_under(model, generation, asked, [(), *versions], **limits)
    lost = (found[0] - found[1:]).unflatten(0, (len(replacements), len(sites)))
    config = {"what": what, "how": how, "points": names, "references": len(references)}
    return Ablation(
        parts=tuple(sites),
        effect=lost.mean(0),
        spread=lost.std(0, correction=0),
        value=found[0],
        **asked_of(model, generation, asked, contrast, config),
    )


def _check_replacement(how: str, references: Sequence[Generation]) -> None:
    if how not in HOW:
        raise UnknownNameError("replacement", how, HOW)
    if how == "zero" and references:
        raise InputError("zero needs no reference; choose how='mean' or how='resample', or leave them out")
    if how != "zero" and not references:
        raise InputError(f"how={how!r} needs reference generations: what stands there for other inputs")


def _replacements(
    model: Seq2Seq, own: Mapping[str, Tensor], how: str, references: Sequence[Generation]
) -> list[dict[str, Tensor]]:
    """What can stand in place of one input's tensors `own`, each time tensors of the same shapes."""
    if how == "zero":
        return [{name: torch.zeros((), device=x.device).expand(x.shape) for name, x in own.items()}]
    for name in own:
        if name.endswith(("pattern", "scores")):
            raise InputError(f"{name} has a column for each token, so inputs have no common one; use 'zero'")
    others = recorded(model, references, list(own))
    if how == "mean":
        return [{name: _mean(name, [other[name] for other in others], x) for name, x in own.items()}]
    return [{name: _same_length(name, other[name], x) for name, x in own.items()} for other in others]


def _mean(name: str, others: Sequence[Tensor], own: Tensor) -> Tensor:
    """The mean over all positions of all references, at every position."""
    axis = position_axis(name)
    return torch.cat(list(others), dim=axis).float().mean(axis, keepdim=True).expand(own.shape)


def _same_length(name: str, other: Tensor, own: Tensor) -> Tensor:
    """A reference's tensor with as many positions as one's own."""
    axis = position_axis(name)
    positions = torch.arange(own.shape[axis], device=other.device) % other.shape[axis]
    return other.index_select(axis, positions)
