"""Every family passes the parity gate, and what cannot be explained is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers as hf

import explain
from explain.errors import BrokenWeightsError, ParityError, UnsupportedModelError
from explain.model import doctor
from explain.model.parity import parity_checks
from tests.models import SPECIAL, WORDS, network, tiny, tokenizer


def test_every_family_passes_the_parity_gate(model):
    checks = doctor(model)
    assert all(check.passed for check in checks), [c for c in checks if not c.passed]
    assert sum("logits" in check.name for check in checks) == 4


@pytest.mark.parametrize("name", ["marian", "pegasus"])
def test_the_gate_catches_a_wrong_embedding_scale(name):
    model = tiny(name)
    model.family = dataclasses.replace(model.family, scale_encoder_embeddings=False)
    failed = [check.name for check in parity_checks(model) if not check.passed]
    assert failed == ["logits from embeddings equal logits from ids"]
    with pytest.raises(ParityError, match="embeddings"):
        model.attribute(model.generate("the cat", max_new_tokens=3), method="saliency")


def test_the_gate_catches_scaling_twice():
    model = tiny("bart")
    model.family = dataclasses.replace(model.family, scale_encoder_embeddings=True)
    model.hf.model.encoder.embed_scale = 4.0
    assert not all(check.passed for check in parity_checks(model))


def test_a_causal_model_is_refused_by_name():
    config = hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1)
    with pytest.raises(UnsupportedModelError, match=r"gpt2 is a causal language model"):
        explain.wrap(hf.GPT2LMHeadModel(config), tokenizer())


def test_an_encoder_is_refused_by_name():
    config = hf.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    with pytest.raises(UnsupportedModelError, match=r"bert is not an encoder.decoder"):
        explain.wrap(hf.BertModel(config), tokenizer())


def test_prophetnet_and_led_are_refused_with_the_reason():
    small = {"vocab_size": 40, "hidden_size": 8, "d_model": 8}
    prophet = hf.ProphetNetConfig(
        **small,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_attention_heads=1,
        num_decoder_attention_heads=1,
    )
    with pytest.raises(UnsupportedModelError, match=r"prophetnet .*by hand.*supported families: .*bart"):
        explain.wrap(hf.ProphetNetForConditionalGeneration(prophet), tokenizer())
    led = hf.LEDConfig(
        vocab_size=40,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        attention_window=4,
        max_encoder_position_embeddings=32,
        max_decoder_position_embeddings=32,
    )
    with pytest.raises(UnsupportedModelError, match=r"led .*by hand"):
        explain.wrap(hf.LEDForConditionalGeneration(led), tokenizer())


def test_a_body_without_a_head_is_refused():
    with pytest.raises(UnsupportedModelError, match="writes no text"):
        explain.wrap(network("bart").model, tokenizer())


def test_weights_with_nan_are_refused_and_named():
    broken = network("bart")
    with torch.no_grad():
        broken.model.encoder.layers[0].fc1.weight[0, 0] = torch.nan
    with pytest.raises(BrokenWeightsError, match=r"fc1\.weight holds 1 NaN"):
        explain.wrap(broken, tokenizer())


def test_describe_says_what_it_is(model):
    shown = model.describe()
    assert shown["vocabulary"] == len(SPECIAL) + len(WORDS)
    assert (shown["encoder_layers"], shown["decoder_layers"], shown["heads"]) == (2, 2, 2)
    assert shown["digest"].startswith("sha256:")


def test_the_digest_follows_the_weights():
    assert tiny("bart", seed=0).digest == tiny("bart", seed=0).digest
    assert tiny("bart", seed=0).digest != tiny("bart", seed=1).digest
