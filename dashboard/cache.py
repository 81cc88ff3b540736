"""What is computed once and shared by every session: models, outputs, attention, attributions, evaluations.

Keys are plain values only: a model's folder and stamp, a text's JSON, names of methods. `Seq2Seq` holds its
own lock while it runs, so sessions may share one model. A long computation asks the session whether it is
still wanted: leaving the page or asking for something else ends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch
from streamlit.runtime.scriptrunner_utils.script_run_context import get_run_yield_check

import explain
from dashboard.catalogue import Choice
from dashboard.components.heads import shrunk
from dashboard.examples import Example
from dashboard.state import MAX, MEAN, ROLLOUT
from explain.analysis.attention_maps import SIDES, AttentionMaps, attention_maps, rolled_out
from explain.analysis.heads import HeadRoles, HeadStatistics, head_roles, head_statistics
from explain.errors import FileError, InputError
from explain.evaluation import FILE, Evaluation, load_evaluation
from explain.model import Seq2Seq
from explain.results import Alternative, Attribution, BeamSearch, Generation
from explain.training import tasks

TASK_TEXTS = 50
"""How many texts of a task the heads' figures are taken over."""


@dataclass(frozen=True, eq=False)
class HeadGrid:
    """The maps of all heads of one side, as the grid shows them.

    Attributes:
        maps: uint8 [map, row, column], by layer and head; 255 is `limit`.
        heads: how many heads each layer has.
        limit: the largest weight.
    """

    maps: np.ndarray
    heads: tuple[int, ...]
    limit: float


READING = ("source_language", "target_language", "allow_unknown")
"""Options that say how a text is read, and not how its output is written."""


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


def head_grid(choice: Choice, example: Example, side: str, level: str) -> HeadGrid:
    """Every head's map on one side, small."""
    return _head_grid(str(choice.folder), choice.stamp, *_plain(example), side, level)


def attention_map(
    choice: Choice, example: Example, side: str, level: str, layer: int, head: int
) -> AttentionMaps:
    """One map of a side, as `AttentionMaps` that holds nothing else; `layer` and `head` as in the view."""
    return _attention_map(str(choice.folder), choice.stamp, *_plain(example), side, level, layer, head)


def head_figures(choice: Choice, example: Example) -> tuple[HeadStatistics, HeadRoles]:
    """Figures of every head over an example's output, and the roles that follow from them."""
    return _head_figures(str(choice.folder), choice.stamp, *_plain(example))


def task_figures(choice: Choice, task: str) -> tuple[HeadStatistics, HeadRoles]:
    """The same over held-out texts of a task, whose answers say which source tokens count."""
    return _task_figures(str(choice.folder), choice.stamp, task)


def attribution(
    choice: Choice,
    example: Example,
    method: str,
    objective: str,
    contrast: str | None,
    options: Mapping[str, Any],
    *,
    foil: int = -1,
    span: tuple[int, int] | None = None,
) -> Attribution:
    """The attribution of an example's output.

    Args:
        choice: the model.
        example: the text.
        method: name in the registry.
        objective: what is explained.
        contrast: a foil, or None.
        options: the method's own settings.
        foil: the id of the token that the contrast stands for; -1 reads the contrast as a text.
        span: output tokens [start, end) that are explained as one, and nothing else with them.

    Raises:
        ExplainError: a method, objective, contrast or option that cannot be used.
    """
    settings = json.dumps(dict(options), sort_keys=True)
    return _attribution(
        str(choice.folder), choice.stamp, *_plain(example), method, objective, contrast, foil, settings, span
    )


def beam_search(choice: Choice, example: Example, beams: int) -> BeamSearch:
    """What a beam search over an example's source follows; a branch is searched on from its beginning.

    Raises:
        ExplainError: a text or control that cannot be used.
    """
    return _beam_search(str(choice.folder), choice.stamp, *_plain(example), beams)


def logits(choice: Choice, example: Example) -> torch.Tensor:
    """The logits [target, vocabulary] of every step of an example's output, from one pass over it."""
    return _logits(str(choice.folder), choice.stamp, *_plain(example))


def _plain(example: Example) -> tuple[str, str | None, str]:
    controls = dict(example.controls)
    if example.prefix:  # a branch is one more way in which an output comes about, to every cache
        controls["branch"] = {"ids": list(example.prefix), "model": example.model}
    return example.source, example.target, json.dumps(controls, sort_keys=True)


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
    prefix = _beginning(opened, options)
    if prefix:
        return opened.continue_from(source, prefix, should_stop=unwanted, **options)
    if target is None:
        return opened.generate(source, should_stop=unwanted, **options)
    return opened.force(source, target, **{name: options[name] for name in READING if name in options})


