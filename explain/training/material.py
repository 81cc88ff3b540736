"""What there is to learn from: pairs of a file, a folder or a mixture, and texts without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from explain.errors import EmptyTextError, InputError
from explain.training.config import TrainConfig
from explain.training.data import BadRow, Pair, iter_table, shuffle, split
from explain.training.mixture import is_mixture, read_mixture

SHOWN = 5
"""Number of bad rows that are told one by one."""


@dataclass(frozen=True, slots=True)
class Share:
    """A mixture's task: what its sources begin with, its number of pairs, and how often it is drawn.

    Attributes:
        name: the task's name.
        prefix: what its sources begin with.
        train: number of pairs to train on.
        validation: number of pairs held out.
        rate: share of the pairs in a batch that are this task's, on average.
    """

    name: str
    prefix: str
    train: int
    validation: int
    rate: float


@dataclass(frozen=True, slots=True)
class Material:
    """Pairs to train on and pairs held out.

    Attributes:
        train: pairs to train on; those of a mixture task by task.
        validation: pairs held out, shuffled.
        shares: the tasks of a mixture.
        validation_tasks: for each pair held out its task's number.
        bad: rows that were left out because they cannot be used.
    """

    train: list[Pair]
    validation: list[Pair]
    shares: tuple[Share, ...] = ()
    validation_tasks: tuple[int, ...] = ()
    bad: tuple[BadRow, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a line in the log."""
        mixed = tuple(
            f"task {share.name} ({share.prefix!r}): {share.train:,} pairs, {share.rate:.1%} of every batch"
            for share in self.shares
        )
        return mixed if not self.bad else (*mixed, f"left out: {tell(self.bad)}")

    @property
    def facts(self) -> dict[str, Any]:
        """Fields for `run.json`."""
        facts: dict[str, Any] = {}
        if self.shares:
            facts["tasks"] = [
                {"name": share.name, "prefix": share.prefix, "pairs": share.train, "rate": share.rate}
                for share in self.shares
            ]
        if self.bad:
            facts["left_out"] = {
                "rows": len(self.bad),
                "first": [str(row.error) for row in self.bad[:SHOWN]],
            }
        return facts


def tell(bad: Sequence[BadRow]) -> str:
    """How many rows cannot be used, and of the first few where they stand and why."""
    number = "1 row cannot" if len(bad) == 1 else f"{len(bad):,} rows cannot"
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    return f"{number} be used: {'; '.join(str(row.error) for row in bad[:SHOWN])}{more}"


def read_usable(
    path: str | os.PathLike[str], columns: tuple[str, str], *, need_target: bool = True, skip: bool = False
) -> tuple[list[Pair], list[BadRow]]:
    """The pairs of a file or folder, and the rows that cannot be used.

    Raises:
        FileError, InputError: there are such rows and they are not to be skipped, or no row can be used.
    """
    bad: list[BadRow] = []
    pairs = [pair for pair, _ in iter_table(path, *columns, need_target, bad=bad)]
    if not need_target:  # an empty line between texts is no text
        bad = [row for row in bad if not isinstance(row.error, EmptyTextError)]
    if bad and not skip:
        raise type(bad[0].error)(
            f"{tell(bad)} (all of them: explain data {path}; leave them out: --skip-bad-rows)"
        )
    return pairs, bad


def of_files(config: TrainConfig) -> Material:
    """The pairs of `config.data` and those held out.

    Raises:
        ExplainError: files that cannot be used.
    """
    assert config.data is not None
    if is_mixture(config.data):
        return _of_mixture(config)
    columns = (config.source_column, config.target_column)
    seed, skip = config.seed or 0, config.skip_bad_rows
    train, validation, bad = divided(config.data, config.validation, columns, seed=seed, skip=skip)
    # Files are often sorted; the sample scored while training goes on should be like the rest.
    return Material(train, shuffle(validation), bad=tuple(bad))


def divided(
    data: str | os.PathLike[str],
    validation: str | os.PathLike[str] | None,
    columns: tuple[str, str],
    *,
    seed: int,
    skip: bool,
) -> tuple[list[Pair], list[Pair], list[BadRow]]:
    """The pairs to train on, those held out, and the rows that cannot be used.

    Raises:
        FileError, InputError: there are such rows and they are not to be skipped, or no row can be used.
    """
    pairs, bad = read_usable(data, columns, skip=skip)
    if validation is None:
        train, held_out = split(pairs, seed=seed)
        return train, held_out, bad
    held_out, more = read_usable(validation, columns, skip=skip)
    return pairs, held_out, [*bad, *more]


def _of_mixture(config: TrainConfig) -> Material:
    assert config.data is not None
    if config.validation is not None:
        raise InputError("a mixture names its tasks' validation files itself; leave --validation out")
    mixture = read_mixture(config.data)
    train: list[Pair] = []
    held_out: list[tuple[Pair, int]] = []
    bad: list[BadRow] = []
    counts = []
    for number, (name, task) in enumerate(mixture.tasks.items()):
        columns = (task.source_column, task.target_column)
        seed, skip = config.seed or 0, config.skip_bad_rows
        mine, others, unusable = divided(task.data, task.validation, columns, seed=seed, skip=skip)
        prefix = mixture.prefix(name)
        train += [Pair(prefix + pair.source, pair.target) for pair in mine]
        held_out += [(Pair(prefix + pair.source, pair.target), number) for pair in others]
        bad += unusable
        counts.append((len(mine), len(others)))
    rates = mixture.rates([size for size, _ in counts])
    shares = tuple(
        Share(name, mixture.prefix(name), train=size, validation=others, rate=rate)
        for name, (size, others), rate in zip(mixture.tasks, counts, rates, strict=True)
    )
    # Every task has its part in the sample that is scored while training goes on.
    place = {pair: at for at, pair in enumerate(shuffle(pair for pair, _ in held_out))}
    held_out.sort(key=lambda item: place[item[0]])
    return Material(
        train, [pair for pair, _ in held_out], shares, tuple(number for _, number in held_out), tuple(bad)
    )


def read_texts(config: TrainConfig) -> list[str]:
    """The texts of `config.denoise`, of whose table the source column counts.

    Raises:
        ExplainError: files that cannot be used.
    """
    if config.denoise is None:
        return []
    columns = (config.source_column, config.target_column)
    pairs, _ = read_usable(config.denoise, columns, need_target=False, skip=config.skip_bad_rows)
    return [pair.source for pair in pairs]
