"""Trust cards as a reader sees them: a verdict in a word and a sign, the reason, the figures behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.report.facts import MethodFacts, facts_of
from explain.report.labels import (
    DASH,
    listed,
    number,
    objective_name,
    percent,
    plural,
    setting_text,
    shown,
    whole_percent,
)
from explain.results import Attribution

if TYPE_CHECKING:
    from explain.evaluation import Estimate, Evaluation, MethodEvaluation, TrustCard

# Verdict to sign and word; one that a newer version may add stands as it is, without a sign.
MARKS: Mapping[str, tuple[str, str]] = {
    "passes": ("✓", "passes"),
    "doubtful": ("?", "doubtful"),
    "fails": ("✗", "fails"),
    "unavailable": (DASH, "not available"),
    "control": ("○", "control"),
    "missing": (DASH, "not evaluated"),
}
USABLE = ("passes", "doubtful")
MAKE_ONE = "explain evaluate MODEL --task NAME --out DIR"
# Settings that shape speed alone, and the seed, by which two maps may differ and be the same method.
_ASIDE = frozenset({"batch_size", "rows", "seed"})


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a card: what it is called, its value, and what it is to be compared with."""

    name: str
    value: str
    beside: str


@dataclass(frozen=True, slots=True)
class CardView:
    """A method's trust card in short, for the place beside its map.

    `verdict` is also a CSS class, `notes` say where the map at hand is not what was evaluated, `basis` what
    was looked at.
    """

    method: str
    label: str
    verdict: str
    sign: str
    word: str
    reason: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    basis: str = ""


def card_view(evaluation: Evaluation, facts: MethodFacts, attribution: Attribution | None = None) -> CardView:
    """The card of one method, or one that says that it was not evaluated.

    Args:
        evaluation: of the model.
        facts: what the registry says about the method.
        attribution: the map that the card is to stand beside.
    """
    found = evaluation.methods.get(facts.name)
    basis = f"Measured on {plural(evaluation.task.examples, 'output')} of {shown(evaluation.task.name)}."
    if found is None:
        reason = "The evaluation of this model did not look at this method."
        return CardView(facts.name, facts.label, "missing", *MARKS["missing"], reason, ())
    verdict = found.card.verdict
    return CardView(
        method=facts.name,
        label=facts.label,
        verdict=verdict,
        sign=MARKS.get(verdict, ("", verdict))[0],
        word=MARKS.get(verdict, ("", verdict))[1],
        reason=reason_of(found.card),
        figures=_main_figures(found),
        notes=() if attribution is None else tuple(_otherwise(attribution, found, facts)),
        basis=basis if not found.problem else "",
    )


def reason_of(card: TrustCard) -> str:
    """Why the verdict, in whole sentences."""
    if card.verdict == "passes":
        passed = listed([check.name for check in card.checks if check.passed])
        return sentence(f"it passed every check: {passed}" if passed else card.reason)
    failed = [check.reason for check in card.checks if check.passed is False]
    said = failed if card.verdict == "fails" else []
    return " ".join(sentence(text) for text in said or [card.reason])


def sentence(text: str) -> str:
    """A reason as a whole sentence with its figures as pages write them: true minus, space before %."""
    text = re.sub(r"(?<=\d)%", "\u00a0%", shown(text.strip()))
    text = re.sub(r"(?<![\w-])-(?=\d)", "−", text)
    return f"{text[:1].upper()}{text[1:]}{'' if not text or text[-1] in '.!?' else '.'}"


def share_range(found: Estimate) -> str:
    """The interval of a share: `94–99 %`; a dash without one."""
    if math.isnan(found.low) or math.isnan(found.high):
        return DASH
    return f"{round(100 * found.low)}–{round(100 * found.high)}\u00a0%"


def number_range(found: Estimate, *, signed: bool = False) -> str:
    """The interval of a number: `+0.52 to +0.58`; a dash without one."""
    if math.isnan(found.low) or math.isnan(found.high):
        return DASH
    return f"{number(found.low, signed=signed)} to {number(found.high, signed=signed)}"


def value_text(value: float, decimals: int = 2, *, signed: bool = False) -> str:
    """A number, or a dash where there is none."""
    return DASH if math.isnan(value) else number(value, decimals, signed=signed)


