"""Tiny random models of every family and tokenizers built on the spot: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import explain
from explain.model import Seq2Seq

FAMILIES = ("t5", "mt5", "bart", "mbart", "marian", "m2m_100", "pegasus")
WORDS = (
    "the a cat dog bird house tree river sees likes eats runs sleeps is was not very big small red blue "
    "old new and or in on under near le la un une chat chien oiseau maison arbre"
).split()
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def tokenizer(words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Word-level tokenizer with an unknown token; sources and targets end in EOS."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *(words or WORDS)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def network(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model with weights large enough that its outputs depend on its inputs."""
    common = {
        "d_model": 16,
        "vocab_size": len(SPECIAL) + len(WORDS),
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 1 if family in ("t5", "mt5", "marian", "pegasus") else 2,
    }
    bart = {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 64,
        "init_std": 0.3,
        "dropout": 0.1,
        "scale_embedding": True,
        "forced_eos_token_id": None,
    }
    t5 = {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "initializer_factor": 1.0}
    classes: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "t5": (hf.T5ForConditionalGeneration, hf.T5Config, t5),
        "mt5": (hf.MT5ForConditionalGeneration, hf.MT5Config, t5),
        "bart": (hf.BartForConditionalGeneration, hf.BartConfig, bart),
        "mbart": (hf.MBartForConditionalGeneration, hf.MBartConfig, bart),
        "marian": (hf.MarianMTModel, hf.MarianConfig, bart),
        "m2m_100": (hf.M2M100ForConditionalGeneration, hf.M2M100Config, bart),
        "pegasus": (hf.PegasusForConditionalGeneration, hf.PegasusConfig, bart),
    }
    make, config, own = classes[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(config(**{**common, **own, **changes}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # zero biases would hide a forgotten one
                    parameter.normal_(0, 0.1)
    return model.eval()


def tiny(family: str, *, seed: int = 0, **changes: Any) -> Seq2Seq:
    """A tiny random model of a family, opened."""
    return explain.wrap(network(family, seed=seed, **changes), tokenizer(), name=f"tiny {family}")
