"""`explain.compare`: a model against itself, against another, against the floor, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import weightedtau

import explain
from explain.analysis.similarity import cka
from explain.attribution import Cancelled
from explain.comparison import (
    METHODS,
    Alarm,
    Comparison,
    ComparisonSettings,
    Figures,
    load_comparison,
)
from explain.comparison.alarm import alarm_of
from explain.comparison.drift import shared_gold
from explain.comparison.inside import BlockRows, attention_change, divergence, matched, matched_layers
from explain.comparison.outputs import scored
from explain.errors import FileError, InputError, UnknownNameError
from explain.evaluation import Case, Estimate, RowGold
from explain.files import dump_json
from tests.comparisons import NONE, around, comparison, drift, figures
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import WORDS, network, tiny, tokenizer
from tests.state import assert_same_state, state_of

SMALL = ComparisonSettings(examples=3, outputs=3, k=2, largest=2)
SOME = ["occlusion", "attention"]
PAIRS = list(zip(SENTENCES, OUTPUTS, strict=True))


@pytest.fixture(scope="module")
def other():
    return tiny("bart", seed=1)


@pytest.fixture(scope="module")
def itself(bart):
    few = {"integrated_gradients": {"max_steps": 16}}  # a random model may take a thousand
    return explain.compare(bart, bart, SENTENCES, options=few, settings=SMALL)


@pytest.fixture(scope="module")
def found(bart, other):
    return explain.compare(
        bart, other, PAIRS, methods=SOME, forced=True, floor=[tiny("bart", seed=2)], settings=SMALL
    )


def test_a_model_is_the_same_as_itself(itself):
    assert set(itself.figures.drift) == set(METHODS)
    outputs = itself.figures.outputs
    assert (outputs.agreement.value, outputs.token_agreement.value) == (1, 1)
    assert outputs.log_prob_change.value == 0
    for each in itself.figures.drift.values():
        assert (each.top1.value, each.topk_jaccard.value) == (1, 1)
        assert each.weighted_tau.value == pytest.approx(1)
        assert each.top1.n > 0
        assert math.isnan(each.p_at_1_change.value)  # nobody knows the right answers of these sentences
    attention = itself.figures.attention
    assert attention.divergence.value == pytest.approx(0, abs=1e-12)
    assert attention.per_head.value == pytest.approx(0, abs=1e-12)
    assert all(head.a == head.b for block in attention.blocks for head in block.heads)
    assert [layer.cka.value for layer in itself.figures.cka] == pytest.approx([1] * 4)
    share = itself.figures.source_share
    assert (share.change.value, share.moved.value) == (0, 0)
    assert share.a == share.b
    assert all(example.drift == 0 for example in itself.examples)


def test_without_a_floor_there_is_no_answer(itself):
    assert itself.floor is None
    assert itself.alarm.alarm is None
    assert "nothing can be concluded" in itself.alarm.reason
    assert {each.alarm for each in itself.alarm.methods.values()} == {None}


def test_an_unrelated_model_is_far_away(found):
    assert found.figures.outputs.agreement.value < 1
    assert found.figures.drift["occlusion"].topk_jaccard.value < 0.8
    assert found.figures.drift["occlusion"].weighted_tau.value < 0.6
    assert found.figures.attention.divergence.value > 0.01
    assert max(layer.cka.value for layer in found.figures.cka) < 0.99
    assert found.figures.source_share.moved.value > 0


def test_the_floor_has_the_same_shape_and_every_pair(found):
    assert found.floor is not None
    mine, theirs = found.figures.to_dict(), found.floor.figures.to_dict()
    assert set(mine) == set(theirs)
    assert set(mine["drift"]) == set(theirs["drift"]) == set(SOME)
    assert [(pair.a, pair.b) for pair in found.floor.pairs] == [("tiny bart", "tiny bart")]
    assert found.floor.pairs[0].figures.drift == found.floor.figures.drift
    assert found.alarm.alarm is False  # unrelated outputs: nothing is hidden
    assert found.alarm.accuracy_unchanged is False


def test_two_retrained_models_make_three_pairs(bart, other):
    floor = [tiny("bart", seed=2), tiny("bart", seed=3)]
    some = explain.compare(
        bart, other, SENTENCES[:2], methods=["attention"], floor=floor, settings=replace(SMALL, examples=2)
    )
    assert some.floor is not None
    assert len(some.floor.pairs) == 3
    pooled, each = some.floor.figures, [pair.figures for pair in some.floor.pairs]
    assert pooled.drift["attention"].topk_jaccard.n == sum(f.drift["attention"].topk_jaccard.n for f in each)
    assert pooled.attention.divergence.value == pytest.approx(
        np.mean([f.attention.divergence.value for f in each])
    )
    assert pooled.attention.blocks[0].heads == ()
    assert pooled.cka[0].cka.value == pytest.approx(np.mean([f.cka[0].cka.value for f in each]))


def test_drift_is_what_its_definition_says(bart, other, found):
    """Top-1, Jaccard and weighted τ from the maps themselves, token by token."""
    forced = bart.force(SENTENCES, OUTPUTS)
    maps = [model.attribute(forced, method="occlusion") for model in (bart, other)]
    top1, jaccard, tau = [], [], []
    for a, b in zip(*maps, strict=True):
        for t, token in enumerate(a.target_tokens):
            if token.special:
                continue
            x, y = (torch.cat([m.source[t], m.prefix[t, :t]]).abs().double().numpy() for m in (a, b))
            first, second = ({int(i) for i in np.argsort(-z)[:2]} for z in (x, y))
            top1.append(float(x.argmax() == y.argmax()))
            jaccard.append(len(first & second) / len(first | second))
            tau.append(weightedtau(x, y)[0])
    drift_ = found.figures.drift["occlusion"]
    assert drift_.top1.value == pytest.approx(np.mean(top1))
    # The first token of "a bird" has three candidates, so two of them can be the strongest.
    assert drift_.topk_jaccard.value == pytest.approx(np.mean(jaccard))
    assert drift_.weighted_tau.value == pytest.approx(np.mean(tau), abs=1e-6)
    assert drift_.top1.n == len(top1)


def test_attention_and_states_are_what_their_definitions_say(bart, other, found):
    forced = bart.force(SENTENCES, OUTPUTS)
    captures = [model.capture(forced, ["*.pattern", "*.residual"]) for model in (bart, other)]
    block = next(b for b in found.figures.attention.blocks if b.a == "decoder.1.cross")
    literal = []
    for a, b in zip(*captures, strict=True):
        p, q = (c["decoder.1.cross.pattern"][0].double().mean(0).numpy() for c in (a, b))
        literal.append(np.mean([jensenshannon(x, y, base=2) ** 2 for x, y in zip(p, q, strict=True)]))
    assert block.divergence.value == pytest.approx(np.mean(literal), abs=1e-6)
    layer = next(x for x in found.figures.cka if x.a == "encoder.1.residual")
    rows = [torch.cat([c["encoder.1.residual"][0] for c in own]) for own in captures]
    assert layer.cka.value == pytest.approx(cka(*rows))
    assert layer.cka.low <= layer.cka.value <= layer.cka.high


def test_outputs_and_shares_are_what_their_definitions_say(bart, other, found):
    written = [[g.target_text for g in model.generate(SENTENCES)] for model in (bart, other)]
    outputs = found.figures.outputs
    assert outputs.agreement.value == np.mean([a == b for a, b in zip(*written, strict=True)])
    assert outputs.exact_match_a.value == np.mean([a == b for a, b in zip(written[0], OUTPUTS, strict=True)])
    forced = [model.force(SENTENCES, OUTPUTS) for model in (bart, other)]
    pairs = list(zip(*forced, strict=True))
    change = torch.cat([b.log_probs - a.log_probs for a, b in pairs]).mean()
    assert outputs.log_prob_change.value == pytest.approx(float(change), abs=1e-5)
    same = [a.top_ids[:, 0] == b.top_ids[:, 0] for a, b in pairs]
    assert outputs.token_agreement.value == pytest.approx(float(torch.cat(same).float().mean()))
    shares = [[s.share.clamp(0, 1)[1:-1] for s in explain.source_share(m, forced[0])] for m in (bart, other)]
    moved = torch.cat([(b - a).abs() for a, b in zip(*shares, strict=True)])
    assert found.figures.source_share.moved.value == pytest.approx(float(moved.mean()), abs=1e-5)


def test_batches_change_nothing(bart):
    """The same ids scored alone and together."""
    forced = bart.force(SENTENCES, OUTPUTS)
    for alone, together in zip([scored(bart, [g])[0] for g in forced], scored(bart, forced), strict=True):
        torch.testing.assert_close(alone.log_probs, together.log_probs, atol=1e-5, rtol=1e-5)
        assert alone.choices == together.choices


def test_the_largest_drift_comes_first_with_both_maps(bart, other, found):
    assert len(found.examples) == 2
    first, second = found.examples
    assert first.drift >= second.drift > 0
    assert first.method in SOME
    again = bart.attribute(bart.force(SENTENCES[first.number], OUTPUTS[first.number]), method=first.method)
    assert first.a.target_text == first.b.target_text == OUTPUTS[first.number]
    torch.testing.assert_close(first.a.source, again.source, atol=1e-5, rtol=1e-4)
    assert (first.a.model_digest, first.b.model_digest) == (bart.digest, other.digest)
    assert not math.isnan(first.floor)


def test_it_reads_back_what_it_wrote(found, tmp_path):
    path = found.save(tmp_path / "comparison.json")
    data = json.loads(path.read_text())
    assert data["schema"] == "explain/comparison@1"
    assert data["outputs"]["agreement"].keys() == {"value", "low", "high", "n"}
    assert set(data["drift"]["occlusion"]) >= {"top1", "topk_jaccard", "weighted_tau", "p_at_1_change"}
    assert data["attention"]["divergence"]["value"] > 0
    assert data["floor"]["drift"]["occlusion"].keys() == data["drift"]["occlusion"].keys()
    assert data["floor"]["attention"]["divergence"]["n"] == 3
    assert data["floor"]["outputs"].keys() == data["outputs"].keys()
    assert data["alarm"] is False
    assert data["models"]["a"]["digest"] == data["model_digest"] == found.a.digest
    assert data["models"]["b"]["digest"] == found.b.digest
    again = load_comparison(tmp_path)
    assert dump_json(again.to_dict()) == dump_json(found.to_dict())
    assert again.alarm == found.alarm


def test_the_same_input_gives_the_same_bytes(bart, other, found):
    again = explain.compare(
        bart, other, PAIRS, methods=SOME, forced=True, floor=[tiny("bart", seed=2)], settings=SMALL
    )
    assert dump_json(again.to_dict()) == dump_json(found.to_dict())


@pytest.mark.parametrize("text", ["{}", '{"schema": "explain/comparison@1"}', "[1]"])
def test_broken_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(FileError, match=r"comparison\.json"):
        load_comparison(tmp_path)


def test_models_are_left_as_they_were(bart, other):
    before = [state_of(model.hf) for model in (bart, other)]
    methods = ["attention", "saliency", "value_zeroing"]
    explain.compare(bart, other, SENTENCES[:1], methods=methods, settings=SMALL)
    for state, model in zip(before, (bart, other), strict=True):
        assert_same_state(state, state_of(model.hf))


# ---- models that differ in more than their weights -------------------------------------------------------


def test_a_vocabulary_numbered_otherwise_is_the_same_vocabulary(bart):
    """Rows of embedding and projection exchanged with the ids: the same model in other numbers."""
    words = [*WORDS[10:], *WORDS[:10]]
    order = torch.tensor([*range(5), *(5 + WORDS.index(word) for word in words)])
    hf = network("bart")
    with torch.no_grad():
        hf.model.shared.weight.copy_(hf.model.shared.weight[order])
    same = explain.wrap(hf, tokenizer(words), "renumbered")
    found = explain.compare(bart, same, PAIRS, forced=True, methods=SOME, settings=SMALL)
    assert found.figures.outputs.token_agreement.value == 1
    assert found.figures.outputs.agreement.value == 1
    assert found.figures.drift["occlusion"].topk_jaccard.value == 1


def test_models_that_read_other_tokens_are_refused(bart):
    words = [word for word in WORDS if word != "cat"]
    other = explain.wrap(network("bart", vocab_size=len(words) + 5), tokenizer(words), "no cat")
    with pytest.raises(InputError, match=r"no cat cannot be compared with tiny bart: .*same tokens"):
        explain.compare(bart, other, PAIRS, forced=True, methods=SOME, settings=SMALL)


def test_another_depth_and_other_heads_are_matched(bart):
    small = tiny(
        "bart", encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4
    )
    found = explain.compare(bart, small, SENTENCES, methods=["attention"], settings=SMALL)
    blocks = {(block.a, block.b): block for block in found.figures.attention.blocks}
    assert ("encoder.0.self", "encoder.0.self") in blocks
    assert ("decoder.1.cross", "decoder.0.cross") in blocks
    assert all(len(block.heads) == 2 for block in blocks.values())
    assert [(layer.a, layer.b) for layer in found.figures.cka][1] == (
        "encoder.1.residual",
        "encoder.0.residual",
    )


def test_layers_are_matched_by_relative_depth():
    assert matched_layers(2, 2) == [0, 1]
    assert matched_layers(6, 3) == [0, 0, 1, 1, 2, 2]
    assert matched_layers(3, 6) == [1, 3, 5]
    assert matched_layers(3, 1) == [0, 0, 0]
    assert matched(["encoder.0.self", "decoder.0.cross"], ["encoder.0.self"]) == [
        ("encoder.0.self", "encoder.0.self")
    ]


def test_divergence_is_in_bits():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert float(divergence(p, q)) == 1
    assert float(divergence(p, p)) == 0
    half = torch.tensor([0.5, 0.5])
    assert float(divergence(p, half)) == pytest.approx(jensenshannon([1, 0], [0.5, 0.5], base=2) ** 2)


def test_every_head_has_the_partner_that_makes_the_sum_least():
    """Head 0 of A is head 1 of B and the other way round; by their numbers they would be far apart."""
    heads = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    block = ("decoder.0.cross", "decoder.0.cross")
    found = attention_change([{block: [BlockRows(0.3, heads), BlockRows(0.5, heads)]}])
    assert [(h.a, h.b, h.divergence.value) for h in found.blocks[0].heads] == [(0, 1, 0.1), (1, 0, 0.2)]
    assert found.per_head.value == pytest.approx(0.15)
    assert found.divergence.value == pytest.approx(0.4)


def test_only_answers_that_both_models_bear_out_are_scored(bart):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    one, two = frozenset({("source", 0)}), frozenset({("source", 1)})
    a = Case(generation, (RowGold((one,)), RowGold((one,)), None, RowGold((one, two))))
    b = Case(generation, (RowGold((one,)), RowGold((two,)), RowGold((one,)), RowGold((two, one))))
    (case,) = shared_gold([a], [b])
    assert [None if row is None else row.groups for row in case.rows] == [(one,), None, None, (one, two)]


# ---- the alarm -------------------------------------------------------------------------------------------


def pair(jaccard: float, *, accuracy: float = 1.0, change: float = 0.0) -> Figures:
    found = figures({"occlusion": jaccard, "attention": 0.95})
    outputs = replace(
        found.outputs,
        exact_match_a=around(accuracy),
        exact_match_b=around(accuracy + change),
        exact_match_change=around(change),
    )
    return replace(found, outputs=outputs)


FLOOR = [pair(0.6), pair(0.55)]


@pytest.mark.parametrize(
    ("mine", "floor", "alarm", "says"),
    [
        (pair(0.3), FLOOR, True, "accuracy is unchanged (100.0 → 100.0%); explanations moved more"),
        (pair(0.3, change=-0.01), FLOOR, True, "1 of 2 methods (occlusion)"),
        (pair(0.7), FLOOR, False, "explanations moved no more than retraining moves them"),
        # Overlaps with the lowest pair, though not with the other.
        (pair(0.54), FLOOR, False, "explanations moved no more"),
        (pair(0.3, accuracy=0.9, change=-0.2), FLOOR, False, "accuracy shows the change itself"),
        (pair(0.3, accuracy=0.9, change=0.02), FLOOR, False, "accuracy is changed (90.0 → 92.0%)"),
        (pair(0.3), [], None, "nothing can be concluded"),
    ],
)
def test_the_alarm(mine, floor, alarm, says):
    found = alarm_of(mine, floor)
    assert isinstance(found, Alarm)
    assert found.alarm is alarm
    assert says in found.reason


def test_the_alarm_of_every_method():
    found = alarm_of(pair(0.3), FLOOR).methods
    assert (found["occlusion"].alarm, found["occlusion"].below_floor) == (True, True)
    assert (found["attention"].alarm, found["attention"].below_floor) == (False, False)
    assert "the least of 2 pairs" in found["occlusion"].reason
    changed = alarm_of(pair(0.3, change=-0.2), FLOOR).methods["occlusion"]
    assert (changed.alarm, changed.below_floor) == (False, True)


def test_without_right_outputs_agreement_stands_for_accuracy():
    found = pair(0.3)
    unknown = replace(found.outputs, exact_match_a=NONE, exact_match_b=NONE, exact_match_change=NONE)
    same = replace(found, outputs=replace(unknown, agreement=around(0.99)))
    assert alarm_of(same, FLOOR).alarm is True
    # As in free translation: two outputs may differ much and both be exactly right never.
    rarely = replace(pair(0.3, accuracy=0.02).outputs, agreement=around(0.4))
    assert alarm_of(replace(found, outputs=rarely), FLOOR).accuracy_unchanged is False
    other = replace(found, outputs=replace(unknown, agreement=around(0.98)))
    assert alarm_of(other, FLOOR).alarm is False
    assert "98.0% of the outputs are the same" in alarm_of(other, FLOOR).reason


def test_a_method_without_figures_has_no_answer():
    nothing = replace(drift(0.5), topk_jaccard=NONE)
    mine = replace(pair(0.3), drift={"occlusion": nothing})
    found = alarm_of(mine, FLOOR)
    assert found.methods["occlusion"].alarm is None
    assert found.alarm is None


def test_a_made_up_comparison_reads_back(tmp_path):
    found = comparison()
    assert isinstance(found, Comparison)
    again = load_comparison(found.save(tmp_path / "c.json"))
    assert dump_json(again.to_dict()) == dump_json(found.to_dict())
    assert again.floor is not None
    assert again.figures == found.figures
    assert math.isnan(Estimate.from_dict({"value": None, "low": None, "high": None, "n": 0}).value)


# ---- what is refused, and stopping -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        ("translat", {}, FileError, "translat"),
        (SENTENCES, {"methods": ["oclusion"]}, UnknownNameError, "occlusion"),
        (SENTENCES, {"forced": True}, InputError, "one for every source"),
        ([], {}, InputError, "no rows"),
        (SENTENCES, {"options": {"occlusion": {"nonsense": 1}}}, UnknownNameError, "nonsense"),
    ],
)
def test_what_cannot_be_compared(bart, other, data, options, error, says):
    with pytest.raises(error, match=says):
        explain.compare(bart, other, data, settings=SMALL, **options)


@pytest.mark.parametrize(
    "wrong", [{"examples": 0}, {"outputs": 0}, {"k": 0}, {"seed": -1}, {"accuracy_margin": 1.5}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ComparisonSettings(**wrong)


def test_a_floor_of_the_same_model_is_no_floor(bart, other):
    for same in (bart, other):
        with pytest.raises(InputError, match="other seeds"):
            explain.compare(bart, other, SENTENCES, floor=[same], settings=SMALL)


def test_a_method_that_cannot_explain_is_named_with_its_reason(bart, other, monkeypatch):
    from explain.attribution import REGISTRY
    from explain.errors import ModelError

    def refuse(work, settings):
        raise ModelError("not on this model")

    monkeypatch.setitem(REGISTRY.rows, "occlusion", replace(REGISTRY.get("occlusion"), run=refuse))
    found = explain.compare(bart, other, SENTENCES[:1], methods=SOME, settings=SMALL)
    assert found.problems == {"occlusion": "not on this model"}
    assert set(found.figures.drift) == {"attention"}


def test_it_stops_when_asked_and_tells_how_far_it_is(bart, other):
    steps: list[tuple[int, int]] = []
    explain.compare(
        bart,
        other,
        SENTENCES[:1],
        methods=["attention"],
        settings=SMALL,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(i, 9) for i in range(1, 10)]
    with pytest.raises(Cancelled):
        explain.compare(bart, other, SENTENCES, settings=SMALL, should_stop=lambda: True)
