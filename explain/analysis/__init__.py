"""The analysis room: what the inside of a model does, by looking at it and by changing it."""

from explain.analysis.ablation import Ablation, ablate
from explain.analysis.edits import Edit, values_under
from explain.analysis.effects import Site
from explain.analysis.knockout import Hidden, Knockout, knockout, knockout_sweep
from explain.analysis.patching import Disagreement, Patching, attribution_patching, disagreement, patch
from explain.analysis.redecode import Change, Redecoded, redecode

__all__ = [
    "Ablation",
    "Change",
    "Disagreement",
    "Edit",
    "Hidden",
    "Knockout",
    "Patching",
    "Redecoded",
    "Site",
    "ablate",
    "attribution_patching",
    "disagreement",
    "knockout",
    "knockout_sweep",
    "patch",
    "redecode",
    "values_under",
]
