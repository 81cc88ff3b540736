"""Decoding: the model's own numbers, ids end to end, batch and single alike."""

from __future__ import annotations

import math

import pytest
import torch

import explain
from explain.errors import (
    EmptyTextError,
    InputError,
    ModelError,
    TextTooLongError,
    UnknownNameError,
    UnknownTokenError,
)
from explain.results import Generation
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import network, tiny, tokenizer


def same(left: Generation, right: Generation) -> None:
    assert left.target_ids.tolist() == right.target_ids.tolist()
    torch.testing.assert_close(left.log_probs, right.log_probs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left.entropy, right.entropy, atol=1e-4, rtol=1e-4)


def test_greedy_is_hugging_faces_greedy(model):
    generation = model.generate(SENTENCES[0], max_new_tokens=8)
    theirs = model.hf.generate(input_ids=generation.source_ids[None], max_new_tokens=8, do_sample=False)
    assert theirs[0, 1:].tolist()[: len(generation.target_ids)] == generation.target_ids.tolist()
    assert (generation.ranks == 1).all()


def test_numbers_are_those_of_the_models_distribution(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    with torch.no_grad():
        logits = model.hf(
            input_ids=generation.source_ids[None],
            decoder_input_ids=generation.decoder_input_ids[None],
            use_cache=False,
        ).logits[0]
    log_probs = logits.log_softmax(-1)
    wanted = log_probs[range(len(logits)), generation.target_ids]
    torch.testing.assert_close(generation.log_probs, wanted, atol=1e-5, rtol=1e-5)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(generation.entropy, entropy, atol=1e-4, rtol=1e-4)
    best = generation.alternatives(0, 5)
    assert [item.rank for item in best] == [1, 2, 3, 4, 5]
    assert best[0].id == int(logits[0].argmax())
    assert best[0].log_prob == pytest.approx(float(log_probs[0].max()), abs=1e-5)


@pytest.mark.parametrize(
    "controls",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "seed": 5, "temperature": 1.3, "top_k": 12, "top_p": 0.9},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ],
)
def test_a_batch_gives_what_single_calls_give(model, controls):
    together = model.generate(SENTENCES, max_new_tokens=6, **controls)
    for source, generation in zip(SENTENCES, together, strict=True):
        same(generation, model.generate(source, max_new_tokens=6, **controls))


def test_a_forced_batch_gives_what_single_calls_give(model):
    for source, target, generation in zip(SENTENCES, OUTPUTS, model.force(SENTENCES, OUTPUTS), strict=True):
        same(generation, model.force(source, target))


def test_batch_size_changes_nothing(bart):
    few = bart.generate(SENTENCES, max_new_tokens=5, batch_size=1)
    for left, right in zip(few, bart.generate(SENTENCES, max_new_tokens=5, batch_size=8), strict=True):
        same(left, right)


def test_seeds_decide_sampling_and_leave_torch_alone(bart):
    state = torch.get_rng_state()
    one = bart.generate(SENTENCES[0], do_sample=True, seed=1, max_new_tokens=8)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert (
        one.target_ids.tolist()
        == bart.generate(SENTENCES[0], do_sample=True, seed=1, max_new_tokens=8).target_ids.tolist()
    )
    others = {
        tuple(bart.generate(SENTENCES[0], do_sample=True, seed=s, max_new_tokens=8).target_ids.tolist())
        for s in range(6)
    }
    assert len(others) > 1


def test_beams_come_best_first_and_the_best_is_the_output(bart):
    generation = bart.generate(SENTENCES[0], num_beams=4, max_new_tokens=5)
    scores = [beam.score for beam in generation.beams]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert list(generation.beams[0].ids) == generation.target_ids.tolist()
    normalised = float(generation.log_probs.sum()) / len(generation.target_ids)
    assert scores[0] == pytest.approx(normalised, abs=1e-4)


def test_forced_tokens_are_marked_and_end_in_eos(model):
    generation = model.force("the cat", "le chat")
    assert [token.text for token in generation.target_tokens] == ["le", "chat", "</s>"]
    assert all(token.forced for token in generation.target_tokens)
    assert generation.finished
    assert generation.decoder_start.id == model.decoder_start_id
    assert not any(t.forced for t in model.generate("the cat", max_new_tokens=3).target_tokens)


def test_a_forced_first_token_is_marked():
    model = explain.wrap(network("mbart", forced_bos_token_id=10), tokenizer())
    model.hf.generation_config.forced_bos_token_id = 10
    generation = model.generate("the cat", max_new_tokens=4)
    assert generation.target_ids[0] == 10
    assert [token.forced for token in generation.target_tokens][:2] == [True, False]


def test_an_output_that_was_cut_says_so(bart):
    generation = bart.generate("the cat sees", max_new_tokens=2)
    assert len(generation.target_tokens) == 2
    assert generation.finished == (generation.target_ids[-1] == 2)


def test_asking_to_stop_ends_decoding(bart):
    calls = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) >= 2

    generation = bart.generate("the cat sees", max_new_tokens=30, min_new_tokens=20, should_stop=stop)
    assert len(generation.target_tokens) == 2


def test_offsets_point_into_the_text(model):
    generation = model.force("the  cat sees", "le chat")
    for tokens, text in (
        (generation.source_tokens, generation.source_text),
        (generation.target_tokens, generation.target_text),
    ):
        for token in tokens:
            assert token.special or text[token.start : token.end] == token.text


