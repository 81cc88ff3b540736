"""What the figures of heads, lenses and contributions mean, in words that every page and figure shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.report.labels import number, plural

if TYPE_CHECKING:
    from explain.analysis import Contributions, Head, HeadImportance, HeadSurvey, Lens

KINDS: Mapping[tuple[str, str], str] = {
    ("encoder", "self"): "Encoder",
    ("decoder", "self"): "Decoder, its own output",
    ("decoder", "cross"): "Decoder, the source",
}
"""What each kind of attention looks at, by side and kind, in the order of computation."""


@dataclass(frozen=True, slots=True)
class HeadFigure:
    """A number of every head: what it is called, its unit, and what its ends mean.

    `kinds` are the kinds of attention that have it; `limit` is the end of its scale, None for the largest
    value there is; `signed` scales run to both sides of 0.
    """

    label: str
    unit: str
    ends: str
    help: str
    kinds: tuple[str, ...] = ("self", "cross")
    limit: float | None = 1.0
    signed: bool = False


HEAD_FIGURES: Mapping[str, HeadFigure] = {
    "ablation": HeadFigure(
        "Importance by ablation",
        "",
        "0 = nothing changes without the head",
        "How much the objective of an output token changes, either way, when the head is silenced; the mean "
        "over outputs. A head that others make up for looks unimportant.",
        limit=None,
    ),
    "ablation_signed": HeadFigure(
        "What outputs lose without the head",
        "",
        "below 0 the head speaks against the outputs, above 0 for them",
        "The objective as it is less the objective without the head, mean over outputs.",
        limit=None,
        signed=True,
    ),
    "gradient": HeadFigure(
        "Importance by gradient",
        "",
        "0 = nothing changes, to first order",
        "The derivative of the objective at a gate on the head, without its sign; the mean over outputs "
        "(Michel et al. 2019). Cheaper than ablation, and blind to what is flat around the head's full "
        "strength.",
        limit=None,
    ),
    "alignment": HeadFigure(
        "Strongest token is the right one",
        "share",
        "0 = never, 1 = always",
        "Share of output tokens whose strongest source token is one that the known answer names.",
        kinds=("cross",),
    ),
    "copy_top": HeadFigure(
        "Strongest token has the same text",
        "share",
        "0 = never, 1 = always",
        "Share of output tokens whose strongest source token has the same text, of those that have one.",
        kinds=("cross",),
    ),
    "copy": HeadFigure(
        "Attention on the same text",
        "share",
        "0 = none, 1 = all of it",
        "Attention on source tokens with the text of the output token, where there are such tokens.",
        kinds=("cross",),
    ),
    "diagonal": HeadFigure(
        "Attention on its own place",
        "share",
        "0 = none, 1 = all of it",
        "Attention on the query's own position; towards the source on the same relative place.",
    ),
    "previous": HeadFigure(
        "Attention on the token before",
        "share",
        "0 = none, 1 = all of it",
        "Attention on the position before the query's own.",
        kinds=("self",),
    ),
    "next": HeadFigure(
        "Attention on the token after",
        "share",
        "0 = none, 1 = all of it",
        "Attention on the position after the query's own; the decoder cannot look there.",
        kinds=("self",),
    ),
    "special": HeadFigure(
        "Attention on special tokens",
        "share",
        "0 = none, 1 = all of it",
        "Attention on EOS, language codes and the decoder start, where a head parks what it has no use for "
        "(Clark et al. 2019).",
    ),
    "relative_entropy": HeadFigure(
        "Spread",
        "share of the most there is",
        "0 = all on one token, 1 = everywhere alike",
        "Entropy of the attention over that of looking everywhere alike.",
    ),
    "entropy": HeadFigure(
        "Entropy",
        "nats",
        "0 = all on one token",
        "Entropy of the attention (Clark et al. 2019).",
        limit=None,
    ),
    "max_weight": HeadFigure(
        "Strongest weight", "share", "0 = none, 1 = all of it", "The highest weight of a query, on average."
    ),
    "confidence": HeadFigure(
        "Confidence",
        "share",
        "0 = none, 1 = all of it",
        "The highest weight on a token that is not special (Voita et al. 2019).",
    ),
    "distance": HeadFigure(
        "Distance",
        "tokens; towards the source a share of its length",
        "0 = at its own place",
        "How far from its own place the attention lies, on average.",
        limit=None,
    ),
}
"""Every figure that a head grid can show, most telling first."""


def head_values(survey: HeadSurvey, name: str) -> dict[Head, float]:
    """One figure of every head that has it."""
    figure = HEAD_FIGURES[name]
    found: dict[Head, float] = {}
    for row in survey.statistics.rows:
        if name.startswith(("gradient", "ablation")):
            which = survey.gradient if name.startswith("gradient") else survey.ablation
            weight = which[row.head]
            value = weight.signed if name.endswith("signed") else weight.importance
        else:
            value = getattr(row, name)
        if row.head.kind in figure.kinds and not math.isnan(value):
            found[row.head] = value
    return found


def head_units(survey: HeadSurvey, name: str) -> str:
    """The unit of a figure."""
    importance: HeadImportance = survey.gradient if name.startswith("gradient") else survey.ablation
    return HEAD_FIGURES[name].unit or importance.units


def agreement_sentence(survey: HeadSurvey) -> str:
    """What the rank correlation of the two importances means."""
    value = survey.agreement
    if math.isnan(value):
        return "Gradient and ablation cannot be compared: one of them is the same for all heads."
    says = "alike" if value >= 0.8 else "much alike" if value >= 0.5 else "differently"
    more = "" if value >= 0.8 else " Where they differ, believe the ablation, which is no estimate."
    return f"Gradient and ablation order the heads {says} (Spearman's ρ {number(value)}).{more}"


def layer_label(lens: Lens, index: int) -> str:
    """What a layer of a lens is called: `embedding`, `layer 0`, …; hook points count from 0."""
    parts = lens.layers[index].split(".")
    return "embedding" if parts[1] == "embed" else f"layer {parts[1]}"


LENS_HELP: Mapping[str, str] = {
    "logit_lens": (
        "Each row reads a layer of the decoder as if it were the last one. The cell names the token that "
        "would be written then (point at it where it has no room); the stronger the blue, the more likely "
        "was the token that the output really has. A token that does not show in an early layer may still be "
        "there in another form."
    ),
    "decoder_lens": (
        "Each row lets the whole decoder read a layer of the encoder as if it were the last one. The cell "
        "names the token that would be written then, after the same beginning; the stronger the blue, the "
        "more likely was the token that the output really has."
    ),
}
LENS_NAMES: Mapping[str, str] = {"logit_lens": "Logit lens", "decoder_lens": "DecoderLens"}

CONTRIBUTIONS_HELP = (
    "The logit as a sum: what the embedding, each block, and in them each head and neuron add to it "
    "directly. Blue speaks for the token, orange against it, 0 adds nothing. What a part does by way of "
    "later "
    "blocks is counted there: this tells who wrote the word, not who told the writer."
)
ALIGNMENT_HELP = (
    "Each row is a word of the output and says how its attention is spread over the words of the source: 0 "
    "is none, 1 all of it. A framed cell is a link: the source word that is looked at most, unless that is a "
    "special token."
)


def contribution_question(found: Contributions) -> str:
    """What was taken apart, in words."""
    if found.contrast is None:
        return "logit"
    return f"logit less that of ‘{found.contrast}’"


def reconstruction_sentence(found: Contributions) -> str:
    """Whether the parts add up to the model's own logit, with the error."""
    error = found.relative_error
    size = "nothing was added at all" if math.isnan(error) else f"{error:.1e} of what the parts add"
    count = plural(sum(part.part_of is None for part in found.components), "part")
    good = "add up to" if math.isnan(error) or error < 1e-4 else "do NOT add up to"
    return (
        f"The {count} {good} the model's own number: {number(found.total, 4)} against "
        f"{number(found.value, 4)} logits (error {found.error:.1e}, {size}; within blocks at most "
        f"{found.inner_error:.1e})."
    )
