"""Lenses: what a model would write if it went straight to the output from an earlier layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from explain.analysis.inputs import require_same_vocabulary
from explain.attribution.objectives import Foil
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.families import Side, eos_ids, layers, max_positions, submodule, vocabulary_size
from explain.model.forward import hidden_of, project, target_embeddings
from explain.model.generation import Controls, run_generate
from explain.model.hooks import analysed, hooked
from explain.model.recording import passes
from explain.model.text import decode, pieces_of, token_text
from explain.results import Generation, Token

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Watched:
    """A token whose rank is followed through the layers."""

    text: str
    id: int


@dataclass(frozen=True, eq=False)
class Lens:
    """The next-token distribution read off each layer, at every position of an output with its prefix given.

    Of equally likely tokens the last place counts, so that rank 1 means: more likely than every other.

    Attributes:
        name: `logit_lens` (layers of the decoder) or `decoder_lens` (layers of the encoder).
        layers: the hook points that were read, in order; the first is the embedding.
        source_text: the source.
        target_text: the output.
        target_tokens: the tokens that were written, EOS included.
        ranks: int [layer, target], rank of the token that was written; 1 is the most likely.
        log_probs: float [layer, target], nats, its log-probability; 0 means certain.
        entropy: float [layer, target], nats, of the distribution; 0 means no doubt.
        kl: float [layer, target], nats, KL(model's own ‖ layer's): what stopping there loses; 0: nothing.
        top_ids: int [layer, target, k], the most likely tokens, best first.
        top_log_probs: float [layer, target, k], nats.
        top_texts: their texts.
        watched: the tokens asked for.
        watched_ranks: int [layer, target, watched].
        watched_log_probs: float [layer, target, watched], nats.
        error: the largest difference between a logit of the last layer and the model's own; 0 is exact. It
            is rounding, unless an intervention changes logits after the last layer.
        outputs: what the decoder writes by itself from each layer, greedily; empty if not asked for.
        model_digest: of the model that was looked at.
    """

    name: str
    layers: tuple[str, ...]
    source_text: str
    target_text: str
    target_tokens: tuple[Token, ...]
    ranks: Tensor
    log_probs: Tensor
    entropy: Tensor
    kl: Tensor
    top_ids: Tensor
    top_log_probs: Tensor
    top_texts: tuple[tuple[tuple[str, ...], ...], ...]
    watched: tuple[Watched, ...]
    watched_ranks: Tensor
    watched_log_probs: Tensor
    error: float
    outputs: tuple[str, ...] = ()
    model_digest: str = ""

    @property
    def settled(self) -> Tensor:
        """Int [target]: index in `layers` from which on the token written is the most likely one, to the end.

        −1 where it is not in the end either.
        """
        first = self.ranks == 1
        held = first.flip(0).cumprod(0).sum(0)  # how many of the last layers agree
        return torch.where(held > 0, len(self.layers) - held, -1)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and position.

        Columns: `layer` (index), `point`, `position`, `token`, `rank`, `log_prob`, `entropy`, `kl`, `top`
        (texts, best first), `top_log_probs`, and `rank of …` and `log_prob of …` of every watched token.
        """
        import pandas as pd

        rows = []
        for k, point in enumerate(self.layers):
            for t, token in enumerate(self.target_tokens):
                row: dict[str, Any] = {
                    "layer": k,
                    "point": point,
                    "position": t,
                    "token": token.text,
                    "rank": int(self.ranks[k, t]),
                    "log_prob": float(self.log_probs[k, t]),
                    "entropy": float(self.entropy[k, t]),
                    "kl": float(self.kl[k, t]),
                    "top": self.top_texts[k][t],
                    "top_log_probs": tuple(self.top_log_probs[k, t].tolist()),
                }
                for w, watched in enumerate(self.watched):
                    row[f"rank of {watched.text}"] = int(self.watched_ranks[k, t, w])
                    row[f"log_prob of {watched.text}"] = float(self.watched_log_probs[k, t, w])
                rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """The lens as a JSON object."""
        return {
            "name": self.name,
            "layers": list(self.layers),
            "source_text": self.source_text,
            "target_text": self.target_text,
            "target": [token.to_dict() for token in self.target_tokens],
            **{name: getattr(self, name).tolist() for name in (*_WHOLE, *_REAL)},
            "top_texts": [[list(texts) for texts in layer] for layer in self.top_texts],
            "watched": [{"text": item.text, "id": item.id} for item in self.watched],
            "error": self.error,
            "outputs": list(self.outputs),
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lens:
        """Read a lens back from its JSON object."""
        shape = len(data["layers"]), len(data["target"]), -1
        watched = tuple(Watched(item["text"], int(item["id"])) for item in data["watched"])

        def tensor(name: str, dtype: torch.dtype) -> Tensor:
            found = torch.tensor(data[name], dtype=dtype)
            if name.startswith("watched"):
                return found.reshape(*shape[:2], len(watched))
            return found.reshape(shape if name.startswith("top") else shape[:2])

        return cls(
            name=data["name"],
            layers=tuple(data["layers"]),
            source_text=data["source_text"],
            target_text=data["target_text"],
            target_tokens=tuple(Token.from_dict(token) for token in data["target"]),
            top_texts=tuple(tuple(tuple(texts) for texts in layer) for layer in data["top_texts"]),
            watched=watched,
            error=math.nan if data["error"] is None else float(data["error"]),
            outputs=tuple(data["outputs"]),
            model_digest=data["model_digest"],
            **{name: tensor(name, torch.long) for name in _WHOLE},
            **{name: tensor(name, torch.float32) for name in _REAL},
        )


_WHOLE = ("ranks", "top_ids", "watched_ranks")
_REAL = ("log_probs", "entropy", "kl", "top_log_probs", "watched_log_probs")


def logit_lens(
    model: Seq2Seq,
    generation: Generation,
    *,
    top: int = 5,
    watch: Foil | Sequence[Foil] | None = None,
) -> Lens:
    """Read the embedding and every layer of the decoder as if it were the last one.

    A layer's residual stream goes through the decoder's final norm, where the family has one (BART's and
    Marian's norms stand after each block, so their layers are normalised already), and the model's own output
    projection with its bias and scale. The last layer gives the model's logits (`Lens.error`). Early layers
    need not keep their guess in the output's own directions: a word that does not show is not shown to be
    absent.

    nostalgebraist 2020, "interpreting GPT: the logit lens".

    Args:
        model: an opened model.
        generation: the output; its prefix is given at every position.
        top: how many of the most likely tokens to keep per layer and position.
        watch: tokens to follow beside those written: texts of one token, ids, or `alternatives()`.

    Raises:
        InputError: a text to watch that is not one token, or an output of another vocabulary.
    """
    watched = _prepared(model, generation, top, watch)
    hf, family = model.hf, model.family
    points = ["decoder.embed", *(f"decoder.{i}.residual" for i in range(len(layers(hf, family.decoder))))]
    with model.lock, analysed(hf), torch.no_grad():
        [(_, found)] = passes(hf, family, [generation], [*points, "logits"], [0])
        logits = (project(hf, final_normed(hf, family.decoder, found[point][0])) for point in points)
        return _lens(model, "logit_lens", points, generation, logits, found["logits"][0], watched, top)


def decoder_lens(
    model: Seq2Seq,
    generation: Generation,
    *,
    top: int = 5,
    watch: Foil | Sequence[Foil] | None = None,
    write: bool = False,
) -> Lens:
    """Let the whole decoder read each layer of the encoder as if it were the last one (DecoderLens).

    The embedding and the residual stream after each encoder layer, through the encoder's final norm where the
    family has one, stand in for the encoder's output in all cross-attention. The prefix is the output's own.
    The last layer gives the model's own logits (`Lens.error`).

    Langedijk et al. 2023, arXiv:2310.03686.

    Args:
        model: an opened model.
        generation: the output; its prefix is given at every position.
        top: how many of the most likely tokens to keep per layer and position.
        watch: tokens to follow beside those written: texts of one token, ids, or `alternatives()`.
        write: also let the decoder write by itself, greedily, from each layer (`Lens.outputs`).

    Raises:
        InputError: a text to watch that is not one token, or an output of another vocabulary.
    """
    watched = _prepared(model, generation, top, watch)
    hf, family = model.hf, model.family
    points = ["encoder.embed", *(f"encoder.{i}.residual" for i in range(len(layers(hf, family.encoder))))]
    with model.lock, analysed(hf), torch.no_grad():
        [(_, found)] = passes(hf, family, [generation], [*points, "logits"], [0])
        residuals = torch.cat([found[point] for point in points])  # [layer, source, width]
        states = final_normed(hf, family.encoder, residuals)
        prefix = target_embeddings(hf, family, generation.decoder_input_ids[None].to(model.device))
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=model.device)
        hidden = hidden_of(hf, family, states, prefix.expand(len(states), -1, -1), mask)
        logits = (project(hf, layer) for layer in hidden)
        outputs = _written(model, generation, residuals) if write else ()
        return _lens(
            model, "decoder_lens", points, generation, logits, found["logits"][0], watched, top, outputs
        )


