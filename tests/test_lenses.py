"""Lenses: the last layer is the model itself, earlier ones equal literal passes, tokens are watched."""

from __future__ import annotations

import json
import math

import pytest
import torch

from explain.analysis import Lens, decoder_lens, logit_lens
from explain.errors import InputError
from explain.files import dump_json
from explain.training.handmade import LOGIT, copy_model
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import tiny
from tests.state import assert_same_state, state_of

LENSES = pytest.mark.parametrize("lens", [logit_lens, decoder_lens])


def own_logits(model, generation):
    """The model's logits [target, vocabulary], from Hugging Face's own forward pass."""
    with torch.no_grad():
        return model.hf(
            input_ids=generation.source_ids[None],
            decoder_input_ids=generation.decoder_input_ids[None],
            use_cache=False,
        ).logits[0]


@LENSES
def test_the_last_layer_is_the_model(model, lens):
    """On every family: logits to 1e-5, and so log-probabilities, entropy and ranks of the output."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    found = lens(model, generation, top=7)
    assert found.error < 1e-5
    own = own_logits(model, generation).log_softmax(-1)
    assert torch.allclose(found.log_probs[-1], generation.log_probs, atol=1e-5)
    assert torch.allclose(found.entropy[-1], generation.entropy, atol=1e-5)
    assert torch.equal(found.ranks[-1], generation.ranks)
    assert torch.allclose(found.top_log_probs[-1], own.topk(7).values, atol=1e-5)
    assert torch.equal(found.top_ids[-1], own.topk(7).indices)
    assert found.kl[-1].max() < 1e-5
    assert found.kl[0].max() > 1e-3  # and the first layer is not the model
    side = "decoder" if lens is logit_lens else "encoder"
    assert found.layers == (f"{side}.embed", f"{side}.0.residual", f"{side}.1.residual")


@pytest.mark.parametrize("family", ["t5", "mt5", "mbart", "m2m_100", "pegasus"])
def test_a_layer_of_the_logit_lens_is_what_a_shorter_decoder_gives(family):
    """With the blocks of the layers above silenced, a decoder with norms before its blocks stops there."""
    model = tiny(family)
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    found = logit_lens(model, generation)
    blocks = ("self.out", "cross.out", "mlp.out")
    for kept in range(2):
        silenced = [f"decoder.{layer}.{b}" for layer in range(2) for b in blocks if layer >= kept]
        with model.intervene({point: torch.zeros_like for point in silenced}):
            shorter = model.force(SENTENCES[0], OUTPUTS[0])
        assert torch.allclose(found.log_probs[kept], shorter.log_probs, atol=1e-4)
        assert torch.allclose(found.entropy[kept], shorter.entropy, atol=1e-4)


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_without_a_norm_at_the_end_layers_are_read_as_they_are(family):
    model = tiny(family)
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    residual = model.capture(generation, "decoder.0.residual")["decoder.0.residual"][0]
    logits = residual @ model.hf.lm_head.weight.T + model.hf.final_logits_bias
    expected = logits.log_softmax(-1).gather(1, generation.target_ids[:, None])[:, 0]
    assert torch.allclose(logit_lens(model, generation).log_probs[1], expected, atol=1e-5)


def test_a_layer_of_decoder_lens_is_the_decoder_on_that_layer(model):
    """Against Hugging Face: the encoder's output replaced by an earlier layer, normed as at the end."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    found = decoder_lens(model, generation)
    early = model.capture(generation, "encoder.0.residual")["encoder.0.residual"]
    encoder = model.hf.get_encoder()
    norm = getattr(encoder, "final_layer_norm", None) or getattr(encoder, "layer_norm", None)
    if norm is not None:
        early = norm(early)
    with torch.no_grad():
        logits = model.hf(
            encoder_outputs=(early,), decoder_input_ids=generation.decoder_input_ids[None], use_cache=False
        ).logits[0]
    expected = logits.log_softmax(-1).gather(1, generation.target_ids[:, None])[:, 0]
    assert torch.allclose(found.log_probs[1], expected, atol=1e-5)


