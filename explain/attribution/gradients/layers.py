"""Integrated gradients at hook points: between activations (Layer IG) and through them (conductance)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from explain.attribution.gradients.batch import Batch, Columns, chosen, each_batch, jacobian_rows
from explain.attribution.gradients.forward_mode import forward_mode, tangent_of
from explain.attribution.gradients.quadrature import Request, integrate
from explain.attribution.gradients.settings import PathSettings, check_path
from explain.attribution.inputs import BASELINES, SIDES
from explain.attribution.memory import backward_row_bytes, graph_row_bytes, in_chunks, rows_within
from explain.attribution.registry import Method, Scores, Work
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.attention import PointFunction
from explain.model.hooks import hooked, select
from explain.options import choice

Points = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """`points` are hook points or globs; at most one stream per side makes the scores add up.

    Activations at encoder points and cross-attention's keys, values and patterns count for source tokens,
    those at decoder points for the prefix. Other options as for integrated gradients.
    """

    points: Points = ("encoder.embed", "decoder.embed")
    baseline: str = choice("pad", BASELINES)
    sides: str = choice("both", SIDES)
    steps: int = 8
    max_steps: int = 256
    rows: int = 32

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("points is empty; name at least one hook point")
        check_path(self.path)

    @property
    def path(self) -> PathSettings:
        """The same numbers as options of a path."""
        return PathSettings(
            self.baseline, self.sides, self.steps, self.max_steps, "nested", self.rows, batch_size=1
        )


def _points(model: Seq2Seq, settings: LayerSettings) -> list[str]:
    names = select(settings.points, model.hook_points())
    if "logits" in names:
        raise InputError("the hook point logits is no layer; name one before it")
    return names


def is_cut(names: Sequence[str]) -> bool:
    """Whether everything the model computes passes through these points: one stream on each side, no more."""
    streams = [name.split(".")[0] for name in names if name.endswith((".embed", ".residual"))]
    return len(streams) == len(names) and sorted(streams) == ["decoder", "encoder"]


def _is_source(name: str) -> bool:
    point = name.rpartition(".")[2]
    return name.startswith("encoder") or (".cross." in name and point in ("k", "v", "pattern", "scores"))


def _per_position(name: str, scores: Tensor) -> Tensor:
    """Scores [..., *activation] of one row -> [..., position], the token that the activation belongs to.

    A pattern or score belongs to the key that is read.
    """
    point = name.rpartition(".")[2]
    if point in ("pattern", "scores"):
        return scores.sum((-3, -2))  # [..., head, query, key]
    if point in ("q", "k", "v", "z"):
        return scores.sum((-3, -1))  # [..., head, position, head_dim]
    return scores.sum(-1)


def _run(
    work: Work,
    settings: LayerSettings,
    nodes: Callable[[Batch, list[str]], Callable[[Tensor, Columns], Tensor]],
) -> list[Scores]:
    """Integrate what `nodes` computes at points of the path, generation by generation."""
    names = _points(work.model, settings)
    return each_batch(
        work,
        settings.baseline,
        1,
        lambda batch: [_one(work, settings, batch, names, nodes(batch, names))],
        sides=settings.sides,
    )


def _one(
    work: Work,
    settings: LayerSettings,
    batch: Batch,
    names: list[str],
    node_scores: Callable[[Tensor, Columns], Tensor],
) -> Scores:
    source = batch.source.shape[1]
    base, value = (side[0].double() for side in batch.ends())
    size = rows_within(
        work.budget // 2, graph_row_bytes(work.model, source, batch.target.shape[1]), settings.rows
    )

    def at(requests: Sequence[Sequence[Request]]) -> list[list[Tensor]]:
        points = torch.tensor([point for point, _ in requests[0]])
        columns = [rows for _, rows in requests[0]]
        parts = in_chunks(len(points), size, lambda part: node_scores(points[part], [columns[part]]))
        scores = torch.cat([_filled(part, max(map(len, columns))) for _, part in parts], dim=1)
        return [[scores[: len(rows), k] for k, rows in enumerate(columns)]]

    complete = is_cut(names)
    (found,) = integrate(
        at,
        [value - base],
        rule="nested",
        steps=settings.steps,
        max_steps=settings.max_steps,
        tolerance=work.tolerance,
        check=work.check,
        adapt=complete,
    )
    return Scores(
        *batch.split(found.scores, 0),
        baseline_value=base.float().cpu() if complete else None,
        completeness_error=found.error.float() if complete else None,
        used={"points": names, "steps_used": found.points.tolist()},
    )


def _filled(scores: Tensor, columns: int) -> Tensor:
    """Scores [columns, n, positions] of a chunk, as many columns as others have."""
    return torch.nn.functional.pad(scores, (0, 0, 0, 0, 0, columns - len(scores)))


def _joined(batch: Batch, names: Sequence[str], parts: Sequence[Tensor]) -> Tensor:
    """Scores [..., *activation] of every point -> [..., source + target], added up over points."""
    source, target = batch.source.shape[1], batch.target.shape[1]
    total = parts[0].new_zeros(*parts[0].shape[:2], source + target)
    for name, part in zip(names, parts, strict=True):
        scores = _per_position(name, part)
        begin = 0 if _is_source(name) else source
        total[..., begin : begin + scores.shape[-1]] += scores
    return total.float().cpu()


def _gradients(
    work: Work, batch: Batch, values: Tensor, inputs: Sequence[Tensor], columns: Columns
) -> list[Tensor]:
    """Gradients [columns, n, *activation] of the asked rows with respect to activations."""
    row = backward_row_bytes(work.model, batch.source.shape[1], batch.target.shape[1])
    asked = chosen(values, columns)
    size = rows_within(work.budget // 2, values.shape[1] * row, asked.shape[-1])
    chunks = jacobian_rows(asked, inputs, size, work.check)
    return [torch.cat(side) for side in zip(*chunks, strict=True)]


# ---- Layer IG --------------------------------------------------------------------------------------------


def _activations(batch: Batch, names: Sequence[str], source: Tensor, target: Tensor) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> PointFunction:
        def keep(tensor: Tensor) -> Tensor:
            kept[name] = tensor
            return tensor

        return keep

    model = batch.model
    with torch.no_grad(), hooked(model.hf, model.family, {name: keeper(name) for name in names}):
        batch.values(source, target)
    return kept


def _layer_integrated_gradients(work: Work, settings: LayerSettings) -> list[Scores]:
    def nodes(batch: Batch, names: list[str]) -> Callable[[Tensor, Columns], Tensor]:
        low = _activations(batch, names, batch.source_baseline, batch.target_baseline)
        high = _activations(batch, names, batch.source, batch.target)
        # A masked score is the dtype's minimum at both ends: its difference is 0 and stays so.
        change = {name: high[name] - low[name] for name in names}

        def at(points: Tensor, columns: Columns) -> Tensor:
            alpha = points.to(batch.source)
            path = {
                name: (
                    low[name] + alpha.view(-1, *[1] * (low[name].dim() - 1)) * change[name]
                ).requires_grad_()
                for name in names
            }
            rows = len(points)
            functions: dict[str, PointFunction] = {name: _replaced_by(path[name]) for name in names}
            with torch.enable_grad(), hooked(work.model.hf, work.model.family, functions):
                values = batch.values(batch.source.expand(rows, -1, -1), batch.target.expand(rows, -1, -1))
            grads = _gradients(work, batch, values, [path[name] for name in names], columns)
            parts = [grad * change[name] for name, grad in zip(names, grads, strict=True)]
            return _joined(batch, names, parts)

        return at

    return _run(work, settings, nodes)


def _replaced_by(value: Tensor) -> PointFunction:
    return lambda tensor: value


# ---- conductance -----------------------------------------------------------------------------------------


def _layer_conductance(work: Work, settings: LayerSettings) -> list[Scores]:
    def nodes(batch: Batch, names: list[str]) -> Callable[[Tensor, Columns], Tensor]:
        cut = is_cut(names)
        change = batch.source - batch.source_baseline, batch.target - batch.target_baseline

        def at(points: Tensor, columns: Columns) -> Tensor:
            alpha = points.to(batch.source)[:, None, None]
            source = batch.source_baseline + alpha * change[0]  # [n, source, width]
            target = batch.target_baseline + alpha * change[1]
            speeds = _speeds(batch, names, source, target, change)
            kept: dict[str, Tensor] = {}

            def keeper(name: str) -> PointFunction:
                def keep(tensor: Tensor) -> Tensor:
                    # In a cut each point is a variable of its own, or what the encoder does through the
                    # decoder's point would be counted twice.
                    kept[name] = tensor.detach().requires_grad_() if cut else tensor.view_as(tensor)
                    return kept[name]

                return keep

            functions = {name: keeper(name) for name in names}
            with torch.enable_grad(), hooked(work.model.hf, work.model.family, functions):
                values = batch.values(source.requires_grad_(), target.requires_grad_())
            grads = _gradients(work, batch, values, [kept[name] for name in names], columns)
            return _joined(
                batch, names, [grad * speeds[name] for name, grad in zip(names, grads, strict=True)]
            )

        return at

    return _run(work, settings, nodes)


def _speeds(
    batch: Batch, names: Sequence[str], source: Tensor, target: Tensor, change: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """How fast the activations at hook points change along the path: forward mode, one pass."""
    speeds: dict[str, Tensor] = {}

    def reader(name: str) -> PointFunction:
        def read(tensor: Tensor) -> Tensor:
            speeds[name] = tangent_of(tensor).clone()
            return tensor

        return read

    model = batch.model
    functions = {name: reader(name) for name in names}
    with forward_mode(model), hooked(model.hf, model.family, functions):
        batch.values(
            forward_ad.make_dual(source, change[0].expand_as(source)),
            forward_ad.make_dual(target, change[1].expand_as(target)),
        )
    return speeds


METHODS = (
    Method(
        name="layer_integrated_gradients",
        label="Layer integrated gradients",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=True,
        paper="Sundararajan et al. 2017, arXiv:1703.01365",
        reads="A position's share of the difference to the baseline, on a straight line between the "
        "activations of both at the chosen hook points; below 0: against.",
        settings=LayerSettings,
        run=_layer_integrated_gradients,
    ),
    Method(
        name="layer_conductance",
        label="Layer conductance",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=True,
        paper="Dhamdhere et al. 2019, arXiv:1805.12233",
        reads="The part of the difference to the baseline that flows through a position at the chosen hook "
        "points while the input is filled in; below 0: against.",
        settings=LayerSettings,
        run=_layer_conductance,
    ),
)
