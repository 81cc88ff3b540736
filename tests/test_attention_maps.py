"""Attention as people look at it: averages, rollout, words."""

from __future__ import annotations

import pytest
import torch

from explain.analysis.attention_maps import SIDES, AttentionMaps, attention_maps, grouped, rolled_out
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from tests.conftest import OUTPUTS, SENTENCES


@pytest.fixture(scope="module")
def maps(model: Seq2Seq) -> dict[str, AttentionMaps]:
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    return {
        side: attention_maps(model.capture(generation, points), generation, side)
        for side, points in SIDES.items()
    }


def test_rows_and_columns_are_the_tokens_and_rows_add_up(model, maps):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    assert maps["encoder"].queries == maps["encoder"].keys == maps["cross"].keys == generation.source_tokens
    assert maps["cross"].queries == maps["decoder"].queries == generation.target_tokens
    assert maps["decoder"].keys == (generation.decoder_start, *generation.target_tokens[:-1])
    for side in SIDES:
        for chosen in ((None, None), (0, None), (None, 1), (1, 0)):
            pattern = maps[side].chosen(*chosen)
            assert pattern.shape == (len(maps[side].queries), len(maps[side].keys))
            torch.testing.assert_close(pattern.sum(-1), torch.ones(len(pattern)))
            assert not pattern[~maps[side].seen].any()


def test_reductions_over_heads_and_layers(maps):
    cross = maps["cross"]
    stacked = torch.stack(cross.patterns)  # [layer, head, query, key]
    torch.testing.assert_close(cross.chosen(), stacked.mean((0, 1)))
    torch.testing.assert_close(cross.chosen(1, over="max"), stacked[1].amax(0))
    torch.testing.assert_close(cross.chosen(over="max"), stacked.amax(1).mean(0))
    torch.testing.assert_close(cross.chosen(None, 1), stacked[:, 1].mean(0))
    assert cross.limit == pytest.approx(float(stacked.max()))


def test_a_rollout_is_the_method_of_that_name(model, maps):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    for over in ("mean", "max"):
        method = model.attribute(generation, "attention_rollout", over_heads=over)
        cross, decoder, encoder = (
            rolled_out(maps["encoder"], maps["decoder"], maps["cross"], side, over=over).chosen()
            for side in ("cross", "decoder", "encoder")
        )
        torch.testing.assert_close(cross, method.source, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(decoder[:, 0], method.start, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(decoder[:, 1:], method.prefix[:, :-1], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close((cross.sum(1) + decoder.sum(1)), torch.ones(len(cross)))
        torch.testing.assert_close(encoder.sum(1), torch.ones(len(encoder)))


def test_words_keep_the_sums(bart):
    generation = bart.force("the cat sees. a big dog", "le chat. un chien", allow_unknown=True)
    for side, points in SIDES.items():
        tokens = attention_maps(bart.capture(generation, points), generation, side)
        for level in ("word", "sentence"):
            merged = tokens.at_level(level)
            assert merged.level == level
            pattern = merged.chosen()
            assert pattern.shape == (len(merged.queries), len(merged.keys))
            assert len(merged.queries) <= len(tokens.queries)
            torch.testing.assert_close(pattern.sum(-1), torch.ones(len(pattern)))
            assert not pattern[~merged.seen].any(), side
        assert len(tokens.at_level("sentence").queries) < len(tokens.queries)


def test_the_decoder_start_is_no_word(bart):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    found = attention_maps(bart.capture(generation, SIDES["decoder"]), generation, "decoder")
    for level in ("word", "sentence"):
        assert found.at_level(level).keys[0] == generation.decoder_start


def test_groups_average_rows_and_add_columns():
    pattern = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    merged = grouped(pattern, [[0, 1], [2]], [[0], [1, 2]])
    torch.testing.assert_close(merged, torch.tensor([[0.375, 0.625], [0.0, 1.0]]))


def test_what_cannot_be_is_refused(bart, maps):
    cross = maps["cross"]
    for layer, head in ((9, None), (-1, None), (None, 9), (0, -1)):
        with pytest.raises(InputError):
            cross.chosen(layer, head)
    with pytest.raises(UnknownNameError):
        cross.chosen(over="median")
    with pytest.raises(InputError):
        cross.at_level("letter")
    with pytest.raises(InputError):
        cross.at_level("word").at_level("sentence")
    with pytest.raises(UnknownNameError):
        rolled_out(maps["encoder"], maps["decoder"], cross, "middle")
    with pytest.raises(InputError):
        rolled_out(maps["encoder"], maps["decoder"], cross.at_level("word"), "cross")
    generation, other = bart.force(SENTENCES[0], OUTPUTS[0]), bart.force(SENTENCES[1], OUTPUTS[1])
    captured = bart.capture(generation, SIDES["cross"])
    for side, output in (("cross", other), ("encoder", generation)):
        with pytest.raises(InputError):
            attention_maps(captured, output, side)
    with pytest.raises(UnknownNameError):
        attention_maps(captured, generation, "middle")
