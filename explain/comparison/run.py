"""One comparison: two models on the same forced outputs, and the same again between retrained models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np
import torch

from explain.attribution import REGISTRY, Cancelled, SourceShare, source_share
from explain.attribution.memory import DEFAULT
from explain.comparison.alarm import alarm_of
from explain.comparison.drift import (
    DriftRows,
    ShareRows,
    drift,
    drift_rows,
    share_change,
    share_rows,
    shared_gold,
)
from explain.comparison.figures import Figures
from explain.comparison.inside import (
    AttentionRows,
    BlockRows,
    LayerRows,
    attention_change,
    block_rows,
    blocks_of,
    layer_similarity,
    layers_of,
    rows_of_layers,
    states_of,
)
from explain.comparison.outputs import OutputRows, Outputs, output_change, output_rows, same_outputs, scored
from explain.comparison.result import Comparison, DataFacts, DriftExample, Floor, FloorPair, ModelFacts
from explain.errors import ExplainError, InputError
from explain.evaluation.known import Case, known_cases
from explain.evaluation.run import Data, read_data
from explain.files import digest_json
from explain.model import Seq2Seq
from explain.results import Attribution, Generation
from explain.training.data import Pair
from explain.training.tasks import Task

METHODS = ("occlusion", "integrated_gradients", "attention", "value_zeroing", "consensus")
"""One of each kind, all fast: what is compared unless methods are named."""

# Outputs whose attention is held in memory at a time, of every model.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class ComparisonSettings:
    """How much is looked at, and how.

    Attributes:
        outputs: sources for which every model writes an output.
        examples: of them, the first few, whose forced outputs are explained on every model.
        k: how many strongest tokens `topk_jaccard` compares.
        largest: how many outputs with the largest drift are kept with their maps.
        accuracy_margin: the largest change of accuracy that counts as none, a share.
        seed: of every random choice.
    """

    outputs: int = 200
    examples: int = 50
    k: int = 5
    largest: int = 5
    accuracy_margin: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name in ("seed", "largest") else 1
            if each.name != "accuracy_margin" and (not isinstance(value, int) or value < least):
                raise InputError(f"{each.name} is {value!r}; it must be at least {least}")
        if not 0 <= self.accuracy_margin < 1:
            raise InputError(f"accuracy_margin is {self.accuracy_margin!r}; it is a share, such as 0.01")


def compare(
    model_a: Seq2Seq,
    model_b: Seq2Seq,
    data: Data,
    *,
    floor: Sequence[Seq2Seq] = (),
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    forced: bool = False,
    settings: ComparisonSettings | None = None,
    memory_budget: int = DEFAULT,
    generate: Mapping[str, Any] | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Find out whether two models that write the same do so for the same reasons.

    Both are explained on the same forced outputs, so that a map differs because the model does, and not
    because the output does. `Alarm` says when accuracy hides a change of the explanations.

    Args:
        model_a: the original.
        model_b: what is compared with it: compressed, fine-tuned, another checkpoint, another seed.
        data: a task with known answers (or its name), a data file, sources, or (source, output) pairs.
        floor: models of A's recipe and other seeds. What retraining changes is the least that a change has
            to exceed to mean anything.
        methods: names in `explain.methods()`; `METHODS` by default.
        options: by method, its own settings.
        forced: the forced outputs are those of the data; else A's own.
        settings: how much to look at.
        memory_budget: bytes that a method may use beside the models.
        generate: controls for `model.generate`.
        name: what the data are called, where they are not a task or a file.
        progress: called with (done, all) after every step.
        should_stop: asked between steps; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: no such method or task.
        InputError: data or settings that cannot be used, models that do not read the same tokens, or a floor
            that holds one of the two models.
        Cancelled: `should_stop` said so.
    """
    settings = settings or ComparisonSettings()
    names = list(dict.fromkeys(METHODS if methods is None else methods))
    given = {method: dict((options or {}).get(method, {})) for method in names}
    for method in names:
        REGISTRY.get(method).options(given[method])
    models = [model_a, model_b, *floor]
    _require_other_models(models)
    most = max(settings.outputs, settings.examples)
    title, task, pairs = read_data(data, most, settings.seed, name=name)
    few = pairs[: settings.examples]
    if forced and not all(pair.target for pair in few):
        raise InputError("the outputs of the data are to be forced: they need one for every source")

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    steps = _Steps(progress, len(models) * (len(names) + 3) + 1, check)
    views: list[_View] = []
    for model in models:
        views.append(
            _view(
                model,
                views[0] if views else None,
                pairs,
                len(few),
                forced=forced,
                controls=generate or {},
                steps=steps,
            )
        )
        view = views[-1]
        _explain(view, given, memory_budget, should_stop, steps)
        view.shares = source_share(
            model, view.generations, memory_budget=memory_budget, should_stop=should_stop
        )
        steps.done()
        view.cases = _known(view, task, settings, check)
        steps.done()
    # The pair in question, and every two of the models that differ in nothing but their seed.
    asked = [(0, 1), *combinations([0, *range(2, len(models))], 2)]
    inside = _inside(views, asked, check)
    steps.done()
    right = [pair.target for pair in pairs]
    rows = [
        _Rows.of(views[x], views[y], right, settings, *seen)
        for (x, y), seen in zip(asked, inside, strict=True)
    ]
    figures = [_figures([each], names, settings.seed) for each in rows]
    found = None
    if len(asked) > 1:
        found = Floor(
            _figures(rows[1:], names, settings.seed),
            tuple(
                FloorPair(models[x].name, models[y].name, own)
                for (x, y), own in zip(asked[1:], figures[1:], strict=True)
            ),
        )
    facts = [_facts(model) for model in models]
    problems = {method: text for view in views[:2] for method, text in view.problems.items()}
    return Comparison(
        a=facts[0],
        b=facts[1],
        floor_models=tuple(facts[2:]),
        data=DataFacts(title, len(pairs), len(few), forced, views[0].cases is not None),
        figures=figures[0],
        floor=found,
        alarm=alarm_of(figures[0], figures[1:], settings.accuracy_margin),
        problems=problems,
        examples=_largest(views, rows, settings.largest),
        settings={
            **asdict(settings),
            "methods": names,
            "options": {method: own for method, own in given.items() if own},
            "generate": {key: value for key, value in (generate or {}).items() if value not in (None, False)},
        },
        data_digest=digest_json([[pair.source, pair.target] for pair in pairs]),
    )


