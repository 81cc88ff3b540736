"""A tokenizer from the texts at hand: byte-level BPE that gives every text back unchanged.

Words stand with the space before them, digits one by one, an elided article with its apostrophe
(`l'|homme`). Its special tokens are padding (also T5's first decoder input), the end of a text, and a mask
that stands for a hidden word while training and in occlusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS, MASK = "<pad>", "</s>", "<mask>"

# A word before an apostrophe, a word, one digit, a run of other signs, white space.
_PIECES = r" ?[\p{L}\p{M}]+['’](?=\p{L})| ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`.

    Args:
        texts: sources and targets together: both sides share the tokens.
        vocabulary: the most tokens it may have; with few distinct words every word becomes one token first.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, EOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id(EOS)
    tokenizer.post_processor = processors.Sequence(
        [
            # Offsets are of the word itself, not of the space before it.
            processors.ByteLevel(trim_offsets=True, add_prefix_space=False),
            processors.TemplateProcessing(
                single=f"$A {EOS}", pair=f"$A $B {EOS}", special_tokens=[(EOS, end)]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        mask_token=MASK,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        # "</s>" written by a user is five characters, not the end of the text.
        split_special_tokens=True,
    )


def choose_vocabulary(texts: Sequence[str]) -> int:
    """A vocabulary size for a user's texts: larger for more text, between 2,000 and 8,000."""
    characters = sum(map(len, texts))
    return min(8000, max(2000, characters // 800))


def encode(tokenizer: Any, sources: Sequence[str], targets: Sequence[str]) -> tuple[list, list]:
    """Token ids of sources and of targets, nothing truncated; works with any model's tokenizer."""
    if not sources:
        return [], []
    inputs = tokenizer(list(sources), truncation=False)["input_ids"]
    labels = tokenizer(text_target=list(targets), truncation=False)["input_ids"]
    return inputs, labels
