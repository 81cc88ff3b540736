"""How alike two maps are: computed by hand, against chance, and where nothing can be said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.errors import InputError
from explain.evaluation.agreement import agreement, chance, side_chance, top1, topk_jaccard, weighted_tau
from explain.results import Attribution, Token
from tests.conftest import OUTPUTS, SENTENCES


def tokens(prefix, count, special=()):
    return tuple(
        Token(f"{prefix}{i}", i + 5, 3 * i, 3 * i + (0 if i in special else 2), special=i in special)
        for i in range(count)
    )


def map_of(source, prefix=None, *, special=(), **changes):
    """A map with these scores; `special` are target tokens that are no words."""
    source = torch.as_tensor(source, dtype=torch.float32)
    rows = len(source)
    prefix = torch.zeros(rows, rows) if prefix is None else torch.as_tensor(prefix, dtype=torch.float32)
    nothing = torch.full((rows,), torch.nan)
    fields = {
        "method": "made up",
        "objective": "log_prob",
        "contrast": None,
        "units": "nats",
        "signed": True,
        "source_text": "",
        "target_text": "",
        "source_tokens": tokens("s", source.shape[1]),
        "target_tokens": tokens("t", rows, special),
        "source": source,
        "prefix": prefix,
        "start": torch.zeros(rows),
        "within": torch.zeros(rows),
        "value": nothing,
        "baseline_value": nothing,
        "completeness_error": nothing,
        "log_probs": torch.zeros(rows),
    }
    return Attribution(**{**fields, **changes})


def drawn(rows, source, seed):
    dice = torch.Generator().manual_seed(seed)
    return map_of(torch.randn(rows, source, generator=dice), torch.randn(rows, rows, generator=dice).tril(-1))


def numbers(tensor):
    return [None if math.isnan(value) else pytest.approx(value) for value in tensor.tolist()]


# ---- the same, the opposite, and between ----


@given(rows=st.integers(1, 6), source=st.integers(2, 12), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_map_agrees_with_itself(rows, source, k, seed):
    a = drawn(rows, source, seed)
    found = agreement(a, a, k)
    assert found.top1.tolist() == [1] * rows
    enough = [source + row > k for row in range(rows)]
    assert numbers(found.topk_jaccard) == [1 if some else None for some in enough]
    assert found.weighted_tau.tolist() == pytest.approx([1] * rows)


def test_signs_and_scale_do_not_matter():
    a = drawn(4, 8, 0)
    b = replace(a, source=a.source * -3, prefix=a.prefix * -3)
    found = agreement(a, b)
    assert found.top1.tolist() == found.topk_jaccard.tolist() == [1] * 4
    assert found.weighted_tau.tolist() == pytest.approx([1] * 4)


def test_a_reversed_map_does_not_agree():
    up = torch.arange(1, 11).float()[None]
    found = agreement(map_of(up), map_of(up.flip(1)))
    assert numbers(found.top1) == numbers(found.topk_jaccard) == [0]
    assert numbers(found.weighted_tau) == [-1]


def test_jaccard_by_hand():
    a = map_of([[9, 8, 7, 6, 5, 1, 2, 3, 4, 0.5]])  # 0 1 2 3 4
    b = map_of([[1, 2, 9, 8, 7, 6, 5, 3, 0.5, 0.1]])  # 2 3 4 5 6
    assert numbers(topk_jaccard(a, b)) == [3 / 7]
    assert numbers(topk_jaccard(a, b, 3)) == [1 / 5]  # 0 1 2 and 2 3 4
    assert numbers(top1(a, b)) == [0]


def test_weighted_tau_by_hand():
    # The example of SciPy's own documentation.
    found = weighted_tau(map_of([[12, 2, 1, 12, 2]]), map_of([[1, 4, 7, 1, 0]]))
    assert numbers(found) == [-0.56694968153682723]


def test_exchanges_at_the_top_weigh_more():
    a = map_of([[6, 5, 4, 3, 2, 1]])
    above, below = map_of([[5, 6, 4, 3, 2, 1]]), map_of([[6, 5, 4, 3, 1, 2]])
    assert weighted_tau(a, above) < weighted_tau(a, below) < 1


def test_source_and_prefix_compete_and_nothing_else_does():
    a = map_of([[1, 2, 3], [1, 2, 3]], [[0, 0], [9, 0]])
    b = map_of([[1, 2, 3], [1, 2, 3]], [[0, 0], [1, 0]])
    assert top1(a, b).tolist() == [1, 0]
    assert top1(a, replace(a, start=torch.tensor([99.0, 99.0]))).tolist() == [1, 1]


def test_the_tokens_right_before_can_be_left_out():
    a = map_of([[1, 2], [1, 2], [1, 2]], [[0, 0, 0], [9, 0, 0], [5, 9, 0]])
    b = map_of([[1, 2], [1, 2], [2, 1]], [[0, 0, 0], [8, 0, 0], [5, 8, 0]])
    c = map_of([[1, 2], [2, 1], [2, 1]], [[0, 0, 0], [8, 0, 0], [0.5, 8, 0]])
    assert top1(a, b).tolist() == top1(a, c).tolist() == [1, 1, 1]
    assert top1(a, b, skip=1).tolist() == [1, 1, 1]
    assert top1(a, c, skip=1).tolist() == [1, 0, 0]
    assert top1(a, c, skip=2).tolist() == [1, 0, 0]
    assert numbers(chance(a, skip=1).top1) == [1 / 2, 1 / 2, 1 / 3]


# ---- zeros, ties, and rows that cannot be compared ----


def test_a_row_of_zeros_names_nothing():
    silent, loud = map_of([[0, 0, 0, 0, 0, 0]]), map_of([[1, 2, 3, 4, 5, 6]])
    for found in (agreement(silent, loud), agreement(loud, silent)):
        assert numbers(found.top1) == numbers(found.topk_jaccard) == [0]
        assert numbers(found.weighted_tau) == [None]
    both = agreement(silent, silent)
    assert numbers(both.top1) == numbers(both.topk_jaccard) == numbers(both.weighted_tau) == [None]


def test_a_row_that_scores_all_alike_names_nothing():
    flat, loud = map_of([[2, -2, 2, 2, 2, 2]]), map_of([[1, 2, 3, 4, 5, 6]])
    assert numbers(top1(flat, flat)) == numbers(topk_jaccard(flat, flat)) == [None]
    assert numbers(top1(flat, loud)) == numbers(topk_jaccard(flat, loud)) == [0]


def test_a_score_of_zero_is_never_among_the_top():
    a, b = map_of([[3, 2, 0, 0, 0, 0, 0]]), map_of([[2, 3, 0, 0, 0, 0, 0]])
    assert numbers(topk_jaccard(a, b)) == [1]
    assert numbers(topk_jaccard(a, map_of([[0, 0, 0, 0, 0, 2, 3]]))) == [0]


def test_tokens_that_tie_share_the_last_places():
    two = map_of([[5, 5, 1, 2]])
    assert numbers(top1(two, two)) == [1]
    assert numbers(top1(two, map_of([[5, 1, 2, 3]]))) == [1 / 3]  # half of 1, over 1 and another half
    assert numbers(top1(two, map_of([[1, 2, 5, 3]]))) == [0]
    # The first is sure; the second place is shared by two.
    assert numbers(topk_jaccard(map_of([[9, 5, 5, 1]]), map_of([[9, 5, 4, 1]]), 2)) == [1.5 / 2.5]


def test_rows_that_cannot_be_compared_are_undefined():
    a = map_of(torch.rand(3, 5) + 0.1, special=(2,))
    found = agreement(a, a, 5)
    assert numbers(found.top1) == [1, 1, None]
    assert numbers(found.topk_jaccard) == [None, 1, None]  # five candidates leave no choice of five
    assert numbers(found.weighted_tau) == [1, 1, None]
    alone = map_of([[1], [1]], [[0, 0], [2, 0]])
    assert numbers(top1(alone, alone)) == [None, 1]
    broken = replace(a, source=a.source.index_fill(0, torch.tensor(1), torch.nan))
    assert numbers(top1(a, broken)) == numbers(weighted_tau(broken, a)) == [1, None, None]
    nobody = map_of(torch.zeros(0, 4))
    assert agreement(nobody, nobody).top1.shape == chance(nobody).top1.shape == (0,)


def test_only_positions_that_were_asked_for_are_compared(bart):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    every = bart.attribute(generation, method="occlusion")
    some = bart.attribute(generation, method="occlusion", positions=[1, 4])
    assert numbers(top1(every, some)) == [None, 1, None, None, 1, None, None]


def test_maps_of_other_tokens_are_refused():
    a = map_of(torch.rand(2, 3))
    with pytest.raises(InputError, match=r"differ in the source: 's0 s1 s2' \(3 tokens\) and"):
        agreement(a, map_of(torch.rand(2, 4)))
    with pytest.raises(InputError, match="differ in the target"):
        top1(a, map_of(torch.rand(3, 3)))
    with pytest.raises(InputError, match="at least 1"):
        topk_jaccard(a, a, 0)
    renumbered = tuple(replace(token, id=token.id + 7) for token in a.source_tokens)
    assert top1(a, replace(a, source_tokens=renumbered)).tolist() == [1, 1]


# ---- chance ----


def test_chance_by_hand():
    a = drawn(3, 6, 0)
    assert numbers(chance(a).top1) == [1 / 6, 1 / 7, 1 / 8]
    # Two of three, against any two of three: the same pair in one case, one of three tokens in the others.
    assert numbers(chance(drawn(1, 3, 0), 2).topk_jaccard) == [(1 + 2 / 3) / 3]
    assert numbers(chance(map_of([[0, 0, 0, 0, 0, 0]])).topk_jaccard) == [0]
    assert numbers(chance(map_of(torch.rand(1, 5), special=(0,))).top1) == [None]


@pytest.mark.parametrize(
    "scores",
    [
        [5, 4, 3, 2, 1, 0.5, 0.1],
        [5, 4, 0, 0, 0, 0, 0],
        [5, 5, 5, 1, 2, 3, 4],
        [9, 5, 5, 5, 5, 1, 0],
        [2, 2, 2, 2, 2, 2, 2],
    ],
)
def test_chance_is_what_random_maps_reach(scores):
    a, dice = map_of([scores]), torch.Generator().manual_seed(0)
    others = [map_of(torch.rand(1, len(scores), generator=dice)) for _ in range(400)]
    for k, exact in ((1, chance(a).top1), (3, chance(a, 3).topk_jaccard)):
        found = torch.cat([topk_jaccard(a, other, k) for other in others])
        assert abs(float(found.mean() - exact)) <= 3.5 * float(found.std()) / 400**0.5 + 1e-6


def test_maps_that_point_to_the_same_side_agree_more_often():
    source_first = map_of([[9, 8], [9, 8], [9, 8]], [[0, 0, 0], [1, 0, 0], [1, 2, 0]])
    prefix_first = map_of([[2, 1], [2, 1], [2, 1]], [[0, 0, 0], [9, 0, 0], [9, 8, 0]])
    assert numbers(side_chance(source_first, source_first)) == [1 / 2] * 3
    assert numbers(side_chance(prefix_first, prefix_first)) == [1 / 2, 1, 1 / 2]
    assert numbers(side_chance(prefix_first, prefix_first, skip=1)) == [1 / 2, 1 / 2, 1]
    assert numbers(side_chance(source_first, prefix_first)) == [1 / 2, 0, 0]


def test_random_maps_agree_as_chance_says(bart):
    generations = bart.force(SENTENCES * 20, OUTPUTS * 20)
    pairs = [
        tuple(bart.attribute(item, method="random", seed=2 * number + part) for part in (0, 1))
        for number, item in enumerate(generations)
    ]
    for measure, part, size in ((top1, "top1", 0.04), (topk_jaccard, "topk_jaccard", 0.03)):
        found = torch.cat([measure(a, b) for a, b in pairs])
        expected = torch.cat([getattr(chance(a), part) for a, _ in pairs])
        assert torch.equal(found.isnan(), expected.isnan())
        assert float((found - expected).nanmean()) == pytest.approx(0, abs=size)
    found = torch.cat([top1(a, b) - side_chance(a, b) for a, b in pairs])
    assert float(found.nanmean()) == pytest.approx(0, abs=0.04)
