"""Work that may take long: what it will cost, a button that starts it, its progress, one that stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from dashboard import frame
from dashboard.analyses import Key, Progress, shelf
from dashboard.labels import plain
from dashboard.views.new_evaluation import duration
from explain.errors import ExplainError

T = TypeVar("T")
PATIENCE = 8.0
"""Seconds that something may take before the reader is asked."""
_STARTED = "started_work"


def result(
    key: Key, make: Callable[[Progress], T], *, label: str, cost: float, note: str, ask: bool = False
) -> T | None:
    """What `make` gives, once the reader has said that it may take its time; None until then.

    Args:
        key: what the result is kept by; where it is there already, nothing is asked.
        make: does the work; it calls its argument with how much is done and how much there is.
        label: what the button says.
        cost: seconds that it takes, roughly.
        note: what is done, in a sentence.
        ask: ask however little it costs.
    """
    found = shelf().get(key)
    if found is not None:
        return found
    started = st.session_state.setdefault(_STARTED, set())
    name = "_".join(str(part) for part in key[:1])
    place = st.empty()
    if key not in started and (ask or cost > PATIENCE):
        with place.container(horizontal=True, vertical_alignment="center", key=f"ask_{name}"):
            pressed = st.button(label, type="primary", icon=":material/play_arrow:", key=f"start_{name}")
            st.caption(plain(f"About {duration(cost)}. {note}"), width="content")
        if not pressed:
            return None
        started.add(key)
        place.empty()
    elif key in started and st.session_state.get(f"stop_{name}"):
        started.discard(key)
        st.caption("Stopped; nothing of it was kept.")
        if st.button(label, icon=":material/play_arrow:", key=f"again_{name}"):
            started.add(key)
            st.rerun()
        return None
    with place.container(key=f"work_{name}"):
        bar = st.progress(0.0, text=plain(note))
        if cost > PATIENCE:
            st.button("Stop", icon=":material/stop:", key=f"stop_{name}")

    def tell(done: int, total: int) -> None:
        bar.progress(min(1.0, done / max(1, total)), text=plain(f"{note} {done:,} of {total:,}"))

    try:
        found = make(tell)
    except ExplainError as error:
        started.discard(key)
        place.empty()
        frame.failed(error)
        return None
    shelf().put(key, found)
    started.discard(key)
    place.empty()
    return found
