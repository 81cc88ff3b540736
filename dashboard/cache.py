"""What is computed once and shared by every session: models, outputs, attention, attributions, evaluations.

Keys are plain values only: a model's folder and stamp, a text's JSON, names of methods. `Seq2Seq` holds its
own lock while it runs, so sessions may share one model. A long computation asks the session whether it is
still wanted: leaving the page or asking for something else ends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
import torch
from streamlit.runtime.scriptrunner_utils.script_run_context import get_run_yield_check

import explain
from dashboard.catalogue import Choice
from dashboard.examples import Example
from explain.errors import FileError
from explain.evaluation import FILE, Evaluation, load_evaluation
from explain.model import Seq2Seq
from explain.results import Attribution, Capture, Generation

SIDES = {
    "cross": "decoder.*.cross.pattern",
    "encoder": "encoder.*.self.pattern",
    "decoder": "decoder.*.self.pattern",
}


def model(choice: Choice) -> Seq2Seq:
    """The opened model.

    Raises:
        ExplainError: it cannot be opened; says why.
    """
    return _model(str(choice.folder), choice.stamp)


def facts(choice: Choice) -> dict[str, Any]:
    """Size, shape and digest of the model (see `Seq2Seq.describe`)."""
    return _facts(str(choice.folder), choice.stamp)


def evaluation(folder: Path) -> Evaluation:
    """The evaluation kept in a folder.

    Raises:
        FileError: it is missing, broken or of another kind.
    """
    path = folder / FILE
    try:
        stat = path.stat()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    return _evaluation(str(path), stat.st_mtime_ns, stat.st_size)


def generation(choice: Choice, example: Example) -> Generation:
    """The output of an example: written, or given and scored.

    Raises:
        ExplainError: a text or control that cannot be used.
    """
    return _generation(str(choice.folder), choice.stamp, *_plain(example))


def attention(choice: Choice, example: Example, side: str) -> Capture:
    """The attention patterns of all layers on one side, in half precision, [1, head, query, key] each."""
    return _attention(str(choice.folder), choice.stamp, *_plain(example), side)


def attribution(
    choice: Choice,
    example: Example,
    method: str,
    objective: str,
    contrast: str | None,
    options: Mapping[str, Any],
) -> Attribution:
    """The attribution of an example's output.

    Raises:
        ExplainError: a method, objective, contrast or option that cannot be used.
    """
    settings = json.dumps(dict(options), sort_keys=True)
    return _attribution(
        str(choice.folder), choice.stamp, *_plain(example), method, objective, contrast, settings
    )


def _plain(example: Example) -> tuple[str, str | None, str]:
    return example.source, example.target, json.dumps(dict(example.controls), sort_keys=True)


@st.cache_resource(max_entries=3, show_spinner=False)
def _model(folder: str, stamp: str) -> Seq2Seq:
    return explain.load(folder)


@st.cache_data(max_entries=64, show_spinner=False)
def _facts(folder: str, stamp: str) -> dict[str, Any]:
    return _model(folder, stamp).describe()


@st.cache_resource(max_entries=16, show_spinner=False)
def _evaluation(path: str, changed: int, size: int) -> Evaluation:
    return load_evaluation(path)


@st.cache_resource(max_entries=256, show_spinner=False)
def _generation(folder: str, stamp: str, source: str, target: str | None, controls: str) -> Generation:
    opened, options = _model(folder, stamp), json.loads(controls)
    if target is None:
        return opened.generate(source, should_stop=_unwanted, **options)
    kept = ("source_language", "target_language", "allow_unknown")
    return opened.force(source, target, **{name: options[name] for name in kept if name in options})


@st.cache_resource(max_entries=6, show_spinner=False)
def _attention(folder: str, stamp: str, source: str, target: str | None, controls: str, side: str) -> Capture:
    written = _generation(folder, stamp, source, target, controls)
    return _model(folder, stamp).capture(written, SIDES[side], dtype=torch.float16)


@st.cache_resource(max_entries=64, show_spinner=False)
def _attribution(
    folder: str,
    stamp: str,
    source: str,
    target: str | None,
    controls: str,
    method: str,
    objective: str,
    contrast: str | None,
    options: str,
) -> Attribution:
    written = _generation(folder, stamp, source, target, controls)
    opened = _model(folder, stamp)
    return opened.attribute(
        written,
        method=method,
        target=objective,
        contrast=contrast,
        should_stop=_unwanted,
        **json.loads(options),
    )


def _unwanted() -> bool:
    """False; where the session has been told to stop or to start over, its exception ends the work here."""
    check = get_run_yield_check()
    if check is not None:
        check()
    return False
