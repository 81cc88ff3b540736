"""Known answers: what is verified by swaps, and how maps are scored against it."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.evaluation import estimate
from explain.evaluation.estimates import Estimate, ratio
from explain.evaluation.gold import (
    Row,
    contrast_rows,
    fewest,
    multi_token,
    rows_of,
    score_row,
    source_rows_of,
    summary,
    template_share,
)
from explain.evaluation.known import Case, Contrast, RowGold, Verification, known_cases
from explain.results import Attribution, Generation, Token
from explain.training import tasks

S, P = (lambda i: ("source", i)), (lambda u: ("prefix", u))


def group(*places):
    return frozenset(places)


def scored(source, prefix, gold, aside=()):
    dice = np.random.default_rng(0)
    return score_row(0, np.array(source, float), np.array(prefix, float), gold, dice, aside)


# ---- scores of one row -----------------------------------------------------------------------------------


def test_the_strongest_token_decides_precision_and_all_scores_the_mass():
    gold = RowGold((group(S(1)),))
    right = scored([0.1, 0.6, 0.1], [0.2], gold)
    assert (right.precision_at_1, right.r_precision, right.auprc) == (1, 1, 1)
    assert right.mass == pytest.approx(0.6)
    assert right.chance == pytest.approx(1 / 4)
    wrong = scored([0.7, 0.2, 0.0], [0.1], gold)
    assert (wrong.precision_at_1, wrong.r_precision) == (0, 0)
    assert wrong.auprc == pytest.approx(1 / 2)  # right at the second place
    assert wrong.mass == pytest.approx(0.2)


def test_what_speaks_against_a_token_does_not_decide_it():
    gold = RowGold((group(S(0)),))
    row = scored([0.2, -0.8], [], gold)
    assert row.precision_at_1 == 1
    assert row.mass == pytest.approx(0.2)


def test_groups_must_all_be_covered_and_repeats_are_passed_over():
    gold = RowGold((group(S(0), S(1)), group(S(2))))
    row = scored([0.5, 0.4, 0.3, 0.1], [], gold)
    assert row.needed == 2
    assert (row.precision_at_1, row.r_precision, row.auprc) == (1, 1, 1)
    row = scored([0.5, 0.4, 0.1, 0.3], [], gold)  # the second that counts is wrong
    assert row.r_precision == 1 / 2
    assert row.auprc == pytest.approx((1 + 2 / 3) / 2)


def test_one_token_may_cover_two_groups():
    gold = RowGold((group(S(0)), group(S(0), S(1))))
    assert fewest(gold.groups) == 1
    row = scored([0.9, 0.0, 0.5], [], gold)
    assert (row.needed, row.r_precision, row.auprc) == (1, 1, 1)
    assert scored([0.1, 0.9, 0.5], [], gold).r_precision == 1 / 2


def test_neutral_tokens_count_neither_way():
    gold = RowGold((group(S(1)),), neutral=group(S(0)))
    row = scored([0.9, 0.3, 0.1], [0.8], gold, aside={P(0)})
    assert (row.precision_at_1, row.chance) == (1, 1 / 2)
    assert row.mass == pytest.approx(0.75)


def test_ties_are_worth_what_chance_gives():
    gold = RowGold((group(S(1)),))
    row = scored([0, 0, 0], [0], gold)
    assert row.precision_at_1 == pytest.approx(1 / 4)
    assert math.isnan(row.mass)
    assert row.linked == 0


def test_links_are_sure_where_one_source_token_is_needed():
    sure = scored([0.1, 0.9], [], RowGold((group(S(1)),)))
    assert (sure.linked, sure.sure_found, sure.possible_found, sure.sure) == (1, 1, 1, 1)
    possible = scored([0.1, 0.9], [0.0], RowGold((group(S(1), P(0)),)))
    assert (possible.linked, possible.sure_found, possible.possible_found, possible.sure) == (1, 0, 1, 0)
    wrong = scored([0.9, 0.1], [], RowGold((group(S(1)),)))
    assert (wrong.linked, wrong.sure_found, wrong.possible_found, wrong.sure) == (1, 0, 0, 1)
    prefix_only = scored([0.9, 0.1], [1.0], RowGold((group(P(0)),)))
    assert prefix_only.linked == prefix_only.sure == 0


PLACES = st.integers(0, 5).map(S)


@given(
    st.lists(st.frozensets(PLACES, min_size=1, max_size=3), min_size=1, max_size=3, unique=True),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_scores_are_shares_and_a_perfect_ranking_is_perfect(groups, scores):
    gold = RowGold(tuple(groups))
    row = scored(scores, [], gold)
    for value in (row.precision_at_1, row.r_precision, row.auprc, row.chance):
        assert 0 <= value <= 1
    covers = [
        chosen
        for bits in range(1, 64)
        if all({S(i) for i in range(6) if bits >> i & 1} & item for item in groups)
        for chosen in [[i for i in range(6) if bits >> i & 1]]
    ]
    best = min(covers, key=len)
    assert fewest(tuple(groups)) == len(best)
    # Those that cover most groups first: an influence that adds nothing is passed over.
    order = sorted(best, key=lambda i: -sum(S(i) in item for item in groups))
    perfect = scored([6 - order.index(i) if i in order else 0 for i in range(6)], [], gold)
    assert (perfect.precision_at_1, perfect.r_precision) == (1, 1)


# ---- whole maps ------------------------------------------------------------------------------------------


def made(source, prefix) -> Attribution:
    source, prefix = torch.tensor(source, dtype=torch.float32), torch.tensor(prefix, dtype=torch.float32)
    rows = len(source)
    undefined = torch.full((rows,), torch.nan)
    words = "abcdefgh"
    return Attribution(
        method="occlusion",
        objective="log_prob",
        contrast=None,
        units="nats",
        signed=True,
        source_text=words[: source.shape[1]],
        target_text=words[:rows],
        source_tokens=tuple(Token(words[i], i, i, i + 1) for i in range(source.shape[1])),
        target_tokens=tuple(Token(words[i], i, i, i + 1) for i in range(rows)),
        source=source,
        prefix=prefix,
        start=torch.zeros(rows),
        within=torch.zeros(rows),
        value=undefined,
        baseline_value=undefined,
        completeness_error=undefined,
        log_probs=torch.zeros(rows),
    )


def case(rows, contrasts=()) -> Case:
    return Case(None, tuple(rows), tuple(contrasts))  # pyright: ignore[reportArgumentType]


def test_prefix_tokens_that_the_gold_does_not_name_are_left_aside_unless_asked_for():
    gold = case([None, RowGold((group(S(0)),))])
    map_ = made([[0, 0], [0.5, 0.1]], [[0, 0], [0.9, 0]])
    assert [row.precision_at_1 for row in rows_of([gold], [map_])] == [1]
    assert [row.precision_at_1 for row in rows_of([gold], [map_], prefix="all")] == [0]


def test_gold_in_the_prefix_is_right_and_the_source_side_stands_alone():
    gold = case([None, RowGold((group(S(1), P(0)),))])
    map_ = made([[0, 0], [0.5, 0.1]], [[0, 0], [0.9, 0]])
    assert rows_of([gold], [map_])[0].precision_at_1 == 1
    assert source_rows_of([gold], [map_])[0].precision_at_1 == 0
    assert source_rows_of([case([None, RowGold((group(P(0)),))])], [map_]) == []


def test_contrasts_have_their_own_gold():
    gold = case([RowGold((group(S(0)),)), None], [Contrast(1, 7, RowGold((group(S(1)),)))])
    map_ = made([[1, 0], [0, 1]], [[0, 0], [0, 0]])
    assert [row.precision_at_1 for row in contrast_rows([gold], [map_])] == [1]


def test_template_text_should_be_attributed_to_nothing():
    gold = case([RowGold((group(S(0)),)), RowGold(()), None])
    map_ = made([[1, 1], [0.5, 0], [9, 9]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert template_share([gold], [map_]).value == pytest.approx(0.25)
    assert math.isnan(template_share([case([RowGold(()), None, None])], [map_]).value)


def test_the_summary_is_the_mean_over_rows_with_intervals_over_examples():
    gold = case([RowGold((group(S(0)),)), RowGold((group(S(0)), group(S(1))))])
    right, wrong = made([[1, 0], [1, 0.5]], [[0, 0], [0, 0]]), made([[0, 1], [0, 0]], [[0, 0], [0, 0]])
    rows = rows_of([gold, gold], [right, wrong])
    scores = summary(rows)
    assert scores.precision_at_1.n == 4
    assert scores.precision_at_1.value == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert scores.precision_at_1.low < scores.precision_at_1.value < scores.precision_at_1.high
    assert scores.aer.value == pytest.approx(1 - (1 + 1 + 1 + 0) / (3 + 2))
    assert summary(multi_token(rows)).r_precision.n == 2
    empty = summary([])
    assert math.isnan(empty.precision_at_1.value)
    assert empty.precision_at_1.n == 0


def test_estimates_resample_examples_not_values():
    many = estimate([0, 1] * 50)
    few = estimate([0] * 50 + [1] * 50, [0] * 50 + [1] * 50)
    assert many.value == few.value == 0.5
    assert few.high - few.low > 3 * (many.high - many.low)
    assert estimate([1.0, math.nan]) == Estimate(1, 1, 1, 1)
    assert math.isnan(estimate([]).value)
    assert ratio([1, 1], [2, 2]).value == 0.5
    again = Estimate.from_dict(estimate([]).to_dict() | {"value": None, "low": None, "high": None})
    assert math.isnan(again.value)


# ---- verification ----------------------------------------------------------------------------------------


class Oracle:
    """Stands for a model: it scores a given output, and expects the tokens that `writes` names."""

    def __init__(self, task, ignored=()):
        self.task = task
        self.ignored = ignored
        self.ids: dict[str, int] = {}

    def tokens(self, text: str) -> tuple[Token, ...]:
        found = [
            Token(m.group(), self.ids.setdefault(m.group(), len(self.ids)), m.start(), m.end())
            for m in re.finditer(r"\d|\w+'?|[^\w\s]", text)
        ]
        return (*found, Token("</s>", 10_000, len(text), len(text), special=True))

    def generation(self, source: str, target: str, ranks=None) -> Generation:
        tokens = self.tokens(target)
        count = len(tokens)
        return Generation(
            source_text=source,
            target_text=target,
            source_tokens=self.tokens(source),
            target_tokens=tokens,
            decoder_start=Token("<s>", 10_001, 0, 0, special=True),
            log_probs=torch.zeros(count),
            entropy=torch.zeros(count),
            ranks=torch.ones(count, dtype=torch.long) if ranks is None else ranks,
            top_ids=torch.zeros(count, 1, dtype=torch.long),
            top_log_probs=torch.zeros(count, 1),
            top_texts=(("",),) * count,
        )

    def force(self, sources, targets):
        """Every token is what it expects, except those of slots that it ignores: there it errs."""
        found = []
        for source, target in zip(sources, targets, strict=True):
            generation = self.generation(source, target)
            wrong = [token.text in self.ignored for token in generation.target_tokens]
            found.append(replace(generation, ranks=1 + torch.tensor(wrong).long()))
        return found


def examples_of(name, count=6):
    task = tasks.get(name)
    drawn = task.examples("held_out", count, 3)
    model = Oracle(task)
    return task, drawn, model, [model.generation(e.source, e.target) for e in drawn]


@pytest.mark.parametrize("name", tasks.names())
def test_a_perfect_model_bears_all_of_the_gold_out(name):
    task, drawn, model, generations = examples_of(name)
    cases, counts = known_cases(model, task, generations, drawn)  # pyright: ignore[reportArgumentType]
    assert counts.correct == counts.examples == len(cases) == 6
    assert counts.verified == counts.testable > 0.7 * counts.dependencies
    assert counts.verified_share == 1
    assert counts.dropped_share == pytest.approx(1 - counts.verified / counts.dependencies)
    for found, example in zip(cases, drawn, strict=True):
        gold = tasks.token_gold(example, found.generation.source_tokens, found.generation.target_tokens)
        for row, groups in zip(found.rows, gold, strict=True):
            if row is not None:
                assert set(row.groups) <= set(groups)
                assert not row.members & row.neutral
        for contrast in found.contrasts:
            token = found.generation.target_tokens[contrast.step]
            assert contrast.foil != token.id
            row = found.rows[contrast.step]
            assert row is not None
            assert contrast.gold.members & row.members


def test_what_the_model_does_not_bear_out_is_dropped():
    task, drawn, model, generations = examples_of("clinic", 8)
    model.ignored = ("F", "M")
    cases, counts = known_cases(model, task, generations, drawn)  # pyright: ignore[reportArgumentType]
    assert counts.verified < counts.testable
    for found in cases:
        for row, token in zip(found.rows, found.generation.target_tokens, strict=True):
            if token.text in ("F", "M"):
                assert row is None
    assert all(
        found.generation.target_tokens[c.step].text not in ("F", "M")
        for found in cases
        for c in found.contrasts
    )


def test_a_model_that_heeds_what_the_gold_does_not_name_is_not_scored_there():
    """The model's drug changes with a distractor: the gold of that token does not hold on this model."""
    task, drawn, model, generations = examples_of("clinic", 8)

    class Distracted(Oracle):
        def force(self, sources, targets):
            found = super().force(sources, targets)
            originals = {e.target for e in drawn}
            # Wherever only the source changed, it would write another drug.
            return [
                replace(g, ranks=torch.where(self._drug(g), 2, 1)) if g.target_text in originals else g
                for g in found
            ]

        def _drug(self, generation):
            texts = [token.text for token in generation.target_tokens]
            return torch.tensor([i > 0 and texts[i - 1] == "drug" for i in range(len(texts))])

    distracted = Distracted(task)
    distracted.ids = model.ids
    cases, counts = known_cases(distracted, task, generations, drawn)  # pyright: ignore[reportArgumentType]
    dropped = 0
    for found, example in zip(cases, drawn, strict=True):
        if not any(
            slot in task.swaps(example.slots) for slot in ("relative", "other_condition", "other_drug")
        ):
            continue
        texts = [token.text for token in found.generation.target_tokens]
        assert found.rows[texts.index("drug") + 1] is None
        dropped += 1
    assert dropped > 0
    assert counts.verified < counts.testable


