"""Batches of token ids: of similar lengths, the same for the same seed and step, padded to the right."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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

    So a run that resumes at a step sees what it would have seen. In each epoch pairs are shuffled, sorted by
    length within pools of 50 batches, cut into batches, and the batches are shuffled.
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
        rows = self._order(step // self.steps_per_epoch)[step % self.steps_per_epoch]
        batch = collate([self.inputs[row] for row in rows], [self.labels[row] for row in rows], self.pad_id)
        if self.masking:
            ids = batch["input_ids"].numpy()
            rng = np.random.default_rng((self.seed, 1, step))
            hide = (rng.random(ids.shape) < self.masking) & (ids != self.pad_id) & ~np.isin(ids, self.keep)
            ids[hide] = self.mask_id
        return batch

    def tokens(self, step: int) -> int:
        """Number of source and target tokens in the batch of a step."""
        return int(self.lengths[self._order(step // self.steps_per_epoch)[step % self.steps_per_epoch]].sum())

    def _order(self, epoch: int) -> list[np.ndarray]:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, 0, epoch))
            shuffled = rng.permutation(len(self.inputs))
            size = self.batch_size * _BATCHES_PER_POOL
            batches = []
            for start in range(0, len(shuffled), size):
                pool = shuffled[start : start + size]
                pool = pool[np.argsort(self.lengths[pool], kind="stable")]
                batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
            self._epoch = (epoch, [batches[index] for index in rng.permutation(len(batches))])
        return self._epoch[1]
