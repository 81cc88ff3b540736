"""Two models over many texts: the comparisons that are kept, and the form that starts another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
import streamlit as st

from dashboard import evaluations, frame, model_jobs, saved, snippets, state
from dashboard.catalogue import Choice, Place, choices
from dashboard.evaluations import DATA, TASK
from dashboard.labels import plain
from dashboard.model_jobs import subject
from dashboard.saved import Saved
from dashboard.views import new_run
from dashboard.views.job_panel import EVERY, job_panel
from dashboard.views.new_evaluation import duration
from explain.comparison import FILE, METHODS, Comparison, load_comparison
from explain.report import comparison_page
from explain.report.comparison import NO_FLOOR, answer
from explain.report.comparison_plots import drift_figure, heads_figure
from explain.report.facts import facts_of
from explain.report.labels import number, plural, shown

KIND = "compare"
_ALARMS: Mapping[bool | None, tuple[str, Literal["red", "green", "gray"]]] = {
    True: ("alarm", "red"),
    False: ("no alarm", "green"),
    None: ("no answer", "gray"),
}
# Seconds for a model and an output, and for a model, on one core; measured on the demo's models.
_OUTPUT, _MODEL = 0.6, 6.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be compared, on what.

    Attributes:
        rival: the other model.
        floor: retrained models, the yardstick.
        task: a task with known answers; None for a file.
        file: a data file; None for a task.
        examples: outputs to explain.
        reading: further options of the command line.
    """

    rival: Choice
    floor: tuple[Choice, ...]
    task: str | None
    file: Path | None
    examples: int
    reading: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the data are called."""
        return self.task or (self.file.name if self.file else "")


def show(place: Place, choice: Choice) -> None:
    """Draw the tab."""
    found = [item for item in saved.everything(place) if item.kind == KIND]
    if found:
        names = [item.name for item in found]
        wanted = state.current().run
        chosen = wanted if wanted in names else names[0]
        by_name = {item.name: item for item in found}
        st.selectbox(
            "Comparison",
            names,
            format_func=lambda name: f"{name} · {by_name[name].title}" if by_name[name].title else name,
            **state.bind("run", shown=chosen),
        )
        _one(by_name[chosen])
    else:
        frame.empty(
            "No two models have been compared yet",
            "A comparison explains the same outputs with both models, and with retrained ones as a "
            "yardstick: "
            "do the reasons differ more than another seed makes them differ?",
        )
    with st.expander(
        "Compare two models", expanded=not found, icon=":material/compare_arrows:", key="compare_new"
    ):
        _form(place, choice)


def _one(item: Saved) -> None:
    if item.live:
        st.fragment(_at_work, run_every=EVERY)(item)
        return
    if item.state != "done":
        st.error(plain(f"It {item.state}. {item.result}"), icon=":material/error:")
        return
    with frame.friendly():
        path = item.run.path / FILE
        found = _comparison(str(path), path.stat().st_mtime_ns) if path.is_file() else load_comparison(path)
        _figures(found, path)


@st.cache_resource(max_entries=8, show_spinner=False)
def _comparison(path: str, changed: int) -> Comparison:
    return load_comparison(path)


def _at_work(item: Saved) -> None:
    job_panel(
        item.run,
        key="compare",
        doing=f"Comparing {item.title}",
        note=f"It works in {item.run.path} and goes on when this page is closed. Steps take unequal times.",
    )


def _figures(found: Comparison, path: Path) -> None:
    """The answer, the figures, the table."""
    python = ["import explain", "", f"comparison = explain.load_comparison({str(path)!r})"]
    word, colour = _ALARMS[found.alarm.alarm]
    with st.container(border=True, key="comparison_answer"):
        st.badge(word, color=colour)
        with st.container(key="answer"):
            st.markdown(plain(answer(found)))
    frame.section("How far the reasons moved")
    frame.figure(
        drift_figure(found, theme=frame.theme()),
        "Each mark is a method: how many of the strongest tokens both models have in common, with the 95 % "
        "interval; 1 is all of them. Wholly left of the floor is further than another seed moves them.",
        key="wide_drift",
        alt="Marks with intervals: strongest tokens in common, by method, beside the floor",
        python=snippets.shown(python, [], "drift_figure(comparison)", "comparison_plots"),
    )
    rows = []
    for name, drift in found.figures.drift.items():
        rows.append(
            {
                "method": plain(facts_of(name).label),
                "same strongest": number(drift.top1.value),
                "strongest shared": number(drift.topk_jaccard.value),
                "order": number(drift.weighted_tau.value),
                "change of precision": number(drift.p_at_1_change.value, signed=True),
                "verdict": _ALARMS[found.alarm.methods[name].alarm][0],
            }
        )
    with st.container(key="wide_drift_table"):
        st.table(pd.DataFrame(rows), border="horizontal", hide_index=True)
    st.caption(
        "Same strongest and strongest shared are shares, 1 is always; order runs from −1 "
        "(reversed) to 1 (the "
        "same); change of precision is how much more often B names a right token first, where "
        "answers are known."
    )
    for name, problem in found.problems.items():
        st.caption(plain(f"{facts_of(name).label}: {problem}"))
    frame.section("Where the heads look")
    frame.figure(
        heads_figure(found, theme=frame.theme()),
        "Each cell is a head of A and its partner in B: 0 is the same attention; the scale ends "
        "at the mean of "
        "retrained models, or at the largest value where that is more.",
        key="wide_comparison_heads",
        alt="Heat map: divergence of every head of A from its partner in B",
        python=snippets.shown(python, [], "heads_figure(comparison)", "comparison_plots"),
    )
    models = f"A is {shown(found.a.name)}, B is {shown(found.b.name)}"
    floor = ", ".join(shown(model.name) for model in found.floor_models)
    st.caption(
        plain(
            f"{models}; floor: {floor or 'none'}. {plural(found.data.examples, 'output')} explained, "
            f"{plural(found.data.outputs, 'output')} compared as texts, on {found.data.name}."
        )
    )
    st.download_button(
        "Page (HTML)",
        data=lambda: comparison_page(found),
        file_name="comparison.html",
        mime="text/html",
        icon=":material/download:",
        on_click="ignore",
        key="file_comparison",
    )


def _form(place: Place, choice: Choice) -> None:
    """Which models, on what, how much; the button starts the job."""
    known = {name: each for name, each in choices(place).items() if name != choice.name}
    offered = evaluations.sources(place, choice, new_run.data_files(place))
    if not known or not offered:
        missing = "a second model" if not known else "texts: a task, or a data file under the runs folder"
        st.caption(plain(f"A comparison needs {missing}."))
        return
    rivals = sorted(known, key=lambda name: known[name].task != choice.task)
    wanted = state.current().rival
    one, two = st.columns(2)
    rival = one.selectbox(
        f"Compare {plain(choice.name)} with",
        rivals,
        **state.bind("rival", shown=wanted if wanted in known else rivals[0]),
    )
    floor = two.multiselect(
        "Retrained models, the yardstick",
        [name for name in rivals if name != rival],
        key=f"compare_floor_{rival}",
        placeholder="of the same recipe, other seeds",
        help=NO_FLOOR,
    )
    data = one.selectbox("Texts", list(offered), format_func=lambda name: offered[name], key="compare_data")
    count = two.number_input("Outputs to explain", 2, 500, 20, 10, key="compare_count")
    seconds = (2 + len(floor)) * (_MODEL + _OUTPUT * count)
    st.caption(
        plain(
            f"Very roughly {duration(seconds)} for models as small as the demo’s: "
            f"{plural(2 + len(floor), 'model')}, {plural(count, 'output')}, "
            f"{plural(len(METHODS), 'method')}. It "
            "runs as a job of its own."
        )
    )
    if st.button("Compare", type="primary", icon=":material/play_arrow:", key="compare_start"):
        with frame.friendly():
            _start(place, choice, known[rival], [known[name] for name in floor], data, count)
            st.rerun()


def _start(place: Place, choice: Choice, rival: Choice, floor: list[Choice], data: str, count: int) -> None:
    is_task = data.startswith(TASK)
    plan = Plan(
        rival=rival,
        floor=tuple(floor),
        task=data.removeprefix(TASK) if is_task else None,
        file=None if is_task else evaluations.data_file(place, choice, data.removeprefix(DATA)),
        examples=count,
    )
    run = model_jobs.start(
        place,
        KIND,
        choice,
        plan,
        lambda out: arguments(choice, plan, out),
        {"rival": str(subject(rival)), "floor": [str(subject(each)) for each in floor]},
        title=f"{choice.name} and {rival.name}",
    )
    state.change(run=run.name)


def arguments(choice: Choice, plan: Plan, out: Path) -> list[str]:
    """The command line, after `explain`, that makes the comparison."""
    own = ["--outputs", str(max(plan.examples, 50))]
    for each in plan.floor:
        own += ["--floor", str(subject(each))]
    kind, first, *rest = model_jobs.arguments(KIND, choice, plan, own, out)
    return [kind, first, str(subject(plan.rival)), *rest]
