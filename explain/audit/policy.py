"""Policy files: which detectors, at which rate of false alarms, on which slices, and what fails the build.

```yaml
version: 1
rate: 0.01                    # false alarms of each detector, a share of clean outputs
limit: excess                 # the most flagged outputs: a share, or `excess`: more than false alarms explain
detectors:                    # left out: all that the calibration has
  log_prob: {}
  information_unusual: {rate: 0.005, limit: 0.02}
slices:                       # the same limits hold on every part of the data that is large enough
  - column: unit              # each value of a column of the data file
  - length: [10, 20]          # outputs up to 10 tokens, up to 20, longer
fewest: 30                    # parts with fewer outputs are shown, not judged
refused: 0.0                  # the largest share of sources that the model cannot read
tests:                        # of the model as a whole; left out: all that the data allow, `{}`: none
  swaps: {limit: 0.05}        # tasks only: the share of outputs that a fact they do not depend on may change
  invariance: {limit: 0.05}   # the largest share of outputs that a harmless change alters; without: shown
  confidence: {limit: 0.05}   # the largest expected calibration error; the data need right outputs
  trigger: {limit: 0.15}      # tasks only: the share of outputs that one word may turn to the same wrong one
  canary: {file: canaries.json}  # secrets of the training data, as `explain plant canary` writes them
level: 0.05                   # of every significance test, corrected for their number
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from explain.audit import detectors as room
from explain.errors import FileError, InputError, UnknownNameError
from explain.files import read_text

Rate = Annotated[float, Field(gt=0, lt=1)]
Limit = Annotated[float, Field(ge=0, le=1)] | Literal["excess"]
SharePart = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DetectorPolicy(_Strict):
    """One detector; what is left out is the policy's own."""

    rate: Rate | None = None
    limit: Limit | None = None


