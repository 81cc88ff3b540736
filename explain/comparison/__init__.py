"""The comparison room: two models on the same forced outputs, against what retraining alone changes."""

from explain.comparison.alarm import Alarm, MethodAlarm
from explain.comparison.figures import (
    AttentionChange,
    BlockDivergence,
    Drift,
    Figures,
    HeadPair,
    LayerSimilarity,
    OutputChange,
    ShareChange,
)
from explain.comparison.result import (
    FILE,
    Comparison,
    DataFacts,
    DriftExample,
    Floor,
    FloorPair,
    ModelFacts,
    load_comparison,
)
from explain.comparison.run import METHODS, ComparisonSettings, compare

__all__ = [
    "FILE",
    "METHODS",
    "Alarm",
    "AttentionChange",
    "BlockDivergence",
    "Comparison",
    "ComparisonSettings",
    "DataFacts",
    "Drift",
    "DriftExample",
    "Figures",
    "Floor",
    "FloorPair",
    "HeadPair",
    "LayerSimilarity",
    "MethodAlarm",
    "ModelFacts",
    "OutputChange",
    "ShareChange",
    "compare",
    "load_comparison",
]
