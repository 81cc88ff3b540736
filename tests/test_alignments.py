"""Gold alignments: Pharaoh files, words from tokens, both conventions, the error rate and gold in tokens."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.errors import EncodingError, FileError, InputError, UnknownNameError
from explain.evaluation.alignments import (
    Alignment,
    AlignmentScores,
    LinkCounts,
    aer,
    alignment_scores,
    count_links,
    read_alignments,
    scores_of_counts,
    token_gold_of,
    token_links,
    word_links,
    word_scores,
    word_tokens,
)
from explain.evaluation.estimates import ratio
from explain.files import dump_json
from explain.results import Attribution, Token
from explain.training.data import Pair
from tests.conftest import OUTPUTS, SENTENCES

PAIRS = [Pair("a b c", "x y"), Pair("d", "z"), Pair("e f", "u v w")]


def alignment(sure=(), possible=()) -> Alignment:
    return Alignment(frozenset(sure), frozenset(sure) | frozenset(possible))


def tokens(text: str, *pieces: str, eos: bool = True) -> tuple[Token, ...]:
    """The pieces in the order of the text, and EOS; an empty piece stands where the one before ended."""
    found, reached = [], 0
    for piece in pieces:
        start = text.index(piece, reached) if piece else reached
        reached = start + len(piece)
        found.append(Token(piece or "▁", 1, start, reached))
    return (*found, Token("</s>", 0, len(text), len(text), special=True)) if eos else tuple(found)


def attribution(source: tuple[str, ...], target: tuple[str, ...], scores, *, eos: bool = True) -> Attribution:
    """Scores [target, source] between the pieces of two texts, each piece with the space before its word."""
    source_text, target_text = ("".join(side).strip() for side in (source, target))
    rows = tokens(target_text, *(piece.strip() for piece in target), eos=eos)
    nan = torch.full((len(rows),), torch.nan)
    return Attribution(
        method="x",
        objective="log_prob",
        contrast=None,
        units="nats",
        signed=True,
        source_text=source_text,
        target_text=target_text,
        source_tokens=tokens(source_text, *(piece.strip() for piece in source)),
        target_tokens=rows,
        source=torch.tensor(scores, dtype=torch.float32),
        prefix=torch.zeros(len(rows), len(rows)),
        start=torch.zeros(len(rows)),
        within=torch.zeros(len(rows)),
        value=nan,
        baseline_value=nan,
        completeness_error=nan,
        log_probs=torch.zeros(len(rows)),
    )


# ---- files -----------------------------------------------------------------------------------------------


def test_every_spelling_of_a_link(tmp_path):
    path = tmp_path / "gold.txt"
    path.write_text("0-0 1?0  2p1 2?1\t1-1\n\n1-2 1?2\r\n", "utf-8")
    assert read_alignments(path, PAIRS) == [
        alignment({(0, 0), (1, 1)}, {(1, 0), (2, 1)}),
        alignment(),
        alignment({(1, 2)}),  # said twice, once as sure
    ]


def test_from_one_and_target_first(tmp_path):
    path = tmp_path / "gold.txt"
    path.write_text("1-3\n1?1\n3-1", "utf-8")
    wide = [Pair("a b c", "x y z")] * 3
    assert [sorted(a.possible) for a in read_alignments(path, wide, one_based=True)] == [
        [(0, 2)],
        [(0, 0)],
        [(2, 0)],
    ]
    swapped = read_alignments(path, wide, one_based=True, target_first=True)
    assert [sorted(a.possible) for a in swapped] == [[(2, 0)], [(0, 0)], [(0, 2)]]


def test_gzip_and_byte_order_mark(tmp_path):
    path = tmp_path / "gold.pharaoh.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf0-0\n0-0\n1-2\n"))
    assert read_alignments(path, PAIRS)[2] == alignment({(1, 2)})
    path.write_bytes(gzip.compress(b"0-0\n")[:-4])
    with pytest.raises(FileError, match="not a whole gzip file"):
        read_alignments(path, PAIRS)


@pytest.mark.parametrize("token", ["0", "0-", "-1-0", "0--0", "0-0-S", "0:0", "a-b", "0 - 0", "²-0", "0P0"])
def test_a_token_that_is_no_link_is_named_with_its_line(tmp_path, token):
    path = tmp_path / "gold.txt"
    path.write_text(f"0-0\n{token}\n\n", "utf-8")
    with pytest.raises(FileError, match=r"gold\.txt, line 2: .* is no link") as error:
        read_alignments(path, PAIRS)
    assert repr(token.split()[0]) in str(error.value)


@pytest.mark.parametrize(("link", "options"), [("3-0", {}), ("0?2", {}), ("0-1", {"one_based": True})])
def test_a_link_outside_its_pair_is_named(tmp_path, link, options):
    path = tmp_path / "gold.txt"
    path.write_text(f"{link}\n\n1-1\n", "utf-8")
    with pytest.raises(FileError) as error:
        read_alignments(path, PAIRS, **options)
    assert f"line 1: '{link}' is outside its pair of 3 source words and 2 target words" in str(error.value)


def test_lines_and_pairs_must_match(tmp_path):
    path = tmp_path / "gold.txt"
    path.write_text("0-0\n0-0\n", "utf-8")
    with pytest.raises(FileError, match="2 lines for 3 pairs"):
        read_alignments(path, PAIRS)
    path.write_text("0-0\n0-0\n\n", "utf-8")  # a blank line is a pair without links
    assert read_alignments(path, PAIRS)[2] == alignment()
    path.write_text("0-0\n0-0\n\n\n", "utf-8")
    with pytest.raises(FileError, match="4 lines for 3 pairs"):
        read_alignments(path, PAIRS)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileError, match="cannot read"):
        read_alignments(tmp_path / "none.txt", PAIRS)
    (tmp_path / "latin").write_bytes(b"0-0\n\xe9\n")
    with pytest.raises(EncodingError, match="line 2"):
        read_alignments(tmp_path / "latin", PAIRS)


links = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=12)


@given(st.lists(st.tuples(links, links), max_size=4))
def test_what_is_written_is_read_again(tmp_path_factory, drawn):
    gold = [alignment({(0, 0)}), *(alignment(sure, possible) for sure, possible in drawn)]
    path = tmp_path_factory.mktemp("gold") / "gold.txt"
    path.write_text("".join(f"{item.to_pharaoh()}\n" for item in gold), "utf-8")
    assert read_alignments(path, [Pair("a b c d e f", "a b c d e f g h")] * len(gold)) == gold


def test_lines_are_sorted_and_possible_links_marked():
    assert alignment({(1, 0)}, {(0, 1)}).to_pharaoh() == "0?1 1-0"
    assert alignment().to_pharaoh() == ""


def test_sure_links_are_possible():
    with pytest.raises(InputError, match=r"\[\(0, 1\)\]"):
        Alignment(frozenset({(0, 1)}), frozenset())


# ---- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pieces", "words"),
    [
        ("l'homme, oui", ("l", "'", "hom", "me", ",", "oui"), [[0, 1, 2, 3, 4], [5]]),
        ("don't – stop!", ("don", "'t", "–", "stop", "!"), [[0, 1], [2], [3, 4]]),
        ("  two   words\n", ("two", "words"), [[0], [1]]),
        ("12\u00a0000 €", ("12", "000", "€"), [[0], [1], [2]]),  # str.split() takes it for a space
        ("שלום עולם!", ("של", "ום", "עולם", "!"), [[0, 1], [2, 3]]),
        ("ok 👩‍👩‍👧 bye", ("ok", "👩‍", "👩‍", "👧", "bye"), [[0], [1, 2, 3], [4]]),
        ("a bc", ("a", "", "b", "c"), [[0], [1, 2, 3]]),  # a bare "▁" before its word
        ("a", ("a", ""), [[0]]),  # and one before nothing
        ("a b", ("a b",), [[0], [0]]),  # a token of two words
        ("a q b", ("a", "b"), [[0], [], [1]]),  # a word that the tokenizer dropped
        (" ", (" ",), []),
        ("", (), []),
    ],
)
def test_words_are_what_white_space_separates(text, pieces, words):
    assert word_tokens(tokens(text, *pieces), text) == words
    assert len(words) == len(text.split())


def test_two_pieces_of_one_character_belong_to_its_word():
    pair = (Token("ð", 1, 2, 3), Token("Ł", 2, 2, 3))
    assert word_tokens(pair, "a 🙂 b") == [[], [0, 1], []]


def test_special_tokens_belong_to_no_word():
    named = [Token("</s>", 2, 0, 4, special=True), Token("a", 3, 5, 6), Token("fr", 4, 3, 3, special=True)]
    assert word_tokens(named, "</s> a") == [[], [1]]


@given(st.text(alphabet="ab. \t\u00a0é漢🙂'", max_size=20), st.data())
def test_a_token_belongs_to_the_words_it_shares_a_character_with(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)) | {0, len(text)})
    spans = [Token(text[a:b], 0, a, b) for a, b in pairwise(cuts)]
    word, of = -1, []  # the word of every character
    for place, character in enumerate(text):
        word += not character.isspace() and (place == 0 or text[place - 1].isspace())
        of.append(None if character.isspace() else word)
    wanted = [
        [i for i, token in enumerate(spans) if w in of[token.start : token.end]]
        for w in range(len(text.split()))
    ]
    assert word_tokens(spans, text) == wanted


def test_real_tokens_make_up_every_word(bart):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    assert word_tokens(generation.source_tokens, generation.source_text) == [[i] for i in range(6)]


# ---- scores and links ------------------------------------------------------------------------------------

SOURCE = ("the", " ca", "t", " sat.")
TARGET = ("le", " ch", "at", " assis.")
ROWS = [
    [5.0, 1.0, 0.0, 0.0, 0.0],
    [0.0, 1.0, 2.0, 2.5, 0.0],
    [0.0, 3.0, -1.0, 0.5, 0.0],
    [0.0, 0.0, 0.0, 2.0, 1.0],
    [0.0, 4.0, 0.0, 0.0, 9.0],
]


def test_source_pieces_are_summed_and_target_pieces_averaged():
    scores = word_scores(attribution(SOURCE, TARGET, ROWS))
    assert scores.tolist() == [[5, 1, 0], [0, (3 + 2) / 2, (2.5 + 0.5) / 2], [0, 0, 2]]


def test_the_input_convention_takes_the_next_row_and_eos_for_the_last_word():
    made = attribution(SOURCE, TARGET, ROWS)
    assert word_scores(made, aligned_to="input").tolist() == [[0, 3, 2.5], [0, (2 + 0) / 2, 1.25], [0, 4, 0]]
    assert word_links(made) == {(0, 0), (1, 1), (2, 2)}
    # The last word loses its link to the source's EOS, which scores 9.
    assert word_links(made, aligned_to="input") == {(1, 0), (2, 1)}


@given(st.integers(1, 4), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_input_convention_is_the_output_convention_of_rows_moved_up(source, target, rng):
    columns, rows = [" s"] * source, [" t"] * target
    scores = [
        [rng.choice([0.0, 1.0, -1.0, rng.random()]) for _ in range(source + 1)] for _ in range(target + 1)
    ]
    made = attribution(tuple(columns), tuple(rows), scores)
    moved = replace(made, source=torch.cat([made.source[1:], made.source[:1]]))
    assert torch.equal(word_scores(made, aligned_to="input"), word_scores(moved))
    assert word_links(made, aligned_to="input") == word_links(moved)
    assert token_links(made, aligned_to="input") == token_links(moved)


def test_an_output_cut_short_has_no_row_for_its_last_token_as_input():
    made = attribution(("a", " b"), ("x", " y"), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], eos=False)
    assert word_links(made, aligned_to="input") == {(1, 0)}
    assert word_scores(made, aligned_to="input")[1].isnan().all()


def test_no_link_where_nothing_speaks_for_one():
    rows = [[0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [math.nan, math.nan, math.nan], [math.nan, 1.0, 0.0]]
    made = attribution(("a", " b"), ("w", " x", " y", " z"), [*rows, [1.0, 1.0, 1.0]])
    assert word_links(made) == token_links(made) == {(1, 3)}


def test_no_link_to_or_from_special_tokens():
    made = attribution(("a", " b"), ("x", " y"), [[1.0, 0.0, 2.0], [1.0, 1.0, 1.0], [3.0, 0.0, 0.0]])
    assert word_links(made) == token_links(made) == {(0, 1)}  # of equal scores the first


def test_words_without_tokens_get_no_link():
    made = attribution(("a", " b"), ("x",), [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    made = replace(made, source_text="a b ☃", target_text="x ☃")
    assert word_scores(made).shape == (2, 3)
    assert word_links(made) == {(0, 0)}
    empty = replace(made, source_text="", source_tokens=made.source_tokens[2:], source=made.source[:, 2:])
    assert word_links(empty) == frozenset()
    nowhere = replace(empty, source_tokens=(), source=made.source[:, :0])
    assert word_links(nowhere) == token_links(nowhere) == frozenset()


def test_token_links():
    assert token_links(attribution(SOURCE, TARGET, ROWS)) == {(0, 0), (3, 1), (1, 2), (3, 3)}


def test_unknown_conventions_and_merged_rows_are_refused(bart):
    made = attribution(SOURCE, TARGET, ROWS)
    for read in (word_scores, word_links, token_links):
        with pytest.raises(UnknownNameError, match="did you mean output"):
            read(made, aligned_to="outputs")
        with pytest.raises(InputError, match="between tokens, not of a word"):
            read(made.words())


def test_it_reads_real_attributions(bart):
    generations = bart.force(SENTENCES, OUTPUTS)
    gold = [alignment({(0, 0)}, {(1, 1)})] * 3
    for method in ("attention", "saliency"):
        found = bart.attribute(generations, method=method)
        for convention in ("output", "input"):
            scores = alignment_scores(found, gold, aligned_to=convention)
            assert 0 <= scores.aer.low <= scores.aer.value <= scores.aer.high <= 1
            assert scores.aligned_to == convention
            assert scores.links <= sum(len(output.split()) for output in OUTPUTS)


# ---- the error rate --------------------------------------------------------------------------------------


def test_error_rate_by_hand():
    gold = alignment({(0, 0), (1, 1), (2, 2)}, {(3, 2), (3, 3)})
    predicted = {(0, 0), (1, 1), (3, 2), (3, 3), (0, 4)}
    # |A ∩ S| = 2, |A ∩ P| = 4, |A| = 5, |S| = 3.
    assert count_links(predicted, gold) == LinkCounts(links=5, sure=3, in_sure=2, in_possible=4)
    assert aer(predicted, gold) == pytest.approx(1 - 6 / 8)
    assert aer(gold.possible, gold) == 0
    assert aer({(9, 9)}, gold) == 1
    assert aer(set(), gold) == 1
    assert math.isnan(aer(set(), alignment()))


def test_scores_over_pairs_are_ratios_of_sums():
    counts = [LinkCounts(5, 3, 2, 4), LinkCounts(1, 1, 0, 0), LinkCounts(0, 0, 0, 0)]
    scores = scores_of_counts(counts, aligned_to="output")
    assert scores.aer.value == pytest.approx(1 - 6 / 10)  # not the mean of .25 and 1
    assert scores.precision.value == pytest.approx(4 / 6)
    assert scores.recall.value == pytest.approx(2 / 4)
    assert (scores.links, scores.aer.n) == (6, 3)
    # Resamples of one pair alone are the ends.
    assert (scores.aer.low, scores.aer.high) == pytest.approx((0.25, 1))


def test_scores_survive_json():
    for counts in ([LinkCounts(5, 3, 2, 4), LinkCounts(1, 1, 0, 0)], [LinkCounts(0, 2, 0, 0)], []):
        scores = scores_of_counts(counts, aligned_to="input")
        again = AlignmentScores.from_dict(json.loads(dump_json(scores.to_dict())))
        assert repr(again) == repr(scores)  # nan is not equal to itself


def test_without_links_there_is_no_precision_and_no_recall():
    scores = scores_of_counts([LinkCounts(0, 2, 0, 0)] * 2, aligned_to="output")
    assert (scores.aer.value, scores.recall.value) == (1, 0)
    assert math.isnan(scores.precision.value)
    assert math.isnan(scores_of_counts([], aligned_to="output").aer.value)


@given(st.lists(st.tuples(links, links, links), min_size=1, max_size=5))
def test_bounds_and_perfect_scores(drawn):
    gold = [alignment(sure, possible) for sure, possible, _ in drawn]
    counts = [count_links(found, item) for (_, _, found), item in zip(drawn, gold, strict=True)]
    scores = scores_of_counts(counts, aligned_to="output")
    for figure in (scores.aer, scores.precision, scores.recall):
        assert math.isnan(figure.value) or 0 <= figure.low <= figure.value <= figure.high <= 1
    for item in gold:
        own = aer(item.sure, item)
        assert own == 0 if item.sure else math.isnan(own)


def test_ratios_have_honest_intervals():
    exact = ratio([1, 2, 3], [2, 4, 6])
    assert (exact.value, exact.low, exact.high, exact.n) == (0.5, 0.5, 0.5, 3)
    wide, narrow = (ratio([0, 1] * n, [1, 1] * n) for n in (5, 500))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low) > 0
    assert ratio([0, 1] * 5, [1, 1] * 5) == wide
    one = ratio([0, 0, 1], [0, 0, 2])  # resamples without anything below are left out
    assert (one.low, one.high) == (0.5, 0.5)


def test_a_perfect_map_scores_perfectly():
    made = attribution(SOURCE, TARGET, ROWS)
    scores = alignment_scores([made], [alignment({(0, 0), (1, 1), (2, 2)})])
    assert (scores.aer.value, scores.precision.value, scores.recall.value, scores.links) == (0, 1, 1, 3)
    assert alignment_scores([made], [alignment({(0, 0)})], aligned_to="input").aer.value == 1


def test_gold_of_other_texts_is_refused():
    made = attribution(SOURCE, TARGET, ROWS)
    with pytest.raises(InputError, match="2 attributions for 1 gold"):
        alignment_scores([made, made], [alignment()])
    with pytest.raises(InputError, match=r"pair 2: the gold links word 0 to word 3 .* 3 and 3 words"):
        alignment_scores([made, made], [alignment(), alignment((), {(0, 3)})])


# ---- gold in tokens --------------------------------------------------------------------------------------


def test_gold_in_tokens(bart):
    generation = replace(
        bart.force("the cat", "le chat"),
        source_text="the cat sat. on",
        source_tokens=tokens("the cat sat. on", "the", "ca", "t", "sat", ".", "on"),
        target_text="le chat est assis.",
        target_tokens=tokens("le chat est assis.", "le", "ch", "at", "est", "assis", "."),
    )
    gold, scored = token_gold_of(alignment({(1, 1), (2, 3), (3, 3)}, {(0, 0), (0, 1)}), generation)
    cat = (frozenset({("source", 1), ("source", 2)}),)
    sat = (frozenset({("source", 3), ("source", 4), ("source", 5)}),)  # of both words, any token
    # "le" has a possible link only, "est" none, EOS is special: nothing is said of them.
    assert gold == ((), cat, cat, (), sat, sat, ())
    assert scored == (False, True, True, False, True, True, False)
    with pytest.raises(InputError, match="word 4 to word 0"):
        token_gold_of(alignment({(4, 0)}), generation)


def test_a_source_word_without_tokens_is_no_gold(bart):
    generation = replace(bart.force("the cat", "le chat"), source_text="the cat ☃")
    assert token_gold_of(alignment({(2, 0)}), generation) == (((), (), ()), (False, False, False))