def _beginning(opened: Seq2Seq, options: dict[str, Any]) -> list[int]:
    """The ids that an output is made to begin with, taken out of the options."""
    branch = options.pop("branch", None)
    if branch is None:
        return []
    if branch["model"] != opened.digest:
        raise InputError(
            "this output was made to begin with tokens of another model; choose that model, or write the "
            "text with this one"
        )
    return list(branch["ids"])


@st.cache_resource(max_entries=32, show_spinner=False)
def _beam_search(
    folder: str, stamp: str, source: str, target: str | None, controls: str, beams: int
) -> BeamSearch:
    opened, options = _model(folder, stamp), json.loads(controls)
    prefix = _beginning(opened, options)
    draws = ("do_sample", "temperature", "top_k", "top_p", "seed")
    kept = {name: value for name, value in options.items() if name not in (*draws, "num_beams")}
    return opened.beam_search(source, prefix_ids=prefix, should_stop=unwanted, num_beams=beams, **kept)


# As wide as the vocabulary, so only the last few are kept.
@st.cache_resource(max_entries=4, show_spinner=False)
def _logits(folder: str, stamp: str, source: str, target: str | None, controls: str) -> torch.Tensor:
    written = _generation(folder, stamp, source, target, controls)
    return _model(folder, stamp).capture(written, "logits")["logits"][0]


# A side of a long text is large, so only the last few are kept, in half precision.
@st.cache_resource(max_entries=6, show_spinner=False)
def _attention(
    folder: str, stamp: str, source: str, target: str | None, controls: str, side: str
) -> AttentionMaps:
    written = _generation(folder, stamp, source, target, controls)
    captured = _model(folder, stamp).capture(written, SIDES[side], dtype=torch.float16)
    return attention_maps(captured, written, side)


@st.cache_resource(max_entries=24, show_spinner=False)
def _head_grid(
    folder: str, stamp: str, source: str, target: str | None, controls: str, side: str, level: str
) -> HeadGrid:
    found = _attention(folder, stamp, source, target, controls, side).at_level(level)
    small = [shrunk(part.float().numpy()) for part in found.patterns]
    limit = max((float(part.max()) for part in small if part.size), default=0.0)
    maps = np.concatenate([np.clip(np.rint(part / (limit or 1.0) * 255), 0, 255) for part in small])
    return HeadGrid(maps.astype(np.uint8), tuple(len(part) for part in small), limit)


@st.cache_resource(max_entries=64, show_spinner=False)
def _attention_map(
    folder: str,
    stamp: str,
    source: str,
    target: str | None,
    controls: str,
    side: str,
    level: str,
    layer: int,
    head: int,
) -> AttentionMaps:
    over = "max" if head == MAX else "mean"
    if layer == ROLLOUT:
        encoder, decoder, cross = (
            _attention(folder, stamp, source, target, controls, name)
            for name in ("encoder", "decoder", "cross")
        )
        return rolled_out(encoder, decoder, cross, side, over=over).at_level(level)
    found = _attention(folder, stamp, source, target, controls, side)
    one = found.chosen(None if layer == MEAN else layer, None if head < 0 else head, over=over)
    return replace(found, patterns=(one[None],)).at_level(level)


@st.cache_resource(max_entries=64, show_spinner=False)
def _head_figures(
    folder: str, stamp: str, source: str, target: str | None, controls: str
) -> tuple[HeadStatistics, HeadRoles]:
    written = _generation(folder, stamp, source, target, controls)
    found = head_statistics(_model(folder, stamp), written)
    return found, head_roles(found)


@st.cache_resource(max_entries=16, show_spinner=False)
def _task_figures(folder: str, stamp: str, task: str) -> tuple[HeadStatistics, HeadRoles]:
    opened = _model(folder, stamp)
    drawn = tasks.get(task).examples("held_out", TASK_TEXTS, 0)
    outputs = opened.force([each.source for each in drawn], [each.target for each in drawn])
    gold = [
        tasks.token_gold(each, own.source_tokens, own.target_tokens)
        for each, own in zip(drawn, outputs, strict=True)
    ]
    found = head_statistics(opened, outputs, gold)
    return found, head_roles(found)


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
    foil: int,
    options: str,
    span: tuple[int, int] | None,
) -> Attribution:
    written = _generation(folder, stamp, source, target, controls)
    opened = _model(folder, stamp)
    picked = Alternative(contrast, foil, float("nan"), 0) if contrast is not None and foil >= 0 else contrast
    # A phrase that is typed against a phrase of the output is lined up with it, not with the whole output.
    aligned = {"contrast_span": span} if span is not None and isinstance(picked, str) else {}
    return opened.attribute(
        written,
        method=method,
        target=objective,
        contrast=picked,
        positions=None if span is None else [span],
        should_stop=unwanted,
        **aligned,
        **json.loads(options),
    )


def unwanted() -> bool:
    """False; where the session has been told to stop or to start over, its exception ends the work here."""
    check = get_run_yield_check()
    if check is not None:
        check()
    return False
