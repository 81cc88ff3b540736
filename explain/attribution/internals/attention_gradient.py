"""Attention × gradient: relevance maps of encoder, decoder and cross-attention (Chefer et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from explain.attribution.inputs import split_prefix
from explain.attribution.memory import in_chunks, rows_within
from explain.attribution.objectives import OBJECTIVES, Question
from explain.attribution.registry import Method, Scores, Work
from explain.model import Seq2Seq
from explain.model.attention import PointFunction
from explain.model.families import layers
from explain.model.forward import logits_from_ids
from explain.model.hooks import hooked
from explain.results import Generation


@dataclass(frozen=True, slots=True)
class RelevancySettings:
    """`rows` is how many backward passes run at once; None fits them into memory."""

    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows={self.rows} must be at least 1")


@dataclass(frozen=True, eq=False)
class Graph:
    """One forward pass with its autograd graph.

    Attributes:
        values: [row], the numbers to explain.
        logits: [target, vocabulary], detached.
        patterns: attention of encoder, decoder and cross blocks, each a list of [1, head, query, key].
        last: [1, target, width], output of the last decoder layer.
    """

    values: Tensor
    logits: Tensor
    patterns: tuple[list[Tensor], list[Tensor], list[Tensor]]
    last: Tensor


def _attention_x_gradient(work: Work, settings: RelevancySettings) -> list[Scores]:
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        work.check()
        graph = _graph(work.model, generation, question)
        count = len(graph.values)
        rows = settings.rows or rows_within(work.budget // 4, _row_bytes(graph), count)
        source, decoder = [], []
        for _, (of_source, of_decoder) in in_chunks(count, rows, partial(_relevancy_of, work, graph)):
            source.append(of_source)
            decoder.append(of_decoder)
        log_probs = OBJECTIVES["log_prob"].function(graph.logits, question.targets)
        prefix, start = split_prefix(torch.cat(decoder).cpu(), question.spans)
        results.append(
            Scores(
                torch.cat(source).cpu(),
                prefix,
                start,
                value=graph.values.detach().cpu(),
                log_probs=log_probs.cpu(),
            )
        )
        work.done(1)
    return results


def _graph(model: Seq2Seq, generation: Generation, question: Question) -> Graph:
    """A forward pass whose graph begins at the first attention patterns: nothing before them is needed."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> PointFunction:
        def call(tensor: Tensor) -> Tensor:
            kept[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            return kept[name]

        return call

    encoder = len(layers(model.hf, model.family.encoder))
    depth = len(layers(model.hf, model.family.decoder))
    names = (
        [f"encoder.{i}.self.pattern" for i in range(encoder)],
        [f"decoder.{i}.self.pattern" for i in range(depth)],
        [f"decoder.{i}.cross.pattern" for i in range(depth)],
    )
    last = f"decoder.{depth - 1}.residual"
    points = [name for group in names for name in group] + [last]
    source = generation.source_ids[None].to(model.device)
    target = generation.decoder_input_ids[None].to(model.device)
    with torch.enable_grad(), hooked(model.hf, model.family, {name: keep(name) for name in points}):
        logits = logits_from_ids(model.hf, source, torch.ones_like(source), target)
        values = question(logits)[0]  # [row]
    patterns = tuple([kept[name] for name in group] for group in names)
    return Graph(values, logits[0].detach(), patterns, kept[last])  # pyright: ignore[reportArgumentType]


def _row_bytes(graph: Graph) -> int:
    """What a backward pass needs: gradients of all patterns and their products, a softmax over all words."""
    elements = sum(pattern.numel() for group in graph.patterns for pattern in group)
    return 4 * (2 * elements + 3 * graph.logits.numel())


def _relevancy_of(work: Work, graph: Graph, rows: slice) -> tuple[Tensor, Tensor]:
    work.check()
    (encoder, decoder, cross), readout = _weighted(graph, rows)
    return relevancy(encoder, decoder, cross, readout)


def _weighted(graph: Graph, rows: slice) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Attention weighted by gradients, [row, layer, query, key] of each kind, and the readout [row, target].

    The readout is 1 at positions that a row's number is computed from: where its gradient at the decoder's
    output is not 0, since what comes after that output looks at one position at a time.
    """
    chosen = torch.eye(len(graph.values), device=graph.values.device, dtype=graph.values.dtype)[rows]
    count = len(chosen)
    inputs = [pattern for group in graph.patterns for pattern in group]
    gradients = torch.autograd.grad(
        graph.values,
        [*inputs, graph.last],
        grad_outputs=chosen,
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,  # an intervention may have cut a block off: its gradient is then 0
    )
    weighted = []
    taken = iter(gradients)
    for group in graph.patterns:
        means = []
        for pattern in group:
            gradient = next(taken)  # [row, 1, head, query, key]
            if gradient is None:
                means.append(pattern.new_zeros(count, *pattern.shape[2:]))
            else:
                means.append((gradient * pattern.detach()).clamp_min(0).mean(2)[:, 0])
        weighted.append(torch.stack(means, dim=1).float())
    last = gradients[-1]
    readout = torch.zeros(count, graph.last.shape[1]) if last is None else (last[:, 0] != 0).any(-1)
    return (weighted[0], weighted[1], weighted[2]), readout.to(weighted[0])


def relevancy(encoder: Tensor, decoder: Tensor, cross: Tensor, readout: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of source and decoder inputs from attention weighted by gradients Ā = mean((∇A ⊙ A)⁺).

    The rules of the paper for an encoder–decoder, s the source and t the target:

        R_ss ← R_ss + Ā_ss R_ss                                  encoder, from I
        R_ts ← R_ts + Ā_tt R_ts,  R_tt ← R_tt + Ā_tt R_tt         decoder, from 0 and I
        R_ts ← R_ts + R̄_ttᵀ Ā_ts R̄_ss                             cross-attention
        R̄ = I + (R − I) / row sums of (R − I)

    Only sums of rows are read, so R_ss and R_ts are never built: a row is carried down through the layers
    instead, which costs a vector–matrix product where the rules have a product of matrices.

    Args:
        encoder: [row, layer, source, source].
        decoder: [row, layer, target, target].
        cross: [row, layer, target, source].
        readout: [row, target], how much of each position's relevance goes into a row.

    Returns:
        Relevance of the source [row, source] and of decoder inputs [row, target], the latter without the
        identity that R_tt starts from: it says that a position holds its own token, not that it looked there.

    Chefer et al. 2021, arXiv:2103.15679, equations 5 to 11.
    """
    rows, depth, target, _ = decoder.shape
    own = torch.eye(target, device=decoder.device).expand(rows, -1, -1)  # R_tt, [row, target, target]
    normal = []  # R̄_tt as it is at each cross-attention
    for layer in range(depth):
        own = own + decoder[:, layer] @ own
        normal.append(_normal(own))
    source = encoder.new_zeros(rows, encoder.shape[-1])  # Σ readout · … Ā_ts, still to be multiplied by R̄_ss
    carried = readout[:, None]  # [row, 1, target], readout · Π (I + Ā_tt) of the layers above
    for layer in reversed(range(depth)):
        source = source + (carried @ normal[layer].transpose(1, 2) @ cross[:, layer])[:, 0]
        carried = carried + carried @ decoder[:, layer]
    return _through_encoder(source, encoder), carried[:, 0] - readout


def _normal(relevance: Tensor) -> Tensor:
    """R̄ = I + (R − I) / row sums of (R − I); rows that attended to nothing keep the identity."""
    identity = torch.eye(relevance.shape[-1], device=relevance.device)
    rest = relevance - identity
    total = rest.sum(-1, keepdim=True)
    return identity + rest / torch.where(total == 0, 1, total)


def _through_encoder(vector: Tensor, encoder: Tensor) -> Tensor:
    """Vector [row, source] times R̄_ss, without building it."""
    depth = encoder.shape[1]
    ones = torch.ones_like(vector)[:, :, None]  # [row, source, 1]
    total = ones
    for layer in range(depth):
        total = total + encoder[:, layer] @ total  # R_ss · 1
    total = (total - ones)[:, :, 0]
    scaled = vector / torch.where(total == 0, 1, total)
    carried = scaled[:, None]
    for layer in reversed(range(depth)):
        carried = carried + carried @ encoder[:, layer]  # scaled · R_ss
    return vector + carried[:, 0] - scaled


METHODS = (
    Method(
        name="attention_x_gradient",
        label="Attention × gradient",
        kind="internals",
        signed=False,
        objective=True,
        contrast=True,
        completeness=False,
        paper="Chefer et al. 2021, arXiv:2103.15679",
        reads="How much attention that speaks for the objective, by its gradient, brought the token in "
        "through all layers; 0 means that no such attention reached it.",
        settings=RelevancySettings,
        run=_attention_x_gradient,
    ),
)
