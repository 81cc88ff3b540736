"""The page of an evaluation: which method to believe on one model, the ranking, the cards, the measuring."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.files import envelope
from explain.report import measures, trust
from explain.report.curves import Chart, cascade, curve
from explain.report.facts import MethodFacts, facts_of
from explain.report.labels import DASH, listed, plural, shorten, shown, whole_percent
from explain.report.ranking import anchor, ranking
from explain.report.render import page
from explain.report.sections import colophon, settings_rows
from explain.report.trust import CardView, card_view

if TYPE_CHECKING:
    from explain.evaluation import Evaluation, MethodEvaluation

TITLE = "Which method should I believe on this model?"
_SIGNS = {True: ("✓", "passed"), False: ("✗", "failed"), None: ("?", "open")}
_HIDING = {
    "attention": "by keeping attention from looking at it",
    "pad": "by padding in its place",
    "mean": "by the mean embedding in its place",
    "unk": "by the unknown token in its place",
    "mask": "by the mask token in its place",
    "zero": "by zeros in the place of its embedding",
}


@dataclass(frozen=True, slots=True)
class CheckView:
    """One question put to a method, and how it came out."""

    sign: str
    word: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FullCard:
    """Everything that was found about one method."""

    card: CardView
    facts: MethodFacts
    place: str
    anchor: str
    checks: tuple[CheckView, ...]
    charts: tuple[Chart, ...]
    tables: tuple[measures.Table, ...]
    grids: tuple[measures.Grid, ...]
    config: tuple[tuple[str, str], ...]


def evaluation_page(evaluation: Evaluation, *, command: str | None = None) -> str:
    """One offline HTML page, readable without JavaScript; the same evaluation gives the same bytes.

    Args:
        evaluation: what `explain.evaluate` or `load_evaluation` gives.
        command: the command that made it; by default one made up from its settings.
    """
    head = envelope(
        "evaluation",
        seed=evaluation.settings.get("seed"),
        model_digest=evaluation.model_digest,
        data_digest=evaluation.data_digest,
    )
    order = [*evaluation.ranking, *trust.controls(evaluation)]
    return page(
        "evaluation.html.jinja",
        title=TITLE,
        answer=[text for text in (trust.answer(evaluation), _more(evaluation)) if text],
        facts=_facts(evaluation),
        known=trust.with_gold(evaluation),
        ranking=ranking(evaluation),
        cards=[_card(evaluation, name) for name in order],
        help=(trust.DELETION_HELP, trust.CASCADE_HELP),
        ranking_help=trust.ranking_help(evaluation),
        checked=_checked(evaluation),
        hiding=_hiding(evaluation),
        rules=_rules(evaluation),
        verification=_verification(evaluation),
        glossary=measures.glossary(evaluation),
        synthetic=evaluation.task.verification is not None,
        settings=settings_rows(_flat(evaluation.settings)),
        colophon=colophon(head),
        command=command or _command(evaluation),
        made_up=command is None,
        versions=head["versions"],
    )


def _more(evaluation: Evaluation) -> str:
    return f"{trust.tally(evaluation)} {trust.unsettled(evaluation)}".strip()


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The model, the data, how right the model is, and how far the known answers can be relied on."""
    task = evaluation.task
    rows = [
        ("Model", f"digest {shorten(evaluation.model_digest, 19)}"),
        ("Data", f"{shown(task.name)}, {plural(task.examples, 'example')}"),
    ]
    if not math.isnan(task.exact_match):
        # Only a task has one right answer; the outputs of a file are one of many.
        known = task.verification is not None
        right = f"{whole_percent(task.exact_match)} " + (
            "exactly right" if known else "equal the reference; others may be as good"
        )
        if not math.isnan(task.token_accuracy):
            share = whole_percent(task.token_accuracy)
            right += (
                f"; {share} of the tokens, given the right ones before them"
                if known
                else f"; {share} of the reference’s tokens are the likeliest, given those before them"
            )
        rows.append(("Its outputs", right))
    rows.append(("Known answers", _gold_in_short(evaluation)))
    return rows


def _gold_in_short(evaluation: Evaluation) -> str:
    found = evaluation.task.verification
    if found is not None and found.dependencies:
        return (
            f"the model bears out {whole_percent(found.verified_share)} of the dependencies that a swap can "
            f"test; {whole_percent(found.dropped_share)} of all were dropped, not scored"
        )
    if found is not None:
        return "none: no output was exactly right, and only right outputs have a known answer"
    if trust.with_gold(evaluation):
        return "word alignments made by people, not checked on the model"
    return "none on these data: the ranking rests on what hiding tokens does to the model"


def _verification(evaluation: Evaluation) -> str:
    """How the known answers were checked on the model, with every count; empty without a task."""
    found = evaluation.task.verification
    if found is None:
        return ""
    left = found.dependencies - found.verified
    return (
        f"Of {plural(found.examples, 'output')} {found.correct:,} "
        f"{'is' if found.correct == 1 else 'are'} exactly right, and only these have a known answer. Their "
        f"tokens have {plural(found.dependencies, 'dependency', 'dependencies')} according to the task; "
        f"{found.testable:,} of them can be tested by swapping one fact of the source for another "
        f"({plural(found.swaps, 'swapped input was', 'swapped inputs were')} run). A dependency is verified "
        "where the model, given the other fact, writes the token that the task then asks for, and where it "
        "goes on writing the old one when any fact is swapped that the token does not depend on. The model "
        f"bears out {found.verified:,} of the {found.testable:,} ({whole_percent(found.verified_share)}). "
        f"The other {left:,} ({whole_percent(found.dropped_share)} of all) were dropped: they count neither "
        "for a method nor against it."
    )


