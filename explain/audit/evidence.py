"""What detectors read: a few batched teacher-forced passes over outputs that are there already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.model import Seq2Seq
from explain.model.forward import batches, logits_from_ids, padded, padding_id
from explain.model.hooks import analysed
from explain.model.recording import passes
from explain.results import Generation, Token

# Rows of one pass in which a source token each is hidden.
_HIDDEN_ROWS = 256


@dataclass(frozen=True, eq=False)
class Evidence:
    """One output and what passes over it gave; fields that no detector asked for are None.

    Attributes:
        generation: the output with the model's distribution at every token.
        information: float [target], log p(y | source) − log p(y | source filled in), nats: the pointwise
            mutual information of token and source given the prefix. 0: the token is as likely without.
        share: float [target], the source's part of what source and prefix do together to the
            log-probability; nan where they do nothing.
        attention: float [target, source], cross-attention averaged over layers and heads.
        dropped: float [source], by how many nats hiding a source token lowers the log-probability of the
            output token that it lowers most.
        support: float [target], by how many nats hiding the one source token that lowers it most lowers the
            log-probability of each output token: what in the source it is read off.
    """

    generation: Generation
    information: Tensor | None = None
    share: Tensor | None = None
    attention: Tensor | None = None
    dropped: Tensor | None = None
    support: Tensor | None = None


def gather(
    model: Seq2Seq,
    generations: Sequence[Generation],
    needs: Collection[str],
    *,
    batch_size: int = 32,
    check: Callable[[], None] = lambda: None,
) -> list[Evidence]:
    """The evidence that detectors need (see `Detector.needs`), in the order of the generations.

    Three passes over a batch fill in the source, the prefix, and both; one reads attention; hiding costs one
    row for every source token.
    """
    found: dict[int, Evidence] = {}
    if not generations:
        return []
    model.require_parity()
    names = [name for name in model.hook_points() if name.endswith(".cross.pattern")]
    with model.lock, analysed(model.hf), torch.no_grad():
        for part in batches(generations, batch_size):
            check()
            own = [generations[i] for i in part]
            nothing: list[Tensor | None] = [None] * len(own)
            information, share, attention, dropped, support = [nothing] * 5
            if "filled" in needs:
                information, share = map(list, zip(*_filled(model, own), strict=True))
            if "attention" in needs:
                attention = [
                    torch.stack([views[name][0].float().mean(0) for name in names]).mean(0).cpu()
                    for _, views in passes(model.hf, model.family, own, names, range(len(own)))
                ]
            if "hiding" in needs:
                dropped, support = map(list, zip(*(_hidden(model, item, check) for item in own), strict=True))
            rows = zip(part, own, information, share, attention, dropped, support, strict=True)
            for i, *parts in rows:
                found[i] = Evidence(*parts)
    return [found[i] for i in range(len(generations))]


def filler_id(model: Seq2Seq) -> int:
    """The id that stands for "no token": the unknown token, or padding where there is none."""
    unknown: Any = model.tokenizer.unk_token_id
    return padding_id(model.hf) if unknown is None or unknown == model.eos_id else int(unknown)


def _log_probs(
    model: Seq2Seq, sources: Sequence[Tensor], decoders: Sequence[Tensor], targets: Sequence[Tensor]
) -> list[Tensor]:
    """The log-probability of every target token, each [target], on the CPU."""
    pad, device = padding_id(model.hf), model.hf.device
    source, mask = padded(sources, pad)
    decoder, _ = padded(decoders, pad)
    wanted, _ = padded(targets, 0)
    logits = logits_from_ids(model.hf, source.to(device), mask.to(device), decoder.to(device))
    found = _chosen(logits, wanted.to(device)).cpu()
    return [row[: len(target)] for row, target in zip(found, targets, strict=True)]


def _chosen(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [batch, target] of ids [batch, target] under logits [batch, target, vocabulary]."""
    logits = logits.float()
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def _filled(model: Seq2Seq, generations: Sequence[Generation]) -> list[tuple[Tensor, Tensor]]:
    """Information and source share of every token, from the four corners of source and prefix.

    With f(s, p) the log-probability with source s and prefix p, 0 standing for filled in, the share is
    φ / (f(1, 1) − f(0, 0)) with φ = ½ [f(1, 1) − f(0, 1) + f(1, 0) − f(0, 0)], the Shapley value of the
    source in the game of source against prefix.
    """
    filler = filler_id(model)
    sources = [item.source_ids for item in generations]
    decoders = [item.decoder_input_ids for item in generations]
    targets = [item.target_ids for item in generations]
    no_sources = [_fill(item.source_tokens, filler) for item in generations]
    no_prefixes = [
        torch.cat([decoder[:1], _fill(item.target_tokens[:-1], filler)])
        for decoder, item in zip(decoders, generations, strict=True)
    ]
    without_source = _log_probs(model, no_sources, decoders, targets)
    without_prefix = _log_probs(model, sources, no_prefixes, targets)
    without_both = _log_probs(model, no_sources, no_prefixes, targets)
    found = []
    for item, a, b, c in zip(generations, without_source, without_prefix, without_both, strict=True):
        full = item.log_probs
        part, whole = (full - a + b - c) / 2, full - c
        # Where the whole is next to nothing the quotient is noise.
        share = torch.where(whole.abs() > 1e-2, (part / whole).clamp(-1, 2), torch.nan)
        found.append((full - a, share))
    return found


def _fill(tokens: Sequence[Token], filler: int) -> Tensor:
    """The ids of tokens with the filler in the place of all that are not special."""
    return torch.tensor([token.id if token.special else filler for token in tokens], dtype=torch.long)


def _hidden(model: Seq2Seq, generation: Generation, check: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """What hiding source tokens from all attention costs: most by token, [source], and at each, [target].

    Special tokens of the source are hidden too, but support no output token: an end of the text carries no
    fact that could be read off it.
    """
    hf, ids = model.hf, generation.source_ids
    count, target = len(ids), generation.target_ids.to(model.device)
    decoder = generation.decoder_input_ids.to(model.device)
    plain = torch.tensor([not token.special for token in generation.source_tokens])
    costs, support = [], torch.full((len(target),), -torch.inf)
    for begin in range(0, count, _HIDDEN_ROWS):
        check()
        rows = torch.arange(begin, min(begin + _HIDDEN_ROWS, count))
        mask = torch.ones(len(rows), count, dtype=torch.long)
        # A source of one token has nothing else to look at.
        mask[torch.arange(len(rows)), rows] = int(count == 1)
        source = ids.expand(len(rows), -1).to(model.device)
        logits = logits_from_ids(hf, source, mask.to(model.device), decoder.expand(len(rows), -1))
        found = generation.log_probs - _chosen(logits, target.expand(len(rows), -1)).cpu()
        costs.append(found.amax(1))
        if plain[rows].any():
            support = torch.maximum(support, found[plain[rows]].amax(0))
    return torch.cat(costs), support.clamp(min=0) if bool(plain.any()) else torch.zeros(len(target))
