"""The bound: what the rows that a method needs cost in plain PyTorch on the same model.

A row is one sequence of S source and T target tokens in a batch of the size the method would use, in
evaluation mode with frozen parameters. Nothing here goes through the toolkit except the embeddings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peer_measure import seconds
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from explain.attribution.inputs import inputs_of
from explain.model import Seq2Seq
from explain.results import Generation

Need = tuple[str, int, float]  # kind of row, rows in a batch, rows needed
BATCH = 64


class Rows:
    """Times rows of one model and one input in plain PyTorch."""

    def __init__(self, model: Seq2Seq, generation: Generation) -> None:
        self.hf: PreTrainedModel = copy.deepcopy(model.hf).eval().requires_grad_(False)
        # Attention patterns need the eager implementation.
        self.eager: PreTrainedModel = copy.deepcopy(self.hf)
        self.eager.set_attn_implementation("eager")
        # What inseq hides tokens with, which is padding where the tokenizer has no unknown token.
        self.baseline = "pad" if model.tokenizer.unk_token_id is None else "unk"
        inputs = inputs_of(model, generation, self.baseline)
        self.pair = (inputs.source, inputs.target)  # [1, S, width], [1, T, width]
        self.base = (inputs.source_baseline, inputs.target_baseline)
        self.ids = generation.target_ids

    def values(self, hf: PreTrainedModel, source: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities of the target [batch, T] from embeddings."""
        logits = hf(inputs_embeds=source, decoder_inputs_embeds=target, use_cache=False).logits
        return self.pick(logits)

    def pick(self, logits: Tensor) -> Tensor:
        """Logits [batch, T, vocabulary] -> log-probabilities of the target [batch, T]."""
        index = self.ids.expand(logits.shape[:-1])[..., None]
        return logits.log_softmax(-1).gather(-1, index).squeeze(-1)

    def batch(self, count: int, *, leaves: bool = False) -> list[Tensor]:
        """`count` copies of the input, as leaves of a graph when asked."""
        rows = [x.expand(count, -1, -1).clone() for x in self.pair]
        return [row.requires_grad_() for row in rows] if leaves else rows

    def forward(self, count: int) -> float:
        """Seconds of a batch forward."""
        rows = self.batch(count)
        with torch.no_grad():
            return seconds(lambda: self.values(self.hf, *rows))[0]

    def graph(self, count: int) -> float:
        """Seconds of a batch forward that records what a backward pass needs."""
        rows = self.batch(count, leaves=True)
        return seconds(lambda: self.values(self.hf, *rows))[0]

    def decoder(self, count: int) -> float:
        """Seconds of a batch through the decoder alone, on encoder states at hand."""
        source, target = self.batch(count)
        with torch.no_grad():
            states = self.hf.get_encoder()(inputs_embeds=source[:1]).last_hidden_state.expand(count, -1, -1)
            output = BaseModelOutput(last_hidden_state=states)

            def call() -> Tensor:
                return self.pick(
                    self.hf(encoder_outputs=output, decoder_inputs_embeds=target, use_cache=False).logits
                )

            return seconds(call)[0]

    def backward(self, count: int) -> float:
        """Seconds of the gradients of one position of every row: `count` vector-Jacobian products."""
        rows = self.batch(count, leaves=True)
        values = self.values(self.hf, *rows)[:, -1].sum()
        return seconds(lambda: torch.autograd.grad(values, rows))[0]

    def backwards(self, count: int) -> float:
        """Seconds of all T gradients of one row (`count` is T): as one batched gradient, or one by one."""
        rows = self.batch(1, leaves=True)
        values = self.values(self.hf, *rows)[0]

        def batched() -> Any:
            eye = torch.eye(count)
            return torch.autograd.grad(values, rows, eye, is_grads_batched=True, retain_graph=True)

        def single() -> Any:
            return [torch.autograd.grad(value, rows, retain_graph=True) for value in values]

        return min(seconds(batched)[0], seconds(single)[0])

    def attention(self, count: int) -> float:
        """Seconds of a forward that returns its attention patterns."""
        source, target = self.batch(count)
        with torch.no_grad():
            return seconds(
                lambda: self.eager(
                    inputs_embeds=source,
                    decoder_inputs_embeds=target,
                    use_cache=False,
                    output_attentions=True,
                )
            )[0]

    def feedforward(self, count: int) -> float:
        """Seconds of a batch through the feed-forward sublayers of T5's decoder."""
        rows = torch.randn(1, count * len(self.ids), self.pair[0].shape[-1])
        with torch.no_grad():
            return seconds(lambda: [block.layer[2](rows) for block in self.hf.get_decoder().block])[0]

    def crossing(self, count: int) -> float:
        """Seconds of a batch through the cross-attention and feed-forward sublayers of T5's decoder."""
        rows, states = torch.randn(1, count * len(self.ids), self.pair[0].shape[-1]), self.pair[0]

        def call() -> Any:
            for block in self.hf.get_decoder().block:
                block.layer[2](block.layer[1](rows, key_value_states=states)[0])

        with torch.no_grad():
            return seconds(call)[0]

    def cost(self, needs: Sequence[Need]) -> float:
        """Seconds of the rows needed: for each kind, rows times the time of a row in such a batch."""
        return sum(rows * getattr(self, kind)(batch) / batch for kind, batch, rows in needs if rows > 0)


