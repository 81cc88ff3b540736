"""Trust: which method should I believe on this model?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime

import pandas as pd
import streamlit as st

from dashboard import evaluations, frame, sidebar, snippets, state
from dashboard import jobs as jobs_at_work
from dashboard.catalogue import Choice, Place, current_place
from dashboard.components.ranking import ranking as ranking_table
from dashboard.evaluations import Kept
from dashboard.labels import plain
from dashboard.model_jobs import at_work
from dashboard.views import new_evaluation, text_page, trust_card
from dashboard.views.job_panel import EVERY, job_panel
from explain.errors import FileError
from explain.evaluation import FILE, Evaluation
from explain.report import evaluation_page, measures, plots, trust
from explain.report.labels import shown, whole_percent
from explain.report.ranking import ranking
from explain.runs import Run

_SIGNS = {True: ("✓", "passed", "green"), False: ("✗", "failed", "red"), None: ("?", "open", "orange")}
_TAUGHT = (
    (":material/fact_check:", "Known answers", "Does it point at the words that the output really needs?"),
    (
        ":material/visibility_off:",
        "Faithfulness",
        "Does hiding what it ranks first cost more than hiding words at random?",
    ),
    (
        ":material/shuffle:",
        "Shuffled weights",
        "Are its maps gone when the model has lost all that it learnt?",
    ),
)


def page() -> None:
    """Draw the page."""
    frame.head(
        "Which method should I believe?",
        "Methods disagree, and a map looks convincing whether it is right or not. Here each is put to "
        "the test on this very model.",
    )
    place = current_place()
    choice = sidebar.chosen(place)
    if choice is None:
        text_page.no_model(place)
        return
    with frame.friendly():
        _show(place, choice)


def _show(place: Place, choice: Choice) -> None:
    jobs = evaluations.jobs(place, choice)
    running = at_work(jobs)
    if running is not None:
        st.fragment(_at_work, run_every=EVERY)(running, choice.name)
    try:
        kept = evaluations.kept(place, choice)
    except FileError as error:
        frame.failed(error)
        kept = None
    if running is None and jobs:
        _how_it_ended(jobs[0], kept)
    if kept is None:
        if running is None:
            _teach(choice)
            new_evaluation.form(place, choice)
        return
    if not kept.current:
        st.warning(
            "This evaluation is of another state of the model, which has been trained or changed since. What "
            "it says need not hold any more.",
            icon=":material/history:",
        )
        if running is None:
            new_evaluation.form(place, choice, again=True)
            st.divider()
    _answer(kept)
    frame.section("The ranking")
    picked = _picked(kept)
    _ranking(kept, picked)
    _card(kept, picked)
    frame.section("What was looked at")
    _data(kept)
    _downloads(kept)
    if kept.current and running is None:
        with st.expander("Evaluate again", icon=":material/refresh:", key="trust_again"):
            new_evaluation.form(place, choice, again=True)


# ---- none yet, and jobs ----------------------------------------------------------------------------------


def _teach(choice: Choice) -> None:
    """The empty state: what will be measured."""
    box = frame.empty(
        "The methods have not been checked on this model yet",
        "An evaluation asks of every method:",
    )
    for column, (icon, name, asks) in zip(box.columns(3), _TAUGHT, strict=True):
        column.markdown(f"{icon} **{name}**", text_alignment="center")
        column.caption(asks, text_alignment="center")


def _at_work(run: Run, model: str) -> None:
    """A job as it goes; drawn again every second, until it has ended."""
    job_panel(
        run,
        key="trust",
        doing=f"Evaluating the methods on {model}",
        unit="step",
        stopping="it does so after the step it is in",
        note=f"It works in {run.path} and goes on when this page is closed. Steps take unequal times.",
    )


def _how_it_ended(run: Run, kept: Kept | None) -> None:
    """What became of the last job, where it came to nothing and nothing newer is kept."""
    manifest = run.manifest
    ended = datetime.fromtimestamp((run.path / "run.json").stat().st_mtime)
    if manifest["state"] not in ("failed", "stopped") or (kept is not None and kept.made > ended):
        return
    if manifest["state"] == "stopped":
        step, total = jobs_at_work.steps(run)
        where = f" at step {step:,} of {total:,}" if total else ""
        st.caption(plain(f"The last evaluation was stopped{where}, so nothing of it was kept."))
        return
    st.error(
        plain(f"The last evaluation failed: {manifest.get('error') or 'it says not why'}"),
        icon=":material/error:",
    )
    with st.expander("Its log", key="trust_log"):
        st.code("\n".join(run.log_tail(40)) or "nothing", language=None, wrap_lines=True)


# ---- the answer ------------------------------------------------------------------------------------------


def _answer(kept: Kept) -> None:
    found = kept.evaluation
    with st.container(border=True):
        with st.container(key="answer"):
            st.markdown(plain(trust.answer(found)))
        more = " ".join(filter(None, (trust.tally(found), trust.unsettled(found))))
        if more:
            st.caption(plain(more))
        if kept.best:
            trust_card.explain_with(kept.best, key="explain_best", primary=True)


def _picked(kept: Kept) -> str:
    """The method whose card is shown: that of the link, else the first."""
    known = _names(kept.evaluation)
    wanted = state.current().card
    return wanted if wanted in known else known[0] if known else ""


def _names(found: Evaluation) -> list[str]:
    return [*found.ranking, *trust.controls(found)]


def _ranking(kept: Kept, picked: str) -> None:
    found = kept.evaluation
    table, drawn = st.tabs(["Table", "Figure"])
    with table:
        ranking_table(
            ranking(found),
            key="ranking",
            theme=frame.theme(),
            picked=picked,
            best=kept.best,
            leads_to="trust_card",
            on_pick=lambda name: state.change(card=name),
        )
    with drawn:
        frame.figure(
            plots.ranking_figure(found, theme=frame.theme()),
            trust.ranking_help(found),
            key="wide_ranking",
            alt="Points with intervals: the methods, the most trustworthy first",
            python=_python(kept, "ranking_figure(evaluation)"),
        )


def _python(kept: Kept, figure: str) -> str:
    """Lines that draw a figure of the evaluation."""
    made = f"evaluation = explain.load_evaluation({str(kept.folder / FILE)!r})"
    return snippets.drawn(["import explain", "", made], figure)


# ---- one method ------------------------------------------------------------------------------------------


def _card(kept: Kept, picked: str) -> None:
    """The trust card of one method, in full."""
    found = kept.evaluation
    with st.container(key="trust_card"):
        frame.section("Trust card")
        if not picked:
            st.caption("No method was evaluated.")
            return
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        left.selectbox(
            "Method",
            _names(found),
            format_func=lambda name: trust_card.marked(trust.label_of(name), name, kept),
            label_visibility="collapsed",
            **state.bind("card", shown=picked),
        )
        card = trust_card.view_of(kept, picked)
        with right.container(horizontal=True, vertical_alignment="center"):
            trust_card.badge(card)
            if picked != kept.best:
                trust_card.explain_with(picked, key="explain_picked")
        if found.methods[picked].problem:
            st.caption(plain(f"It cannot explain this model: {found.methods[picked].problem}"))
            return
        _checks(found, picked)
        row = st.container(horizontal=True, gap="medium")
        for figure in card.figures:
            with row.container(width="content", gap=None):
                st.metric(figure.name, figure.value)
                st.caption(plain(figure.beside))
        _curves(kept, picked)
        _figures(found, picked)


def _checks(found: Evaluation, name: str) -> None:
    """The questions put to the method, and how they came out."""
    card = found.methods[name].card
    for check in card.checks:
        sign, word, colour = _SIGNS[check.passed if check.passed in (True, False) else None]
        st.markdown(
            f":{colour}[{sign}] **{plain(check.name.capitalize())}** {word}: "
            f"{plain(trust.sentence(check.reason))}"
        )
    if card.verdict in ("doubtful", "control") or not card.checks:
        st.markdown(plain(trust.sentence(card.reason)))


def _curves(kept: Kept, picked: str) -> None:
    found, theme = kept.evaluation, frame.theme()
    names = list(dict.fromkeys([picked, kept.best or picked]))
    if found.methods[picked].faithfulness is not None:
        frame.figure(
            plots.deletion_figure(found, names, theme=theme),
            trust.DELETION_HELP,
            key="wide_deletion",
            alt="Lines: probability of the output as tokens are hidden, and as they are shown",
            python=_python(kept, f"deletion_figure(evaluation, {names!r})"),
        )
    if found.methods[picked].randomisation is not None:
        frame.figure(
            plots.cascade_figure(found, names, theme=theme),
            trust.CASCADE_HELP,
            key="cascade",
            alt="Lines: agreement with the map as more of the weights are shuffled",
            python=_python(kept, f"cascade_figure(evaluation, {names!r})"),
        )


def _figures(found: Evaluation, name: str) -> None:
    """Every figure with what it means."""
    with st.expander("All figures, and what they mean", key="trust_figures"):
        for table in measures.tables(found, name):
            st.markdown(f"**{plain(table.title)}**")
            _table(
                ["figure", "value", "95 % interval", "random", "of", "what it means"],
                [
                    [row.name, row.value, row.interval, row.control, row.count, row.means]
                    for row in table.rows
                ],
            )
        for grid in measures.grids(found.methods[name]):
            st.markdown(f"**{plain(grid.title)}**")
            _table([grid.corner, *grid.columns], [[label, *cells] for label, cells in grid.rows])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table of texts, shown as they are."""
    st.table(
        pd.DataFrame([[plain(text) for text in row] for row in rows], columns=[plain(c) for c in columns]),
        border="horizontal",
        hide_index=True,
    )


