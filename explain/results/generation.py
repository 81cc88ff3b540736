"""A generated or given output, with what the model thought of every token of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from explain.errors import InputError
from explain.results.tokens import Token


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that the model might have written instead; rank 1 is the most likely."""

    text: str
    id: int
    log_prob: float
    rank: int


@dataclass(frozen=True, slots=True)
class Beam:
    """One hypothesis of beam search; `score` is its length-normalised log-probability in nats."""

    text: str
    ids: tuple[int, ...]
    score: float


@dataclass(frozen=True, eq=False)
class Generation:
    """One source, one output, and the model's distribution at every output token.

    The numbers come from one teacher-forced pass over the final ids, without temperature or any other
    reshaping, so they are comparable between greedy, beam, sampled and forced outputs.

    Attributes:
        source_text: the text as given.
        target_text: the output without special tokens.
        source_tokens: all encoder positions, special tokens included.
        target_tokens: all output tokens; the last one is EOS unless the output was cut (`finished`).
        decoder_start: the token at decoder position 0; it is never scored.
        log_probs: float [target], natural log of the probability of each token; 0 means certain.
        entropy: float [target], nats, of the whole next-token distribution; 0 means no doubt.
        ranks: int [target], 1 when the token was the most likely one.
        top_ids: int [target, k], the k most likely tokens.
        top_log_probs: float [target, k], their log-probabilities.
        top_texts: their texts.
        beams: the hypotheses of beam search, best first; empty for other decoding.
        finished: the output ends in EOS; false when it was cut at `max_new_tokens`.
        settings: how it was decoded (`{"decoding": "forced"}` for a given output).
        model_digest: digest of the model's weights and configuration.
    """

    source_text: str
    target_text: str
    source_tokens: tuple[Token, ...]
    target_tokens: tuple[Token, ...]
    decoder_start: Token
    log_probs: Tensor
    entropy: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_log_probs: Tensor
    top_texts: tuple[tuple[str, ...], ...]
    beams: tuple[Beam, ...] = ()
    finished: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str = ""

    @property
    def source_ids(self) -> Tensor:
        """Encoder input ids, int [source]."""
        return torch.tensor([token.id for token in self.source_tokens])

    @property
    def target_ids(self) -> Tensor:
        """Output ids, int [target]."""
        return torch.tensor([token.id for token in self.target_tokens])

    @property
    def decoder_input_ids(self) -> Tensor:
        """Decoder input ids, int [target]: the decoder-start token, then every output token but the last."""
        return torch.tensor([self.decoder_start.id, *(token.id for token in self.target_tokens[:-1])])

    def alternatives(self, step: int, k: int = 5) -> list[Alternative]:
        """The k most likely tokens at output position `step`, best first.

        Raises:
            InputError: there is no such step, or fewer than k alternatives were kept.
        """
        if not 0 <= step < len(self.target_tokens):
            raise InputError(f"step {step} is outside the output (0 to {len(self.target_tokens) - 1})")
        kept = self.top_ids.shape[1]
        if not 1 <= k <= kept:
            raise InputError(f"k={k}: between 1 and {kept} alternatives are kept for each step")
        return [
            Alternative(
                text=self.top_texts[step][index],
                id=int(self.top_ids[step, index]),
                log_prob=float(self.top_log_probs[step, index]),
                rank=index + 1,
            )
            for index in range(k)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The generation as a JSON object; `from_dict` reads it back."""
        return {
            "source_text": self.source_text,
            "target_text": self.target_text,
            "source": [token.to_dict() for token in self.source_tokens],
            "target": [token.to_dict() for token in self.target_tokens],
            "decoder_start": self.decoder_start.to_dict(),
            "log_probs": self.log_probs.tolist(),
            "entropy": self.entropy.tolist(),
            "ranks": self.ranks.tolist(),
            "top_ids": self.top_ids.tolist(),
            "top_log_probs": self.top_log_probs.tolist(),
            "top_texts": [list(row) for row in self.top_texts],
            "beams": [{"text": b.text, "ids": list(b.ids), "score": b.score} for b in self.beams],
            "finished": self.finished,
            "settings": dict(self.settings),
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Generation:
        """Read a generation back from its JSON object."""
        return cls(
            source_text=data["source_text"],
            target_text=data["target_text"],
            source_tokens=tuple(Token.from_dict(item) for item in data["source"]),
            target_tokens=tuple(Token.from_dict(item) for item in data["target"]),
            decoder_start=Token.from_dict(data["decoder_start"]),
            log_probs=torch.tensor(data["log_probs"]),
            entropy=torch.tensor(data["entropy"]),
            ranks=torch.tensor(data["ranks"], dtype=torch.long),
            top_ids=torch.tensor(data["top_ids"], dtype=torch.long),
            top_log_probs=torch.tensor(data["top_log_probs"]),
            top_texts=tuple(tuple(row) for row in data["top_texts"]),
            beams=tuple(Beam(b["text"], tuple(b["ids"]), b["score"]) for b in data["beams"]),
            finished=data["finished"],
            settings=data["settings"],
            model_digest=data["model_digest"],
        )
