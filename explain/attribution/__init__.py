"""The attribution room: every method through one registry, one function, one kind of result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

import torch

from explain.attribution import consensus, control, gradients, internals, perturbation
from explain.attribution.layout import result
from explain.attribution.memory import DEFAULT
from explain.attribution.objectives import (
    OBJECTIVES,
    Contrast,
    Objective,
    Positions,
    Question,
    Span,
    question,
)
from explain.attribution.registry import Cancelled, Method, Registry, Scores, Work
from explain.attribution.shares import SourceShare, source_share
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.families import vocabulary_size
from explain.model.forward import logits_from_ids
from explain.model.hooks import analysed
from explain.model.seq2seq import as_list
from explain.results import Alternative, Attribution, Generation, Token

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]

REGISTRY = Registry({})
for _method in (
    *gradients.METHODS,
    *perturbation.METHODS,
    *consensus.METHODS,
    *internals.METHODS,
    *control.METHODS,
):
    REGISTRY.add(_method)


def methods() -> pd.DataFrame:
    """The registry as a table: one row per method, with what it needs, gives and means."""
    return REGISTRY.frame()


@overload
def attribute(model: Seq2Seq, generations: Generation, **options: Any) -> Attribution: ...
@overload
def attribute(model: Seq2Seq, generations: Sequence[Generation], **options: Any) -> list[Attribution]: ...
def attribute(
    model: Seq2Seq,
    generations: Generation | Sequence[Generation],
    *,
    method: str = "integrated_gradients",
    target: Objective = "log_prob",
    contrast: Contrast | Sequence[Contrast | None] | None = None,
    contrast_span: Span | None = None,
    contrast_input: str | Sequence[str] | None = None,
    positions: Positions = None,
    tolerance: float = 0.01,
    memory_budget: int = DEFAULT,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> Attribution | list[Attribution]:
    """Score what every source token and every earlier target token did to each target token.

    Args:
        model: an opened model.
        generations: one generation, or a list (list in, list out).
        method: a name in `methods()`.
        target: the objective: `log_prob`, `logit`, `probability`, `entropy`, `kl_divergence` (needs
            `contrast_input`), or a function of logits [..., target, vocabulary] and ids [target] that gives
            [..., target].
        contrast: a foil; explains objective(token) - objective(foil). One token or word stands against
            every output token, a longer text is aligned by position, and a mapping such as `{4: " la"}` gives
            single target tokens their own foils and explains only those. A list gives each generation its
            own.
        contrast_span: the target tokens [start, end) that the contrast stands against; nothing else is
            contrasted then.
        contrast_input: another source text; `kl_divergence` explains how far the model's distribution is from
            the one that it would have there.
        positions: what to explain: a target token's number, a (start, end) span as one, `"output"` (all of it
            as one), or a list of those; None is every token by itself. Fewer positions cost less.
        tolerance: relative completeness error that methods with completeness must reach per token.
        memory_budget: bytes that the method may use beside the model; it shapes chunks, not results.
        progress: called with (done, all) after every generation.
        should_stop: asked between batches; True ends the work with `Cancelled`.
        **options: the method's own settings.

    Raises:
        UnknownNameError: no such method, objective or option.
        InputError: a contrast, position or option that the method cannot take.
        ParityError: the model's logits depend on how they are asked for.
        TooLargeError: not even one row of an input fits into memory.
        Cancelled: `should_stop` said so.
    """
    row = REGISTRY.get(method)
    settings = row.options(options)
    if not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise InputError(f"tolerance is {tolerance!r}; it must be above 0 (0.01 is one per cent)")
    if not isinstance(memory_budget, int) or memory_budget < 1:
        raise InputError(f"memory_budget is {memory_budget!r}; give a number of bytes, such as {DEFAULT}")
    several = as_list(generations)
    foils = _each(contrast, len(several), "contrasts")
    inputs = _each(contrast_input, len(several), "contrast inputs")
    if any(foil is not None for foil in foils) and not row.contrast:
        raise InputError(f"{method} explains no objective, so it takes no contrast")
    if target != "log_prob" and (callable(target) or target in OBJECTIVES) and not row.objective:
        raise InputError(f"{method} explains no objective, so {_name(target)} cannot be asked of it")
    if not several:
        return []
    _require_same_vocabulary(model, several)
    questions = [
        question(
            model,
            item,
            target,
            foil,
            contrast_span=contrast_span if foil is not None or not any(foils) else None,
            contrast_input=other,
            positions=positions,
        )
        for item, foil, other in zip(several, foils, inputs, strict=True)
    ]
    work = Work.watched(
        model,
        several,
        questions,
        tolerance=tolerance,
        budget=memory_budget,
        progress=progress,
        should_stop=should_stop,
    )
    work.check()
    model.require_parity()
    config: dict[str, Any] = {**asdict(settings), "tolerance": tolerance}
    if contrast_span is not None:
        config["contrast_span"] = list(contrast_span)
    if model.intervened:
        config["intervened"] = list(model.intervened)
    with model.lock, analysed(model.hf):
        scores = row.run(work, settings)
        passes = [_pass(model, *parts) for parts in zip(several, questions, scores, strict=True)]
    digest = model.digest
    results = [
        result(
            row,
            item,
            asked,
            found,
            foil=foil,
            value=value,
            log_probs=log_probs,
            config=config if other is None else {**config, "contrast_input": other},
            model_digest=digest,
        )
        for item, asked, found, (value, log_probs), foil, other in zip(
            several, questions, scores, passes, foils, inputs, strict=True
        )
    ]
    return results[0] if isinstance(generations, Generation) else results


def _name(target: Objective) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", "custom")


def _each(given: Any, count: int, name: str) -> list[Any]:
    """One of what was given per generation."""
    if given is None or isinstance(given, (str, int, Token, Alternative, Mapping)):
        return [given] * count
    items = list(given) if isinstance(given, (list, tuple)) else [given] * count
    if len(items) != count:
        raise InputError(f"{len(items)} {name} for {count} generations; give one, or one for each")
    return items


def _require_same_vocabulary(model: Seq2Seq, generations: Sequence[Generation]) -> None:
    size = vocabulary_size(model.hf)
    for generation in generations:
        if max(int(generation.source_ids.max()), int(generation.target_ids.max())) >= size:
            raise InputError("this output was written with another vocabulary than the model's")


def _pass(
    model: Seq2Seq, generation: Generation, asked: Question, scores: Scores
) -> tuple[torch.Tensor, torch.Tensor]:
    """The objective [rows] and the log-probability of each token [target], as this model has them now.

    Not those of the generation: it may come from another model, or from before an intervention. Methods that
    hold the logits anyway save this forward pass.
    """
    if scores.value is not None and scores.log_probs is not None:
        return scores.value.float().cpu(), scores.log_probs.float().cpu()
    source = generation.source_ids[None].to(model.device)
    with torch.no_grad():
        logits = logits_from_ids(
            model.hf, source, torch.ones_like(source), generation.decoder_input_ids[None].to(model.device)
        )
        log_probs = OBJECTIVES["log_prob"].function(logits, asked.targets)[0]
        return asked(logits)[0].float().cpu(), log_probs.cpu()


__all__ = [
    "OBJECTIVES",
    "REGISTRY",
    "Cancelled",
    "Method",
    "Registry",
    "SourceShare",
    "attribute",
    "methods",
    "source_share",
]
