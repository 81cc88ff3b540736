"""Train: runs as they go, live; everything shown is read from the run folders."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import frame, state
from dashboard.catalogue import Place, current_place
from dashboard.labels import excerpt, plain
from dashboard.views import new_run, train_curves, train_steering, train_story
from explain.report.labels import number
from explain.runs import LIVE, Run, list_runs
from explain.training.config import CHECKPOINTS

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
PARTS = {
    "curves": "Curves",
    "outputs": "Outputs",
    "story": "Explanations",
    "kept": "Files",
}
LATEST = -1
"""Stands for the newest evaluation, so that the page follows a run that is at work."""
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
        st.caption(plain(f"What you start appears here, and as a folder in {place.runs}."))
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
    left, right = st.columns([1, 3], gap="medium")
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
            train_steering.controls(run, manifest, records)
    train_steering.asked(run, now)
    if manifest.get("error"):
        st.error(plain(str(manifest["error"])), icon=":material/error:")
    if now in LIVE or now == "stopped":
        _bar(records, now)
    _numbers(records, manifest)
    offered = [part for part in PARTS if part != "story" or train_story.exists(run)]
    wanted = state.current().part
    part = st.segmented_control(
        "What to look at",
        offered,
        format_func=lambda name: PARTS[name],
        label_visibility="collapsed",
        **state.bind("part", shown=wanted if wanted in offered else offered[0]),
    )
    if part == "outputs":
        _samples(run.name, records)
    elif part == "story":
        train_story.story(run)
    elif part == "kept":
        _kept(run, manifest)
    else:
        train_curves.curves(run, records, manifest.get("recipe") or {})


def _bar(records: list[dict[str, Any]], now: str) -> None:
    """How far it is, and about how long it has to go."""
    last = records[-1] if records else {}
    step, total = int(last.get("step") or 0), int(last.get("total_steps") or 0)
    text = f"step {step:,} of {total:,}" if total else "getting ready …"
    left = seconds_left(records)
    if now == "running" and left is not None:
        text += f" · about {_duration(left)} left"
    st.progress(min(1.0, step / total) if total else 0.0, text=text)


def seconds_left(records: list[dict[str, Any]]) -> float | None:
    """Seconds that the remaining steps take at the pace of the last records; None before there is a pace."""
    timed = [
        one for one in records if isinstance(one.get("seconds"), (int, float)) and one.get("total_steps")
    ]
    if len(timed) < 2:
        return None
    first, last = timed[max(0, len(timed) - 20)], timed[-1]
    steps = last["step"] - first["step"]
    if steps <= 0 or last["seconds"] <= first["seconds"]:
        return None
    return (last["total_steps"] - last["step"]) * (last["seconds"] - first["seconds"]) / steps


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _numbers(records: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """The newest of each number, with its unit."""
    if not records:
        return
    result = manifest.get("result") or {}
    steps = [record for record in records if record.get("kind") == "step"]
    judged = [record for record in records if record.get("kind") == "evaluation"]
    judged_last = result or (judged[-1] if judged else {})
    last = steps[-1] if steps else {}
    live = manifest["state"] in LIVE
    free = judged_last.get("chrf") is not None
    shown = (
        ("Training loss", last.get("loss"), 3, "nats per token; 0 is perfect"),
        ("Validation loss", judged_last.get("loss"), 3, "nats per token, on texts held out; 0 is perfect"),
        (
            "Exact match",
            judged_last.get("exact_match"),
            3,
            "share of held-out outputs that are right; 1 is all",
        ),
        *([("chrF", judged_last.get("chrf"), 1, "likeness of held-out outputs, 0 to 100")] if free else []),
        *([("Learning rate", last.get("learning_rate"), None, "of the last step")] if live else []),
        ("Tokens a second", last.get("tokens_per_second"), 0, "source and target, padding left out"),
    )
    row = st.container(horizontal=True, gap="medium")
    for label, value, decimals, help in shown:
        text = "–"
        if isinstance(value, (int, float)):
            text = f"{value:.1e}" if decimals is None else number(float(value), decimals)
        row.metric(label, text, help=help, width="content")
    _patience(judged, manifest)


def _patience(judged: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """How near it is to being ended early, where it was told to."""
    patience = (manifest.get("recipe") or {}).get("patience") or 0
    best = max((index for index, one in enumerate(judged) if one.get("best")), default=-1)
    stale = len(judged) - 1 - best
    if not patience or not judged:
        return
    if manifest["state"] == "done" and stale >= patience:
        step = int(judged[-1]["step"])
        st.caption(f"Ended early at step {step:,}: {stale} evaluations in a row brought no better score.")
    elif stale:
        st.caption(f"{stale} of {patience} evaluations without a better score; then it ends.")


def _samples(name: str, records: list[dict[str, Any]]) -> None:
    """What the model wrote at each evaluation, on texts held out."""
    tried = {int(record["step"]): record for record in records if record.get("samples")}
    if not tried:
        st.caption("It is tried on held-out texts ten times on its way; the first time is still to come.")
        return
    step = LATEST
    if len(tried) > 1:
        step = st.select_slider(
            "Tried at step",
            [*tried, LATEST],
            value=LATEST,
            format_func=lambda step: "latest" if step == LATEST else f"{step:,}",
            key=f"run_tried_{name}",
        )
    chosen = tried.get(step) or tried[max(tried)]
    rows = []
    for row in chosen["samples"]:
        source, output, wanted = (str(row.get(name, "")) for name in ("source", "output", "target"))
        right = output == wanted
        texts = (source, output or "(nothing)", "" if right else wanted)
        rows.append(["✓" if right else "", *(plain(excerpt(text, 300)) for text in texts)])
    with st.container(key="wide_samples"):
        columns = ["right", "source", "output", "wanted"]
        st.table(pd.DataFrame(rows, columns=columns), border="horizontal", hide_index=True)
    st.caption(
        f"Texts held out from training, tried at step {int(chosen['step']):,}; ✓ is exactly right, else what "
        "was wanted stands beside the output."
    )


def _kept(run: Run, manifest: dict[str, Any]) -> None:
    """What lies in the folder to go on from or to use, the log, and how it was started."""
    best = manifest.get("best") or {}
    rows = []
    for path, what, step in (
        (run.path / "model", "the best model so far; what other pages open", best.get("step")),
        *((path, "goes on from here when resumed", _step(path)) for path in _checkpoints(run.path)),
    ):
        files = [file for file in path.glob("*") if file.is_file()]
        if files:
            changed = max(file.stat().st_mtime for file in files)
            rows.append(
                {
                    "folder": path.name,
                    "step": f"{step:,}" if isinstance(step, int) else "–",
                    "written": f"{datetime.fromtimestamp(changed):%Y-%m-%d %H:%M:%S}",
                    "size (MB)": round(sum(file.stat().st_size for file in files) / 1e6, 2),
                    "what for": what,
                }
            )
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True)
        st.caption("Each is written aside and renamed, so that what stands here is whole.")
    else:
        st.caption("No checkpoint yet; small models write one every two seconds.")
    frame.section("Log")
    st.code("\n".join(run.log_tail(40)) or "nothing yet", language=None, wrap_lines=True)
    frame.section("How it was started")
    st.code(str(manifest.get("command") or ""), language="bash", wrap_lines=True)
    with st.expander("Options, recipe and versions", key="run_options"):
        st.json({key: manifest.get(key) for key in ("created", "seed", "config", "recipe", "versions")})


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=_step)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
