"""Linear probes with control tasks: what can be read off hidden states, and what the probe only memorises."""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from explain.analysis.inputs import Progress
from explain.analysis.representations import Label, StateTable
from explain.analysis.states import side_of
from explain.attribution.registry import Cancelled
from explain.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Regularisation to choose from: the C of scikit-learn; smaller is stronger."""
CLASSES = 50
ROWS = 6_000
RESAMPLES = 1_000
# A label needs so many rows in every part of the data.
FEWEST = 5


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval; resampled are texts, since tokens of one text are not independent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Probe:
    """What a linear probe reads off the states at one hook point, on texts that it has not seen.

    Attributes:
        point: the hook point.
        accuracy: share of test rows with the right label.
        control: the same with labels drawn by lot for each type of token: what the probe can memorise.
        control_by: whose types: `token`, or in the decoder, where that is memorised better, `input`, the
            token that is read there.
        selectivity: accuracy minus control (Hewitt & Liang 2019); near 0: the figure says more about the
            probe than about the states.
        majority: share of test rows with the label that is most frequent in training.
        strength: C of the regularisation, chosen on the validation texts.
        converged: the fit reached its end.
        train: rows that the probe was fitted on.
        test: rows that it was tested on.
        classes: by label the share of its test rows that are right.
    """

    point: str
    accuracy: Share
    control: Share
    control_by: str
    selectivity: Share
    majority: float
    strength: float
    converged: bool
    train: int
    test: int
    classes: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The probe as a JSON object."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        shares = {name: asdict(own[name]) for name in ("accuracy", "control", "selectivity")}
        return {**own, **shares, "classes": dict(self.classes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Probe:
        """Read a probe back from its JSON object."""
        shares = {name: Share(**data[name]) for name in ("accuracy", "control", "selectivity")}
        return cls(**{**data, **shares})


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """Probes for one label at several hook points.

    Attributes:
        label: what was read: `token`, `input`, `slot`, `length`, `position`, or the name of a function.
        probes: one per hook point, in the order of computation.
        examples: texts for training, validation and test.
        left_out: share of labelled rows whose label was too rare, or beyond the most frequent.
        seed: of the division of the texts and of the control labels.
        data: what the data are called.
        model_digest: of the model that was looked at.
        data_digest: of the texts.
    """

    label: str
    probes: tuple[Probe, ...]
    examples: tuple[int, int, int]
    left_out: float
    seed: int
    data: str = ""
    model_digest: str = ""
    data_digest: str = ""

    def __getitem__(self, point: str) -> Probe:
        for probe in self.probes:
            if probe.point == point:
                return probe
        raise InputError(f"there is no probe of {point}; known are {', '.join(p.point for p in self.probes)}")

    def to_frame(self) -> pd.DataFrame:
        """One row per hook point; intervals as columns `…_low` and `…_high`."""
        import pandas as pd

        records = []
        for probe in self.probes:
            record: dict[str, Any] = {"point": probe.point}
            for name in ("accuracy", "control", "selectivity"):
                share: Share = getattr(probe, name)
                record |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
            rest = ("control_by", "majority", "strength", "converged", "train", "test")
            records.append({**record, **{name: getattr(probe, name) for name in rest}})
        return pd.DataFrame(records)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object; `from_dict` reads it back."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**own, "probes": [p.to_dict() for p in self.probes], "examples": list(self.examples)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProbeReport:
        """Read a report back from its JSON object."""
        known = {f.name: data[f.name] for f in fields(cls)}
        probes = tuple(Probe.from_dict(each) for each in known["probes"])
        return cls(**{**known, "probes": probes, "examples": tuple(known["examples"])})


def probe(
    tables: StateTable | Mapping[str, StateTable] | Iterable[StateTable],
    label: Label = "slot",
    *,
    strengths: Sequence[float] = STRENGTHS,
    classes: int = CLASSES,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ProbeReport:
    """Fit a linear probe for a label at every hook point, and its control task beside it.

    A probe is a multinomial logistic regression on standardised states (Alain & Bengio 2016). Texts are
    divided into training, validation and test, 60 : 20 : 20; the regularisation is chosen on the validation
    texts and used for the control as well. The control task (Hewitt & Liang 2019, arXiv:1909.03368) gives
    every type of token a label by lot, as often as the real ones occur: it can be learnt by knowing tokens by
    heart, and in no other way. In the decoder there are two, for the tokens written and the tokens read, and
    the one that is learnt better counts. For the labels `token` and `input` selectivity says nothing: they
    are types, too.

    That a label can be read off the states does not show that the model uses it; change them and see.

    Args:
        tables: hidden states by hook point; see `hidden_states`.
        label: what to read: a name in `LABELS`, or a function of a `Row`.
        strengths: values of C to choose from.
        classes: labels at most, the most frequent ones.
        rows: training rows at most; more are drawn from by lot.
        seed: of all that is drawn.
        progress: called with (done, all) hook points.
        should_stop: asked between hook points; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: there is no such label.
        InputError: too few texts, or fewer than two labels with enough rows.
        Cancelled: `should_stop` said so.
    """
    found = _tables(tables)
    if classes < 2 or rows < 10 or not strengths or min(strengths) <= 0:
        raise InputError("a probe needs at least 2 classes, 10 rows, and strengths above 0")
    parts: dict[int, _Part] = {}
    probes, lost, labelled = [], 0, 0
    for done, table in enumerate(found, start=1):
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")
        key = id(table.rows)  # tables of one side share their rows, and then the division and the control
        if key not in parts:
            parts[key] = _part(table, label, classes, rows, seed)
            lost, labelled = lost + parts[key].lost, labelled + parts[key].labelled
        probes.append(_probe(table, parts[key], strengths, seed))
        if progress is not None:
            progress(done, len(found))
    first = found[0]
    return ProbeReport(
        label=label if isinstance(label, str) else getattr(label, "__name__", "function"),
        probes=tuple(probes),
        examples=parts[id(first.rows)].examples,
        left_out=lost / labelled,
        seed=seed,
        data=first.data,
        model_digest=first.model_digest,
        data_digest=first.data_digest,
    )


def _tables(given: StateTable | Mapping[str, StateTable] | Iterable[StateTable]) -> list[StateTable]:
    if isinstance(given, StateTable):
        return [given]
    found = list(given.values() if isinstance(given, Mapping) else given)
    if not found or not all(isinstance(each, StateTable) for each in found):
        raise InputError("a probe needs tables of hidden states; see hidden_states")
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one side that take part, divided by text.

    Attributes:
        train, validation, test: row numbers.
        labels: by row number the label.
        controls: by whose type of token counts, by row number the label drawn for it.
        texts: by row number the text.
        examples: how many texts are in each part.
        labelled: rows that have a label.
        lost: those of them that do not take part, for their label is rare.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    controls: Mapping[str, np.ndarray]
    texts: np.ndarray
    examples: tuple[int, int, int]
    labelled: int
    lost: int


def _part(table: StateTable, label: Label, classes: int, most: int, seed: int) -> _Part:
    labels = np.asarray(table.labels(label), dtype=object)
    texts = np.asarray([row.example for row in table.rows])
    known = sorted({row.example for row in table.rows})
    if len(known) < 5:
        raise InputError(f"a probe needs at least 5 texts to divide, not {len(known)}")
    random.Random(f"division/{seed}").shuffle(known)
    cuts = math.ceil(0.6 * len(known)), math.ceil(0.8 * len(known))
    groups = known[: cuts[0]], known[cuts[0] : cuts[1]], known[cuts[1] :]
    place = {text: number for number, group in enumerate(groups) for text in group}
    where = np.asarray([place[text] for text in texts])
    counts = [Counter(labels[where == number]) for number in range(3)]
    frequent = [
        name
        for name, _ in sorted(counts[0].items(), key=lambda item: (-item[1], item[0]))
        if name and counts[0][name] >= FEWEST and all(count[name] for count in counts)
    ][:classes]
    if len(frequent) < 2:
        raise InputError(
            f"fewer than two labels of {table.point} occur at least {FEWEST} times in the training texts and "
            "also in the others; give more texts"
        )
    fine = np.isin(labels, frequent)
    numbers = [np.flatnonzero(fine & (where == number)) for number in range(3)]
    if len(numbers[0]) > most:
        drawn = np.random.default_rng(seed).choice(numbers[0], size=most, replace=False)
        numbers[0] = np.sort(drawn)
    labelled = int((labels != "").sum())
    return _Part(
        train=numbers[0],
        validation=numbers[1],
        test=numbers[2],
        labels=labels,
        controls=_controls(table, labels, numbers[0], seed),
        texts=texts,
        examples=(len(groups[0]), len(groups[1]), len(groups[2])),
        labelled=labelled,
        lost=labelled - int(fine.sum()),
    )


def _controls(table: StateTable, labels: np.ndarray, train: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """A label by lot for every type of token, as often as the labels occur in training."""
    pool = sorted(labels[train].tolist())
    found = {}
    for name in ("token", "input"):
        types = [getattr(row, name) for row in table.rows]
        drawn = {text: random.Random(f"control/{seed}/{text}").choice(pool) for text in set(types)}
        found[name] = np.asarray([drawn[text] for text in types], dtype=object)
    return found if side_of(table.point) == "target" else {"token": found["token"]}


def _probe(table: StateTable, part: _Part, strengths: Sequence[float], seed: int) -> Probe:
    states = [
        table.values[number].numpy().astype(np.float64) for number in (part.train, part.validation, part.test)
    ]
    middle, spread = states[0].mean(0), states[0].std(0)
    spread[spread == 0] = 1.0
    train, validation, test = ((each - middle) / spread for each in states)
    best: tuple[float, float, Any, bool] | None = None
    for strength in sorted(strengths):
        model, converged = _fit(train, part.labels[part.train], strength)
        score = float((model.predict(validation) == part.labels[part.validation]).mean())
        if best is None or score > best[0]:
            best = score, strength, model, converged
    assert best is not None
    _, strength, model, converged = best
    right = model.predict(test) == part.labels[part.test]
    controls = {}
    for name, drawn in part.controls.items():
        # By lot, all types may have got one label: then the answer is always right.
        if len(set(drawn[part.train])) < 2:
            controls[name] = drawn[part.test] == drawn[part.train][0]
            continue
        memory, fine = _fit(train, drawn[part.train], strength)
        controls[name], converged = memory.predict(test) == drawn[part.test], converged and fine
    by = max(controls, key=lambda name: controls[name].mean())
    control = controls[by]
    majority = Counter(part.labels[part.train]).most_common(1)[0][0]
    truth = part.labels[part.test]
    groups = part.texts[part.test]
    return Probe(
        point=table.point,
        accuracy=_share(right, groups, seed),
        control=_share(control, groups, seed),
        control_by=by,
        selectivity=_share(right.astype(float) - control, groups, seed),
        majority=float((truth == majority).mean()),
        strength=strength,
        converged=converged,
        train=len(part.train),
        test=len(part.test),
        classes={name: float(right[truth == name].mean()) for name in sorted(set(truth))},
    )


def _fit(states: np.ndarray, labels: np.ndarray, strength: float) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(states, labels.astype(str))
    return model, not any(issubclass(each.category, ConvergenceWarning) for each in said)


def _share(values: np.ndarray, texts: np.ndarray, seed: int) -> Share:
    """The mean of values with its bootstrap interval over texts."""
    _, where = np.unique(texts, return_inverse=True)
    sums, sizes = np.bincount(where, weights=values), np.bincount(where)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    value = float(np.mean(values))
    return Share(value, min(float(low), value), max(float(high), value))