def _gradients(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """One forward, and a backward for every output position."""
    return [("graph", 1, 1), ("backwards", t, t)]


def _path(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """Integrated gradients: a forward per node, a backward per node and position that used it."""
    steps = used["steps_used"]
    batch = min(BATCH, max(steps))
    return [("graph", batch, max(steps)), ("backward", batch, sum(steps))]


def _occlusion(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """S hidden source tokens, T − 1 hidden decoder inputs on shared encoder states, and nothing hidden."""
    return [("forward", min(BATCH, s), s), ("decoder", t - 1, t - 1), ("forward", 1, 1)]


def _attention(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """One forward that returns its patterns."""
    return [("attention", 1, 1)]


def _value_zeroing(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """What follows the attention that lost a value, in every layer, and one forward with its patterns.

    That is the feed-forward sublayer for each of S source values, and cross-attention with it for each of T
    decoder values, half of which causality leaves alone.
    """
    return [("attention", 1, 1), ("feedforward", s, s), ("crossing", (t + 1) // 2, (t + 1) / 2)]


def _samples(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """One row for every perturbed sample, whatever the number of positions."""
    return [("forward", min(BATCH, used["samples"]), used["samples"])]


def _drawn(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """A forward per random point of the path, and a backward per point and position."""
    return [("graph", used["samples"], used["samples"]), ("backward", used["samples"], used["samples"] * t)]


def _pairs(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """Input and baseline side by side: two rows forward, two rows back for every position."""
    return [("graph", 2, 2), ("backward", 2, 2 * t)]


def _share(s: int, t: int, used: Mapping[str, Any]) -> list[Need]:
    """A row per point of the path, and the corners beside it on encoder states at hand."""
    on, beside = used["steps"] + 1, used["points"] - used["steps"] - 1
    return [("forward", min(BATCH, on), on), ("decoder", min(BATCH, beside), beside)]


NEEDS: dict[str, Callable[[int, int, Mapping[str, Any]], list[Need]]] = {
    "saliency": _gradients,
    "input_x_gradient": _gradients,
    "integrated_gradients": _path,
    "integrated_gradients_1pct": _path,
    "occlusion": _occlusion,
    "attention": _attention,
    "value_zeroing": _value_zeroing,
    "gradient_shap": _drawn,
    "deeplift": _pairs,
    "lime": _samples,
    "kernel_shap": _samples,
    "contextcite": _samples,
    "source_share": _share,
}
