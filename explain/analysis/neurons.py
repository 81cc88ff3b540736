"""What the neurons of a model respond to: figures, most active examples and token types, over a data set."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from explain.analysis.inputs import Progress
from explain.analysis.neuron_counts import PADDING, WINDOW, Counts, Rows, Types
from explain.analysis.states import (
    Data,
    Item,
    name_of,
    outputs_of,
    read_items,
    select_rows,
    side_of,
    slots_of,
    state_batches,
    tokens_of,
)
from explain.attribution.memory import DEFAULT
from explain.attribution.registry import Cancelled
from explain.errors import FileError, InputError
from explain.files import digest_json, replacing
from explain.model import Seq2Seq
from explain.model.text import token_text
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd

NEURONS = "*.mlp.hidden"
STATE = "state.safetensors"
TOP = 10
# Outputs between two looks at the clock; what is lost at most when the work is killed.
SHARD = 32
# Seconds between two writes of the state: writing it costs time, and so does doing work again.
EVERY = 5.0
# Rows that a label needs before a neuron is said to respond to it.
FEWEST = 5
TYPES_SHOWN = 5
_SCHEMA = "explain/neurons@1"


# ---- results ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NeuronExample:
    """One place where a neuron is very active.

    Attributes:
        value: its activation there.
        example: number of the output in the data, from 0.
        position: token of the source (encoder) or of the output (decoder: the step that writes it), from 0.
        token: the token at that position.
        context: the tokens round it, itself included, at most 8 on either side.
        values: the neuron's activation at each of them.
        at: which of them it is.
    """

    value: float
    example: int
    position: int
    token: str
    context: tuple[str, ...]
    values: tuple[float, ...]
    at: int

    def to_dict(self) -> dict[str, Any]:
        """The example as a JSON object."""
        return {**asdict(self), "context": list(self.context), "values": list(self.values)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NeuronExample:
        """Read an example back from its JSON object."""
        return cls(**{**data, "context": tuple(data["context"]), "values": tuple(data["values"])})


@dataclass(frozen=True, slots=True)
class NeuronType:
    """How a neuron responds to one label: a type of token, or a slot of the task.

    Attributes:
        label: the token's text, or the slot's name.
        mean: mean activation at rows with it.
        rows: how many there are.
        active: share of them at which the activation is above 0.
    """

    label: str
    mean: float
    rows: int
    active: float


@dataclass(frozen=True, slots=True)
class Neuron:
    """One neuron: which, and how it behaves over the data.

    Attributes:
        point: the hook point.
        index: which unit of it, from 0.
        mean, std, lowest, highest: of its activation over all rows.
        active: share of rows at which it is above 0.
        dead: it never is.
        selectivity: how far the label that it responds to most stands out: the mean activation there minus
            the mean elsewhere, in standard deviations over all rows; nan where no label has enough rows.
        kind: what that label is: `token` (in the decoder the token written), `input` (the token the decoder
            reads) or `slot` (of the task).
        label: the label.
        types: by kind, the labels with the highest mean activation, highest first.
        examples: where it is most active, highest first.
    """

    point: str
    index: int
    mean: float
    std: float
    lowest: float
    highest: float
    active: float
    dead: bool
    selectivity: float
    kind: str
    label: str
    types: Mapping[str, tuple[NeuronType, ...]]
    examples: tuple[NeuronExample, ...]

    def to_dict(self) -> dict[str, Any]:
        """The neuron as a JSON object."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own["types"] = {kind: [asdict(each) for each in found] for kind, found in self.types.items()}
        own["examples"] = [each.to_dict() for each in self.examples]
        return own

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Neuron:
        """Read a neuron back from its JSON object; null stands for nan."""
        known = dict(data)
        for name in ("mean", "std", "lowest", "highest", "active", "selectivity"):
            known[name] = math.nan if known[name] is None else float(known[name])
        known["types"] = {
            kind: tuple(NeuronType(**each) for each in found) for kind, found in data["types"].items()
        }
        known["examples"] = tuple(NeuronExample.from_dict(each) for each in data["examples"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class PointSummary:
    """All neurons of one hook point in a line.

    Attributes:
        point: the hook point.
        neurons: how many units it has.
        rows: at how many positions they were seen.
        dead: units that are never above 0.
        active: mean share of rows at which a unit is above 0.
        selectivity: median over units.
    """

    point: str
    neurons: int
    rows: int
    dead: int
    active: float
    selectivity: float


@dataclass(frozen=True, eq=False)
class NeuronSurvey:
    """What the neurons of a model respond to, over a data set.

    Figures of one neuron are read with `neuron(point, index)`, of all with `to_frame()`.

    Attributes:
        counts: by hook point everything that was kept.
        names: texts of the token ids that occur.
        data: what the data are called.
        generations: how many outputs.
        model_digest: of the model that was looked at.
        data_digest: of the texts.
    """

    counts: Mapping[str, Counts]
    names: Mapping[int, str]
    data: str
    generations: int
    model_digest: str = ""
    data_digest: str = ""

    @property
    def points(self) -> tuple[str, ...]:
        """The hook points, in the order of computation."""
        return tuple(self.counts)

    def neuron(self, point: str, index: int) -> Neuron:
        """One neuron with its examples and token types.

        Raises:
            InputError: there is no such neuron.
        """
        figures = self._figures(point)
        if not 0 <= index < len(figures["mean"]):
            raise InputError(f"{point} has neurons 0 to {len(figures['mean']) - 1}, so there is no {index}")
        return self._neuron(point, index, figures)

    def most_selective(self, point: str, count: int = 10) -> list[Neuron]:
        """The neurons of a hook point that respond to one label most of all, best first; dead ones never."""
        figures = self._figures(point)
        score = figures["selectivity"].nan_to_num(-math.inf)
        score = score.where(figures["active"] > 0, -math.inf)
        order = score.argsort(descending=True, stable=True)[:count].tolist()
        return [self._neuron(point, i, figures) for i in order if score[i] > -math.inf]

    def summary(self) -> list[PointSummary]:
        """One line per hook point."""
        found = []
        for point, counts in self.counts.items():
            figures = self._figures(point)
            found.append(
                PointSummary(
                    point=point,
                    neurons=len(figures["mean"]),
                    rows=counts.rows,
                    dead=int((figures["active"] == 0).sum()),
                    active=float(figures["active"].mean()),
                    selectivity=float(figures["selectivity"].nanmedian()),
                )
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: `point`, `neuron`, figures, and the label that it responds to most."""
        import pandas as pd

        parts = []
        for point in self.points:
            figures = self._figures(point)
            best = [self._best(point, figures, i) for i in range(len(figures["mean"]))]
            columns = {name: figures[name].tolist() for name in _FIGURES}
            parts.append(
                pd.DataFrame(
                    {
                        "point": point,
                        "neuron": range(len(best)),
                        **columns,
                        "dead": [value == 0 for value in columns["active"]],
                        "kind": [kind for kind, _ in best],
                        "label": [label for _, label in best],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def examples_frame(self) -> pd.DataFrame:
        """One row per neuron and example, most active first.

        Columns `point`, `neuron`, `rank`, `value`, `example`, `position`, `token`, `before` and `after`.
        """
        import pandas as pd

        records = []
        for point, counts in self.counts.items():
            for index in range(counts.found["values"].shape[0]):
                for rank, each in enumerate(self._examples(point, index), start=1):
                    records.append(
                        {
                            "point": point,
                            "neuron": index,
                            "rank": rank,
                            "value": each.value,
                            "example": each.example,
                            "position": each.position,
                            "token": each.token,
                            "before": " ".join(each.context[: each.at]),
                            "after": " ".join(each.context[each.at + 1 :]),
                        }
                    )
        return pd.DataFrame(records)

    def types_frame(self, shown: int = TYPES_SHOWN) -> pd.DataFrame:
        """One row per neuron, kind of label and label, highest mean first.

        Columns `point`, `neuron`, `kind`, `rank`, `label`, `mean`, `rows` and `active`.
        """
        import pandas as pd

        records = [
            {"point": point, "neuron": index, "kind": kind, "rank": rank, **asdict(each)}
            for point, counts in self.counts.items()
            for kind, types in counts.types.items()
            for index, found in enumerate(self._types(types, shown))
            for rank, each in enumerate(found, start=1)
        ]
        return pd.DataFrame(records)

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """The survey as a JSON object: a summary, and the neurons of every hook point.

        `most` keeps the most selective ones of each; by default all are there.
        """
        neurons = {
            point: [
                each.to_dict()
                for each in (self._all(point) if most is None else self.most_selective(point, most))
            ]
            for point in self.points
        }
        return {
            "data": self.data,
            "generations": self.generations,
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
            "summary": [asdict(each) for each in self.summary()],
            "neurons": neurons,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a safetensors file, from which `load_neurons` reads it back.

        Raises:
            FileError: the file cannot be written.
        """
        return _write(path, self.counts, self._head())

    def _head(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("counts", "names")}
        return {**own, "names": {str(id_): text for id_, text in self.names.items()}}

    def _all(self, point: str) -> Iterator[Neuron]:
        figures = self._figures(point)
        return (self._neuron(point, i, figures) for i in range(len(figures["mean"])))

    def _neuron(self, point: str, index: int, figures: Mapping[str, Tensor]) -> Neuron:
        kind, label = self._best(point, figures, index)
        return Neuron(
            point=point,
            index=index,
            **{name: float(figures[name][index]) for name in _FIGURES},
            dead=float(figures["active"][index]) == 0,
            kind=kind,
            label=label,
            types={
                name: next(self._types(types, TYPES_SHOWN, [index]))
                for name, types in self.counts[point].types.items()
                if types.keys
            },
            examples=tuple(self._examples(point, index)),
        )

    def _figures(self, point: str) -> dict[str, Tensor]:
        """Figures [neuron] of a hook point; `kind` and `place` say where `selectivity` comes from."""
        if point not in self.counts:
            raise InputError(f"the neurons of {point} were not looked at; known are {', '.join(self.points)}")
        counts = self.counts[point]
        found, rows = counts.found, counts.rows
        mean = found["total"] / rows
        std = (found["squares"] / rows - mean.square()).clamp_min(0).sqrt()
        best = torch.full_like(mean, math.nan)
        kind, place = torch.zeros(len(mean), dtype=torch.long), torch.zeros(len(mean), dtype=torch.long)
        for number, types in enumerate(counts.types.values()):
            kept = types.tensors()
            n = kept["counts"].double()[:, None]
            fair = (n >= FEWEST) & (rows - n >= FEWEST)
            rest = (found["total"] - kept["sums"]) / (rows - n).clamp_min(1)
            score = ((kept["sums"] / n.clamp_min(1) - rest) / std).where(fair & (std > 0), -math.inf)
            if not len(score):
                continue
            highest, where = score.max(0)
            better = (highest > best.nan_to_num(-math.inf)) & highest.isfinite()
            best, place = highest.where(better, best), where.where(better, place)
            kind = torch.where(better, number, kind)
        return {
            "mean": mean,
            "std": std,
            "lowest": found["lowest"].double(),
            "highest": found["values"][:, 0].double(),
            "active": found["active"].double() / rows,
            "selectivity": best,
            "kind": kind,
            "place": place,
        }

    def _best(self, point: str, figures: Mapping[str, Tensor], index: int) -> tuple[str, str]:
        if math.isnan(float(figures["selectivity"][index])):
            return "", ""
        kind = list(self.counts[point].types)[int(figures["kind"][index])]
        return kind, self._name(self.counts[point].types[kind].keys[int(figures["place"][index])])

    def _name(self, key: int | str) -> str:
        return self.names.get(key, str(key)) if isinstance(key, int) else key

    def _types(
        self, types: Types, shown: int, only: Sequence[int] | None = None
    ) -> Iterator[tuple[NeuronType, ...]]:
        """For each neuron the labels with the highest mean activation."""
        kept = types.tensors()
        n = kept["counts"].double()
        means = kept["sums"].double() / n[:, None]
        chosen = range(means.shape[1]) if only is None else only
        for index in chosen:
            score = means[:, index].where(n >= FEWEST, -math.inf)
            order = score.argsort(descending=True, stable=True)[:shown].tolist()
            yield tuple(
                NeuronType(
                    label=self._name(types.keys[place]),
                    mean=float(means[place, index]),
                    rows=int(n[place]),
                    active=float(kept["fired"][place, index] / n[place]),
                )
                for place in order
                if score[place] > -math.inf
            )

    def _examples(self, point: str, index: int) -> Iterator[NeuronExample]:
        found = self.counts[point].found
        for rank in range(found["values"].shape[1]):
            if int(found["examples"][index, rank]) == PADDING:
                return
            ids, values = found["window_ids"][index, rank], found["window_values"][index, rank]
            here = [place for place in range(len(ids)) if int(ids[place]) != PADDING]
            context = tuple(self._name(int(ids[place])) for place in here)
            at = here.index(WINDOW)
            yield NeuronExample(
                value=float(found["values"][index, rank]),
                example=int(found["examples"][index, rank]),
                position=int(found["positions"][index, rank]),
                token=context[at],
                context=context,
                values=tuple(float(values[place]) for place in here),
                at=at,
            )


_FIGURES = ("mean", "std", "lowest", "highest", "active", "selectivity")


# ---- the work --------------------------------------------------------------------------------------------


def survey_neurons(
    model: Seq2Seq,
    data: Data,
    points: str | Iterable[str] = NEURONS,
    *,
    examples: int | None = None,
    top: int = TOP,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    every: float = EVERY,
    name: str | None = None,
    batch_size: int = 16,
    memory_budget: int = DEFAULT,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> NeuronSurvey:
    """Find out what every neuron responds to: statistics, most active examples, most active token types.

    Outputs are made, looked at and let go, a few at a time: memory depends on the neurons and the token
    types, not on how many texts there are. Given outputs are taken as they are, else the model writes them.

    Args:
        model: an opened model.
        data: a task (or its name), a data file, or texts; see `read_items`.
        points: hook points by glob patterns; any with one vector per position will do, such as
            `decoder.*.residual`, whose coordinates then are the "neurons".
        examples: how many texts at most.
        top: examples kept per neuron.
        seed: of drawing a task's examples.
        folder: keeps what has been seen in `state.safetensors` there; a call with the same arguments that
            finds it goes on from there, and ends with the same tables as if it had never been interrupted.
        every: seconds between two writes of it.
        name: what the data are called; by default their own name.
        batch_size: outputs per pass at most.
        memory_budget: bytes to use beside the model; a fourth of it is for token types.
        progress: called with (done, all) texts.
        should_stop: asked between batches; True ends the work with `Cancelled`, after the state is written.
        options: of `generate`, where outputs have to be written.

    Raises:
        UnknownNameError: a pattern matches no hook point.
        InputError: no texts, or hook points without one vector per position.
        FileError: the folder's state is of other data, another model or other settings, or is broken.
        Cancelled: `should_stop` said so.
    """
    if top < 1:
        raise InputError(f"top is {top}; it must be at least 1")
    names = select_rows(model, points)
    items = read_items(data, examples, seed)
    head = {
        "data": name or name_of(data),
        "generations": len(items),
        "model_digest": model.digest,
        "data_digest": digest_json([[item.source, item.target] for item in items]),
    }
    asked = {**head, "points": names, "top": top, "batch_size": batch_size, "options": _plain(options)}
    slots = any(item.example is not None for item in items)
    path = None if folder is None else Path(folder) / STATE
    done, counts = (0, {}) if path is None else _resumed(path, asked)
    counts = counts or {
        name: Counts(name, top, types=_no_types(model, name, names, slots, memory_budget)) for name in names
    }
    written = time.monotonic()

    def keep() -> None:
        if path is not None:
            _write(path, counts, {"asked": asked, "done": done})

    while done < len(items):
        if should_stop is not None and should_stop():
            keep()
            raise Cancelled("stopped as asked")
        shard = items[done : done + SHARD]
        generations = outputs_of(model, shard, batch_size=batch_size, **options)
        for batch in state_batches(
            model, generations, names, batch_size=batch_size, memory_budget=memory_budget // 2
        ):
            for point in names:
                counts[point].add(
                    _rows(point, views[point], shard[i], generations[i], done + i, counts[point].types)
                    for i, views in batch
                )
        done += len(shard)
        if time.monotonic() - written >= every or done == len(items):
            keep()
            written = time.monotonic()
        if progress is not None:
            progress(done, len(items))
    return NeuronSurvey(counts=counts, names=_names(model, counts), **head)


def load_neurons(path: str | os.PathLike[str]) -> NeuronSurvey:
    """Read a survey that `NeuronSurvey.save` wrote.

    Raises:
        FileError: the file is missing, broken, or of another kind.
    """
    counts, head = _read(path)
    if "names" not in head:
        raise FileError(f"{path} is the state of a survey that has not ended; resume it first")
    names = {int(id_): text for id_, text in head["names"].items()}
    return NeuronSurvey(counts=counts, **{**head, "names": names})


def _rows(
    point: str,
    values: Tensor,
    item: Item,
    generation: Generation,
    example: int,
    types: Mapping[str, Types],
) -> Rows:
    """One output's activations with a label of every kind."""
    side = side_of(point)
    about, read = tokens_of(generation, side)
    labels: dict[str, Sequence[int | str]] = {
        "token": [token.id for token in about],
        "input": [token.id for token in read],
    }
    if "slot" in types:
        labels["slot"] = slots_of(item, generation, side)
    return Rows(example, values, torch.tensor([token.id for token in about]), labels)


def _no_types(
    model: Seq2Seq, point: str, points: Sequence[str], slots: bool, memory_budget: int
) -> dict[str, Types]:
    """Empty tables of labels, as long as a fourth of the memory allows."""
    kinds = ["token"] if side_of(point) == "source" else ["token", "input"]
    # Four bytes for a sum and four for a count; the width of most points is a few times the model's.
    width = 4 * int(model.hf.config.hidden_size)
    limit = max(256, memory_budget // 4 // (8 * width * len(points) * len(kinds)))
    return {kind: Types(limit) for kind in [*kinds, *(["slot"] if slots else [])]}


def _names(model: Seq2Seq, counts: Mapping[str, Counts]) -> dict[int, str]:
    """The text of every token id that a result may show."""
    ids: set[int] = set()
    for known in counts.values():
        ids |= set(known.found["window_ids"].unique().tolist())
        ids |= {key for types in known.types.values() for key in types.keys if isinstance(key, int)}
    return {id_: token_text(model.tokenizer, id_) for id_ in sorted(ids - {PADDING})}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if not callable(value)}


# ---- files -----------------------------------------------------------------------------------------------


def _resumed(path: Path, asked: Mapping[str, Any]) -> tuple[int, dict[str, Counts]]:
    """How many texts a state has seen, and what is known of them; nothing where there is none."""
    if not path.exists():
        return 0, {}
    counts, head = _read(path)
    before = head.get("asked", {})
    # Through JSON, as the file's have been: a tuple there is a list.
    for name, value in json.loads(json.dumps(asked)).items():
        if before.get(name) != value:
            raise FileError(
                f"{path} is the state of another survey (its {name.replace('_', ' ')} is not the same); "
                "name another folder, or ask for the same as before"
            )
    return int(head["done"]), counts


def _write(path: str | os.PathLike[str], counts: Mapping[str, Counts], head: Mapping[str, Any]) -> Path:
    tensors = {
        f"{point}/{name}": tensor.contiguous()
        for point, known in counts.items()
        for name, tensor in known.tensors().items()
    }
    record = {"schema": _SCHEMA, "head": dict(head), "counts": [known.record() for known in counts.values()]}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"explain": json.dumps(record)})
    return Path(path)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Counts], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("explain", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if record.get("schema") != _SCHEMA:
            raise FileError(f"{path} is not an {_SCHEMA} file")
        counts = {}
        for known in record["counts"]:
            own = {
                name.removeprefix(f"{known['point']}/"): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{known['point']}/")
            }
            counts[known["point"]] = Counts.restored(known, own)
        return counts, record["head"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"cannot read {path} as a survey of neurons: {error}") from None
