"""Direct logit attribution: parts add up to blocks and blocks to the logit, on every family."""

from __future__ import annotations

import json
import math

import pytest
import torch

from explain.analysis import Contributions, contributions
from explain.errors import InputError, UnknownNameError
from explain.files import dump_json
from explain.training.handmade import COPY, LOGIT, copy_model
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import network, tiny, tokenizer
from tests.state import assert_same_state, state_of


@pytest.fixture(scope="module")
def copier():
    """The hand-set model that repeats its source."""
    return copy_model()


def logits_at(model, generation, position):
    """The model's logits [vocabulary] at one position, from Hugging Face's own forward pass."""
    with torch.no_grad():
        return model.hf(
            input_ids=generation.source_ids[None],
            decoder_input_ids=generation.decoder_input_ids[None],
            use_cache=False,
        ).logits[0, position]


@pytest.mark.parametrize("contrast", [None, "maison"])
def test_the_parts_add_up(model, contrast):
    """To the model's own logit, or its difference from the foil's: relative error below 1e-4 in float32."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    for position in (0, 1, -1):
        found = contributions(model, generation, position, contrast)
        logits = logits_at(model, generation, position)
        expected = float(logits[generation.target_ids[position]])
        if contrast:
            expected -= float(logits[model.foil_ids(contrast)[0]])
        assert found.value == pytest.approx(expected, abs=1e-4)
        assert found.relative_error < 1e-4
        whole = [c for c in found.components if c.part_of is None]
        assert sum(c.logit for c in whole) == pytest.approx(found.total)
        assert found.error == pytest.approx(abs(found.total - found.value))
        size = sum(abs(c.logit) for c in whole)
        assert found.inner_error < 1e-4 * size
        for block in found.of("block"):
            parts = [c.logit for c in found.components if c.part_of == block.name]
            assert len(parts) >= 2
            assert sum(parts) == pytest.approx(block.logit, abs=1e-4 * size)
    assert found.position == len(generation.target_tokens) - 1


def test_there_is_a_component_for_everything(model):
    """An embedding, three blocks a layer, every head, the neurons asked for, and the biases of the family."""
    found = contributions(model, model.force(SENTENCES[0], OUTPUTS[0]), 1, neurons=5)
    assert [c.name for c in found.components if c.kind in ("embed", "block")] == [
        "decoder.embed",
        *(f"decoder.{layer}.{block}" for layer in range(2) for block in ("self", "cross", "mlp")),
    ]
    assert len(found.of("head")) == 8
    assert len(found.of("neuron")) == 5
    assert len(found.of("neurons")) == 2
    names = {c.name for c in found.of("bias")}
    family = model.family
    assert ("decoder.0.self.bias" in names) == (family.name != "T5")
    assert ("decoder.0.self.norm.bias" in names) == (not family.pre_norm)
    assert ("decoder.final_norm.bias" in names) == (family.pre_norm and family.name != "T5")
    strengths = [abs(c.logit) for c in found.of("neuron")]
    assert strengths == sorted(strengths, reverse=True)


def test_the_neurons_shown_are_the_strongest_of_all(model):
    """Asking for all gives the same strongest ones, and nothing is left for the rest."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    few, every = (contributions(model, generation, 1, neurons=n, top=0) for n in (4, 48))
    strongest = [(c.name, pytest.approx(c.logit, abs=1e-6)) for c in every.of("neuron")[:4]]
    assert [(c.name, c.logit) for c in few.of("neuron")] == strongest
    assert all(abs(c.logit) < 1e-5 for c in every.of("neurons"))