@LENSES
def test_watched_tokens_are_followed(model, lens):
    """A text, an id and an alternative of the output, against the literal ranks of the last layer."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    other = generation.alternatives(0, 2)[1]
    found = lens(model, generation, watch=["chat", 2, other])
    assert [item.text for item in found.watched[:1]] == ["chat"]
    assert [item.id for item in found.watched[1:]] == [2, other.id]
    assert found.watched_ranks.shape == (3, len(generation.target_tokens), 3)
    own = own_logits(model, generation).log_softmax(-1)
    for number, item in enumerate(found.watched):
        ranks = [1 + int((row > row[item.id]).sum()) for row in own]
        assert found.watched_ranks[-1, :, number].tolist() == ranks
        assert torch.allclose(found.watched_log_probs[-1, :, number], own[:, item.id], atol=1e-5)
    assert found.watched_ranks[-1, 0, 2] == 2
    frame = found.to_frame()
    assert len(frame) == 3 * len(generation.target_tokens)
    assert frame["rank of chat"].tolist() == found.watched_ranks[..., 0].flatten().tolist()


@LENSES
def test_a_single_word_to_watch_needs_no_list(bart, lens):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    assert lens(bart, generation, watch="chat").watched == lens(bart, generation, watch=["chat"]).watched


def test_the_copy_model_answers_in_its_last_layer():
    """Until the copying block has run all words are equally likely, and the last place of equals counts."""
    model = copy_model()
    generation = model.generate("a b c")
    found = logit_lens(model, generation, watch="d")
    size = model.hf.config.vocab_size
    assert found.ranks.tolist() == [[size] * 4, [size] * 4, [1] * 4]
    assert found.settled.tolist() == [2] * 4
    assert torch.allclose(found.entropy[:2], torch.tensor(math.log(size)), atol=1e-5)
    sure = math.exp(LOGIT) / (math.exp(LOGIT) + size - 1)
    assert torch.allclose(found.log_probs[2], torch.tensor(math.log(sure)), atol=1e-4)
    assert found.watched_ranks[2].tolist() == [[size]] * 4
    # Its encoder adds nothing: from any layer the decoder writes the same.
    through = decoder_lens(model, generation, write=True)
    assert through.ranks.tolist() == [[1] * 4] * 3
    assert through.outputs == ("a b c",) * 3
    assert through.settled.tolist() == [0] * 4


def test_settled_is_where_the_last_run_of_first_ranks_begins(bart):
    found = logit_lens(bart, bart.force(SENTENCES[1], OUTPUTS[1]))
    ranks = torch.tensor([[1, 1, 2], [2, 1, 1], [1, 1, 2]])
    changed = Lens(**{**{n: getattr(found, n) for n in found.__dataclass_fields__}, "ranks": ranks})
    assert changed.settled.tolist() == [2, 0, -1]


def test_the_decoder_writes_by_itself_from_each_layer(model):
    """From the last layer it writes the model's own output; from the first something of its own."""
    generation = model.generate(SENTENCES[0], max_new_tokens=6)
    found = decoder_lens(model, generation, write=True)
    assert len(found.outputs) == 3
    assert found.outputs[-1].startswith(generation.target_text)  # it may go on past six tokens
    assert decoder_lens(model, generation).outputs == ()


@LENSES
def test_an_intervention_is_seen_and_its_error_is_told(bart, lens):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    with bart.intervene({"decoder.1.cross.z": torch.zeros_like}):
        changed = lens(bart, generation)
        forced = bart.force(SENTENCES[0], OUTPUTS[0])
    assert torch.allclose(changed.log_probs[-1], forced.log_probs, atol=1e-5)
    with bart.intervene({"logits": lambda logits: logits + 1}):
        assert lens(bart, generation).error == pytest.approx(1, abs=1e-4)


@LENSES
def test_results_read_back(bart, lens):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    for watch in (None, ["chat", "le"]):
        found = lens(bart, generation, watch=watch)
        back = Lens.from_dict(json.loads(dump_json(found.to_dict())))
        assert back.to_dict() == found.to_dict()
        assert torch.equal(back.watched_ranks, found.watched_ranks)
        assert torch.equal(back.log_probs, found.log_probs)
    assert found.model_digest == bart.digest


@LENSES
def test_nothing_is_left_behind(model, lens):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    before = state_of(model.hf)
    lens(model, generation, watch="chat", **({"write": True} if lens is decoder_lens else {}))
    assert_same_state(before, state_of(model.hf))

    def broken(tensor):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), model.intervene({"decoder.1.mlp.out": broken}):
        lens(model, generation)
    assert_same_state(before, state_of(model.hf))


@LENSES
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is 0; it must be 1 to 43"),
        ({"top": 99}, "size of the vocabulary"),
        ({"watch": "le chat"}, "is 2 tokens: 'le' .* watch one of them by its id"),
        ({"watch": 4711}, "cannot be watched"),
        ({"watch": True}, "cannot be watched"),
        ({"watch": [None]}, "cannot be watched"),
    ],
)
def test_errors_are_for_people(bart, lens, options, message):
    with pytest.raises(InputError, match=message):
        lens(bart, bart.force(SENTENCES[0], OUTPUTS[0]), **options)


@LENSES
def test_an_output_of_another_vocabulary_is_refused(bart, lens):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    with pytest.raises(InputError, match="another vocabulary"):
        lens(copy_model(), generation)
