"""Hiding tokens, words and sentences: the model's own answers without them, and Captum's numbers."""

from __future__ import annotations

import pytest
import torch
from captum.attr import FeatureAblation, Occlusion, ShapleyValueSampling
from transformers.modeling_outputs import BaseModelOutput

import explain
from explain.attribution.inputs import baseline_embedding, inputs_of
from explain.attribution.memory import DEFAULT
from explain.attribution.objectives import question
from explain.attribution.perturbation.coalitions import (
    orders,
)
from explain.attribution.perturbation.features import features_of, windows_of
from explain.attribution.perturbation.presence import HIDING, presence_of
from explain.attribution.registry import Work
from explain.errors import InputError
from explain.model.families import source_embeddings, target_embeddings
from explain.training.tokenizer import build_tokenizer
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import network, tokenizer
from tests.test_attribution import both, generation_of, plain_forward

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def work_of(model, generation, **asked):
    asked = question(model, generation, **asked)
    return Work(model, [generation], [asked], 0.01, lambda: None, lambda _: None, DEFAULT), asked


def presence(model, generation, unit="token", by="attention", rows=64, **asked):
    work, asked = work_of(model, generation, **asked)
    return presence_of(work, generation, asked, features_of(generation, unit), by, rows)


# ---- what hiding means: the model's own answers, through Hugging Face ----


@torch.no_grad()
def answer(model, generation, by, source=(), target=()):
    """Log-probabilities [target] without source tokens `source` and target tokens `target`, by hand."""
    hf, family = model.hf, model.family
    source_there = torch.tensor([i not in source for i in range(len(generation.source_ids))])
    target_there = torch.tensor([p - 1 not in target for p in range(len(generation.target_ids))])
    ids, inputs = generation.source_ids, generation.decoder_input_ids
    if by == "delete":
        # Token t is predicted by the last input that is left of inputs 0 to t.
        logits = hf(
            input_ids=ids[source_there][None],
            attention_mask=torch.ones(1, int(source_there.sum())),
            decoder_input_ids=inputs[target_there][None],
            use_cache=False,
        ).logits[0]
        logits = torch.stack([logits[int(target_there[: t + 1].sum()) - 1] for t in range(len(inputs))])
    else:
        pad = "pad" if by == "attention" else by
        embeddings = source_embeddings(hf, family, ids[None])
        decoder = target_embeddings(hf, family, inputs[None]).clone()
        decoder[0, ~target_there] = baseline_embedding(model, pad, target_side=True)
        mask = torch.ones_like(ids)[None]
        masks = {}
        if by == "attention":
            mask = source_there.long()[None]
            masks = {"decoder_attention_mask": target_there.long()[None]}
        else:
            embeddings[0, ~source_there] = baseline_embedding(model, by, target_side=False)
        states = hf.get_encoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        logits = hf(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_inputs_embeds=decoder,
            use_cache=False,
            **masks,
        ).logits[0]
    return logits.log_softmax(-1)[range(len(logits)), generation.target_ids]


