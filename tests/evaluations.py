"""A made-up evaluation: every verdict, figures that are missing, and one method that cannot be used."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from explain.evaluation import (
    AlignmentScores,
    Check,
    Completeness,
    Estimate,
    Evaluation,
    Faithfulness,
    Gold,
    GoldScores,
    MethodEvaluation,
    TaskFacts,
    TrustCard,
    Verification,
)
from explain.evaluation.randomisation import Randomisation, StageScores
from explain.evaluation.stability import Stability

NAN = math.nan
NONE = Estimate(NAN, NAN, NAN, 0)
DIGEST = "sha256:" + "0" * 64
STAGES = ("decoder.1", "decoder.0", "embeddings")


def around(value: float, n: int = 180) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, n)


def gold_scores(right: float) -> GoldScores:
    return GoldScores(around(right), around(right - 0.05), around(right - 0.01), around(0.5), NONE)


def gold(right: float) -> Gold:
    subsets = {name: gold_scores(right) for name in ("multi_token", "source", "whole_prefix")}
    subsets["contrastive"] = gold_scores(right - 0.1)
    links = AlignmentScores(around(0.28, 24), around(0.7, 24), around(0.75, 24), 312, "output")
    return Gold(gold_scores(right), subsets, around(0.2, 24), around(0.21), {"output": links, "input": links})


def faithful(advantage: float) -> Faithfulness:
    share = 0.25 + advantage
    return Faithfulness(
        comprehensiveness=around(share),
        sufficiency=around(0.4),
        naopc_comprehensiveness=around(0.9, 16),
        naopc_sufficiency=NONE,
        deletion=around(0.2),
        insertion=around(0.8),
        infidelity=around(0.3),
        advantage=around(advantage),
        sufficiency_advantage=around(advantage),
        fractions=(0.0, 0.1, 0.2, 0.5, 1.0),
        deletion_curve=(0.98, 0.4, 0.3, 0.2, 0.1),
        insertion_curve=(0.1, 0.5, 0.7, 0.9, 0.98),
    )


def shuffled(left: float, passed: bool | None) -> Randomisation:
    stages = tuple(
        StageScores(name, around(top), around(0.3))
        for name, top in zip(STAGES, (0.6, 0.3, left), strict=True)
    )
    says = "the maps come from the weights" if passed else "part of the maps does not come from the weights"
    return Randomisation(stages, around(0.07), around(left - 0.07), passed, says)


def method(name: str, verdict: Any, right: float, **changes: Any) -> MethodEvaluation:
    failed = verdict == "fails"
    checks = (
        Check("known answers", True, f"Its strongest influence is right for {right:.0%} (chance 21%)."),
        Check("faithfulness", True, "Hiding what it ranks first costs more: +0.40 of probability."),
        Check("shuffled weights", not failed, "part of the maps does not come from the weights"),
    )
    found = MethodEvaluation(
        name=name,
        config={"steps": 8, "tolerance": 0.01},
        gold=gold(right),
        faithfulness=faithful(0.4),
        completeness=Completeness(False, 0.01, 0, NAN, NAN),
        randomisation=shuffled(0.35 if failed else 0.06, not failed),
        sensitivity=NONE,
        stability=Stability(around(0.8), around(0.6), around(0.7), 2),
        card=TrustCard(name, verdict, f"{name} is {verdict} for a reason", checks),
    )
    return replace(found, **changes)


def evaluation(**changes: Any) -> Evaluation:
    """Attention and ALTI+ pass, occlusion is doubtful, integrated gradients fail, LIME is not available."""
    complete = Completeness(True, 0.01, 238, 0.0028, 0.99)
    nothing = dict.fromkeys(
        ("gold", "faithfulness", "completeness", "randomisation", "sensitivity", "stability")
    )
    lime = TrustCard("lime", "unavailable", "this model has no token to hide text by", ())
    found = [
        method("attention", "passes", 0.97),
        method("alti", "passes", 0.95),
        method("occlusion", "doubtful", 0.7),
        method("integrated_gradients", "fails", 0.88, completeness=complete),
        method("lime", "unavailable", 0.0, **nothing, card=lime, problem=lime.reason),
        method("random", "control", 0.2),
    ]
    base = Evaluation(
        task=TaskFacts("translate", 24, 1.0, 0.995, Verification(24, 24, 361, 286, 281, 399), 178),
        methods={item.name: item for item in found},
        control=replace(
            faithful(0.0),
            advantage=NONE,
            deletion_curve=(0.98, 0.9, 0.7, 0.4, 0.1),
            insertion_curve=(0.1, 0.1, 0.2, 0.4, 0.98),
        ),
        ranking=("attention", "alti", "occlusion", "integrated_gradients", "lime"),
        settings={
            "examples": 24,
            "faithfulness_examples": 16,
            "randomisation_examples": 6,
            "stability_examples": 6,
            "seed": 0,
            "faithfulness": {"by": "attention", "bins": (0.1, 0.2, 0.5)},
            "policy": {"precision": 0.9, "within": 0.9, "stability": 0.5},
        },
        model_digest=DIGEST,
        data_digest="sha256:" + "1" * 64,
    )
    return replace(base, **changes)


def without_gold(found: Evaluation) -> Evaluation:
    methods = {name: replace(item, gold=None) for name, item in found.methods.items()}
    task = replace(found.task, verification=None, name="letters.tsv", exact_match=NAN, token_accuracy=NAN)
    return replace(found, methods=methods, task=task)


def only(found: Evaluation, *names: str) -> Evaluation:
    """The evaluation of these methods alone, in this order."""
    return replace(found, methods={name: found.methods[name] for name in names}, ranking=names)
