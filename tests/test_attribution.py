"""Attribution: one contract over the registry, and equality with plain Captum, position by position."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Occlusion, Saliency
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_outputs import BaseModelOutput

import explain
from explain.attribution import OBJECTIVES, REGISTRY, Cancelled, Method, Registry
from explain.attribution.inputs import inputs_of
from explain.errors import InputError, UnknownNameError
from explain.training.tokenizer import build_tokenizer
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import FAMILIES, network, tiny
from tests.state import assert_same_state, state_of

METHODS = list(REGISTRY.rows)


def generation_of(model):
    return model.force(SENTENCES[0], OUTPUTS[0])


# ---- the contract that every registered method keeps ----


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_causal_map_of_the_right_shape(model, name):
    generation = generation_of(model)
    att = model.attribute(generation, method=name)
    target, source = len(generation.target_tokens), len(generation.source_tokens)
    assert att.source.shape == (target, source)
    assert att.prefix.shape == (target, target)
    assert float(att.prefix.triu().abs().max()) == 0
    assert att.source.isfinite().all()
    assert att.prefix.isfinite().all()
    assert att.start.isfinite().all()
    assert float(att.source.abs().sum()) > 0
    row = REGISTRY.get(name)
    if not row.signed:
        assert float(att.source.min()) >= 0
        assert float(att.prefix.min()) >= 0
    if row.completeness:  # others may measure it, too
        assert not att.completeness_error.isnan().all()
    assert att.method == name
    assert att.objective == ("log_prob" if row.objective else "")


@pytest.mark.parametrize("name", METHODS)
def test_a_list_gives_what_single_calls_give(bart, name):
    generations = bart.force(SENTENCES, OUTPUTS)
    for generation, att in zip(generations, bart.attribute(generations, method=name), strict=True):
        alone = bart.attribute(generation, method=name)
        torch.testing.assert_close(att.source, alone.source, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(att.prefix, alone.prefix, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_leaves_a_trace(name):
    model = tiny("t5")
    model.hf.train()
    generation = generation_of(model)
    before = state_of(model.hf)
    model.attribute(generation, method=name)
    assert_same_state(before, state_of(model.hf))
    with pytest.raises(Cancelled):
        model.attribute([generation, generation], method=name, should_stop=lambda: True)
    assert_same_state(before, state_of(model.hf))


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_the_same_twice_and_progress_is_told(bart, name):
    told = []
    generations = bart.force(SENTENCES, OUTPUTS)
    first = bart.attribute(generations, method=name, progress=lambda done, total: told.append((done, total)))
    second = bart.attribute(generations, method=name)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(a.source, b.source) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", [n for n in METHODS if REGISTRY.get(n).objective])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_changes_what_is_explained(bart, name, objective):
    generation = generation_of(bart)
    att = bart.attribute(generation, method=name, target=objective)
    assert att.objective == objective
    assert att.units == OBJECTIVES[objective].units
    with torch.no_grad():
        logits = bart.hf(
            input_ids=generation.source_ids[None],
            decoder_input_ids=generation.decoder_input_ids[None],
            use_cache=False,
        ).logits[0]
    ids = generation.target_ids
    wanted = {
        "log_prob": logits.log_softmax(-1)[range(len(ids)), ids],
        "logit": logits[range(len(ids)), ids],
        "probability": logits.softmax(-1)[range(len(ids)), ids],
        "entropy": torch.distributions.Categorical(logits=logits).entropy(),
    }[objective]
    torch.testing.assert_close(att.value, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in METHODS if REGISTRY.get(n).contrast])
def test_a_contrast_explains_the_difference_to_the_foil(bart, name):
    generation = generation_of(bart)
    foil = bart.foil_ids("maison")[0]
    with torch.no_grad():
        logits = bart.hf(
            input_ids=generation.source_ids[None],
            decoder_input_ids=generation.decoder_input_ids[None],
            use_cache=False,
        ).logits[0]
    att = bart.attribute(generation, method=name, target="logit", contrast="maison")
    ids = generation.target_ids
    torch.testing.assert_close(
        att.value, logits[range(len(ids)), ids] - logits[:, foil], atol=1e-5, rtol=1e-5
    )
    same = ids == foil
    assert float(att.source[same].abs().max()) == 0
    assert att.config["contrasted"] == (~same).tolist()


def test_a_contrast_sentence_is_aligned_by_position(bart):
    generation = bart.force("the cat", "le chat la maison")
    att = bart.attribute(generation, method="input_x_gradient", contrast="un chat")
    # un≠le; chat=chat; EOS≠la; nothing left to say about maison and EOS
    assert att.config["contrasted"] == [True, False, True, False, False]
    assert float(att.source[1].abs().max()) == 0


# ---- equality with plain Captum ----


def plain_forward(model, generation, t, source, target):
    """Log-probability of token t the plain way: Hugging Face's own forward, one position."""
    states = model.hf.get_encoder()(inputs_embeds=source).last_hidden_state
    logits = model.hf(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        decoder_inputs_embeds=target,
        use_cache=False,
    ).logits
    return logits[:, t].log_softmax(-1)[:, generation.target_ids[t]]


