"""The sidebar: which model is looked at, and what it is."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import cache, jobs, state
from dashboard.catalogue import Choice, Place, choices, choose, current_place
from dashboard.components.keys import keys
from dashboard.frame import friendly
from dashboard.labels import plain
from explain.errors import ExplainError


def show() -> None:
    """Draw the sidebar; on the first visit the first model is chosen."""
    place = current_place()
    known = choices(place)
    view = state.current()
    if known and (not view.model or view.model not in known):
        if not view.model:
            view = state.change(model=next(iter(known)))
    with st.sidebar:
        if not known:
            st.caption(plain(f"No model in {place.runs} yet. The page Train makes one in about a minute."))
            jobs.show(place)
            keys(key="keys")
            return
        named = view.model if view.model in known else None
        st.selectbox(
            "Model",
            list(known),
            format_func=lambda name: _title(known[name]),
            placeholder="Choose a model",
            index=None,
            **_bound(named),
        )
        if named is not None:
            _facts(known[named])
        jobs.show(place)
        st.caption("Everything stays on this machine.")
        keys(key="keys")


def chosen(place: Place) -> Choice | None:
    """The model of the view; None, with a line that says why, when there is none to open."""
    view = state.current()
    if not view.model:
        return None
    with friendly():
        return choose(place, view.model)
    return None


def _bound(named: str | None) -> dict[str, Any]:
    arguments = state.bind(
        "model", step=-1, query=-1, layer=state.MEAN, head=state.MEAN, foil=-1, card="", data=""
    )
    st.session_state["view_model"] = named
    return arguments


def _title(choice: Choice) -> str:
    return choice.title if choice.title == choice.name else f"{choice.name} · {choice.title}"


def _facts(choice: Choice) -> None:
    try:
        facts = cache.facts(choice)
    except ExplainError:  # the page says so, where there is room for it
        return
    st.caption(
        plain(
            f"{facts['class']} · {facts['parameters']:,} parameters · {facts['encoder_layers']} encoder and "
            f"{facts['decoder_layers']} decoder layers, {facts['heads']} heads · vocabulary "
            f"{facts['vocabulary']:,} · {facts['device']}"
        )
    )
