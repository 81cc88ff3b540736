"""Reports: outputs of a model with their attributions, as one offline page and as JSON beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from explain.errors import FileError, InputError
from explain.files import digest_json, envelope, write_json, write_text
from explain.report import sections, trust
from explain.report.facts import MethodFacts, facts_of, method_facts, zero_means
from explain.report.labels import array, mean, number, objective_name, plural, shorten, shown
from explain.report.levels import check_level
from explain.report.ranking import ranking
from explain.report.render import page
from explain.report.summary import anchor, is_given, summarise
from explain.results import Attribution, Generation
from explain.training.data import read_table

if TYPE_CHECKING:
    from explain.evaluation import Evaluation

Progress = Callable[[int, int], None]
# Kind of the methods that read the model's own computation.
INSIDE = "internals"
# Outputs handed to the model at a time, so that progress is seen; the model makes its own batches.
CHUNK = 16
# Controls of generation that also shape how a given output is read.
_FORCING = ("source_language", "target_language", "allow_unknown", "batch_size")


class Explainable(Protocol):
    """What a report needs of a model; `explain.load` gives one."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102

    def describe(self) -> dict[str, Any]: ...  # noqa: D102
    def generate(self, source: Any, **controls: Any) -> Any: ...  # noqa: D102
    def force(self, source: Any, target: Any, **controls: Any) -> Any: ...  # noqa: D102
    def attribute(self, generations: Any, *args: Any, **options: Any) -> Any: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Example:
    """One source, its output, and the output's attributions in the order of the methods."""

    generation: Generation
    attributions: tuple[Attribution, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """Outputs and their attributions, with everything needed to make them again.

    Attributes:
        title: heading of the page.
        head: the envelope: schema, versions, seed, digests, command.
        model: the model's description.
        settings: what was asked for: methods, objective, contrast, controls of generation, options.
        examples: the outputs, in the order of the data.
        facts: what the registry says about each method.
        level: what the maps are drawn by: `token`, `word` or `sentence`; None is words, and sentences where
            words do not fit. The data is by token whatever the maps are drawn by.
        over: how scores are merged for the maps: `sum`, `mean` or `max_abs`.
        evaluation: of the model; it brings the methods' trust cards. None where there is none.
    """

    title: str
    head: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    examples: tuple[Example, ...]
    facts: Mapping[str, MethodFacts]
    level: str | None = None
    over: str = "sum"
    evaluation: Evaluation | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as the JSON object of `explain/report@1`."""
        return {
            **self.head,
            "title": self.title,
            "model": dict(self.model),
            "settings": dict(self.settings),
            "trust": None if self.evaluation is None else self._cards(self.evaluation),
            "examples": [
                {
                    "source_text": example.generation.source_text,
                    "target_text": example.generation.target_text,
                    "generation": example.generation.to_dict(),
                    "attributions": [attribution.to_dict() for attribution in example.attributions],
                }
                for example in self.examples
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The report that `to_dict` wrote, without the trust cards: the evaluation is a file of its own.

        Raises:
            FileError: something is missing or of another kind.
        """
        try:
            examples = tuple(
                Example(
                    Generation.from_dict(item["generation"]),
                    tuple(Attribution.from_dict(each) for each in item["attributions"]),
                )
                for item in data["examples"]
            )
            settings = dict(data["settings"])
            names = list(dict.fromkeys(each.method for item in examples for each in item.attributions))
            return cls(
                title=str(data["title"]),
                head={name: data[name] for name in envelope("report")},
                model=dict(data["model"]),
                settings=settings,
                examples=examples,
                facts={name: facts_of(name) for name in names},
                level=settings.get("level"),
                over=settings.get("over") or "sum",
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise FileError(f"this is a broken report: {type(error).__name__} {error}") from None

    def to_html(self) -> str:
        """One offline HTML page, readable without JavaScript; the same report gives the same bytes."""
        everything = [attribution for example in self.examples for attribution in example.attributions]
        pairs = [(example.generation, example.attributions) for example in self.examples]
        return page(
            "report.html.jinja",
            title=self.title,
            summary=summarise(pairs, str(self.model.get("name", "")), self.facts),
            examples=[self._example(i, example) for i, example in enumerate(self.examples)],
            methods=_method_rows(everything, self.facts),
            signed=any(attribution.signed for attribution in everything),
            unsigned=any(not attribution.signed for attribution in everything),
            inside=any(fact.kind == INSIDE for fact in self.facts.values()),
            hesitation=sections.HESITATION,
            **_trust(self.evaluation, list(self.facts)),
            model=sections.settings_rows(self.model),
            settings=sections.settings_rows(self.settings),
            colophon=sections.colophon(self.head),
            command=self.head.get("command"),
            versions=self.head["versions"],
        )

    def _cards(self, evaluation: Evaluation) -> dict[str, Any]:
        """The trust cards of the report's methods, as far as they were evaluated."""
        return {name: card.to_dict() for name, card in evaluation.cards.items() if name in self.facts}

    def save(self, path: str | Path) -> Path:
        """Write the page to `path` and the JSON beside it (`r.html`, `r.json`), each whole or not at all.

        Raises:
            InputError: the path does not end in `.html`.
            FileError: a file cannot be written.
        """
        goal = Path(path)
        if goal.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{path}: a report is one HTML file; give a name that ends in .html")
        html = self.to_html()
        write_json(goal.with_suffix(".json"), self.to_dict())
        return write_text(goal, html)

    def _example(self, index: int, example: Example) -> dict[str, Any]:
        generation = example.generation
        doubts = sections.doubts(generation)
        average = mean(array(generation.log_probs).tolist())
        return {
            "anchor": anchor(index),
            "number": index + 1,
            "source": generation.source_text,
            "source_excerpt": shorten(shown(generation.source_text), 120),
            "target_excerpt": shorten(shown(generation.target_text), 120),
            "mean": number(average),
            "lowest": doubts[0] if doubts else None,
            "forced": is_given(generation),
            "finished": generation.finished,
            "pieces": sections.pieces(generation.target_tokens, generation.target_text, generation.log_probs),
            "tokens_count": plural(len(generation.target_tokens), "output token"),
            "certainty": sections.certainty(generation.log_probs),
            "doubts": doubts,
            "tokens": sections.token_rows(generation),
            "beams": [(beam.text, number(beam.score, 3)) for beam in generation.beams],
            "methods": [
                sections.method_view(
                    attribution, self.facts[attribution.method], self.level, self.over, self.evaluation
                )
                for attribution in example.attributions
            ],
        }


def report(
    model: Explainable,
    data: Iterable[Any] | os.PathLike[str],
    methods: str | Sequence[str] = ("integrated_gradients", "attention"),
    objective: str = "log_prob",
    contrast: str | None = None,
    generate: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    title: str | None = None,
    command: str | None = None,
    level: str | None = None,
    over: str = "sum",
    evaluation: Evaluation | None = None,
    **options: Any,
) -> Report:
    """Explain a model's outputs for the sources in `data`.

    Args:
        model: what `explain.load` gives.
        data: sources, pairs of source and target, objects with `.source` and `.target`, a table with these
            columns, or the path of a data file. An output is written by the model where there is no target,
            and is otherwise taken as given.
        methods: names in `explain.methods()`, in the order to show them.
        objective: what to explain, for the methods that explain an objective.
        contrast: a foil text or token, for the methods that take one.
        generate: controls of `Seq2Seq.generate`.
        progress: called with (done, all), counted in outputs and attributions.
        title: heading of the page.
        command: the command that makes the report again; the present one by default.
        level: what the maps are drawn by: `token`, `word` or `sentence`; by default words, and sentences
            where words do not fit.
        over: how the scores of the tokens that cause are merged for the maps: `sum`, `mean` or `max_abs`.
        evaluation: of this model, by `explain.evaluate`; each map then has its method's trust card beside it.
        options: further options of `Seq2Seq.attribute`: `tolerance`, and settings of the methods, each
            of which goes to the methods that have it.

    Raises:
        InputError: the data is empty or not of these kinds, there is no such level, or the evaluation is of
            another model.
        UnknownNameError: a method, option or reduction is not known.
    """
    check_level(level, over)
    _require_same_model(evaluation, model.digest)
    pairs = _pairs(data)
    names = list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    facts = method_facts(names)
    _require_an_answer(facts.values(), objective, contrast)
    controls = dict(generate or {})
    steps = _Steps(progress, len(pairs) * (1 + len(names)))
    generations = _outputs(model, pairs, controls, steps)
    columns = []
    for name, fact in facts.items():
        asked = _asked(fact, objective, contrast, options, facts.values())
        columns.append(_explained(model, generations, name, asked, steps))
    settings: dict[str, Any] = {"methods": names, "objective": objective, "contrast": contrast}
    settings |= {"generate": controls, "level": level, "over": over}
    return Report(
        title=title or "Why the model wrote what it wrote",
        head=envelope(
            "report",
            seed=options.get("seed", controls.get("seed")),
            model_digest=model.digest,
            data_digest=digest_json([list(pair) for pair in pairs]),
            command=command,
        ),
        model=_plain(model.describe()),
        settings=_plain({**settings, "options": options}),
        examples=tuple(Example(g, tuple(c[i] for c in columns)) for i, g in enumerate(generations)),
        facts=facts,
        level=level,
        over=over,
        evaluation=evaluation,
    )


def attribution_page(attribution: Attribution, evaluation: Evaluation | None = None) -> str:
    """One attribution as one offline HTML page: maps, reasons, evidence, and how to read them.

    Args:
        attribution: what to show.
        evaluation: of the model; it brings the method's trust card.

    Raises:
        InputError: the evaluation is of another model.
    """
    _require_same_model(evaluation, attribution.model_digest)
    facts = facts_of(attribution.method)
    head = envelope(
        "attribution", seed=attribution.config.get("seed"), model_digest=attribution.model_digest or None
    )
    excerpt = shorten(attribution.target_text.strip() or "(empty output)", 80)
    return page(
        "attribution.html.jinja",
        title=f"Why ‘{excerpt}’",
        view=sections.method_view(attribution, facts, evaluation=evaluation),
        **_trust(evaluation, [attribution.method], "page"),
        objective=objective_name(attribution),
        certainty=sections.certainty(attribution.log_probs),
        forced=all(token.forced for token in attribution.target_tokens) and bool(attribution.target_tokens),
        source=attribution.source_text,
        pieces=sections.pieces(attribution.target_tokens, attribution.target_text, attribution.log_probs),
        tokens=sections.log_prob_rows(attribution),
        signed=attribution.signed,
        inside=facts.kind == INSIDE,
        colophon=sections.colophon(head),
        versions=head["versions"],
    )


def _require_same_model(evaluation: Evaluation | None, digest: str | None) -> None:
    if evaluation is not None and digest and digest != evaluation.model_digest:
        raise InputError(
            f"the evaluation is of another model ({shorten(evaluation.model_digest, 19)}, not "
            f"{shorten(digest, 19)}); what a method proves on one model says nothing about another"
        )


def _trust(evaluation: Evaluation | None, names: Sequence[str], what: str = "report") -> dict[str, Any]:
    """What a page says about which of its methods to believe."""
    if evaluation is None:
        return {"advice": "", "ranking": None, "make_one": trust.MAKE_ONE}
    return {
        "advice": trust.advice(evaluation, names, what),
        "ranking": ranking(evaluation, names),
        "make_one": trust.MAKE_ONE,
    }


class _Steps:
    """Counts what is done and tells the caller."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


def _pairs(data: Any) -> list[tuple[str, str | None]]:
    if isinstance(data, os.PathLike):
        return [(pair.source, pair.target or None) for pair in read_table(data, need_target=False)]
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a table: iterating would give its columns
        data = data.astype(object).where(data.notna(), None).to_dict("records")
    found = [_pair(item, i) for i, item in enumerate([data] if isinstance(data, str) else data)]
    if not found:
        raise InputError("the data is empty; give at least one source text")
    return found


def _pair(item: Any, index: int) -> tuple[str, str | None]:
    if isinstance(item, str):
        return item, None
    if isinstance(item, Mapping):
        source, target = item.get("source"), item.get("target")
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        source, target = item
    else:
        source, target = getattr(item, "source", None), getattr(item, "target", None)
    if not isinstance(source, str) or not (target is None or isinstance(target, str)):
        raise InputError(
            f"item {index} of the data ({type(item).__name__}) is neither a source text nor a source "
            "with its target"
        )
    return source, target


def _outputs(
    model: Explainable, pairs: Sequence[tuple[str, str | None]], controls: Mapping[str, Any], steps: _Steps
) -> list[Generation]:
    """One generation per pair, in order: written where there is no target, forced where there is one."""
    found: dict[int, Generation] = {}
    forcing = {name: controls[name] for name in _FORCING if name in controls}
    for part in _chunks([i for i, (_, target) in enumerate(pairs) if target is None]):
        found.update(zip(part, model.generate([pairs[i][0] for i in part], **controls), strict=True))
        steps.add(len(part))
    for part in _chunks([i for i, (_, target) in enumerate(pairs) if target is not None]):
        given = model.force([pairs[i][0] for i in part], [pairs[i][1] for i in part], **forcing)
        found.update(zip(part, given, strict=True))
        steps.add(len(part))
    return [found[i] for i in range(len(pairs))]


def _explained(
    model: Explainable, generations: Sequence[Generation], name: str, asked: Mapping[str, Any], steps: _Steps
) -> list[Attribution]:
    """One attribution per generation, by one method."""
    found: list[Attribution] = []
    for part in _chunks(generations):
        found += model.attribute(part, method=name, **asked)
        steps.add(len(part))
    return found


def _chunks(items: Sequence[Any]) -> Iterable[list[Any]]:
    for begin in range(0, len(items), CHUNK):
        yield list(items[begin : begin + CHUNK])


def _require_an_answer(methods: Iterable[MethodFacts], objective: str, contrast: str | None) -> None:
    """Refuse a question that none of the methods can be asked."""
    able = list(methods)
    if contrast is not None and not any(fact.contrast for fact in able):
        raise InputError(f"none of the methods takes a contrast, so {contrast!r} would not be answered")
    if objective != "log_prob" and not any(fact.objective for fact in able):
        raise InputError(f"none of the methods explains an objective, so {objective} would not be answered")


def _asked(
    facts: MethodFacts,
    objective: str,
    contrast: str | None,
    options: Mapping[str, Any],
    everyone: Iterable[MethodFacts],
) -> dict[str, Any]:
    """What a method is asked: no objective where it explains none, no contrast where it takes none.

    An option that only other methods have is left out; one that no method has is passed on and refused there.
    """
    others = {name for other in everyone for name in other.options or ()}
    asked: dict[str, Any] = {
        name: value
        for name, value in options.items()
        if facts.options is None or name in facts.options or name not in others
    }
    if facts.objective:
        asked["target"] = objective
    if contrast is not None and facts.contrast:
        asked["contrast"] = contrast
    return asked


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as JSON can hold it: callbacks are left out, other objects stand as their type's name."""
    return {str(key): _plain_value(value) for key, value in values.items() if not callable(value)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value) if isinstance(value, Path) else type(value).__name__


def _method_rows(
    attributions: Sequence[Attribution], facts: Mapping[str, MethodFacts]
) -> list[dict[str, str]]:
    first = {attribution.method: attribution for attribution in reversed(attributions)}
    rows = []
    for name, fact in facts.items():
        if name in first:
            explains = objective_name(first[name]) or "no objective: it describes what the model computed"
            zero, units = zero_means(first[name]), first[name].units or "–"
            row = {"label": fact.label, "name": name, "paper": fact.paper}
            rows.append({**row, "explains": explains, "zero": zero, "units": units})
    return rows