def both(model, generation, t, explainer, **arguments):
    """Source and prefix scores [source], [target] of plain Captum at position t, dimensions kept."""
    inputs = inputs_of(model, generation, "pad")
    source, target = inputs.source.clone().requires_grad_(), inputs.target.clone().requires_grad_()
    made = explainer(partial(plain_forward, model, generation, t))
    return [x[0].detach() for x in made.attribute((source, target), **arguments)], inputs


def assert_row(att, t, source, target, tolerance=1e-5):
    scale = max(1.0, float(source.abs().max()), float(target.abs().max()))
    torch.testing.assert_close(att.source[t], source, atol=tolerance * scale, rtol=0)
    torch.testing.assert_close(att.prefix[t, :t], target[1 : t + 1], atol=tolerance * scale, rtol=0)
    torch.testing.assert_close(att.start[t], target[0], atol=tolerance * scale, rtol=0)
    assert float(target[t + 1 :].abs().max() if t + 1 < len(target) else 0) <= tolerance * scale


def test_gradient_methods_equal_plain_captum_at_every_position(model):
    generation = generation_of(model)
    saliency = model.attribute(generation, method="saliency")
    product = model.attribute(generation, method="input_x_gradient")
    for t in range(len(generation.target_tokens)):
        (source, target), _ = both(model, generation, t, Saliency, abs=True)
        assert_row(saliency, t, source.norm(dim=-1), target.norm(dim=-1))
        (source, target), _ = both(model, generation, t, InputXGradient)
        assert_row(product, t, source.sum(-1), target.sum(-1))


def test_integrated_gradients_equal_plain_captum_at_every_position(model):
    generation = generation_of(model)
    att = model.attribute(generation, rule="midpoint", steps=24, max_steps=24, rows=7)
    inputs = inputs_of(model, generation, "pad")
    for t in range(len(generation.target_tokens)):
        (source, target), _ = both(
            model,
            generation,
            t,
            IntegratedGradients,
            baselines=(inputs.source_baseline, inputs.target_baseline),
            n_steps=24,
            method="riemann_middle",
        )
        assert_row(att, t, source.sum(-1), target.sum(-1))


def test_occlusion_equals_plain_captum_at_every_position(model):
    generation = generation_of(model)
    att = model.attribute(generation, method="occlusion", by="zero", rows=3)
    for t in range(len(generation.target_tokens)):
        width = 16
        (source, target), _ = both(
            model,
            generation,
            t,
            Occlusion,
            sliding_window_shapes=((1, width), (1, width)),
            baselines=(0, 0),
        )
        # Captum also hides the decoder start, which we never do.
        target = target[:, 0].clone()
        target[0] = 0
        assert_row(att, t, source[:, 0], target)


