"""Attention knockout: what the output loses when the target may not look at a token, at some layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, Unpack

from torch import Tensor

from explain.analysis.edits import Edit, Limits, values_under
from explain.analysis.effects import Effects, asked_of
from explain.attribution.objectives import Contrast, Objective, Positions, question
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.families import layers as layers_of
from explain.results import Generation

SIDES = ("source", "prefix")


@dataclass(frozen=True, slots=True)
class Hidden:
    """Tokens that the target may not look at.

    Attributes:
        source: source tokens hidden from cross-attention.
        prefix: target tokens hidden from the decoder's self-attention.
        layers: the first and the last decoder layer where they are, both included.
        steps: the target tokens that are written without them; None is all.
    """

    source: tuple[int, ...]
    prefix: tuple[int, ...]
    layers: tuple[int, int]
    steps: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """What is hidden, in words: `source 3 at layers 0 to 1`."""
        sides = ((side, getattr(self, side)) for side in SIDES)
        hidden = " and ".join(f"{side} {', '.join(map(str, tokens))}" for side, tokens in sides if tokens)
        first, last = self.layers
        return f"{hidden} at layer {first}" if first == last else f"{hidden} at layers {first} to {last}"

    def edits(self) -> list[Edit]:
        """The scores that are set to −∞, so that attention there is exactly 0 and the rest adds up to 1."""
        found = []
        steps: Sequence[int | None] = (None,) if self.steps is None else self.steps
        # Decoder input u + 1 holds target token u; input 0, the decoder start, is always there.
        for block, keys in (("cross", self.source), ("self", [u + 1 for u in self.prefix])):
            for layer in range(self.layers[0], self.layers[1] + 1):
                point = f"decoder.{layer}.{block}.scores"
                found += [Edit(point, (None, step, key), -math.inf) for step in steps for key in keys]
        return found

    def to_dict(self) -> dict[str, Any]:
        """What is hidden as a JSON object."""
        return {
            "source": list(self.source),
            "prefix": list(self.prefix),
            "layers": list(self.layers),
            "steps": None if self.steps is None else list(self.steps),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read it back from its JSON object."""
        first, last = data["layers"]
        steps = None if data["steps"] is None else tuple(data["steps"])
        return cls(tuple(data["source"]), tuple(data["prefix"]), (first, last), steps)


@dataclass(frozen=True, eq=False)
class Knockout(Effects[Hidden]):
    """What the objective loses when tokens are hidden from the target's attention.

    `effect` is float [parts, rows]: the objective as it is minus the objective with the tokens hidden, in
    `units`. Above 0 the target needed to look there, below 0 looking spoke against the output, and 0 means
    that it was not needed at these layers: the token was read nowhere there, or is read elsewhere, too.
    """

    _part: ClassVar[Any] = Hidden

    @property
    def grid(self) -> Tensor:
        """The effects of a sweep as [token, window of layers, rows]; of one knockout, [1, 1, rows]."""
        windows = len({part.layers for part in self.parts})
        return self.effect.unflatten(0, (-1, windows))

    def _columns(self, number: int) -> dict[str, Any]:
        part = self.parts[number]
        texts = [self.source_tokens[i].text for i in part.source]
        texts += [self.target_tokens[u].text for u in part.prefix]
        return {
            "part": part.name,
            "side": " and ".join(side for side in SIDES if getattr(part, side)),
            "index": (*part.source, *part.prefix)[0] if len(texts) == 1 else None,
            "text": " ".join(texts),
            "first_layer": part.layers[0],
            "last_layer": part.layers[1],
        }


def knockout(
    model: Seq2Seq,
    generation: Generation,
    source: int | Sequence[int] = (),
    *,
    prefix: int | Sequence[int] = (),
    layers: tuple[int, int] | None = None,
    steps: int | Sequence[int] | None = None,
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    positions: Positions = None,
    **limits: Unpack[Limits],
) -> Knockout:
    """Hide tokens from the target's attention, all at once: one part.

    Attention knockout after Geva et al. 2023 (arXiv:2304.14767). Scores become −∞ before the softmax, so the
    other tokens share the attention. A source token is hidden from cross-attention alone: what other
    positions of the encoder hold of it can still be read there. A target token is hidden from the decoder's
    self-attention, its own position included; the step right after it still has it as input.

    Args:
        model: an opened model.
        generation: the input and the output that is kept.
        source: source tokens to hide, counted from 0.
        prefix: target tokens to hide, counted from 0; neither the decoder start nor the last token, which
            nothing is written after, can be hidden.
        layers: the first and the last decoder layer, both included; None is all.
        steps: hidden only when these target tokens are written; None is all.
        objective: as for `attribute`.
        contrast: a foil.
        positions: target tokens to explain; None is all of them.
        **limits: see `Limits`.

    Raises:
        InputError: nothing or the whole source is hidden; a token, layer or step does not exist.
        Cancelled: `should_stop` said so.
    """
    count, length = len(generation.source_tokens), len(generation.target_tokens)
    hidden = Hidden(
        _numbers(source, count, "source token"),
        _prefix(prefix, length),
        _layers(model, layers),
        None if steps is None else _numbers(steps, length, "step"),
    )
    if not hidden.source and not hidden.prefix:
        raise InputError("nothing is hidden; name source tokens, or target tokens as prefix=")
    if hidden.steps == ():
        raise InputError("steps is empty; name the target tokens that are written without, or leave it out")
    return _knocked_out(model, generation, [hidden], objective, contrast, positions, limits)