@dataclass
class _Steps:
    """Counts steps for the caller's progress."""

    progress: Callable[[int, int], None] | None
    total: int
    check: Callable[[], None]
    count: int = 0

    def done(self) -> None:
        self.count += 1
        if self.progress is not None:
            self.progress(self.count, self.total)
        self.check()


@dataclass(eq=False)
class _View:
    """One model, and all that it says about the forced outputs."""

    model: Seq2Seq
    generations: list[Generation]  # in its own ids
    outputs: Outputs
    maps: dict[str, list[Attribution]]
    problems: dict[str, str]
    shares: list[SourceShare]
    cases: list[Case] | None


def _require_other_models(models: Sequence[Seq2Seq]) -> None:
    """Refuse a floor that would be no floor."""
    known = {model.digest: model.name for model in models[:2]}
    for model in models[2:]:
        if model.digest in known:
            raise InputError(
                f"the floor's {model.name} is the same model as {known[model.digest]}; the floor is made of "
                "models of the same recipe trained with other seeds"
            )
        known[model.digest] = model.name


def _view(
    model: Seq2Seq,
    first: _View | None,
    pairs: Sequence[Pair],
    few: int,
    *,
    forced: bool,
    controls: Mapping[str, Any],
    steps: _Steps,
) -> _View:
    """A model's own outputs, and the forced ones in its ids: those of the first model, or of the data."""
    sources = [pair.source for pair in pairs]
    # First of all: whether it reads the same tokens decides whether there is anything to compare.
    generations = None if first is None else same_outputs(first.model, first.generations, model)
    own = model.generate(sources, **controls)
    if generations is None and forced:
        reading = ("allow_unknown", "source_language", "target_language")
        shared = {key: controls[key] for key in reading if key in controls}
        generations = model.force(sources[:few], [pair.target for pair in pairs[:few]], **shared)
    elif generations is None:
        generations = own[:few]
    outputs = Outputs(tuple(item.target_text for item in own), tuple(scored(model, generations)))
    steps.done()
    return _View(model, generations, outputs, {}, {}, [], None)


def _explain(
    view: _View,
    options: Mapping[str, Mapping[str, Any]],
    memory_budget: int,
    should_stop: Callable[[], bool] | None,
    steps: _Steps,
) -> None:
    """All methods' maps of the forced outputs on one model, as far as they can explain it."""
    for method, given in options.items():
        try:
            view.maps[method] = view.model.attribute(
                view.generations, method=method, memory_budget=memory_budget, should_stop=should_stop, **given
            )
        except Cancelled:
            raise
        except ExplainError as error:
            view.problems[method] = str(error)
        steps.done()


def _known(
    view: _View, task: Task | None, settings: ComparisonSettings, check: Callable[[], None]
) -> list[Case] | None:
    """The known answers of the forced outputs, verified on this model; None where the data have none."""
    if task is None:
        return None
    examples = task.examples("held_out", len(view.generations), settings.seed)
    cases, _ = known_cases(view.model, task, view.generations, examples, seed=settings.seed, check=check)
    return cases