@pytest.mark.parametrize("by", HIDING)
def test_occlusion_is_the_models_own_answer_without_the_token(model, by):
    generation = generation_of(model)
    att = model.attribute(generation, method="occlusion", by=by)
    for i in range(len(generation.source_tokens)):
        lost = generation.log_probs - answer(model, generation, by, source=[i])
        torch.testing.assert_close(att.source[:, i], lost, **CLOSE)
    for u in range(len(generation.target_tokens) - 1):
        lost = generation.log_probs - answer(model, generation, by, target=[u])
        torch.testing.assert_close(att.prefix[u + 1 :, u], lost[u + 1 :], **CLOSE)
        torch.testing.assert_close(lost[: u + 1], torch.zeros(u + 1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("by", HIDING)
def test_several_hidden_at_once_are_the_models_own_answer(model, by):
    generation = generation_of(model)
    opened = presence(model, generation, by=by)
    count, sources = len(opened.features), int(opened.features.source.any(1).sum())
    present = torch.rand(9, count, generator=torch.Generator().manual_seed(3)) < 0.5
    present[0] = False
    found = opened.values(present)
    for row, there in zip(found, present, strict=True):
        hidden = (~there).nonzero()[:, 0].tolist()
        source = [f for f in hidden if f < sources]
        target = [f - sources for f in hidden if f >= sources]
        torch.testing.assert_close(row, answer(model, generation, by, source, target), **CLOSE)


def test_deletion_is_forced_through_a_model_that_is_hooked_at_its_output(model):
    generation = generation_of(model)
    plain = model.attribute(generation, method="occlusion", by="delete")
    with model.intervene({"logits": lambda x: x * 1.0}):
        hooked = model.attribute(generation, method="occlusion", by="delete")
    torch.testing.assert_close(plain.source, hooked.source, **CLOSE)
    torch.testing.assert_close(plain.prefix, hooked.prefix, **CLOSE)


def test_a_source_that_would_be_empty_is_refused():
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = None  # no </s>: every source token can be hidden
    model = explain.wrap(network("bart"), bare)
    generation = model.force("the cat", "le chat")
    for name in ("shapley_sampling", "kernel_shap"):
        for by in ("attention", "delete"):
            with pytest.raises(InputError, match=r"hides the whole source of 2 tokens.*pad"):
                model.attribute(generation, method=name, by=by)
        assert model.attribute(generation, method=name, by="pad").source.isfinite().all()
    alone = model.force("cat", "le chat")
    for window in (1, 2):
        with pytest.raises(InputError, match="hides the whole source of 1"):
            model.attribute(alone, method="occlusion", window=window)
    assert model.attribute(alone, method="occlusion", by="unk").source.abs().max() > 0


# ---- equality with plain Captum ----


def assert_same(att, t, source, target):
    torch.testing.assert_close(att.source[t], source, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(att.prefix[t, :t], target[1 : t + 1], atol=1e-5, rtol=1e-5)


def test_windows_equal_captums_at_every_position(model):
    generation = generation_of(model)
    att = model.attribute(generation, method="occlusion", by="zero", window=2, rows=5)
    assert att.config["unit"] == "span"
    inputs = inputs_of(model, generation, "zero")
    for t in range(len(generation.target_tokens)):

        def forward(source, target, t=t):
            # Captum hides the decoder start as well, which we never do.
            target = torch.cat([inputs.target[:, :1].expand(len(target), -1, -1), target[:, 1:]], dim=1)
            return plain_forward(model, generation, t, source, target)

        with torch.no_grad():
            source, target = Occlusion(forward).attribute(
                (inputs.source, inputs.target), sliding_window_shapes=((2, 16), (2, 16)), baselines=(0, 0)
            )
        assert_same(att, t, source[0, :, 0], target[0, :, 0])


@pytest.mark.parametrize("baseline", ["pad", "mean"])
def test_feature_ablation_equals_captums_at_every_position(model, baseline):
    generation = generation_of(model)
    att = model.attribute(generation, method="feature_ablation", baseline=baseline)
    inputs = inputs_of(model, generation, baseline)
    masks = tuple(torch.arange(x.shape[1])[None, :, None] for x in (inputs.source, inputs.target))
    for t in range(len(generation.target_tokens)):
        (source, target), _ = both(
            model,
            generation,
            t,
            FeatureAblation,
            baselines=(inputs.source_baseline, inputs.target_baseline),
            feature_mask=(masks[0], masks[1] + 100),
        )
        assert_same(att, t, source[:, 0], target[:, 0])


def test_sampled_orders_equal_captums(model):
    generation = generation_of(model)
    att = model.attribute(generation, method="shapley_sampling", by="unk", samples=4, seed=5)
    inputs, features = inputs_of(model, generation, "unk"), features_of(generation, "token")
    count, sources = len(features), len(generation.source_tokens) - 1
    assert not att.config["exact"]
    drawn = orders(4, count, torch.Generator().manual_seed(5))
    # What is always there (</s>, decoder start) has itself for a baseline; Captum needs a number for it.
    masks = [torch.full((1, x.shape[1], 1), count) for x in (inputs.source, inputs.target)]
    masks[0][0, :sources, 0] = torch.arange(sources)
    masks[1][0, 1:, 0] = torch.arange(sources, count)
    for t in (1, len(generation.target_tokens) - 1):

        def explainer(forward):
            made = ShapleyValueSampling(forward)
            made.permutation_generator = lambda *_: ([*order.tolist(), count] for order in drawn)
            return made

        (source, target), _ = both(
            model,
            generation,
            t,
            explainer,
            baselines=(inputs.source_baseline, inputs.target_baseline),
            feature_mask=tuple(masks),
            n_samples=4,
        )
        assert_same(att, t, source[:, 0], target[:, 0])


# ---- units ----

TEXTS = [
    "Le brontosaure voit la maison. Un chat dort. La nuit tombe.",
    "Un oiseau chante. Il voit la maison.",
]


@pytest.fixture(scope="module")
def pieces():
    """A model whose tokenizer cuts words into several tokens, and an output of two sentences."""
    made = build_tokenizer(["le chat voit la maison", "un oiseau la voit"] * 3, 280)
    ids = {"eos_token_id": made.eos_token_id, "decoder_start_token_id": made.eos_token_id}
    changes = {"max_position_embeddings": 128, "pad_token_id": made.pad_token_id}
    model = explain.wrap(network("bart", vocab_size=len(made), **changes, **ids), made)
    return model, model.force(TEXTS[0], TEXTS[1])


@pytest.mark.parametrize("unit", ["word", "sentence"])
@pytest.mark.parametrize("by", ["attention", "delete", "mean"])
def test_a_unit_is_hidden_as_a_whole_and_its_worth_shared_evenly(pieces, unit, by):
    model, generation = pieces
    att = model.attribute(generation, method="occlusion", unit=unit, by=by)
    features = features_of(generation, unit, special=True)
    assert len(features) < len(generation.source_tokens)
    assert att.config["spread"]
    for source, target in zip(features.source, features.target, strict=True):
        places, inputs = source.nonzero()[:, 0].tolist(), (target.nonzero()[:, 0] - 1).tolist()
        lost = generation.log_probs - answer(model, generation, by, places, inputs)
        for t in range(len(lost)):
            scores = torch.cat([att.source[t, places], att.prefix[t, [u for u in inputs if u < t]]])
            if len(scores):
                torch.testing.assert_close(scores.sum(), lost[t], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(scores, scores[:1].expand_as(scores))


def test_sentences_cost_a_row_each(pieces):
    model, generation = pieces
    rows = []
    layer = model.hf.get_encoder().layers[0]
    handle = layer.register_forward_hook(lambda module, given, output: rows.append(len(given[0])))
    try:
        model.attribute(generation, method="occlusion", unit="sentence")
    finally:
        handle.remove()
    assert sum(rows) == 3 + 1 + 1  # three sentences, </s>, and nothing hidden


def test_contextcite_takes_sentences_where_there_are_several_and_else_words(pieces, bart):
    model, generation = pieces
    att = model.attribute(generation, method="contextcite")
    assert att.config["unit"] == "sentence"
    assert att.config["features"] == 3 + 2
    assert bart.attribute(generation_of(bart), method="contextcite").config["unit"] == "word"
    assert bart.attribute(generation_of(bart), method="contextcite", unit="token").config["unit"] == "token"


def test_a_window_leaves_something_of_the_source(bart):
    short, long = bart.force(["the", SENTENCES[0]], ["le", OUTPUTS[0]])
    features, widths = windows_of(short, 2)
    assert widths == {"source_window": 1, "prefix_window": 2}
    assert features.source[features.source.any(1)].tolist() == [[True, False], [False, True]]
    found = bart.attribute([short, long], method="occlusion", window=4)
    assert [att.config["source_window"] for att in found] == [1, 4]
    assert [att.config["window"] for att in found] == [4, 4]
    alone = bart.attribute(short, method="occlusion")
    torch.testing.assert_close(found[0].source, alone.source, **CLOSE)
