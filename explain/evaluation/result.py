"""What an evaluation found: frozen results that are saved as `evaluation.json` and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from explain.errors import FileError
from explain.evaluation.alignments import AlignmentScores
from explain.evaluation.cards import TrustCard
from explain.evaluation.estimates import Estimate
from explain.evaluation.faithfulness import Faithfulness
from explain.evaluation.gold import GoldScores
from explain.evaluation.known import Verification
from explain.evaluation.randomisation import Randomisation
from explain.evaluation.stability import Stability
from explain.files import envelope, read_json, write_json

NAME = "evaluation"
FILE = f"{NAME}.json"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """The data and how right the model is on them.

    Attributes:
        name: the task or the file.
        examples: number of examples.
        exact_match: share of outputs that are exactly right; nan without right outputs.
        token_accuracy: share of right tokens, each given the right ones before it; nan likewise.
        verification: how much of the gold the model bears out; None without a task.
        contrasts: number of output tokens with a foil whose deciding tokens are known.
    """

    name: str
    examples: int
    exact_match: float
    token_accuracy: float
    verification: Verification | None
    contrasts: int

    def to_dict(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        found = asdict(self)
        found["verification"] = None if self.verification is None else self.verification.to_dict()
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the facts back from their JSON object."""
        verification = data["verification"]
        return cls(
            data["name"],
            data["examples"],
            _number(data["exact_match"]),
            _number(data["token_accuracy"]),
            None if verification is None else Verification.from_dict(verification),
            data["contrasts"],
        )


@dataclass(frozen=True, slots=True)
class Gold:
    """Scores against known answers.

    Attributes:
        scores: over all output tokens that need something.
        subsets: the same for `multi_token` (tokens that need two or more), `contrastive` (which token decides
            between this word and its foil), `source` (the source side alone), `whole_prefix` (every prefix
            token that the gold does not name counts as wrong).
        template: Σ|score| of template text over that of text that needs something; 0 is right.
        chance: P@1 of a random ranking.
        alignments: scores of word links by convention, where there is a gold alignment.
    """

    scores: GoldScores
    subsets: Mapping[str, GoldScores]
    template: Estimate
    chance: Estimate
    alignments: Mapping[str, AlignmentScores]

    def to_dict(self) -> dict[str, Any]:
        """The scores as a JSON object."""
        return {
            **self.scores.to_dict(),
            "subsets": {name: found.to_dict() for name, found in self.subsets.items()},
            "template": self.template.to_dict(),
            "chance": self.chance.to_dict(),
            "alignments": {name: found.to_dict() for name, found in self.alignments.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the scores back from their JSON object."""
        return cls(
            GoldScores.from_dict(data),
            {name: GoldScores.from_dict(found) for name, found in data["subsets"].items()},
            Estimate.from_dict(data["template"]),
            Estimate.from_dict(data["chance"]),
            {name: AlignmentScores.from_dict(found) for name, found in data["alignments"].items()},
        )


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether scores add up to what they explain.

    Attributes:
        claimed: the method promises it.
        tolerance: the relative error that was asked for.
        tokens: tokens where the error is defined.
        median: the median relative error; 0 is exact, nan where it is defined nowhere.
        within: share of those tokens within the tolerance.
    """

    claimed: bool
    tolerance: float
    tokens: int
    median: float
    within: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the figures back from their JSON object."""
        return cls(
            data["claimed"],
            data["tolerance"],
            data["tokens"],
            _number(data["median"]),
            _number(data["within"]),
        )


@dataclass(frozen=True, slots=True)
class MethodEvaluation:
    """All that was found about one method on one model; fields are None where it was not measured.

    Attributes:
        problem: why the method cannot explain this model; "" where it can.
        sensitivity: largest relative change of a map under small noise on the embeddings; 0 does not move.
    """

    name: str
    config: Mapping[str, Any]
    gold: Gold | None
    faithfulness: Faithfulness | None
    completeness: Completeness | None
    randomisation: Randomisation | None
    sensitivity: Estimate | None
    stability: Stability | None
    card: TrustCard
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The findings as a JSON object."""
        found: dict[str, Any] = {"config": dict(self.config), "problem": self.problem}
        for name in _PARTS:
            part = getattr(self, name)
            found[name] = None if part is None else part.to_dict()
        return found

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Self:
        """Read the findings back from their JSON object."""
        parts = {
            part: None if data[part] is None else kind.from_dict(data[part]) for part, kind in _PARTS.items()
        }
        return cls(name=name, config=data["config"], problem=data["problem"], **parts)  # pyright: ignore


_PARTS: Mapping[str, Any] = {
    "gold": Gold,
    "faithfulness": Faithfulness,
    "completeness": Completeness,
    "randomisation": Randomisation,
    "sensitivity": Estimate,
    "stability": Stability,
    "card": TrustCard,
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Which methods to believe on one model, with the evidence.

    Attributes:
        task: the data, and how right the model is on them.
        methods: what was found about each method.
        control: faithfulness of a random order, beside which every method's stands.
        ranking: names of methods, the most trustworthy first; the control is not ranked.
        settings: how much was looked at.
        model_digest, data_digest: what was evaluated, on what.
    """

    task: TaskFacts
    methods: Mapping[str, MethodEvaluation]
    control: Faithfulness
    ranking: tuple[str, ...]
    settings: Mapping[str, Any]
    model_digest: str
    data_digest: str

    @property
    def cards(self) -> dict[str, TrustCard]:
        """The trust card of every method."""
        return {name: found.card for name, found in self.methods.items()}

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as the JSON object of `explain/evaluation@1`, without the envelope."""
        return {
            "task": self.task.to_dict(),
            "methods": {name: found.to_dict() for name, found in self.methods.items()},
            "random_order": self.control.to_dict(),
            "ranking": list(self.ranking),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read an evaluation back from its JSON object."""
        return cls(
            task=TaskFacts.from_dict(data["task"]),
            methods={name: MethodEvaluation.from_dict(name, item) for name, item in data["methods"].items()},
            control=Faithfulness.from_dict(data["random_order"]),
            ranking=tuple(data["ranking"]),
            settings=data["settings"],
            model_digest=data["model_digest"],
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
            model_digest=self.model_digest,
            data_digest=self.data_digest,
        )
        write_json(Path(path), {**head, **self.to_dict()})
        return Path(path)


def load_evaluation(path: str | Path) -> Evaluation:
    """Read an evaluation written by `Evaluation.save`, from its file or the folder that it is in.

    Raises:
        FileError: the file is missing, broken or of another kind.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    data = read_json(path, NAME)
    try:
        return Evaluation.from_dict(data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path} is a broken evaluation: {type(error).__name__} {error}") from None


def kept_evaluation(folder: str | Path, model_digest: str | None = None) -> Evaluation | None:
    """The evaluation that is kept with a model's run; None where there is none of this very model.

    Args:
        folder: the run folder that MODEL names.
        model_digest: of the model as it is now; None takes what is there.

    Raises:
        FileError: the file is broken.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    found = load_evaluation(path)
    return found if model_digest in (None, found.model_digest) else None
