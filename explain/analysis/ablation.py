"""What the output loses when heads, sublayers, layers, neurons or positions of the model are silenced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from torch import Tensor

from explain.analysis.edits import Limits, recorded, values_under
from explain.analysis.effects import (
    Site,
    SiteEffects,
    asked_of,
    grid_of,
    numbers,
    position_axis,
    sites_of,
    tensor_of,
    whole_layers,
)
from explain.analysis.inputs import Progress
from explain.attribution.objectives import Contrast, Objective, Positions, Question, question
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.hooks import select
from explain.model.seq2seq import as_list
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd


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
RESAMPLED = 5
"""Other outputs that stand in for a part, one after the other, in `mean_ablation`."""
_WHOLE = ("layer", "head", "neuron")


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
    _check_part(what)
    references = as_list(reference)
    _check_replacement(how, references)
    names = select(WHAT[what].points if points is None else points, model.hook_points())
    others = _recorded(model, references, names)
    asked = question(model, generation, objective, contrast, positions=positions)
    (own,) = recorded(model, [generation], names)
    sites = _sites(own, WHAT[what])
    value, lost = _lost(model, generation, asked, sites, _replacements(own, how, others), limits)
    config = {"what": what, "how": how, "points": names, "references": len(references)}
    return Ablation(
        parts=tuple(sites),
        effect=lost.mean(0),
        spread=lost.std(0, correction=0),
        value=value,
        **asked_of(model, generation, asked, contrast, config),
    )


@dataclass(frozen=True, eq=False)
class MeanAblation:
    """What outputs lose without each part of the model, on average over many of them.

    Attributes:
        parts: what was silenced, one after the other.
        lost: float [outputs, parts]: the objective as it is minus the objective without the part, mean over
            an output's tokens, in `units`.
        objective: what is explained.
        units: what an effect of 1 is worth.
        config: every setting that shaped the numbers.
        model_digest: of the model.
    """

    parts: tuple[Site, ...]
    lost: Tensor
    objective: str
    units: str
    config: Mapping[str, Any]
    model_digest: str

    @property
    def effect(self) -> Tensor:
        """Float [parts]: mean over outputs. Above 0 the part speaks for what the model writes."""
        return self.lost.mean(0)

    @property
    def error(self) -> Tensor:
        """Float [parts]: standard error of that mean; nan of a single output."""
        return self.lost.std(0) / len(self.lost) ** 0.5 if len(self.lost) > 1 else self.lost[0] * torch.nan

    def grid(self, point: str) -> Tensor:
        """The effects at one kind of hook point as [layer, head, position, neuron]; see `grid_of`."""
        return grid_of(self.parts, self.effect, point)

    def top(self, k: int = 5) -> list[tuple[Site, float]]:
        """The k parts with the largest magnitude."""
        pairs = zip(self.parts, self.effect.tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -abs(pair[1]))[:k]

    def to_frame(self) -> pd.DataFrame:
        """One row per part: `part`, `point`, `layer`, `head`, `neuron`, `effect`, `error`, `outputs`."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "part": site.name,
                "point": site.point,
                **{axis: getattr(site, axis) for axis in _WHOLE},
                "effect": effect,
                "error": error,
                "outputs": len(self.lost),
            }
            for site, effect, error in zip(self.parts, self.effect.tolist(), self.error.tolist(), strict=True)
        )
        return frame.astype(dict.fromkeys(_WHOLE, "Int64"))

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object; null stands for nan."""
        return {
            "parts": [site.to_dict() for site in self.parts],
            "effect": numbers(self.effect),
            "error": numbers(self.error),
            "lost": numbers(self.lost),
            "objective": self.objective,
            "units": self.units,
            "config": dict(self.config),
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a result back from its JSON object."""
        return cls(
            parts=tuple(Site.from_dict(item) for item in data["parts"]),
            lost=tensor_of(data["lost"]),
            **{name: data[name] for name in ("objective", "units", "config", "model_digest")},
        )