def test_a_generation_survives_json(bart):
    generation = bart.generate("the cat", num_beams=2, max_new_tokens=4)
    again = Generation.from_dict(generation.to_dict())
    assert again.to_dict() == generation.to_dict()
    assert again.target_tokens == generation.target_tokens


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_text_is_refused(bart, text):
    with pytest.raises(EmptyTextError, match="the source is empty"):
        bart.generate(text)


def test_an_over_long_text_is_refused_not_truncated(bart, t5):
    with pytest.raises(TextTooLongError, match="has 81 tokens, but the model has positions for 64"):
        bart.generate("cat " * 80)
    assert len(t5.generate("cat " * 80, max_new_tokens=1).source_tokens) == 81


def test_unknown_words_are_named_and_can_be_allowed(bart):
    with pytest.raises(UnknownTokenError, match="'zebra'"):
        bart.generate("the zebra sees a cat")
    generation = bart.generate("the zebra sees a cat", allow_unknown=True, max_new_tokens=2)
    assert generation.source_tokens[1].text == "zebra"
    assert generation.source_tokens[1].id == 3
    assert not generation.source_tokens[1].special


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens"),
    ],
)
def test_controls_out_of_range_are_refused(bart, controls, message):
    with pytest.raises(InputError, match=message):
        bart.generate("the cat", **controls)


def test_an_unknown_control_names_near_misses(bart):
    with pytest.raises(UnknownNameError, match="num_beams"):
        bart.generate("the cat", num_beam=2)


def test_lists_of_different_lengths_are_refused(bart):
    with pytest.raises(InputError, match="2 sources but 1"):
        bart.force(["the cat", "a dog"], ["le chat"])


def test_languages_are_refused_where_there_are_none(bart):
    with pytest.raises(InputError, match="no languages"):
        bart.generate("the cat", source_language="en_XX")


def test_a_lone_surrogate_is_refused(bart):
    with pytest.raises(InputError, match="half a character"):
        bart.generate("the cat \ud800")


def test_probability_zero_gives_finite_entropy():
    model = tiny("bart")
    with model.intervene(
        {"logits": lambda x: torch.where(x == x.max(-1, keepdim=True).values, x, -torch.inf)}
    ):
        generation = model.generate("the cat", max_new_tokens=2)
    assert all(math.isfinite(float(x)) for x in generation.entropy)
    assert float(generation.log_probs.abs().max()) < 1e-6


def test_defaults_saved_with_a_model_do_not_leak_into_decoding(caplog):
    model = tiny("bart")
    plain = model.generate(SENTENCES[0], max_new_tokens=5)
    own = model.hf.generation_config
    own.num_beams, own.min_length, own.max_length, own.no_repeat_ngram_size = 4, 5, 7, 1
    again = model.generate(SENTENCES[0], max_new_tokens=5)
    same(plain, again)
    assert not again.beams
    assert model.hf.generation_config is own


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_batch_sizes_are_checked(bart, size):
    for call in (
        lambda: bart.generate(["the cat"], batch_size=size),
        lambda: bart.force(["the cat"], ["le chat"], batch_size=size),
        lambda: bart.capture(bart.force("the cat", "le chat"), "logits", batch_size=size),
    ):
        with pytest.raises(InputError, match="batch_size"):
            call()


@pytest.mark.parametrize(
    "controls",
    [
        {"num_beams": 2.5},
        {"num_beams": 100_000},
        {"seed": None},
        {"seed": 10**30},
        {"temperature": math.nan},
        {"temperature": 1e-40},
        {"length_penalty": math.nan},
        {"repetition_penalty": math.inf},
        {"min_new_tokens": 100},
    ],
)
def test_controls_of_the_wrong_kind_are_refused(bart, controls):
    with pytest.raises(InputError, match=next(iter(controls))):
        bart.generate("the cat", **controls)


def test_the_record_says_how_long_an_output_could_be(bart):
    assert bart.generate("the cat", max_new_tokens=500).settings["max_new_tokens"] == 63


def test_a_relative_model_goes_by_its_tokenizers_length():
    model = tiny("t5")
    model.tokenizer.model_max_length = 12
    with pytest.raises(TextTooLongError, match="positions for 12"):
        model.generate("cat " * 20)


def test_the_digest_follows_training():
    model = tiny("bart")
    before = model.digest
    assert model.digest == before
    with torch.no_grad():
        model.hf.model.encoder.layers[0].fc1.weight += 0.1
    assert model.digest != before


@pytest.mark.parametrize("wrong", [None, 3, b"cat"])
def test_what_is_no_text_is_refused(bart, wrong):
    with pytest.raises(InputError, match="text"):
        bart.generate(wrong)
    with pytest.raises(InputError):
        explain.load(None)
    with pytest.raises(InputError, match="tokenizer"):
        explain.wrap(bart.hf, None)


def test_a_tokenizer_of_another_model_is_refused_where_it_matters():
    """Some published models lack an embedding for their tokenizer's mask token: that alone is no reason."""
    model = explain.wrap(network("bart", vocab_size=20), tokenizer())
    assert model.generate("the cat", max_new_tokens=2).target_tokens
    with pytest.raises(ModelError, match="'la' has id 35, but there are only 20 embeddings"):
        model.force("the cat", "la maison")
