"""Hook points: equal to Hugging Face's own outputs, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.errors import FileError, InputError, UnknownNameError
from explain.model.attention import _TAPS
from explain.results import load_capture
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import tiny
from tests.state import assert_same_state, state_of


def eager_outputs(model, generation):
    """Hugging Face's own attentions from an eager model."""
    model.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return model.hf(
                input_ids=generation.source_ids[None],
                decoder_input_ids=generation.decoder_input_ids[None],
                output_attentions=True,
                output_hidden_states=True,
                use_cache=False,
            )
    finally:
        model.hf.set_attn_implementation("sdpa")


def test_patterns_equal_hugging_faces_eager_attentions(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    captured = model.capture(generation, "*.pattern")
    theirs = eager_outputs(model, generation)
    for layer in range(2):
        torch.testing.assert_close(
            captured[f"encoder.{layer}.self.pattern"], theirs.encoder_attentions[layer], atol=1e-6, rtol=0
        )
        torch.testing.assert_close(
            captured[f"decoder.{layer}.self.pattern"], theirs.decoder_attentions[layer], atol=1e-6, rtol=0
        )
        torch.testing.assert_close(
            captured[f"decoder.{layer}.cross.pattern"], theirs.cross_attentions[layer], atol=1e-6, rtol=0
        )


def test_residuals_and_logits_equal_hugging_faces(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    captured = model.capture(generation, ["*.embed", "*.residual", "logits"])
    theirs = eager_outputs(model, generation)
    torch.testing.assert_close(captured["encoder.embed"], theirs.encoder_hidden_states[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        captured["encoder.0.residual"], theirs.encoder_hidden_states[1], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(captured["decoder.embed"], theirs.decoder_hidden_states[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(captured["logits"], theirs.logits, atol=1e-4, rtol=1e-5)


def test_the_forced_pass_equals_cached_generation_step_by_step(model):
    generation = model.generate(SENTENCES[0], max_new_tokens=7)
    captured = model.capture(generation, "decoder.*.pattern")
    ids = generation.source_ids[None]
    model.hf.set_attn_implementation("eager")
    try:
        steps = model.hf.generate(
            input_ids=ids,
            max_new_tokens=7,
            num_beams=1,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    finally:
        model.hf.set_attn_implementation("sdpa")
    assert steps.sequences[0, 1:].tolist()[: len(generation.target_ids)] == generation.target_ids.tolist()
    for step in range(len(generation.target_tokens)):
        for layer in range(2):
            ours = captured[f"decoder.{layer}.cross.pattern"][0, :, step]
            torch.testing.assert_close(ours, steps.cross_attentions[step][layer][0, :, 0], atol=1e-5, rtol=0)
            ours = captured[f"decoder.{layer}.self.pattern"][0, :, step, : step + 1]
            torch.testing.assert_close(
                ours, steps.decoder_attentions[step][layer][0, :, 0], atol=1e-5, rtol=0
            )


def test_every_hook_point_has_its_shape(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    source, target = len(generation.source_tokens), len(generation.target_tokens)
    captured = model.capture(generation, "*")
    assert list(captured) == model.hook_points()
    assert captured["decoder.1.cross.pattern"].shape == (1, 2, target, source)
    assert captured["decoder.1.cross.k"].shape == (1, 2, source, 8)
    assert captured["decoder.1.cross.q"].shape == (1, 2, target, 8)
    assert captured["decoder.0.self.scores"].shape == (1, 2, target, target)
    assert captured["encoder.0.self.z"].shape == (1, 2, source, 8)
    assert captured["encoder.0.self.out"].shape == (1, source, 16)
    assert captured["encoder.1.mlp.hidden"].shape == (1, source, 24)
    assert captured["decoder.0.mlp.out"].shape == (1, target, 16)
    assert captured["decoder.embed"].shape == (1, target, 16)
    assert captured["logits"].shape[:2] == (1, target)


def test_points_fit_together(model):
    """Pattern is the softmax of scores, z its mean of v, and out the projection of z."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    got = model.capture(generation, "decoder.1.cross.*")
    point = "decoder.1.cross."
    torch.testing.assert_close(got[point + "scores"].softmax(-1), got[point + "pattern"])
    torch.testing.assert_close(got[point + "pattern"] @ got[point + "v"], got[point + "z"])
    layer = dict(model.hf.named_modules())[
        "decoder.block.1.layer.1.EncDecAttention.o"
        if model.family.name == "T5"
        else "model.decoder.layers.1.encoder_attn.out_proj"
    ]
    joined = got[point + "z"].transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(joined).detach(), got[point + "out"], atol=1e-5, rtol=1e-5)


def test_a_batch_captures_what_single_calls_capture(model):
    generations = model.force(SENTENCES, OUTPUTS)
    together = model.capture(generations, ["*.pattern", "*.residual"], batch_size=3)
    for generation, captured in zip(generations, together, strict=True):
        alone = model.capture(generation, ["*.pattern", "*.residual"])
        for name in alone:
            torch.testing.assert_close(captured[name], alone[name], atol=2e-5, rtol=1e-4)


def test_past_the_memory_budget_tensors_lie_in_files_and_are_the_same(bart):
    generations = bart.force(SENTENCES, OUTPUTS)
    in_memory = bart.capture(generations, "*.pattern")
    on_disk = bart.capture(generations, "*.pattern", memory_budget=1)
    files = [captured.path for captured in on_disk]
    assert all(path is not None and path.is_file() for path in files)
    for left, right in zip(in_memory, on_disk, strict=True):
        assert not right.tensors
        assert all(torch.equal(left[name], right[name]) for name in left)
    del on_disk, right
    gc.collect()
    assert not any(path.exists() for path in files if path is not None)


def test_dtype_is_what_was_asked_for(bart):
    captured = bart.capture(bart.force("the cat", "le chat"), "*.z", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in captured.values()} == {torch.bfloat16}


def test_a_capture_survives_its_file(bart, tmp_path: Path):
    captured = bart.capture(bart.force("the cat", "le chat"), "decoder.*")
    again = load_capture(captured.save(tmp_path / "c.safetensors"))
    assert set(again) == set(captured)
    assert all(torch.equal(again[name], captured[name]) for name in captured)
    assert again.generation.target_text == "le chat"
    (tmp_path / "c.safetensors").write_bytes(b"short")
    with pytest.raises(FileError, match=r"c\.safetensors"):
        load_capture(tmp_path / "c.safetensors")


def test_an_unknown_point_is_named_with_what_there_is(bart):
    with pytest.raises(UnknownNameError, match=r"decoder\.9\.cross\.pattern"):
        bart.capture(bart.force("the cat", "le chat"), "decoder.9.cross.pattern")


# ---- intervene ----


def test_an_intervention_reaches_every_kind_of_point(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    before = generation.log_probs
    for point in model.hook_points():
        # A roll, since norms and softmax do not see a scale or a shift.
        with model.intervene({point: lambda tensor: tensor.roll(1, -1)}):
            changed = model.force(SENTENCES[0], OUTPUTS[0]).log_probs
        assert not torch.allclose(before, changed, atol=1e-6), point
    torch.testing.assert_close(model.force(SENTENCES[0], OUTPUTS[0]).log_probs, before)


def test_ablating_cross_attention_cuts_the_source_off(model):
    def cut(z):
        return torch.zeros_like(z)

    with model.intervene({"decoder.*.cross.z": cut}):
        one = model.force("the cat", "le chat").log_probs
        other = model.force("a dog sees", "le chat").log_probs
    torch.testing.assert_close(one, other)


def test_interventions_nest_and_meet_captures(bart):
    generation = bart.force("the cat", "le chat")
    with (
        bart.intervene({"decoder.0.cross.pattern": torch.zeros_like}),
        bart.intervene({"decoder.1.cross.pattern": torch.zeros_like}),
    ):
        captured = bart.capture(generation, "decoder.*.cross.z")
        text = bart.generate("the cat", max_new_tokens=3, num_beams=2)
    assert all(float(tensor.abs().max()) == 0 for tensor in captured.values())
    assert text.beams
    assert float(bart.capture(generation, "decoder.0.cross.z")["decoder.0.cross.z"].abs().max()) > 0


def test_a_function_that_returns_the_wrong_thing_is_named(bart):
    with pytest.raises(InputError, match=r"encoder\.0\.self\.z .*shape"):
        with bart.intervene({"encoder.0.self.z": lambda z: z[:, :1]}):
            bart.force("the cat", "le chat")
    with pytest.raises(InputError, match=r"logits returned NoneType"):
        with bart.intervene({"logits": lambda logits: None}):
            bart.force("the cat", "le chat")


class Boom(Exception):
    """An error of the user's own."""


def boom(tensor):
    raise Boom


@pytest.mark.parametrize(
    "point", ["encoder.0.self.q", "decoder.1.cross.pattern", "decoder.0.mlp.out", "logits"]
)
def test_nothing_is_left_behind_after_errors(point):
    for name in ("t5", "bart"):
        model = tiny(name)
        model.hf.train()
        model.hf.get_encoder().eval()
        next(model.hf.parameters()).requires_grad_(False)
        before = state_of(model.hf)
        with pytest.raises(Boom), model.intervene({point: boom}):
            model.generate("the cat", max_new_tokens=3)
        assert_same_state(before, state_of(model.hf))
        assert _TAPS.get() == ()


def test_nothing_is_left_behind_after_work(model):
    before = state_of(model.hf)
    generation = model.generate(SENTENCES, max_new_tokens=4, do_sample=True, seed=3)[0]
    model.capture(generation, "*")
    for method in ("integrated_gradients", "occlusion", "attention"):
        model.attribute(generation, method=method)
    assert_same_state(before, state_of(model.hf))


@given(st.lists(st.sampled_from("the cat dog sees a big red house".split()), min_size=1, max_size=12))
def test_patterns_are_distributions_and_causal(words):
    model = tiny("t5")
    generation = model.force(" ".join(words), "le chat la maison")
    captured = model.capture(generation, "*.pattern")
    for name, pattern in captured.items():
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)), atol=1e-5, rtol=0)
        if name.startswith("decoder") and ".self." in name:
            assert float(pattern.triu(1).abs().max()) == 0


def test_threads_do_not_see_each_others_interventions(bart):
    """A second thread waits for the block to end, and its own output is untouched."""
    plain = bart.force("the cat", "le chat").log_probs
    inside, seen = threading.Event(), []

    def other() -> None:
        inside.wait(10)
        seen.append(bart.force("the cat", "le chat").log_probs)

    thread = threading.Thread(target=other)
    thread.start()
    with bart.intervene({"decoder.*.cross.z": torch.zeros_like}):
        inside.set()
        thread.join(0.2)
        assert not seen, "the other thread must wait"
        changed = bart.force("the cat", "le chat").log_probs
    thread.join(10)
    torch.testing.assert_close(seen[0], plain)
    assert not torch.allclose(changed, plain)
