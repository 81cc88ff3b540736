"""The first paragraph of a report: what is in it, in words that need no training in machine learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from explain.report.facts import MethodFacts
from explain.report.labels import (
    array,
    listed,
    mean,
    number,
    percent,
    plural,
    probability,
    shorten,
    shown,
    token_label,
)
from explain.report.maps import beyond_tolerance
from explain.results import Attribution, Generation

# Links to single outputs in one sentence.
MOST_LINKS = 5


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the page, what to call it, and what to say of a word there."""

    anchor: str
    label: str
    word: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """What could be proven of one method's scores; `links` lead to the outputs where it could not."""

    text: str
    links: tuple[Link, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """The sentences of the first paragraph."""

    opening: str
    least_sure: tuple[Link, ...]
    proof: tuple[Proof, ...]
    notes: tuple[str, ...]


def summarise(
    examples: Sequence[tuple[Generation, Sequence[Attribution]]],
    model_name: str,
    facts: Mapping[str, MethodFacts],
) -> Summary:
    """The summary of a report's examples: outputs, certainty, completeness, cut and given outputs."""
    generations = [generation for generation, _ in examples]
    return Summary(
        opening=_opening(generations, model_name, facts),
        least_sure=_least_sure(generations),
        proof=_proofs(examples, facts),
        notes=_notes(generations),
    )


def anchor(index: int) -> str:
    """The id of an output's section; outputs are counted from 1."""
    return f"output-{index + 1}"


def _opening(generations: Sequence[Generation], model_name: str, facts: Mapping[str, MethodFacts]) -> str:
    names = listed([fact.label for fact in facts.values()])
    by = f" by {names}" if names else ""
    values = [value for generation in generations for value in array(generation.log_probs).tolist()]
    average = mean(values)
    opening = (
        f"This report explains {plural(len(generations), 'output')} of the model "
        f"‘{shorten(shown(model_name), 120)}’{by}."
    )
    if math.isnan(average):
        return opening
    return (
        f"{opening} On average the model gave each token a log-probability of {number(average)} nats "
        f"(0 = certain; this is a probability of {probability(average)})."
    )


def _least_sure(generations: Sequence[Generation], most: int = 3) -> tuple[Link, ...]:
    """Outputs by their mean log-probability, lowest first; at most half of them, at most `most`."""
    means = [mean(array(generation.log_probs).tolist()) for generation in generations]
    order = sorted((i for i, value in enumerate(means) if not math.isnan(value)), key=lambda i: (means[i], i))
    found = []
    for index in order[: min(most, max(1, len(order) // 2))]:
        values = array(generations[index].log_probs).tolist()
        lowest = min(
            (t for t, value in enumerate(values) if not math.isnan(value)), key=lambda t: (values[t], t)
        )
        word = token_label(generations[index].target_tokens[lowest])
        detail = f" has a probability of {probability(values[lowest])}"
        found.append(Link(anchor(index), f"output {index + 1}", word, detail))
    return tuple(found)


def _proofs(
    examples: Sequence[tuple[Generation, Sequence[Attribution]]], facts: Mapping[str, MethodFacts]
) -> tuple[Proof, ...]:
    """One sentence for each method with a completeness, and one for all the others together."""
    proofs, without = [], []
    for name, fact in facts.items():
        found = [(i, att) for i, (_, several) in enumerate(examples) for att in several if att.method == name]
        if all(bool(att.completeness_error.isnan().all()) for _, att in found):
            without.append(fact.label)
        else:
            proofs.append(_proof(found, fact.label))
    if without:
        what = "this method" if len(without) == 1 else "these methods"
        unproven = f"The scores of {listed(without)} cannot be proven complete"
        proofs.append(Proof(f"{unproven}: completeness is not defined for {what}"))
    return tuple(proofs)


def _proof(found: Sequence[tuple[int, Attribution]], label: str) -> Proof:
    """What could be proven of one method's attributions, given with the index of their output."""
    defined = sum(int((~att.completeness_error.isnan()).sum()) for _, att in found)
    beyond = [(i, sum(beyond_tolerance(att))) for i, att in found]
    total = sum(count for _, count in beyond)
    tolerance = max(float(att.config.get("tolerance", 0.01)) for _, att in found)
    if not total:
        every = "every token"
        if defined < sum(len(att.target_tokens) for _, att in found):
            every = f"all {plural(defined, 'token')} where the check is defined"
        text = f"The scores of {label} add up to what they explain within {percent(tolerance)} for {every}"
        return Proof(text)
    where = [Link(anchor(i), f"output {i + 1}") for i, count in beyond if count]
    text = (
        f"The scores of {label} could not be proven complete for {total:,} of {plural(defined, 'token')}, "
        f"where they miss what they explain by more than {percent(tolerance)}"
    )
    return Proof(text, tuple(where[:MOST_LINKS]), max(0, len(where) - MOST_LINKS))


def _notes(generations: Sequence[Generation]) -> tuple[str, ...]:
    total = len(generations)
    cut = sum(not generation.finished for generation in generations)
    given = sum(is_given(generation) for generation in generations)
    notes = []
    if given:
        whose = "The outputs were" if given == total > 1 else "The output was" if total == 1 else None
        subject = whose or f"{plural(given, 'output was', 'outputs were')}"
        notes.append(f"{subject} given to the model, not written by it.")
    if cut:
        subject = "The output was" if total == 1 else plural(cut, "output was", "outputs were")
        notes.append(f"{subject} cut at the limit on new tokens.")
    return tuple(notes)


def is_given(generation: Generation) -> bool:
    """The output was given to the model, not written by it."""
    return generation.settings.get("decoding") == "forced"
