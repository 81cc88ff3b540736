"""Two encoder–decoders whose weights are set by hand, so that the right explanation is known exactly.

They are BARTs like any other, with two encoder layers and two heads, and nothing is trained:

- `copy_model` repeats its source: "a b c" → "a b c". Output token t depends on source token t and on nothing
  else, EOS included; the prefix has no effect. A single head copies, `COPY`.
- `ditto_model` does the same, but where the source says "ditto" it repeats the word it wrote before:
  "a ditto c" → "a a c". Such a token has two causes, source token t (which says "ditto") and target token
  t − 1 (which is the word); without either there is another answer. Three heads take part, `DITTO_FLAG`,
  `DITTO_REPEAT` and `DITTO_COPY`.

How it is done. The residual stream has four parts: the input token and its position (one number for each
word and place), the answer, and a flag for "ditto". Every number stands there twice, as x and −x: a layer
norm then has nothing to centre, and as all words and places come in the same amount it is only a constant
factor. Heads look at one place so sharply that softmax is exactly 1 there and 0 elsewhere, in float32. Where
their place is hidden they look at EOS, and so never at another word. What takes no part writes exactly
nothing: both encoder layers, all feed-forward networks, all other heads.

The decoder's norms take its input token away before the answer comes in and then normalise what is left, so
that not even the length of a prefix embedding reaches the answer. Padding embeds to zero and stands for
"nothing here": the answer to it is that all words are equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, PreTrainedTokenizerFast

from explain.model import Seq2Seq, wrap
from explain.training.tokenizer import EOS, MASK, PAD

DITTO = "ditto"
WORDS = (*"abcdefghijklmnopqrs", DITTO)
"""What both models can read and write; to `copy_model` "ditto" is a word like the others."""

LOGIT = 5.0
"""The right token's logit; those of all others are 0."""

ANSWER = 3.0
"""How much of the answer there is in the last hidden state, relative to the position beside it."""


@dataclass(frozen=True, slots=True)
class Head:
    """An attention head of the decoder that takes part in the answer.

    Attributes:
        layer: its layer, counted from 0.
        kind: `cross` or `self`.
        index: which head of the layer, counted from 0.
    """

    layer: int
    kind: str
    index: int

    @property
    def block(self) -> str:
        """Where the names of its hook points begin: `decoder.1.cross`."""
        return f"decoder.{self.layer}.{self.kind}"

    @property
    def pattern(self) -> str:
        """The hook point of its attention, [batch, head, query, key]; `index` is the head."""
        return f"{self.block}.pattern"


COPY = Head(1, "cross", 0)
"""In `copy_model`: from position t it looks at source token t and writes that word's answer."""

DITTO_FLAG = Head(0, "cross", 0)
"""In `ditto_model`: from position t it looks at source token t and writes whether it is "ditto"."""

DITTO_REPEAT = Head(1, "self", 0)
"""In `ditto_model`: looks at its own position, which holds the word before, if flagged, else at the start."""

DITTO_COPY = Head(2, "cross", 0)
"""In `ditto_model`: what `COPY` does, but of "ditto" it writes nothing."""

_VOCABULARY = (PAD, EOS, "<unk>", MASK, *WORDS)
_LENGTH = 24  # tokens on either side

# Where things stand in the first half of the residual stream; the second half is its negative. Each head is
# as wide as a half, so queries, keys and values use the same places.
_TOKEN = range(len(_VOCABULARY))
_POSITION = range(_TOKEN.stop, _TOKEN.stop + _LENGTH)
_ANSWER = range(_POSITION.stop, _POSITION.stop + len(_VOCABULARY))
_FLAG = _ANSWER.stop
_HALF = _FLAG + 1
_EOS, _DITTO, _START = _VOCABULARY.index(EOS), _VOCABULARY.index(DITTO), _POSITION[0]

# Token and position come in by this amount each: the variance is then 1, and a norm leaves both as they are.
# A position that stands alone becomes √half.
_AMOUNT = math.sqrt(_HALF / 2)

# Where a head looks, the score is above all others by a seventh of this at least: exp(-146) is exactly 0 in
# float32, and stays so when there is noise on the input.
_SHARP = 1024.0
# The gate of `ditto_model` is shut exactly, exp(-128) = 0. Open it is off by exp(-20) = 2e-9, because the
# less steep the way between the two is, the better can integrated gradients follow it.
_SHUT, _OPEN = 128.0, 20.0