def _checked(evaluation: Evaluation) -> str:
    """How many outputs each check looked at."""
    settings, total = evaluation.settings, evaluation.task.examples
    few = {
        key: min(int(settings.get(f"{key}_examples", total)), total)
        for key in ("faithfulness", "randomisation", "stability")
    }
    return (
        f"The model's outputs for {plural(total, 'example')} were explained by every method and compared "
        "with known answers where there are any. Tokens were hidden in the first "
        f"{few['faithfulness']} of them, weights shuffled for the first {few['randomisation']}, and noise "
        f"added and other trainings compared for the first {few['stability']}. Intervals are 95\u00a0% "
        "bootstrap intervals over examples, since tokens of one output are not independent."
    )


def _rules(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What each verdict means, with the limits that were set."""
    from explain.evaluation.randomisation import MARGIN

    policy = evaluation.settings.get("policy") or {}
    precision, within, stable = (
        whole_percent(float(policy.get(name, math.nan))) for name in ("precision", "within", "stability")
    )
    return [
        ("✓ passes", "No check failed and no figure is doubtful. That is evidence, not proof."),
        (
            "? doubtful",
            f"No check failed, but it points at what the answer needs for less than {precision} of the "
            f"tokens, or for less than {stable} of them at the same token on a retrained model, or a check "
            "stayed open.",
        ),
        (
            "✗ fails",
            "It points at what the answer needs no better than chance, or hiding what it ranks first, or "
            "keeping only that, is not shown to beat a random order (an interval holds 0), or its maps stay "
            f"when all weights are shuffled (agreement more than {whole_percent(MARGIN)} above chance, "
            "interval and all), or it promises that scores add up and they do not for at least "
            f"{within} of the tokens.",
        ),
        (f"{DASH} not available", "The method cannot explain this model; the ranking says why."),
        ("Order", "By verdict, then by P@1 in whole per cent, then by faithfulness above a random order."),
    ]


def _card(evaluation: Evaluation, name: str) -> FullCard:
    found, facts = evaluation.methods[name], facts_of(name)
    place = str(evaluation.ranking.index(name) + 1) if name in evaluation.ranking else ""
    return FullCard(
        card=card_view(evaluation, facts),
        facts=facts,
        place=place,
        anchor=anchor(name),
        checks=tuple(
            CheckView(*_SIGNS[check.passed], shown(check.name), trust.sentence(check.reason))
            for check in found.card.checks
        ),
        charts=_charts(evaluation, found, facts.label),
        tables=measures.tables(evaluation, name),
        grids=measures.grids(found),
        config=settings_rows(found.config),
    )


def _charts(evaluation: Evaluation, found: MethodEvaluation, label: str) -> tuple[Chart, ...]:
    charts: list[Chart | None] = []
    mine, control = found.faithfulness, evaluation.control
    if mine is not None:
        for title, axis, part in (
            ("Deletion: probability left", "tokens hidden, strongest first", "deletion_curve"),
            ("Insertion: probability reached", "tokens shown, strongest first", "insertion_curve"),
        ):
            curves = getattr(mine, part), getattr(control, part)
            charts.append(curve(title, axis, label, mine.fractions, *curves))
    if found.randomisation is not None:
        charts.append(cascade(found.randomisation, label))
    return tuple(chart for chart in charts if chart is not None)


def _hiding(evaluation: Evaluation) -> str:
    """How tokens were hidden, in words."""
    settings = evaluation.settings.get("faithfulness") or {}
    by = str(settings.get("by", ""))
    bins = [whole_percent(share) for share in settings.get("bins", ())]
    way = _HIDING.get(by, f"by {shown(by)}" if by else "")
    if not way or not bins:
        return ""
    return f"A token is hidden {way}; hidden, or kept alone, are the first {listed(bins)} of the tokens."


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings side by side: `faithfulness by`, `policy precision`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{key} {inner}": item for inner, item in value.items()}
        else:
            found[key] = value
    return found


def _command(evaluation: Evaluation) -> str:
    """The command that makes such an evaluation; the model and the folder are the reader's to name."""
    settings = evaluation.settings
    source = "--task" if evaluation.task.verification is not None else "--data"
    parts = ["explain", "evaluate", "MODEL", source, evaluation.task.name]
    for name in _methods(evaluation):
        parts += ["--method", name]
    for key in ("examples", "seed"):
        if key in settings:
            parts += [f"--{key}", str(settings[key])]
    others = max((each.stability.models for each in evaluation.methods.values() if each.stability), default=0)
    parts += ["--other", "OTHER_MODEL"] * others
    if any(each.gold is not None and each.gold.alignments for each in evaluation.methods.values()):
        parts += ["--alignments", "ALIGNMENTS"]
    return shlex.join([*parts, "--out", "DIR"])


def _methods(evaluation: Evaluation) -> Sequence[str]:
    """The methods in the order that they were asked for; the control takes part by itself."""
    return [name for name in evaluation.methods if name not in trust.controls(evaluation)]