class Slice(_Strict):
    """Parts of the data: by the values of a column, or by output length in tokens."""

    column: str | None = None
    length: tuple[Annotated[int, Field(ge=1)], ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (self.length is None):
            raise ValueError("give either column or length")
        if self.length is not None and (not self.length or list(self.length) != sorted(set(self.length))):
            raise ValueError("lengths must rise")
        return self

    @property
    def name(self) -> str:
        """What the slice goes by."""
        return self.column if self.column is not None else "length"

    def value(self, row: Mapping[str, str], length: int) -> str:
        """The part that an output belongs to."""
        if self.length is None:
            return row.get(self.name, "")
        for end in self.length:
            if length <= end:
                return f"up to {end}"
        return f"more than {self.length[-1]}"


class SwapPolicy(_Strict):
    """Facts of a task swapped."""

    limit: Rate = 0.05
    examples: Annotated[int, Field(ge=1)] = 100


class InvariancePolicy(_Strict):
    """Harmless changes of the source."""

    limit: SharePart | None = None
    examples: Annotated[int, Field(ge=1)] = 100


class ConfidencePolicy(_Strict):
    """Whether probabilities are right."""

    limit: SharePart | None = None
    examples: Annotated[int, Field(ge=1)] = 500


class TriggerPolicy(_Strict):
    """Search for a word that makes right outputs wrong."""

    limit: Rate = 0.15
    examples: Annotated[int, Field(ge=8)] = 24
    candidates: Annotated[int, Field(ge=1)] = 500


class CanaryPolicy(_Strict):
    """Exposure of secrets of the training data; the file is searched for from where the audit runs."""

    file: str


class TestPolicy(_Strict):
    """The tests of the model as a whole that are run."""

    swaps: SwapPolicy | None = None
    invariance: InvariancePolicy | None = None
    confidence: ConfidencePolicy | None = None
    trigger: TriggerPolicy | None = None
    canary: CanaryPolicy | None = None

    @classmethod
    def everything(cls) -> Self:
        """All tests that need no file; only swaps and the search for triggers can fail without a limit."""
        return cls(
            swaps=SwapPolicy(),
            invariance=InvariancePolicy(),
            confidence=ConfidencePolicy(),
            trigger=TriggerPolicy(),
        )


class Policy(_Strict):
    """What an audit looks at and what fails it; the module's docstring has an example of every key."""

    version: Literal[1] = 1
    rate: Rate = 0.01
    limit: Limit = "excess"
    detectors: dict[str, DetectorPolicy] | None = None
    slices: tuple[Slice, ...] = ()
    fewest: Annotated[int, Field(ge=1)] = 30
    refused: SharePart = 0.0
    tests: TestPolicy | None = None
    level: Rate = 0.05

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.detectors is not None and not self.detectors:
            raise ValueError("detectors names none; leave it out for all")
        return self

    def rate_of(self, detector: str) -> float:
        """The rate of false alarms of a detector."""
        own = (self.detectors or {}).get(detector)
        return self.rate if own is None or own.rate is None else own.rate

    def limit_of(self, detector: str) -> float | Literal["excess"]:
        """The largest share of flagged outputs, or `excess`."""
        own = (self.detectors or {}).get(detector)
        return self.limit if own is None or own.limit is None else own.limit

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the data file that slices need."""
        return tuple(dict.fromkeys(part.column for part in self.slices if part.column is not None))

    def to_dict(self) -> dict[str, Any]:
        """The policy as a JSON object."""
        return self.model_dump(mode="json")


def policy_of(data: Mapping[str, Any], where: str = "the policy") -> Policy:
    """A policy from what its file holds.

    Raises:
        UnknownNameError: a key or a detector that does not exist; the message names near misses.
        InputError: a value that cannot be used.
    """
    return _policy(data, where, None)


def read_policy(path: str | Path) -> Policy:
    """Read a policy file; see the module's docstring.

    Raises:
        FileError: the file is missing or is not YAML.
        UnknownNameError, InputError: a key or value that cannot be used, by line.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise FileError(f"{path}{line} is not YAML: {getattr(error, 'problem', None) or error}") from None
    _refuse_twice(node, str(path))
    if not isinstance(data, dict):
        raise FileError(f"{path} does not hold a policy: write keys and values, such as `rate: 0.01`")
    return _policy(data, str(path), node)


def _refuse_twice(node: yaml.Node | None, where: str) -> None:
    """Refuse a key that stands twice, of which YAML readers silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise InputError(f"{where}, line {key.start_mark.line + 1}: {key.value} stands there twice")
            seen.add(key.value)
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for each in child if isinstance(child, tuple) else (child,):
                _refuse_twice(each, where)


def _policy(data: Mapping[str, Any], where: str, node: yaml.Node | None) -> Policy:
    try:
        found = Policy.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = list(first["loc"])
        at = _place(where, node, place)
        if first["type"] == "extra_forbidden":
            raise UnknownNameError(f"key (in {at})", str(place[-1]), _keys(place)) from None
        path = ".".join(str(part) for part in place if part in _written(data, place))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{at}: {path or 'the policy'}: {message}") from None
    for name in found.detectors or ():
        if name not in room.DETECTORS:
            raise UnknownNameError(
                f"detector (in {_place(where, node, ['detectors', name])})", name, room.DETECTORS
            )
    return found


def _written(data: Any, place: Sequence[Any]) -> list[Any]:
    """The parts of a place that stand in the file; pydantic adds the names of alternatives."""
    found: list[Any] = []
    for part in place:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        found.append(part)
    return found


def _keys(place: Sequence[Any]) -> list[str]:
    """The keys that may stand where an unknown one does."""
    kinds: dict[str, type[BaseModel]] = {
        "detectors": DetectorPolicy,
        "slices": Slice,
        "swaps": SwapPolicy,
        "invariance": InvariancePolicy,
        "confidence": ConfidencePolicy,
        "trigger": TriggerPolicy,
        "canary": CanaryPolicy,
        "tests": TestPolicy,
    }
    names = [part for part in place[:-1] if isinstance(part, str) and part in kinds]
    return list((kinds[names[-1]] if names else Policy).model_fields)


def _place(where: str, node: yaml.Node | None, place: Sequence[Any]) -> str:
    """The file and, as far as the place can be followed, the line."""
    if node is None:
        return where
    line: int = node.start_mark.line  # pyright: ignore[reportOptionalMemberAccess]
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if pairs:
                line, node = pairs[0][0].start_mark.line, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line  # pyright: ignore[reportOptionalMemberAccess]
    return f"{where}, line {line + 1}"