def knockout_sweep(
    model: Seq2Seq,
    generation: Generation,
    *,
    side: str = "source",
    window: int | None = 1,
    layers: tuple[int, int] | None = None,
    steps: int | Sequence[int] | None = None,
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    positions: Positions = None,
    **limits: Unpack[Limits],
) -> Knockout:
    """Hide every token of one side by itself, at every window of layers: `grid` is [token, window, rows].

    Args:
        model: an opened model.
        generation: the input and the output that is kept.
        side: `source` (cross-attention), or `prefix` (self-attention; the last target token is no input).
        window: how many layers in a row hide the token; None is all of them at once.
        layers: the first and the last decoder layer that windows may cover, both included; None is all.
        steps: hidden only when these target tokens are written; None is all.
        objective: as for `attribute`.
        contrast: a foil.
        positions: target tokens to explain; None is all of them.
        **limits: see `Limits`.

    Raises:
        InputError: no such side or window; a side with nothing that could be hidden.
        Cancelled: `should_stop` said so.
    """
    begin, end = _layers(model, layers)
    depth = end - begin + 1
    size = depth if window is None else window
    if side not in SIDES or not isinstance(size, int) or not 1 <= size <= depth:
        raise InputError(f"side={side!r}, window={window!r}: source or prefix, and 1 to {depth} layers")
    length = len(generation.target_tokens)
    tokens = len(generation.source_tokens) if side == "source" else length - 1
    if not tokens:
        raise InputError("this output has one token, and so no prefix to hide")
    chosen = None if steps is None else _numbers(steps, length, "step")
    parts = [
        Hidden(*((token,), ()) if side == "source" else ((), (token,)), (first, first + size - 1), chosen)
        for token in range(tokens)
        for first in range(begin, begin + depth - size + 1)
    ]
    return _knocked_out(model, generation, parts, objective, contrast, positions, limits)


def _knocked_out(
    model: Seq2Seq,
    generation: Generation,
    parts: Sequence[Hidden],
    objective: Objective,
    contrast: Contrast | None,
    positions: Positions,
    limits: Limits,
) -> Knockout:
    count = len(generation.source_tokens)
    if any(len(part.source) == count for part in parts):
        raise InputError(
            f"the whole source of {count} tokens is hidden, and attention needs something to look at; "
            "leave one token, such as the end of the text"
        )
    asked = question(model, generation, objective, contrast, positions=positions)
    found = values_under(model, generation, asked, [(), *(part.edits() for part in parts)], **limits)
    return Knockout(
        parts=tuple(parts),
        effect=found[0] - found[1:],
        value=found[0],
        **asked_of(model, generation, asked, contrast, {}),
    )


def _numbers(given: int | Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """Different numbers below `count`, in order; negative ones count from the end."""
    several = [given] if isinstance(given, int) else list(given)
    for number in several:
        if not isinstance(number, int) or not -count <= number < count:
            raise InputError(f"{name} {number!r} does not exist: there are {count} (0 to {count - 1})")
    return tuple(sorted({number % count for number in several}))


def _prefix(given: int | Sequence[int], length: int) -> tuple[int, ...]:
    """Target tokens that are an input of the decoder: all but the last."""
    found = _numbers(given, length, "target token")
    if length - 1 in found:
        raise InputError(f"target token {length - 1} is the last, and nothing that is written reads it")
    return found


def _layers(model: Seq2Seq, given: tuple[int, int] | None) -> tuple[int, int]:
    """The first and the last of a range of decoder layers."""
    depth = len(layers_of(model.hf, model.family.decoder))
    first, last = (0, depth - 1) if given is None else given
    if not 0 <= first <= last < depth:
        raise InputError(f"layers={given!r}: the first and the last of the decoder's {depth}, from 0")
    return first, last
