"""Methods that read the gradient at, or near, the input: saliency, input × gradient and their noisy means."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import DeepLift, GradientShap, InputXGradient, NoiseTunnel, Saliency
from torch import Tensor, nn

from explain.attribution.gradients.batch import Batch, each_batch
from explain.attribution.gradients.captum_rows import Explainer, leaves, over_columns, seeded
from explain.attribution.gradients.quadrature import relative_error
from explain.attribution.gradients.settings import check_sides
from explain.attribution.inputs import BASELINES, SIDES
from explain.attribution.registry import Method, Scores, Work
from explain.options import choice


def _l2(gradient: Tensor) -> Tensor:
    return gradient.norm(dim=-1)


def _absolute_sum(gradient: Tensor) -> Tensor:
    return gradient.abs().sum(-1)


def _sum(scores: Tensor) -> Tensor:
    return scores.sum(-1)


REDUCTIONS = {"l2": _l2, "sum": _absolute_sum}


def _run(
    work: Work,
    explainer: Callable[[Batch], Explainer],
    reduce: Callable[[Tensor], Tensor],
    *,
    baseline: str = "zero",
    sides: str = "both",
    batch_size: int = 1,
    versions: int = 1,
    complete: bool = False,
    at_input: bool = False,
) -> list[Scores]:
    """Run one Captum class over all generations.

    `complete` adds the measured completeness error; `at_input` says that the class looks at the input itself,
    so that the objective there is known.
    """

    def one(batch: Batch) -> list[Scores]:
        found = over_columns(work, batch, explainer(batch), reduce, versions)
        evidence: list[dict[str, Any]] = _evidence(batch, found) if complete else [{}] * len(found)
        made = []
        for b, ((scores, value), extra) in enumerate(zip(found, evidence, strict=True)):
            result = Scores(*batch.split(scores, b), **extra)
            made.append(result.with_values(batch.questions[b], value) if at_input else result)
        return made

    return each_batch(work, baseline, batch_size, one, sides=sides, crop=at_input)


def _evidence(batch: Batch, found: list[tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """How far the scores are from adding up to the difference to the baseline, measured."""
    evidence: list[dict[str, Any]] = []
    low, high = (side.double().cpu() for side in batch.ends())
    for b, (scores, _) in enumerate(found):
        base = batch.own_rows(low[b], b)
        difference = batch.own_rows(high[b], b) - base
        error = relative_error(scores.double().sum(1) - difference, difference)
        evidence.append({"baseline_value": base.float(), "completeness_error": error.float()})
    return evidence


@dataclass(frozen=True, slots=True)
class SaliencySettings:
    """`reduction` over the embedding's width: `l2` (length of the gradient) or `sum` (of absolute values).

    `batch_size` is how many generations share a pass; it does not change the result.
    """

    reduction: str = choice("l2", REDUCTIONS)
    batch_size: int = 8

    def __post_init__(self) -> None:
        _check_reduction(self.reduction)
        _check_positive(batch_size=self.batch_size)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is neither 'l2' nor 'sum'")


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1")


def _check_baseline(baseline: str) -> None:
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r} is not one of {', '.join(BASELINES)}")


def _saliency(work: Work, settings: SaliencySettings) -> list[Scores]:
    def explainer(batch: Batch) -> Explainer:
        def explain(forward: Any, gradients: Any) -> Any:
            method = Saliency(forward)
            method.gradient_func = gradients
            return method.attribute(leaves(batch.source, batch.target), abs=False)

        return explain

    reduce = REDUCTIONS[settings.reduction]
    return _run(work, explainer, reduce, batch_size=settings.batch_size, at_input=True)


@dataclass(frozen=True, slots=True)
class InputXGradientSettings:
    """`batch_size` is how many generations share a pass; it does not change the result."""

    batch_size: int = 8

    def __post_init__(self) -> None:
        _check_positive(batch_size=self.batch_size)


def _input_x_gradient(work: Work, settings: InputXGradientSettings) -> list[Scores]:
    def explainer(batch: Batch) -> Explainer:
        def explain(forward: Any, gradients: Any) -> Any:
            method = InputXGradient(forward)
            method.gradient_func = gradients
            return method.attribute(leaves(batch.source, batch.target))

        return explain

    return _run(work, explainer, _sum, batch_size=settings.batch_size, at_input=True)


@dataclass(frozen=True, slots=True)
class SmoothGradSettings:
    """The mean gradient over `samples` inputs with Gaussian noise.

    `noise` is its standard deviation as a share of the embeddings' own; `reduction` as for saliency.
    """

    samples: int = 16
    noise: float = 0.15
    reduction: str = choice("l2", REDUCTIONS)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_reduction(self.reduction)
        _check_positive(samples=self.samples)
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise} must be above 0")


def _smooth_grad(work: Work, settings: SmoothGradSettings) -> list[Scores]:
    def explainer(batch: Batch) -> Explainer:
        deviations = tuple(
            settings.noise * float(side.float().std()) for side in (batch.source, batch.target)
        )

        def explain(forward: Any, gradients: Any) -> Any:
            method = Saliency(forward)
            method.gradient_func = gradients
            with seeded(settings.seed, [work.model.device]):
                return NoiseTunnel(method).attribute(
                    leaves(batch.source, batch.target),
                    nt_type="smoothgrad",
                    nt_samples=settings.samples,
                    stdevs=deviations,
                    abs=False,
                )

        return explain

    return _run(work, explainer, REDUCTIONS[settings.reduction], versions=settings.samples)


@dataclass(frozen=True, slots=True)
class GradientShapSettings:
    """`samples` points drawn between baseline and noisy input; `noise` as a share of the embeddings' own.

    `sides` says what lies between the two: `both`, or the `source` or the `prefix` while the other stays at
    the input, without noise.
    """

    baseline: str = choice("pad", BASELINES)
    sides: str = choice("both", SIDES)
    samples: int = 32
    noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _check_baseline(self.baseline)
        check_sides(self.sides)
        _check_positive(samples=self.samples)
        if self.noise < 0:
            raise ValueError(f"noise={self.noise} must be at least 0")


def _gradient_shap(work: Work, settings: GradientShapSettings) -> list[Scores]:
    def explainer(batch: Batch) -> Explainer:
        deviations = tuple(
            settings.noise * float(side.float().std()) if settings.sides in ("both", name) else 0.0
            for name, side in (("source", batch.source), ("prefix", batch.target))
        )

        def explain(forward: Any, gradients: Any) -> Any:
            method = GradientShap(forward)
            method.gradient_func = gradients
            with seeded(settings.seed, [work.model.device]):
                return method.attribute(
                    leaves(batch.source, batch.target),
                    baselines=(batch.source_baseline[:, None], batch.target_baseline[:, None]),
                    n_samples=settings.samples,
                    stdevs=deviations,
                )

        return explain

    return _run(
        work,
        explainer,
        _sum,
        baseline=settings.baseline,
        sides=settings.sides,
        versions=settings.samples,
        complete=True,
    )


@dataclass(frozen=True, slots=True)
class DeepLiftSettings:
    """`baseline` stands for "no token"; `sides` is what is compared with it: `both`, `source` or `prefix`."""

    baseline: str = choice("pad", BASELINES)
    sides: str = choice("both", SIDES)

    def __post_init__(self) -> None:
        _check_baseline(self.baseline)
        check_sides(self.sides)


class _Explained(nn.Module):
    """Our forward function as the module that Captum's DeepLift asks for, the model's activations inside."""

    def __init__(self, hf: nn.Module, forward: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.hf = hf
        self.values = forward

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        # [1, n, columns] -> [n, columns]: DeepLift puts input and baseline side by side in the batch.
        return self.values(source, target)[0]


def _deeplift(work: Work, settings: DeepLiftSettings) -> list[Scores]:
    def one_by_one(forward_fn: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        # DeepLift rewrites gradients in hooks that serve one backward pass each: so a pass for every row.
        rows: list[tuple[Tensor, ...]] = []
        count = 1
        with torch.enable_grad():
            while len(rows) < count:
                work.check()
                values = forward_fn()  # [2, columns]: Captum has bound inputs and baselines already
                count = values.shape[1]
                rows.append(torch.autograd.grad(values[:, len(rows)].sum(), inputs, materialize_grads=True))
        return tuple(torch.cat(side, dim=1) for side in zip(*rows, strict=True))

    def explainer(batch: Batch) -> Explainer:
        def explain(forward: Any, gradients: Any) -> Any:
            method = DeepLift(_Explained(work.model.hf, forward), eps=1e-6)
            method.gradient_func = one_by_one
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
                return method.attribute(
                    leaves(batch.source, batch.target),
                    baselines=(batch.source_baseline[:, None], batch.target_baseline[:, None]),
                )

        return explain

    return _run(
        work,
        explainer,
        _sum,
        baseline=settings.baseline,
        sides=settings.sides,
        versions=2,
        complete=True,
    )


METHODS = (
    Method(
        name="saliency",
        label="Saliency",
        kind="gradient",
        signed=False,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Simonyan et al. 2014, arXiv:1312.6034",
        reads="How strongly the objective reacts to a small change of a token's embedding; 0: not at all.",
        settings=SaliencySettings,
        run=_saliency,
    ),
    Method(
        name="input_x_gradient",
        label="Input × gradient",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Shrikumar et al. 2016, arXiv:1605.01713",
        reads="A first-order guess of what a token adds to the objective; below 0 it speaks against it.",
        settings=InputXGradientSettings,
        run=_input_x_gradient,
    ),
    Method(
        name="smooth_grad",
        label="SmoothGrad",
        kind="gradient",
        signed=False,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Smilkov et al. 2017, arXiv:1706.03825",
        reads="How strongly the objective reacts, on average over noisy copies of the input; 0: not at all.",
        settings=SmoothGradSettings,
        run=_smooth_grad,
    ),
    Method(
        name="gradient_shap",
        label="GradientSHAP",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Lundberg & Lee 2017, arXiv:1705.07874",
        reads="A token's share of the difference to the baseline, from random points in between; below 0: "
        "against. Shares add up only on average; the completeness error says how far off they are.",
        settings=GradientShapSettings,
        run=_gradient_shap,
    ),
    Method(
        name="deeplift",
        label="DeepLift",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Shrikumar et al. 2017, arXiv:1704.02685",
        reads="A token's share of the difference to the baseline; below 0: against. Attention and norms are "
        "not covered, so shares need not add up; the completeness error says how far off they are.",
        settings=DeepLiftSettings,
        run=_deeplift,
    ),
)