def _main_figures(found: MethodEvaluation, most: int = 4) -> tuple[Figure, ...]:
    """The first that there are: known answers, faithfulness, shuffled weights, adding up, stability."""
    figures = []
    if found.gold is not None:
        right = found.gold.scores.precision_at_1
        beside = f"{share_range(right)}; chance {whole_percent(found.gold.chance.value)}"
        figures.append(Figure("Right token first (P@1)", whole_percent(right.value), beside))
    if found.faithfulness is not None:
        gain = found.faithfulness.advantage
        beside = f"{number_range(gain, signed=True)} above a random order"
        figures.append(Figure("Faithfulness", value_text(gain.value, signed=True), beside))
    if found.randomisation is not None and found.randomisation.stages:
        left = found.randomisation.stages[-1].top1.value
        beside = f"chance {whole_percent(found.randomisation.chance_top1.value)}"
        figures.append(Figure("Left with weights shuffled", whole_percent(left), beside))
    if found.completeness is not None and found.completeness.claimed:
        sums = found.completeness
        beside = f"of {plural(sums.tokens, 'token')}, within {percent(sums.tolerance)}"
        figures.append(Figure("Scores add up", whole_percent(sums.within), beside))
    if found.stability is not None:
        same = found.stability.top1
        beside = f"{share_range(same)}; same strongest token"
        figures.append(Figure("Same after retraining", whole_percent(same.value), beside))
    return tuple(figures[:most])


def _otherwise(attribution: Attribution, found: MethodEvaluation, facts: MethodFacts) -> Iterable[str]:
    """Where the map at hand was asked something else, or made in another way, than what was evaluated."""
    if attribution.contrast:
        beside = found.gold.subsets.get("contrastive") if found.gold is not None else None
        right = beside.precision_at_1.value if beside is not None else math.nan
        against = "" if math.isnan(right) else f" Against a foil its P@1 was {whole_percent(right)}."
        yield f"The verdict is for maps without a foil; this one is against a foil.{against}"
    elif attribution.objective not in ("", "log_prob"):
        asked = objective_name(attribution)
        yield f"The verdict is for maps of the log-probability; this one is of the {asked}."
    named = (set(facts.options or ()) | {"tolerance"}) - _ASIDE
    parts = [
        f"{name.replace('_', ' ')} {setting_text(attribution.config[name])} "
        f"(evaluated: {setting_text(found.config[name])})"
        for name in sorted(named & set(attribution.config) & set(found.config))
        if setting_text(attribution.config[name]) != setting_text(found.config[name])
    ]
    if parts:
        yield f"This map has other settings than what was evaluated: {listed(parts)}."


# ---- the answer in a sentence ----------------------------------------------------------------------------


def label_of(name: str) -> str:
    """What a method is called."""
    return facts_of(name).label


def answer(evaluation: Evaluation) -> str:
    """Which method to believe, and what it proved; or that none can be."""
    if not evaluation.ranking:
        return "No method was evaluated."
    best = evaluation.methods[evaluation.ranking[0]]
    label, count = label_of(best.name), len(evaluation.ranking)
    if best.card.verdict == "passes":
        proved = listed(_proved(best))
        return f"Believe {label} first{f': {proved}' if proved else ''}."
    if best.card.verdict == "doubtful":
        return f"No method passed without a doubt. {label} comes first: {_inside(best.card)}"
    none = f"None of the {count} methods" if count > 1 else "The one method evaluated did not"
    if best.card.verdict == "unavailable":
        none += " could explain" if count > 1 else " explain"
        return f"{none} this model. {label}: {_inside(best.card)}"
    none = f"{none} passed its checks" if count > 1 else f"{label} did not pass its checks"
    comes = f" {label} comes first all the same:" if count > 1 else ""
    return f"{none}, so believe no map of this model without other evidence.{comes} {_inside(best.card)}"


def _inside(card: TrustCard) -> str:
    return reason_of(card) or "no reason was given."


def _proved(found: MethodEvaluation) -> list[str]:
    """What a method proved, as clauses."""
    passed = {check.name for check in found.card.checks if check.passed}
    clauses = []
    if "known answers" in passed and found.gold is not None:
        right = found.gold.scores.precision_at_1
        clauses.append(
            f"its strongest influence is one that the answer needs for {whole_percent(right.value)} of "
            f"{plural(right.n, 'output token')} (chance {whole_percent(found.gold.chance.value)})"
        )
    if "faithfulness" in passed and found.faithfulness is not None:
        gain = number(found.faithfulness.advantage.value)
        clauses.append(f"hiding what it ranks first costs {gain} more probability than a random order does")
    if "shuffled weights" in passed:
        clauses.append("its maps are gone when the model's weights are shuffled")
    if "completeness" in passed and found.completeness is not None:
        clauses.append(f"its scores add up for {whole_percent(found.completeness.within)} of the tokens")
    return clauses


