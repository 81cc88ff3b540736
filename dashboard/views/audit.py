"""Audit: which of its outputs should I not trust?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import audits, frame, sidebar, snippets, state
from dashboard.audits import Item
from dashboard.catalogue import Place, current_place
from dashboard.components.suspects import Suspect as Line
from dashboard.components.suspects import suspects
from dashboard.labels import excerpt, plain
from dashboard.model_jobs import at_work, model_named
from dashboard.views import audit_new, audit_output, text_page
from dashboard.views.job_panel import EVERY
from explain.audit import FILE, FINDINGS, Audit
from explain.audit.reviews import FILE as REVIEWS
from explain.errors import ExplainError
from explain.report import audit as words
from explain.report.audit_plots import HELP, detectors_figure
from explain.report.labels import plural
from explain.runs import LIVE, Run

UNREVIEWED = "unreviewed"
SIGNS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "open": ("?", "orange")}
_VERDICTS: dict[str, tuple[str, str, Any]] = {
    "pass": ("pass", ":material/check_circle:", "green"),
    "fail": ("fail", ":material/cancel:", "red"),
    "uncalibrated": ("no verdict", ":material/remove:", "gray"),
}


def page() -> None:
    """Draw the page."""
    frame.head(
        "Which of its outputs should I not trust?",
        "Detectors look at every output; clean outputs say what is strange. You look at what is flagged, and "
        "say whether they were right.",
    )
    place = current_place()
    with frame.friendly():
        _show(place)


def _show(place: Place) -> None:
    found = audits.everything(place)
    run = _chosen(found)
    if found:
        _choose(place, found, run)
    if run is None:
        choice = sidebar.chosen(place)
        if choice is None:
            text_page.no_model(place)
            return
        audit_new.teach()
        audit_new.form(place, choice)
        return
    manifest = run.manifest
    if manifest["state"] in LIVE:
        st.fragment(audit_new.at_work, run_every=EVERY)(run)
        return
    if not audits.finished(run):
        audit_new.how_it_ended(place, run)
        return
    _finding(place, run, audits.opened(run))


def _chosen(found: Sequence[Run]) -> Run | None:
    """The audit of the link; else the newest of the model that is looked at, one at work first."""
    view = state.current()
    named = next((run for run in found if run.name == view.run), None)
    if named is not None:
        return named
    own = [run for run in found if Path(model_named(run)).name == view.model]
    return at_work(own) or next(filter(audits.finished, own), None) or next(iter(own), None)


def _choose(place: Place, found: Sequence[Run], run: Run | None) -> None:
    """Which audit, and the way to another one."""
    by_name = {each.name: each for each in found}
    tied = state.bind("run", shown="", finding=-1, detector="", shade="", step=-1)
    st.session_state[tied["key"]] = None if run is None else run.name
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.selectbox(
        "Audit",
        list(by_name),
        index=None,
        format_func=lambda name: _title(by_name[name]),
        placeholder=f"Open an audit of another model ({len(found):,})",
        label_visibility="collapsed",
        **tied,
    )
    if run is None:
        return
    number = st.session_state.setdefault("audit_boxes", 0)
    with right.popover("New audit", icon=":material/add:", width="stretch", key=f"audit_new_{number}"):
        choice = sidebar.chosen(place)
        if choice is None:
            st.caption("Choose a model in the sidebar first.")
        else:
            audit_new.form(place, choice, narrow=True)


def _title(run: Run) -> str:
    manifest = run.manifest
    result = manifest.get("result")
    said = str(result.get("verdict") or "") if isinstance(result, dict) else ""
    return " · ".join(filter(None, (run.name, excerpt(str(manifest.get("title") or ""), 60), said)))


# ---- what it found ---------------------------------------------------------------------------------------


def _finding(place: Place, run: Run, audit: Audit) -> None:
    _answer(audit)
    items = audits.items(audit)
    frame.section("Outputs to look at")
    _outputs(place, run, audit, items)
    frame.section("What the detectors found")
    _detectors(run, audit)
    _slices(audit)
    frame.section("Conditions and tests")
    _conditions(audit)
    frame.section("Take it with you")
    _downloads(run, audit)


def _answer(audit: Audit) -> None:
    """The verdict, in words, and what it rests on."""
    word, icon, colour = _VERDICTS.get(audit.verdict, _VERDICTS["uncalibrated"])
    with st.container(border=True, key="audit_answer"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(word, icon=icon, color=colour)
            st.caption(plain(f"{audit.model.rsplit('/', 1)[-1]} on {audit.data}"), width="content")
        with st.container(key="answer"):
            st.markdown(plain(words.headline(audit)))
        st.caption(plain(words.advice(audit)))
        more = [f"Calibration: {words.calibration_sentence(audit)}."]
        if audit.reviews is not None:
            more += words.review_sentences(audit.reviews)
        st.caption(plain(" ".join(more)))


def _outputs(place: Place, run: Run, audit: Audit, items: Sequence[Item]) -> None:
    """The list on one side, the output that is looked at on the other."""
    if not items:
        st.caption("No output is flagged." if audit.flagged is not None else "There is no output to look at.")
        return
    said = {item["number"]: item["outcome"] for item in (audit.reviews or {}).get("outputs", ())}
    shown = _filtered(items, said)
    left, right = st.columns([4, 7], gap="medium")
    with left:
        _filter(audit, items, said)
        if not shown:
            st.caption("None is left.")
            return
        picked = _picked(items, shown)
        listed = list(shown[: audits.MOST_LISTED])
        if picked not in listed:
            listed.insert(0, picked)
        suspects(
            [_line(item, said, item.number == picked.number) for item in listed],
            key="audit_suspects",
            theme=frame.theme(),
            label="Outputs to look at",
            on_pick=lambda number: state.change(finding=number, step=-1),
        )
        st.caption(plain(_under_list(audit, items, shown)))
    with right, frame.friendly():
        following = [item for item in shown if item.number not in said and item.number != picked.number]
        audit_output.show(place, run, audit, picked.number, following[0].number if following else None)


def _filter(audit: Audit, items: Sequence[Item], said: dict[int, str]) -> None:
    counts = {
        name: sum(any(flag == name for flag, _ in item.flags) for item in items) for name in audit.detectors
    }
    left = sum(item.number not in said for item in items)
    titles = {"": f"All {len(items):,}", UNREVIEWED: f"Not yet reviewed ({left:,})"}
    titles |= {name: f"{words.about(name).title} ({count:,})" for name, count in counts.items() if count}
    view = state.current()
    st.selectbox(
        "Which of them",
        list(titles),
        format_func=lambda name: titles[name],
        label_visibility="collapsed",
        **state.bind("detector", shown=view.detector if view.detector in titles else ""),
    )


def _filtered(items: Sequence[Item], said: dict[int, str]) -> list[Item]:
    wanted = state.current().detector
    if wanted == UNREVIEWED:
        return [item for item in items if item.number not in said]
    if wanted not in {name for item in items for name, _ in item.flags}:
        return list(items)
    return [item for item in items if any(name == wanted for name, _ in item.flags)]


def _picked(items: Sequence[Item], shown: Sequence[Item]) -> Item:
    """The output of the link, though the filter may hide it; else the first that is listed."""
    wanted = state.current().finding
    return next((item for item in items if item.number == wanted), shown[0])


def _line(item: Item, said: dict[int, str], picked: bool) -> Line:
    one = words.about(item.flags[0][0]).title if len(item.flags) == 1 else ""
    why = one or (plural(len(item.flags), "detector") if item.flags else "")
    outcome = said.get(item.number, "")
    return {
        "number": item.number,
        "text": excerpt(item.output, 160) or "(empty)",
        "why": f"No. {item.number:,}{f' · {why}' if why else ''}",
        "sign": words.OUTCOMES[outcome][1] if outcome else "",
        "said": outcome,
        "picked": picked,
    }


def _under_list(audit: Audit, items: Sequence[Item], shown: Sequence[Item]) -> str:
    if audit.flagged is None:
        return "Nothing is flagged without a calibration: these have the tokens that the model doubted most."
    cut = f" The first {audits.MOST_LISTED:,} of {len(shown):,}." if len(shown) > audits.MOST_LISTED else ""
    short = len(items) < audit.flagged.count
    rest = f" All {audit.flagged.count:,} are in {FINDINGS}." if short else ""
    return f"The surest first. A flag is a reason to look, not a proof.{cut}{rest}"


# ---- detectors, slices, conditions -----------------------------------------------------------------------


def _detectors(run: Run, audit: Audit) -> None:
    """Every detector: as a figure where there are thresholds, and as a table."""
    if audit.flagged is None:
        _detector_table(audit)
        return
    drawn, table = st.tabs(["Figure", "Table"])
    with drawn:
        frame.figure(
            detectors_figure(audit, theme=frame.theme()),
            HELP,
            key="detectors_figure",
            alt="Points with intervals: the share of outputs that each detector flags, and the rate allowed",
            python=snippets.shown(
                ["import explain", "", f"audit = explain.load_audit({str(run.path / FILE)!r})"],
                [],
                "detectors_figure(audit)",
                "audit_plots",
            ),
        )
    with table:
        _detector_table(audit)


def _detector_table(audit: Audit) -> None:
    rows = []
    for name in audit.detectors:
        row = words.detector_row(audit, name)
        bound = row.bound if audit.flagged is not None else "not calibrated"
        cells = [row.title, row.sees, bound, row.zero, row.flagged, row.allowed]
        rows.append([*cells, row.precision] if audit.reviews is not None else cells)
    columns = ["detector", "sees", "flags scores", "0 and 1", "flagged (95 %)", "allowed"]
    with st.container(key="wide_detector_table"):
        _table([*columns, "wrong, as reviewed (95 %)"] if audit.reviews is not None else columns, rows)
    st.caption(
        plain(
            "Flagged: outputs, with the Clopper–Pearson interval of their share. Allowed: false alarms, a "
            "share of clean outputs. Wrong, as reviewed: of the flagged outputs that reviewers settled, "
            "those that are wrong; it holds for outputs like the reviewed ones."
        )
    )


def _slices(audit: Audit) -> None:
    rows = words.slice_rows(audit)
    if rows:
        st.markdown("**Parts of the data**")
        with st.container(key="wide_slices"):
            _table(["part", "outputs", "flagged by"], [list(row) for row in rows])


def _conditions(audit: Audit) -> None:
    """What the policy asks, and the tests of the model as a whole."""
    found = words.conditions(audit)
    if not found:
        st.caption("No condition is judged without a calibration, and no test of the model was asked for.")
        return
    if audit.flagged is None:
        st.caption("No condition is judged without a calibration; these are tests of the model as a whole.")
    tests = [row for row in found if row[2].startswith("Test: ")]
    others = [row for row in found if row not in tests]
    open_ones = [row for row in others if row[0] != "passed"]
    _lines(open_ones[: words.MOST_CHECKS])
    if others and not open_ones:
        st.markdown(f":green[✓] All {len(others)} conditions passed.")
    _lines(tests)
    rest = [*open_ones[words.MOST_CHECKS :], *(row for row in others if row[0] == "passed" and open_ones)]
    if rest or (not open_ones and others):
        which = "The other" if open_ones else "The"
        with st.expander(f"{which} {plural(len(rest or others), 'condition')}", key="audit_conditions"):
            _lines(rest or others)
    for table in words.test_tables(audit):
        with st.expander(table.title, key=f"audit_{table.title}"):
            with st.container(key=f"wide_{table.title}"):
                _table(table.columns, table.rows)
            st.caption(plain(table.caption))


def _lines(rows: Sequence[tuple[str, str, str, str]]) -> None:
    for state_, _, name, reason in rows:
        sign, colour = SIGNS[state_]
        st.markdown(f":{colour}[{sign}] **{plain(name)}** {state_}: {plain(words.sentence(reason))}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table of texts, shown as they are."""
    st.table(
        pd.DataFrame([[plain(text) for text in row] for row in rows], columns=[plain(c) for c in columns]),
        border="horizontal",
        hide_index=True,
    )


# ---- away ------------------------------------------------------------------------------------------------


def _downloads(run: Run, audit: Audit) -> None:
    offered = (
        ("Page (HTML)", words.PAGE, "text/html", "One offline page for who decides and for who has to act."),
        ("Data (JSON)", FILE, "application/json", "Everything, read back by explain.audit.load_audit."),
        ("Findings (CSV)", "findings.csv", "text/csv", "A row for every flagged output or token."),
        ("Reviews (JSON)", REVIEWS, "application/json", "To merge elsewhere: explain review AUDIT FILE."),
    )
    with st.container(horizontal=True):
        for label, name, mime, help in offered:
            path = run.path / name
            if path.is_file() and not path.is_symlink():
                st.download_button(
                    label,
                    data=path.read_bytes,
                    file_name=name,
                    mime=mime,
                    help=help,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"download_{name}",
                )
    st.caption("The command that makes this audit again")
    try:
        command = str(run.manifest.get("command") or "")
    except ExplainError:
        command = ""
    st.code(command, language=None, wrap_lines=True)
