"""The audit room: which outputs should not be trusted, with thresholds that clean outputs set.

`explain.audit` is this package and, in the public surface, the function of the same name: the package can be
called, so that `import explain; explain.audit(model, data)` works whether or not it was imported before.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from explain.audit.calibrate import calibrate
from explain.audit.calibration import Calibration, Rule, Share, load_calibration, share, threshold
from explain.audit.detectors import DETECTORS, Detector, Score, words_of
from explain.audit.flagging import chrf
from explain.audit.policy import Policy, policy_of, read_policy
from explain.audit.result import (
    FILE,
    FINDINGS,
    OUTPUTS,
    Audit,
    Check,
    DetectorResult,
    Flag,
    Suspect,
    load_audit,
)
from explain.audit.run import audit
from explain.audit.verdict import not_judged

__all__ = [
    "DETECTORS",
    "FILE",
    "FINDINGS",
    "OUTPUTS",
    "Audit",
    "Calibration",
    "Check",
    "Detector",
    "DetectorResult",
    "Flag",
    "Policy",
    "Rule",
    "Score",
    "Share",
    "Suspect",
    "audit",
    "calibrate",
    "chrf",
    "load_audit",
    "load_calibration",
    "not_judged",
    "policy_of",
    "read_policy",
    "share",
    "threshold",
    "words_of",
]


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Audit:
        return audit(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
