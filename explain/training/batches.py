"""Batches of token ids: of similar lengths, the same for the same seed and step, padded to the right.

Pairs of one kind (`Batches`), of several tasks by their rates (`MixedBatches`), or one stage after another
(`StagedBatches`); each is a function of the seed and the step alone, so that a run that resumes at a step
sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

IGNORED = -100
"""The label that the loss leaves out."""

_BATCHES_PER_POOL = 50


def pad(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    """The rows as one array of shape [row, longest], filled up with `value` on the right."""
    array = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def collate(
    inputs: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], pad_id: int
) -> dict[str, Tensor]:
    """A model's `input_ids`, `attention_mask` and `labels`, each [row, position]."""
    lengths = np.fromiter(map(len, inputs), dtype=np.int64)
    ids = pad(inputs, pad_id)
    mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(pad(labels, IGNORED)),
    }


class Batches(Dataset):
    """The batch of every step of a training run, as a function of the seed and the step alone.

    In each epoch pairs are shuffled, sorted by length within pools of 50 batches, cut into batches, and the
    batches are shuffled.
    """

    def __init__(
        self,
        inputs: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        *,
        steps: int,
        batch_size: int,
        seed: int,
        pad_id: int,
        mask_id: int | None = None,
        masking: float = 0.0,
        keep: Collection[int] = (),
    ):
        """Plan the batches.

        Args:
            inputs: token ids of each source.
            labels: token ids of each target.
            steps: number of batches.
            batch_size: pairs per batch; an epoch's last batch may have fewer.
            seed: decides order and masking.
            pad_id: the padding token.
            mask_id: the token that hides a source token; None hides nothing.
            masking: share of source tokens to hide.
            keep: tokens never hidden, such as the end of the text.
        """
        self.inputs = [np.asarray(row, dtype=np.int64) for row in inputs]
        self.labels = [np.asarray(row, dtype=np.int64) for row in labels]
        self.lengths = np.array([len(a) + len(b) for a, b in zip(inputs, labels, strict=True)])
        self.steps = steps
        self.batch_size = min(batch_size, len(self.inputs))
        self.steps_per_epoch = -(-len(self.inputs) // self.batch_size)
        self.seed = seed
        self.pad_id = pad_id
        self.mask_id = mask_id
        self.masking = masking if mask_id is not None else 0.0
        self.keep = np.array(sorted(keep), dtype=np.int64)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rows = self.rows(step)
        batch = collate([self.inputs[row] for row in rows], [self.labels[row] for row in rows], self.pad_id)
        if self.masking:
            ids = batch["input_ids"].numpy()
            rng = np.random.default_rng((self.seed, 1, step))
            hide = (rng.random(ids.shape) < self.masking) & (ids != self.pad_id) & ~np.isin(ids, self.keep)
            ids[hide] = self.mask_id
        return batch

    def rows(self, step: int) -> np.ndarray:
        """The pairs in the batch of a step, by their number."""
        return self._order(step // self.steps_per_epoch)[step % self.steps_per_epoch]

    def tokens(self, step: int) -> int:
        """Number of source and target tokens in the batch of a step."""
        return int(self.lengths[self.rows(step)].sum())

    def _order(self, epoch: int) -> list[np.ndarray]:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, 0, epoch))
            shuffled = rng.permutation(len(self.inputs))
            size = self.batch_size * _BATCHES_PER_POOL
            batches = []
            for start in range(0, len(shuffled), size):
                batches += self._cut(shuffled[start : start + size])
            self._epoch = (epoch, [batches[index] for index in rng.permutation(len(batches))])
        return self._epoch[1]

    def _cut(self, pool: np.ndarray) -> list[np.ndarray]:
        """Batches of similar lengths out of a pool of pairs."""
        pool = pool[np.argsort(self.lengths[pool], kind="stable")]
        return [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]


class MixedBatches(Batches):
    """Batches of several tasks' pairs, drawn task by task at given rates (Raffel et al. 2020, section 3.5.2).

    Every pair of a batch is drawn from a task chosen at its rate; within a task, pairs come in rounds, each a
    shuffle of all of them. `steps_per_epoch` counts as many pairs as all tasks have together.
    """

    def __init__(
        self,
        inputs: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        *,
        sizes: Sequence[int],
        rates: Sequence[float],
        **options: Any,
    ):
        """Plan the batches.

        Args:
            inputs: token ids of each source, one task after another.
            labels: token ids of each target.
            sizes: number of pairs of each task.
            rates: how often each task is drawn; only their ratios matter.
            options: what `Batches` takes besides.
        """
        super().__init__(inputs, labels, **options)
        assert sum(sizes) == len(self.inputs)
        self.sizes = np.array(sizes)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        shares = np.array(rates, dtype=np.float64)
        pools = -(-self.steps // _BATCHES_PER_POOL)
        rng = np.random.default_rng((self.seed, 3))
        drawn = rng.multinomial(self.batch_size * _BATCHES_PER_POOL, shares / shares.sum(), size=pools)
        self.drawn = drawn
        """Pairs of each task in every pool of 50 batches, [pool, task]."""
        self._before = np.concatenate([np.zeros_like(drawn[:1]), np.cumsum(drawn, axis=0)])
        self._rounds: dict[int, tuple[int, np.ndarray]] = {}

    def rows(self, step: int) -> np.ndarray:
        """The pairs in the batch of a step, by their number."""
        pool, at = divmod(step, _BATCHES_PER_POOL)
        if self._epoch[0] != pool:
            rows = np.concatenate([self._take(task, pool) for task in range(len(self.sizes))])
            rng = np.random.default_rng((self.seed, 4, pool))
            batches = self._cut(rng.permutation(rows))
            self._epoch = (pool, [batches[index] for index in rng.permutation(len(batches))])
        return self._epoch[1][at]

    def _take(self, task: int, pool: int) -> np.ndarray:
        """The pairs that a pool has of a task: those that follow the ones of the pools before it."""
        place, end, size = self._before[pool, task], self._before[pool + 1, task], self.sizes[task]
        parts = [np.empty(0, dtype=np.int64)]
        while place < end:
            turn, start = divmod(int(place), int(size))
            if self._rounds.get(task, (-1,))[0] != turn:
                rng = np.random.default_rng((self.seed, 5, task, turn))
                self._rounds[task] = (turn, rng.permutation(size))
            part = self._rounds[task][1][start : start + int(end - place)]
            parts.append(part + self.starts[task])
            place += len(part)
        return np.concatenate(parts)


class StagedBatches(Batches):
    """One stage's batches after another's, as one training run; the last stage says what an epoch is."""

    def __init__(self, *stages: Batches):
        """Join the stages."""
        self.stages = stages
        self.steps = sum(stage.steps for stage in stages)
        self.batch_size = stages[-1].batch_size
        self.steps_per_epoch = stages[-1].steps_per_epoch

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        stage, step = self._find(step)
        return stage[step]

    def rows(self, step: int) -> np.ndarray:
        """The pairs or texts in the batch of a step, by their number within its stage."""
        stage, step = self._find(step)
        return stage.rows(step)

    def tokens(self, step: int) -> int:
        """Number of source and target tokens in the batch of a step."""
        stage, step = self._find(step)
        return stage.tokens(step)

    def _find(self, step: int) -> tuple[Batches, int]:
        for stage in self.stages[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], step