def mean_ablation(
    model: Seq2Seq,
    generations: Sequence[Generation],
    what: str = "heads",
    how: str = "zero",
    *,
    points: str | Iterable[str] | None = None,
    objective: Objective = "log_prob",
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> MeanAblation:
    """Silence every part of a kind by itself, and see what many outputs lose on average.

    Args:
        model: an opened model.
        generations: inputs with the outputs that are kept.
        what: `heads`, `sublayers`, `layers` or `neurons`; positions of different texts are not the same part.
        how: as for `ablate`; what stands there instead is taken from the other outputs (for `resample`, from
            the next `RESAMPLED` of them).
        points: hook points or globs instead of the usual ones, with the same axes.
        objective: as for `attribute`.
        progress: called with (done, all) outputs.
        should_stop: asked before every batch; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: no such kind of part, replacement, hook point or objective.
        InputError: no outputs, too few to replace anything by, or parts that are not the same in all.
        Cancelled: `should_stop` said so.
    """
    _check_part(what)
    several = as_list(generations)
    if "position" in WHAT[what].by:
        raise InputError("positions of different texts are not the same part; ablate one output at a time")
    if len(several) < (1 if how == "zero" else 2):
        raise InputError(f"how={how!r} over outputs needs at least {1 if how == 'zero' else 2} of them")
    _check_replacement(how, [] if how == "zero" else several)
    names = select(WHAT[what].points if points is None else points, model.hook_points())
    every = _recorded(model, several, names)
    rows, sites, units, named = [], [], "", ""
    for number, generation in enumerate(several):
        asked = question(model, generation, objective)
        others = [*every[number + 1 :], *every[:number]]
        chosen = others[:RESAMPLED] if how == "resample" else others
        sites = _sites(every[number], WHAT[what])
        given = _replacements(every[number], how, chosen)
        _, lost = _lost(model, generation, asked, sites, given, {"should_stop": should_stop})
        rows.append(lost.mean((0, 2)))
        units, named = asked.units, asked.objective
        if progress is not None:
            progress(number + 1, len(several))
    config = {"what": what, "how": how, "points": names, "outputs": len(several)}
    if model.intervened:
        config["intervened"] = list(model.intervened)
    return MeanAblation(tuple(sites), torch.stack(rows), named, units, config, model.digest)


def _sites(own: Mapping[str, Tensor], kind: What) -> list[Site]:
    sites = sites_of(own, kind.by)
    return whole_layers(sites) if kind.whole_layers else sites


def _lost(
    model: Seq2Seq,
    generation: Generation,
    asked: Question,
    sites: Sequence[Site],
    replacements: Sequence[Mapping[str, Tensor]],
    limits: Limits,
) -> tuple[Tensor, Tensor]:
    """The objective [rows], and what it loses without each place: [replacements, places, rows]."""
    versions = [site.edits(values) for values in replacements for site in sites]
    # The unchanged input goes through the model with the others: what changes nothing then costs nothing.
    found = values_under(model, generation, asked, [(), *versions], **limits)
    return found[0], (found[0] - found[1:]).unflatten(0, (len(replacements), len(sites)))


def _check_part(what: str) -> None:
    if what not in WHAT:
        raise UnknownNameError("part", what, WHAT)


def _check_replacement(how: str, references: Sequence[Generation]) -> None:
    if how not in HOW:
        raise UnknownNameError("replacement", how, HOW)
    if how == "zero" and references:
        raise InputError("zero needs no reference; choose how='mean' or how='resample', or leave them out")
    if how != "zero" and not references:
        raise InputError(f"how={how!r} needs reference generations: what stands there for other inputs")


def _recorded(
    model: Seq2Seq, references: Sequence[Generation], names: Sequence[str]
) -> list[dict[str, Tensor]]:
    return recorded(model, references, names) if references else []


def _replacements(
    own: Mapping[str, Tensor], how: str, others: Sequence[Mapping[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """What can stand in place of one input's tensors `own`, each time tensors of the same shapes."""
    if how == "zero":
        return [{name: torch.zeros((), device=x.device).expand(x.shape) for name, x in own.items()}]
    for name in own:
        if name.endswith(("pattern", "scores")):
            raise InputError(f"{name} has a column for each token, so inputs have no common one; use 'zero'")
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
