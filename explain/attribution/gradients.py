"""Gradient methods: Captum's classes over one forward pass that serves every output position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import Tensor

from explain.attribution.inputs import Inputs, inputs_of, split_prefix
from explain.attribution.objectives import Question
from explain.attribution.registry import Method, Scores, Work
from explain.model import Seq2Seq
from explain.model.forward import logits_from_embeddings

Forward = Callable[[Tensor, Tensor], Tensor]

# Below this the objective does not tell input and baseline apart, and a relative error says nothing.
_SAME = 1e-6


def forward_of(model: Seq2Seq, inputs: Inputs, question: Question, positions: Sequence[int]) -> Forward:
    """(source [n, source, width], target [n, target, width]) -> objective at `positions` [n, positions]."""
    chosen = list(positions)

    def forward(source: Tensor, target: Tensor) -> Tensor:
        mask = inputs.source_mask.expand(len(source), -1)
        logits = logits_from_embeddings(model.hf, model.family, source, target, mask)
        return question(logits)[:, chosen]

    return forward


def gradient_rows(forward_fn: Forward, inputs: tuple[Tensor, ...], *_: Any, **__: Any) -> tuple[Tensor, ...]:
    """Captum's `gradient_func` with a row per output position: inputs [n, …] -> [n · positions, …].

    By causality one forward pass holds every position's objective, so only the backward passes are repeated.
    Rows are ordered input first, position second, as Captum's sums over steps expect.
    """
    with torch.enable_grad():
        output = forward_fn(*inputs)  # [n, positions]
        count = output.shape[1]
        rows = [
            # An intervention may have cut an input off: its gradient is then 0.
            torch.autograd.grad(
                output[:, p].sum(), inputs, retain_graph=p + 1 < count, materialize_grads=True
            )
            for p in range(count)
        ]
    return tuple(torch.stack(grads, dim=1).flatten(0, 1) for grads in zip(*rows, strict=True))


def _leaves(inputs: Inputs) -> tuple[Tensor, Tensor]:
    return inputs.source.clone().requires_grad_(), inputs.target.clone().requires_grad_()


def _each(work: Work, one: Callable[[Any, Question], Scores]) -> list[Scores]:
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        work.check()
        results.append(one(generation, question))
        work.done(1)
    return results


@dataclass(frozen=True, slots=True)
class SaliencySettings:
    """`reduction` over the embedding's width: `l2` (length of the gradient) or `sum` (of absolute values)."""

    reduction: str = "l2"

    def __post_init__(self) -> None:
        if self.reduction not in ("l2", "sum"):
            raise ValueError(f"reduction {self.reduction!r} is neither 'l2' nor 'sum'")


def _saliency(work: Work, settings: SaliencySettings) -> list[Scores]:
    def one(generation: Any, question: Question) -> Scores:
        inputs = inputs_of(work.model, generation, "zero")
        method = Saliency(forward_of(work.model, inputs, question, range(len(question.targets))))
        method.gradient_func = gradient_rows  # pyright: ignore[reportAttributeAccessIssue]
        source, target = method.attribute(_leaves(inputs), abs=True)
        if settings.reduction == "l2":
            source, target = source.norm(dim=-1), target.norm(dim=-1)
        else:
            source, target = source.sum(-1), target.sum(-1)
        return _scores(source, target)

    return _each(work, one)


def _scores(source: Tensor, target: Tensor, **evidence: Any) -> Scores:
    prefix, start = split_prefix(target.detach().cpu())
    return Scores(source.detach().cpu(), prefix, start, **evidence)


@dataclass(frozen=True, slots=True)
class NoSettings:
    """The method has no options."""


def _input_x_gradient(work: Work, settings: NoSettings) -> list[Scores]:
    def one(generation: Any, question: Question) -> Scores:
        inputs = inputs_of(work.model, generation, "zero")
        method = InputXGradient(forward_of(work.model, inputs, question, range(len(question.targets))))
        method.gradient_func = gradient_rows  # pyright: ignore[reportAttributeAccessIssue]
        source, target = method.attribute(_leaves(inputs))
        return _scores(source.sum(-1), target.sum(-1))

    return _each(work, one)


