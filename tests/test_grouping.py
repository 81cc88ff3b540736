"""Groups of tokens: partitions, reductions, sentences, and what a merged score still proves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.errors import InputError, UnknownNameError
from explain.results import LEVELS, REDUCTIONS, Attribution, Token, group_sentences, group_words
from explain.results import load_attribution as load
from explain.results.sentences import sentence_starts
from explain.results.tokens import merge_tokens

TENSORS = "source prefix start within value baseline_value completeness_error log_probs".split()


def spaced(count: int) -> tuple[str, tuple[Token, ...]]:
    """A text of `count` tokens in words of two, a full stop after every fourth, and EOS."""
    text, tokens = "", []
    for i in range(count):
        piece = "ab"[i % 2] + ("." if i % 4 == 3 else "")
        begin = len(text) + (1 if i % 2 == 0 and i else 0)
        text += (" " if i % 2 == 0 and i else "") + piece
        tokens.append(Token(text[begin:], i, begin, len(text)))
    return text, (*tokens, Token("</s>", 99, len(text), len(text), special=True))


def made(source: int, target: int, *, seed: int = 0, objective: str = "log_prob") -> Attribution:
    dice = torch.Generator().manual_seed(seed)
    (source_text, columns), (target_text, rows) = spaced(source), spaced(target)
    n, m = len(rows), len(columns)
    scores, prefix = torch.randn(n, m, generator=dice), torch.randn(n, n, generator=dice).tril(-1)
    start = torch.randn(n, generator=dice)
    difference = scores.sum(1) + prefix.sum(1) + start
    nan = torch.full((n,), torch.nan)
    return Attribution(
        method="x",
        objective=objective,
        contrast=None,
        units="nats",
        signed=True,
        source_text=source_text,
        target_text=target_text,
        source_tokens=columns,
        target_tokens=rows,
        source=scores,
        prefix=prefix,
        start=start,
        within=torch.zeros(n),
        value=difference * 1.01 if objective else nan,
        baseline_value=torch.zeros(n) if objective else nan,
        completeness_error=torch.full((n,), 0.01 / 1.01) if objective else nan,
        log_probs=-torch.rand(n, generator=dice),
        config={"tolerance": 0.02},
    )


def total(attribution: Attribution) -> torch.Tensor:
    """The whole of what each row was given."""
    inside = attribution.start + attribution.within
    return attribution.source.sum(1) + attribution.prefix.sum(1) + inside


def cut(size: int, data: st.DataObject) -> list[list[int]]:
    """Any partition of `size` tokens in order."""
    breaks = sorted(data.draw(st.sets(st.integers(1, size - 1))) if size > 1 else set())
    edges = [0, *breaks, size]
    return [list(range(a, b)) for a, b in pairwise(edges)]


def equal(left: Attribution, right: Attribution) -> None:
    for name in TENSORS:
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), equal_nan=True, rtol=1e-5, atol=1e-6, msg=name
        )
    assert left.source_tokens == right.source_tokens
    assert left.target_tokens == right.target_tokens


# ---- partitions ----------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.data())
def test_sums_keep_what_the_tokens_add_up_to(source, target, seed, data):
    token = made(source, target, seed=seed)
    columns, rows = cut(source + 1, data), cut(target + 1, data)
    group = token.group(columns, rows)
    assert group.level == "span"
    wanted = torch.stack([total(token)[row].sum() for row in rows])
    torch.testing.assert_close(total(group), wanted, rtol=1e-4, atol=1e-5)
    difference = group.value - group.baseline_value
    error = (wanted - difference).abs() / difference.abs()
    torch.testing.assert_close(group.completeness_error, error, rtol=1e-2, atol=1e-4)
    assert float(group.prefix.triu().abs().max()) == 0
    torch.testing.assert_close(group.log_probs.sum(), token.log_probs.sum())
    # A group of groups is a group: merging twice is merging once.
    across, down = cut(len(columns), data), cut(len(rows), data)
    once = token.group(
        [[i for place in part for i in columns[place]] for part in across],
        [[i for place in part for i in rows[place]] for part in down],
    )
    twice = group.group(across, down)
    for name in ("source", "prefix", "within", "start", "value"):
        torch.testing.assert_close(getattr(twice, name), getattr(once, name), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(sorted(REDUCTIONS)))
def test_groups_of_one_change_nothing(source, target, over):
    token = made(source, target)
    alone = token.group([[i] for i in range(source + 1)], over=over, level="token")
    equal(replace(alone, completeness_error=token.completeness_error), token)
    assert bool(alone.completeness_error.isnan().all()) == (over != "sum")
    equal(token.spans(), token)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(sorted(REDUCTIONS)))
def test_words_and_sentences_are_groups(source, target, over):
    token = made(source, target)
    for group, found in ((group_words, token.words), (group_sentences, token.sentences)):
        wanted = token.group(
            group(token.source_tokens, token.source_text),
            group(token.target_tokens, token.target_text),
            over=over,
            level="word" if group is group_words else "sentence",
        )
        equal(found(over=over), wanted)
    equal(token.words().sentences(), token.sentences())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], [3]], "after 2 of them comes 3, not 2"),
        ([[0, 1], [1, 2, 3]], "after 2 of them comes 1"),
        ([[1, 0], [2, 3]], "after 0 of them comes 1"),
        ([[0, 1]], "holds 2 of 4 tokens"),
        ([[0, 1, 2, 3, 4]], "holds 5 of 4 tokens"),
        ([[0], [], [1, 2, 3]], "group 1 is empty"),
        ([0, 1, 2, 3], "lists of token indices"),
        ([["0"], [1], [2], [3]], "lists of token indices"),
        ([[True], [1], [2], [3]], "lists of token indices"),
    ],
)
def test_what_is_no_partition_is_refused(groups, message):
    with pytest.raises(InputError, match=message):
        made(3, 3).group(groups)
    with pytest.raises(InputError, match="target_groups"):
        made(3, 3).group(None, groups)


def test_unknown_levels_and_reductions_are_refused_by_name():
    with pytest.raises(InputError, match=", ".join(LEVELS)):
        made(3, 3).group(level="paragraph")
    for ask in (made(3, 3).words, made(3, 3).sentences, made(3, 3).words().words, made(3, 3).spans):
        with pytest.raises(UnknownNameError, match="max_abs"):
            ask(over="max")
    with pytest.raises(InputError, match="between sentences"):
        made(3, 3).sentences().words()


def test_spans_merge_what_they_name_and_nothing_else():
    token = made(5, 3)
    group = token.spans(source=[(3, 5), (0, 2)], target=[(1, 3)])
    assert [t.text for t in group.source_tokens] == ["ab", "a", "b. a", "</s>"]
    assert [t.text for t in group.target_tokens] == ["a", "b a", "</s>"]
    torch.testing.assert_close(
        group.source[0],
        torch.stack(
            [
                token.source[0, [0, 1]].sum(),
                *token.source[0, [2]],
                token.source[0, 3:5].sum(),
                token.source[0, 5],
            ]
        ),
    )
    for spans, message in (
        ([(0, 2), (1, 3)], "overlaps"),
        ([(4, 9)], "outside"),
        ([(2, 2)], "empty"),
        ([(1,)], "pairs"),
    ):
        with pytest.raises(InputError, match=message):
            token.spans(source=spans)


def test_an_output_of_nothing_can_be_grouped():
    token = made(3, 1)
    empty = replace(
        token,
        target_tokens=(),
        target_text="",
        **{name: getattr(token, name)[:0] for name in TENSORS if name != "prefix"},
        prefix=torch.zeros(0, 0),
    )
    for over in REDUCTIONS:
        assert empty.words(over=over).source.shape == (0, 3)


# ---- reductions ----------------------------------------------------------------------------------------


def test_each_reduction_does_what_it_is_called():
    token = replace(
        made(4, 1),
        source=torch.tensor([[1.0, -4.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 3.0]]),
    )
    columns, rows = [[0, 1], [2, 3, 4]], [[0], [1]]
    found = {over: token.group(columns, rows, over=over).source.tolist() for over in REDUCTIONS}
    assert found["sum"] == [[-3.0, 4.0], [0.0, 3.0]]
    torch.testing.assert_close(torch.tensor(found["mean"]), torch.tensor([[-1.5, 4 / 3], [0.0, 1.0]]))
    assert found["max_abs"] == [[-4.0, 2.0], [0.0, 3.0]]


def test_rows_are_summed_for_an_objective_and_averaged_without_one_before_columns_are_reduced():
    scores = torch.tensor([[1.0, -3.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    token = replace(made(2, 2), source=scores)
    assert token.words(over="max_abs").source[0].tolist() == [3.0, 0.0]
    without = replace(made(2, 2, objective=""), source=scores)
    assert without.words(over="max_abs").source[0].tolist() == [1.5, 0.0]


def test_only_sums_can_be_proven_and_the_settings_say_what_was_done():
    token = made(6, 6)
    assert not token.words().completeness_error.isnan().any()
    assert token.words(over="mean").completeness_error.isnan().all()
    mixed = token.words(over="mean").sentences()
    assert mixed.completeness_error.isnan().all()
    assert mixed.config["grouped"] == ["word: mean", "sentence: sum"]
    assert "grouped" not in token.config


def test_where_differences_cancel_no_error_is_told():
    token = made(6, 6)
    value = token.value.clone()
    value[0] = -value[1]
    words = replace(token, value=value).words()
    assert words.completeness_error.isnan().tolist() == [True, *[False] * (len(words.target_tokens) - 1)]
    assert words.completeness_error[1:].isfinite().all()


def test_one_undefined_number_stays_in_its_group():
    token = made(6, 6)
    nan = token.completeness_error.clone()
    nan[0] = torch.nan
    holed = token.source.clone()
    holed[0, 0] = torch.nan
    words = replace(token, completeness_error=nan, source=holed).words()
    assert words.completeness_error.isnan().tolist() == [True, *[False] * (len(words.target_tokens) - 1)]
    assert int(words.source.isnan().sum()) == 1


@pytest.mark.parametrize("ending", ["json", "csv", "parquet", "safetensors"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_format_keeps_the_level(level, ending, tmp_path):
    token = made(6, 6)
    group = {
        "token": token,
        "span": token.spans([(0, 3)], [(1, 2)], over="max_abs"),
        "word": token.words(over="mean"),
        "sentence": token.sentences(),
    }[level]
    again = load(group.save(tmp_path / f"a.{ending}"))
    assert (again.level, dict(again.config)) == (level, dict(group.config))
    equal(again, group)


# ---- tokens that stand for groups ----------------------------------------------------------------------


def test_a_group_takes_its_text_from_what_is_not_special():
    text = "ab cd"
    tokens = [
        Token("fr", 1, 0, 0, special=True),
        Token("ab", 2, 0, 2, forced=True),
        Token("cd", 3, 3, 5, forced=True),
        Token("</s>", 4, 5, 5, special=True, forced=True),
        Token("<pad>", 5, 0, 0, special=True),
    ]
    whole = merge_tokens(tokens, range(5), text)
    assert (whole.text, whole.start, whole.end, whole.special, whole.forced) == ("ab cd", 0, 5, False, False)
    assert merge_tokens(tokens, [1, 2, 3], text).forced
    ends = merge_tokens(tokens, [3, 4], text)
    assert (ends.text, ends.start, ends.end, ends.special) == ("</s> <pad>", 5, 5, True)


# ---- sentences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("No end", ["No end"]),
        ("", [""]),
        ("  ", ["  "]),
        ("He said: “Go.” She went. (So did I.) End", ["He said: “Go.”", "She went.", "(So did I.)", "End"]),
        ("« Allons ! » dit-il. Puis rien.", ["« Allons ! »", "dit-il.", "Puis rien."]),
        ("Really?! Yes... No.", ["Really?!", "Yes...", "No."]),
        ("Dr. Smith saw Mr. J. R. Doe. He left.", ["Dr. Smith saw Mr. J. R. Doe.", "He left."]),
        (
            "It cost 3.50 euros, i.e. a lot, at no. 9. Then",
            ["It cost 3.50 euros, i.e. a lot, at no. 9.", "Then"],
        ),
        ("See a.b.c or v1.2.3 now. Yes", ["See a.b.c or v1.2.3 now.", "Yes"]),
        ("In 2011. Total", ["In 2011.", "Total"]),
        ("1. First thing. 2\n2. Second", ["1. First thing.", "2", "2. Second"]),
        ("Title\nBody goes\r\n\r\non", ["Title", "Body goes", "on"]),
        ("猫がいる。犬もいる！「はい。」終わり", ["猫がいる。", "犬もいる！", "「はい。」", "終わり"]),
        ("यह एक है। यह दो है॥ तीन", ["यह एक है।", "यह दो है॥", "तीन"]),
        ("هل هذا؟ نعم۔ لا", ["هل هذا؟", "نعم۔", "لا"]),
    ],
)
def test_sentences_end_where_readers_end_them(text, sentences):
    starts = sentence_starts(text)
    edges = [*starts, len(text)]
    found = [text[a:b] for a, b in pairwise(edges)]
    assert [part.strip() for part in found] == [part.strip() for part in sentences]
    assert "".join(found) == text


def test_tokens_follow_their_first_character_and_specials_stand_alone():
    text = "Aa bb. Cc dd."
    tokens = [
        Token("en", 0, 0, 0, special=True),
        *(Token(text[a:b], 1, a, b) for a, b in ((0, 2), (2, 5), (5, 6), (6, 6), (6, 9), (9, 13))),
        Token("</s>", 2, 13, 13, special=True),
    ]
    assert group_sentences(tokens, text) == [[0], [1, 2, 3], [4, 5, 6], [7]]


@given(st.text(alphabet="aB1 .!?…。\n\r\t\"'»)", max_size=40), st.data())
def test_sentences_cover_all_tokens_in_order_and_never_split_a_word(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)) | {0, len(text)})
    tokens = [Token(text[a:b], 1, a, b) for a, b in pairwise(cuts)]
    groups = group_sentences(tokens, text)
    assert [i for group in groups for i in group] == list(range(len(tokens)))
    for start in sentence_starts(text)[1:]:
        assert not (text[start - 1].isalnum() and text[start].isalnum())


def test_a_long_text_is_split_quickly():
    text = "word " * 50_000 + "." * 50_000
    assert sentence_starts(text) == [0]


# ---- where the score came from -------------------------------------------------------------------------


def test_the_share_of_the_source_is_of_source_and_prefix_alone():
    token = made(2, 3)
    token = replace(
        token,
        source=torch.tensor([[1.0, 1, 0], [1, 2, 0], [-1, 0, 0], [0, 0, 0]]),
        prefix=torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0], [3, 1, 0, 0]]),
        start=torch.full((4,), 7.0),
        within=torch.full((4,), 5.0),
    )
    assert token.source_share.tolist() == [1.0, 0.75, -0.5, 0.0]
    cancelled = replace(token, source=torch.tensor([[0.0, 0, 0], [-1, 0, 0], [-3, 0, 0], [0, 0, 0]]))
    assert cancelled.source_share.isnan().tolist() == [True, True, True, False]
    assert token.source_share.dtype == torch.float32
    assert len(token.sentences().source_share) == len(token.sentences().target_tokens)