def final_normed(hf: PreTrainedModel, side: Side, residual: Tensor) -> Tensor:
    """A residual stream [..., width] through the norm at the end of its stack, if the family has one."""
    return residual if side.final_norm is None else final_norm(hf, side)(residual)


def final_norm(hf: PreTrainedModel, side: Side) -> torch.nn.Module:
    """The norm at the end of a stack of a family that has one."""
    return submodule(hf, f"{side.stack}.{side.final_norm}")


def _prepared(
    model: Seq2Seq, generation: Generation, top: int, watch: Foil | Sequence[Foil] | None
) -> tuple[Watched, ...]:
    require_same_vocabulary(model, [generation])
    require_top(model, top)
    model.require_parity()
    items = [] if watch is None else watch if isinstance(watch, (list, tuple)) else [watch]
    return tuple(_watched(model, item) for item in items)


def require_top(model: Seq2Seq, top: int) -> None:
    """Refuse a number of tokens to keep that the vocabulary does not have.

    Raises:
        InputError: it is below 1 or above the vocabulary.
    """
    size = vocabulary_size(model.hf)
    if not isinstance(top, int) or not 1 <= top <= size:
        raise InputError(f"top is {top!r}; it must be 1 to {size}, the size of the vocabulary")


def _watched(model: Seq2Seq, item: Any) -> Watched:
    """One token to watch. A word without a space stands for the word inside a text, if that is one token."""
    if isinstance(item, str):
        inner, opening = model.foil_ids(f" {item.strip()}"), model.foil_ids(item)
        ids = next((ids for ids in (inner, opening) if len(ids) == 1), inner)
        if len(ids) > 1:
            pieces = ", ".join(
                f"{piece!r} ({id_})" for piece, id_ in zip(_pieces(model, ids), ids, strict=True)
            )
            raise InputError(f"{item!r} is {len(ids)} tokens: {pieces}; watch one of them by its id")
        id_ = ids[0]
    else:
        id_ = item if isinstance(item, int) else getattr(item, "id", None)
    if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ < vocabulary_size(model.hf):
        raise InputError(f"{item!r} cannot be watched; give a text, an id, or one of alternatives()")
    return Watched(token_text(model.tokenizer, id_), id_)


