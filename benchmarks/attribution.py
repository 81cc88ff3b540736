"""How much faster one pass for all positions is than plain Captum, position by position.

Both compute the same scores of the same random BART (d=256, 3+3 layers) for 32 source and 16 target tokens;
runs are interleaved and the median of their ratios is reported, with the largest difference of the scores.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from captum.attr import InputXGradient, IntegratedGradients, Occlusion, Saliency
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

import explain
from explain.attribution.inputs import Inputs, inputs_of
from explain.files import dump_json
from explain.model import Seq2Seq
from explain.results import Generation
from explain.terminal import table

SOURCE, TARGET, STEPS = 32, 16, 16


def random_model() -> Seq2Seq:
    """A random BART of d=256 with 3+3 layers, and a tokenizer of numbered words."""
    torch.manual_seed(0)
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(996))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
    sizes = {f"{side}_layers": 3 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 1024 for side in ("encoder", "decoder")}
    config = BartConfig(vocab_size=1000, d_model=256, init_std=0.05, forced_eos_token_id=None, **sizes)
    return explain.wrap(BartForConditionalGeneration(config).eval(), tokenizer)


def plain_forward(model: Seq2Seq, generation: Generation, t: int, source: Tensor, target: Tensor) -> Tensor:
    """The log-probability of token t as one would write it by hand."""
    states = model.hf.get_encoder()(inputs_embeds=source).last_hidden_state
    output = BaseModelOutput(last_hidden_state=states)
    logits = model.hf(encoder_outputs=output, decoder_inputs_embeds=target, use_cache=False).logits
    return logits[:, t].log_softmax(-1)[:, generation.target_ids[t]]


def plain(explainer: Any, reduce: Callable[[Tensor], Tensor], **arguments: Any) -> Callable[..., Tensor]:
    """Plain Captum over all positions: source scores [target, source]."""

    def run(model: Seq2Seq, generation: Generation, inputs: Inputs) -> Tensor:
        rows = []
        given = dict(arguments)
        if explainer is IntegratedGradients:
            given["baselines"] = (inputs.source_baseline, inputs.target_baseline)
        for t in range(len(generation.target_tokens)):
            # As a per-step loop would have it: the prefix up to the token, and nothing after it.
            pair = (
                inputs.source.clone().requires_grad_(),
                inputs.target[:, : t + 1].clone().requires_grad_(),
            )
            if "baselines" in given and explainer is IntegratedGradients:
                given["baselines"] = (inputs.source_baseline, inputs.target_baseline[:, : t + 1])
            made = explainer(partial(plain_forward, model, generation, t))
            rows.append(reduce(made.attribute(pair, **given)[0][0].detach()))
        return torch.stack(rows)

    return run


PLAIN: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "saliency": (plain(Saliency, lambda g: g.norm(dim=-1), abs=True), {}),
    "input_x_gradient": (plain(InputXGradient, lambda g: g.sum(-1)), {}),
    "integrated_gradients": (
        plain(IntegratedGradients, lambda g: g.sum(-1), n_steps=STEPS, method="riemann_middle"),
        {"steps": STEPS, "max_steps": STEPS},
    ),
    "occlusion": (
        plain(Occlusion, lambda g: g[:, 0], sliding_window_shapes=((1, 256), (1, 256)), baselines=(0, 0)),
        {"by": "zero"},
    ),
}


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    model = random_model()
    model.hf.requires_grad_(False)  # kind to plain Captum: parameters that collect gradients slow it down
    source = " ".join(f"w{(7 * i) % 996}" for i in range(SOURCE - 1)) + " </s>"
    generation = model.force(source, " ".join(f"w{(11 * i) % 996}" for i in range(TARGET - 1)))
    model.require_parity()
    inputs = inputs_of(model, generation, "pad")
    ratios, agreement, rows = {}, {}, []
    for name, (peer, options) in PLAIN.items():
        pairs, difference = [], 0.0
        for _ in range(repeats):
            ours, att = seconds(lambda n=name, o=options: model.attribute(generation, method=n, **o))
            theirs, scores = seconds(lambda p=peer: p(model, generation, inputs))
            pairs.append((ours, theirs))
            difference = max(difference, float((att.source - scores).abs().max()))
        ratios[name] = statistics.median(theirs / ours for ours, theirs in pairs)
        agreement[name] = difference
        middle = [statistics.median(column) * 1000 for column in zip(*pairs, strict=True)]
        rows.append(
            (name, f"{middle[0]:.0f}", f"{middle[1]:.0f}", f"{ratios[name]:.1f}", f"{difference:.1e}")
        )
    columns = ("method", "ours (ms)", "plain Captum (ms)", "ratio", "largest difference")
    print(table(columns, rows))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    line = {"schema": "explain/benchmark@1", "name": "attribution", "ratios": ratios, "bound": {}}
    print(dump_json({**line, "agreement": agreement, "machine": machine}, indent=None))


if __name__ == "__main__":
    main()
