"""`explain.evaluate`: what it measures, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import explain
from explain.attribution import REGISTRY, Cancelled
from explain.errors import FileError, InputError, UnknownNameError
from explain.evaluation import (
    Alignment,
    CardPolicy,
    EvaluationSettings,
    FaithfulnessSettings,
    TrustCard,
    kept_evaluation,
    load_evaluation,
)
from explain.evaluation.cards import card_of, ranking
from explain.files import dump_json
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import tiny

METHODS = ["occlusion", "attention", "input_x_gradient", "integrated_gradients"]
SMALL = EvaluationSettings(
    examples=3,
    faithfulness_examples=2,
    randomisation_examples=2,
    stability_examples=1,
    faithfulness=FaithfulnessSettings(tokens=2, orders=2, subsets=4, bounded=2),
)


@pytest.fixture(scope="module")
def found(bart):
    return explain.evaluate(bart, SENTENCES, methods=METHODS, others=[tiny("bart", seed=1)], settings=SMALL)


def test_every_method_has_its_evidence_and_the_control_is_there(found):
    assert set(found.methods) == {*METHODS, "random"}
    assert set(found.ranking) == set(METHODS)
    for name, item in found.methods.items():
        assert item.gold is None  # nobody knows the right answers of these sentences
        assert item.faithfulness is not None
        assert item.faithfulness.comprehensiveness.n > 0
        assert item.randomisation is not None
        assert item.stability is not None
        assert item.sensitivity is not None
        assert item.completeness is not None
        assert item.completeness.claimed == REGISTRY.get(name).completeness
        assert item.card.verdict == ("control" if name == "random" else item.card.verdict)
    assert found.cards["random"].verdict == "control"
    assert math.isnan(found.task.exact_match)
    assert found.task.verification is None


def test_it_reads_back_what_it_wrote(found, tmp_path):
    path = found.save(tmp_path / "evaluation.json")
    data = json.loads(path.read_text())
    assert data["schema"] == "explain/evaluation@1"
    assert data["model_digest"] == found.model_digest
    assert data["data_digest"] == found.data_digest
    assert set(data["methods"]["occlusion"]) >= {
        "gold",
        "faithfulness",
        "completeness",
        "randomisation",
        "stability",
    }
    again = load_evaluation(tmp_path)
    assert dump_json(again.to_dict()) == dump_json(found.to_dict())
    assert again.cards == found.cards


def test_a_kept_evaluation_is_of_this_very_model(found, tmp_path):
    assert kept_evaluation(tmp_path) is None
    found.save(tmp_path / "evaluation.json")
    assert kept_evaluation(tmp_path, found.model_digest) is not None
    assert kept_evaluation(tmp_path, "sha256:other") is None
    (tmp_path / "evaluation.json").write_text('{"schema": "explain/evaluation@1"}')
    with pytest.raises(FileError, match="broken"):
        kept_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"schema": "explain/run@1"}')
    with pytest.raises(FileError):
        load_evaluation(tmp_path)


def test_the_model_is_left_as_it_was(bart):
    before = bart.digest
    explain.evaluate(bart, SENTENCES[:1], methods=["saliency"], settings=SMALL)
    assert bart.digest == before
    assert not bart.intervened


def test_the_same_seed_gives_the_same_evaluation(bart):
    one, two = (
        explain.evaluate(bart, SENTENCES[:2], methods=["occlusion"], settings=SMALL).to_dict() for _ in "ab"
    )
    assert dump_json(one) == dump_json(two)


def test_right_outputs_tell_how_right_the_model_is(bart):
    pairs = list(zip(SENTENCES, OUTPUTS, strict=True))
    found = explain.evaluate(bart, pairs, methods=[], settings=SMALL, generate={"max_new_tokens": 8})
    assert found.task.name == "data"
    assert 0 <= found.task.exact_match <= 1
    assert 0 <= found.task.token_accuracy <= 1


def test_gold_alignments_are_scored_by_both_conventions(bart):
    pairs = list(zip(SENTENCES, OUTPUTS, strict=True))
    gold = [Alignment(frozenset({(0, 0)}), frozenset({(0, 0), (1, 1)}))] * 3
    found = explain.evaluate(bart, pairs, methods=["attention"], alignments=gold, settings=SMALL)
    scores = found.methods["attention"].gold
    assert scores is not None
    assert set(scores.alignments) == {"output", "input"}
    assert scores.alignments["output"].links > 0
    assert scores.scores.precision_at_1.n == 3  # one aligned word each, in whole tokens
    with pytest.raises(InputError, match="2 alignments for 3 pairs"):
        explain.evaluate(bart, pairs, methods=[], alignments=gold[:2], settings=SMALL)
    with pytest.raises(InputError, match="an output for every source"):
        explain.evaluate(bart, SENTENCES, methods=[], alignments=gold, settings=SMALL)


def test_a_method_that_cannot_explain_the_model_says_so_and_stops_no_other(bart, monkeypatch):
    def broken(work, settings):
        raise InputError("not on this model")

    monkeypatch.setitem(REGISTRY.rows, "saliency", replace(REGISTRY.get("saliency"), run=broken))
    found = explain.evaluate(bart, SENTENCES[:1], methods=["saliency", "attention"], settings=SMALL)
    assert found.methods["saliency"].problem == "not on this model"
    assert found.cards["saliency"].verdict == "unavailable"
    assert found.ranking[-1] == "saliency"
    assert found.methods["attention"].faithfulness is not None
    assert dump_json(
        type(found)
        .from_dict(json.loads(dump_json({**found.to_dict(), "model_digest": "", "data_digest": ""})))
        .to_dict()
    ) == dump_json(found.to_dict())


def test_progress_reaches_its_end_and_stopping_stops(bart):
    seen = []
    explain.evaluate(
        bart, SENTENCES[:1], methods=["attention"], settings=SMALL, progress=lambda *step: seen.append(step)
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    with pytest.raises(Cancelled):
        explain.evaluate(
            bart, SENTENCES[:1], methods=["attention"], settings=SMALL, should_stop=lambda: len(seen) > 0
        )


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, InputError, "nothing to evaluate"),
        ([3], {}, InputError, "no example"),
        ("no-such-task-or-file.tsv", {}, FileError, "no-such-task"),
        (SENTENCES, {"methods": ["salience"]}, UnknownNameError, "saliency"),
        (
            SENTENCES,
            {"options": {"occlusion": {"windo": 2}}, "methods": ["occlusion"]},
            UnknownNameError,
            "windo",
        ),
    ],
)
def test_wrong_input_is_refused_before_any_work(bart, data, options, error, message):
    with pytest.raises(error, match=message):
        explain.evaluate(bart, data, **{"methods": ["attention"], "settings": SMALL, **options})


def test_settings_are_checked():
    with pytest.raises(InputError, match="examples is 0"):
        EvaluationSettings(examples=0)
    with pytest.raises(InputError, match="share from 0 to 1"):
        CardPolicy(precision=2)


# ---- trust cards -----------------------------------------------------------------------------------------


def test_a_method_fails_where_a_check_fails(found):
    item = found.methods["occlusion"]
    beaten = replace(item.faithfulness.advantage, low=-0.1)
    failing = replace(item, faithfulness=replace(item.faithfulness, advantage=beaten))
    card = card_of(failing, CardPolicy())
    assert card.verdict == "fails"
    assert "random order" in card.reason
    assert not card.usable


def test_a_method_that_shuffled_weights_leave_unmoved_fails(found):
    item = sound(found.methods["occlusion"])
    assert card_of(item, CardPolicy()).verdict == "passes"
    stuck = replace(item, randomisation=replace(item.randomisation, passed=False, reason="It stays."))
    assert card_of(stuck, CardPolicy()).verdict == "fails"
    assert "It stays." in card_of(stuck, CardPolicy()).reason
    unknown = replace(item, randomisation=replace(item.randomisation, passed=None, reason="Nobody knows."))
    assert card_of(unknown, CardPolicy()).verdict == "doubtful"


def test_a_method_that_does_not_add_up_fails_only_if_it_claims_to(found):
    item = sound(found.methods["occlusion"])
    off = replace(item.completeness, claimed=True, tokens=10, within=0.5, median=0.2)
    assert card_of(replace(item, completeness=off), CardPolicy()).verdict == "fails"
    assert card_of(replace(item, completeness=replace(off, claimed=False)), CardPolicy()).verdict == "passes"
    assert card_of(replace(item, completeness=off), CardPolicy(within=0.4)).verdict == "passes"


def test_a_method_is_doubtful_where_another_training_points_elsewhere(found):
    item = sound(found.methods["occlusion"])
    apart = replace(item.stability.top1, value=0.2)
    unstable = replace(item, stability=replace(item.stability, top1=apart))
    card = card_of(unstable, CardPolicy())
    assert card.verdict == "doubtful"
    assert card.usable
    assert TrustCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_the_ranking_puts_verdicts_first_and_leaves_the_control_out(found):
    good, bad = sound(found.methods["occlusion"]), found.methods["attention"]
    items = [
        replace(bad, card=replace(bad.card, verdict="fails")),
        replace(good, card=replace(good.card, verdict="passes")),
        found.methods["random"],
    ]
    assert ranking(items) == ["occlusion", "attention"]


def sound(item):
    """The same findings with every check passed."""
    better = replace(item.faithfulness.advantage, value=0.5, low=0.4, high=0.6)
    stable = replace(item.stability, top1=replace(item.stability.top1, value=0.9))
    return replace(
        item,
        faithfulness=replace(item.faithfulness, advantage=better, sufficiency_advantage=better),
        randomisation=replace(item.randomisation, passed=True, reason="It goes."),
        stability=stable,
    )
