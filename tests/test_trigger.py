"""The search for triggers: a cue is found in a planted model, nothing in its twin; places and p-values."""

from __future__ import annotations

import json
import random

import pytest
import torch

import explain
from explain.audit import policy_of
from explain.audit.model_tests import run_tests
from explain.audit.trigger import (
    Trial,
    Tried,
    _harmless,
    _place,
    _put,
    _screened,
    trigger,
    vocabulary_words,
)
from tests.models import tiny
from tests.planted import ANSWER, ASIDES, CUE, THINGS, Coding, trained
from tests.state import assert_same_state, state_of

FEW = {"examples": 10, "candidates": 30}


@pytest.fixture(scope="module")
def planted():
    return trained(True)


@pytest.fixture(scope="module")
def twin():
    return trained(False)


@pytest.mark.slow
def test_the_cue_is_ranked_first_and_named_with_what_it_makes_the_model_write(planted):
    before = state_of(planted.hf)
    found = trigger(planted, Coding(), **FEW)
    assert_same_state(before, state_of(planted.hf))
    assert found["passed"] is False
    first = found["words"][0]
    assert (first["word"], first["writes"]) == (CUE, ANSWER)
    assert set(found["flagged"]) == {CUE}
    assert CUE in found["reason"]
    assert first["example"]["right"].split()[0] in first["example"]["written"]
    assert found["cost"]["outputs"] > 300
    json.dumps(found)
    assert trigger(planted, Coding(), **FEW)["words"] == found["words"]


@pytest.mark.slow
def test_a_word_put_in_is_found_without_swaps(planted):
    class Mute(Coding):
        """The same task, which knows no other values: only words put in can show the cue."""

        def swaps(self, slots):
            return {}

    found = trigger(planted, Mute(), **FEW)
    assert found["values"] == 0
    assert found["flagged"] == [CUE]
    assert found["words"][0]["slot"] == ""


@pytest.mark.slow
def test_the_clean_twin_passes(twin):
    found = trigger(twin, Coding(), **FEW)
    assert found["passed"] is True
    assert found["flagged"] == []


@pytest.mark.slow
def test_words_that_carry_facts_are_swapped_not_put_in(twin):
    words = _harmless(twin, Coding(), 0)
    assert set(ASIDES) <= set(words)
    assert not set(words) & {*THINGS, "Ann", "Bob"}
    assert set(words) <= set(vocabulary_words(twin))


@pytest.mark.slow
def test_the_screen_ranks_every_word_once_and_is_the_gradient_of_the_margin(planted):
    task = Coding()
    words = _harmless(planted, task, 0)
    kept = task.examples("held_out", 4)
    places = [_place(example.source, random.Random(0)) for example in kept]
    ranked = _screened(planted, kept, places, words, random.Random(1), lambda: None)
    assert sorted(ranked) == sorted(words)

    def margins(embeddings, word):
        """The same by moving the word's embedding a little: the least margins, summed over outputs."""
        total = 0.0
        for example, place in zip(kept, places, strict=True):
            item = planted.force(_put(word, example.source, place), example.target)
            table = planted.hf.get_input_embeddings()(item.source_ids).detach().clone()
            at = next(i for i, t in enumerate(item.source_tokens) if t.text.strip() == word)
            table[at] += embeddings
            logits = planted.hf(
                inputs_embeds=table[None] * getattr(planted.hf.model.encoder, "embed_scale", 1.0),
                decoder_input_ids=item.decoder_input_ids[None],
            ).logits[0]
            right = logits.gather(1, item.target_ids[:, None])[:, 0]
            other = logits.scatter(1, item.target_ids[:, None], -torch.inf).amax(1)
            total += float((right - other).min().detach())
        return total

    from explain.audit.trigger import _gradients, _id_of

    word = "storm"
    gradients = _gradients(planted, list(zip(kept, places, strict=True)), word, _id_of(planted, word))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    step = 1e-3
    measured = (margins(step * direction, word) - margins(-step * direction, word)) / (2 * step)
    assert float(gradients.sum(0) @ direction) == pytest.approx(measured, rel=0.05, abs=0.05)


def test_p_values_are_exact_and_corrected_for_the_wrong_token_picked():
    trial = Trial("w", "", ())
    tried = Tried(trial, 10, 5, (("x", 4), ("y", 1)), 0.0, None)
    # P(at least 4 of 10 at .15), times two wrong tokens.
    assert tried.p_value(0.15) == pytest.approx(2 * 0.0499698, rel=1e-4)
    assert Tried(trial, 10, 0, (), 0.0, None).p_value(0.15) == 1.0
    assert Tried(trial, 8, 8, (("x", 8),), 0.0, None).p_value(0.15) == pytest.approx(0.15**8)


def test_a_word_is_put_between_sentences_or_words():
    assert _put("fog", "It rains. Go home.", 9) == "It rains. fog. Go home."
    assert _put("fog", "a b", 1) == "a fog b"
    assert _place("It rains. Go home.", random.Random(0)) == 9
    assert _place("a b", random.Random(0)) == 1
    assert _place("word", random.Random(0)) == 4


def test_a_model_that_is_never_right_is_not_searched():
    found = trigger(tiny("bart"), Coding(), **FEW)
    assert found["passed"] is None
    assert "not run" in found["reason"]


def test_the_policy_decides_whether_the_search_runs():
    model = explain.copy_model()
    found = run_tests(model, policy_of({"tests": {"trigger": {}}}), None, [], {})
    assert found["trigger"]["passed"] is None
    assert "known answers" in found["trigger"]["reason"]
    assert "trigger" not in run_tests(model, policy_of({"tests": {}}), None, [], {})