def copy_model() -> Seq2Seq:
    """A hand-set BART that repeats its source; output token t depends on source token t alone.

    Exact, for up to 22 words: the right token's logit is `LOGIT` and all others are 0. Attention of `COPY` is
    1 at source token t; the other heads of cross-attention look everywhere alike, the encoder's at their own
    position and the decoder's self-attention at the decoder start, and all of those write 0. Layers: 2 + 2.
    """
    hf = _blank(decoder_layers=2)
    decoder: Any = hf.model.decoder
    with torch.no_grad():
        # The prefix ends here: only the position goes on.
        _let_through(decoder.layernorm_embedding, _POSITION)
        _copy(decoder.layers[COPY.layer].encoder_attn, COPY, _TOKEN)
    return wrap(hf, _tokenizer(), name="copy_model")


def ditto_model() -> Seq2Seq:
    """A hand-set BART that repeats its source, and where that says "ditto" the word it wrote before.

    Where the source says "ditto", output token t depends on source token t and target token t − 1, else on
    source token t alone. Logits are those of `copy_model` (up to 1e-7 at "ditto"); a "ditto" at the very
    start has nothing to repeat, and all words are equally likely. Layers: 2 + 3.
    """
    hf = _blank(decoder_layers=3)
    decoder: Any = hf.model.decoder
    with torch.no_grad():
        _let_through(decoder.layernorm_embedding, _TOKEN, _POSITION)
        _flag(decoder.layers[DITTO_FLAG.layer].encoder_attn, DITTO_FLAG)
        _repeat(decoder.layers[DITTO_REPEAT.layer].self_attn, DITTO_REPEAT)
        # The prefix ends here; the norms from here to the next layer's copying restore the position's amount.
        _let_through(decoder.layers[DITTO_REPEAT.layer].self_attn_layer_norm, _POSITION, _ANSWER)
        _copy(decoder.layers[DITTO_COPY.layer].encoder_attn, DITTO_COPY, [v for v in _TOKEN if v != _DITTO])
    return wrap(hf, _tokenizer(), name="ditto_model")


# ---- what both share -------------------------------------------------------------------------------------


def _blank(decoder_layers: int) -> BartForConditionalGeneration:
    """A BART with embeddings, logits and idle heads set, in which nothing writes into the residual stream."""
    config = BartConfig(
        vocab_size=len(_VOCABULARY),
        d_model=2 * _HALF,
        encoder_layers=2,
        decoder_layers=decoder_layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=4,
        decoder_ffn_dim=4,
        activation_function="relu",
        dropout=0.0,
        max_position_embeddings=_LENGTH,
        scale_embedding=False,
        # Logits are read where answers stand, and not where inputs do.
        tie_word_embeddings=False,
        pad_token_id=_VOCABULARY.index(PAD),
        bos_token_id=None,
        eos_token_id=_EOS,
        decoder_start_token_id=_VOCABULARY.index(PAD),
        forced_eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):  # BART draws random weights, which nobody needs
        hf = BartForConditionalGeneration(config)
    hf.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        max_new_tokens=_LENGTH - 1,
    )
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        for module in hf.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
        _set_embeddings(hf)
        _set_logits(hf)
        for head in range(2):
            for layer in hf.model.encoder.layers:
                _look(layer.self_attn, head, [(_POSITION, _POSITION, 1.0)], [(_POSITION, _POSITION, 1.0)])
            for layer in hf.model.decoder.layers:
                _look(layer.self_attn, head, [(_START, _POSITION, 1.0)], [(_START, _START, 1.0)])
    return hf.eval()


def _set_embeddings(hf: BartForConditionalGeneration) -> None:
    """Tokens and positions, the same on both sides; padding embeds to 0."""
    unit = _AMOUNT * torch.eye(_HALF)
    words, places = unit[list(_TOKEN)], unit[list(_POSITION)]
    words[_VOCABULARY.index(PAD)] = 0
    network: Any = hf.model
    network.shared.weight.copy_(_twice(words))
    for stack in (network.encoder, network.decoder):
        stack.embed_tokens.weight.copy_(_twice(words))
        stack.embed_positions.weight[stack.embed_positions.offset :] = _twice(places)


