"""One evaluation: every method on the same outputs, against known answers, controls and the model itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from explain.attribution import REGISTRY, Cancelled
from explain.attribution.memory import DEFAULT
from explain.errors import EmptyTextError, ExplainError, InputError
from explain.evaluation import gold as scoring
from explain.evaluation.alignments import (
    CONVENTIONS,
    Alignment,
    AlignmentScores,
    alignment_scores,
    token_gold_of,
)
from explain.evaluation.cards import CardPolicy, TrustCard, card_of, ranking
from explain.evaluation.estimates import estimate
from explain.evaluation.faithfulness import FaithfulnessSettings, faithfulness
from explain.evaluation.gold import Row
from explain.evaluation.known import Case, RowGold, known_cases
from explain.evaluation.randomisation import randomisation, stage_names
from explain.evaluation.result import Completeness, Evaluation, Gold, MethodEvaluation, TaskFacts
from explain.evaluation.stability import sensitivity, stability
from explain.files import digest_json
from explain.model import Seq2Seq
from explain.results import Attribution, Generation
from explain.training import tasks
from explain.training.data import Pair, read_table
from explain.training.tasks import Half, Task

Data = str | os.PathLike[str] | Task | Sequence[str | tuple[str, str | None] | Pair]
"""A task or its name, a data file, or sources with or without their right outputs."""


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How many examples each check looks at; checks that explain anew many times look at the first few.

    Attributes:
        examples: outputs that are explained, and compared with known answers where there are any.
        faithfulness_examples: of them, those whose tokens are hidden and kept.
        randomisation_examples: of them, those that are explained again on a model with shuffled weights.
        stability_examples: of them, those that are explained again with noise, and by other models.
        cascade: `all` explains after every stage of shuffling, `ends` after the first and the last.
        seed: of every random choice.
        faithfulness: how tokens are hidden.
        policy: what a method must reach to be trusted.
    """

    examples: int = 50
    faithfulness_examples: int = 16
    randomisation_examples: int = 6
    stability_examples: int = 6
    cascade: Literal["all", "ends"] = "all"
    seed: int = 0
    faithfulness: FaithfulnessSettings = field(default_factory=FaithfulnessSettings)
    policy: CardPolicy = field(default_factory=CardPolicy)

    def __post_init__(self) -> None:
        if self.cascade not in ("all", "ends"):
            raise InputError(f"cascade is {self.cascade!r}; it is all or ends")
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int) and value < (0 if each.name == "seed" else 1):
                raise InputError(f"{each.name} is {value}; it must be at least 1")


