"""Maps that take long: what they will cost, a button that starts them, and one that stops them."""

from __future__ import annotations

from dataclasses import fields

import streamlit as st

from dashboard import cache
from dashboard.catalogue import Choice
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views.new_evaluation import duration
from explain.attribution import Method
from explain.results import Generation

PATIENCE = 8.0
"""Seconds that a map may take before the reader is asked."""
# Floating-point operations in a second that a processor does for a model, and for what a pass costs besides.
_SPEED = 2e10
_PASS = 2e-3
_STARTED = "started_maps"
# Settings that say how often the model is asked.
_ASKS = ("steps", "samples")
_DOUBLED = 3  # steps are doubled until the scores add up
_DRAWN = 32


def to_wait(choice: Choice, example: Example, generation: Generation, method: Method) -> bool:
    """The map may be computed now; if it takes long, only once the reader has said so."""
    cost = seconds(
        method,
        int(cache.facts(choice)["parameters"]),
        len(generation.source_tokens),
        len(generation.target_tokens),
    )
    if cost <= PATIENCE:
        return True
    key = (choice.name, choice.stamp, example.id, method.name)
    started = st.session_state.setdefault(_STARTED, set())
    box = st.container(horizontal=True, vertical_alignment="center")
    if key in started:
        if not box.button("Stop", icon=":material/stop:", key=f"stop_{method.name}"):
            return True
        started.discard(key)
    label = f"Compute {plain(method.label)} (about {duration(cost)})"
    if box.button(label, icon=":material/play_arrow:", key=f"start_{method.name}"):
        started.add(key)
        st.rerun()
    box.caption(
        plain("It is computed once for all tokens of this output, and can be stopped."), width="content"
    )
    return False


def seconds(method: Method, parameters: int, source: int, target: int) -> float:
    """Very roughly how long a map of every token takes on a processor.

    Args:
        method: the method.
        parameters: of the model.
        source: tokens.
        target: tokens.
    """
    settings = method.settings()
    asks = [getattr(settings, each.name) for each in fields(method.settings) if each.name in _ASKS]
    often = max((int(number) for number in asks if isinstance(number, int)), default=0)
    passes = 1.0
    if method.kind == "gradient":
        passes = max(1, _DOUBLED * often) * (1 + 2.1 * target)  # a backward pass for each token
    elif method.kind == "perturbation":
        passes = max(1, min(often, _DRAWN)) * (source + target)
    return passes * (_PASS + 2.0 * parameters * (source + target) / _SPEED)
