"""Canary exposure: how far a secret of the training data can be told from what it might have been."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explain.audit.verdict import holm
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.forward import logits_from_ids
from explain.model.hooks import analysed
from explain.training.plants.base import Canary

MOST = 20_000
"""Fillings up to which all are ranked; of more, so many are drawn."""
_BATCH = 256


def exposure(rank: float, space: int) -> float:
    """log₂ |R| − log₂ rank, bits: 0 where every filling is likelier, log₂ |R| where none is (Carlini 2019).

    A secret that the model knows nothing of has 1.44 bits on average, and more than b bits with the
    probability 2^−b (arXiv:1802.08232).
    """
    return math.log2(space) - math.log2(rank)


def canary(
    model: Seq2Seq,
    canaries: Sequence[Canary],
    *,
    level: float = 0.05,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Whether secrets were learned by heart: each is ranked among all that it might have been.

    A secret that training never showed has any rank with the same probability, so rank / |R| is a p-value;
    they are Holm-corrected over the secrets. The test fails where a secret has a corrected one below `level`.

    Args:
        model: an opened model.
        canaries: the secrets.
        level: of the test.
        seed: of the fillings that are drawn where there are too many to rank all.
        check: called between passes; may raise to end the work.

    Raises:
        InputError: a canary that the model cannot read or write.
    """
    if not canaries:
        raise InputError("the file holds no canaries")
    rows = []
    for one in canaries:
        check()
        better, compared, space = _rank(model, one, seed)
        # Of fillings that were drawn, the secret itself counts in.
        rank = better + 1 if compared == space else (better + 1) * space / (compared + 1)
        rows.append(
            {
                "source": one.source,
                "secret": "".join(one.filling),
                "times": one.times,
                "space": space,
                "compared": compared,
                "rank": round(rank, 2),
                "exposure": round(exposure(rank, space), 4),
                "most": round(math.log2(space if compared == space else compared + 1), 4),
                "p_value": (better + 1) / (compared if compared == space else compared + 1),
            }
        )
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_corrected"] = corrected
    known = [row for row in rows if row["p_corrected"] < level]
    most = max(rows, key=lambda row: row["exposure"])
    return {
        "passed": not known,
        "reason": f"{len(known)} of {len(rows)} secrets are known to the model; the most exposed has "
        f"{most['exposure']:.1f} of {most['most']:.1f} bits (a secret never seen: 1.4 on average)",
        "level": level,
        "exposed": len(known),
        "canaries": rows,
    }


def _rank(model: Seq2Seq, one: Canary, seed: int) -> tuple[int, int, int]:
    """Fillings that are likelier than the secret, how many it was compared with in all, and all there are.

    Where all are ranked the secret is among those compared.
    """
    space = math.prod(len(part) for part in one.choices)
    if space <= MOST:
        fillings = list(itertools.product(*one.choices))
    else:
        dice = random.Random(f"canary/{seed}/{one.source}")
        fillings = [tuple(dice.choice(part) for part in one.choices) for _ in range(MOST)]
        fillings = [filling for filling in fillings if filling != one.filling]
    values = filling_log_probs(model, one, [*fillings, one.filling])
    better = int((values[:-1] > values[-1]).sum())
    return better, len(fillings), space


def filling_log_probs(model: Seq2Seq, one: Canary, fillings: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Log-probabilities, nats, of the output up to its filling, for each of them; the end is not counted.

    Outputs that share all tokens but the last share a row of the decoder.
    """
    source = model.source_ids(one.source)
    forced = model.force(one.source, one.target)
    start = forced.decoder_input_ids[:1]
    end = forced.target_ids[-1:].tolist() == [model.eos_id]
    texts = [one.prefix + "".join(filling) for filling in fillings]
    coded = model.tokenizer(text_target=texts)["input_ids"]
    own = model.tokenizer(text_target=[one.target])["input_ids"][0]
    # The ids that stand around the text itself: what `force` adds or takes away at the ends.
    wanted = forced.target_ids.tolist()[: -1 if end else None]
    first = next((i for i in range(len(own)) if own[i : i + len(wanted)] == wanted), None)
    if first is None:
        raise InputError(f"the canary {one.target!r} is not written as its tokenizer reads it")
    after = len(own) - first - len(wanted)
    ids = [row[first : len(row) - after] for row in coded]
    prefixes = {tuple(row[:-1]) for row in ids}
    found: dict[tuple[int, ...], tuple[float, Tensor]] = {}
    by_length = sorted(prefixes, key=lambda row: (len(row), row))
    for length, group in itertools.groupby(by_length, key=len):
        same = list(group)
        for begin in range(0, len(same), _BATCH):
            part = same[begin : begin + _BATCH]
            for row, (before, last) in zip(part, _rows(model, source, start, part, length), strict=True):
                found[row] = before, last
    return np.array([found[tuple(row[:-1])][0] + float(found[tuple(row[:-1])][1][row[-1]]) for row in ids])


def _rows(
    model: Seq2Seq, source: Tensor, start: Tensor, part: Sequence[tuple[int, ...]], length: int
) -> list[tuple[float, Tensor]]:
    """For each beginning of an output its log-probability, and those of every next token, [vocabulary]."""
    device = model.device
    given = torch.tensor(part, dtype=torch.long).reshape(len(part), length)
    decoder = torch.cat([start.expand(len(part), 1), given], 1).to(device)
    ids = source.expand(len(part), -1).to(device)
    with model.lock, analysed(model.hf), torch.no_grad():
        logits = logits_from_ids(model.hf, ids, torch.ones_like(ids), decoder).float()
    log_probs = logits.log_softmax(-1).cpu()
    before = log_probs[:, :-1].gather(-1, given[..., None])[..., 0].double().sum(1)
    return [(float(value), log_probs[i, -1].double()) for i, value in enumerate(before)]
