"""Open up sequence-to-sequence Transformers: attention, attributions, and reports that carry their evidence.

The public names load on first use, so that `import explain` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explain.attribution import attribute, methods, source_share
    from explain.audit import audit, calibrate, load_audit, load_calibration
    from explain.comparison import compare, load_comparison
    from explain.errors import ExplainError
    from explain.evaluation import evaluate, load_evaluation
    from explain.model import Seq2Seq, load, wrap
    from explain.report import report
    from explain.results import Attribution, Capture, Generation, Token, load_attribution, load_capture
    from explain.story import training_story
    from explain.training.handmade import copy_model

_ROOMS = {
    "Attribution": "explain.results",
    "Capture": "explain.results",
    "ExplainError": "explain.errors",
    "Generation": "explain.results",
    "Seq2Seq": "explain.model",
    "Token": "explain.results",
    "attribute": "explain.attribution",
    "audit": "explain.audit",
    "calibrate": "explain.audit",
    "compare": "explain.comparison",
    "copy_model": "explain.training.handmade",
    "evaluate": "explain.evaluation",
    "load": "explain.model",
    "load_attribution": "explain.results",
    "load_audit": "explain.audit",
    "load_calibration": "explain.audit",
    "load_capture": "explain.results",
    "load_comparison": "explain.comparison",
    "load_evaluation": "explain.evaluation",
    "methods": "explain.attribution",
    "report": "explain.report",
    "source_share": "explain.attribution",
    "training_story": "explain.story",
    "wrap": "explain.model",
}

__all__ = [
    "Attribution",
    "Capture",
    "ExplainError",
    "Generation",
    "Seq2Seq",
    "Token",
    "attribute",
    "audit",
    "calibrate",
    "compare",
    "copy_model",
    "evaluate",
    "load",
    "load_attribution",
    "load_audit",
    "load_calibration",
    "load_capture",
    "load_comparison",
    "load_evaluation",
    "methods",
    "report",
    "source_share",
    "training_story",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'explain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
