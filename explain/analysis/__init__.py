"""The analysis room: what the inside of a model does, by looking at it and by changing it."""

from explain.analysis.ablation import Ablation, MeanAblation, ablate, mean_ablation
from explain.analysis.alignment import WordAlignment, word_alignment
from explain.analysis.contributions import Component, Contributions, TokenScore, contributions
from explain.analysis.edits import Edit, functions_in_all, values_under
from explain.analysis.effects import Site, site_named
from explain.analysis.heads import (
    Head,
    HeadRole,
    HeadRoles,
    HeadRow,
    HeadStatistics,
    RoleRules,
    head_roles,
    head_statistics,
)
from explain.analysis.importance import (
    HeadImportance,
    HeadWeight,
    head_ablation,
    head_importance,
    rank_correlation,
)
from explain.analysis.knockout import Hidden, Knockout, knockout, knockout_sweep
from explain.analysis.lenses import Lens, Watched, decoder_lens, logit_lens
from explain.analysis.neurons import (
    Neuron,
    NeuronExample,
    NeuronSurvey,
    NeuronType,
    PointSummary,
    load_neurons,
    survey_neurons,
)
from explain.analysis.patching import (
    Disagreement,
    Patching,
    attribution_patching,
    disagreement,
    measured_disagreement,
    patch,
)
from explain.analysis.probes import Probe, ProbeReport, Share, probe
from explain.analysis.projection import Projection, project
from explain.analysis.redecode import Change, Redecoded, redecode
from explain.analysis.representations import Row, StateTable, hidden_states
from explain.analysis.similarity import Similarity, cka, similarity
from explain.analysis.survey import HeadSurvey, survey_heads

__all__ = [
    "Ablation",
    "Change",
    "Component",
    "Contributions",
    "Disagreement",
    "Edit",
    "Head",
    "HeadImportance",
    "HeadRole",
    "HeadRoles",
    "HeadRow",
    "HeadStatistics",
    "HeadSurvey",
    "HeadWeight",
    "Hidden",
    "Knockout",
    "Lens",
    "MeanAblation",
    "Neuron",
    "NeuronExample",
    "NeuronSurvey",
    "NeuronType",
    "Patching",
    "PointSummary",
    "Probe",
    "ProbeReport",
    "Projection",
    "Redecoded",
    "RoleRules",
    "Row",
    "Share",
    "Similarity",
    "Site",
    "StateTable",
    "TokenScore",
    "Watched",
    "WordAlignment",
    "ablate",
    "attribution_patching",
    "cka",
    "contributions",
    "decoder_lens",
    "disagreement",
    "functions_in_all",
    "head_ablation",
    "head_importance",
    "head_roles",
    "head_statistics",
    "hidden_states",
    "knockout",
    "knockout_sweep",
    "load_neurons",
    "logit_lens",
    "mean_ablation",
    "measured_disagreement",
    "patch",
    "probe",
    "project",
    "rank_correlation",
    "redecode",
    "similarity",
    "site_named",
    "survey_heads",
    "survey_neurons",
    "values_under",
    "word_alignment",
]