@torch.no_grad()
def test_a_component_goes_through_every_later_norm_on_bart(bart):
    """Norms after the blocks, by hand: the last network through one, the cross block before it two."""
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    found = contributions(bart, generation, 2)
    layer = bart.hf.model.decoder.layers[1]
    norms = [layer.encoder_attn_layer_norm, layer.final_layer_norm]
    entering = {}

    def keeper(k):
        def keep(_, args):
            entering[k] = args[0][0, 2].double()

        return keep

    handles = [norm.register_forward_pre_hook(keeper(k)) for k, norm in enumerate(norms)]
    out = bart.capture(generation, ["decoder.1.cross.out", "decoder.1.mlp.out"])
    for handle in handles:
        handle.remove()

    def through(k, vector):
        sigma = (entering[k].var(unbiased=False) + norms[k].eps).sqrt()
        return norms[k].weight.double() * (vector - vector.mean()) / sigma

    row = bart.hf.lm_head.weight[generation.target_ids[2]].double()
    cross, mlp = (out[f"decoder.1.{block}.out"][0, 2].double() for block in ("cross", "mlp"))
    assert found["decoder.1.mlp"].logit == pytest.approx(float(through(1, mlp) @ row), abs=1e-5)
    assert found["decoder.1.cross"].logit == pytest.approx(
        float(through(1, through(0, cross)) @ row), abs=1e-5
    )


@torch.no_grad()
def test_a_component_equals_a_literal_product_on_t5(t5):
    """RMS norm held, by hand: out · γ / rms(residual) · row of the output matrix (· d^-½ where T5 scales)."""
    generation = t5.force(SENTENCES[0], OUTPUTS[0])
    found = contributions(t5, generation, 2)
    capture = t5.capture(generation, ["decoder.0.cross.out", "decoder.1.residual", "decoder.1.self.z"])
    residual = capture["decoder.1.residual"][0, 2].double()
    norm = t5.hf.decoder.final_layer_norm
    row = t5.hf.lm_head.weight[generation.target_ids[2]].double()
    if t5.hf.config.scale_decoder_outputs:
        row = row * t5.hf.config.d_model**-0.5
    direction = row * norm.weight.double() / (residual.square().mean() + norm.variance_epsilon).sqrt()
    block = float(capture["decoder.0.cross.out"][0, 2].double() @ direction)
    assert found["decoder.0.cross"].logit == pytest.approx(block, abs=1e-5)
    z = capture["decoder.1.self.z"][0, 1, 2].double()  # head 1
    project = t5.hf.decoder.block[1].layer[0].SelfAttention.o.weight.double()[:, 8:16]
    assert found["decoder.1.self.head.1"].logit == pytest.approx(float(project @ z @ direction), abs=1e-5)


@torch.no_grad()
def test_promoted_and_suppressed_tokens_are_those_of_the_whole_vocabulary(t5):
    """A block's vector through the output matrix, less its mean: the k largest and the k smallest."""
    generation = t5.force(SENTENCES[0], OUTPUTS[0])
    found = contributions(t5, generation, 2, top=3)["decoder.1.mlp"]
    capture = t5.capture(generation, ["decoder.1.mlp.out", "decoder.1.residual"])
    residual = capture["decoder.1.residual"][0, 2]
    norm = t5.hf.decoder.final_layer_norm
    vector = capture["decoder.1.mlp.out"][0, 2] * norm.weight
    vector = vector / (residual.square().mean() + norm.variance_epsilon).sqrt()
    scale = t5.hf.config.d_model**-0.5 if t5.hf.config.scale_decoder_outputs else 1
    logits = t5.hf.lm_head.weight @ vector * scale
    centred = logits - logits.mean()
    assert [t.id for t in found.promoted] == centred.topk(3).indices.tolist()
    assert [t.id for t in found.suppressed] == (-centred).topk(3).indices.tolist()
    assert [t.score for t in found.promoted] == pytest.approx(centred.topk(3).values.tolist(), abs=1e-5)
    assert all(t.score < 0 for t in found.suppressed)


