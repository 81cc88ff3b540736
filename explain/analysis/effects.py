"""What changing parts of the inside does: places that can be changed, and a number for each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from explain.analysis.edits import Edit, Where
from explain.attribution.objectives import Contrast, Question, Span, contrast_text
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.attention import POINTS
from explain.model.hooks import select
from explain.results import Generation, Token
from explain.results.tokens import merge_tokens

if TYPE_CHECKING:
    import pandas as pd

AXES = ("layer", "head", "position", "neuron")


@dataclass(frozen=True, slots=True)
class Site:
    """A place inside the model that is changed as one; None means all of an axis.

    Attributes:
        point: the hook point with the layer left open: `decoder.*.cross.z`; `decoder.*` is a whole layer.
        layer: which layer.
        head: which head.
        position: which position. Of encoder points and of cross-attention's k and v it is a source token; of
            all others it is a decoder position: t is the step that writes target token t.
        neuron: which number of the last axis.
        points: the hook points behind it.
    """

    point: str
    layer: int | None
    head: int | None
    position: int | None
    neuron: int | None
    points: tuple[str, ...]

    @property
    def name(self) -> str:
        """The place in words: `decoder.1.cross.z head 0`."""
        start = self.point if self.layer is None else self.point.replace("*", str(self.layer))
        numbers = [f"{axis} {getattr(self, axis)}" for axis in AXES[1:] if getattr(self, axis) is not None]
        return " ".join([start, *numbers])

    @property
    def of_source(self) -> bool:
        """Positions are source tokens."""
        return is_of_source(self.point)

    def where(self, point: str) -> Where:
        """The index of this place into one input's tensor at one of its hook points."""
        where = [getattr(self, axis) for axis in axes_of(point)]
        while where and where[-1] is None:
            where.pop()
        return tuple(where)

    def edits(self, values: Mapping[str, Tensor]) -> list[Edit]:
        """The edits that put in what stands there in `values`, one input's tensors by hook point."""
        found = []
        for point in self.points:
            where = self.where(point)
            index = tuple(slice(None) if number is None else number for number in where)
            found.append(Edit(point, where, values[point][index]))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The place as a JSON object."""
        return {**asdict(self), "points": list(self.points)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a place back from its JSON object."""
        return cls(**{**data, "points": tuple(data["points"])})


def is_of_source(point: str) -> bool:
    """Whether the positions at a hook point are source tokens."""
    return point.startswith("encoder") or point.endswith(("cross.k", "cross.v"))


def axes_of(point: str) -> tuple[str, str]:
    """The named axes of one input's tensor at a hook point; of scores and patterns, position is the query."""
    return ("head", "position") if point.rpartition(".")[2] in POINTS else ("position", "neuron")


def position_axis(point: str) -> int:
    """Which axis of one input's tensor at a hook point is the position."""
    return axes_of(point).index("position")


def sites_of(tensors: Mapping[str, Tensor], by: Sequence[str]) -> list[Site]:
    """The places at hook points, in the order of computation: one for each combination of the axes `by`.

    Axes that are not named are changed as one: without `layer` a place goes through all layers.

    Args:
        tensors: one input's tensors by hook point.
        by: some of `layer`, `head`, `position`, `neuron`.

    Raises:
        InputError: no axis, an unknown one, or one that a hook point does not have.
    """
    if isinstance(by, str) or not by or not set(by) <= set(AXES):
        raise InputError(f"by={by!r}: name one or several of {', '.join(AXES)}, such as ('layer', 'head')")
    found: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in tensors.items():
        axes = axes_of(name)
        missing = [axis for axis in by if axis not in ("layer", *axes)]
        if missing:
            raise InputError(f"{name} has no {missing[0]}; by can name layer, {' and '.join(axes)} there")
        kind, layer = _kind(name)
        sizes = dict(zip(axes, tensor.shape, strict=False))
        ranges = [range(sizes[axis]) if axis in by else (None,) for axis in AXES[1:]]
        for cell in product(*ranges):
            found.setdefault((kind, layer if "layer" in by else None, *cell), []).append(name)
    return [Site(*key, points=tuple(points)) for key, points in found.items()]


def whole_layers(sites: Sequence[Site]) -> list[Site]:
    """Places of one side and layer as one: `decoder.1` with all its hook points."""
    found: dict[tuple[str, int | None], list[str]] = {}
    for site in sites:
        found.setdefault((site.point.partition(".")[0], site.layer), []).extend(site.points)
    return [
        Site(f"{side}.*", layer, None, None, None, tuple(points)) for (side, layer), points in found.items()
    ]


