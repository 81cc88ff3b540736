"""What a page says about one output and its attributions, ready for the templates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.report import colours, maps
from explain.report.facts import MethodFacts, reductions, short_unit
from explain.report.labels import (
    array,
    decimals_for,
    listed,
    mean,
    number,
    percent,
    plural,
    probability,
    setting_text,
    shown,
    token_label,
)
from explain.report.levels import Fitted, at_level, columns_of, fitted, levels_of
from explain.report.maps import MapView, beyond_tolerance, map_view
from explain.report.trust import CardView, card_view
from explain.results import Attribution, Generation, Token

if TYPE_CHECKING:
    from explain.evaluation import Evaluation

# A token with a probability below this is one the model hesitated over.
HESITATION = 0.95
# Reasons are written out for this many words; those of the next, up to `ALL_REASONS`, wait to be opened.
MOST_REASONS = 30
ALL_REASONS = 600


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the output as it stands in the text: a token with its colour, or what lies between."""

    text: str
    css: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A token the model hesitated over, and what it might have written instead."""

    step: int
    label: str
    probability: str
    rank: str
    alternatives: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether the scores of an attribution add up to what they explain, in a sentence and by token."""

    verdict: str  # holds, open or undefined
    sentence: str
    rows: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """A word that counted, on which side it stands, and how much it counted."""

    side: str
    word: str
    strength: str


@dataclass(frozen=True, slots=True)
class Reason:
    """The strongest influences on one output word."""

    word: str
    causes: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class MethodView:
    """One method's map of one output.

    `main` is the map that is shown, `note` says why it is not a finer one, `finer` are the maps to open, and
    `card` is the method's trust card where the model was evaluated.
    """

    facts: MethodFacts
    main: MapView
    note: str
    finer: tuple[MapView, ...]
    reasons: tuple[Reason, ...]
    more_reasons: tuple[Reason, ...]
    reasons_note: str
    placed: bool
    noun: str
    evidence: Evidence
    config: tuple[tuple[str, str], ...]
    units: str
    card: CardView | None


def pieces(tokens: Sequence[Token], text: str, log_probs: Any) -> tuple[Piece, ...]:
    """The output as running text, each token coloured by its doubt; special tokens stand as their names."""
    found, reached = [], 0
    for token, value in zip(tokens, array(log_probs).tolist(), strict=True):
        level = 0 if math.isnan(value) else colours.doubt_level(math.exp(min(0.0, value)))
        doubt = f"d{level}" if level else ""
        unit = "" if math.isnan(value) else " nats"
        title = f"log-probability {number(value, 3)}{unit} (probability {probability(value)})"
        if token.special:
            found.append(Piece(shown(token.text), f"{doubt} tag".strip(), title))
            continue
        start, end = max(token.start, reached), max(token.end, reached)
        if text[reached:start]:
            found.append(Piece(shown(text[reached:start])))
        if text[start:end]:
            found.append(Piece(shown(text[start:end]), f"{doubt} token".strip(), title))
        reached = end
    if text[reached:]:
        found.append(Piece(shown(text[reached:])))
    return tuple(found)


def doubts(generation: Generation, most: int = 3, k: int = 4) -> tuple[Doubt, ...]:
    """The least certain tokens with a probability below `HESITATION`, least certain first."""
    values = array(generation.log_probs).tolist()
    order = sorted(range(len(values)), key=lambda t: (values[t], t))
    picked = [t for t in order if values[t] < math.log(HESITATION)][:most]
    found = []
    for t in picked:
        token = generation.target_tokens[t]
        offered = generation.alternatives(t, min(k, generation.top_ids.shape[1]))
        others = [item for item in offered if item.id != token.id][: k - 1]
        found.append(
            Doubt(
                step=t,
                label=token_label(token),
                probability=probability(values[t]),
                rank=f"{int(generation.ranks[t]):,}",
                alternatives=tuple((token_label(item.text), probability(item.log_prob)) for item in others),
            )
        )
    return tuple(found)