def _inside(
    views: Sequence[_View], asked: Sequence[tuple[int, int]], check: Callable[[], None]
) -> list[tuple[AttentionRows, dict[tuple[str, str], LayerRows]]]:
    """Attention and representations of every two models: one pass per model and batch, nothing kept twice."""
    blocks = [blocks_of(views[x].model, views[y].model) for x, y in asked]
    layers = [layers_of(views[x].model, views[y].model) for x, y in asked]
    attention: list[dict[tuple[str, str], list[BlockRows]]] = [{block: [] for block in own} for own in blocks]
    states: list[dict[str, list[torch.Tensor]]] = [{} for _ in views]
    for begin in range(0, len(views[0].generations), _BATCH):
        seen = []
        for view, kept in zip(views, states, strict=True):
            check()
            points = [n for n in view.model.hook_points() if n.endswith((".pattern", ".residual"))]
            some = view.model.capture(view.generations[begin : begin + _BATCH], points)
            residuals = [name for name in points if name.endswith(".residual")]
            for name, found in states_of(some, residuals).items():
                kept.setdefault(name, []).extend(found)
            seen.append(some)
        for (x, y), own in zip(asked, attention, strict=True):
            for (a, b), found in own.items():
                found += [
                    block_rows(one[f"{a}.pattern"], other[f"{b}.pattern"], a)
                    for one, other in zip(seen[x], seen[y], strict=True)
                ]
    return [
        (own, rows_of_layers(named, states[x], states[y]))
        for (x, y), own, named in zip(asked, attention, layers, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Rows:
    """The numbers of one pair of models behind its figures."""

    outputs: OutputRows
    drift: Mapping[str, DriftRows]
    attention: AttentionRows
    shares: ShareRows
    layers: Mapping[tuple[str, str], LayerRows]

    @classmethod
    def of(
        cls,
        a: _View,
        b: _View,
        right: Sequence[str],
        settings: ComparisonSettings,
        attention: AttentionRows,
        layers: Mapping[tuple[str, str], LayerRows],
    ) -> _Rows:
        gold = None if a.cases is None or b.cases is None else shared_gold(a.cases, b.cases)
        return cls(
            outputs=output_rows(a.outputs, b.outputs, right),
            drift={
                method: drift_rows(a.maps[method], b.maps[method], gold, k=settings.k, seed=settings.seed)
                for method in a.maps
                if method in b.maps
            },
            attention=attention,
            shares=share_rows(a.generations, a.shares, b.shares),
            layers=layers,
        )


def _figures(rows: Sequence[_Rows], methods: Sequence[str], seed: int) -> Figures:
    """The figures of one pair of models, or of several pooled."""
    by_method = {method: [each.drift[method] for each in rows if method in each.drift] for method in methods}
    layers = list(dict.fromkeys(layer for each in rows for layer in each.layers))
    return Figures(
        outputs=output_change([each.outputs for each in rows], seed),
        drift={method: drift(found, seed) for method, found in by_method.items() if found},
        attention=attention_change([each.attention for each in rows], seed),
        source_share=share_change([each.shares for each in rows], seed),
        cka=layer_similarity(layers, [each.layers for each in rows]),
    )


def _largest(views: Sequence[_View], rows: Sequence[_Rows], most: int) -> tuple[DriftExample, ...]:
    """The outputs whose maps share fewest of their strongest tokens, with the method that moved most."""
    count = len(views[0].generations)
    moved = {method: _by_example(found, count) for method, found in rows[0].drift.items()}
    if not moved:
        return ()
    means = _nanmean(list(moved.values()))
    between = [_nanmean([_by_example(found, count) for found in each.drift.values()]) for each in rows[1:]]
    floors = _nanmean(between) if between else np.full(count, math.nan)
    order = sorted((i for i in range(count) if not math.isnan(means[i])), key=lambda i: (-means[i], i))
    found = []
    for number in order[:most]:
        method = max(moved, key=lambda name: np.nan_to_num(moved[name][number], nan=-1.0))
        maps = (view.maps[method][number] for view in views[:2])
        found.append(DriftExample(number, float(means[number]), float(floors[number]), method, *maps))
    return tuple(found)


def _by_example(rows: DriftRows, count: int) -> np.ndarray:
    """1 less the Jaccard index, mean over each example's tokens [example]; nan where it is undefined."""
    values, examples = rows.topk_jaccard.values, rows.topk_jaccard.examples
    known = ~np.isnan(values)
    sums = np.bincount(examples[known], weights=1 - values[known], minlength=count)
    sizes = np.bincount(examples[known], minlength=count)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), math.nan)


def _nanmean(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over rows [example]; nan where all of them are."""
    table = np.stack(rows)
    known = ~np.isnan(table)
    sizes = known.sum(0)
    return np.where(sizes > 0, np.where(known, table, 0).sum(0) / np.maximum(sizes, 1), math.nan)


def _facts(model: Seq2Seq) -> ModelFacts:
    known = model.describe()
    return ModelFacts(**{each.name: known[each.name] for each in fields(ModelFacts)})
