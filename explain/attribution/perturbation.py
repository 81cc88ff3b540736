"""Perturbation methods: what changes when a token is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import Occlusion
from torch import Tensor

from explain.attribution.inputs import BASELINES, Inputs, inputs_of, split_prefix
from explain.attribution.objectives import Question
from explain.attribution.registry import Method, Scores, Work
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.forward import logits_from_embeddings
from explain.results import Generation

HIDING = ("attention", *BASELINES)


def presence_forward(
    model: Seq2Seq, inputs: Inputs, question: Question, by: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """The objective as a function of which tokens are there.

    The returned function maps presence of source tokens [n, source] and of decoder inputs [n, target]
    (1 there, 0 hidden) to the objective [n, target]. Hidden tokens are masked out of attention
    (`by="attention"`) or have their embedding replaced by a baseline. A decoder input is also its own
    query, which no attention mask can hide from itself, so `attention` replaces its embedding as well.
    """
    with torch.no_grad():
        encoder = model.hf.get_encoder()
        whole = encoder(inputs_embeds=inputs.source, attention_mask=inputs.source_mask).last_hidden_state

    def forward(source: Tensor, target: Tensor) -> Tensor:
        rows = len(source)
        decoder = torch.where(target[:, :, None] > 0, inputs.target, inputs.target_baseline)
        source_mask = inputs.source_mask.expand(rows, -1)
        target_mask = None
        embeddings, states = None, None
        if bool((source > 0).all()):
            states = whole.expand(rows, -1, -1)  # only the prefix changes: the encoder is shared
        elif by == "attention":
            embeddings = inputs.source.expand(rows, -1, -1)
        else:
            embeddings = torch.where(source[:, :, None] > 0, inputs.source, inputs.source_baseline)
        if by == "attention":
            source_mask = source_mask * (source > 0)
            target_mask = (target > 0).long()
        with torch.no_grad():
            logits = logits_from_embeddings(
                model.hf,
                model.family,
                embeddings,
                decoder,
                source_mask,
                states=states,
                target_mask=target_mask,
            )
        return question(logits)

    return forward


@dataclass(frozen=True, slots=True)
class OcclusionSettings:
    """`by` says how a token is hidden: from attention, or replaced by a baseline's embedding.

    `window` tokens are hidden together; `rows` hidden versions go through the model at once.
    """

    by: str = "attention"
    window: int = 1
    rows: int = 64

    def __post_init__(self) -> None:
        if self.by not in HIDING:
            raise ValueError(f"by={self.by!r} is not one of {', '.join(HIDING)}")
        if self.window < 1 or self.rows < 1:
            raise ValueError("window and rows must be at least 1")


def _occlusion(work: Work, settings: OcclusionSettings) -> list[Scores]:
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        work.check()
        results.append(_occlude(work, settings, generation, question))
        work.done(1)
    return results


def _occlude(work: Work, settings: OcclusionSettings, generation: Generation, question: Question) -> Scores:
    baseline = "pad" if settings.by == "attention" else settings.by
    inputs = inputs_of(work.model, generation, baseline, keep_special=False)
    forward = presence_forward(work.model, inputs, question, settings.by)
    there = torch.ones(inputs.source.shape[:2], device=work.model.device)
    decoder = torch.ones(inputs.target.shape[:2], device=work.model.device)
    if settings.window > 1 and settings.window >= there.shape[1]:
        raise InputError(f"window={settings.window} hides the whole source of {there.shape[1]} tokens")
    width = settings.window, min(settings.window, decoder.shape[1])
    source, target = Occlusion(_checked(forward, work)).attribute(
        (there, decoder),
        sliding_window_shapes=((width[0],), (width[1],)),
        baselines=(0, 0),
        perturbations_per_eval=settings.rows,
    )
    prefix, _ = split_prefix(target.cpu())
    # The decoder-start token cannot be hidden: the first position would have nothing to attend to.
    return Scores(source.cpu(), prefix, torch.zeros(len(prefix)), used={"prefix_window": width[1]})


def _checked(forward: Callable[[Tensor, Tensor], Tensor], work: Work) -> Callable[[Tensor, Tensor], Tensor]:
    def call(source: Tensor, target: Tensor) -> Tensor:
        work.check()
        # Column 0 is the decoder start; hiding it is skipped by leaving it there.
        kept = torch.cat([torch.ones_like(target[:, :1]), target[:, 1:]], dim=1)
        return forward(source, kept)

    return call


METHODS = (
    Method(
        name="occlusion",
        label="Occlusion",
        kind="perturbation",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Zeiler & Fergus 2014, arXiv:1311.2901",
        reads="How much the objective falls when the token is hidden; below 0 it rises, so the token spoke "
        "against; 0 means the token alone was not needed.",
        settings=OcclusionSettings,
        run=_occlusion,
    ),
)
