"""The form that starts an audit, its job as it goes, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import audits, cache, evaluations, frame, jobs, state
from dashboard.audits import Plan
from dashboard.catalogue import Choice, Place
from dashboard.evaluations import DATA, TASK
from dashboard.labels import plain
from dashboard.views import new_run
from dashboard.views.job_panel import job_panel
from dashboard.views.new_evaluation import duration
from explain.audit.calibration import FEWEST
from explain.errors import ExplainError
from explain.report.labels import plural
from explain.runs import Run
from explain.training import tasks

MOST = 100_000
USUAL = 300
CLEAN = 1_250
"""Clean outputs of a task that a calibration looks at."""
_NONE, _FIRST = "none", "first:"
_TAUGHT = (
    (
        ":material/radar:",
        "Detectors",
        "Doubt, facts that the source does not state, parts of it that nothing needs: each gives a number.",
    ),
    (
        ":material/straighten:",
        "Clean outputs",
        "Outputs known to be fine say which numbers are strange, at a rate of false alarms that you set.",
    ),
    (
        ":material/rate_review:",
        "You",
        "Look at what is flagged, and say whether it is wrong: so you learn how far to believe the flags.",
    ),
)
_POLICY = "rate: 0.01\nslices:\n  - length: [10, 20]"


def teach() -> None:
    """The empty state: what an audit does."""
    box = frame.empty("No output of this model has been audited yet", "An audit puts three things together:")
    for column, (icon, name, says) in zip(box.columns(3), _TAUGHT, strict=True):
        column.markdown(f"{icon} **{name}**", text_alignment="center")
        column.caption(says, text_alignment="center")


def form(place: Place, choice: Choice, *, narrow: bool = False) -> None:
    """What to audit and what to compare it with, and what that costs; the button starts the job.

    Args:
        place: where the dashboard works.
        choice: the model.
        narrow: the controls stand under one another.
    """
    files = new_run.data_files(place)
    offered = evaluations.sources(place, choice, files)
    one, two, three = [st.container() for _ in range(3)] if narrow else st.columns([9, 3, 9])
    if narrow:
        one.caption(plain(f"Audit outputs of {choice.name}."))
    named = one.selectbox(
        "Audit its outputs for",
        list(offered),
        format_func=lambda name: _title(name, offered),
        index=0 if offered else None,
        placeholder="There is no data file under the runs folder",
        help="A task, or a table with a column of sources: .tsv, .csv, .jsonl or .parquet. The page Train "
        "takes uploads.",
        key="audit_data",
    )
    count = two.number_input(
        "Outputs", 1, MOST, USUAL, step=100, key="audit_count", help="The most; a file may have fewer."
    )
    with frame.friendly():
        clean = _against(three, place, choice, offered, files, named)
        with st.expander("Policy, and how the data are read", key="audit_more"):
            policy = _policy()
            reading = _reading(choice, named)
        st.caption(plain(cost(choice, int(count), clean)))
        pressed = st.button(
            "Audit",
            type="primary",
            icon=":material/play_arrow:",
            disabled=named is None,
            key="audit_start",
        )
        if pressed and named is not None:
            _start(place, choice, named, int(count), clean, policy, reading)


def _title(name: str, offered: Mapping[str, str]) -> str:
    if name.startswith(TASK):
        return f"{tasks.get(name.removeprefix(TASK)).title} (new texts of its task)"
    return offered[name]


def _against(
    column: Any,
    place: Place,
    choice: Choice,
    offered: Mapping[str, str],
    files: Mapping[str, Path],
    named: str | None,
) -> str:
    """What sets the thresholds: clean data now, a calibration that is there, or nothing."""
    there = audits.calibrations(place, choice)
    fresh = [name for name in offered if name.startswith(TASK)]
    own = evaluations.own_file(choice)
    fresh += [name for name in offered if name not in fresh and name != named]
    if own is not None and f"{DATA}{own}" in fresh:  # what it was trained on is the likeliest to be clean
        fresh.sort(key=lambda name: (not name.startswith(TASK), name != f"{DATA}{own}"))
    titles = {name: f"A calibration: {name}" for name in there}
    titles |= {f"{_FIRST}{name}": _clean_title(name, offered) for name in fresh}
    titles[_NONE] = "Nothing: scores alone, no verdict"
    return column.selectbox(
        "Compare with",
        list(titles),
        format_func=lambda name: titles[name],
        key="audit_clean",
        help=f"Clean outputs set the thresholds, and are scored first; a verdict needs {FEWEST} of them at "
        "least. Of its task those count that are right; a file must be known to be fine.",
    )


def _clean_title(name: str, offered: Mapping[str, str]) -> str:
    if name.startswith(TASK):
        return f"{CLEAN:,} clean outputs of its task"
    return f"Clean outputs: {offered[name]}"


def _policy() -> str:
    uploaded = st.file_uploader(
        "Policy",
        type=["yaml", "yml"],
        key="audit_policy_file",
        help="Which checks, at which rate, on which slices.",
    )
    if uploaded is not None:
        return uploaded.getvalue().decode("utf-8", errors="replace")
    return st.text_area(
        "Or as text (YAML; empty: every detector at 1 false alarm in 100)",
        placeholder=_POLICY,
        height=110,
        key="audit_policy",
    )


def _reading(choice: Choice, named: str | None) -> dict[str, str | bool]:
    """Columns and unknown words, as options of the command line."""
    own = named == f"{DATA}{evaluations.own_file(choice)}"
    given = evaluations.own_reading(choice) if own else {}
    found: dict[str, str | bool] = {}
    left, right = st.columns(2)
    for column, name, label, usual in (
        (left, "source-column", "Source column", "source"),
        (right, "target-column", "Output column", "target"),
    ):
        text = column.text_input(label, given.get(name, usual), max_chars=60, key=f"audit_{name}_{own}")
        if text and text != usual:
            found[name] = text
    found |= {name: value for name, value in given.items() if name.endswith("-language")}
    if st.toggle("Accept words that the tokenizer does not know", key="audit_unknown"):
        found["allow-unknown"] = True
    return found


def cost(choice: Choice, outputs: int, clean: str) -> str:
    """What an audit will cost, roughly."""
    facts = cache.facts(choice)
    first = CLEAN if clean.startswith(f"{_FIRST}{TASK}") else outputs if clean.startswith(_FIRST) else 0
    characters = 60.0
    if choice.task in tasks.names():
        samples = tasks.preview(tasks.get(choice.task), 5)
        characters = sum(len(each.source) for each in samples) / len(samples)
    length = audits.seconds(outputs + first, int(facts["parameters"]), characters)
    also = f", after {plural(first, 'clean one')}" if first else ""
    verdict = (
        "" if clean != _NONE else " Without clean outputs to compare with there are scores, but no verdict."
    )
    return (
        f"Very roughly {duration(length)}: {plural(outputs, 'output')}{also}, with a model of "
        f"{facts['parameters']:,} parameters. It runs as a job of its own: close this page, and it goes on."
        f"{verdict}"
    )


def _start(
    place: Place,
    choice: Choice,
    named: str,
    count: int,
    clean: str,
    policy: str,
    reading: Mapping[str, str | bool],
) -> None:
    is_task = named.startswith(TASK)
    first = clean.removeprefix(_FIRST) if clean.startswith(_FIRST) else ""
    plan = Plan(
        task=named.removeprefix(TASK) if is_task else None,
        file=None if is_task else evaluations.data_file(place, choice, named.removeprefix(DATA)),
        examples=count,
        clean=_clean(place, choice, first),
        calibration=audits.calibrations(place, choice).get(clean),
        policy=audits.keep_policy(place, policy) if policy.strip() else None,
        reading={} if is_task else dict(reading),
    )
    run = audits.start(place, choice, plan)
    st.session_state["audit_boxes"] = st.session_state.get("audit_boxes", 0) + 1  # closes the box
    state.change(run=run.name, finding=-1, detector="", shade="", step=-1)
    st.rerun()


def _clean(place: Place, choice: Choice, first: str) -> str | Path | None:
    if first.startswith(TASK):
        return first.removeprefix(TASK)
    return evaluations.data_file(place, choice, first.removeprefix(DATA)) if first else None


# ---- jobs ------------------------------------------------------------------------------------------------


def at_work(run: Run) -> None:
    """A job as it goes; drawn again every second, until it has ended."""
    first = "Clean outputs come first, then those to audit, then tests of the model. "
    before = first if "--calibrate-on" in str(run.manifest.get("command")) else ""
    job_panel(
        run,
        key="audit",
        doing=f"Auditing {run.manifest.get('title') or run.name}",
        unit="output",
        stopping="what is scored is kept",
        note=f"{before}It works in {run.path} and goes on when this page is closed.",
    )


def how_it_ended(place: Place, run: Run) -> None:
    """What became of an audit that has nothing to show, and how it goes on."""
    manifest = run.manifest
    if manifest["state"] == "stopped":
        step, total = jobs.steps(run)
        where = f" after {step:,} of {plural(total, 'output')}" if total else ""
        st.info(plain(f"This audit was stopped{where}. What it scored is kept."), icon=":material/stop:")
    else:
        st.error(
            plain(f"This audit failed: {manifest.get('error') or 'it says not why'}"), icon=":material/error:"
        )
    if audits.resuming(place, run) is not None:
        if st.button("Resume", type="primary", icon=":material/play_arrow:", key="audit_resume"):
            with frame.friendly():
                audits.resume(place, run)
                st.rerun()
    else:
        st.caption("This goes on with it, in the folder where it was begun:")
        st.code(f"{manifest.get('command')} --resume", language=None, wrap_lines=True)
    with st.expander("Its log", key="audit_log"):
        try:
            lines = run.log_tail(40)
        except ExplainError:
            lines = []
        st.code("\n".join(lines) or "nothing", language=None, wrap_lines=True)
