"""Tokenizers from the texts at hand: each gives every text back unchanged, and nothing is unknown to it.

Four kinds, all over bytes, so that any text can be spelled: `bpe` (byte-pair encoding; Sennrich 2016),
`unigram` (Kudo 2018), `word` (frequent words whole, the rest byte by byte) and `byte` (ByT5; Xue 2022). Words
stand with the space before them, digits one by one, an elided article with its apostrophe (`l'|homme`). The
special tokens are padding (also T5's first decoder input), the end of a text, a mask that stands for a hidden
word while training and in occlusion, and, where they are asked for, the sentinels that denoising needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from explain.errors import UnknownNameError
from explain.training.config import TOKENIZERS
from explain.training.denoising import SENTINEL

PAD, EOS, MASK = "<pad>", "</s>", "<mask>"

# A word before an apostrophe, a word, one digit, a run of other signs, white space.
_PIECES = r" ?[\p{L}\p{M}]+['’](?=\p{L})| ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


def build_tokenizer(
    texts: Iterable[str], vocabulary: int, kind: str = "bpe", sentinels: int = 0
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`.

    Args:
        texts: sources and targets together: both sides share the tokens.
        vocabulary: the most tokens it may have, sentinels not counted; the 256 bytes are always among them.
        kind: `bpe`, `unigram`, `word` or `byte`.
        sentinels: number of tokens that stand for a hidden span in denoising.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if kind not in TOKENIZERS:
        raise UnknownNameError("tokenizer", kind, TOKENIZERS)
    special = [PAD, EOS, MASK]
    marks = [SENTINEL.format(number) for number in range(sentinels)]
    tokenizer = _trained(texts, vocabulary, kind, special)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(marks)
    end = tokenizer.token_to_id(EOS)
    tokenizer.post_processor = processors.Sequence(
        [
            # Offsets are of the word itself, not of the space before it; of a byte, the character's.
            processors.ByteLevel(trim_offsets=kind != "byte", add_prefix_space=False),
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
        **({"extra_special_tokens": marks} if marks else {}),
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        # "</s>" written by a user is five characters, not the end of the text.
        split_special_tokens=True,
    )


def _trained(texts: Iterable[str], vocabulary: int, kind: str, special: list[str]) -> Tokenizer:
    """The model of a kind, over bytes."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    split = letters if kind == "byte" else pre_tokenizers.Sequence([pieces, letters])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind in ("word", "byte"):
        # Without merges BPE spells in bytes; with `ignore_merges` it takes a word that it knows whole.
        words = _frequent_words(texts, split, vocabulary - len(special) - len(alphabet), kind)
        ids = {token: number for number, token in enumerate([*special, *sorted(alphabet), *words])}
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
        tokenizer.pre_tokenizer = split
        tokenizer.add_special_tokens(special)
        return tokenizer
    # Without an unknown token: there is a token for each byte.
    tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
    tokenizer.pre_tokenizer = split
    options: dict[str, Any] = {
        "vocab_size": vocabulary,
        "special_tokens": special,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    if kind == "bpe":
        trainer = trainers.BpeTrainer(min_frequency=2, **options)
    else:
        trainer = trainers.UnigramTrainer(**options)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _frequent_words(texts: Iterable[str], split: Any, count: int, kind: str) -> list[str]:
    """The words that occur at least twice, the most frequent first, spelled as the tokenizer spells them."""
    if kind == "byte":
        return []
    found = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text))
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    # Single characters are bytes, and in the alphabet.
    return [word for word, times in ranked if times > 1 and len(word) > 1][: max(0, count)]


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