def token_rows(generation: Generation) -> tuple[Mapping[str, str], ...]:
    """One row per output token: position, token, log-probability, probability, entropy, rank."""
    columns = (generation.log_probs.tolist(), generation.entropy.tolist(), generation.ranks.tolist())
    return tuple(
        {
            "position": str(t),
            "token": token_label(token),
            "log_prob": number(log_prob, 3),
            "probability": probability(log_prob),
            "entropy": number(entropy, 3),
            "rank": f"{rank:,}",
        }
        for t, (token, log_prob, entropy, rank) in enumerate(
            zip(generation.target_tokens, *columns, strict=True)
        )
    )


def log_prob_rows(attribution: Attribution) -> tuple[Mapping[str, str], ...]:
    """One row per output token for a page without a generation: position, token, log-probability."""
    return tuple(
        {
            "position": str(t),
            "token": token_label(token),
            "log_prob": number(value, 3),
            "probability": probability(value),
        }
        for t, (token, value) in enumerate(
            zip(attribution.target_tokens, attribution.log_probs.tolist(), strict=True)
        )
    )


def certainty(log_probs: Any) -> str:
    """The mean log-probability of an output in words."""
    average = mean(array(log_probs).tolist())
    if math.isnan(average):
        return "log-probability not defined"
    return f"mean log-probability {number(average)} nats (0 = certain)"


def method_view(
    attribution: Attribution,
    facts: MethodFacts,
    level: str | None = None,
    over: str = "sum",
    evaluation: Evaluation | None = None,
) -> MethodView:
    """The maps, reasons and evidence of one attribution.

    Args:
        attribution: at any level; a level coarser than its own can be shown.
        facts: what the registry says of its method.
        level: what the map is drawn by; by default words, or sentences where words do not fit.
        over: how the scores of the tokens that cause are merged; see `Attribution.group`.
        evaluation: of the model that was explained; it brings the method's trust card.
    """
    by = {name: at_level(attribution, name, over) for name in levels_of(attribution)}
    words = by.get("word", attribution)
    if level is None:
        shown = fitted(words, over, whole=attribution)
    else:
        asked = by.get(level, attribution)
        shown = (
            Fitted(asked, "") if _cells(asked) <= maps.MOST_CELLS else fitted(asked, over, whole=attribution)
        )
    first, rest, note = _reasons(words, more=bool(shown.note))
    return MethodView(
        facts=facts,
        main=map_view(shown.attribution, facts.label),
        note=shown.note,
        finer=tuple(map_view(at, facts.label) for at in _finer(by, shown.attribution)),
        reasons=first,
        more_reasons=rest,
        reasons_note=note,
        placed=bool(shown.note),
        noun=words.level,
        evidence=evidence(attribution),
        config=settings_rows(attribution.config),
        units=attribution.units,
        card=None if evaluation is None else card_view(evaluation, facts, attribution),
    )


def _cells(attribution: Attribution) -> int:
    return columns_of(attribution) * len(attribution.target_tokens)


def _finer(by: Mapping[str, Attribution], shown: Attribution) -> list[Attribution]:
    """Levels below the one shown, coarsest first: those that differ from the one above and fit on a page."""
    found, above = [], shown
    for name in reversed(list(by)[: list(by).index(shown.level)]):
        at = by[name]
        if (at.source.shape, at.prefix.shape) != (above.source.shape, above.prefix.shape):
            above = at
            if _cells(at) <= maps.MOST_CELLS:
                found.append(at)
    return found


def _reasons(words: Attribution, *, more: bool) -> tuple[tuple[Reason, ...], tuple[Reason, ...], str]:
    """The strongest influences on each word: none below a tenth of the word's strongest.

    With `more`, five instead of three and with their places, since the map does not show them.
    """
    spoken = [t for t, token in enumerate(words.target_tokens) if not token.special]
    note = ""
    if len(spoken) > ALL_REASONS:
        note = f"The first {ALL_REASONS} of {plural(len(spoken), words.level)}."
        spoken = spoken[:ALL_REASONS]
    unit = short_unit(words)
    found = []
    for t in spoken:
        top = [item for item in words.top(t, 5 if more else 3) if item[2] == item[2] and abs(item[2]) > 0]
        kept = [item for item in top if abs(item[2]) >= abs(top[0][2]) / 10]
        causes = tuple(_cause(words, item, unit if i == 0 else "", more) for i, item in enumerate(kept))
        found.append(Reason(token_label(words.target_tokens[t]), causes))
    return tuple(found[:MOST_REASONS]), tuple(found[MOST_REASONS:]), note


