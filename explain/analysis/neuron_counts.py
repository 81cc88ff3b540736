"""What is known of the neurons of one hook point while outputs stream by: sums, best examples, token types.

Everything here is a plain tensor of a size that does not depend on how many outputs have been seen, and can
be put into a file and taken out again bit by bit: work that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

WINDOW = 8
"""How many tokens before and after an example are kept with it."""
PADDING = -1
"""Stands for "no token" and "no example" where indices are kept."""


@dataclass
class Rows:
    """The activations of one output at one hook point.

    Attributes:
        example: the output's number.
        values: float [position, neuron].
        ids: int [position], the token that each row is about.
        labels: by kind of label (`token`, `input`, `slot`) one label per row; an empty one is not counted.
    """

    example: int
    values: Tensor
    ids: Tensor
    labels: Mapping[str, Sequence[int | str]]


@dataclass
class Types:
    """How active every neuron is at the rows of each label: of each type of token, of each slot.

    Attributes:
        limit: how many labels are kept apart; those that come later are only counted as `left_out`.
        keys: the labels in the order in which they were met.
        counts: int [label], rows with it.
        sums: float [label, neuron], sum of activations.
        fired: int [label, neuron], rows at which the activation is above 0.
        left_out: rows whose label is not kept apart.
    """

    limit: int
    keys: list[int | str] = field(default_factory=list)
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    sums: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    fired: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int32))
    left_out: int = 0

    def __post_init__(self) -> None:
        self.places = {key: place for place, key in enumerate(self.keys)}

    def add(self, labels: Sequence[int | str], values: Tensor) -> None:
        """Take in rows: one label and values [row, neuron]."""
        for label in labels:
            if label != "" and label not in self.places and len(self.keys) < self.limit:
                self.places[label] = len(self.keys)
                self.keys.append(label)
        self._grow(values.shape[1])
        found = [(row, self.places[label]) for row, label in enumerate(labels) if label in self.places]
        self.left_out += sum(label != "" for label in labels) - len(found)
        if not found:
            return
        rows, places = (torch.tensor(part) for part in zip(*found, strict=True))
        self.counts.index_add_(0, places, torch.ones(len(places), dtype=torch.int64))
        self.sums.index_add_(0, places, values[rows])
        self.fired.index_add_(0, places, (values[rows] > 0).int())

    def _grow(self, width: int) -> None:
        """Room for every key; doubled, so that it is seldom needed."""
        have = len(self.counts)
        if len(self.keys) <= have and self.sums.shape[1] == width:
            return
        size = min(self.limit, max(len(self.keys), 2 * have, 64))
        old = self.counts, self.sums, self.fired
        self.counts = torch.zeros(size, dtype=torch.int64)
        self.sums = torch.zeros(size, width)
        self.fired = torch.zeros(size, width, dtype=torch.int32)
        for new, before in zip((self.counts, self.sums, self.fired), old, strict=True):
            if have:
                new[:have] = before

    def tensors(self) -> dict[str, Tensor]:
        """Counts, sums and firings of the labels met so far."""
        size = len(self.keys)
        return {"counts": self.counts[:size], "sums": self.sums[:size], "fired": self.fired[:size]}


@dataclass
class Counts:
    """All that is kept of one hook point.

    Attributes:
        point: the hook point.
        top: examples kept per neuron.
        rows: how many rows were seen.
        types: by kind of label.
        found: tensors by name: `total`, `squares` float64 [neuron]; `active` int64 [neuron], rows above 0;
            `lowest` float [neuron]; of the best examples, best first, `values` float [neuron, top] (nan where
            there is none), `examples` and `positions` int64 [neuron, top], `window_ids` int64 and
            `window_values` float [neuron, top, 2 · WINDOW + 1].
    """

    point: str
    top: int
    rows: int = 0
    types: dict[str, Types] = field(default_factory=dict)
    found: dict[str, Tensor] = field(default_factory=dict)

    def add(self, batch: Iterable[Rows]) -> None:
        """Take in the activations of several outputs; results do not depend on how outputs are batched."""
        ordered = sorted(batch, key=lambda item: item.example)
        if not ordered:
            return
        values = torch.cat([item.values for item in ordered]).float().cpu()  # [row, neuron]
        if not self.found:
            self._begin(values.shape[1])
        kept = self.found
        precise = values.double()
        kept["total"] += precise.sum(0)
        kept["squares"] += precise.square().sum(0)
        kept["active"] += (values > 0).sum(0)
        kept["lowest"] = torch.minimum(kept["lowest"], values.min(0).values)
        self.rows += len(values)
        for kind, types in self.types.items():
            types.add([label for item in ordered for label in item.labels[kind]], values)
        self._rank(ordered, values)

    def _begin(self, width: int) -> None:
        shape, span = (width, self.top), 2 * WINDOW + 1
        self.found = {
            "total": torch.zeros(width, dtype=torch.float64),
            "squares": torch.zeros(width, dtype=torch.float64),
            "active": torch.zeros(width, dtype=torch.int64),
            "lowest": torch.full((width,), torch.inf),
            "values": torch.full(shape, torch.nan),
            "examples": torch.full(shape, PADDING),
            "positions": torch.full(shape, PADDING),
            "window_ids": torch.full((*shape, span), PADDING),
            "window_values": torch.full((*shape, span), torch.nan),
        }

    def _rank(self, ordered: Sequence[Rows], values: Tensor) -> None:
        """Merge a batch's best rows into the best so far; of equal values the earlier example counts."""
        lengths = torch.tensor([len(item.ids) for item in ordered])
        examples = torch.tensor([item.example for item in ordered]).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        positions = torch.arange(len(values)) - starts.repeat_interleave(lengths)
        count = min(self.top, len(values))
        # Stable, and rows are in order: so of equal values the first stays first.
        rows = values.argsort(dim=0, descending=True, stable=True)[:count].T  # [neuron, count]
        neurons = torch.arange(values.shape[1])[:, None]
        window = rows[:, :, None] + torch.arange(-WINDOW, WINDOW + 1)  # [neuron, count, span]
        first = starts.repeat_interleave(lengths)[rows][:, :, None]
        last = first + lengths.repeat_interleave(lengths)[rows][:, :, None]
        inside = (window >= first) & (window < last)
        window = window.clamp(0, len(values) - 1)
        ids = torch.cat([item.ids for item in ordered])
        new = {
            "values": values[rows, neurons],
            "examples": examples[rows],
            "positions": positions[rows],
            "window_ids": ids[window].where(inside, PADDING),
            "window_values": values[window, neurons[:, :, None]].where(inside, torch.nan),
        }
        both = {name: torch.cat([self.found[name], new[name]], 1) for name in new}
        place = both["examples"] * (1 << 24) + both["positions"]
        order = place.argsort(dim=1, stable=True)
        lowest = both["values"].nan_to_num(-torch.inf).gather(1, order)
        order = order.gather(1, lowest.argsort(dim=1, descending=True, stable=True))[:, : self.top]
        for name, tensor in both.items():
            index = order if tensor.dim() == 2 else order[:, :, None].expand(-1, -1, tensor.shape[2])
            self.found[name] = tensor.gather(1, index)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is kept, by name."""
        own = dict(self.found)
        for kind, types in self.types.items():
            own |= {f"{kind}.{name}": tensor for name, tensor in types.tensors().items()}
        return own

    def record(self) -> dict[str, Any]:
        """What is kept beside the tensors, as a JSON object."""
        return {
            "point": self.point,
            "top": self.top,
            "rows": self.rows,
            "types": {
                kind: {"limit": types.limit, "keys": types.keys, "left_out": types.left_out}
                for kind, types in self.types.items()
            },
        }

    @classmethod
    def restored(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Counts:
        """What `record` and `tensors` gave, back as it was."""
        types = {
            kind: Types(
                limit=known["limit"],
                keys=list(known["keys"]),
                left_out=known["left_out"],
                **{name: tensors[f"{kind}.{name}"].clone() for name in ("counts", "sums", "fired")},
            )
            for kind, known in record["types"].items()
        }
        found = {name: tensor.clone() for name, tensor in tensors.items() if "." not in name}
        return cls(record["point"], record["top"], record["rows"], types, found)