def test_wrong_outputs_have_no_known_answer():
    task, drawn, model, generations = examples_of("translate", 4)
    generations[1] = model.generation(drawn[1].source, "Autre chose .")
    generations[2] = replace(generations[2], finished=False)
    cases, counts = known_cases(model, task, generations, drawn)  # pyright: ignore[reportArgumentType]
    assert (counts.examples, counts.correct) == (4, 2)
    assert all(row is None for number in (1, 2) for row in cases[number].rows)
    assert Verification.from_dict(counts.to_dict()) == counts


def test_verification_repeats_with_the_seed():
    task, drawn, model, generations = examples_of("invoice", 3)
    one, two, other = (
        known_cases(model, task, generations, drawn, seed=seed)[0]  # pyright: ignore[reportArgumentType]
        for seed in (0, 0, 1)
    )
    assert [c.contrasts for c in one] == [c.contrasts for c in two]
    assert [c.contrasts for c in one] != [c.contrasts for c in other]


def test_a_random_map_scores_what_chance_predicts():
    task, drawn, model, generations = examples_of("clinic", 6)
    cases, _ = known_cases(model, task, generations, drawn)  # pyright: ignore[reportArgumentType]
    dice = torch.Generator().manual_seed(random.Random(0).randrange(2**31))
    found: list[Row] = []
    for _ in range(20):
        maps = []
        for item in cases:
            rows, columns = len(item.rows), len(item.generation.source_tokens)
            maps.append(
                replace(
                    made([[0.0]], [[0.0]]),
                    source_tokens=item.generation.source_tokens,
                    target_tokens=item.generation.target_tokens,
                    source=torch.rand(rows, columns, generator=dice),
                    prefix=torch.rand(rows, rows, generator=dice).tril(-1),
                    **{
                        name: torch.zeros(rows)
                        for name in (
                            "start",
                            "within",
                            "value",
                            "baseline_value",
                            "completeness_error",
                            "log_probs",
                        )
                    },
                )
            )
        found += rows_of(cases, maps)
    expected = np.mean([row.chance for row in found])
    assert summary(found).precision_at_1.value == pytest.approx(expected, abs=0.01)
