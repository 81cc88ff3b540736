"""The processes of one training run: `accelerate launch` starts several, and the first one speaks for all.

Every step's pairs are shared out among the processes, and among the parts that a process computes one after
another: the step is the same however many there are, up to the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import Dataset

from explain.errors import TrainingError
from explain.runs.follower import world
from explain.training.batches import IGNORED, Batches

_CONNECTIONS = ("gloo", "nccl")

WEIGHT = "weight"
"""Name, in a batch, of the share of its step's target tokens that it holds."""


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums of the numbers over all processes, in every process; they wait for one another here."""
    if world() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor)
    return tensor.tolist()


@contextmanager
def together() -> Iterator[None]:
    """Say clearly when another process of the run has ended, whatever the connection to it calls that.

    Raises:
        TrainingError: it has.
    """
    try:
        yield
    except RuntimeError as error:
        if world() == 1 or not any(word in str(error).lower() for word in _CONNECTIONS):
            raise
        raise TrainingError(
            "another process of this run has ended; resume the run with the launcher that began it"
        ) from None


class Parts(Dataset):
    """The parts of each step's batch that fall to one process, in order: item `step * count + part`.

    Rows are dealt out in turns, so that every part has short and long ones. A part that no row is left for
    repeats the first one, and weighs nothing.
    """

    def __init__(self, batches: Batches, *, count: int, rank: int, size: int):
        """Share out.

        Args:
            batches: the batch of every step.
            count: parts of a step that each process computes.
            rank: number of this process.
            size: number of processes.
        """
        self.batches = batches
        self.count = count
        self.rank = rank
        self.size = size
        self._step: tuple[int, dict[str, Tensor]] = (-1, {})

    def __len__(self) -> int:
        return len(self.batches) * self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, part = divmod(index, self.count)
        if self._step[0] != step:
            self._step = (step, self.batches[step])
        if self.count * self.size == 1:
            return self._step[1]
        return _part(self._step[1], part * self.size + self.rank, self.count * self.size)


def _part(batch: Mapping[str, Tensor], number: int, count: int) -> dict[str, Any]:
    """Every `count`-th row of a batch from `number` on, with no more padding than these need."""
    rows = range(number, len(batch["labels"]), count) or range(1)
    mine = {name: tensor[list(rows)] for name, tensor in batch.items()}
    told = (mine["labels"] != IGNORED).sum(1)
    source, target = int(mine["attention_mask"].sum(1).max()), int(told.max())
    weight = float(told.sum() / (batch["labels"] != IGNORED).sum()) if number < len(batch["labels"]) else 0.0
    return {  # contiguous, since T5 views its labels as one row
        "input_ids": mine["input_ids"][:, :source].contiguous(),
        "attention_mask": mine["attention_mask"][:, :source].contiguous(),
        "labels": mine["labels"][:, :target].contiguous(),
        WEIGHT: weight,
    }
