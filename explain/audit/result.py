"""What an audit found: frozen results that are saved as `audit.json` and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from explain.audit.calibration import Share
from explain.errors import FileError
from explain.files import envelope, read_json, write_json

NAME = "audit"
FILE = f"{NAME}.json"
OUTPUTS = "outputs.parquet"
FINDINGS = "findings.parquet"

Verdict = Literal["pass", "fail", "uncalibrated"]


def number(value: float | None) -> float:
    """A number of a JSON file, where null stands for nan."""
    return math.nan if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Spread:
    """Number, mean, least and greatest of the scores that are defined; nan of none."""

    n: int = 0
    mean: float = math.nan
    least: float = math.nan
    most: float = math.nan

    def with_score(self, score: float) -> Spread:
        """The spread with one more score."""
        if math.isnan(score):
            return self
        if self.n == 0:
            return Spread(1, score, score, score)
        mean = self.mean + (score - self.mean) / (self.n + 1)
        return Spread(self.n + 1, mean, min(self.least, score), max(self.most, score))


@dataclass(frozen=True, slots=True)
class DetectorResult:
    """What one detector found.

    Attributes:
        rate: false alarms allowed, a share of clean outputs.
        threshold: the bound beyond which scores are flagged, [low, high] where both sides are; None without
            a calibration, or where it is infinite.
        flagged: flagged outputs; None without a calibration.
        excess: the probability of as many flags from false alarms alone; nan without a calibration.
        scores: of all outputs.
        calibration: bounds by length, and how many clean outputs they flag; None without one.
    """

    rate: float
    threshold: Any
    flagged: Share | None
    excess: float
    scores: Spread
    calibration: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """The findings as a JSON object."""
        return {
            "rate": self.rate,
            "threshold": self.threshold,
            "flagged": None if self.flagged is None else self.flagged.count,
            "flagged_share": None if self.flagged is None else self.flagged.to_dict(),
            "excess": self.excess,
            "scores": asdict(self.scores),
            "calibration": None if self.calibration is None else dict(self.calibration),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the findings back from their JSON object."""
        flagged, scores = data["flagged_share"], data["scores"]
        return cls(
            data["rate"],
            data["threshold"],
            None if flagged is None else Share.from_dict(flagged),
            number(data["excess"]),
            Spread(scores["n"], *(number(scores[key]) for key in ("mean", "least", "most"))),
            data["calibration"],
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of the policy. `passed` is None where there was too little to judge."""

    name: str
    passed: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Flag:
    """Why an output is suspicious.

    Attributes:
        detector: its name.
        score: of the output.
        low, high: the bounds that it left; nan where there is none.
        p_value: the share of clean outputs at least as suspicious.
        places: tokens of the output, or of the source, that the flag is about.
        words: what was found, where it is words.
    """

    detector: str
    score: float
    low: float
    high: float
    p_value: float
    places: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspect:
    """An output to look at, with its flags, the surest first; without a calibration there are none."""

    number: int
    source: str
    output: str
    expected: str
    source_tokens: tuple[str, ...]
    tokens: tuple[str, ...]
    scores: Mapping[str, float]
    flags: tuple[Flag, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a suspect back from its JSON object."""
        flags = tuple(
            Flag(
                detector=flag["detector"],
                score=number(flag["score"]),
                low=number(flag["low"]),
                high=number(flag["high"]),
                p_value=number(flag["p_value"]),
                places=tuple(flag["places"]),
                words=tuple(flag["words"]),
            )
            for flag in data["flags"]
        )
        return cls(
            data["number"],
            data["source"],
            data["output"],
            data["expected"],
            tuple(data["source_tokens"]),
            tuple(data["tokens"]),
            {name: number(value) for name, value in data["scores"].items()},
            flags,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the data: its outputs, and how many each detector flags."""

    slice: str
    value: str
    outputs: int
    flagged: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Refused:
    """Sources that the model cannot read: how many, and the first few with why."""

    count: int
    first: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Which outputs of a model should not be trusted, and what it relies on that it should not.

    Attributes:
        verdict: `pass`, `fail`, or `uncalibrated` where thresholds would have no evidence behind them.
        reason: the verdict in a sentence.
        examples: outputs that were looked at, those that could not be read included.
        detectors: by name.
        flagged: outputs with at least one flag; None without a calibration.
        expected: the share of clean outputs with at least one flag; None likewise.
        checks: every condition of the policy.
        parts: the slices of the data.
        tests: of the model as a whole, by name, as JSON objects.
        combination: how well the detectors, alone and together, tell apart outputs that are not the data's
            own; None where these are not given.
        reference: how outputs compare with the data's own, `equal` and `chrf`, where others may be as good;
            else None.
        suspects: the most suspicious outputs.
        refused: sources that the model cannot read.
        policy: what was asked for.
        calibration: what it was calibrated on; None without one.
        settings: controls of generation and the like.
        model, data: what they are called.
        model_digest, data_digest: what was audited, on what.
        reviews: what reviewers said, as a JSON object (see `explain.audit.reviews`); None before any did.
    """

    verdict: Verdict
    reason: str
    examples: int
    detectors: Mapping[str, DetectorResult]
    flagged: Share | None
    expected: Share | None
    checks: tuple[Check, ...]
    parts: tuple[Part, ...]
    tests: Mapping[str, Mapping[str, Any]]
    combination: Mapping[str, Any] | None
    suspects: tuple[Suspect, ...]
    refused: Refused
    policy: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    model: str
    data: str
    model_digest: str
    data_digest: str
    reference: Mapping[str, Any] | None = None
    reviews: Mapping[str, Any] | None = None
    folder: Path | None = None
    keeper: object | None = None  # of a temporary folder, which lives as long as the result

    def to_dict(self) -> dict[str, Any]:
        """The audit as the JSON object of `explain/audit@1`, without the envelope."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "examples": self.examples,
            "model": self.model,
            "data": self.data,
            "flagged": None if self.flagged is None else self.flagged.to_dict(),
            "expected": None if self.expected is None else self.expected.to_dict(),
            "detectors": {name: found.to_dict() for name, found in self.detectors.items()},
            "tests": {name: dict(found) for name, found in self.tests.items()},
            "checks": [asdict(check) for check in self.checks],
            "slices": [asdict(part) for part in self.parts],
            "combination": self.combination,
            "reference": self.reference,
            "refused": asdict(self.refused),
            "suspects": [asdict(suspect) for suspect in self.suspects],
            "policy": dict(self.policy),
            "calibration": None if self.calibration is None else dict(self.calibration),
            "settings": dict(self.settings),
            "reviews": None if self.reviews is None else dict(self.reviews),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read an audit back from its JSON object."""
        flagged, expected, refused = data["flagged"], data["expected"], data["refused"]
        return cls(
            verdict=data["verdict"],
            reason=data["reason"],
            examples=data["examples"],
            detectors={name: DetectorResult.from_dict(item) for name, item in data["detectors"].items()},
            flagged=None if flagged is None else Share.from_dict(flagged),
            expected=None if expected is None else Share.from_dict(expected),
            checks=tuple(Check(item["name"], item["passed"], item["reason"]) for item in data["checks"]),
            parts=tuple(
                Part(item["slice"], item["value"], item["outputs"], item["flagged"])
                for item in data["slices"]
            ),
            tests=data["tests"],
            combination=data["combination"],
            suspects=tuple(Suspect.from_dict(item) for item in data["suspects"]),
            refused=Refused(refused["count"], tuple((n, why) for n, why in refused["first"])),
            policy=data["policy"],
            calibration=data["calibration"],
            settings=data["settings"],
            model=data["model"],
            data=data["data"],
            model_digest=data["model_digest"],
            data_digest=data["data_digest"],
            reference=data.get("reference"),
            reviews=data.get("reviews"),
        )

    @property
    def findings(self) -> Any:
        """One row per flagged output or token, as a pandas DataFrame.

        Raises:
            FileError: the table is not where the audit is.
        """
        return self._table(FINDINGS)

    @property
    def outputs(self) -> Any:
        """One row per output with its scores, as a pandas DataFrame.

        Raises:
            FileError: the table is not where the audit is.
        """
        return self._table(OUTPUTS)

    def _table(self, name: str) -> Any:
        import pandas as pd

        path = None if self.folder is None else self.folder / name
        if path is None or not path.is_file():
            raise FileError(f"there is no {name} beside this audit")
        return pd.read_parquet(path)

    def save(self, path: str | Path, command: str | None = None) -> Path:
        """Write to a `.json` file.

        Raises:
            FileError: the file cannot be written.
        """
        head = envelope(
            NAME,
            seed=self.settings.get("seed"),
            model_digest=self.model_digest,
            data_digest=self.data_digest,
            command=command,
        )
        return write_json(path, {**head, **self.to_dict()})


def load_audit(path: str | Path) -> Audit:
    """Read an audit written by `Audit.save`, from its file or the folder that it is in.

    Raises:
        FileError: the file is missing, broken or of another kind.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    data = read_json(path, NAME)
    try:
        return replace(Audit.from_dict(data), folder=path.parent)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path} is a broken audit: {type(error).__name__} {error}") from None