def site_named(model: Seq2Seq, text: str) -> Site:
    """A place by its name: a hook point or glob, then axes and numbers: `decoder.1.cross.z head 0`.

    A block stands for what is usually silenced there: `decoder.1.cross head 0` is what the head reads (z),
    `decoder.1.cross` what the block adds (out), `decoder.1.mlp neuron 7` a hidden number, and `decoder.1` all
    that the layer adds.

    Raises:
        InputError: not written like this, or an axis that the hook point does not have.
        UnknownNameError: no such hook point.
    """
    point, *rest = text.split() or [""]
    axes = dict(zip(rest[::2], rest[1::2], strict=False))
    good = len(rest) == 2 * len(axes) and all(axis in AXES[1:] and axes[axis].isdecimal() for axis in axes)
    if not point or not good:
        raise InputError(
            f"{text!r} names no place; write a hook point, then head, position or neuron with a number, such "
            "as 'decoder.1.cross head 0'"
        )
    names = select(_usual(point, axes), model.hook_points())
    for name in names:
        missing = [axis for axis in axes if axis not in axes_of(name)]
        if missing:
            raise InputError(f"{name} has no {missing[0]}; it has {' and '.join(axes_of(name))}")
    kinds = dict.fromkeys(_kind(name) for name in names)
    kind, layer = next(iter(kinds)) if len(kinds) == 1 else (point, None)
    numbers = {axis: int(axes[axis]) if axis in axes else None for axis in AXES[1:]}
    return Site(kind, layer, **numbers, points=tuple(names))


def _usual(point: str, axes: Collection[str]) -> list[str]:
    """The hook points that a block or a layer stands for."""
    last = point.rpartition(".")[2]
    if last in ("self", "cross"):
        return [f"{point}.{'z' if 'head' in axes else 'out'}"]
    if last == "mlp":
        return [f"{point}.{'hidden' if 'neuron' in axes else 'out'}"]
    if point.count(".") == 1 and (last.isdecimal() or last == "*"):
        return [f"{point}.*.out"]
    return [point]


def grid_of(parts: Sequence[Site], effect: Tensor, point: str) -> Tensor:
    """Effects [parts, …] at one kind of hook point as [layer, head, position, neuron, …].

    Axes that were not told apart have length 1; nan where there is no such place.

    Raises:
        InputError: nothing was changed there.
    """
    chosen = [number for number, site in enumerate(parts) if site.point == point]
    if not chosen:
        known = dict.fromkeys(site.point for site in parts)
        raise InputError(f"nothing was changed at {point}; there are {', '.join(known)}")
    # Layers may begin anywhere; the other axes are counted from 0.
    layers = sorted({parts[number].layer or 0 for number in chosen})
    cells = [
        (layers.index(site.layer or 0), site.head or 0, site.position or 0, site.neuron or 0)
        for site in (parts[number] for number in chosen)
    ]
    sizes = [max(axis) + 1 for axis in zip(*cells, strict=True)]
    grid = torch.full((*sizes, *effect.shape[1:]), torch.nan)
    grid[tuple(torch.tensor(axis) for axis in zip(*cells, strict=True))] = effect[chosen]
    return grid


def _kind(name: str) -> tuple[str, int | None]:
    """A hook point with its layer left open, and the layer."""
    parts = name.split(".")
    if len(parts) > 1 and parts[1].isdigit():
        return ".".join([parts[0], "*", *parts[2:]]), int(parts[1])
    return name, None


# ---- effects ---------------------------------------------------------------------------------------------