def test_occlusion_by_attention_is_the_models_own_answer_without_the_token(model):
    generation = generation_of(model)
    att = model.attribute(generation, method="occlusion")
    source = generation.source_ids[None]
    with torch.no_grad():
        for i in range(source.shape[1]):
            mask = torch.ones_like(source)
            mask[0, i] = 0
            logits = model.hf(
                input_ids=source,
                attention_mask=mask,
                decoder_input_ids=generation.decoder_input_ids[None],
                use_cache=False,
            ).logits[0]
            without = logits.log_softmax(-1)[range(len(logits)), generation.target_ids]
            torch.testing.assert_close(att.source[:, i], generation.log_probs - without, atol=2e-5, rtol=1e-4)


def test_attention_is_the_mean_over_layers_and_heads(model):
    generation = generation_of(model)
    captured = model.capture(generation, "decoder.*.pattern")
    att = model.attribute(generation, method="attention")
    cross = torch.stack([captured[f"decoder.{layer}.cross.pattern"][0] for layer in range(2)]).mean((0, 1))
    torch.testing.assert_close(att.source, cross)
    torch.testing.assert_close(att.prefix.sum(1) + att.start, torch.ones(len(cross)), atol=1e-5, rtol=0)
    one = model.attribute(generation, method="attention", layers=(-1,), heads=(1,))
    torch.testing.assert_close(one.source, captured["decoder.1.cross.pattern"][0, 1])


# ---- completeness ----


def test_integrated_gradients_are_complete(model):
    generation = generation_of(model)
    att = model.attribute(generation, tolerance=0.01)
    total = att.source.double().sum(1) + att.prefix.double().sum(1) + att.start.double()
    difference = att.value.double() - att.baseline_value.double()
    error = (total - difference).abs() / difference.abs()
    torch.testing.assert_close(att.completeness_error.double(), error, atol=2e-4, rtol=2e-2)
    steps = torch.tensor(att.config["steps_used"])
    assert (att.converged | (steps > att.config["max_steps"])).all(), "an open error is raised to the end"
    assert att.converged.float().mean() > 0.8


def test_steps_are_raised_only_where_they_are_needed(bart):
    generation = generation_of(bart)
    rough = bart.attribute(generation, tolerance=10)
    fine = bart.attribute(generation, tolerance=0.001)
    assert max(rough.config["steps_used"]) <= 9
    assert max(fine.config["steps_used"]) > 9
    assert min(fine.config["steps_used"]) < max(fine.config["steps_used"])
    assert float(fine.completeness_error.nan_to_num().max()) <= 0.001


def test_what_never_converges_is_marked(t5):
    att = t5.attribute(generation_of(t5), steps=2, max_steps=2, tolerance=1e-6)
    assert not att.converged.any()
    assert (att.completeness_error > 1e-6).all()


@given(
    st.lists(st.sampled_from("the cat dog sees a big red house".split()), min_size=1, max_size=8),
    st.lists(st.sampled_from("le chat la maison un oiseau".split()), min_size=1, max_size=6),
    st.sampled_from(["pad", "mean", "unk", "mask", "zero"]),
)
def test_completeness_and_causality_hold_for_any_texts(source, target, baseline):
    model = tiny("bart")
    att = model.attribute(model.force(" ".join(source), " ".join(target)), baseline=baseline, tolerance=0.02)
    assert float(att.prefix.triu().abs().max()) == 0
    # Relative error blows up where input and baseline hardly differ: there the absolute error is small.
    total = att.source.sum(1) + att.prefix.sum(1) + att.start
    off = (total - (att.value - att.baseline_value)).abs()
    assert ((att.completeness_error <= 0.02) | att.completeness_error.isnan() | (off < 2e-3)).all()


def test_special_tokens_keep_their_embedding_in_the_baseline(model):
    generation = generation_of(model)
    inputs = inputs_of(model, generation, "pad")
    assert torch.equal(inputs.source[0, -1], inputs.source_baseline[0, -1])  # EOS
    assert torch.equal(inputs.target[0, 0], inputs.target_baseline[0, 0])  # decoder start
    assert not torch.equal(inputs.source[0, 0], inputs.source_baseline[0, 0])
    att = model.attribute(generation)
    assert float(att.source[:, -1].abs().max()) == 0
    assert float(att.start.abs().max()) == 0


