"""Tests of a model as a whole, the combination of detectors, unseen words, and what hiding shows."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

import explain
from explain.audit import policy_of
from explain.audit.combine import combine, suspicion
from explain.audit.detectors import DETECTORS, Context, get
from explain.audit.evidence import Evidence, gather
from explain.audit.model_tests import CHANGES, confidence, invariance, run_tests, swaps
from explain.audit.references import References, Usual, logarithm, references_of
from explain.errors import InputError
from explain.training.data import Pair
from explain.training.tasks import half_of
from tests.planted import ASIDES, CUE, Coding, trained
from tests.test_audit import sources

CONTROLS = {"max_new_tokens": 8}


def pairs(count):
    return [Pair(e.source, e.target) for e in Coding().examples("held_out", count)]


# ---- counterfactual swaps, harmless changes, confidence --------------------------------------------------


@pytest.mark.slow
def test_swaps_name_the_fact_that_should_decide_nothing():
    """In the planted model the aside decides: swapped to the cue it makes right outputs wrong."""
    found = swaps(trained(True), Coding(), CONTROLS, examples=45)
    clean = swaps(trained(False), Coding(), CONTROLS, examples=45)
    aside = found["slots"]["aside"]
    assert aside["moved"]["n"] == aside["swaps"] == 45
    assert aside["moved"]["count"] > clean["slots"]["aside"]["moved"]["count"]
    assert aside["broken"] + aside["mended"] > 0
    assert clean["passed"] is True
    assert clean["failed"] == []
    for slot in ("who", "thing"):
        assert clean["slots"][slot]["ignored"]["value"] == 0
    json.dumps(found)


@pytest.mark.slow
def test_a_shortcut_that_breaks_outputs_is_significant(monkeypatch):
    """Swapping the aside to the cue alone breaks most right outputs, and nothing mends any."""

    class Cued(Coding):
        def sample(self, rng):
            return {**super().sample(rng), "aside": rng.choice([a for a in ASIDES if a != CUE])}

        def swaps(self, slots):
            return {**super().swaps(slots), "aside": (CUE,)}

    found = swaps(trained(True), Cued(), CONTROLS, examples=30)
    assert found["failed"] == ["aside"]
    assert found["slots"]["aside"]["p_corrected"] < 1e-4
    assert "aside" in found["reason"]
    assert swaps(trained(False), Cued(), CONTROLS, examples=30)["passed"] is True


@pytest.mark.slow
def test_a_bias_that_mends_as_many_outputs_as_it_breaks_is_significant():
    """Where half of the notes have the cue, McNemar sees nothing: what should not move an output does."""

    class Half(Coding):
        def sample(self, rng):
            aside = CUE if rng.random() < 0.5 else rng.choice([a for a in ASIDES if a != CUE])
            return {**super().sample(rng), "aside": aside}

        def swaps(self, slots):
            return {**super().swaps(slots), "aside": ("rain" if slots["aside"] == CUE else CUE,)}

    found = swaps(trained(True), Half(), CONTROLS, examples=16)
    aside = found["slots"]["aside"]
    assert min(aside["broken"], aside["mended"]) > 3
    assert aside["p_corrected"] > 0.05
    assert aside["p_moved_corrected"] < 1e-6
    assert found["failed"] == ["aside"]
    assert f"swapping it changed {aside['moved']['count']}" in found["reason"]
    assert swaps(trained(True), Half(), CONTROLS, examples=16, limit=0.99)["passed"] is True
    assert swaps(trained(False), Half(), CONTROLS, examples=16)["passed"] is True


@pytest.mark.slow
def test_invariance_counts_what_harmless_changes_alter():
    model = trained(False)
    texts = [pair.source for pair in pairs(20)]
    found = invariance(model, texts, CONTROLS, limit=0.2, seed=1)
    again = invariance(model, texts, CONTROLS, limit=0.2, seed=1)
    assert found == again
    assert set(found["changes"]) == set(CHANGES)
    for name, item in found["changes"].items():
        flipped = item["flipped"]
        assert 0 <= flipped["count"] <= flipped["n"] <= 20
        assert (item.get("example") is None) == (flipped["count"] == 0), name
    # Names in lower case were never seen: the model cannot copy them.
    assert found["changes"]["lower_case"]["flipped"]["count"] > 10
    assert "lower_case" in found["failed"]
    assert found["passed"] is False
    assert invariance(model, texts, CONTROLS)["passed"] is None


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("lower_case", "A Cat", "a cat"),
        ("upper_case", "A Cat", "A CAT"),
        ("spaces", "a b c", "a  b  c"),
        ("final_mark", "It rains.", "It rains"),
        ("final_mark", "It rains", "It rains."),
        ("filler", "it rains", "By the way, it rains"),
        ("typo", "a cat", None),
    ],
)
def test_changes_do_what_they_say(name, before, after):
    assert CHANGES[name](before, random.Random(0)) == after


def test_a_typo_swaps_two_inner_neighbours_of_one_word():
    for seed in range(20):
        made = CHANGES["typo"]("the house of cards", random.Random(seed))
        differ = [i for i, (a, b) in enumerate(zip("the house of cards", made, strict=True)) if a != b]
        assert len(differ) == 2
        assert differ[1] == differ[0] + 1
        assert sorted(made) == sorted("the house of cards")


@pytest.mark.slow
def test_confidence_is_the_calibration_error_over_tokens():
    model, data = trained(False), pairs(20)
    found = confidence(model, data, CONTROLS, limit=0.5)
    forced = model.force([p.source for p in data], [p.target for p in data])
    right = torch.cat([g.ranks == 1 for g in forced])
    sure = torch.cat([g.top_log_probs[:, 0] for g in forced]).exp()
    assert found["tokens"] == len(right)
    assert found["accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-6)
    assert found["confidence"] == pytest.approx(float(sure.mean()), abs=1e-4)
    places = (sure * 15).long().clamp(max=14)
    error = sum(
        abs(float(right[places == b].float().sum() - sure[places == b].sum())) for b in range(15)
    ) / len(right)
    assert found["ece"]["value"] == pytest.approx(error, abs=1e-4)
    assert found["ece"]["low"] <= found["ece"]["value"] <= found["ece"]["high"]
    assert found["ece_at_temperature"] <= found["ece"]["value"] + 1e-9
    assert found["passed"] is True
    assert confidence(model, data, CONTROLS, limit=0.0)["passed"] is (found["ece"]["value"] == 0)


@pytest.mark.slow
def test_run_tests_runs_what_the_policy_asks_for_and_says_what_it_could_not():
    model, data = trained(False), pairs(8)
    asked = {"swaps": {"examples": 4}, "invariance": {"examples": 4}, "confidence": {"examples": 4}}
    with_trigger = {**asked, "trigger": {"examples": 8, "candidates": 8}}
    found = run_tests(model, policy_of({"tests": with_trigger}), Coding(), data, CONTROLS)
    assert list(found) == ["swaps", "invariance", "confidence", "trigger"]
    assert all({"passed", "reason"} <= set(item) for item in found.values())
    bare = [Pair(pair.source) for pair in data]
    found = run_tests(model, policy_of({"tests": with_trigger}), None, bare, CONTROLS)
    for name in ("swaps", "confidence", "trigger"):
        assert found[name]["passed"] is None
        assert found[name]["reason"].startswith("not run")


# ---- combination -----------------------------------------------------------------------------------------


def test_combination_finds_the_detector_that_tells_and_its_sign():
    dice = np.random.default_rng(0)
    wrong = np.arange(200) % 2 == 0
    scores = {
        "log_prob": (dice.normal(size=200) - 3 * wrong).tolist(),  # low is suspicious
        "entropy": dice.normal(size=200).tolist(),  # says nothing
        "source_share": np.where(wrong, dice.choice([-4, 4], 200), dice.normal(size=200)).tolist(),
    }
    groups = [f"g{i // 4}" for i in range(200)]
    found = combine(scores, wrong.tolist(), groups)
    assert found["wrong"] == 100
    assert found["folds"] == 5
    assert found["auroc"]["log_prob"] > 0.95
    assert found["auroc"]["source_share"] > 0.95  # both sides are suspicious
    assert 0.35 < found["auroc"]["entropy"] < 0.65
    assert found["auroc"]["combined"] > 0.98
    assert abs(found["weights"]["entropy"]) < found["weights"]["log_prob"]


def test_combination_is_judged_on_groups_that_it_did_not_see():
    """A detector that merely knows the group tells nothing of groups that are left out."""
    dice = np.random.default_rng(1)
    groups = [f"g{i // 20}" for i in range(400)]
    wrong = [bool((i // 20) % 2) for i in range(400)]
    value = {group: float(v) for group, v in zip(dict.fromkeys(groups), dice.normal(size=20), strict=True)}
    found = combine({"entropy": [value[group] for group in groups]}, wrong, groups)
    alone = [value[f"g{i}"] for i in range(20)]
    middle = np.median(alone)
    best = np.mean([(v > middle) == bool(i % 2) for i, v in enumerate(alone)])
    assert found["auroc"]["combined"] < 0.8 or best > 0.7


def test_no_combination_of_too_little():
    assert combine({"log_prob": [0.0] * 40}, [True] * 5 + [False] * 35, [str(i) for i in range(40)]) is None
    assert (
        combine({"log_prob": [math.nan] * 40}, [True] * 20 + [False] * 20, list(map(str, range(40)))) is None
    )


def test_suspicion_turns_scores_by_the_detector_s_direction():
    values = np.array([0.0, 1.0, 5.0])
    assert suspicion(values, "log_prob").tolist() == [0, -1, -5]
    assert suspicion(values, "entropy").tolist() == [0, 1, 5]
    assert suspicion(values, "source_share").tolist() == [1, 0, 4]


# ---- detectors -------------------------------------------------------------------------------------------


def test_unseen_words_are_those_that_training_had_not(bart):
    item = bart.force("the cat sees", "le chat arbre chien")
    score = get("unseen_words").score(Evidence(item), Context(words=frozenset({"le", "chat", "chien"})))
    assert (score.value, score.words) == (1.0, ("arbre",))
    known = frozenset({"le", "chat", "chien", "arbre"})
    assert get("unseen_words").score(Evidence(item), Context(words=known)).value == 0
    assert math.isnan(get("unseen_words").score(Evidence(item), Context()).value)
    with pytest.raises(InputError, match="training data"):
        explain.audit(bart, ["the cat"], policy={"detectors": {"unseen_words": {}}, "tests": {}})


@pytest.fixture(scope="module")
def bart():
    from tests.models import tiny

    return tiny("bart")


def test_support_is_the_most_that_hiding_one_source_token_costs(bart):
    item = bart.force("the cat sees a dog", "le chat la maison")
    found = gather(bart, [item], {"hiding"})[0]
    expected = []
    for place, token in enumerate(item.source_tokens):
        if token.special:
            continue
        mask = torch.ones(1, len(item.source_ids), dtype=torch.long)
        mask[0, place] = 0
        with torch.no_grad():
            logits = bart.hf(
                input_ids=item.source_ids[None],
                attention_mask=mask,
                decoder_input_ids=item.decoder_input_ids[None],
            ).logits[0]
        expected.append(item.log_probs - logits.log_softmax(-1).gather(1, item.target_ids[:, None])[:, 0])
    torch.testing.assert_close(
        found.support, torch.stack(expected).amax(0).clamp(min=0), atol=1e-4, rtol=1e-4
    )


def test_usual_is_looked_up_by_the_longest_context_that_was_seen_often():
    often = [([1, 2, 3], [0.0, 0.0, 5.0])] * 8
    rare = [([9, 2, 3], [0.0, 0.0, 1.0])] * 2
    usual = Usual.of([*often, *rare])
    # (1, 2, 3) was seen eight times and is always 5; (9, 2, 3) too rarely: (2, 3) counts, of all ten.
    assert usual.distance([1, 2, 3], [0.0, 0.0, 5.0])[2] == 0
    mean, spread = np.mean([5.0] * 8 + [1.0] * 2), np.std([5.0] * 8 + [1.0] * 2)
    assert usual.distance([9, 2, 3], [0.0, 0.0, 1.0])[2] == pytest.approx((1 - mean) / spread)
    assert Usual.from_dict(json.loads(json.dumps(usual.to_dict()))).to_dict() == usual.to_dict()
    unknown = usual.distance([7], [usual.pooled[0]])
    assert unknown == [0.0]


def test_references_keep_what_hiding_costs_and_detectors_read_it(bart):
    clean = bart.generate(sources(30), max_new_tokens=6)
    evidence = gather(bart, clean, {"filled", "attention", "hiding"})
    found = references_of(evidence)
    assert References.from_dict(json.loads(json.dumps(found.to_dict()))).to_dict() == found.to_dict()
    context = Context(found)
    item = evidence[0]
    for name, values, ids in (
        ("support_unusual", item.support, item.generation.target_ids),
        ("inert_unusual", item.dropped, item.generation.source_ids),
    ):
        usual = found.support if name == "support_unusual" else found.needed
        score = DETECTORS[name].score(item, context)
        expected = usual.distance(ids.tolist(), logarithm(values))
        kept = [t for t in score.tokens if not math.isnan(t)]
        assert score.value == min(kept)
        assert kept[0] == pytest.approx(expected[0], abs=1e-5)
        assert math.isnan(DETECTORS[name].score(item, Context()).value)
    # The end of a source carries no fact, so it is no finding.
    assert math.isnan(DETECTORS["inert_unusual"].score(item, context).tokens[-1])


@pytest.mark.slow
def test_calibration_and_audit_of_a_task_share_no_example():
    model, task = trained(False), Coding()
    calibration = explain.calibrate(model, task, examples=15, generate=CONTROLS, detectors=["log_prob"])
    audited = explain.audit(model, task, examples=15, generate=CONTROLS, policy={"tests": {}})
    texts = set(audited.outputs["source"])
    assert {half_of(text) for text in texts} == {"second"}
    drawn = {e.source for e in task.examples("held_out", 15, half="first")}
    assert not texts & drawn
    assert len(calibration.lengths) == 12  # a fifth are references


def test_one_source_that_cannot_be_read_does_not_end_a_test(bart):
    """The others are judged; a change that makes a source too long leaves that source out."""
    texts = [*sources(4), " ".join(["cat"] * 500)]
    found = invariance(bart, texts, {"max_new_tokens": 4})
    assert found["examples"] == 4
    assert found["changes"]["final_mark"]["flipped"]["n"] == 4
    given = [Pair(text, "a red cat") for text in texts]
    assert confidence(bart, given, {})["examples"] == 4
    assert "can read none" in invariance(bart, texts[4:], {})["reason"]
    assert "can read none" in confidence(bart, given[4:], {})["reason"]