def _set_logits(hf: BartForConditionalGeneration) -> None:
    """`LOGIT` for a word whose answer is there in full, beside the position."""
    full = ANSWER / math.sqrt(1 + ANSWER**2) * math.sqrt(_HALF)
    hf.lm_head.weight.copy_(_twice(LOGIT / full / 2 * torch.eye(_HALF)[list(_ANSWER)]))


def _let_through(norm: Any, *parts: range) -> None:
    """Make a layer norm drop all other parts of the residual stream."""
    kept = torch.zeros(_HALF)
    for part in parts:
        kept[list(part)] = 1
    norm.weight.copy_(torch.cat([kept, kept]))


# ---- heads -----------------------------------------------------------------------------------------------

# Weights of a linear map: to these places, from those, place by place or all into one.
_Entries = Sequence[tuple[Sequence[int] | int, Sequence[int] | int, float]]


def _map(entries: _Entries) -> Tensor:
    """The matrix [half, half] of a linear map."""
    matrix = torch.zeros(_HALF, _HALF)
    for to, source, weight in entries:
        matrix[torch.tensor(to), torch.tensor(source)] = weight
    return matrix


def _twice(rows: Tensor) -> Tensor:
    """Rows [..., half] as the residual stream holds them: [..., width]."""
    return torch.cat([rows, -rows], dim=-1)


def _rows(head: int) -> slice:
    return slice(head * _HALF, (head + 1) * _HALF)


def _look(attention: Any, head: int, query: _Entries, key: _Entries, sharpness: float = _SHARP) -> None:
    """Set where a head looks. Two positions that agree score `sharpness` where one of them stands alone."""
    # It reads both halves, and the mean of them is the number that stands there.
    attention.q_proj.weight[_rows(head)] = _twice(_map(query) * sharpness / _AMOUNT / 2)
    attention.k_proj.weight[_rows(head)] = _twice(_map(key) / 2)


def _write(attention: Any, head: int, value: _Entries, out: _Entries) -> None:
    """Set what a head writes of what it looks at."""
    attention.v_proj.weight[_rows(head)] = _twice(_map(value) / 2)
    attention.out_proj.weight[:, _rows(head)] = _twice(_map(out).T).T


def _look_at_same_place(attention: Any, head: int) -> None:
    """In cross-attention: at the token with one's own position, and where that is hidden at EOS."""
    query = [(_POSITION, _POSITION, 1.0), (_EOS, _POSITION, 0.5)]
    _look(attention, head, query, [(_POSITION, _POSITION, 1.0), (_EOS, _EOS, 1.0)])


def _copy(attention: Any, head: Head, words: Sequence[int]) -> None:
    """Write the source token in the same place as the answer, if it is one of `words`."""
    _look_at_same_place(attention, head.index)
    # _AMOUNT of a word becomes ANSWER times the position beside it, which is √half.
    _write(attention, head.index, [(words, words, 1.0)], [(_ANSWER, _TOKEN, ANSWER * math.sqrt(2))])


def _flag(attention: Any, head: Head) -> None:
    """Write whether the source token in the same place is "ditto", by the amount of a word."""
    _look_at_same_place(attention, head.index)
    _write(attention, head.index, [(_FLAG, _DITTO, 1.0)], [(_FLAG, _FLAG, 1.0)])


def _repeat(attention: Any, head: Head) -> None:
    """Write the decoder's own input token as the answer where the flag is up, else look at the start.

    Flagged, token, position and flag are √(half / 3) each: the own position scores _OPEN and the start 0.
    Else token and position are √(half / 2) each: the own position scores 1.5 _OPEN, and the start, which
    stands alone, _SHUT more. It is padding, so nothing is written.
    """
    own, start = 1.5 * math.sqrt(2) * _OPEN, 1.5 * _OPEN + _SHUT
    query = [(_POSITION, _POSITION, own), (_FLAG, _POSITION, start), (_FLAG, _FLAG, -start)]
    _look(attention, head.index, query, [(_POSITION, _POSITION, 1.0), (_FLAG, _START, 1.0)], sharpness=1)
    _write(attention, head.index, [(_TOKEN, _TOKEN, 1.0)], [(_ANSWER, _TOKEN, ANSWER)])


# ---- the tokenizer ---------------------------------------------------------------------------------------


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; a text ends in EOS, and nothing stands before it."""
    vocabulary = {token: index for index, token in enumerate(_VOCABULARY)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, _EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token="<unk>",
        mask_token=MASK,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
