"""Learning from text without labels: spans of a text are hidden, and the model writes them (Raffel 2020).

```
text      The cat sees a dog near the old house
source    The cat <extra_id_0> dog near <extra_id_1> house
target    <extra_id_0> sees a <extra_id_1> the old <extra_id_2>
```

15 % of the tokens are hidden, in spans of three on average, each behind a sentinel of its own; the target is
the hidden spans, each after its sentinel, and one more sentinel that says there are no more. Short texts are
packed into rows, as T5 does, or hardly anything of each could be hidden; but rows are of 64 tokens, not 512,
and their ends are hidden no more often than the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from explain.errors import ModelError
from explain.training.batches import Batches, collate

DENSITY = 0.15
"""Share of the tokens that are hidden."""
SPAN = 3.0
"""Mean number of tokens in a hidden span."""
SENTINEL = "<extra_id_{}>"
MOST_SENTINELS = 100
ROW = 64
"""Tokens in a row, at most: short texts are put together, long ones are cut in pieces."""


def sentinel_ids(tokenizer: Any) -> list[int]:
    """The ids of the tokenizer's sentinels, in order; none where it has none."""
    known = tokenizer.get_vocab()
    found = (known.get(SENTINEL.format(number)) for number in range(MOST_SENTINELS))
    return [id_ for id_ in found if id_ is not None]


def count_spans(length: int, density: float = DENSITY, span: float = SPAN) -> tuple[int, int]:
    """Number of tokens to hide in a text of `length` tokens, and of spans; (0, 0) of a single token."""
    if length < 2:
        return 0, 0
    hidden = min(length - 1, max(1, round(length * density)))
    # Spans are apart, so there is at least one token between any two.
    return hidden, min(hidden, length - hidden + 1, max(1, round(hidden / span)))


def corrupt(
    ids: np.ndarray, sentinels: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide spans of a text.

    Args:
        ids: token ids without the end of the text, [position].
        sentinels: ids of the sentinels, one more than there are spans.
        rng: decides which spans.

    Returns:
        The source and the target, without the end of the text.
    """
    hidden, spans = count_spans(len(ids))
    if not spans:
        return ids, np.array(sentinels[:1])
    lengths = _parts(hidden - spans, spans, rng) + 1
    gaps = _parts(len(ids) - hidden - (spans - 1), spans + 1, rng)
    gaps[1:-1] += 1
    source: list[np.ndarray] = []
    target: list[np.ndarray] = []
    at = 0
    for number, length in enumerate(lengths):
        start = at + gaps[number]
        source += [ids[at:start], np.array([sentinels[number]])]
        at = start + length
        target += [np.array([sentinels[number]]), ids[start:at]]
    return (
        np.concatenate([*source, ids[at:]]),
        np.concatenate([*target, np.array([sentinels[spans]])]),
    )


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` numbers of at least 0 that add up to `total`, each way to do so as likely as any other."""
    bars = np.sort(rng.choice(total + count - 1, size=count - 1, replace=False))
    edges = np.concatenate([[-1], bars, [total + count - 1]])
    return np.diff(edges) - 1


def pack(texts: Sequence[Sequence[int]], eos: int, longest: int) -> list[list[int]]:
    """Texts' ids, without the ends of the texts, in rows of at most `longest` tokens: nothing is lost."""
    rows: list[list[int]] = []
    row: list[int] = []
    for text in texts:
        plain = [id_ for id_ in text if id_ != eos]
        if len(row) + len(plain) > longest:
            rows.append(row)
            row = []
        row = row + plain
        while len(row) > longest:
            rows.append(row[:longest])
            row = row[longest:]
    # There is nothing to hide in a single token.
    return [row for row in [*rows, row] if len(row) > 1]


class DenoisingBatches(Batches):
    """Batches of corrupted text; which spans are hidden depends on the seed and the step alone."""

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        sentinels: Sequence[int],
        *,
        steps: int,
        batch_size: int,
        seed: int,
        pad_id: int,
        eos_id: int,
    ):
        """Plan the batches.

        Args:
            rows: token ids of each row, without the end of the text (see `pack`).
            sentinels: ids of the sentinels.
            steps: number of batches.
            batch_size: rows per batch; an epoch's last batch may have fewer.
            seed: decides order and spans.
            pad_id: the padding token.
            eos_id: the end of a text, put after each source and target.

        Raises:
            ModelError: the tokenizer has too few sentinels for the longest row.
        """
        super().__init__(rows, [()] * len(rows), steps=steps, batch_size=batch_size, seed=seed, pad_id=pad_id)
        counts = [count_spans(len(row)) for row in rows]
        needed = 1 + max(spans for _, spans in counts)
        if len(sentinels) < needed:
            raise ModelError(
                f"denoising needs {needed} sentinel tokens, such as {SENTINEL.format(0)}, and the tokenizer "
                f"has {len(sentinels)}; use a model with sentinels, such as a T5, or train from scratch"
            )
        # With two ends of a text, a sentinel for each span on both sides, and the last one.
        self.lengths += np.array([3 + 2 * spans for _, spans in counts])
        self.sentinels = list(sentinels)
        self.eos_id = eos_id

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 2, step))
        pairs = [corrupt(self.inputs[row], self.sentinels, rng) for row in self.rows(step)]
        return collate(
            [[*source.tolist(), self.eos_id] for source, _ in pairs],
            [[*target.tolist(), self.eos_id] for _, target in pairs],
            self.pad_id,
        )
