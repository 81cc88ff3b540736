"""A made-up comparison: an alarm by one of two methods, with a floor of two retrained models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from explain.comparison import (
    AttentionChange,
    BlockDivergence,
    Comparison,
    DataFacts,
    Drift,
    DriftExample,
    Figures,
    Floor,
    FloorPair,
    HeadPair,
    LayerSimilarity,
    ModelFacts,
    OutputChange,
    ShareChange,
)
from explain.comparison.alarm import alarm_of
from explain.evaluation import Estimate
from tests.evaluations import NONE
from tests.test_report import explained, made

__all__ = ["NONE", "around", "comparison", "drift", "figures", "without_floor"]


def around(value: float, n: int = 120) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, n)


def drift(jaccard: float) -> Drift:
    return Drift(
        top1=around(jaccard + 0.04),
        topk_jaccard=around(jaccard),
        weighted_tau=around(jaccard + 0.1),
        chance_top1=around(0.1),
        chance_topk=around(0.2),
        p_at_1_a=around(0.97),
        p_at_1_b=around(0.91),
        p_at_1_change=around(-0.06),
    )


def figures(jaccard: Mapping[str, float], divergence: float = 0.2) -> Figures:
    heads = (HeadPair(0, 0, around(divergence / 2)), HeadPair(1, 1, around(divergence)))
    return Figures(
        outputs=OutputChange(
            agreement=around(0.97, 200),
            token_agreement=around(0.98),
            log_prob_change=around(-0.01),
            exact_match_a=Estimate(0.992, 0.98, 1.0, 200),
            exact_match_b=Estimate(0.99, 0.975, 1.0, 200),
            exact_match_change=Estimate(-0.002, -0.01, 0.005, 200),
        ),
        drift={name: drift(value) for name, value in jaccard.items()},
        attention=AttentionChange(
            around(divergence / 3),
            around(divergence),
            (
                BlockDivergence("encoder.0.self", "encoder.0.self", around(divergence / 3), heads),
                BlockDivergence(
                    "decoder.0.cross",
                    "decoder.0.cross",
                    around(divergence / 2),
                    (HeadPair(0, 1, around(divergence)), HeadPair(1, 0, around(divergence * 1.5))),
                ),
            ),
        ),
        source_share=ShareChange(around(0.5), around(0.42), around(-0.08), around(0.12)),
        cka=(
            LayerSimilarity("encoder.0.residual", "encoder.0.residual", around(0.7)),
            LayerSimilarity("decoder.0.residual", "decoder.0.residual", around(0.6)),
        ),
    )


def model(name: str, digit: str) -> ModelFacts:
    return ModelFacts(name, "sha256:" + digit * 64, "BART", 298_752, 1, 1, 2)


def comparison(**changes: Any) -> Comparison:
    """Occlusion lies below the floor, attention does not."""
    mine = figures({"occlusion": 0.41, "attention": 0.83})
    pairs = tuple(
        FloorPair(a, b, figures({"occlusion": value, "attention": 0.8}, 0.3))
        for a, b, value in (
            ("runs/original", "runs/seed-1", 0.6),
            ("runs/original", "runs/seed-2", 0.62),
            ("runs/seed-1", "runs/seed-2", 0.58),
        )
    )
    between = figures({"occlusion": 0.6, "attention": 0.8}, 0.3)
    between = replace(
        between,
        attention=replace(
            between.attention,
            blocks=tuple(replace(block, heads=()) for block in between.attention.blocks),
        ),
    )
    output = made("the small dog", "le petit chien")
    base = Comparison(
        a=model("runs/original", "0"),
        b=model("runs/pruned", "1"),
        floor_models=(model("runs/seed-1", "2"), model("runs/seed-2", "3")),
        data=DataFacts("translate", 200, 50, False, True),
        figures=mine,
        floor=Floor(between, pairs),
        alarm=alarm_of(mine, [each.figures for each in pairs]),
        problems={},
        examples=(
            DriftExample(
                7,
                0.62,
                0.4,
                "attention",
                explained(output, "attention"),
                explained(output, "attention"),
            ),
        ),
        settings={
            "outputs": 200,
            "examples": 50,
            "k": 5,
            "largest": 5,
            "accuracy_margin": 0.01,
            "seed": 0,
            "methods": ["occlusion", "attention"],
            "options": {},
            "generate": {},
        },
        data_digest="sha256:" + "9" * 64,
    )
    return replace(base, **changes)


def without_floor() -> Comparison:
    found = comparison()
    example = replace(found.examples[0], floor=math.nan)
    return replace(found, floor=None, floor_models=(), alarm=alarm_of(found.figures, []), examples=(example,))
