"""AttnLRP: layer-wise relevance propagation through Transformer blocks, as gradient × input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from explain.attribution.inputs import inputs_of, split_prefix
from explain.attribution.memory import backward_row_bytes, graph_row_bytes, in_chunks, rows_within
from explain.attribution.objectives import OBJECTIVES, Question
from explain.attribution.registry import Method, Scores, Work
from explain.model.attention import Mixer, PointFunction, Tap, tapped
from explain.model.families import Family, Side, all_modules, layers, submodule
from explain.model.forward import hidden_of, logits_from_states, project, projection_hooked, states_of
from explain.model.hooks import attention_sites
from explain.options import choice
from explain.results import Generation

SOFTMAX = ("conserve", "absorb")

# Relevance that is smaller than this is rounding, and an error relative to it says nothing.
_NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class RelevanceSettings:
    """What becomes of the relevance that the path through an attention pattern does not pass on.

    The softmax has a hidden bias: of the half of a head's relevance that goes to its pattern, only a part
    arrives at queries and keys. `absorb` leaves the rest in the bias, as in the paper; `conserve` hands it,
    for every head and query, to the values in proportion to their absolute contributions. The default thus
    differs from the paper in what becomes of this bias. It is not linear in the relevance that comes in: the
    scores of a span are not the sum of its tokens' scores, while with `absorb` they are. With both, the
    biases of linear layers and norms absorb relevance; the completeness error says how much is missing.
    """

    softmax: str = choice("conserve", SOFTMAX)

    def __post_init__(self) -> None:
        if self.softmax not in SOFTMAX:
            raise ValueError(f"softmax={self.softmax!r} is not one of {', '.join(SOFTMAX)}")


# ---- the rules ----


class _Numbers(torch.autograd.Function):
    """The numbers of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, path: Tensor) -> Tensor:
        return numbers.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, grads[0]


def halved(tensor: Tensor) -> Tensor:
    """The same numbers with half the gradient: a product shares its relevance equally among two factors."""
    return tensor / 2 + (tensor / 2).detach()


