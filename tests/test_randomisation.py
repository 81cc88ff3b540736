"""Shuffled weights, other seeds, a little noise: on copies, with methods that look at the model or do not."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch

import explain
from explain.attribution import REGISTRY, Cancelled, Method
from explain.attribution.registry import Scores
from explain.errors import InputError, ModelError, UnknownNameError, UnknownTokenError
from explain.evaluation.agreement import top1
from explain.evaluation.randomisation import (
    MARGIN,
    Randomisation,
    cascade,
    copied,
    randomisation,
    stage_names,
    stage_weights,
)
from explain.evaluation.stability import Stability, sensitivity, stability
from explain.files import dump_json
from explain.training.tokenizer import build_tokenizer
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import WORDS, network, tiny, tokenizer
from tests.state import assert_same_state, state_of

LAYERS = ["decoder.1", "decoder.0", "encoder.1", "encoder.0", "embeddings"]
METHODS = ("value_zeroing", "occlusion")


def outputs(model, count=3):
    return model.force((SENTENCES * 4)[:count], (OUTPUTS * 4)[:count])


def originals(model, generations, methods=METHODS, **options):
    return {name: model.attribute(generations, method=name, **options) for name in methods}


def tensors(model):
    return {**dict(model.hf.named_parameters()), **dict(model.hf.named_buffers())}


@dataclass(frozen=True)
class NoSettings:
    """A method without options."""


@pytest.fixture
def made_up(monkeypatch):
    """Register a method for one test: `scores(model, generation)` gives its scores of source and prefix."""

    def register(scores, name="made_up"):
        def run(work, settings):
            found = [scores(work.model, generation) for generation in work.generations]
            return [Scores(source, prefix.tril(-1), torch.zeros(len(source))) for source, prefix in found]

        row = Method(name, name, "internals", True, False, False, False, "", "", NoSettings, run)
        monkeypatch.setitem(REGISTRY.rows, name, row)
        return name

    return register


def by_place(model, generation):
    """A map that knows where tokens stand, and nothing of the model."""
    rows, source = len(generation.target_tokens), len(generation.source_tokens)
    distance = torch.arange(source)[None, :] - torch.arange(rows)[:, None]
    return 1 / (1 + distance.abs()), torch.zeros(rows, rows)


# ---- the stages ----


def test_every_weight_of_every_family_is_in_one_stage(model):
    stages = stage_weights(model)
    assert stage_names(model) == list(stages) == LAYERS
    learnt = [name for name in tensors(model) if "embed_positions.weights" not in name]
    assert sorted(name for names in stages.values() for name in names) == sorted(learnt)
    for name in stages["decoder.0"]:
        assert any(part in name for part in ("decoder.layers.0.", "decoder.block.0."))
    assert any("embed_tokens" in name or "shared" in name for name in stages["embeddings"])


@pytest.mark.parametrize("family", ["t5", "mbart", "m2m_100", "pegasus"])
def test_a_final_norm_belongs_to_the_last_layer(family):
    stages = stage_weights(tiny(family))
    for side in ("decoder", "encoder"):
        norms = [
            n
            for n in stages[f"{side}.1"]
            if n.endswith((f"{side}.layer_norm.weight", "final_layer_norm.weight"))
        ]
        assert norms, side


@pytest.mark.parametrize("family", ["bart", "mbart", "marian", "m2m_100"])  # T5 is always tied
def test_a_head_of_its_own_comes_first(family):
    stages = stage_weights(tiny(family, tie_word_embeddings=False))
    assert list(stages) == ["lm_head", *LAYERS]
    assert stages["lm_head"] == ["lm_head.weight"] + (["final_logits_bias"] if family != "m2m_100" else [])


def test_each_stage_shuffles_its_own_weights_and_no_others(model):
    twin = copied(model)
    before = {name: tensor.clone() for name, tensor in tensors(twin).items()}
    stages = stage_weights(twin)
    for stage in cascade(twin, stages, seed=0):
        changed = set()
        for name, tensor in tensors(twin).items():
            if not torch.equal(tensor, before[name]):
                changed.add(name)
                assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values)
                before[name] = tensor.clone()
        # A tensor that is the same everywhere, such as a norm nobody trained, cannot be shuffled.
        assert changed == {name for name in stages[stage] if len(before[name].unique()) > 1}


def test_shuffling_is_the_same_for_the_same_seed(bart):
    twins = [copied(bart) for _ in range(3)]
    for twin, seed in zip(twins, (0, 0, 1), strict=True):
        list(cascade(twin, stage_weights(twin), seed))
    assert twins[0].digest == twins[1].digest != twins[2].digest


def test_a_copy_shares_nothing(model):
    twin = copied(model)
    assert twin.digest == model.digest
    mine = {tensor.untyped_storage().data_ptr() for tensor in tensors(model).values()}
    assert not mine & {tensor.untyped_storage().data_ptr() for tensor in tensors(twin).values()}
    assert len({id(p) for p in twin.hf.parameters()}) == len({id(p) for p in model.hf.parameters()})


# ---- the check ----


def test_maps_of_the_model_go_with_its_weights(model):
    generations = outputs(model)
    maps = originals(model, generations)
    results = randomisation(model, generations, maps)
    for name, result in results.items():
        assert [stage.name for stage in result.stages] == LAYERS
        assert result.stages[-1].top1.value < 0.5, name
        assert result.stages[-1].topk_jaccard.value < 0.7, name
        assert 0.05 < result.chance_top1.value < 0.35


def test_the_model_is_left_alone(model):
    model.hf.train()
    try:
        generations = outputs(model)
        maps = originals(model, generations)
        before, digest = state_of(model.hf), model.digest
        randomisation(model, generations, maps, stages=["embeddings"])
        sensitivity(model, generations, maps, samples=1)
        calls = []

        def stop():
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt

        for check in (randomisation, sensitivity):
            calls.clear()
            with pytest.raises(KeyboardInterrupt):
                check(model, generations, maps, check=stop)
        assert_same_state(before, state_of(model.hf))
        assert model.digest == digest
    finally:
        model.hf.eval()


def test_a_method_that_does_not_look_at_the_model_does_not_pass(bart, made_up):
    generations = outputs(bart)
    maps = originals(bart, generations, (made_up(by_place), "random"))
    for result in randomisation(bart, generations, maps).values():
        assert [stage.top1.value for stage in result.stages] == [1] * 5
        assert result.excess.value == pytest.approx(1 - result.chance_top1.value)
        assert result.passed is False
        assert result.reason.startswith("Its maps stay when the weights go: top-1 agreement 100%")


def test_another_random_map_passes_at_chance(bart):
    generations = outputs(bart, 12)
    maps = {"random": [bart.attribute(item, method="random", seed=n) for n, item in enumerate(generations)]}
    given = {"random": {"seed": 99}}
    result = randomisation(bart, generations, maps, options=given, stages=["embeddings"])["random"]
    assert result.stages[0].top1.value == pytest.approx(result.chance_top1.value, abs=MARGIN)
    assert result.passed is True


def test_the_token_right_before_does_not_count(bart, made_up):
    """The residual stream carries it to the output whatever the weights are."""

    def leaning(model, generation):
        dice = torch.Generator().manual_seed(int(model.digest[-6:], 16) + len(generation.source_tokens))
        rows, source = len(generation.target_tokens), len(generation.source_tokens)
        prefix = torch.rand(rows, rows, generator=dice) + 9 * torch.ones(rows - 1).diag(-1)
        return torch.rand(rows, source, generator=dice), prefix

    generations = outputs(bart, 12)
    maps = originals(bart, generations, (made_up(leaning),))
    twin = copied(bart)
    list(cascade(twin, stage_weights(twin), seed=0))
    other = twin.attribute(generations[0], method="made_up")
    assert top1(maps["made_up"][0], other)[1:-1].tolist() == [1] * (len(generations[0].target_tokens) - 2)
    result = randomisation(bart, generations, maps, stages=["embeddings"])["made_up"]
    assert result.excess.value < MARGIN
    assert result.passed is True


def test_only_some_tokens_of_a_long_output_are_explained_again(bart):
    generations = outputs(bart, 1)
    words = len(generations[0].target_tokens) - 1
    maps = originals(bart, generations)
    for rows, expected in ((2, 2), (100, words), (None, words)):
        result = randomisation(bart, generations, maps, stages=["embeddings"], rows=rows)["occlusion"]
        assert result.stages[0].top1.n == result.excess.n == expected
    given = {"occlusion": {"positions": [0, 1, 3]}}
    result = randomisation(bart, generations, maps, stages=["embeddings"], rows=2, options=given)["occlusion"]
    assert result.excess.n == 3


def test_only_the_stages_that_were_asked_for_are_measured(bart):
    generations = outputs(bart)
    maps = originals(bart, generations)
    every = randomisation(bart, generations, maps)["occlusion"]
    ends = randomisation(bart, generations, maps, stages=["embeddings", "decoder.1"])["occlusion"]
    assert ends.stages == (every.stages[0], every.stages[-1])
    assert (ends.excess, ends.passed) == (every.excess, every.passed)
    top = randomisation(bart, generations, maps, stages=["decoder.1"])["occlusion"]
    assert top.stages == every.stages[:1]
    assert top.passed is None
    assert math.isnan(top.excess.value)
    with pytest.raises(UnknownNameError, match=r"unknown stage 'decoder.7'"):
        randomisation(bart, generations, maps, stages=["decoder.7"])


def test_a_method_that_fails_on_the_shuffled_model_scores_nan(bart, made_up):
    digest = bart.digest

    def picky(model, generation):
        if model.digest != digest:
            raise ModelError("nothing to explain here")
        return by_place(model, generation)

    def broken(model, generation):
        source, prefix = by_place(model, generation)
        return (source if model.digest == digest else source * torch.nan), prefix

    generations = outputs(bart)
    maps = originals(bart, generations, (made_up(picky, "picky"), made_up(broken, "broken"), "occlusion"))
    results = randomisation(bart, generations, maps)
    for name, reason in (
        ("picky", "cannot be explained: nothing to explain here."),
        ("broken", "no strongest token"),
    ):
        assert [stage.top1.n for stage in results[name].stages] == [0] * 5
        assert math.isnan(results[name].excess.value)
        assert results[name].passed is None
        assert reason in results[name].reason
    assert results["occlusion"].passed is not None


def test_maps_of_whole_sentences_are_left_open(bart, made_up):
    def sentence(model, generation):
        source, prefix = by_place(model, generation)
        source[:, :2], source[:, 2:] = 1.0, 0.5
        return source, prefix

    generations = outputs(bart)
    result = randomisation(bart, generations, originals(bart, generations, (made_up(sentence),)))["made_up"]
    assert result.passed is None
    assert "no single strongest token" in result.reason


def test_what_the_caller_got_wrong_is_not_taken_for_a_result(bart):
    generations = outputs(bart)
    maps = originals(bart, generations)
    with pytest.raises(UnknownNameError, match="option of occlusion"):
        randomisation(bart, generations, maps, options={"occlusion": {"stepz": 1}})
    with pytest.raises(InputError, match="3 maps of value_zeroing for 2 outputs"):
        randomisation(bart, generations[:2], maps)
    with pytest.raises(InputError, match="rows is 0"):
        sensitivity(bart, generations, maps, rows=0)
    with pytest.raises(InputError, match="samples is 0"):
        sensitivity(bart, generations, maps, samples=0)
    with (
        bart.intervene({"decoder.1.residual": lambda tensor: tensor}),
        pytest.raises(InputError, match="interventions off"),
    ):
        randomisation(bart, generations, maps)

    def stop():
        raise Cancelled("stopped as asked")

    with pytest.raises(Cancelled):
        stability(bart, generations, maps, [bart], check=stop)


def test_results_are_read_back(bart, tmp_path):
    generations = outputs(bart, 2)
    maps = originals(bart, generations)
    result = randomisation(bart, generations, maps, stages=["decoder.1"])["occlusion"]
    again = Randomisation.from_dict(json.loads(dump_json(result.to_dict())))
    assert again.stages == result.stages
    assert (again.chance_top1, again.passed, again.reason) == (result.chance_top1, None, result.reason)
    assert math.isnan(again.excess.value)
    steady = stability(bart, generations, maps, [tiny("bart", seed=1)])["occlusion"]
    assert Stability.from_dict(json.loads(dump_json(steady.to_dict()))) == steady


# ---- other seeds ----


def renumbered(model):
    """The same model with a tokenizer that numbers the same words the other way round."""
    words = WORDS[::-1]
    other = tokenizer(words)
    hf = network("bart")
    old, new = model.tokenizer.get_vocab(), other.get_vocab()
    with torch.no_grad():
        rows = hf.model.shared.weight.clone()
        for word, id_ in new.items():
            hf.model.shared.weight[id_] = rows[old[word]]
    return explain.wrap(hf, other, name="renumbered")


def test_a_model_agrees_with_itself_and_less_with_another_training(bart):
    generations = outputs(bart)
    maps = originals(bart, generations)
    same = stability(bart, generations, maps, [tiny("bart"), renumbered(bart)])
    other = stability(bart, generations, maps, [tiny("bart", seed=1), tiny("bart", seed=2)])
    for name in maps:
        assert (same[name].models, other[name].models) == (2, 2)
        assert (
            same[name].top1.n == other[name].top1.n == 2 * sum(len(g.target_tokens) - 1 for g in generations)
        )
        for part in ("top1", "topk_jaccard", "weighted_tau"):
            assert getattr(same[name], part).value == pytest.approx(1, abs=1e-6), part
            assert getattr(other[name], part).value < 0.8, part


def test_a_model_that_reads_other_tokens_is_refused(bart):
    generations = outputs(bart)
    maps = originals(bart, generations)
    fewer = [word for word in WORDS if word != "dog"]
    without = explain.wrap(network("bart", vocab_size=42), tokenizer(fewer), name="no dogs")
    with pytest.raises(UnknownTokenError, match="dog"):
        stability(bart, generations, maps, [without])
    letters = build_tokenizer(SENTENCES + OUTPUTS, 262)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "vocab_size": len(letters)}
    spelling = explain.wrap(network("bart", **ids), letters, name="spelling")
    with pytest.raises(InputError, match="of tiny bart and spelling differ, and 'the cat sees a big dog'"):
        stability(bart, generations, maps, [spelling])


# ---- a little noise ----


def test_sensitivity_grows_with_the_noise(model):
    generations = outputs(model)
    maps = originals(model, generations, ("saliency", "value_zeroing", "random"))
    found = [sensitivity(model, generations, maps, radius=r, samples=1) for r in (1e-4, 0.02, 0.5)]
    for name in ("saliency", "value_zeroing"):
        low, middle, high = (each[name].value for each in found)
        assert 0 <= low < middle < high, name
        assert low < 0.01, name
    assert [each["random"].value for each in found] == [0, 0, 0]


def test_more_samples_find_larger_changes(bart):
    generations = outputs(bart)
    maps = originals(bart, generations)
    one, three = (sensitivity(bart, generations, maps, samples=samples) for samples in (1, 3))
    for name in maps:
        assert three[name].value > one[name].value
        assert three[name].n == one[name].n


def test_only_embeddings_of_the_tokens_at_hand_move(model, made_up):
    seen = []

    def watching(other, generation):
        table = other.hf.get_input_embeddings().weight
        seen.append((table.detach().clone(), other.hf.lm_head.weight.detach().clone()))
        return by_place(other, generation)

    generations = outputs(model, 1)
    maps = originals(model, generations, (made_up(watching),))
    seen.clear()
    radius = 0.1
    assert sensitivity(model, generations, maps, samples=2, radius=radius)["made_up"].value == 0
    clean = model.hf.get_input_embeddings().weight.detach()
    used = {*generations[0].source_ids.tolist(), *generations[0].target_ids.tolist()}
    for table, head in seen:
        assert torch.equal(head, model.hf.lm_head.weight)
        moved = (table - clean).abs()
        assert {row for row in range(len(moved)) if moved[row].any()} == used
        assert 0.8 * radius < float(moved.max() / clean.std()) <= radius * 1.001
    assert not torch.equal(seen[0][0], seen[1][0])


def test_a_change_is_relative_to_the_row(bart, made_up):
    digest = bart.digest

    def doubled(model, generation):
        source, prefix = by_place(model, generation)
        source[0] = 0
        return (source if model.digest == digest else source * 2), prefix

    generations = outputs(bart, 1)
    maps = originals(bart, generations, (made_up(doubled),))
    found = sensitivity(bart, generations, maps, samples=1)["made_up"]
    assert found.value == pytest.approx(1)
    assert found.n == len(generations[0].target_tokens) - 2  # a row of zeros, and EOS
