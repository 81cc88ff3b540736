"""Runs & reports: what has been made here?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import streamlit as st

from dashboard import audits, evaluations, frame, saved, state
from dashboard.catalogue import Place, choices, current_place
from dashboard.components.sheet import sheet
from dashboard.components.shelf import Row, shelf
from dashboard.labels import excerpt, plain
from dashboard.saved import Saved
from dashboard.views import new_evaluation, new_report
from dashboard.views.job_panel import EVERY, job_panel
from dashboard.views.train import COLOURS, ICONS
from explain.errors import ExplainError
from explain.files import read_text
from explain.report.labels import plural
from explain.runs import pack, remove

SHOWN = 3 << 20
"""Bytes of a page that is shown here; a larger one is downloaded."""
_SIGNS = {"queued": "…", "running": "▶", "paused": "Ⅱ", "stopped": "■", "failed": "✗", "done": "✓"}
_TAUGHT = (
    (":material/model_training:", "Trainings", "Each is a model that every other page can open."),
    (":material/verified:", "Evaluations", "Which methods to believe on a model, with the evidence."),
    (
        ":material/description:",
        "Audits and reports",
        "Maps and reasons for many outputs, as one page to hand in.",
    ),
)


def page() -> None:
    """Draw the page."""
    frame.head(
        "What has been made here?",
        "Trainings, evaluations and reports: open one, take it with you, bring one in, or delete it.",
    )
    place = current_place()
    found = saved.everything(place)
    with st.container(horizontal=True, gap="small"):
        # What is handed in closes its box: one with another key is another box, and closed.
        number = st.session_state.setdefault("boxes", 0)
        with st.popover("New report", icon=":material/add:", key=f"new_report_{number}"):
            with frame.friendly():
                new_report.form(place)
        with st.popover("Bring in", icon=":material/upload:", key=f"bring_in_{number}"):
            _bring_in(place, number)
    if not found:
        _teach()
        return
    offered = _filter(found)
    picked = _picked(offered)
    with st.container(key="shelf"):
        shelf(
            [_row(item, item.name == picked.name) for item in offered],
            key="saved",
            theme=frame.theme(),
            on_pick=lambda name: state.change(run=name),
        )
    live = picked.live
    st.fragment(_item, run_every=EVERY if live else None)(place, picked.name, live)


def _teach() -> None:
    """The empty state: what will stand here, and how to begin."""
    box = frame.empty("Nothing has been made yet", "What you make is kept here, as folders that are yours:")
    for column, (icon, name, says) in zip(box.columns(3), _TAUGHT, strict=True):
        column.markdown(f"{icon} **{name}**", text_alignment="center")
        column.caption(says, text_alignment="center")
    if box.button("Train a model", type="primary", icon=":material/model_training:"):
        st.switch_page("routes/train.py")


def _filter(found: list[Saved]) -> list[Saved]:
    """The kinds to list, where there are several."""
    kinds = list(dict.fromkeys(item.kind for item in found))
    if len(kinds) < 2:
        return found
    names = {item.kind: item.kind_name for item in found}
    wanted = st.pills(
        "Kinds",
        kinds,
        format_func=lambda kind: plain(f"{names[kind]} {sum(item.kind == kind for item in found)}"),
        key="saved_kind",
        label_visibility="collapsed",
        persist_state="session",
    )
    return [item for item in found if wanted is None or item.kind == wanted]


def _picked(offered: list[Saved]) -> Saved:
    wanted = state.current().run
    return next((item for item in offered if item.name == wanted), offered[0])


def _row(item: Saved, picked: bool) -> Row:
    return {
        "name": item.name,
        "title": "" if item.title == item.name else excerpt(item.title, 90),
        "kind": item.kind_name,
        "sign": _SIGNS[item.state],
        "state": item.state,
        "failed": item.state == "failed",
        "when": _ago(item.made),
        "exactly": f"{item.made:%Y-%m-%d %H:%M:%S}" if item.made else "",
        "result": excerpt(item.result, 120),
        "picked": picked,
    }


def _ago(made: datetime | None) -> str:
    """When, as one says it: `5 minutes ago`, `Monday 14:05`, `3 March 2026`."""
    if made is None:
        return "–"
    now = datetime.now(made.tzinfo)
    seconds = (now - made).total_seconds()
    if 0 <= seconds < 60:
        return "just now"
    if 0 <= seconds < 3600:
        return f"{plural(int(seconds // 60), 'minute')} ago"
    if made.date() == now.date():
        return f"today {made:%H:%M}"
    if 0 <= seconds < 6 * 86_400:
        return f"{made:%A %H:%M}"
    return f"{made.day} {made:%B %Y}"


# ---- one of them -----------------------------------------------------------------------------------------


def _item(place: Place, name: str, was_live: bool) -> None:
    """One run: what it is, where it leads, and its page."""
    item = next((each for each in saved.everything(place) if each.name == name), None)
    if item is None or item.live != was_live:
        st.rerun()
    with st.container(border=True, key="saved_item"), frame.friendly():
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                st.markdown(f"**{plain(item.name)}**", width="content")
                st.badge(item.state, icon=ICONS[item.state], color=COLOURS[item.state])
            with st.container(horizontal=True, width="content", key="saved_actions"):
                _open(place, item)
        if item.title and item.title != item.name:
            st.caption(plain(item.title))
        _facts(item)
        if item.live:
            job_panel(item.run, key="saved", doing="At work", framed=False)
        if not item.live:
            _away(place, item)
    if not item.live:
        _page(item)


def _open(place: Place, item: Saved) -> None:
    """The pages on which it can be looked at."""
    if item.kind in ("train", "compress"):
        if item.name in choices(place) and st.button(
            "Open in Generate", icon=":material/edit_note:", type="primary", key="saved_generate"
        ):
            same = state.current().model == item.name
            state.change(model=item.name, step=-1, query=-1, **({} if same else {"example": ""}))
            st.switch_page("routes/generate.py")
    if item.kind == "train":
        if st.button("Open in Train", icon=":material/model_training:", key="saved_train"):
            state.change(run=item.name)
            st.switch_page("routes/train.py")
    elif item.kind == evaluations.KIND and item.model in choices(place):
        if st.button("Open in Trust", icon=":material/verified:", type="primary", key="saved_trust"):
            state.change(model=item.model, card="")
            st.switch_page("routes/trust.py")
    elif item.kind == audits.KIND:
        if st.button("Open in Audit", icon=":material/fact_check:", type="primary", key="saved_audit"):
            same = state.current().run == item.name
            state.change(run=item.name, **({} if same else {"finding": -1, "detector": "", "shade": ""}))
            st.switch_page("routes/audit.py")


def _facts(item: Saved) -> None:
    """What it is, in a row of small facts."""
    if item.state == "failed" and item.result:
        st.error(plain(item.result), icon=":material/error:")
    shown = [
        ("Kind", item.kind_name),
        ("Begun", f"{item.made:%Y-%m-%d %H:%M}" if item.made else ""),
        ("Took", new_evaluation.clock(item.took) if item.took is not None else ""),
        ("Model", item.model if item.kind != "train" else ""),
        ("Result", item.result if item.state != "failed" else ""),
    ]
    row = st.container(horizontal=True, gap="medium")
    for label, value in shown:
        if value:
            with row.container(width="content", gap=None):
                st.caption(label)
                st.text(excerpt(value, 90))


def _away(place: Place, item: Saved) -> None:
    """Files to take away, and the way out."""
    with st.container(horizontal=True, gap="small", key="saved_files"):
        offered: list[tuple[str, str, str, Callable[[], str | bytes | BinaryIO]]] = []
        if not item.run.problem:
            offered.append(
                ("Everything (ZIP)", f"{item.name}.zip", "application/zip", lambda: pack(item.run))
            )
        for paths, label, mime in (
            (item.pages, "Page (HTML)", "text/html"),
            (item.data, "Data (JSON)", "application/json"),
        ):
            for path in paths:  # several of a kind are told apart by their names
                offered.append((label if len(paths) == 1 else path.name, path.name, mime, path.read_bytes))
        for label, file, mime, make in offered:
            st.download_button(
                label,
                data=make,
                file_name=file,
                mime=mime,
                help=plain(file),
                icon=":material/download:",
                on_click="ignore",
                key=f"saved_file_{file}",
            )
        if st.button("Delete", icon=":material/delete:", type="tertiary", key="saved_delete"):
            _delete(place, item)


@st.dialog("Delete this for good?")
def _delete(place: Place, item: Saved) -> None:
    """Ask once more; there is no way back."""
    st.markdown(f"**{plain(item.name)}**")
    what = "its model, and every evaluation kept with it" if item.kind == "train" else "all its files"
    st.caption(plain(f"The folder {item.run.path} is deleted, with {what}. This cannot be undone."))
    left, right = st.columns(2)
    if left.button("Keep it", width="stretch", key="delete_no"):
        st.rerun()
    if right.button("Delete", type="primary", width="stretch", key="delete_yes"):
        with frame.friendly():
            remove(place.runs, item.name)
            view = state.current()
            state.change(run="", **({"model": ""} if view.model == item.name else {}))
            st.rerun()


def _page(item: Saved) -> None:
    """The page that it wrote, shut in."""
    for path in item.pages[:1]:
        frame.section("The page it wrote")
        if path.stat().st_size > SHOWN:
            st.caption("It is too large to be shown here; download it, and open it in a browser.")
            return
        sheet(_html(str(path), path.stat().st_mtime_ns), title=path.name, key=f"sheet_{item.name}")


@st.cache_data(max_entries=8, show_spinner=False)
def _html(path: str, changed: int) -> str:
    return read_text(Path(path))


# ---- bringing in -----------------------------------------------------------------------------------------


def _bring_in(place: Place, number: int) -> None:
    """A file from somewhere else."""
    st.caption(
        "A run as .zip, or a report, evaluation, audit or attribution as .json, as this project writes them. "
        "What could run code, or leads out of the runs folder, is refused."
    )
    uploaded = st.file_uploader(
        "File", type=["zip", "json"], key=f"bring_in_file_{number}", label_visibility="collapsed"
    )
    if uploaded is None or not st.button("Bring it in", type="primary", key="bring_in_now"):
        return
    try:
        run = saved.bring_in(place, uploaded.name, uploaded.getvalue())
    except ExplainError as error:
        frame.failed(error)
        return
    new_report.made(run)
    st.rerun()