def test_the_prefix_matters_and_is_not_folded_into_the_source(model):
    """A cut cross-attention leaves only the prefix to explain anything."""
    with model.intervene({"decoder.*.cross.z": torch.zeros_like}):
        att = model.attribute(model.force(SENTENCES[0], OUTPUTS[0]))
    assert float(att.source.abs().max()) < 1e-6
    assert float(att.prefix.abs().max()) > 1e-3


# ---- the registry, and refusals ----


def test_the_registry_says_everything_about_a_method():
    frame = explain.methods()
    columns = "name kind signed objective contrast completeness families paper label reads".split()
    assert list(frame.columns) == columns
    assert set(frame["kind"]) <= {"gradient", "perturbation", "internals", "control"}
    assert {"saliency", "input_x_gradient", "integrated_gradients", "occlusion", "attention"} <= set(
        frame["name"]
    )
    assert all(text.endswith(".") for text in frame["reads"])


def test_a_name_is_registered_once_and_kinds_are_known():
    row = REGISTRY.get("saliency")
    registry = Registry({})
    registry.add(row)
    with pytest.raises(InputError, match="registered already"):
        registry.add(row)
    fields = {name: getattr(row, name) for name in Method.__dataclass_fields__}
    with pytest.raises(InputError, match="magic"):
        Registry({}).add(Method(**{**fields, "kind": "magic"}))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "integrated_gradient"}, UnknownNameError, "did you mean integrated_gradients"),
        ({"target": "logprob"}, UnknownNameError, "did you mean log_prob"),
        ({"step": 3}, UnknownNameError, "steps"),
        ({"steps": 0}, InputError, "steps=0"),
        ({"tolerance": 0}, InputError, "tolerance is 0"),
        ({"baseline": "noise"}, InputError, "pad, mean, unk, mask, zero"),
        ({"method": "attention", "contrast": "chat"}, InputError, "takes no contrast"),
        ({"target": "entropy", "contrast": "chat"}, InputError, "entropy"),
        ({"contrast": "le chat la maison un chien"}, InputError, "says the same"),
        ({"contrast": "  "}, InputError, "contrast is empty"),
        ({"contrast": "<pad>"}, InputError, "special token"),
        ({"method": "attention", "heads": (7,)}, InputError, "has 2"),
        ({"method": "occlusion", "by": "magic"}, InputError, "attention"),
        ({"method": "saliency", "reduction": "max"}, InputError, "l2"),
    ],
)
def test_what_cannot_be_asked_is_refused(bart, arguments, error, message):
    with pytest.raises(error, match=message):
        bart.attribute(generation_of(bart), **arguments)


def test_an_output_of_another_vocabulary_is_refused(bart):
    small = tiny("bart", vocab_size=20)
    with pytest.raises(InputError, match="another vocabulary"):
        small.attribute(generation_of(bart), method="attention")


def test_a_one_word_contrast_is_the_token_of_that_place():
    """Byte-level tokenizers know a word inside a sentence by another token than at its start."""
    texts = ["le chat voit la maison", "un chat la voit"] * 3
    tokenizer = build_tokenizer(texts, 300)
    model = explain.wrap(
        network(
            "bart",
            vocab_size=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
        ),
        tokenizer,
    )
    generation = model.force("le chat", "un chat voit la maison")
    att = model.attribute(generation, method="input_x_gradient", contrast="la")
    words = [token.text for token in generation.target_tokens]
    assert model.foil_ids(" la") != model.foil_ids("la")
    assert att.config["contrasted"] == [word != "la" for word in words]


