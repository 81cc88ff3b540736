"""The jobs that are at work, quietly in the sidebar of every page, while there are any."""

from __future__ import annotations

import contextlib

import streamlit as st

from dashboard import saved, state
from dashboard.catalogue import Place
from dashboard.labels import excerpt, plain
from dashboard.saved import Saved
from explain.errors import RunError
from explain.runs import Run

EVERY = 2.0
"""Seconds between two looks at the jobs."""
MOST = 3
"""Jobs that are shown; the page Runs & reports has them all."""


def show(place: Place) -> None:
    """Draw the list; nothing where nothing is at work."""
    names = _names(place)
    if names:
        st.fragment(_list, run_every=EVERY)(place, names)


def steps(run: Run) -> tuple[int, int]:
    """Steps done and all steps of a job; (0, 0) before the first."""
    for record in reversed(run.progress()):
        step, total = record.get("step"), record.get("total_steps")
        if isinstance(step, int) and isinstance(total, int) and 0 <= step <= total and total > 0:
            return step, total
    return 0, 0


def _names(place: Place) -> list[str]:
    return [item.name for item in saved.everything(place) if item.live]


def _list(place: Place, names: list[str]) -> None:
    """The jobs; when one has ended or begun, the whole page is drawn again."""
    found = [item for item in saved.everything(place) if item.live]
    if [item.name for item in found] != names:
        st.rerun()
    with st.container(key="jobs", gap="xxsmall"):
        st.caption("At work")
        for item in found[:MOST]:
            _job(item)
        if len(found) > MOST:
            st.caption(f"and {len(found) - MOST} more")


def _job(item: Saved) -> None:
    step, total = steps(item.run)
    how = f"{step / total:.0%}" if total else item.state
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", wrap=False
    ):
        if st.button(
            plain(excerpt(item.name, 24)),
            type="tertiary",
            key=f"job_{item.name}",
            help=plain(f"{item.kind_name}: {item.title}"),
        ):
            state.change(run=item.name)
            st.switch_page("routes/runs.py")
        asked = item.run.requested() == "stop"
        st.button(
            "stopping …" if asked else "Cancel",
            type="tertiary",
            disabled=asked,
            key=f"job_stop_{item.name}",
            on_click=_stop,
            args=(item.run,),
        )
    st.progress(step / total if total else 0.0, text=plain(f"{item.kind_name} · {how}"))


def _stop(run: Run) -> None:
    with contextlib.suppress(RunError):  # it has ended meanwhile
        run.request("stop")
