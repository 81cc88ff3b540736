"""What a training story asks the model at every look: probes, and swaps of what should not matter."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explain.errors import InputError
from explain.training.data import Pair, read_table
from explain.training.tasks import Example, Ref, SourceSegment, TargetSegment, Task

Spans = tuple[tuple[int, int], ...]
"""Stretches of characters [start, end)."""


@dataclass(frozen=True, slots=True)
class Swap:
    """The same source with a cue changed that the output must not follow.

    Attributes:
        cue: what is changed, in a word or two; swaps of one cue are counted together.
        source: the source with the cue changed and nothing else.
        spans: where the probe's source carries the cue; () where only the changed source has it.
        decides: the characters of the right output that the cue might decide; () means all of it.
    """

    cue: str
    source: str
    spans: Spans
    decides: Spans = ()

    def to_dict(self) -> dict[str, Any]:
        """The swap as a JSON object."""
        return {
            "cue": self.cue,
            "source": self.source,
            "spans": [list(span) for span in self.spans],
            "decides": [list(span) for span in self.decides],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Swap:
        """Read a swap back from its JSON object."""
        return cls(data["cue"], data["source"], _spans(data["spans"]), _spans(data["decides"]))


@dataclass(frozen=True, slots=True)
class Probe:
    """A source and its right output, with what the output depends on and a swap where there are any.

    Attributes:
        source: what the model reads.
        target: what it should write.
        source_segments: where the source carries which fact; () where that is not known.
        target_segments: what each part of the output needs; () where that is not known.
        swap: the same source with a cue changed; None without one.
        held_out: whether it counts among the held-out examples that accuracy and loss are of; the others
            are there for their swap.
    """

    source: str
    target: str
    source_segments: tuple[SourceSegment, ...] = ()
    target_segments: tuple[TargetSegment, ...] = ()
    swap: Swap | None = None
    held_out: bool = True

    @property
    def example(self) -> Example | None:
        """The probe as an example of a task, for its gold; None where what it depends on is not known."""
        if not self.target_segments:
            return None
        return Example(self.source, self.target, {}, self.source_segments, self.target_segments)

    def to_dict(self) -> dict[str, Any]:
        """The probe as a JSON object."""
        return {
            "source": self.source,
            "target": self.target,
            "source_segments": [[one.start, one.end, one.slot] for one in self.source_segments],
            "target_segments": [
                [
                    one.start,
                    one.end,
                    one.slot,
                    [[[ref.side, ref.slot] for ref in group] for group in one.depends],
                ]
                for one in self.target_segments
            ],
            "swap": None if self.swap is None else self.swap.to_dict(),
            "held_out": self.held_out,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Probe:
        """Read a probe back from its JSON object."""
        return cls(
            data["source"],
            data["target"],
            tuple(SourceSegment(*one) for one in data["source_segments"]),
            tuple(
                TargetSegment(start, end, slot, tuple(tuple(Ref(*ref) for ref in group) for group in depends))
                for start, end, slot, depends in data["target_segments"]
            ),
            None if data["swap"] is None else Swap.from_dict(data["swap"]),
            data["held_out"],
        )


def task_probes(task: Task, count: int, *, seed: int = 0) -> list[Probe]:
    """Held-out examples of a task with their gold; most have a swap of a fact that the output never names.

    Raises:
        InputError: the task has fewer examples.
    """
    dice = random.Random(f"story/{task.name}/{seed}")
    found = []
    for example in task.examples("held_out", count, seed):
        segments = example.source_segments, example.target_segments
        found.append(Probe(example.source, example.target, *segments, _unneeded_swap(task, example, dice)))
    return found


def _unneeded_swap(task: Task, example: Example, dice: random.Random) -> Swap | None:
    """Another value of one slot, drawn from those that no part of the output depends on."""
    needed = {ref.slot for one in example.target_segments for group in one.depends for ref in group}
    values = {
        slot: found for slot, found in task.swaps(example.slots).items() if found and slot not in needed
    }
    if not values:
        return None
    slot = dice.choice(sorted(values))
    other = task.render({**example.slots, slot: dice.choice(values[slot])})
    if other.target != example.target or other.source == example.source:
        return None
    spans = tuple((one.start, one.end) for one in example.source_segments if one.slot == slot)
    return Swap(slot, other.source, spans)


def pair_probes(pairs: Sequence[Pair], count: int) -> list[Probe]:
    """The first held-out pairs of a data file; what their outputs depend on is not known."""
    return [Probe(pair.source, pair.target) for pair in pairs[:count]]


def read_probes(path: str | os.PathLike[str]) -> list[Probe]:
    """Read probes from a table (.jsonl .csv .tsv .parquet).

    Columns: `source`, `target` (the right output), and for swaps `swapped` (the source with the cue changed),
    `cue` (what is changed, in a word or two) and `decides` (the part of the output that it might decide).
    Rows without `swapped` count among the held-out examples.

    Raises:
        FileError: the file cannot be read, or has no such columns.
        InputError: a row whose `decides` is not in its output, or whose `swapped` changes nothing.
    """
    pairs = read_table(path)
    swapped, cues, decides = (
        [row.target for row in read_table(path, target_column=column, need_target=False)]
        for column in ("swapped", "cue", "decides")
    )
    found = []
    for number, (pair, other, cue, part) in enumerate(
        zip(pairs, swapped, cues, decides, strict=True), start=1
    ):
        if not other:
            found.append(Probe(pair.source, pair.target))
            continue
        if other == pair.source:
            raise InputError(f"{path}, probe {number}: swapped is the source itself; change the cue in it")
        at = pair.target.find(part)
        if at < 0:
            raise InputError(f"{path}, probe {number}: the output does not hold {part!r} (decides)")
        swap = Swap(
            cue or "cue", other, _changed(pair.source, other), ((at, at + len(part)),) if part else ()
        )
        found.append(Probe(pair.source, pair.target, swap=swap, held_out=False))
    return found


def _changed(source: str, other: str) -> Spans:
    """The characters of `source` between what both texts begin with and what both end with."""
    room = min(len(source), len(other))
    start = next((i for i in range(room) if source[i] != other[i]), room)
    end = next((i for i in range(room - start) if source[-1 - i] != other[-1 - i]), room - start)
    return ((start, len(source) - end),) if start < len(source) - end else ()


def _spans(rows: Sequence[Sequence[int]]) -> Spans:
    return tuple((int(start), int(end)) for start, end in rows)
