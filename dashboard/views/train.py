"""Train: runs as they go, live; everything shown is read from the run folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import frame, state
from dashboard.catalogue import Place, current_place
from dashboard.labels import plain
from dashboard.views import new_run
from explain.report import colours, plots
from explain.report.labels import number
from explain.runs import LIVE, Run, list_runs, start_job

COLOURS: dict[str, Any] = {
    "queued": "gray",
    "running": "blue",
    "paused": "orange",
    "stopped": "gray",
    "failed": "red",
    "done": "green",
}
ICONS = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/autorenew:",
    "paused": ":material/pause:",
    "stopped": ":material/stop:",
    "failed": ":material/error:",
    "done": ":material/check:",
}
EVERY = 1.0
"""Seconds between two looks at a run that is at work."""


def page() -> None:
    """Draw the page."""
    frame.head(
        "Train a model, or train one further",
        "A run is a process of its own: close this page or end the dashboard, and it goes on.",
    )
    place = current_place()
    runs = _runs(place)
    with st.expander("New run", expanded=not runs, icon=":material/add:"):
        new_run.form(place)
    if not runs:
        frame.empty("No runs yet", f"What you start appears here, and as a folder in {place.runs}.")
        return
    live = any(run.state in LIVE for run in runs)
    st.fragment(_board, run_every=EVERY if live else None)(place, live)


def _runs(place: Place) -> list[Run]:
    return [run for run in list_runs(place.runs) if run.problem or run.manifest.get("kind") == "train"]


def _board(place: Place, live: bool) -> None:
    """The list of runs and the chosen one; drawn again every second while one is at work."""
    runs = {run.name: run for run in _runs(place)}
    if live != any(run.state in LIVE for run in runs.values()):
        st.rerun()
    left, right = st.columns([1, 3], gap="large")
    with left:
        name = _choose(runs)
    with right, frame.friendly():
        if name is not None:
            _run(place, runs[name])


def _choose(runs: dict[str, Run]) -> str | None:
    if not runs:
        return None
    names = list(runs)
    view = state.current()
    name = view.run if view.run in names else names[0]
    st.radio(
        "Runs",
        names,
        format_func=plain,
        captions=[_caption(run) for run in runs.values()],
        **state.bind("run", shown=name),
    )
    return name


def _caption(run: Run) -> str:
    if run.problem:
        return "cannot be read"
    manifest = run.manifest
    match = (manifest.get("result") or {}).get("exact_match")
    extra = f" · exact match {match:.2f}" if isinstance(match, (int, float)) else ""
    return plain(f"{manifest['state']} · {manifest.get('title') or ''}{extra}")


def _run(place: Place, run: Run) -> None:
    """One run: its state, what can be done with it, how it goes."""
    if run.problem:
        st.error(plain(run.problem))
        return
    manifest, records = run.manifest, run.progress()
    now = manifest["state"]
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            st.markdown(f"**{plain(run.name)}**", width="content")
            st.badge(now, icon=ICONS[now], color=COLOURS[now])
        with st.container(horizontal=True, width="content"):
            _controls(run, now, has_model=bool(manifest.get("model")))
    asked = run.requested()
    if now in LIVE and asked in ("stop", "pause") and now != "paused":
        st.caption(f"Asked to {asked}; it does so after the step it is in.")
    if manifest.get("error"):
        st.error(plain(str(manifest["error"])), icon=":material/error:")
    last = records[-1] if records else {}
    step, total = int(last.get("step") or 0), int(last.get("total_steps") or 0)
    if now in LIVE or now == "stopped":
        share = min(1.0, step / total) if total else 0.0
        st.progress(share, text=f"step {step:,} of {total:,}" if total else "getting ready …")
    _numbers(records, manifest)
    _curves(records)
    _samples(records)
    with st.expander("Log", key="run_log"):
        st.code("\n".join(run.log_tail(40)) or "nothing yet", language=None, wrap_lines=True)
    with st.expander("How it was started", key="run_command"):
        st.code(str(manifest.get("command") or ""), language="bash", wrap_lines=True)
        st.json({key: manifest.get(key) for key in ("created", "seed", "config", "recipe", "versions")})


def _controls(run: Run, now: str, *, has_model: bool) -> None:
    def button(label: str, icon: str, act: Callable[[], Any], *, primary: bool = False) -> None:
        if st.button(label, icon=icon, key=f"run_{label}", type="primary" if primary else "secondary"):
            with frame.friendly():
                act()
                st.rerun()

    if now == "running":
        button("Pause", ":material/pause:", lambda: run.request("pause"))
    if now == "paused":
        button("Continue", ":material/play_arrow:", lambda: run.request("continue"), primary=True)
    if now in LIVE:
        button("Stop", ":material/stop:", lambda: run.request("stop"))
    if now in ("stopped", "failed"):
        button("Resume", ":material/play_arrow:", lambda: _resume(run))
    if has_model:
        _open_in(run)


def _resume(run: Run) -> None:
    start_job(["train", "--out", str(run.path), "--resume"], run.path, kind="train")


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


def _numbers(records: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """The newest of each number, with its unit."""
    if not records:
        return
    result = manifest.get("result") or {}
    steps = [record for record in records if record.get("kind") == "step"]
    judged = [record for record in records if record.get("exact_match") is not None]
    judged_last = result or (judged[-1] if judged else {})
    last = steps[-1] if steps else {}
    shown = (
        ("Training loss", last.get("loss"), 3, "nats per token; 0 is perfect"),
        ("Validation loss", judged_last.get("loss"), 3, "nats per token, on texts held out; 0 is perfect"),
        (
            "Exact match",
            judged_last.get("exact_match"),
            3,
            "share of held-out outputs that are right; 1 is all",
        ),
        ("Learning rate", last.get("learning_rate"), None, "of the last step"),
        ("Speed", last.get("tokens_per_second"), 0, "tokens per second"),
    )
    row = st.container(horizontal=True, gap="medium")
    for label, value, decimals, help in shown:
        text = "–"
        if isinstance(value, (int, float)):
            text = f"{value:.1e}" if decimals is None else number(float(value), decimals)
        row.metric(label, text, help=help, width="content")


def _curves(records: list[dict[str, Any]]) -> None:
    if not any(record.get("loss") is not None for record in records):
        return
    theme = frame.theme()
    frame.figure(
        plots.training_curve(records, theme=theme),
        "Lower is better. A validation loss that rises while the training loss falls means that the model "
        "learns its texts by heart.",
        key="curve",
        alt="Lines: training and validation loss by step",
    )
    rates = [(r["step"], r["learning_rate"]) for r in records if r.get("learning_rate") is not None]
    with st.expander("Learning rate", key="run_rate"):
        frame.figure(
            rate_curve(rates, theme),
            "How large the optimiser's steps were: they grow while it warms up, then shrink.",
            key="rate",
            alt="Line: learning rate by step",
        )


def rate_curve(rates: list[tuple[int, float]], theme: colours.Theme) -> go.Figure:
    """The learning rate by step, from 0."""
    line = go.Scatter(
        x=[step for step, _ in rates],
        y=[rate for _, rate in rates],
        mode="lines",
        line={"color": colours.ACCENT[theme], "width": 2},
        hovertemplate="step %{x}<br>learning rate %{y:.2e}<extra></extra>",
    )
    drawn = go.Figure(line)
    drawn.update_layout(
        template="plotly_dark" if theme == "dark" else "plotly_white",
        paper_bgcolor=colours.PAGE[theme],
        plot_bgcolor=colours.PAGE[theme],
        font={"color": colours.INK[theme]},
        height=220,
        margin={"l": 70, "r": 30, "t": 20, "b": 50},
    )
    drawn.update_xaxes(title_text="training step")
    drawn.update_yaxes(title_text="learning rate", rangemode="tozero", tickformat=".1e")
    return drawn


def _samples(records: list[dict[str, Any]]) -> None:
    """What the model wrote the last time that it was tried on texts held out."""
    tried = [record for record in records if record.get("samples")]
    if not tried:
        return
    rows = tried[-1]["samples"]
    frame.section("What it writes now")
    table = pd.DataFrame(
        [
            {
                "": "✓" if row.get("output") == row.get("target") else "",
                "output": row.get("output", ""),
                "wanted": row.get("target", ""),
                "source": row.get("source", ""),
            }
            for row in rows
        ]
    )
    st.dataframe(table, hide_index=True, column_config={"": st.column_config.Column(width=30)})
    st.caption(
        f"Texts held out from training, tried at step {int(tried[-1].get('step', 0)):,}; ✓ is exactly right."
    )
