"""The form that starts an attribution report: on which texts, by which methods."""

from __future__ import annotations

import streamlit as st

from dashboard import cache, evaluations, examples, inputs, reports, sidebar, state
from dashboard.catalogue import Place
from dashboard.labels import excerpt, plain
from dashboard.reports import Plan
from dashboard.views import method, new_evaluation, trust_card
from explain.report.labels import plural
from explain.report.levels import CHOICES
from explain.runs import Run

FITS = ""


def form(place: Place) -> None:
    """The controls, and what it would cost; the button starts the job."""
    choice = sidebar.chosen(place)
    if choice is None:
        st.caption("A report is about a model; choose one on the left, or train one.")
        return
    view = state.current()
    known = reports.recent(place)
    now = examples.find(place, view.example)
    if now is not None:
        known = {view.example: now, **known}
    if not known:
        st.caption(plain(f"A report is about texts; give {choice.name} one first."))
        inputs.samples(place, choice, key="report_sample")
        return
    kept, _ = trust_card.known(choice)
    usual = [view.method if view.method in method.by_kind() else "integrated_gradients", "attention"]
    if kept is not None and kept.best:
        usual = [kept.best, *usual]
    texts = st.multiselect(
        "Texts",
        list(known),
        [view.example] if now is not None else [],
        format_func=lambda id_: excerpt(known[id_].source, 60),
        key=f"report_texts_{view.example}",
    )
    methods = st.multiselect(
        "Methods",
        method.by_kind(),
        list(dict.fromkeys(usual)),
        format_func=lambda name: trust_card.marked(method.title(name), name, kept),
        key=f"report_methods_{view.method}",
    )
    left, right = st.columns([2, 1])
    title = left.text_input("Title", max_chars=120, placeholder="Why the model wrote it", key="report_title")
    level = right.selectbox(
        "Maps by",
        [FITS, *CHOICES],
        format_func=lambda name: f"{name}s" if name else "what fits",
        key="report_level",
    )
    plan = Plan(tuple(known[id_] for id_ in texts), tuple(methods), title.strip(), level)
    if not texts or not methods:
        st.caption("Choose at least one text and one method.")
    else:
        characters = sum(len(text.source) for text in plan.texts) / len(plan.texts)
        parameters = int(cache.facts(choice)["parameters"])
        seconds = evaluations.seconds(plan.methods, len(plan.texts), parameters, characters)
        told = "" if reports.rewritten(plan.texts) else " The outputs are taken as they were written here."
        st.caption(
            plain(
                f"Very roughly {new_evaluation.duration(seconds + 5)}: {plural(len(texts), 'output')} of "
                f"{choice.name}, {plural(len(methods), 'method')}. It runs as a job of its own.{told}"
            )
        )
    if st.button(
        "Make the report",
        type="primary",
        icon=":material/description:",
        disabled=not texts or not methods,
        key="report_start",
    ):
        run = reports.start(place, choice, plan)
        made(run)
        st.rerun()


def made(run: Run) -> None:
    """Show a run that has just begun or come in, and close the box that it came from."""
    st.session_state["boxes"] = st.session_state.get("boxes", 0) + 1
    state.change(run=run.name)
