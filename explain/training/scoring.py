"""How well a model does on pairs: loss and token accuracy with targets given, and what it writes itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from explain.model.text import special_ids
from explain.training.batches import IGNORED, collate
from explain.training.data import Pair

SAMPLES = 5
_PAIRS_AT_A_TIME = 125
_LOGITS_AT_A_TIME = 50_000_000


@dataclass(frozen=True, slots=True)
class Encoded:
    """Pairs and their token ids."""

    pairs: Sequence[Pair]
    inputs: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]]

    def head(self, count: int) -> Encoded:
        """The first `count` of them."""
        return Encoded(self.pairs[:count], self.inputs[:count], self.labels[:count])


@dataclass(frozen=True, slots=True)
class Scores:
    """What `score` found.

    Attributes:
        loss: mean negative log-probability of a target token, in nats.
        token_accuracy: share of target tokens that the model puts first when given those before.
        exact_match: share of outputs, greedily decoded, that equal the target.
        chrf: chrF of the outputs (Popović 2015), 0 to 100; None where not asked for.
        examples: number of pairs.
        seconds: time it took.
        samples: the first few sources, targets and outputs.
    """

    loss: float
    token_accuracy: float
    exact_match: float
    chrf: float | None
    examples: int
    seconds: float
    samples: tuple[dict[str, str], ...]

    @property
    def rank(self) -> tuple[float, float]:
        """A better model ranks higher: by exact match, or chrF where outputs are free, then by loss."""
        return (self.exact_match if self.chrf is None else self.chrf), -self.loss

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a JSON object, without the samples."""
        return {
            "loss": self.loss,
            "token_accuracy": self.token_accuracy,
            "exact_match": self.exact_match,
            "chrf": self.chrf,
            "examples": self.examples,
        }


def score(
    model: PreTrainedModel,
    tokenizer: Any,
    data: Encoded,
    *,
    chrf: bool = False,
    forced_bos: int | None = None,
) -> Scores:
    """Score a model; its mode (training or not) is put back afterwards.

    Args:
        model: an encoder–decoder.
        tokenizer: its tokenizer.
        data: the pairs.
        chrf: whether to compute chrF, which means little where there is one right output.
        forced_bos: the first token of every output, such as a language code.
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    loss, right, total = 0.0, 0, 0
    outputs = [""] * len(data.pairs)
    order = sorted(range(len(data.pairs)), key=lambda index: len(data.inputs[index]))
    batch_size = _batch_size(model, max(map(len, data.labels)))
    try:
        with torch.inference_mode():
            for at in range(0, len(order), batch_size):
                rows = order[at : at + batch_size]
                batch = collate(
                    [data.inputs[row] for row in rows],
                    [data.labels[row] for row in rows],
                    tokenizer.pad_token_id,
                )
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                labels = batch.pop("labels")
                logits = model(**batch, labels=labels, use_cache=False).logits.float()
                loss += functional.cross_entropy(
                    logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
                ).item()
                right += int((logits.argmax(-1) == labels).sum())
                total += int((labels != IGNORED).sum())
                for row, text in zip(rows, _write(model, tokenizer, batch, labels, forced_bos), strict=True):
                    outputs[row] = text
    finally:
        model.train(was_training)
    targets = [pair.target for pair in data.pairs]
    exact = sum(a.strip() == b.strip() for a, b in zip(outputs, targets, strict=True))
    return Scores(
        loss=loss / total,
        token_accuracy=right / total,
        exact_match=exact / len(outputs),
        chrf=_chrf(outputs, targets) if chrf else None,
        examples=len(outputs),
        seconds=time.perf_counter() - start,
        samples=tuple(
            {"source": pair.source, "target": pair.target, "output": output}
            for pair, output in list(zip(data.pairs, outputs, strict=True))[:SAMPLES]
        ),
    )


def _write(
    model: PreTrainedModel,
    tokenizer: Any,
    batch: dict[str, Any],
    labels: torch.Tensor,
    forced_bos: int | None,
) -> list[str]:
    """Greedy outputs; they may be half as long again as the longest target."""
    writer: Any = model
    ids = writer.generate(
        **batch,
        do_sample=False,
        num_beams=1,
        max_new_tokens=_limit(model, int(labels.shape[1])),
        **({} if forced_bos is None else {"forced_bos_token_id": forced_bos}),
    )
    special = special_ids(tokenizer)
    return tokenizer.batch_decode([[id_ for id_ in row if id_ not in special] for row in ids.tolist()])


def _batch_size(model: PreTrainedModel, longest: int) -> int:
    """As many pairs at a time as keep the logits within some hundred megabytes."""
    return max(1, min(_PAIRS_AT_A_TIME, _LOGITS_AT_A_TIME // (longest * model.config.vocab_size)))


def _limit(model: PreTrainedModel, longest: int) -> int:
    positions = getattr(model.config, "max_position_embeddings", None) or 10**6
    return max(1, min(longest + longest // 2 + 4, positions - 2))


def _chrf(outputs: Sequence[str], targets: Sequence[str]) -> float:
    from sacrebleu import corpus_chrf

    return corpus_chrf(list(outputs), [list(targets)]).score
