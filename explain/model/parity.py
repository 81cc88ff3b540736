"""The parity gate: whatever way a model is asked, its logits must be the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explain.errors import ParityError
from explain.model.attention import Tap, tapped
from explain.model.families import eos_ids, vocabulary_size
from explain.model.forward import (
    encode_source,
    logits_from_embeddings,
    logits_from_ids,
    source_embeddings,
    target_embeddings,
)
from explain.model.hooks import analysed
from explain.model.text import pieces_of, special_ids

if TYPE_CHECKING:
    from explain.model.seq2seq import Seq2Seq

# Relative to the largest logit: float32 sums in another order differ by about 1e-6, a wrong scale by 1e-1.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `explain doctor`: what was checked, whether it passed, and the figure or the reason."""

    name: str
    passed: bool
    detail: str


def _probe(model: Seq2Seq) -> tuple[Tensor, Tensor, Tensor]:
    """Ids that exercise a model: source [2, 7] with its mask (row 1 is padded), decoder ids [2, 5]."""
    hf = model.hf
    special = set(model.tokenizer.all_special_ids)
    size = vocabulary_size(hf)
    plain = [i for i in range(min(size, 5000)) if i not in special] or list(range(size))
    # Spread over the vocabulary, the same for every run.
    picked = [plain[(7 + 37 * k) % len(plain)] for k in range(24)]
    end = min(eos_ids(hf), default=0)
    pad = int(hf.config.pad_token_id or 0)
    source = torch.tensor([[*picked[:6], end], [*picked[6:9], end, pad, pad, pad]])
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    start = model.decoder_start_id
    decoder = torch.tensor([[start, *picked[10:14]], [start, *picked[14:18]]])
    return source.to(hf.device), mask.to(hf.device), decoder.to(hf.device)


@torch.no_grad()
def parity_checks(model: Seq2Seq) -> list[Check]:
    """Compare logits from ids, embeddings, our attention and single rows with plain Hugging Face."""
    hf, family = model.hf, model.family
    source, mask, decoder = _probe(model)
    with model.lock, analysed(hf):
        plain = logits_from_ids(hf, source, mask, decoder)
        embedded_source = source_embeddings(hf, family, source)
        embedded_target = target_embeddings(hf, family, decoder)
        embedded = logits_from_embeddings(hf, family, embedded_source, embedded_target, mask)
        states = encode_source(hf, family, source, mask)
        shared = logits_from_embeddings(hf, family, None, embedded_target, mask, states=states)
        with tapped(hf, Tap({}, {})):
            ours = logits_from_ids(hf, source, mask, decoder)
        single = torch.cat(
            [
                logits_from_ids(hf, source[:1], mask[:1], decoder[:1]),
                logits_from_ids(hf, source[1:, :4], mask[1:, :4], decoder[1:]),
            ]
        )
    size = float(plain.abs().max().clamp_min(1e-6))
    tolerance = TOLERANCE.get(plain.dtype, 1e-4)
    compared = {
        "logits from embeddings equal logits from ids": embedded,
        "logits from kept encoder states equal logits from ids": shared,
        "logits through our attention function equal Hugging Face's": ours,
        "logits of a padded batch equal those of single rows": single,
    }
    checks = []
    for name, logits in compared.items():
        difference = float((logits - plain).abs().max()) / size
        checks.append(
            Check(name, difference <= tolerance, f"difference {difference:.1e} of the largest logit")
        )
    return checks


def assert_parity(model: Seq2Seq) -> None:
    """Refuse a model whose logits depend on how they are asked for.

    Raises:
        ParityError: names the first check that failed.
    """
    for check in parity_checks(model):
        if not check.passed:
            raise ParityError(
                f"{model.name} fails the parity gate, so nothing about it can be explained: "
                f"not true that {check.name} ({check.detail})"
            )


def doctor(model: Seq2Seq) -> list[Check]:
    """All checks of `explain doctor`: architecture, weights, tokenizer, parity."""
    hf, tokenizer = model.hf, model.tokenizer
    parameters = sum(p.numel() for p in hf.parameters())
    embeddings = vocabulary_size(hf)
    lacking = {id_ for id_ in tokenizer.get_vocab().values() if id_ >= embeddings}
    checks = [
        Check("the architecture is supported", True, f"{type(hf).__name__}, family {model.family.name}"),
        Check("all weights are finite", True, f"{parameters:,} parameters, {hf.dtype}"),
        Check(
            "the dtype is safe",
            hf.dtype in TOLERANCE,
            f"{hf.dtype}; float16 overflows in T5 and is not supported",
        ),
        Check(
            "every word has an embedding",
            lacking <= special_ids(tokenizer),
            f"{embeddings} embeddings; special tokens without one: {len(lacking & special_ids(tokenizer))}",
        ),
        Check(
            "the tokenizer ends a source with EOS",
            tokenizer.eos_token_id is not None,
            f"eos {tokenizer.eos_token!r}, pad {tokenizer.pad_token!r}, unknown {tokenizer.unk_token!r}",
        ),
        Check(
            "the decoder-start token is known",
            True,
            repr(pieces_of(tokenizer, [model.decoder_start_id])[0]),
        ),
        Check(
            "padding goes to the right", True, "batches are padded on the right whatever the tokenizer says"
        ),
    ]
    return checks + parity_checks(model)
