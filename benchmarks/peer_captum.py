"""Plain Captum, one output position after another: what one writes by hand without a toolkit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from captum.attr import InputXGradient, IntegratedGradients, Occlusion, Saliency
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from explain.attribution.inputs import Inputs
from explain.model import Seq2Seq
from explain.results import Generation

STEPS = 16


def plain_forward(model: Seq2Seq, generation: Generation, t: int, source: Tensor, target: Tensor) -> Tensor:
    """The log-probability of token t."""
    states = model.hf.get_encoder()(inputs_embeds=source).last_hidden_state
    output = BaseModelOutput(last_hidden_state=states)
    logits = model.hf(encoder_outputs=output, decoder_inputs_embeds=target, use_cache=False).logits
    return logits[:, t].log_softmax(-1)[:, generation.target_ids[t]]


def plain(explainer: Any, reduce: Callable[[Tensor], Tensor], **arguments: Any) -> Callable[..., Tensor]:
    """Plain Captum over all positions: source scores [target, source]."""

    def run(model: Seq2Seq, generation: Generation, inputs: Inputs) -> Tensor:
        rows = []
        given = dict(arguments)
        for t in range(len(generation.target_tokens)):
            # As a per-step loop would have it: the prefix up to the token, and nothing after it.
            pair = (
                inputs.source.clone().requires_grad_(),
                inputs.target[:, : t + 1].clone().requires_grad_(),
            )
            if explainer is IntegratedGradients:
                given["baselines"] = (inputs.source_baseline, inputs.target_baseline[:, : t + 1])
            if explainer is Occlusion:
                width = inputs.source.shape[-1]
                given["sliding_window_shapes"] = ((1, width), (1, width))
            made = explainer(partial(plain_forward, model, generation, t))
            rows.append(reduce(made.attribute(pair, **given)[0][0].detach()))
        return torch.stack(rows)

    return run


# method: the plain loop, and the options with which ours computes the same
PLAIN: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "saliency": (plain(Saliency, lambda g: g.norm(dim=-1), abs=True), {}),
    "input_x_gradient": (plain(InputXGradient, lambda g: g.sum(-1)), {}),
    "integrated_gradients": (
        plain(IntegratedGradients, lambda g: g.sum(-1), n_steps=STEPS, method="riemann_middle"),
        {"rule": "midpoint", "steps": STEPS, "max_steps": STEPS},
    ),
    "occlusion": (plain(Occlusion, lambda g: g[:, 0], baselines=(0, 0)), {"by": "zero"}),
}
