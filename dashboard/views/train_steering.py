"""What can be done with a run: pause, continue, stop, resume, kill, and change its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard import frame, state
from dashboard.labels import plain
from explain.runs import LIVE, Run
from explain.training import jobs


def controls(run: Run, manifest: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """The buttons that its state allows, in a row."""
    now = manifest["state"]
    if now == "running":
        _button("Pause", ":material/pause:", lambda: run.request("pause"))
    if now == "paused":
        _button("Continue", ":material/play_arrow:", lambda: run.request("continue"), primary=True)
    if now in LIVE:
        asked = run.requested() == "stop"
        _button("stopping …" if asked else "Stop", ":material/stop:", lambda: run.request("stop"), off=asked)
    if now in ("stopped", "failed"):
        _button("Resume", ":material/play_arrow:", lambda: jobs.resume(run), primary=True)
    if now != "done":
        with st.popover("Steer", icon=":material/tune:", key="run_steer"):
            _rate(run, manifest, records)
            if now in LIVE:
                _kill(run)
    if manifest.get("model"):
        _open_in(run)


def _button(
    label: str, icon: str, act: Callable[[], Any], *, primary: bool = False, off: bool = False
) -> None:
    kind = "primary" if primary else "secondary"
    if st.button(label, icon=icon, key=f"run_{label}", type=kind, disabled=off):
        with frame.friendly():
            act()
            st.rerun()


def _rate(run: Run, manifest: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """Another highest learning rate, while it runs or for when it is resumed."""
    recipe = manifest.get("recipe") or {}
    steps = [one for one in records if one.get("learning_rate") is not None]
    done = int(steps[-1]["step"]) if steps else 0
    passed = [float(rate) for step, rate in recipe.get("rates") or () if step <= done]
    highest = passed[-1] if passed else recipe.get("learning_rate")
    st.markdown("**Learning rate**")
    if isinstance(highest, (int, float)) and highest > 0:
        told = f"The highest is {highest:.2e}"
        if steps:
            last = float(steps[-1]["learning_rate"])
            told += f"; the last step took {last:.2e}, {last / highest:.0%} of it"
        st.caption(f"{told}. Warm-up and decay stay as they are.")
    wanted = st.number_input(
        "Highest learning rate from the next step on",
        1e-9,
        10.0,
        value=float(highest) if isinstance(highest, (int, float)) else 1e-3,
        step=None,
        format="%.2e",
        key=f"rate_{run.name}",
    )
    if st.button("Change it", key="run_rate_set", icon=":material/check:"):
        with frame.friendly():
            run.request_rate(float(wanted))
    pending = run.requested_rate()
    if pending is not None:
        when = "the next step takes it up" if manifest["state"] in LIVE else "it holds once this is resumed"
        st.caption(f"Asked for {pending:.2e}: {when}.")


def _kill(run: Run) -> None:
    st.markdown("**End it at once**")
    st.caption(
        "For a run that does not obey. What came after its last checkpoint is done again when resumed."
    )
    if st.button("Kill", key="run_kill", icon=":material/dangerous:"):
        with frame.friendly():
            run.kill()
            st.rerun()


def _open_in(run: Run) -> None:
    for label, icon, file in (
        ("Generate", ":material/edit_note:", "routes/generate.py"),
        ("Attribution", ":material/format_ink_highlighter:", "routes/attribution.py"),
    ):
        if st.button(f"Open in {label}", icon=icon, key=f"open_{label}"):
            # A text of another task would be refused by this model's tokenizer.
            same = state.current().model == run.name
            state.change(model=run.name, step=-1, query=-1, **({} if same else {"example": ""}))
            st.switch_page(file)


def asked(run: Run, now: str) -> None:
    """A line on what it was asked for and has not done yet."""
    word = run.requested()
    if now in LIVE and word in ("stop", "pause") and now != "paused":
        st.caption(plain(f"Asked to {word}; it does so after the step it is in."))