def evaluate(
    model: Seq2Seq,
    data: Data,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    others: Sequence[Seq2Seq] = (),
    alignments: Sequence[Alignment] | None = None,
    settings: EvaluationSettings | None = None,
    memory_budget: int = DEFAULT,
    generate: Mapping[str, Any] | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Find out which methods to believe on this model: known answers, faithfulness, controls, trust cards.

    Args:
        model: an opened model.
        data: a task with known answers (or its name), a data file, sources, or (source, output) pairs.
            What is explained are the model's own outputs; with `alignments` the given ones.
        methods: names in `explain.methods()`; all by default. The random control always takes part.
        options: by method, its own settings.
        others: the same model retrained with other seeds, for the stability of the maps.
        alignments: a gold alignment of each pair; see `read_alignments`.
        settings: how much to look at.
        memory_budget: bytes that a method may use beside the model.
        generate: controls for `model.generate`.
        name: what the data are called, where they are not a task or a file.
        progress: called with (done, all) after every step.
        should_stop: asked between steps; True ends the work with `Cancelled`.

    Raises:
        UnknownNameError: no such method or task.
        InputError: data or settings that cannot be used.
        Cancelled: `should_stop` said so.
    """
    settings = settings or EvaluationSettings()
    names = _names(methods)
    given = {name: dict((options or {}).get(name, {})) for name in names}
    for method in names:
        REGISTRY.get(method).options(given[method])
    title, task, pairs = read_data(
        data, settings.examples, settings.seed, name=name, whole=alignments is not None
    )
    alignments = None if alignments is None else alignments[: len(pairs)]

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")

    steps = _Steps(progress, len(names) * (5 + bool(others)), check)
    generations, facts, cases = _outputs(
        model, title, task, pairs, alignments, settings, generate or {}, check
    )
    common = {"memory_budget": memory_budget, "should_stop": should_stop}
    kept: dict[str, list[Attribution]] = {}
    problems: dict[str, str] = {}
    golds: dict[str, Gold | None] = {}
    sums: dict[str, Completeness] = {}
    few = max(settings.faithfulness_examples, settings.randomisation_examples, settings.stability_examples)
    for method in names:
        try:
            maps = model.attribute(generations, method=method, **common, **given[method])
            golds[method] = _gold(
                model, method, maps, cases, alignments, {**common, **given[method]}, settings.seed
            )
            sums[method] = _completeness(method, maps)
            kept[method] = maps[:few]
        except Cancelled:
            raise
        except ExplainError as error:
            problems[method] = str(error)
        steps.done(2)

    def first(count: int) -> tuple[list[Generation], dict[str, list[Attribution]]]:
        return generations[:count], {name: maps[:count] for name, maps in kept.items()}

    seed = settings.seed
    faithful = faithfulness(
        model,
        *first(settings.faithfulness_examples),
        settings.faithfulness,
        check=check,
        budget=memory_budget,
    )
    steps.done(len(names))
    stages = stage_names(model)
    shuffled = randomisation(
        model,
        *first(settings.randomisation_examples),
        options=given,
        stages=stages if settings.cascade == "all" else list(dict.fromkeys((stages[0], stages[-1]))),
        seed=seed,
        check=check,
    )
    steps.done(len(names))
    moved = sensitivity(model, *first(settings.stability_examples), options=given, seed=seed, check=check)
    steps.done(len(names))
    retrained = None
    if others:
        retrained = stability(model, *first(settings.stability_examples), others, options=given, check=check)
        steps.done(len(names))
    results = {}
    for method in names:
        fine = method not in problems
        found = MethodEvaluation(
            name=method,
            config=dict(kept[method][0].config) if kept.get(method) else given[method],
            gold=golds.get(method),
            faithfulness=faithful[method] if fine else None,
            completeness=sums.get(method),
            randomisation=shuffled[method] if fine else None,
            sensitivity=moved[method] if fine else None,
            stability=retrained[method] if fine and retrained is not None else None,
            card=TrustCard(method, "unavailable", "", ()),
            problem=problems.get(method, ""),
        )
        results[method] = replace(found, card=card_of(found, settings.policy))
    return Evaluation(
        task=facts,
        methods=results,
        control=faithful["random_order"],
        ranking=tuple(ranking(results.values())),
        settings=asdict(settings),
        model_digest=model.digest,
        data_digest=digest_json([[pair.source, pair.target] for pair in pairs]),
    )


@dataclass
class _Steps:
    """Counts steps for the caller's progress."""

    progress: Callable[[int, int], None] | None
    total: int
    check: Callable[[], None]
    count: int = 0

    def done(self, steps: int) -> None:
        self.count += steps
        if self.progress is not None:
            self.progress(self.count, self.total)
        self.check()


def _names(methods: Sequence[str] | None) -> list[str]:
    """The methods to evaluate, without repeats; the control last."""
    chosen = list(REGISTRY.rows) if methods is None else [REGISTRY.get(name).name for name in methods]
    controls = [name for name, row in REGISTRY.rows.items() if row.kind == "control"]
    return list(dict.fromkeys([name for name in chosen if name not in controls] + controls))


def read_data(
    data: Data,
    examples: int,
    seed: int = 0,
    *,
    name: str | None = None,
    whole: bool = False,
    half: Half | None = None,
) -> tuple[str, Task | None, list[Pair]]:
    """What the data are called, the task if they are one, and at most so many pairs.

    Args:
        data: a task or its name (held-out examples are drawn), a data file, sources or pairs.
        examples: the most pairs.
        seed: of what a task draws.
        name: what the data are called, where they are not a task or a file.
        whole: keep every row of a file, because gold alignments are in its order. Else a source counts once.
        half: of a task's held-out examples, where two readings must share none.

    Raises:
        UnknownNameError, FileError: no such task or file.
        EmptyTextError: the data have no rows.
        InputError: something that is no example.
    """
    if isinstance(data, str) and data in tasks.names():
        data = tasks.get(data)
    if isinstance(data, Task):
        drawn = data.examples("held_out", examples, seed, half=half)
        return data.name, data, [Pair(example.source, example.target) for example in drawn]
    if isinstance(data, (str, os.PathLike)):
        title, pairs = name or Path(data).name, read_table(data, need_target=False)
    else:
        title = name or "data"
        pairs = [_pair(item) for item in data]
    if not pairs:
        raise EmptyTextError("there is nothing to evaluate on: the data have no rows")
    if not whole:
        pairs = list({pair.source: pair for pair in pairs}.values())
    return title, None, pairs[:examples]


def _pair(item: Any) -> Pair:
    if isinstance(item, Pair):
        return item
    if isinstance(item, str):
        return Pair(item)
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str):
        return Pair(item[0], item[1] or "")
    raise InputError(f"{item!r} is no example; give a source text or a (source, output) pair")


