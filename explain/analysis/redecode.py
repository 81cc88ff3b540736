"""Decoding anew under an intervention: what the model writes then, and how it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from explain.analysis.edits import Edit, require_inside, value_of, values_under
from explain.analysis.effects import numbers, tensor_of
from explain.attribution.objectives import question
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.attention import PointFunction
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Change:
    """A stretch of the two outputs: tokens [start, end) before and after.

    `kind` is `equal`, `replace`, `delete` (written before only) or `insert` (written after only).
    """

    kind: str
    before: tuple[int, int]
    after: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """The change as a JSON object."""
        return {"kind": self.kind, "before": list(self.before), "after": list(self.after)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a change back from its JSON object."""
        return cls(data["kind"], tuple(data["before"]), tuple(data["after"]))


@dataclass(frozen=True, eq=False)
class Redecoded:
    """What a model writes as it is and under an intervention.

    Attributes:
        before: the output of the model as it is.
        after: the output under the intervention; its log-probabilities are the changed model's.
        log_probs: float [target tokens of `before`], nats: what the changed model thinks of the first output.
        changes: how the second output differs token by token, in order; both outputs are covered whole.
        points: the hook points that were intervened at.
    """

    before: Generation
    after: Generation
    log_probs: Tensor
    changes: tuple[Change, ...]
    points: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Another output was written."""
        return any(change.kind != "equal" for change in self.changes)

    @property
    def lost(self) -> Tensor:
        """Float [target tokens of `before`]: what the first output's tokens lose, in nats; 0 is nothing."""
        return self.before.log_probs - self.log_probs

    def to_dict(self) -> dict[str, Any]:
        """Both outputs and their difference as a JSON object."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "log_probs": numbers(self.log_probs),
            "changes": [change.to_dict() for change in self.changes],
            "points": list(self.points),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read it back from its JSON object."""
        return cls(
            before=Generation.from_dict(data["before"]),
            after=Generation.from_dict(data["after"]),
            log_probs=tensor_of(data["log_probs"]),
            changes=tuple(Change.from_dict(item) for item in data["changes"]),
            points=tuple(data["points"]),
        )

    def to_frame(self) -> pd.DataFrame:
        """The two outputs side by side: a line for each pair of tokens, or for a token that stands alone.

        `log_prob` is of the token before, by the model as it is; `log_prob_changed` of the same token by the
        changed model; `log_prob_after` of the token after, by the changed model.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for change in self.changes:
            (start, end), (first, last) = change.before, change.after
            for offset in range(max(end - start, last - first)):
                t = start + offset if start + offset < end else None
                u = first + offset if first + offset < last else None
                own, new = self.before, self.after
                rows.append(
                    {
                        "kind": change.kind,
                        "before_index": t,
                        "before": "" if t is None else own.target_tokens[t].text,
                        "log_prob": None if t is None else float(own.log_probs[t]),
                        "log_prob_changed": None if t is None else float(self.log_probs[t]),
                        "after_index": u,
                        "after": "" if u is None else new.target_tokens[u].text,
                        "log_prob_after": None if u is None else float(new.log_probs[u]),
                    }
                )
        return pd.DataFrame(rows).astype({"before_index": "Int64", "after_index": "Int64"})


def redecode(
    model: Seq2Seq,
    source: str,
    changes: Mapping[str, PointFunction] | Sequence[Edit],
    **options: Any,
) -> Redecoded:
    """Write the output of a source text as it is, and again under an intervention.

    The same decoding both times. The intervention holds for the encoder and for every step.

    Args:
        model: an opened model.
        source: the source text.
        changes: functions by hook point or glob, as for `model.intervene`, or edits. While the output is
            being written the decoder runs over one position at a time, so functions see one decoder position,
            and edits cannot name one; heads, neurons, encoder positions and keys of attention they can.
        **options: controls and options of `model.generate`.

    Raises:
        UnknownNameError: no such hook point or control.
        InputError: nothing is changed; an edit names a decoder position or does not fit the tensor.
    """
    if not isinstance(source, str):
        raise InputError("give one source text: what is changed belongs to an input")
    functions = dict(changes) if isinstance(changes, Mapping) else _functions(changes)
    if not functions:
        raise InputError("nothing is changed; give functions by hook point, or edits")
    before = model.generate(source, **options)
    asked = question(model, before)
    with model.intervene(functions):
        points = model.intervened
        after = model.generate(source, **options)
        # By ids, not by text: decoding and encoding again may change them.
        log_probs = values_under(model, before, asked, [()])[0]
    one, other = before.target_ids.tolist(), after.target_ids.tolist()
    # Nothing is junk: words that come often matter as much.
    operations = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return Redecoded(
        before=before,
        after=after,
        log_probs=log_probs,
        changes=tuple(Change(kind, (a, b), (c, d)) for kind, a, b, c, d in operations),
        points=tuple(dict.fromkeys(points)),
    )


def _functions(edits: Sequence[Edit]) -> dict[str, PointFunction]:
    """Functions by hook point that make edits in every row, while the output is being written."""
    found: dict[str, list[Edit]] = {}
    for edit in edits:
        axis = _growing_axis(edit.point)
        if axis is not None and len(edit.where) > axis and edit.where[axis] is not None:
            raise InputError(
                f"an edit at {edit.point} names decoder position {edit.where[axis]}, but while the output is "
                "being written there is one position at a time; leave it open, or force an output"
            )
        found.setdefault(edit.point, []).append(edit)
    return {point: _everywhere(own) for point, own in found.items()}


def _growing_axis(point: str) -> int | None:
    """The axis of one input's tensor that is a decoder position; None where there is none."""
    name = point.rpartition(".")[2]
    if point.startswith("encoder") or name in ("k", "v"):
        return None
    return 1 if name in ("q", "z", "scores", "pattern") else 0


def _everywhere(edits: Sequence[Edit]) -> PointFunction:
    def function(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        for edit in edits:
            if _is_future(edit, tensor):
                continue
            require_inside(edit, tensor.shape[1:])
            index = tuple(slice(None) if number is None else number for number in edit.where)
            place = tensor[(slice(None), *index)]
            tensor[(slice(None), *index)] = value_of(edit, place.shape[1:], tensor).expand(place.shape)
        return tensor

    return function


def _is_future(edit: Edit, tensor: Tensor) -> bool:
    """An edit at a key of the decoder's self-attention that is not written yet."""
    name = edit.point.rpartition(".")[2]
    axis = {"k": 1, "v": 1, "scores": 2, "pattern": 2}.get(name)
    if not edit.point.startswith("decoder") or ".self." not in edit.point or axis is None:
        return False
    return len(edit.where) > axis and (edit.where[axis] or 0) >= tensor.shape[axis + 1]