def norm_rule(module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """The output of a layer norm (or RMS norm) with its deviation held constant in the backward pass.

    Then the norm is linear: x - mean is kept, the division only scales, and the bias absorbs.
    """
    eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", 0.0)
    centred = x - x.mean(-1, keepdim=True) if isinstance(module, nn.LayerNorm) else x
    square = centred.detach().to(_accurate(x)).pow(2).mean(-1, keepdim=True)
    path = centred * (square + eps).rsqrt().to(x.dtype)
    weight = getattr(module, "weight", None)
    return _Numbers.apply(output.detach(), path if weight is None else path * weight)  # pyright: ignore[reportReturnType]


def activation_rule(x: Tensor, output: Tensor) -> Tensor:
    """The output f(x) of an element-wise activation with the gradient f(x) / x: all relevance passes."""
    x_, output = x.detach(), output.detach()
    slope = torch.where(x_ == 0, 0, output / torch.where(x_ == 0, 1, x_))
    return _Numbers.apply(output, x * slope)  # pyright: ignore[reportReturnType]


class _ConservingMix(torch.autograd.Function):
    """Attention's z = A·V with A = softmax(scaling·q·k + bias): backward, relevance is conserved exactly."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # [batch, head, query, head_dim]
        key: Tensor,  # [batch, head, key, head_dim]
        value: Tensor,  # [batch, head, key, head_dim]
        pattern: Tensor,  # [batch, head, query, key], detached
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, pattern)
        ctx.scaling = scaling
        return torch.matmul(pattern, value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dtype = grads[0].dtype
        grad, query, key, value, pattern = (
            tensor.to(_accurate(tensor)) for tensor in (grads[0], *ctx.saved_tensors)
        )
        of_pattern = 0.5 * grad @ value.transpose(-1, -2)  # [batch, head, query, key]
        inflow = pattern * of_pattern  # relevance of each attention weight
        half = inflow.sum(-1, keepdim=True)  # [batch, head, query, 1]
        of_scores = inflow - pattern * half  # the Taylor rule; masked keys get exactly 0
        of_query = 0.5 * ctx.scaling * of_scores @ key
        of_key = 0.5 * ctx.scaling * of_scores.transpose(-1, -2) @ query
        # Biases and the softmax's own absorb; what they took is the pattern's half less what q·k received.
        lost = half - 2 * (of_query * query).sum(-1, keepdim=True)
        # |A v g| are finite weights where signed contributions might cancel: their sum is at least 2 |half|,
        # and the rest of `lost` is bounded by it times the spread of the scores.
        contributed = (grad.abs() * (pattern @ value.abs())).sum(-1, keepdim=True)
        share = torch.where(contributed > 0, lost / torch.where(contributed > 0, contributed, 1), 0)
        back = pattern.transpose(-1, -2)  # [batch, head, key, query]
        of_value = 0.5 * back @ grad + value.sign() * (back @ (share * grad.abs()))
        return of_query.to(dtype), of_key.to(dtype), of_value.to(dtype), None, None


def conserving_mix(query: Tensor, key: Tensor, value: Tensor, pattern: Tensor, scaling: float) -> Tensor:
    """The heads' outputs z [batch, head, query, head_dim] with the rules of attention as their gradient.

    Relevance of z is shared equally by pattern and values, what reaches the scores equally by q and k, and
    what is lost between the two is handed to the values.
    """
    return _ConservingMix.apply(query, key, value, pattern.detach(), scaling)  # pyright: ignore[reportReturnType]


def _accurate(tensor: Tensor) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


# ---- where they stand in a model ----


@contextmanager
def relevance_rules(
    hf: PreTrainedModel, family: Family, *, softmax: str = "conserve", intervened: Sequence[str] = ()
) -> Iterator[list[tuple[str, Tensor]]]:
    """Inside, backward passes carry relevance ÷ activation; forward passes give the same numbers as before.

    Blocks whose scores or pattern an intervention replaces (`intervened` names it) absorb as in the paper:
    what the replacement does to the softmax is not known.

    Yields:
        (stack, embeddings) of the absolute positions that a forward pass adds, leaves of its graph; filled as
        it runs.
    """
    positions: list[tuple[str, Tensor]] = []
    with ExitStack() as stack:

        def on(module: nn.Module, rule: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
            def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
                return rule(module, args[0], output)

            stack.callback(module.register_forward_hook(hook).remove)

        stack.enter_context(tapped(hf, _attention_rules(hf, family, softmax, intervened)))
        for module in all_modules(hf):
            if _is_norm(module):
                on(module, norm_rule)
        for name, side in (("encoder", family.encoder), ("decoder", family.decoder)):
            for layer in layers(hf, side):
                on(submodule(layer, side.activation), lambda _, x, output: activation_rule(x, output))
                if _is_gated(layer, side):
                    hook = submodule(layer, side.mlp_out).register_forward_pre_hook(
                        lambda _, args: (halved(args[0]), *args[1:])
                    )
                    stack.callback(hook.remove)
            if side.positions is not None:
                embed = submodule(submodule(hf, side.stack), side.positions)
                hook = embed.register_forward_hook(partial(_as_leaf, name, positions))
                stack.callback(hook.remove)
        yield positions


def _is_norm(module: nn.Module) -> bool:
    # T5 and mT5 each have an RMS norm of their own, known by the name of its epsilon.
    return isinstance(module, nn.LayerNorm) or hasattr(module, "variance_epsilon")


def _is_gated(layer: nn.Module, side: Side) -> bool:
    """The input of the last feed-forward projection is a product (T5 1.1 and mT5)."""
    return hasattr(submodule(layer, side.mlp_out.rpartition(".")[0]), "wi_1")


def _as_leaf(
    name: str, kept: list[tuple[str, Tensor]], module: nn.Module, args: Any, output: Tensor
) -> Tensor:
    kept.append((name, output.detach().clone().requires_grad_()))
    return kept[-1][1]


def _attention_rules(hf: PreTrainedModel, family: Family, softmax: str, intervened: Sequence[str]) -> Tap:
    functions: dict[str, PointFunction] = {}
    mixers: dict[str, Mixer] = {}
    sites = attention_sites(hf, family)
    for site in sites.values():
        if softmax == "conserve" and not {f"{site}.scores", f"{site}.pattern"} & set(intervened):
            mixers[site] = conserving_mix
        else:  # plain gradients of softmax and both products, each of which shares in halves
            functions |= {f"{site}.scores": halved, f"{site}.z": halved}
    return Tap(sites, functions, mixers)


# ---- the method ----


@dataclass(frozen=True, eq=False)
class _Graph:
    """One forward pass under the rules, from the inputs to where relevance is put in.

    Attributes:
        leaves: (stack, embeddings) of tokens and of their positions; a token's relevance is the sum of both.
        outputs: decoder output, or the explained numbers.
        weights: [rows, …outputs], the gradient of each explained number at `outputs`.
        values: [rows], the explained numbers.
        inflow: [rows], the relevance that goes in at the logits: Σ logits · ∂value/∂logits.
        log_probs: [target], of every token of the output.
    """

    leaves: list[tuple[str, Tensor]]
    outputs: Tensor
    weights: Tensor
    values: Tensor
    inflow: Tensor
    log_probs: Tensor


def attn_lrp(work: Work, settings: RelevanceSettings) -> list[Scores]:
    """Relevance that arrives at the tokens of every generation."""
    results = []
    for generation, question in zip(work.generations, work.questions, strict=True):
        work.check()
        sizes = len(generation.source_tokens), len(generation.target_tokens)
        graph = _graph(work, settings, generation, question)
        room = max(work.budget - graph_row_bytes(work.model, *sizes), work.budget // 4)
        size = rows_within(room, 2 * backward_row_bytes(work.model, *sizes), len(graph.values))
        parts = [part for _, part in in_chunks(len(graph.values), size, partial(_relevance, work, graph))]
        source, decoder = (torch.cat([part[name] for part in parts]) for name in ("encoder", "decoder"))
        results.append(_scores(graph, question, source.cpu(), decoder.cpu()))
        work.done(1)
    return results


def _graph(work: Work, settings: RelevanceSettings, generation: Generation, question: Question) -> _Graph:
    hf, family = work.model.hf, work.model.family
    inputs = inputs_of(work.model, generation, "zero")
    source, target = inputs.source.clone().requires_grad_(), inputs.target.clone().requires_grad_()
    rules = relevance_rules(hf, family, softmax=settings.softmax, intervened=work.model.intervened)
    with torch.enable_grad(), rules as positions:
        states = states_of(hf, family, source, inputs.source_mask)
        # Hooks at the logits and functions of the user may mix output positions: nothing is known of them.
        if projection_hooked(hf) or question.function is not None:
            logits = logits_from_states(hf, states, target, inputs.source_mask)
            outputs, weights, values, inflow = _from_numbers(question, logits)
        else:
            outputs = hidden_of(hf, family, states, target, inputs.source_mask)
            logits, weights, values, inflow = _from_hidden(question, outputs, partial(project, hf))
    log_probs = OBJECTIVES["log_prob"].function(logits.detach()[0], question.targets)
    leaves = [("encoder", source), ("decoder", target), *positions]
    return _Graph(leaves, outputs, weights, values, inflow, log_probs)


def _from_hidden(
    question: Question, hidden: Tensor, projection: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, gradients [rows, 1, target, width] at decoder output, values and inflow [rows].

    Logits look at one position at a time and rows share none, so one backward pass through the vocabulary
    serves all rows.
    """
    start = hidden.detach().requires_grad_()  # [1, target, width]
    logits = projection(start)  # [1, target, vocabulary]
    values = question(logits)[0]
    at_logits, at_hidden = torch.autograd.grad(values.sum(), (logits, start))
    places = torch.arange(hidden.shape[1], device=hidden.device)
    own = torch.stack([(places >= begin) & (places < end) for begin, end in question.spans])  # [rows, target]
    each = _product(logits, at_logits)[0]  # [target]
    inflow = own.to(each.dtype) @ each
    return logits, own[:, None, :, None] * at_hidden, values.detach(), inflow


def _from_numbers(question: Question, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The explained numbers [rows], their gradients at themselves [rows, rows], again, and inflow [rows]."""
    values = question(logits)[0]
    inflow = [
        _product(logits, torch.autograd.grad(value, logits, retain_graph=True)[0]).sum() for value in values
    ]
    eye = torch.eye(len(values), device=values.device, dtype=values.dtype)
    return values, eye, values.detach(), torch.stack(inflow)


def _product(tensor: Tensor, grad: Tensor) -> Tensor:
    """Relevance [...] of a tensor [..., width]: Σ tensor · grad."""
    dtype = _accurate(tensor)
    return (tensor.detach().to(dtype) * grad.to(dtype)).sum(-1)


def _relevance(work: Work, graph: _Graph, rows: slice) -> Mapping[str, Tensor]:
    """Relevance of each stack's tokens: [rows, source] and [rows, target]."""
    work.check()
    weights = graph.weights[rows]
    grads = torch.autograd.grad(
        graph.outputs,
        [leaf for _, leaf in graph.leaves],
        grad_outputs=weights,
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,  # an intervention may have cut a stack off: nothing arrives there
    )
    found: dict[str, Tensor] = {}
    for (name, leaf), grad in zip(graph.leaves, grads, strict=True):
        grad = leaf.new_zeros(len(weights), *leaf.shape) if grad is None else grad
        relevance = _product(leaf, grad).flatten(1)  # positions have no batch dimension in some families
        found[name] = found[name] + relevance if name in found else relevance
    return found


def _scores(graph: _Graph, question: Question, source: Tensor, decoder: Tensor) -> Scores:
    prefix, start = split_prefix(decoder, question.spans)
    values, inflow = graph.values.cpu(), graph.inflow.cpu()
    total = source.double().sum(1) + prefix.double().sum(1) + start.double()
    error = (total - inflow.double()).abs() / inflow.double().abs()
    return Scores(
        source,
        prefix,
        start,
        baseline_value=values - inflow,
        completeness_error=torch.where(inflow.abs() < _NOTHING, torch.nan, error).float(),
        value=values,
        log_probs=graph.log_probs.cpu(),
    )


METHODS = (
    Method(
        name="attn_lrp",
        label="AttnLRP",
        kind="internals",
        signed=True,
        objective=True,
        contrast=True,
        completeness=False,  # there is no baseline; what is conserved is measured all the same
        paper="Achtibat et al. 2024, arXiv:2402.05602",
        reads="How much of the relevance at the logits arrives at the token, less what biases absorb; below "
        "0: against; 0: nothing arrived. `conserve` departs from the paper in what becomes of the softmax's "
        "hidden bias, and a span is then not the sum of its tokens.",
        settings=RelevanceSettings,
        run=attn_lrp,
    ),
)