def _outputs(
    model: Seq2Seq,
    title: str,
    task: Task | None,
    pairs: Sequence[Pair],
    alignments: Sequence[Alignment] | None,
    settings: EvaluationSettings,
    controls: Mapping[str, Any],
    check: Callable[[], None],
) -> tuple[list[Generation], TaskFacts, list[Case] | None]:
    """The outputs to explain, how right they are, and their known answers where there are any."""
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    own = model.generate(sources, **controls)
    exact, right = float("nan"), float("nan")
    generations = own
    if all(targets):
        shared = {
            key: value
            for key, value in controls.items()
            if key in ("allow_unknown", "source_language", "target_language")
        }
        forced = model.force(sources, targets, **shared)
        exact = float(
            torch.tensor([a.target_text == b for a, b in zip(own, targets, strict=True)]).float().mean()
        )
        ranks = torch.cat([item.ranks for item in forced])
        right = float((ranks == 1).float().mean())
        generations = own if alignments is None else forced
    cases, verification = None, None
    if task is not None:
        examples = task.examples("held_out", settings.examples, settings.seed)
        cases, verification = known_cases(model, task, own, examples, seed=settings.seed, check=check)
    elif alignments is not None:
        if not all(targets):
            raise InputError("gold alignments are of given outputs: the data need an output for every source")
        if len(alignments) != len(pairs):
            raise InputError(f"{len(alignments)} alignments for {len(pairs)} pairs; give one for each")
        cases = [_aligned(generation, gold) for generation, gold in zip(generations, alignments, strict=True)]
    facts = TaskFacts(
        name=title,
        examples=len(pairs),
        exact_match=exact,
        token_accuracy=right,
        verification=verification,
        contrasts=sum(len(case.contrasts) for case in cases or ()),
    )
    return generations, facts, cases


def _aligned(generation: Generation, alignment: Alignment) -> Case:
    """Known answers from a gold alignment: any source token of any word that a word is surely aligned to."""
    groups, scored = token_gold_of(alignment, generation)
    rows = tuple(
        RowGold(found) if known and found else None for found, known in zip(groups, scored, strict=True)
    )
    return Case(generation, rows)


def _gold(
    model: Seq2Seq,
    name: str,
    maps: Sequence[Attribution],
    cases: Sequence[Case] | None,
    alignments: Sequence[Alignment] | None,
    options: Mapping[str, Any],
    seed: int,
) -> Gold | None:
    """Scores against known answers; None where there are none."""
    if cases is None:
        return None
    rows = scoring.rows_of(cases, maps, seed=seed)

    def scores(found: list[Row]) -> scoring.GoldScores:
        return scoring.summary(found, seed=seed)

    contrasted: list[Row] = []
    asked = [number for number, case in enumerate(cases) if case.contrasts]
    if asked:
        some = [cases[number] for number in asked]
        found = [maps[number] for number in asked]
        if REGISTRY.get(name).contrast:
            foils = [{contrast.step: contrast.foil for contrast in case.contrasts} for case in some]
            found = model.attribute(
                [case.generation for case in some], method=name, contrast=foils, **options
            )
        contrasted = scoring.contrast_rows(some, found, seed=seed)
    aligned: dict[str, AlignmentScores] = {}
    if alignments is not None:
        aligned = {
            convention: alignment_scores(maps, alignments, aligned_to=convention, seed=seed)
            for convention in CONVENTIONS
        }
    return Gold(
        scores=scores(rows),
        subsets={
            "multi_token": scores(scoring.multi_token(rows)),
            "contrastive": scores(contrasted),
            "source": scores(scoring.source_rows_of(cases, maps, seed=seed)),
            "whole_prefix": scores(scoring.rows_of(cases, maps, prefix="all", seed=seed)),
        },
        template=scoring.template_share(cases, maps, seed=seed),
        chance=estimate([row.chance for row in rows], [row.example for row in rows], seed=seed),
        alignments=aligned,
    )


def _completeness(name: str, maps: Sequence[Attribution]) -> Completeness:
    """How far the scores of each token are from adding up to what they explain."""
    errors = torch.cat([item.completeness_error for item in maps]) if maps else torch.zeros(0)
    tolerance = float(maps[0].config.get("tolerance", 0.01)) if maps else 0.01
    known = errors[~errors.isnan()]
    return Completeness(
        claimed=REGISTRY.get(name).completeness,
        tolerance=tolerance,
        tokens=len(known),
        median=float(known.median()) if len(known) else float("nan"),
        within=float((known <= tolerance).float().mean()) if len(known) else float("nan"),
    )
