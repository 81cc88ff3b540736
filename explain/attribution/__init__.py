"""The attribution room: every method through one registry, one function, one kind of result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

import torch

from explain.attribution import control, gradients, internals, perturbation
from explain.attribution.objectives import OBJECTIVES, Foil, Question, foil_text, question
from explain.attribution.registry import Cancelled, Method, Registry, Scores, Work
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
for _method in (*gradients.METHODS, *perturbation.METHODS, *internals.METHODS, *control.METHODS):
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
    target: str = "log_prob",
    contrast: Foil | Sequence[Foil | None] | None = None,
    tolerance: float = 0.01,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> Attribution | list[Attribution]:
    """Score what every source token and every earlier target token did to each target token.

    Args:
        model: an opened model.
        generations: one generation, or a list (list in, list out).
        method: a name in `methods()`.
        target: the objective: `log_prob`, `logit`, `probability` or `entropy`.
        contrast: a foil; explains objective(token) - objective(foil). One token or word stands against every
            output token, a longer text is aligned by position. A list gives each generation its own.
        tolerance: relative completeness error that methods with completeness must reach per token.
        progress: called with (done, all) after every generation.
        should_stop: asked between batches; True ends the work with `Cancelled`.
        **options: the method's own settings.

    Raises:
        UnknownNameError: no such method, objective or option.
        InputError: a contrast or option that the method cannot take.
        ParityError: the model's logits depend on how they are asked for.
        Cancelled: `should_stop` said so.
    """
    row = REGISTRY.get(method)
    settings = row.options(options)
    if not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise InputError(f"tolerance is {tolerance!r}; it must be above 0 (0.01 is one per cent)")
    several = as_list(generations)
    foils = _foils(contrast, len(several))
    if any(foil is not None for foil in foils) and not row.contrast:
        raise InputError(f"{method} explains no objective, so it takes no contrast")
    if target != "log_prob" and target in OBJECTIVES and not row.objective:
        raise InputError(f"{method} explains no objective, so {target} cannot be asked of it")
    _require_same_vocabulary(model, several)
    questions = [question(model, item, target, foil) for item, foil in zip(several, foils, strict=True)]
    finished = 0

    def done(count: int) -> None:
        nonlocal finished
        finished += count
        if progress is not None:
            progress(finished, len(several))

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    check()
    model.require_parity()
    with model.lock, analysed(model.hf):
        scores = row.run(Work(model, several, questions, tolerance, check, done), settings)
        passes = [
            _pass(model, item, asked)
            if found.value is None or found.log_probs is None
            # Methods that hold the logits anyway save this forward pass.
            else (found.value.float().cpu(), found.log_probs.float().cpu())
            for item, asked, found in zip(several, questions, scores, strict=True)
        ]
    extra = {"intervened": list(model.intervened)} if model.intervened else {}
    results = [
        _result(model, row, {**asdict(settings), "tolerance": tolerance, **extra}, *parts)
        for parts in zip(several, questions, scores, passes, foils, strict=True)
    ]
    return results[0] if isinstance(generations, Generation) else results


def _foils(contrast: Any, count: int) -> list[Foil | None]:
    """One foil per generation."""
    if contrast is None or isinstance(contrast, (str, int, Token, Alternative)):
        return [contrast] * count
    foils = list(contrast) if isinstance(contrast, (list, tuple)) else [contrast] * count
    if len(foils) != count:
        raise InputError(f"{len(foils)} contrasts for {count} generations; give one, or one for each")
    return foils


def _require_same_vocabulary(model: Seq2Seq, generations: Sequence[Generation]) -> None:
    size = vocabulary_size(model.hf)
    for generation in generations:
        if max(int(generation.source_ids.max()), int(generation.target_ids.max())) >= size:
            raise InputError("this output was written with another vocabulary than the model's")


def _pass(model: Seq2Seq, generation: Generation, asked: Question) -> tuple[torch.Tensor, torch.Tensor]:
    """The objective and the log-probability of each token, float [target], as this model has them now.

    Not those of the generation: it may come from another model, or from before an intervention.
    """
    source = generation.source_ids[None].to(model.device)
    with torch.no_grad():
        logits = logits_from_ids(
            model.hf, source, torch.ones_like(source), generation.decoder_input_ids[None].to(model.device)
        )
        log_probs = OBJECTIVES["log_prob"].function(logits, asked.targets)[0]
        return asked(logits)[0].float().cpu(), log_probs.cpu()


def _result(
    model: Seq2Seq,
    row: Method,
    config: dict[str, Any],
    generation: Generation,
    asked: Question,
    scores: Scores,
    found: tuple[torch.Tensor, torch.Tensor],
    foil: Foil | None,
) -> Attribution:
    value, log_probs = found
    undefined = torch.full((len(generation.target_tokens),), torch.nan)
    config |= scores.used or {}
    if foil is not None:
        config["contrasted"] = asked.contrasted.tolist()
    return Attribution(
        method=row.name,
        objective=asked.objective if row.objective else "",
        contrast=None if foil is None else foil_text(foil),
        units=asked.units if row.objective else "share",
        signed=row.signed,
        source_text=generation.source_text,
        target_text=generation.target_text,
        source_tokens=generation.source_tokens,
        target_tokens=generation.target_tokens,
        source=scores.source.float(),
        prefix=scores.prefix.float(),
        start=scores.start.float(),
        within=torch.zeros(len(generation.target_tokens)),
        value=value if row.objective else undefined,
        baseline_value=undefined if scores.baseline_value is None else scores.baseline_value,
        completeness_error=undefined if scores.completeness_error is None else scores.completeness_error,
        log_probs=log_probs,
        config=dict(config),
        model_digest=model.digest,
    )


__all__ = ["OBJECTIVES", "REGISTRY", "Cancelled", "Method", "Registry", "attribute", "methods"]