def _pieces(model: Seq2Seq, ids: Sequence[int]) -> list[str]:
    return pieces_of(model.tokenizer, ids)


def _lens(
    model: Seq2Seq,
    name: str,
    points: Sequence[str],
    generation: Generation,
    logits: Iterable[Tensor],
    own: Tensor,
    watched: tuple[Watched, ...],
    top: int,
    outputs: tuple[str, ...] = (),
) -> Lens:
    """Read the layers' logits, each [target, vocabulary], one at a time; `own` are the model's."""
    followed = torch.tensor([item.id for item in watched], dtype=torch.long, device=own.device)
    targets = generation.target_ids.to(own.device)[:, None]
    ids = torch.cat([targets, followed.expand(len(targets), -1)], 1)  # [target, 1 + watched]
    final = own.float().log_softmax(-1)
    readings, last = [], own
    for last in logits:
        readings.append(_read(last, final, ids, top))
    ranks, log_probs, entropy, kl, top_ids, top_log_probs = (
        torch.stack(parts).cpu() for parts in zip(*readings, strict=True)
    )
    texts = {id_: token_text(model.tokenizer, id_) for id_ in top_ids.unique().tolist()}
    return Lens(
        name=name,
        layers=tuple(points),
        source_text=generation.source_text,
        target_text=generation.target_text,
        target_tokens=generation.target_tokens,
        ranks=ranks[..., 0],
        log_probs=log_probs[..., 0],
        entropy=entropy,
        kl=kl,
        top_ids=top_ids,
        top_log_probs=top_log_probs,
        top_texts=tuple(tuple(tuple(texts[i] for i in row) for row in layer) for layer in top_ids.tolist()),
        watched=watched,
        watched_ranks=ranks[..., 1:],
        watched_log_probs=log_probs[..., 1:],
        error=float((last.float() - own.float()).abs().max()),
        outputs=outputs,
        model_digest=model.digest,
    )


def _read(logits: Tensor, final: Tensor, ids: Tensor, top: int) -> tuple[Tensor, ...]:
    """Ranks and log-probs of `ids`, entropy, KL and the top tokens of logits [target, vocabulary]."""
    log_probs = logits.float().log_softmax(-1)
    chosen = log_probs.gather(1, ids)  # [target, 1 + watched]
    ranks = torch.stack([(log_probs >= column[:, None]).sum(1) for column in chosen.T], 1)
    best = log_probs.topk(top, dim=1)
    entropy = torch.special.entr(log_probs.exp()).sum(1)
    # A probability of 0 adds nothing, but -inf · 0 is nan.
    share = final.exp()
    kl = torch.where(share > 0, share * (final - log_probs), 0).sum(1)
    return ranks, chosen, entropy.clamp_min(0), kl.clamp_min(0), best.indices, best.values


def _written(model: Seq2Seq, generation: Generation, residuals: Tensor) -> tuple[str, ...]:
    """What the decoder writes greedily from each residual stream [layer, source, width] of the encoder."""
    hf, family = model.hf, model.family
    first = generation.target_tokens[0]
    length = 2 * len(generation.target_tokens) + 8
    controls = Controls(max_new_tokens=int(min(length, max_positions(hf) - 1)))
    # In front of the final norm, which the encoder then does itself.
    last = f"encoder.{len(layers(hf, family.encoder)) - 1}.residual"
    with hooked(hf, family, {last: lambda _: residuals}):
        decoded = run_generate(
            hf,
            [generation.source_ids] * len(residuals),
            controls,
            start=generation.decoder_start.id,
            forced_bos=first.id if first.special and first.id not in eos_ids(hf) else None,
        )
    return tuple(decode(model.tokenizer, item.ids, [False] * len(item.ids))[0] for item in decoded)
