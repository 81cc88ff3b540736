"""A job that is at work, on the pages that show it: how far it is, for how long, and what stops it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from dashboard import frame, jobs
from dashboard.labels import plain
from dashboard.views.new_evaluation import clock
from explain.runs import LIVE, Run

EVERY = 1.0
"""Seconds between two looks at a job that is at work."""


def job_panel(
    run: Run,
    *,
    key: str,
    doing: str,
    unit: str = "step",
    stopping: str = "it does so after the step it is in",
    note: str = "",
    framed: bool = True,
) -> None:
    """Show a job as it goes: to be drawn as a fragment, every `EVERY` seconds, until the job has ended.

    Args:
        run: the job's run.
        key: what the names of its widgets begin with.
        doing: what is done, as a title.
        unit: what its steps are called.
        stopping: what happens once it was asked to stop.
        note: what else there is to know while it works.
        framed: it stands by itself, in a box with a title.
    """
    manifest = run.manifest
    now = manifest["state"]
    if now not in LIVE:
        st.rerun()
    step, total = jobs.steps(run)
    with st.container(border=framed, key=f"{key}_job"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"**{plain(doing)}**" if framed else plain(doing), width="content")
            with st.container(horizontal=True, width="content"):
                if now == "paused":
                    _ask(run, key, "continue", "Continue", ":material/play_arrow:")
                _ask(run, key, "stop", "Cancel", ":material/stop:")
        text = f"{unit} {step:,} of {total:,}" if total else "opening the model …"
        st.progress(step / total if total else 0.0, text=plain(f"{text}{_since(manifest)}"))
        if run.requested() == "stop":
            st.caption(f"Asked to stop; {stopping}.")
        elif now == "paused":
            st.caption("Paused.")
        elif note:
            st.caption(plain(note))


def _ask(run: Run, key: str, what: str, label: str, icon: str) -> None:
    if st.button(label, icon=icon, key=f"{key}_{what}", disabled=run.requested() == what):
        with frame.friendly():
            run.request(what)
            st.rerun()


def _since(manifest: Mapping[str, Any]) -> str:
    try:
        started = datetime.fromisoformat(str(manifest.get("started")))
        return f" · {clock((datetime.now(UTC) - started).total_seconds())} so far"
    except (TypeError, ValueError):
        return ""
