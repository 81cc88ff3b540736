"""The page of a comparison: do two models that write the same have the same reasons?"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.files import envelope
from explain.report import colours
from explain.report.curves import Interval, interval
from explain.report.facts import MethodFacts, facts_of
from explain.report.labels import (
    DASH,
    listed,
    number,
    plural,
    setting_text,
    shown,
    whole_percent,
)
from explain.report.levels import at_level, fitted
from explain.report.maps import MapView, map_view
from explain.report.render import page
from explain.report.sections import colophon, settings_rows
from explain.report.trust import number_range, sentence, value_text

if TYPE_CHECKING:
    from explain.comparison import Comparison, Drift, Figures
    from explain.evaluation import Estimate
    from explain.results import Attribution

TITLE = "Do both models have the same reasons?"
# Alarm of one method or of all to verdict class, sign and word.
MARKS: Mapping[bool | None, tuple[str, str, str]] = {
    True: ("fails", "!", "alarm"),
    False: ("passes", "✓", "no alarm"),
    None: ("missing", DASH, "no floor, no answer"),
}
NO_FLOOR = (
    "No models of the same recipe and other seeds were given (--floor), so nothing can be concluded about "
    "whether this is more than what another training seed changes."
)
ALARM_RULE = (
    "The alarm is raised where two things hold. Accuracy is unchanged: exact match differs by at most "
    "{margin} in either direction or, where no right outputs are known or A gets fewer than half "
    "exactly right, at least {least} of the outputs are the same. And the explanations moved more than "
    "retraining moves them: for at least one method the 95\u00a0% interval of the share of strongest tokens "
    "that both models have in common lies wholly below the interval of every pair of retrained models. "
    "That figure was chosen beforehand and decides alone; the others are there to be read."
)
LENIENT = (
    "The floor is a lenient yardstick for a copy that was compressed or tuned a little. Retrained models "
    "begin from other random weights and may reach the same outputs by other ways; a copy starts out with "
    "the very ways of its original. “No alarm” says that B is no further from A than a new training would "
    "be. It does not say that the explanations are the same: that would be a share of 1."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An alarm as a reader sees it: a CSS class, a sign and a word."""

    verdict: str
    sign: str
    word: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure with what it is to be compared with; `picture` draws both where there is one."""

    value: str
    beside: str
    picture: Interval | None = None


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method's line in the table of methods."""

    facts: MethodFacts
    card: Verdict
    cells: tuple[Cell, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class FigureRow:
    """A figure of the two models beside the floor's, and what it says."""

    name: str
    value: str
    interval: str
    floor: str
    count: str
    means: str


@dataclass(frozen=True, slots=True)
class HeadCell:
    """The divergence of one head from its partner: the number, its colour, and the sentence behind it."""

    text: str
    css: str
    title: str


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One attention block: the divergence of its heads together, the floor's, and of every head."""

    name: str
    other: str
    value: str
    floor: str
    heads: tuple[HeadCell, ...]


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One output whose explanation moved far, with both maps."""

    number: int
    source: str
    output: str
    said: str
    method: str
    a: MapView
    b: MapView
    note: str


def comparison_page(comparison: Comparison, *, command: str | None = None) -> str:
    """One offline HTML page, readable without JavaScript; the same comparison gives the same bytes.

    Args:
        comparison: what `explain.compare` or `load_comparison` gives.
        command: the command that made it; by default one made up from its settings.
    """
    head = envelope(
        "comparison",
        seed=comparison.settings.get("seed"),
        model_digest=comparison.a.digest,
        data_digest=comparison.data_digest,
    )
    blocks = _blocks(comparison)
    return page(
        "comparison.html.jinja",
        title=TITLE,
        alarm=_verdict(comparison.alarm.alarm),
        answer=answer(comparison),
        more=_more(comparison),
        facts=_facts(comparison),
        floor=comparison.floor is not None,
        no_floor=NO_FLOOR,
        lenient=LENIENT,
        k=int(comparison.settings.get("k", 5)),
        gold=comparison.data.gold,
        methods=_methods(comparison),
        problems=[(facts_of(name).label, sentence(text)) for name, text in comparison.problems.items()],
        outputs=_outputs(comparison),
        share=_share(comparison),
        attention=_attention(comparison),
        blocks=blocks,
        deepest=f"{number(_deepest(comparison), 2)} bits",
        columns=max((len(row.heads) for row in blocks), default=0),
        layers=_layers(comparison),
        examples=[_example(comparison, i) for i in range(len(comparison.examples))],
        rule=_rule(comparison),
        pairs=_pairs(comparison),
        settings=settings_rows(comparison.settings),
        colophon=[row for row in colophon(head) if row[0] != "model digest"],
        digests=_digests(comparison),
        command=command or _command(comparison),
        made_up=command is None,
        versions=head["versions"],
    )


def answer(comparison: Comparison) -> str:
    """What a reader should take away, in a sentence or two."""
    accuracy = _accuracy(comparison)
    found = comparison.alarm
    below = [facts_of(name).label for name, each in found.methods.items() if each.below_floor]
    if comparison.floor is None:
        return f"{accuracy}. {NO_FLOOR}"
    if found.alarm is None:
        return f"{accuracy}. No method gave maps that can be compared, so there is no answer."
    if below:
        by = f"by {listed(below)} ({len(below)} of {plural(len(found.methods), 'method')})"
        if found.alarm:
            return f"{accuracy}, but the explanations moved more than retraining moves them {by}: alarm."
        return (
            f"{accuracy}, and the explanations moved more than retraining moves them {by}. That is no alarm, "
            "because accuracy does not hide it."
        )
    whole = "by the one method" if len(found.methods) == 1 else f"by any of {len(found.methods)} methods"
    return f"{accuracy}, and the explanations moved no more than retraining moves them {whole}: no alarm."


def _accuracy(comparison: Comparison) -> str:
    from explain.comparison.alarm import told_by_exact_match

    outputs = comparison.figures.outputs
    if told_by_exact_match(outputs):
        same = comparison.alarm.accuracy_unchanged
        before, after = (
            number(100 * part.value, 1) for part in (outputs.exact_match_a, outputs.exact_match_b)
        )
        return f"Accuracy {'is unchanged' if same else 'changed'} ({before} → {after}\u00a0% exactly right)"
    return f"{whole_percent(outputs.agreement.value)} of the outputs are the same"


def _more(comparison: Comparison) -> str:
    """How far the maps moved in plain figures, whatever the alarm says."""
    shares = [each.topk_jaccard.value for each in comparison.figures.drift.values()]
    shares = [value for value in shares if not math.isnan(value)]
    if not shares:
        return ""
    k = comparison.settings.get("k", 5)
    text = (
        f"Of the {k} tokens that counted most for an output token in either model, both have "
        f"{_span(shares)} in common, depending on the method"
    )
    if comparison.floor is not None:
        between = [each.topk_jaccard.value for each in comparison.floor.figures.drift.values()]
        text += f"; retrained models have {_span([v for v in between if not math.isnan(v)])}"
    return f"{text}. The same model twice has all of them."


def _span(shares: Sequence[float]) -> str:
    low, high = (f"{round(100 * end)}" for end in (min(shares, default=0.0), max(shares, default=0.0)))
    return f"{low}\u00a0%" if low == high else f"{low} to {high}\u00a0%"


def _verdict(alarm: bool | None) -> Verdict:
    return Verdict(*MARKS[alarm])


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """The models and the data."""
    rows = [
        (label, f"{shown(model.name)}, {model.family}, {model.parameters:,} parameters")
        for label, model in (("A", comparison.a), ("B", comparison.b))
    ]
    others = listed([shown(model.name) for model in comparison.floor_models])
    rows.append(("Floor", f"{others}: A’s recipe, other seeds" if others else "none given"))
    data = comparison.data
    whose = "the data’s own outputs" if data.forced else "A’s outputs"
    rows.append(
        (
            "Data",
            f"{shown(data.name)}: {plural(data.outputs, 'output')} of each model compared as texts; "
            f"{data.examples:,} of {whose}, forced on every model, explained token by token",
        )
    )
    return rows


# ---- tables ----------------------------------------------------------------------------------------------


def _methods(comparison: Comparison) -> list[MethodRow]:
    rows = []
    for name, drift in comparison.figures.drift.items():
        floor = _floor_drift(comparison, name)
        found = comparison.alarm.methods[name]
        cells = [
            _compared(drift.topk_jaccard, None if floor is None else floor.topk_jaccard, 0.0),
            _compared(drift.top1, None if floor is None else floor.top1, 0.0),
            _compared(drift.weighted_tau, None if floor is None else floor.weighted_tau, -1.0),
        ]
        if comparison.data.gold:
            cells.append(_precision(drift, floor))
        reason = "" if found.below_floor is None else sentence(found.reason)
        verdict = _verdict(found.alarm)
        if found.alarm is False and found.below_floor:
            verdict = Verdict("doubtful", "↓", "below the floor")
        rows.append(MethodRow(facts_of(name), verdict, tuple(cells), reason))
    return rows


def _floor_drift(comparison: Comparison, name: str) -> Drift | None:
    return None if comparison.floor is None else comparison.floor.figures.drift.get(name)


def _compared(found: Estimate, floor: Estimate | None, low: float) -> Cell:
    """A figure up to 1 with its interval, and the floor's as a mark on the same scale."""
    mark = None if floor is None or math.isnan(floor.value) else floor.value
    beside = number_range(found)
    if mark is not None:
        beside += f"; floor {number(mark)}"
    return Cell(value_text(found.value), beside, interval(found, mark, low, 1.0))


def _precision(drift: Drift, floor: Drift | None) -> Cell:
    change = drift.p_at_1_change
    if math.isnan(change.value):
        return Cell(DASH, "")
    ends = f"{whole_percent(drift.p_at_1_a.value)} → {whole_percent(drift.p_at_1_b.value)}"
    beside = f"{value_text(change.value, signed=True)} ({number_range(change, signed=True)})"
    if floor is not None and not math.isnan(floor.p_at_1_change.value):
        beside += f"; floor {value_text(floor.p_at_1_change.value, signed=True)}"
    return Cell(ends, beside)


def _row(
    name: str, found: Estimate, floor: Estimate | None, means: str, *, signed: bool = False
) -> FigureRow:
    return FigureRow(
        name,
        value_text(found.value, 3, signed=signed),
        _range(found, signed=signed),
        DASH if floor is None else value_text(floor.value, 3, signed=signed),
        f"{found.n:,}",
        means,
    )


def _range(found: Estimate, *, signed: bool) -> str:
    if math.isnan(found.low) or math.isnan(found.high):
        return DASH
    return f"{number(found.low, 3, signed=signed)} to {number(found.high, 3, signed=signed)}"


def _outputs(comparison: Comparison) -> list[FigureRow]:
    mine, floor = comparison.figures.outputs, _floor(comparison)
    theirs = None if floor is None else floor.outputs
    names = [
        (
            "agreement",
            "Same output",
            "share of sources for which both models write the same; 1 is always",
            False,
        ),
        (
            "token_agreement",
            "Same first choice",
            "share of forced output tokens at which both would go on alike; 1 is always",
            False,
        ),
        (
            "log_prob_change",
            "Change of log-probability",
            "nats per forced output token; below 0: B finds them less likely; 0 is no change",
            True,
        ),
        ("exact_match_a", "A equals the reference", "share of A’s outputs; 1 is always", False),
        ("exact_match_b", "B equals the reference", "share of B’s outputs; 1 is always", False),
    ]
    return [
        _row(
            label,
            getattr(mine, name),
            None if theirs is None else getattr(theirs, name),
            means,
            signed=signed,
        )
        for name, label, means, signed in names
    ]


def _share(comparison: Comparison) -> list[FigureRow]:
    mine, floor = comparison.figures.source_share, _floor(comparison)
    theirs = None if floor is None else floor.source_share
    names = [
        ("a", "A’s source share", "1: all from the source; 0: all from the output so far", False),
        ("b", "B’s source share", "likewise", False),
        ("change", "Change", "B less A; above 0: B leans more on the source", True),
        ("moved", "Change, without its sign", "0: the same share at every token", False),
    ]
    return [
        _row(
            label,
            getattr(mine, name),
            None if theirs is None else getattr(theirs, name),
            means,
            signed=signed,
        )
        for name, label, means, signed in names
    ]


def _attention(comparison: Comparison) -> list[FigureRow]:
    mine, floor = comparison.figures.attention, _floor(comparison)
    theirs = None if floor is None else floor.attention
    return [
        _row(
            "All heads together",
            mine.divergence,
            None if theirs is None else theirs.divergence,
            "bits, of patterns averaged over the heads of a block; 0: the same, 1: nothing in common",
        ),
        _row(
            "Head by head",
            mine.per_head,
            None if theirs is None else theirs.per_head,
            "bits, of each head and its partner; 0: the same, 1: nothing in common",
        ),
    ]


def _blocks(comparison: Comparison) -> list[BlockRow]:
    found = comparison.figures.attention.blocks
    floor = _floor(comparison)
    between = {} if floor is None else {block.a: block.divergence.value for block in floor.attention.blocks}
    limit = _deepest(comparison)
    rows = []
    for block in found:
        cells = []
        for head in block.heads:
            value = head.divergence.value
            level = colours.css_class(colours.level(value, limit)) if limit else ""
            title = f"A’s {block.a} head {head.a}, B’s {block.b} head {head.b}: {number(value, 3)} bits"
            partner = "" if head.a == head.b else f" → {head.b}"
            cells.append(HeadCell(f"{number(value, 2)}{partner}", level or "zero", title))
        rows.append(
            BlockRow(
                block.a,
                block.b if block.b != block.a else "",
                value_text(block.divergence.value, 3),
                value_text(between.get(block.a, math.nan), 3),
                tuple(cells),
            )
        )
    return rows


def _deepest(comparison: Comparison) -> float:
    """The end of the grid's colour scale, bits: the floor's mean, or the largest value where that is more.

    Scaled by their own largest value, heads that hardly moved would look as if they had moved far.
    """
    floor = _floor(comparison)
    values = [head.divergence.value for block in comparison.figures.attention.blocks for head in block.heads]
    values += [] if floor is None else [floor.attention.per_head.value]
    return max((value for value in values if not math.isnan(value)), default=0.0)


def _layers(comparison: Comparison) -> list[FigureRow]:
    floor = _floor(comparison)
    between = {} if floor is None else {layer.a: layer.cka for layer in floor.cka}
    return [
        _row(
            layer.a.removesuffix(".residual")
            + ("" if layer.a == layer.b else f" and {layer.b.removesuffix('.residual')}"),
            layer.cka,
            between.get(layer.a),
            "1: the same up to rotation and scale; 0: nothing in common",
        )
        for layer in comparison.figures.cka
    ]


def _floor(comparison: Comparison) -> Figures | None:
    return None if comparison.floor is None else comparison.floor.figures


def _pairs(comparison: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """The share of strongest tokens in common of every pair of retrained models, by method."""
    if comparison.floor is None or len(comparison.floor.pairs) < 2:
        return []
    return [
        (
            f"{shown(pair.a)} and {shown(pair.b)}",
            [
                (facts_of(name).label, value_text(drift.topk_jaccard.value))
                for name, drift in pair.figures.drift.items()
            ],
        )
        for pair in comparison.floor.pairs
    ]


# ---- examples, settings ----------------------------------------------------------------------------------


def _example(comparison: Comparison, index: int) -> ExampleView:
    example = comparison.examples[index]
    facts = facts_of(example.method)
    views = [
        _drawn(each, f"{facts.label}, model {name}") for name, each in (("A", example.a), ("B", example.b))
    ]
    said = (
        f"Drift {number(example.drift)} (0: the same strongest tokens, 1: none in common; mean over methods)"
    )
    if not math.isnan(example.floor):
        said += f"; between retrained models {number(example.floor)}"
    return ExampleView(
        number=index + 1,
        source=shown(example.a.source_text),
        output=shown(example.a.target_text),
        said=f"{said}.",
        method=facts.label,
        a=views[0][0],
        b=views[1][0],
        note=views[0][1],
    )


def _drawn(attribution: Attribution, label: str) -> tuple[MapView, str]:
    found = fitted(at_level(attribution, "word"), whole=attribution)
    return map_view(found.attribution, label), found.note


def _rule(comparison: Comparison) -> str:
    margin = float(comparison.settings.get("accuracy_margin", 0.01))
    points = f"{number(100 * margin, 0)} {'point' if round(100 * margin) == 1 else 'points'}"
    return ALARM_RULE.format(margin=points, least=whole_percent(1 - margin))


def _digests(comparison: Comparison) -> list[tuple[str, str]]:
    rows = [("model A", comparison.a), ("model B", comparison.b)]
    rows += [(f"floor {i}", model) for i, model in enumerate(comparison.floor_models, start=1)]
    return [(f"{name} digest", f"{setting_text(model.name)}: {model.digest}") for name, model in rows]


def _command(comparison: Comparison) -> str:
    """The command that makes such a comparison; the models and the folder are the reader's to name."""
    settings, data = comparison.settings, comparison.data
    parts = ["explain", "compare", "MODEL_A", "MODEL_B", "--task" if data.gold else "--data", data.name]
    parts += ["--floor", "OTHER_SEED"] * len(comparison.floor_models)
    for name in settings.get("methods", ()):
        parts += ["--method", name]
    if data.forced:
        parts.append("--forced")
    for option, key in (("examples", "examples"), ("outputs", "outputs"), ("top", "k"), ("seed", "seed")):
        if key in settings:
            parts += [f"--{option}", str(settings[key])]
    return shlex.join([*parts, "--out", "DIR"])