class _Part(Protocol):
    @property
    def name(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


P = TypeVar("P", bound=_Part)


@dataclass(frozen=True, eq=False)
class Effects(Generic[P]):
    """A number for every part that was changed and every row of what is explained.

    Attributes:
        parts: what was changed, one after the other.
        effect: float [parts, rows]; the subclass says what it means.
        value: float [rows], the objective of the unchanged input.
        spans: the rows: target tokens [start, end) explained as one.
        objective: what is explained: `log_prob`, `logit`, …
        contrast: the foil as text, or None.
        units: what an objective of 1 is worth.
        source_text, target_text, source_tokens, target_tokens: the input and its output.
        decoder_start: the token at decoder position 0.
        config: every setting that shaped the numbers.
        model_digest: of the model.
    """

    parts: tuple[P, ...]
    effect: Tensor
    value: Tensor
    spans: tuple[Span, ...]
    objective: str
    contrast: str | None
    units: str
    source_text: str
    target_text: str
    source_tokens: tuple[Token, ...]
    target_tokens: tuple[Token, ...]
    decoder_start: Token
    config: Mapping[str, Any]
    model_digest: str

    _part: ClassVar[Any] = Site

    def __post_init__(self) -> None:
        shape = (len(self.parts), len(self.spans))
        if tuple(self.effect.shape) != shape or tuple(self.value.shape) != shape[1:]:
            raise InputError(
                f"effect {tuple(self.effect.shape)} and value {tuple(self.value.shape)} do not fit "
                f"{shape[0]} parts and {shape[1]} rows"
            )

    @property
    def rows(self) -> tuple[str, ...]:
        """The text of each row's target tokens."""
        return tuple(
            merge_tokens(self.target_tokens, range(*span), self.target_text).text for span in self.spans
        )

    def top(self, k: int = 5, row: int | None = None) -> list[tuple[P, float]]:
        """The k parts with the largest magnitude, in one row or summed over rows; undefined ones never."""
        # A part that is undefined in every row stays undefined.
        undefined = self.effect.isnan().all(1)
        whole = torch.where(undefined, torch.nan, self.effect.nansum(1))
        found = whole if row is None else self.effect[:, row]
        pairs = [(part, x) for part, x in zip(self.parts, found.tolist(), strict=True) if not math.isnan(x)]
        return sorted(pairs, key=lambda pair: -abs(pair[1]))[:k]

    def to_frame(self) -> pd.DataFrame:
        """The long table: a line for every part and row."""
        import pandas as pd

        texts = self.rows
        frame = pd.DataFrame(
            {
                **self._columns(number),
                "target_start": start,
                "target_end": end,
                "target": texts[row],
                **self._numbers(number, row),
                "value": float(self.value[row]),
            }
            for number in range(len(self.parts))
            for row, (start, end) in enumerate(self.spans)
        )
        whole = [column for column in (*AXES, "index") if column in frame]
        return frame.astype(dict.fromkeys(whole, "Int64"))

    def _columns(self, number: int) -> dict[str, Any]:
        """What the table says of a part."""
        return {"part": self.parts[number].name}

    def _numbers(self, number: int, row: int) -> dict[str, float]:
        """What the table says of a part and a row."""
        return {"effect": float(self.effect[number, row])}

    def to_dict(self) -> dict[str, Any]:
        """The effects as a JSON object; null stands for nan."""
        return {
            "parts": [part.to_dict() for part in self.parts],
            "effect": numbers(self.effect),
            "value": numbers(self.value),
            "spans": [list(span) for span in self.spans],
            "objective": self.objective,
            "contrast": self.contrast,
            "units": self.units,
            "source_text": self.source_text,
            "target_text": self.target_text,
            "source": [token.to_dict() for token in self.source_tokens],
            "target": [token.to_dict() for token in self.target_tokens],
            "decoder_start": self.decoder_start.to_dict(),
            "config": dict(self.config),
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read effects back from their JSON object."""
        return cls(**cls._read(data))

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "parts": tuple(cls._part.from_dict(item) for item in data["parts"]),
            "effect": tensor_of(data["effect"]),
            "value": tensor_of(data["value"]),
            "spans": tuple((start, end) for start, end in data["spans"]),
            **{name: data[name] for name in ("objective", "contrast", "units", "source_text", "target_text")},
            "source_tokens": tuple(Token.from_dict(item) for item in data["source"]),
            "target_tokens": tuple(Token.from_dict(item) for item in data["target"]),
            "decoder_start": Token.from_dict(data["decoder_start"]),
            "config": data["config"],
            "model_digest": data["model_digest"],
        }


@dataclass(frozen=True, eq=False)
class SiteEffects(Effects[Site]):
    """Effects of places inside the model."""

    def grid(self, point: str) -> Tensor:
        """The effects at one kind of hook point as [layer, head, position, neuron, rows].

        Axes that were not told apart have length 1; nan where there is no such place.

        Raises:
            InputError: nothing was changed there.
        """
        return grid_of(self.parts, self.effect, point)

    def token(self, site: Site) -> Token | None:
        """The token at a place's position: of the source, or what the decoder reads there."""
        if site.position is None:
            return None
        if site.of_source:
            return self.source_tokens[site.position]
        return self.target_tokens[site.position - 1] if site.position else self.decoder_start

    def _columns(self, number: int) -> dict[str, Any]:
        site = self.parts[number]
        token = self.token(site)
        cell = {axis: getattr(site, axis) for axis in AXES}
        return {"part": site.name, "point": site.point, **cell, "token": "" if token is None else token.text}


def asked_of(
    model: Seq2Seq,
    generation: Generation,
    question: Question,
    contrast: Contrast | None,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of `Effects` that tell what was asked of which input."""
    return {
        "spans": question.spans,
        "objective": question.objective,
        "contrast": None if contrast is None else contrast_text(contrast),
        "units": question.units,
        "source_text": generation.source_text,
        "target_text": generation.target_text,
        "source_tokens": generation.source_tokens,
        "target_tokens": generation.target_tokens,
        "decoder_start": generation.decoder_start,
        "config": {**config, **({"intervened": list(model.intervened)} if model.intervened else {})},
        "model_digest": model.digest,
    }


def numbers(tensor: Tensor) -> Any:
    """A tensor as nested lists for JSON; nan becomes null."""
    return _nulls(tensor.tolist())


def _nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_nulls(item) for item in value]
    return None if math.isnan(value) else value


def tensor_of(values: Any) -> Tensor:
    """A float tensor from nested lists; null becomes nan."""
    return torch.tensor(_filled(values), dtype=torch.float32)


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return math.nan if value is None else value
