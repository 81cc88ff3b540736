"""Detectors together: how well they tell wrong outputs from right ones, alone and combined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from explain.audit import detectors as room

FEWEST = 10
"""Outputs that there must be of either kind."""
_FOLDS = 5


def suspicion(scores: np.ndarray, name: str) -> np.ndarray:
    """Scores turned so that more is more suspicious; two-sided ones are distances from their median."""
    direction = room.get(name).direction
    if direction == "both":
        return np.abs(scores - np.nanmedian(scores))
    return scores if direction == "high" else -scores


def combine(
    scores: Mapping[str, Sequence[float]], wrong: Sequence[bool], groups: Sequence[str] | Sequence[int]
) -> dict[str, Any] | None:
    """Logistic regression over detectors, judged by cross-validation that never divides a group.

    Args:
        scores: by detector, one number for each output; undefined ones take the median's place.
        wrong: whether each output is wrong.
        groups: outputs of one group (the same source, or template) are in one fold together.

    Returns:
        `auroc` of every detector and of `combined`, and the `weights` of standardised scores; None where
        there are fewer than ten outputs or two groups of either kind.
    """
    labels = np.asarray(wrong, dtype=bool)
    names = [name for name, values in scores.items() if np.isfinite(np.asarray(values)).any()]
    kinds = [len({group for group, bad in zip(groups, wrong, strict=True) if bad == kind}) for kind in (0, 1)]
    if min(labels.sum(), (~labels).sum()) < FEWEST or min(kinds) < 2 or not names:
        return None
    table = np.stack([_filled(suspicion(np.asarray(scores[n], dtype=float), n)) for n in names], axis=1)
    folds = GroupKFold(min(_FOLDS, *kinds))
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1_000))
    chances = cross_val_predict(model, table, labels, groups=groups, cv=folds, method="predict_proba")
    held_out = np.asarray(chances)[:, 1]
    model.fit(table, labels)
    weights = model.named_steps["logisticregression"].coef_[0]
    return {
        "outputs": len(labels),
        "wrong": int(labels.sum()),
        "folds": folds.get_n_splits(),
        "auroc": {
            "combined": _auroc(labels, held_out),
            **{name: _auroc(labels, table[:, i]) for i, name in enumerate(names)},
        },
        "weights": {name: round(float(weight), 6) for name, weight in zip(names, weights, strict=True)},
    }


def _filled(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, np.median(known))


def _auroc(labels: np.ndarray, values: np.ndarray) -> float:
    found = float(roc_auc_score(labels, values))
    return found if math.isnan(found) else round(found, 6)