def test_a_foil_can_be_a_token_an_alternative_or_one_per_generation(bart):
    generation = generation_of(bart)
    other = generation.alternatives(0, 2)[1]
    by_alternative = bart.attribute(generation, method="input_x_gradient", contrast=other)
    by_id = bart.attribute(generation, method="input_x_gradient", contrast=other.id)
    assert torch.equal(by_alternative.source, by_id.source)
    assert by_alternative.contrast == other.text
    several = bart.attribute([generation] * 2, method="saliency", contrast=["un", None])
    assert [att.contrast for att in several] == ["un", None]
    with pytest.raises(InputError, match="1 contrasts for 2"):
        bart.attribute([generation] * 2, method="saliency", contrast=["un"])
    with pytest.raises(InputError, match="is no contrast"):
        bart.attribute(generation, contrast=10_000)


def test_a_word_of_several_tokens_is_represented_by_its_first():
    built = build_tokenizer(["le chat voit la maison", "un chat la voit"] * 3, 300)
    ids = {"eos_token_id": built.eos_token_id, "decoder_start_token_id": built.eos_token_id}
    model = explain.wrap(
        network("bart", vocab_size=len(built), pad_token_id=built.pad_token_id, **ids), built
    )
    assert len(model.foil_ids(" brontosaure")) > 1
    generation = model.force("le chat", "un chat voit la maison")
    att = model.attribute(generation, method="saliency", contrast="brontosaure")
    assert all(att.config["contrasted"]), "a word stands against every token, not against the first few"


def test_the_record_names_the_model_that_computed_it():
    one, other = tiny("bart", seed=0), tiny("bart", seed=1)
    generation = generation_of(one)
    att = other.attribute(generation, method="saliency")
    assert att.model_digest == other.digest != generation.model_digest
    torch.testing.assert_close(att.log_probs, att.value, atol=1e-5, rtol=1e-5)
    assert other.capture(generation, "logits").model_digest == other.digest


def test_the_record_names_interventions():
    model = tiny("bart")
    generation = generation_of(model)
    with model.intervene({"decoder.1.cross.z": torch.zeros_like}):
        att = model.attribute(generation, method="saliency")
    assert att.config["intervened"] == ["decoder.1.cross.z"]
    torch.testing.assert_close(att.log_probs, att.value, atol=1e-5, rtol=1e-5)
    assert "intervened" not in model.attribute(generation, method="saliency").config


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gate_judges_the_model_and_not_an_intervention(family):
    model = tiny(family)  # fresh: its gate has not run
    noise = torch.randn(1, 1, 7, 16, generator=torch.Generator().manual_seed(0))[0]
    with model.intervene({"decoder.0.mlp.out": lambda x: x + noise if x.shape[1] == 7 else x * 3}):
        model.attribute(generation_of(model), method="saliency")


def test_a_function_may_write_into_its_tensor(bart):
    """The natural way to silence a head works for gradients and for cached generation alike."""

    def silence(z):
        z[:, 0] = 0
        return z

    def silence_copy(z):
        return torch.cat([torch.zeros_like(z[:, :1]), z[:, 1:]], dim=1)

    found = []
    for function in (silence, silence_copy):
        with bart.intervene({"decoder.*.self.v": function, "decoder.1.cross.pattern": function}):
            generation = bart.generate("the cat sees", max_new_tokens=5)
            found.append(
                (generation.target_ids.tolist(), bart.attribute(generation, method="saliency").source)
            )
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "attention", "layers": ()}, "layers is empty"),
        ({"method": "attention", "target": "logit"}, "explains no objective"),
        ({"tolerance": "x"}, "tolerance"),
    ],
)
def test_questions_without_an_answer_are_refused(bart, arguments, message):
    with pytest.raises(InputError, match=message):
        bart.attribute(generation_of(bart), **arguments)


def test_what_is_not_a_generation_is_refused(bart):
    for wrong in ("the cat", None, ["the cat"]):
        with pytest.raises(InputError, match="Generation"):
            bart.attribute(wrong)
        with pytest.raises(InputError, match="Generation"):
            bart.capture(wrong, "logits")