def test_gated_networks_and_their_neurons(tmp_path):
    """T5 1.1 and mT5 multiply two projections: a neuron is one number of the product."""
    import explain

    hf = network("mt5", feed_forward_proj="gated-gelu")
    model = explain.wrap(hf, tokenizer(), name="gated")
    found = contributions(model, model.force(SENTENCES[0], OUTPUTS[0]), 1, neurons=48)
    assert found.relative_error < 1e-4
    assert len(found.of("neuron")) == 48


def test_the_copy_head_writes_the_answer(copier):
    """All of the logit comes from the one head; it promotes the word and every other part adds nothing."""
    generation = copier.generate("a b c")
    for position, word in enumerate(["a", "b", "c", "</s>"]):
        found = contributions(copier, generation, position)
        name = f"{COPY.block}.head.{COPY.index}"
        assert found.value == pytest.approx(LOGIT, abs=1e-4)
        assert found[name].logit == pytest.approx(LOGIT, abs=1e-4)
        assert found[name].promoted[0].text == word
        others = [c for c in found.components if c.name not in (name, COPY.block)]
        assert all(abs(c.logit) < 1e-5 for c in others)
        assert found.of("head")[0].name == name
    against = contributions(copier, generation, 0, "b")
    assert against.contrast == "b"
    assert against.value == pytest.approx(LOGIT, abs=1e-4)  # all others have 0


def test_an_intervention_is_seen(bart):
    """A silenced head adds nothing; what replaces a residual stream is nobody's and shows as the error."""
    generation = bart.force(SENTENCES[0], OUTPUTS[0])

    def without(z):
        z = z.clone()
        z[:, 0] = 0
        return z

    with bart.intervene({"decoder.1.cross.z": without}):
        found = contributions(bart, generation, 1)
    assert found["decoder.1.cross.head.0"].logit == pytest.approx(0, abs=1e-6)
    assert found.relative_error < 1e-4
    with bart.intervene({"decoder.1.residual": lambda x: x + torch.linspace(0, 1, x.shape[-1])}):
        replaced = contributions(bart, generation, 1)
    assert replaced.error > 1e-2
    with bart.intervene({"decoder.1.cross.out": lambda x: x + torch.linspace(0, 1, x.shape[-1])}):
        shifted = contributions(bart, generation, 1)
    assert shifted.relative_error < 1e-4  # blocks add up as before, and the heads do not make up this one
    assert shifted.inner_error > 1e-2


def test_results_read_back(bart):
    found = contributions(bart, bart.force(SENTENCES[0], OUTPUTS[0]), 1, "maison")
    back = Contributions.from_dict(json.loads(dump_json(found.to_dict())))
    assert back == found
    frame = found.to_frame()
    assert len(frame) == len(found.components)
    assert frame["logit"].tolist() == [c.logit for c in found.components]
    assert str(frame["layer"].dtype) == "Int64"


def test_nothing_is_left_behind(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    before = state_of(model.hf)
    contributions(model, generation, 0)
    assert_same_state(before, state_of(model.hf))

    def broken(tensor):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), model.intervene({"decoder.1.mlp.out": broken}):
        contributions(model, generation, 0)
    assert_same_state(before, state_of(model.hf))


@pytest.mark.parametrize(
    ("position", "options", "message"),
    [
        (99, {}, "outside the output of 7 tokens"),
        (-8, {}, "outside the output"),
        (0, {"contrast": "le"}, "says the same as the output"),
        (0, {"neurons": -1}, "neurons is -1"),
        (0, {"top": 999}, "top is 999"),
    ],
)
def test_errors_are_for_people(bart, position, options, message):
    with pytest.raises(InputError, match=message):
        contributions(bart, bart.force(SENTENCES[0], OUTPUTS[0]), position, **options)


def test_unknown_components_and_vocabularies_are_refused(bart, copier):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    with pytest.raises(UnknownNameError, match="did you mean"):
        contributions(bart, generation, 0)["decoder.1.cros"]
    with pytest.raises(InputError, match="another vocabulary"):
        contributions(copier, generation, 0)
    assert math.isfinite(contributions(tiny("bart", seed=3), generation, 0).value)
