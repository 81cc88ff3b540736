"""What a comparison found: a frozen result that is saved as `comparison.json` and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from explain.comparison.alarm import Alarm, MethodAlarm
from explain.comparison.figures import Figures
from explain.errors import FileError
from explain.files import envelope, read_json, write_json
from explain.results import Attribution

NAME = "comparison"
FILE = f"{NAME}.json"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One of the models: what it is called here, its digest and its size."""

    name: str
    digest: str
    family: str
    parameters: int
    encoder_layers: int
    decoder_layers: int
    heads: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the facts back from their JSON object."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What both models were given.

    Attributes:
        name: the task or the file.
        outputs: sources for which both wrote an output.
        examples: of them, those whose forced outputs were explained.
        forced: the forced outputs are those of the data; else A's own.
        gold: the data have known answers.
    """

    name: str
    outputs: int
    examples: int
    forced: bool
    gold: bool

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the facts back from their JSON object."""
        return cls(**data)


@dataclass(frozen=True, eq=False)
class DriftExample:
    """One output whose explanation moved far.

    Attributes:
        number: which example, from 0.
        drift: 1 less the top-k Jaccard index, mean over its tokens and all methods; 0 is no drift, 1 is all.
        floor: the same between retrained models, mean over their pairs; nan without a floor.
        method: the method that moved most here.
        a: its map on the first model.
        b: its map on the second.
    """

    number: int
    drift: float
    floor: float
    method: str
    a: Attribution
    b: Attribution

    def to_dict(self) -> dict[str, Any]:
        """The example as a JSON object."""
        head = {"number": self.number, "drift": self.drift, "floor": self.floor, "method": self.method}
        return {**head, "a": self.a.to_dict(), "b": self.b.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the example back from its JSON object; null stands for nan."""
        drift, floor = (float("nan") if data[key] is None else data[key] for key in ("drift", "floor"))
        maps = (Attribution.from_dict(data[side]) for side in ("a", "b"))
        return cls(data["number"], drift, floor, data["method"], *maps)


@dataclass(frozen=True, slots=True)
class FloorPair:
    """The figures of two models that differ in nothing but the seed of their training."""

    a: str
    b: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Floor:
    """What retraining alone changes: the same figures between every two models of one recipe.

    Attributes:
        figures: of all pairs, pooled.
        pairs: of each pair; A belongs to the models.
    """

    figures: Figures
    pairs: tuple[FloorPair, ...]

    def to_dict(self) -> dict[str, Any]:
        """The floor as a JSON object, its pooled figures in the shape of a comparison's own."""
        pairs = [{"a": pair.a, "b": pair.b, **pair.figures.to_dict()} for pair in self.pairs]
        return {**self.figures.to_dict(), "pairs": pairs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the floor back from its JSON object."""
        pairs = (FloorPair(pair["a"], pair["b"], Figures.from_dict(pair)) for pair in data["pairs"])
        return cls(Figures.from_dict(data), tuple(pairs))


@dataclass(frozen=True, eq=False)
class Comparison:
    """How two models differ on the same forced outputs, against what retraining alone changes.

    Attributes:
        a, b: the two models; B is compared with A.
        floor_models: models of A's recipe and other seeds.
        data: what they were given.
        figures: of the two models.
        floor: the same figures between the retrained models; None without any.
        alarm: whether accuracy hides that the explanations moved.
        problems: by method that cannot explain one of the two models, why.
        examples: the outputs whose explanations moved most, the first most of all.
        settings: how much was looked at, and how.
        data_digest: digest of the data.
    """

    a: ModelFacts
    b: ModelFacts
    floor_models: tuple[ModelFacts, ...]
    data: DataFacts
    figures: Figures
    floor: Floor | None
    alarm: Alarm
    problems: Mapping[str, str]
    examples: tuple[DriftExample, ...]
    settings: Mapping[str, Any]
    data_digest: str

    def to_dict(self) -> dict[str, Any]:
        """The comparison as the JSON object of `explain/comparison@1`, without the envelope."""
        return {
            "models": {
                "a": asdict(self.a),
                "b": asdict(self.b),
                "floor": [asdict(model) for model in self.floor_models],
            },
            "data": asdict(self.data),
            "alarm": self.alarm.alarm,
            "alarm_reason": self.alarm.reason,
            "accuracy_unchanged": self.alarm.accuracy_unchanged,
            "alarms": {name: found.to_dict() for name, found in self.alarm.methods.items()},
            **self.figures.to_dict(),
            "floor": None if self.floor is None else self.floor.to_dict(),
            "problems": dict(self.problems),
            "examples": [example.to_dict() for example in self.examples],
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a comparison back from its JSON object."""
        models = data["models"]
        return cls(
            a=ModelFacts.from_dict(models["a"]),
            b=ModelFacts.from_dict(models["b"]),
            floor_models=tuple(ModelFacts.from_dict(model) for model in models["floor"]),
            data=DataFacts.from_dict(data["data"]),
            figures=Figures.from_dict(data),
            floor=None if data["floor"] is None else Floor.from_dict(data["floor"]),
            alarm=Alarm(
                data["alarm"],
                data["alarm_reason"],
                data["accuracy_unchanged"],
                {name: MethodAlarm.from_dict(found) for name, found in data["alarms"].items()},
            ),
            problems=data["problems"],
            examples=tuple(DriftExample.from_dict(example) for example in data["examples"]),
            settings=data["settings"],
            data_digest=data["data_digest"],
        )

    def save(self, path: str | Path) -> Path:
        """Write to a `.json` file.

        Raises:
            FileError: the file cannot be written.
        """
        head = envelope(
            NAME,
            seed=self.settings.get("seed"),
            model_digest=self.a.digest,
            data_digest=self.data_digest,
        )
        write_json(Path(path), {**head, **self.to_dict()})
        return Path(path)


def load_comparison(path: str | Path) -> Comparison:
    """Read a comparison written by `Comparison.save`, from its file or the folder that it is in.

    Raises:
        FileError: the file is missing, broken or of another kind.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    data = read_json(path, NAME)
    try:
        return Comparison.from_dict(data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path} is a broken comparison: {type(error).__name__} {error}") from None