def _cause(words: Attribution, item: tuple[str, int, float], unit: str, place: bool) -> Cause:
    side, index, score = item
    tokens = words.source_tokens if side == "source" else words.target_tokens
    strength = number(score, max(1, decimals_for(abs(score))), signed=words.signed)
    word = token_label(tokens[index])
    where = f"at {index}: " if place else ""
    return Cause("" if side == "source" else "earlier output", word, f"{where}{strength} {unit}".strip())


def evidence(attribution: Attribution) -> Evidence:
    """Do the scores of each token add up to the change of the objective that they explain?"""
    errors = attribution.completeness_error.tolist()
    defined = [t for t, error in enumerate(errors) if not math.isnan(error)]
    others = [over for _, over in reductions(attribution) if over != "sum"]
    if not defined and others:
        return Evidence(
            "undefined",
            f"These scores were merged by {listed(list(dict.fromkeys(others)))}, and only sums keep what the "
            "scores of the tokens add up to, so they cannot be checked against the model's output.",
            (),
        )
    if not defined:
        return Evidence(
            "undefined",
            "Completeness is not defined for this method: its scores do not claim to add up to anything, so "
            "they cannot be checked against the model's output in this way.",
            (),
        )
    tolerance = float(attribution.config.get("tolerance", 0.01))
    beyond = [t for t, flag in enumerate(beyond_tolerance(attribution)) if flag]
    noun = attribution.level
    whole = f"{plural(len(defined), noun)}" if len(defined) > 1 else f"the one {noun}"
    if beyond:
        names = [f"‘{token_label(attribution.target_tokens[t])}’ ({percent(errors[t])})" for t in beyond[:6]]
        more = f" and {len(beyond) - 6} more" if len(beyond) > 6 else ""
        parts = listed(names) if not more else f"{', '.join(names)}{more}"
        sentence = (
            f"The scores of {len(defined) - len(beyond)} of {whole} add up to what they explain within "
            f"{percent(tolerance)}. They do not for {parts}: there, that share of the effect is unaccounted "
            "for or counted twice, so read the numbers as approximate. More steps may close the gap."
        )
    else:
        every = f"all {whole}" if len(defined) > 1 else whole
        sentence = f"The scores of {every} add up to what they explain within {percent(tolerance)}."
    if len(defined) < len(errors):
        sentence += f" For {plural(len(errors) - len(defined), noun)} the check is not defined."
    return Evidence("open" if beyond else "holds", sentence, _evidence_rows(attribution))


def _evidence_rows(attribution: Attribution) -> tuple[Mapping[str, str], ...]:
    total = attribution.source.sum(1) + attribution.prefix.sum(1) + attribution.start + attribution.within
    flags = beyond_tolerance(attribution)
    rows = []
    for t, token in enumerate(attribution.target_tokens):
        value, base = float(attribution.value[t]), float(attribution.baseline_value[t])
        error = float(attribution.completeness_error[t])
        undefined = math.isnan(error)
        rows.append(
            {
                "position": str(t),
                "token": token_label(token),
                "explained": number(value - base, 3, signed=True),
                "total": number(float(total[t]), 3, signed=True),
                "error": percent(error),
                "mark": "–" if undefined else "!" if flags[t] else "✓",
                "meaning": _verdict(undefined, flags[t]),
            }
        )
    return tuple(rows)


def _verdict(undefined: bool, beyond: bool) -> str:
    return "not defined" if undefined else "beyond tolerance" if beyond else "within tolerance"


def settings_rows(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Settings as names and values to read."""
    return tuple((str(key).replace("_", " "), setting_text(value)) for key, value in settings.items())


def colophon(head: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Versions, seed and digests as rows to read."""
    rows = [(f"{name} version", str(text)) for name, text in head["versions"].items()]
    for key, label in (("seed", "seed"), ("model_digest", "model digest"), ("data_digest", "data digest")):
        if head.get(key) is not None:
            rows.append((label, str(head[key])))
    return tuple(rows)
