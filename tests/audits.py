"""Audit runs made in a moment: a tiny model, a calibration by hand that flags its three strangest outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import explain
from explain.audit import Audit, Calibration
from explain.audit.maps import explain_suspects, save_maps
from explain.model import Seq2Seq
from explain.report.audit import write_audit
from explain.runs import Run
from explain.training.data import Pair

DETECTORS = ("log_prob", "log_prob_min", "unsupported_names")
TEXTS = (
    "the old cat sleeps",
    "a big dog runs",
    "the bird sees a tree",
    "a small house is near the river",
    "the red cat likes the blue bird",
    "a new dog eats",
)


def calibration(
    model: Seq2Seq, plain: Audit, settings: Mapping[str, Any], *, flagged: int = 3
) -> Calibration:
    """Clean scores by hand, so that so many of the outputs of an audit have a stranger token."""
    lowest = sorted(plain.outputs["log_prob_min"])
    bound = (lowest[flagged - 1] + lowest[min(flagged, len(lowest) - 1)]) / 2
    n = 600
    return Calibration(
        scores={
            "log_prob": tuple(-50.0 + i / 100 for i in range(n)),
            "log_prob_min": tuple(bound * (1 - i / n) for i in range(n)),
            "unsupported_names": (0.0,) * n,
        },
        lengths=(8,) * n,
        references=None,
        words=None,
        settings={"only_right": False, "seed": 1, "examples": n, **settings},
        data="clean texts",
        seen=n,
        model_digest=model.digest,
        data_digest="sha256:clean",
    )


def audited(
    runs: Path,
    name: str,
    model: Seq2Seq,
    of: Path,
    *,
    pairs: Sequence[Pair] | None = None,
    calibrated: bool = True,
    maps: int = 1,
    **controls: Any,
) -> Run:
    """An audit run that is done: of given outputs where `pairs` are given, else of the model's own.

    Args:
        runs: the runs folder.
        name: of the run.
        model: the audited model.
        of: its folder, as the run's configuration names it.
        pairs: sources with their outputs.
        calibrated: with a calibration that flags three of them.
        maps: of how many outputs maps are kept.
        **controls: of the outputs.
    """
    run = Run.create(
        runs / name,
        kind="audit",
        command=f"explain audit {of} --out {name}",
        title=f"{of.name} on texts",
        config={"model": str(of), "task": None},
    )
    data: Any = list(pairs) if pairs is not None else list(TEXTS)
    options: dict[str, Any] = {
        "policy": {"tests": {}, "slices": [{"length": [6]}], "detectors": {key: {} for key in DETECTORS}},
        "forced": pairs is not None,
        "generate": controls or {"max_new_tokens": 6},
    }
    found = explain.audit(model, data, **options)
    if calibrated:
        settings = {key: options[key] for key in ("forced", "generate")}
        found = explain.audit(
            model, data, calibration=calibration(model, found, settings), folder=run.path, **options
        )
    else:
        found = explain.audit(model, data, folder=run.path, **options)
    save_maps(run.path, explain_suspects(model, found, most=maps))
    write_audit(run.path, found, run.manifest["command"])
    run.update(state="done", result={"verdict": found.verdict, "examples": found.examples})
    return run
