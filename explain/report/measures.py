"""Every figure of an evaluation with what it means: its unit, its sign, what 0 says, and where it is from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.report.labels import DASH, percent, whole_percent
from explain.report.trust import controls, number_range, share_range, value_text

if TYPE_CHECKING:
    from explain.evaluation import Estimate, Evaluation, GoldScores, MethodEvaluation


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure: its name, what one value means, how it is computed, and the paper.

    `share` is written in per cent, `signed` with its sign.
    """

    name: str
    means: str
    computed: str
    paper: str = ""
    share: bool = False
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A figure in a table: texts ready to show; `control` is the same figure of a random ranking."""

    name: str
    value: str
    interval: str
    control: str
    count: str
    means: str


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of one kind."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of figures by row and column, texts ready to show."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


GOLD: Mapping[str, Measure] = {
    "precision_at_1": Measure(
        "Right token first (P@1)",
        "100\u00a0% is always, 0\u00a0% never; compare with chance",
        "The share of output tokens whose strongest influence is one that the answer needs (the pointing "
        "game). What speaks for the token counts, so a method with a sign is ranked by its positive scores.",
        "Zhang et al. 2018, arXiv:1608.00507",
        share=True,
    ),
    "r_precision": Measure(
        "All right tokens first (R-precision)",
        "100\u00a0%: the strongest influences are all that is needed; 0\u00a0%: none of it",
        "An output token may need several tokens. Of these needs, the share that the R strongest influences "
        "cover, R being the fewest tokens that could cover them all.",
        share=True,
    ),
    "auprc": Measure(
        "Right tokens before wrong ones (AUPRC)",
        "100\u00a0%: everything needed ranks before all else",
        "The average precision of the whole ranking by the same rule: the area under precision and recall.",
        share=True,
    ),
    "mass": Measure(
        "Weight on right tokens (mass)",
        "100\u00a0%: nothing anywhere else; 0\u00a0%: all of it elsewhere",
        "Σ|score| on the tokens that are needed over Σ|score| on all, per output token, then the mean.",
        share=True,
    ),
    "aer": Measure(
        "Alignment error (AER)",
        "0\u00a0% is no error; lower is better",
        "1 − (right links + sure links found) / (links + sure links), where the strongest source token of "
        "each output token is its link.",
        "Och & Ney 2003",
        share=True,
    ),
}
TEMPLATE = Measure(
    "Weight of template text",
    "0 is right; methods whose rows add up to 1 stand at about 1",
    "Template text needs nothing, so it should be attributed to nothing: Σ|score| of its mean token over "
    "that of the mean token that needs something.",
)
FAITHFUL: Mapping[str, Measure] = {
    "advantage": Measure(
        "Comprehensiveness above a random order",
        "probability; above 0: better than chance, 0: no better",
        "Comprehensiveness less that of random orders on the same tokens.",
        signed=True,
    ),
    "comprehensiveness": Measure(
        "Comprehensiveness",
        "probability; high is good, 0: what ranks first is not needed",
        "The fall of the output token's probability when the tokens that rank first are hidden, in the mean "
        "over these shares of the tokens (AOPC).",
        "DeYoung et al. 2020, arXiv:1911.03429",
        signed=True,
    ),
    "sufficiency": Measure(
        "Sufficiency",
        "probability; low is good, 0: what ranks first is enough",
        "The fall of the probability when only the tokens that rank first are kept, in the mean over the "
        "same shares.",
        "DeYoung et al. 2020, arXiv:1911.03429",
        signed=True,
    ),
    "sufficiency_advantage": Measure(
        "Sufficiency better than a random order",
        "probability; above 0: better than chance, 0: no better",
        "Sufficiency of random orders less that of the method on the same tokens.",
        signed=True,
    ),
    "naopc_comprehensiveness": Measure(
        "Comprehensiveness, normalised",
        "0: the worst order there is for the token, 1: the best",
        "Comprehensiveness between the lowest and the highest that a search over orders finds for that very "
        "token (NAOPC), so that models can be compared; a map may lie slightly outside.",
        "Edin et al. 2024, arXiv:2408.08137",
    ),
    "naopc_sufficiency": Measure(
        "Sufficiency, normalised",
        "0: the best order there is for the token, 1: the worst",
        "Sufficiency on the same footing.",
        "Edin et al. 2024, arXiv:2408.08137",
    ),
    "deletion": Measure(
        "Area under the deletion curve",
        "mean probability, 0 to 1; low is good",
        "Tokens are hidden from the first in rank to the last; the mean probability on the way.",
        "Petsiuk et al. 2018, arXiv:1806.07421",
    ),
    "insertion": Measure(
        "Area under the insertion curve",
        "mean probability, 0 to 1; high is good",
        "Nothing is there, and tokens come in from the first in rank to the last; the mean probability.",
        "Petsiuk et al. 2018, arXiv:1806.07421",
    ),
    "infidelity": Measure(
        "Left unexplained (infidelity)",
        "0: all is told, 1: nothing; compare with the random order",
        "Of what hiding random sets of tokens does to the probability, squared, the share that the summed "
        "scores of the set leave unexplained, scaled to fit best.",
        "Yeh et al. 2019, arXiv:1901.09392",
    ),
}
EXCESS = Measure(
    "Agreement above chance, all weights shuffled",
    "0 is right: the maps are gone; 1: they do not look at the weights",
    "The entries of every weight tensor are shuffled on a copy of the model, from the output down, and the "
    "same outputs explained again: the share of output tokens with the same strongest influence as before, "
    "less what random maps would share. The output token just before is left out, since random networks lean "
    "on it as well.",
    "Adebayo et al. 2018, arXiv:1810.03292",
    signed=True,
)
ADDS_UP = Measure(
    "Tokens whose scores add up",
    "100\u00a0% is every token",
    "The scores of a row should add up to the change of the objective that they explain: the share of output "
    "tokens where |Σ scores − change| / |change| is within the tolerance.",
    "Sundararajan et al. 2017, arXiv:1703.01365",
    share=True,
)
MOVES = Measure(
    "Moves under small noise (sensitivity)",
    "0 does not move, 1 moves by as much as it says; no verdict by itself, as a constant map wins",
    "The largest relative change of a row of the map when the input embeddings move a little.",
    "Yeh et al. 2019, arXiv:1901.09392",
)
STABLE: Mapping[str, Measure] = {
    "top1": Measure(
        "Same strongest token after retraining",
        "100\u00a0% is always",
        "The share of output tokens whose strongest influence is the same on a model that differs in nothing "
        "but the seed of its training.",
        share=True,
    ),
    "topk_jaccard": Measure(
        "Overlap of the strongest 5",
        "100\u00a0%: the same five",
        "Of the strongest five tokens on either model, the share that both have.",
        share=True,
    ),
    "weighted_tau": Measure(
        "Agreement of the order (weighted τ)",
        "1: the same order, 0: no relation, −1: reversed",
        "Kendall's rank correlation, in which tokens that rank high weigh more.",
        "Vigna 2015, arXiv:1404.3325",
        signed=True,
    ),
}
SUBSETS: Mapping[str, str] = {
    "": "Every token that needs something",
    "multi_token": "Tokens that need two or more",
    "contrastive": "Why this word and not its foil",
    "source": "Source side alone",
    "whole_prefix": "Other earlier output counts as wrong",
}
CONVENTIONS: Mapping[str, str] = {
    "output": "output: the step that writes the word",
    "input": "input: the step after, which reads it",
}


def glossary(evaluation: Evaluation) -> tuple[Measure, ...]:
    """The measures that were taken of any method, in the order of the cards."""
    methods = evaluation.methods.values()
    found: list[Measure] = []
    if any(method.gold is not None for method in methods):
        found += [*GOLD.values(), TEMPLATE]
    if any(method.faithfulness is not None for method in methods):
        found += FAITHFUL.values()
    for part, measures in (
        ("randomisation", (EXCESS,)),
        ("completeness", (ADDS_UP,)),
        ("sensitivity", (MOVES,)),
        ("stability", tuple(STABLE.values())),
    ):
        if any(getattr(method, part) is not None for method in methods):
            found += measures
    return tuple(found)


def tables(evaluation: Evaluation, name: str) -> tuple[Table, ...]:
    """All figures about one method, each with its meaning and, where there is one, that of chance."""
    found = evaluation.methods[name]
    made = (_gold(evaluation, found), _faithful(evaluation, found), _weights(found), _others(found))
    return tuple(table for table in made if table is not None and table.rows)


def grids(found: MethodEvaluation) -> tuple[Grid, ...]:
    """Figures by subset, by convention of alignment, and by stage of the shuffled weights."""
    made = (_subsets(found), _alignments(found), _stages(found))
    return tuple(grid for grid in made if grid is not None)


def _row(measure: Measure, found: Estimate, beside: float = math.nan) -> Row:
    if measure.share:
        value, between, control = whole_percent(found.value), share_range(found), whole_percent(beside)
    else:
        value = value_text(found.value, signed=measure.signed)
        between = number_range(found, signed=measure.signed)
        control = value_text(beside, signed=measure.signed)
    return Row(measure.name, value, between, control, f"{found.n:,}", measure.means)


def _gold(evaluation: Evaluation, found: MethodEvaluation) -> Table | None:
    if found.gold is None:
        return None
    control = _random_gold(evaluation, found.name)
    chance = {"precision_at_1": found.gold.chance.value}
    rows = []
    for part, measure in GOLD.items():
        beside = math.nan if control is None else getattr(control, part).value
        rows.append(_row(measure, getattr(found.gold.scores, part), chance.get(part, beside)))
    rows.append(_row(TEMPLATE, found.gold.template))
    return Table("Known answers", tuple(rows))


def _random_gold(evaluation: Evaluation, name: str) -> GoldScores | None:
    """The scores of the random control, which stand beside those of every other method."""
    random = next((other for other in controls(evaluation) if other != name), None)
    gold = None if random is None else evaluation.methods[random].gold
    return None if gold is None else gold.scores


def _faithful(evaluation: Evaluation, found: MethodEvaluation) -> Table | None:
    scores = found.faithfulness
    if scores is None:
        return None
    rows = []
    for part, measure in FAITHFUL.items():
        beside = 0.0 if part.endswith("advantage") else getattr(evaluation.control, part).value
        rows.append(_row(measure, getattr(scores, part), beside))
    return Table("Faithfulness", tuple(rows))


def _weights(found: MethodEvaluation) -> Table | None:
    if found.randomisation is None:
        return None
    return Table("Shuffled weights", (_row(EXCESS, found.randomisation.excess, 0.0),))


def _others(found: MethodEvaluation) -> Table | None:
    rows = []
    sums = found.completeness
    if sums is not None and (sums.claimed or sums.tokens):
        means = "100\u00a0% is every token" if sums.claimed else "the method does not promise it"
        within = f"within {percent(sums.tolerance)}"
        rows.append(Row(ADDS_UP.name, whole_percent(sums.within), within, DASH, f"{sums.tokens:,}", means))
        error = DASH if math.isnan(sums.median) else percent(sums.median)
        rows.append(
            Row("Median error of the sum", error, DASH, DASH, f"{sums.tokens:,}", "0\u00a0% is exact")
        )
    if found.stability is not None:
        rows += [_row(measure, getattr(found.stability, part)) for part, measure in STABLE.items()]
    if found.sensitivity is not None:
        rows.append(_row(MOVES, found.sensitivity))
    return Table("Adding up and holding still", tuple(rows))


def _subsets(found: MethodEvaluation) -> Grid | None:
    if found.gold is None or not found.gold.subsets:
        return None
    rows = [(SUBSETS[""], _scores(found.gold.scores))]
    for name, scores in found.gold.subsets.items():
        rows.append((SUBSETS.get(name, name.replace("_", " ")), _scores(scores)))
    columns = ("P@1", "95\u00a0% interval", "R-precision", "AUPRC", "Mass", "AER", "Tokens")
    return Grid("Known answers by subset", "Scored", columns, tuple(rows))


def _scores(found: GoldScores) -> tuple[str, ...]:
    right = found.precision_at_1
    rest = (found.r_precision, found.auprc, found.mass, found.aer)
    count = DASH if math.isnan(right.value) else f"{right.n:,}"
    return (
        whole_percent(right.value),
        share_range(right),
        *(whole_percent(score.value) for score in rest),
        count,
    )


def _alignments(found: MethodEvaluation) -> Grid | None:
    if found.gold is None or not found.gold.alignments:
        return None
    rows = []
    for name, scores in found.gold.alignments.items():
        parts = (scores.aer, scores.precision, scores.recall)
        figures = (
            whole_percent(scores.aer.value),
            share_range(scores.aer),
            *(whole_percent(part.value) for part in parts[1:]),
            f"{scores.links:,}",
        )
        rows.append((CONVENTIONS.get(name, name), figures))
    columns = ("AER (0 is best)", "95\u00a0% interval", "Precision", "Recall", "Links")
    return Grid("Word links against the gold alignment", "Row that stands for a word", columns, tuple(rows))


def _stages(found: MethodEvaluation) -> Grid | None:
    if found.randomisation is None or not found.randomisation.stages:
        return None
    rows = [
        (
            stage.name,
            (
                whole_percent(stage.top1.value),
                share_range(stage.top1),
                whole_percent(stage.topk_jaccard.value),
            ),
        )
        for stage in found.randomisation.stages
    ]
    chance = found.randomisation.chance_top1
    rows.append(("chance", (whole_percent(chance.value), share_range(chance), DASH)))
    columns = ("Same strongest token", "95\u00a0% interval", "Overlap of the strongest 5")
    return Grid("Agreement with the original maps", "Shuffled down to", columns, tuple(rows))