# ---- what it rests on ------------------------------------------------------------------------------------


def _data(kept: Kept) -> None:
    """The data, when, how many, how right the model is, and how far the known answers can be relied on."""
    task, made = kept.evaluation.task, kept.made
    facts = [
        ("Data", shown(task.name)),
        ("When", f"{made.day} {made:%B %Y, %H:%M}"),
        ("Outputs", f"{task.examples:,}"),
    ]
    if not math.isnan(task.exact_match):
        facts.append(("Exactly right", whole_percent(task.exact_match)))
    gold = task.verification
    if gold is not None and gold.dependencies:
        facts.append(("Answers verified", whole_percent(gold.verified_share)))
        facts.append(("Dropped", whole_percent(gold.dropped_share)))
    row = st.container(horizontal=True, gap="medium")
    for name, value in facts:
        with row.container(width="content", gap=None):
            st.caption(name)
            st.text(value)
    if gold is not None and gold.dependencies:
        st.caption(
            plain(
                f"Of {gold.examples:,} outputs {gold.correct:,} are exactly right, and only these have a "
                f"known answer. The task names {gold.dependencies:,} dependencies in them; {gold.testable:,} "
                "could be tested by swapping a fact of the source for another, and the model bore out "
                f"{gold.verified:,}. The others were dropped: they count neither for a method nor against it."
            )
        )


def _downloads(kept: Kept) -> None:
    found = kept.evaluation
    offered: tuple[tuple[str, str, str, Callable[[], str | bytes], str], ...] = (
        (
            "Page (HTML)",
            "evaluation.html",
            "text/html",
            lambda: evaluation_page(found),
            "One offline page with the ranking, every trust card, and how it was found out.",
        ),
        (
            "Data (JSON)",
            FILE,
            "application/json",
            (kept.folder / FILE).read_bytes,
            "Everything, read back by explain.load_evaluation.",
        ),
    )
    with st.container(horizontal=True):
        for label, name, mime, data, help in offered:
            st.download_button(
                label,
                data=data,
                file_name=name,
                mime=mime,
                help=help,
                icon=":material/download:",
                on_click="ignore",
                key=f"download_{name}",
            )