@dataclass(frozen=True, slots=True)
class IntegratedGradientsSettings:
    """`baseline` stands for "no token"; steps double from `steps` to `max_steps` until the tolerance is met.

    `rows` is how many points of the path go through the model at once: it shapes memory, not results.
    """

    baseline: str = "pad"
    steps: int = 16
    max_steps: int = 1024
    rows: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= self.max_steps:
            raise ValueError(f"steps={self.steps} must be at least 2 and at most max_steps={self.max_steps}")
        if self.rows < 1:
            raise ValueError(f"rows={self.rows} must be at least 1")


def _integrated_gradients(work: Work, settings: IntegratedGradientsSettings) -> list[Scores]:
    return _each(work, lambda generation, question: _integrate(work, settings, generation, question))


def _integrate(
    work: Work, settings: IntegratedGradientsSettings, generation: Any, question: Question
) -> Scores:
    """Integrated gradients of one generation, with more steps for the positions that need them.

    The midpoint rule is used because the integrand is flat at both ends, where equal spacing converges
    faster than Gauss–Legendre on trained models.
    """
    inputs = inputs_of(work.model, generation, settings.baseline)
    everywhere = forward_of(work.model, inputs, question, range(len(question.targets)))
    with torch.no_grad():
        value = everywhere(inputs.source, inputs.target)[0].double().cpu()
        base = everywhere(inputs.source_baseline, inputs.target_baseline)[0].double().cpu()
    difference = value - base
    count = len(value)
    source = torch.zeros(count, inputs.source.shape[1])
    target = torch.zeros(count, inputs.target.shape[1])
    error = torch.full((count,), torch.nan, dtype=torch.float64)
    used = torch.zeros(count, dtype=torch.long)
    pending, steps = list(range(count)), settings.steps
    while pending:
        work.check()
        here, there = _captum_steps(work.model, inputs, question, pending, steps, settings.rows)
        source[pending], target[pending], used[pending] = here, there, steps
        total = (here.double().sum(1) + there.double().sum(1)) - difference[pending]
        relative = total.abs() / difference[pending].abs()
        defined = difference[pending].abs() > _SAME
        error[pending] = torch.where(defined, relative, torch.nan)
        pending = [p for p in pending if error[p] > work.tolerance]
        if steps >= settings.max_steps:
            break
        steps = min(steps * 2, settings.max_steps)
    return _scores(
        source,
        target,
        baseline_value=base.float(),
        completeness_error=error.float(),
        used={"steps_used": used.tolist(), "rule": "midpoint"},
    )


def _captum_steps(
    model: Seq2Seq, inputs: Inputs, question: Question, positions: list[int], steps: int, rows: int
) -> tuple[Tensor, Tensor]:
    """Captum's integrated gradients at `positions`: scores [positions, source] and [positions, target]."""
    method = IntegratedGradients(forward_of(model, inputs, question, positions))
    method.gradient_func = gradient_rows  # pyright: ignore[reportAttributeAccessIssue]
    source, target = method.attribute(
        (inputs.source, inputs.target),
        baselines=(inputs.source_baseline, inputs.target_baseline),
        n_steps=steps,
        method="riemann_middle",
        internal_batch_size=rows if steps > rows else None,
    )
    return source.sum(-1).float().cpu(), target.sum(-1).float().cpu()


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
        settings=NoSettings,
        run=_input_x_gradient,
    ),
    Method(
        name="integrated_gradients",
        label="Integrated gradients",
        kind="gradient",
        signed=True,
        objective=True,
        contrast=True,
        completeness=True,
        paper="Sundararajan et al. 2017, arXiv:1703.01365",
        reads="A token's share of the difference between the input and a baseline without text; the scores "
        "of a row add up to that difference, and below 0 a token speaks against.",
        settings=IntegratedGradientsSettings,
        run=_integrated_gradients,
    ),
)
