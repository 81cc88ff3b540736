"""The form that starts an evaluation: on what, how much of it, with which methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from dashboard import cache, evaluations, frame, state
from dashboard.catalogue import Choice, Place
from dashboard.evaluations import DATA, TASK, Plan
from dashboard.inputs import MULTILINGUAL
from dashboard.labels import plain
from dashboard.views import new_run
from explain.errors import ExplainError, FileError, InputError
from explain.report.labels import plural
from explain.report.trust import label_of
from explain.training import data, tasks

SCOPES = {"all": "All methods", "fast": "Fast ones"}
MOST = 1_000


def form(place: Place, choice: Choice, *, again: bool = False) -> None:
    """The controls and what they would cost; the button starts the job.

    Args:
        place: where the dashboard works.
        choice: the model.
        again: there is an evaluation already.
    """
    view = state.current()
    offered = evaluations.sources(place, choice, new_run.data_files(place))
    one, two, three = st.columns([11, 4, 6], vertical_alignment="bottom")
    named = _named(view.data, offered)
    one.selectbox(
        "Evaluate on",
        [*offered, *([named] if named and named not in offered else [])],
        format_func=lambda name: offered.get(name) or str(name).removeprefix(DATA),
        index=None,
        placeholder="Choose a data file, or type its path under the runs folder",
        accept_new_options=True,
        help="A task with known answers tells most. Else a table with a column of sources, and of outputs "
        "where there are any: .tsv, .csv, .jsonl or .parquet.",
        **state.bind("data", shown=named),
    )
    two.number_input(
        "Outputs",
        1,
        MOST,
        step=10,
        help="How many outputs are explained. Fewer are faster, and give wider intervals.",
        **state.bind("count", shown=_count(view.count)),
    )
    three.segmented_control(
        "Methods",
        list(SCOPES),
        format_func=lambda name: SCOPES[name],
        **state.bind("scope", shown=view.scope if view.scope in SCOPES else "all"),
    )
    plan = _plan(place, choice, named)
    texts = [] if plan is None else _texts(plan)
    st.caption(plain(cost(choice, texts or [" " * evaluations.LINE] * _count(view.count))))
    pressed = st.button(
        "Evaluate again" if again else "Evaluate",
        type="primary",
        icon=":material/play_arrow:",
        disabled=not texts,
        key="evaluate",
    )
    if pressed and plan is not None:
        evaluations.start(place, choice, plan)
        st.rerun()


def cost(choice: Choice, texts: Sequence[str]) -> str:
    """What an evaluation will cost, roughly."""
    names, outputs = _methods(), len(texts)
    facts = cache.facts(choice)
    characters = sum(map(len, texts)) / outputs
    length = evaluations.seconds(names, outputs, int(facts["parameters"]), characters)
    faster = " (less on its accelerator)" if facts["device"] != "cpu" else ""
    return (
        f"Very roughly {duration(length)}{faster}: {plural(len(names), 'method')} on "
        f"{plural(outputs, 'output')}, with a model of {facts['parameters']:,} parameters. It runs as a job "
        "of its own: close this page, and it goes on."
    )


def duration(seconds: float) -> str:
    """A time as one says it: `40 seconds`, `3 minutes`, `2 hours`."""
    if seconds < 90:
        return plural(max(10, round(seconds / 10) * 10), "second")
    if seconds < 5400:
        return plural(round(seconds / 60), "minute")
    return plural(round(seconds / 3600), "hour")


def clock(seconds: float) -> str:
    """How long something has gone on: `8 s`, `1 min 10 s`."""
    whole = max(0, int(seconds))
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def _count(wanted: int) -> int:
    return min(MOST, max(1, wanted))


def _methods() -> tuple[str, ...]:
    return evaluations.fast_methods() if state.current().scope == "fast" else evaluations.methods()


def _named(wanted: str, offered: Mapping[str, str]) -> str | None:
    """What the link or the reader names; the first of what is offered where they name nothing."""
    if not wanted:
        return next(iter(offered), None)
    return wanted if wanted in offered or wanted.startswith((TASK, DATA)) else f"{DATA}{wanted}"


def _plan(place: Place, choice: Choice, named: str | None) -> Plan | None:
    """What the controls ask for; None where nothing can be evaluated yet."""
    view = state.current()
    count = _count(view.count)
    chosen = evaluations.fast_methods() if view.scope == "fast" else ()
    if view.scope == "fast":
        st.caption(
            plain(
                "Fast are the methods that ask the model a few times for each output: "
                + ", ".join(label_of(name) for name in chosen)
                + "."
            )
        )
    task = named.removeprefix(TASK) if named and named.startswith(TASK) else None
    if task is not None and task != choice.task:
        frame.failed(InputError(f"this model was not trained on the task {task!r}"))
        return None
    with st.expander("Other data, and how they are read", expanded=named is None):
        uploaded = st.file_uploader(
            "Upload",
            type=["tsv", "csv", "jsonl", "parquet", "gz"],
            key="trust_upload",
            help="Up to 20 MB, UTF-8.",
        )
        own = f"{DATA}{evaluations.own_file(choice)}" == named
        reading = _reading(choice, evaluations.own_reading(choice) if own else {})
    if uploaded is not None:
        path = new_run.keep_upload(place, uploaded.name, uploaded.getvalue())
        return Plan(None, path, count, chosen, reading)
    if task is not None:
        return Plan(task, None, count, chosen)
    if named is None:
        return None
    try:
        path = evaluations.data_file(place, choice, named.removeprefix(DATA))
    except ExplainError as error:
        frame.failed(error)
        return None
    return Plan(None, path, count, chosen, reading)


def _reading(choice: Choice, own: Mapping[str, str]) -> dict[str, str | bool]:
    """Columns, languages and unknown words, as options of the command line."""
    left, right = st.columns(2)
    found: dict[str, str | bool] = {}
    asked = [("source-column", "Source column", "source"), ("target-column", "Output column", "target")]
    if cache.facts(choice)["family"] in MULTILINGUAL:
        asked += [("source-language", "Language of the source (code)", "")]
        asked += [("target-language", "Language of the output (code)", "")]
    for at, (name, label, usual) in enumerate(asked):
        column = right if at % 2 else left
        text = column.text_input(label, own.get(name, usual), max_chars=60, key=f"trust_{name}_{bool(own)}")
        if text and text != usual:
            found[name] = text
    if st.toggle("Accept words that the tokenizer does not know", key="trust_unknown"):
        found["allow-unknown"] = True
    return found


def _texts(plan: Plan) -> list[str]:
    """What will be read, or as many texts like it; none, with a line that says why, if that cannot be."""
    if plan.file is None:
        samples = [sample.source for sample in tasks.preview(tasks.get(str(plan.task)), 5)]
        return [samples[at % len(samples)] for at in range(plan.examples)]
    columns = (
        str(plan.reading.get("source-column", "source")),
        str(plan.reading.get("target-column", "target")),
    )
    try:
        pairs = _pairs(str(plan.file), plan.file.stat().st_mtime_ns, *columns)
    except (FileError, InputError) as error:
        frame.failed(error)
        st.caption("Its columns can be named above, under “Other data, and how they are read”.")
        return []
    with_outputs = sum(bool(pair.target) for pair in pairs)
    st.caption(
        plain(
            f"{plural(len(pairs), 'source')}, {with_outputs:,} with an output. No known answers, so "
            "methods are compared by what hiding words does and by the model with shuffled weights."
        )
    )
    st.dataframe(
        pd.DataFrame([{"source": pair.source, "output": pair.target} for pair in pairs[:2]]), hide_index=True
    )
    return list(dict.fromkeys(pair.source for pair in pairs))[: plan.examples]


@st.cache_data(max_entries=4, show_spinner="Reading the file …")
def _pairs(path: str, changed: int, source: str, target: str) -> list[data.Pair]:
    return data.read_table(path, source, target, need_target=False)
