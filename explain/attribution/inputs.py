"""Inputs of one generation as embeddings, and the baselines that stand for "nothing here"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.families import vocabulary_size
from explain.model.forward import source_embeddings, target_embeddings
from explain.results import Generation

BASELINES = ("pad", "mean", "unk", "mask", "zero")

SIDES = ("both", "source", "prefix")
"""What moves from the baseline to the input along a path; the other side stays at the input."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The differentiable inputs of one generation.

    Attributes:
        source: [1, source, width], as the encoder expects embeddings.
        target: [1, target, width], decoder inputs: the decoder-start token, then all target tokens but the
            last. Position u + 1 holds target token u.
        source_mask: [1, source], all ones.
        source_baseline, target_baseline: the same shapes with replaceable tokens replaced. Special tokens
            (EOS, language codes, decoder start) keep their embedding, so that the difference between input
            and baseline is the text and nothing else.
    """

    source: Tensor
    target: Tensor
    source_mask: Tensor
    source_baseline: Tensor
    target_baseline: Tensor


def stand_in(model: Seq2Seq) -> str:
    """The baseline that says least in a token's place: the mask token where there is one, or padding."""
    if model.tokenizer.mask_token_id is not None:
        return "mask"
    return "mean" if model.hf.config.pad_token_id is None else "pad"


def baseline_embedding(model: Seq2Seq, baseline: str, target_side: bool) -> Tensor:
    """The embedding [width] that stands for an absent token.

    Raises:
        InputError: unknown baseline, or the tokenizer has no such token.
    """
    if baseline not in BASELINES:
        raise InputError(f"baseline {baseline!r} is not one of {', '.join(BASELINES)}")
    embed = target_embeddings if target_side else source_embeddings
    hf = model.hf
    if baseline in ("zero", "mean"):
        if baseline == "zero":
            return torch.zeros_like(
                embed(hf, model.family, torch.zeros(1, dtype=torch.long, device=hf.device))[0]
            )
        ids = torch.arange(vocabulary_size(hf), device=hf.device)
        return embed(hf, model.family, ids).float().mean(0).to(hf.dtype)
    ids = {
        "pad": hf.config.pad_token_id,
        "unk": model.tokenizer.unk_token_id,
        "mask": model.tokenizer.mask_token_id,
    }
    id_ = ids[baseline]
    if id_ is None:
        raise InputError(
            f"this model has no {baseline} token; choose another baseline: {', '.join(BASELINES)}"
        )
    return embed(hf, model.family, torch.tensor([int(id_)], device=hf.device))[0]


@torch.no_grad()
def inputs_of(model: Seq2Seq, generation: Generation, baseline: str, *, keep_special: bool = True) -> Inputs:
    """Embeddings of a generation and their baselines.

    Special tokens keep their embedding in the baseline unless `keep_special` is false; the decoder-start
    token always does.
    """
    hf, family = model.hf, model.family
    source = source_embeddings(hf, family, generation.source_ids[None].to(model.device))
    target = target_embeddings(hf, family, generation.decoder_input_ids[None].to(model.device))
    kept = [keep_special and token.special for token in generation.source_tokens]
    keep_source = torch.tensor(kept, device=model.device)
    kept = [True, *(keep_special and token.special for token in generation.target_tokens[:-1])]
    keep_target = torch.tensor(kept, device=model.device)
    absent_source = baseline_embedding(model, baseline, target_side=False)
    absent_target = baseline_embedding(model, baseline, target_side=True)
    return Inputs(
        source=source,
        target=target,
        source_mask=torch.ones(source.shape[:2], dtype=torch.long, device=model.device),
        source_baseline=torch.where(keep_source[None, :, None], source, absent_source),
        target_baseline=torch.where(keep_target[None, :, None], target, absent_target),
    )


def split_prefix(decoder: Tensor, spans: Sequence[tuple[int, int]] | None = None) -> tuple[Tensor, Tensor]:
    """Scores per decoder position [rows, target] -> prefix [rows, target] and start [rows].

    Decoder position 0 is the decoder-start token and position u + 1 is target token u, so the columns move
    one to the left; the last target token is never an input. A row that explains target tokens [start, end)
    can only be influenced by tokens before its last one; without `spans` row t explains token t.
    """
    rows, columns = decoder.shape
    prefix = torch.cat([decoder[:, 1:], decoder.new_zeros(rows, 1)], dim=1)
    last = torch.arange(rows) if spans is None else torch.tensor([end - 1 for _, end in spans])
    earlier = torch.arange(columns)[None, :] < last[:, None]
    # Not a product: what lies after the token may be anything, and nan times 0 is nan.
    return prefix.masked_fill(~earlier.to(decoder.device), 0), decoder[:, 0].clone()
