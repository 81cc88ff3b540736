"""Watching a beam search: which beams it followed, and what it took every token of them for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from explain.model import text
from explain.results.beams import BeamNode

Ids = tuple[int, ...]


class Followed(LogitsProcessor):
    """Notes the beams of one source while Hugging Face's beam search runs, and changes nothing.

    At every step the search hands its processors the beams that it follows, [beam, length], and their next
    log-probabilities, [beam, vocabulary]. Which continuations it keeps follows from these: the best sums.
    """

    def __init__(self, beams: int, ends: set[int], prompt: int) -> None:
        self.beams, self.ends, self.prompt = beams, ends, prompt
        # By the ids written: the token's log-probability, and the sum up to it.
        self.followed: dict[Ids, tuple[float, float]] = {}
        self.ended: set[Ids] = set()
        self._offered: dict[Ids, tuple[float, float]] = {(): (0.0, 0.0)}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Note the beams; `scores` go back as they came."""
        rows: list[Ids] = [tuple(row) for row in input_ids[:, self.prompt :].tolist()]
        totals = torch.full((len(rows), 1), -math.inf, dtype=scores.dtype)
        for at, row in enumerate(rows):
            # The search starts from one beam and fills the others' places with copies that cannot win.
            if row in self._offered and row not in rows[:at]:
                totals[at] = self._offered[row][1]
                if row:
                    self.followed[row] = self._offered[row]
        summed = (scores + totals.to(scores.device)).flatten()
        # As many as the search itself looks at: enough to go on where all of the best end.
        best = summed.topk(min(len(summed), self.beams * max(2, 1 + len(self.ends))))
        width = scores.shape[1]
        self._offered = {}
        for place, (total, at) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            if not math.isfinite(total):
                continue
            ids = (*rows[at // width], at % width)
            self._offered[ids] = float(scores[at // width, at % width]), total
            if at % width in self.ends and place < self.beams:
                self._end(ids)
        return scores

    def finish(self, returned: Sequence[Ids]) -> None:
        """Note the beams that were returned; those that were cut end in a token not followed any further."""
        for ids in returned:
            if ids in self._offered or ids in self.followed:
                self._end(ids)

    def _end(self, ids: Ids) -> None:
        self.followed.setdefault(ids, self._offered.get(ids, (math.nan, math.nan)))
        self.ended.add(ids)


def tree(
    watched: Followed,
    returned: Sequence[Ids],
    tokenizer: PreTrainedTokenizerBase,
    prefix: Sequence[int],
    length_penalty: float,
) -> tuple[BeamNode, ...]:
    """The nodes of a search that has run: beams that begin alike share them.

    Args:
        watched: what was noted.
        returned: ids that the search wrote in each beam that it returned, the best first.
        tokenizer: turns ids into text.
        prefix: ids given before the search began.
        length_penalty: of the search.
    """
    watched.finish(returned)
    order = sorted(watched.followed, key=lambda ids: (len(ids), -watched.followed[ids][1]))
    index = {ids: at for at, ids in enumerate(order)} | {(): -1}
    places = {ids: place for place, ids in reversed(list(enumerate(returned)))}
    surfaces = _surfaces(tokenizer, prefix, order)
    nodes = []
    for ids in order:
        log_prob, total = watched.followed[ids]
        shown, lead, special = surfaces[ids]
        nodes.append(
            BeamNode(
                parent=index[ids[:-1]],
                step=len(prefix) + len(ids) - 1,
                id=ids[-1],
                text=shown,
                lead=lead,
                special=special,
                log_prob=log_prob,
                total=total,
                score=total / len(ids) ** length_penalty,
                ended=ids in watched.ended,
                place=places.get(ids),
            )
        )
    return tuple(nodes)


def _surfaces(
    tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int], order: Sequence[Ids]
) -> dict[Ids, tuple[str, str, bool]]:
    """For each beginning of a beam its last token: text, the white space before it, whether it is special."""
    found: dict[Ids, tuple[str, str, bool]] = {}
    for ids in reversed(order):  # the longest first: a token's text is that in the whole beam
        if ids in found:
            continue
        whole = [*prefix, *ids]
        written, tokens = text.decode(tokenizer, whole, [False] * len(whole))
        reached = 0
        for place, token in enumerate(tokens):
            # A token that is special adds nothing to the text.
            lead = "" if token.special else written[reached : token.start]
            reached = max(reached, token.end)
            if place >= len(prefix):
                key = ids[: place - len(prefix) + 1]
                shown = token.text if token.special else written[token.start : token.end]
                found.setdefault(key, (shown, lead, token.special))
    return found