def tally(evaluation: Evaluation) -> str:
    """How many methods passed, are doubtful, failed, or could not be used."""
    verdicts = [evaluation.methods[name].card.verdict for name in evaluation.ranking]
    parts = []
    for verdict, one, many in (
        ("passes", "passes", "pass"),
        ("doubtful", "is doubtful", "are doubtful"),
        ("fails", "fails", "fail"),
        ("unavailable", "cannot explain this model", "cannot explain this model"),
    ):
        if verdict in verdicts:
            count = verdicts.count(verdict)
            parts.append(f"{count} {one if count == 1 else many}")
    return f"Of {plural(len(verdicts), 'method')}, {listed(parts)}." if len(verdicts) > 1 else ""


def unsettled(evaluation: Evaluation) -> str:
    """Which methods the first one is not clearly ahead of; empty where it is."""
    names = [name for name in evaluation.ranking if evaluation.methods[name].card.verdict in USABLE]
    if len(names) < 2:
        return ""
    best, *others = names
    verdict = evaluation.methods[best].card.verdict
    first = headline(evaluation.methods[best])
    level = []
    for name in others:
        other = headline(evaluation.methods[name])
        alike = evaluation.methods[name].card.verdict == verdict
        if alike and first is not None and other is not None and other.high >= first.low:
            level.append(label_of(name))
    if not level:
        return ""
    return (
        f"The interval of {label_of(best)} overlaps with {'that' if len(level) == 1 else 'those'} of "
        f"{listed(level)}, so the order among them is not settled."
    )


def headline(found: MethodEvaluation) -> Estimate | None:
    """The figure that orders methods of one verdict: P@1, or without known answers the advantage."""
    if found.gold is not None and not math.isnan(found.gold.scores.precision_at_1.value):
        return found.gold.scores.precision_at_1
    return None if found.faithfulness is None else found.faithfulness.advantage


def advice(evaluation: Evaluation, names: Sequence[str], page: str = "report") -> str:
    """Which of the methods of a page to believe, and the better one that is not on it."""
    ranked = [name for name in evaluation.ranking if name in names]
    usable = [name for name in ranked if evaluation.methods[name].card.verdict in USABLE]
    best = evaluation.ranking[0] if evaluation.ranking else ""
    if usable and usable[0] == best:
        return answer(evaluation)
    one = label_of(names[0]) if len(names) == 1 else ""
    these = f"the methods of this {page}"
    if usable:
        verdict = evaluation.methods[usable[0]].card.verdict
        is_so = "passes" if verdict == "passes" else "is doubtful"
        place = f"place {evaluation.ranking.index(usable[0]) + 1} of {len(evaluation.ranking)} evaluated"
        label = label_of(usable[0])
        said = f"On this model {label} {is_so} ({place})."
        if not one:
            said = f"Of {these}, believe {label} first: it {is_so} ({place})."
    elif ranked:
        said = f"{one} did not pass its checks" if one else f"None of {these} passed its checks"
        said += " on this model."
    else:
        said = f"{one or f'None of {these}'} was {'not ' if one else ''}evaluated on this model."
    if best and best not in names and evaluation.methods[best].card.verdict in USABLE:
        proved = listed(_proved(evaluation.methods[best]))
        why = f": {proved}" if proved and evaluation.methods[best].card.verdict == "passes" else ""
        said += f" The first of all is not in this {page}: {label_of(best)}{why}."
    return said


# ---- how to read the figures -----------------------------------------------------------------------------


def ranking_help(evaluation: Evaluation) -> str:
    """How to read the figure of the ranking."""
    if with_gold(evaluation):
        return (
            "Each row is a method, the most trustworthy first: how often its strongest influence is one that "
            "the answer needs (P@1). The line is the 95 % interval, the short upright stroke is chance; a "
            "method whose line reaches chance has shown nothing."
        )
    return (
        "Each row is a method, the most trustworthy first: how much more probability it costs to hide what "
        "it ranks first than tokens in a random order. The line is the 95 % interval; one that reaches 0 is "
        "no better than chance."
    )


DELETION_HELP = (
    "Deletion hides the tokens that a method ranks first, insertion shows nothing else; up is the "
    "probability that the model still gives to the output token. A good method falls at once when they are "
    "deleted and rises at once when they are inserted; the dashed line is a random order."
)
CASCADE_HELP = (
    "From left to right more of the model's weights are shuffled, from the output down; up is the share of "
    "output tokens whose strongest influence is still the same. Maps that come from what the model learnt "
    "fall to chance, the dashed line, at the latest at the right end."
)


def with_gold(evaluation: Evaluation) -> bool:
    """Some method was compared with known answers."""
    return any(
        found.gold is not None and not math.isnan(found.gold.scores.precision_at_1.value)
        for found in evaluation.methods.values()
    )


def controls(evaluation: Evaluation) -> list[str]:
    """The methods that only show what chance gives."""
    return [name for name, found in evaluation.methods.items() if found.card.verdict == "control"]
