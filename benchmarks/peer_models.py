"""The random models of the benchmark, and one input of 32 source and 16 target tokens for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peer_torch import Rows
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

import explain
from explain.model import Seq2Seq
from explain.results import Generation

SOURCE, TARGET = 32, 16


def words(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer of numbered words that ends every text with </s>."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(count - 4))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def bart(width: int, layers: int, init_std: float = 0.05) -> PreTrainedModel:
    """A random BART with a vocabulary of 1,000.

    How many points a path needs depends on the weights: a start as wide as the training recipe's (0.1) needs
    about as many as trained models do, one as narrow as BART's own (0.02) is all but linear.
    """
    torch.manual_seed(0)
    sizes = {f"{side}_layers": layers for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=1000, d_model=width, init_std=init_std, forced_eos_token_id=None, **sizes)
    )


def t5(width: int, layers: int, heads: int = 4, vocabulary: int = 1000) -> PreTrainedModel:
    """A random T5."""
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=width // heads,
            d_ff=4 * width,
            num_layers=layers,
            num_heads=heads,
            initializer_factor=1.0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    )


def small_t5() -> PreTrainedModel:
    """A random model of the shape of t5-small."""
    return t5(512, 6, 8, 32128)


@dataclass(frozen=True, eq=False)
class Stage:
    """One model with its input, opened on our side and saved for the other."""

    model: Seq2Seq
    generation: Generation
    rows: Rows
    folder: Path
    texts: tuple[str, str]

    @property
    def lengths(self) -> tuple[int, int]:
        """Source and target tokens."""
        return len(self.generation.source_tokens), len(self.generation.target_tokens)


def saved(folder: Path, source: str) -> Stage:
    """A saved (trained) model and what it writes for a source text."""
    model = explain.load(folder, device="cpu")
    model.hf.requires_grad_(False)
    generation = model.generate(source)
    model.require_parity()
    return Stage(model, generation, Rows(model, generation), folder, (source, generation.target_text))


def stage(hf: PreTrainedModel, folder: Path) -> Stage:
    """Save a random model, open it, and force the output that everything explains."""
    logging.disable_progress_bar()
    hf.eval()
    tokenizer = words(hf.config.vocab_size)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = explain.wrap(hf, tokenizer)
    model.hf.requires_grad_(False)  # kind to plain Captum: parameters that collect gradients slow it down
    source = " ".join(f"w{(7 * i) % 996}" for i in range(SOURCE - 1))
    target = " ".join(f"w{(11 * i) % 996}" for i in range(TARGET - 1))
    generation = model.force(source, target)
    model.require_parity()
    made = Stage(model, generation, Rows(model, generation), folder, (source, target))
    assert made.lengths == (SOURCE, TARGET)
    return made


@dataclass(frozen=True)
class Size:
    """A row of the table of sizes; models are opened in a folder that is theirs.

    Attributes:
        label: for people.
        open: the model with its input.
        sibling: the same size for methods that inseq cannot run on the family of `open`.
        slow: whether inseq takes minutes, so that its counted run is its only one.
    """

    label: str
    open: Callable[[Path], Stage]
    sibling: Callable[[Path], Stage]
    slow: bool = False


SIZES = {
    "tiny": Size(
        "BART d=64 2+2", lambda folder: stage(bart(64, 2), folder), lambda folder: stage(t5(64, 2), folder)
    ),
    "bart": Size(
        "BART d=256 3+3", lambda folder: stage(bart(256, 3), folder), lambda folder: stage(t5(256, 3), folder)
    ),
    "rough": Size(
        "BART d=256 3+3, init_std 0.1",
        lambda folder: stage(bart(256, 3, 0.1), folder),
        lambda folder: stage(t5(256, 3), folder),
    ),
    "t5": Size(
        "T5 d=512 6+6",
        lambda folder: stage(small_t5(), folder),
        lambda folder: stage(small_t5(), folder),
        True,
    ),
}


def given(folder: Path, source: str) -> Size:
    """The size of a model that was trained before, with what it writes for a source text."""
    return Size(folder.name, lambda _: saved(folder, source), lambda _: saved(folder, source))
