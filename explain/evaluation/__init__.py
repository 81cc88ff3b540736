"""The evaluation room: are a method's maps right, and are they faithful, on this model?"""

from explain.evaluation.alignments import Alignment, AlignmentScores, alignment_scores, read_alignments
from explain.evaluation.cards import VERDICTS, CardPolicy, Check, TrustCard
from explain.evaluation.estimates import Estimate, estimate
from explain.evaluation.faithfulness import Faithfulness, FaithfulnessSettings
from explain.evaluation.gold import METRICS, GoldScores
from explain.evaluation.known import Case, Contrast, RowGold, Verification, known_cases
from explain.evaluation.result import (
    FILE,
    Completeness,
    Evaluation,
    Gold,
    MethodEvaluation,
    TaskFacts,
    kept_evaluation,
    load_evaluation,
)
from explain.evaluation.run import EvaluationSettings, evaluate

__all__ = [
    "FILE",
    "METRICS",
    "VERDICTS",
    "Alignment",
    "AlignmentScores",
    "CardPolicy",
    "Case",
    "Check",
    "Completeness",
    "Contrast",
    "Estimate",
    "Evaluation",
    "EvaluationSettings",
    "Faithfulness",
    "FaithfulnessSettings",
    "Gold",
    "GoldScores",
    "MethodEvaluation",
    "RowGold",
    "TaskFacts",
    "TrustCard",
    "Verification",
    "alignment_scores",
    "estimate",
    "evaluate",
    "kept_evaluation",
    "known_cases",
    "load_evaluation",
    "read_alignments",
]
