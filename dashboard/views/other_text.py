"""The form that asks for the same text with something changed: suggestions in one click, or typed."""

from __future__ import annotations

import dataclasses

import streamlit as st

from dashboard import analyses, cache, examples, frame, state
from dashboard.catalogue import Choice, Place
from dashboard.examples import Example
from dashboard.labels import plain
from explain.analysis.source_edits import SourceEdit, source_edits
from explain.errors import ExplainError
from explain.report.labels import plural, shorten
from explain.results import Generation
from explain.training import tasks

POOL = 60
"""Texts of a task whose words are offered."""


def ask(
    place: Place, choice: Choice, example: Example, generation: Generation, *, same_length: bool
) -> tuple[Example, Generation] | None:
    """The edited text and its output; None, with what is missing, where there is none yet.

    Args:
        place: where the dashboard works.
        choice: the model.
        example: the text as it is.
        generation: its output.
        same_length: the edited text must have as many tokens.
    """
    chosen = _chosen(place, example)
    with st.container(border=True):
        _suggestions(place, choice, example)
        key = f"other_{example.id}"
        if st.session_state.get(f"{key}_of") != (chosen and chosen.id):
            st.session_state[key] = chosen.source if chosen else example.source
            st.session_state[f"{key}_of"] = chosen and chosen.id
        st.text_area(
            "The text with something changed",
            key=key,
            height=80,
            on_change=_typed,
            args=(place, example, key),
            help="Ctrl + Enter hands it in."
            + (" It must have as many tokens as the text as it is." if same_length else ""),
        )
        if chosen is None:
            st.caption("Pick a change above, or change a word in the text.")
            return None
        try:
            with st.spinner("The model is at work …", show_time=True):
                written = cache.generation(choice, chosen)
        except ExplainError as error:
            frame.failed(error)
            return None
        mine, other = len(generation.source_tokens), len(written.source_tokens)
        if same_length and mine != other:
            st.warning(
                plain(
                    f"This text has {plural(other, 'token')}, the text as it is has {mine}. Places can only "
                    "be matched where both have as many: swap a word for one of the same length in tokens."
                ),
                icon=":material/straighten:",
            )
            return None
    return chosen, written


def _chosen(place: Place, example: Example) -> Example | None:
    """The edited text of the view, if it is one of this example."""
    found = examples.find(place, state.current().other)
    if found is None or found.origin != example.id or found.source == example.source:
        return None
    return found


def _typed(place: Place, example: Example, key: str) -> None:
    _take(place, example, st.session_state[key])


def _take(place: Place, example: Example, text: str) -> None:
    if not text.strip() or text == example.source:
        state.change(other="")
        return
    edited = dataclasses.replace(example, source=text, target=None, prefix=(), model="", origin=example.id)
    try:
        state.change(other=examples.save(place, edited))
    except ExplainError as error:
        st.session_state["other_failed"] = str(error)


def _suggestions(place: Place, choice: Choice, example: Example) -> None:
    with frame.friendly():
        offered = _offered(choice, example)
        if not offered:
            return
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption("Try", width="content")
            for number, edit in enumerate(offered):
                st.button(
                    plain(f"{shorten(edit.was, 18)} → {shorten(edit.now, 18)}"),
                    key=f"edit_{number}",
                    on_click=_take,
                    args=(place, example, edit.text),
                )


def _offered(choice: Choice, example: Example) -> list[SourceEdit]:
    pool = tasks.get(choice.task).examples("held_out", POOL, 0) if choice.task in tasks.names() else []
    unknown = bool(example.controls.get("allow_unknown"))
    return analyses.kept(
        analyses.key("edits", choice, example.source, unknown),
        lambda: source_edits(cache.model(choice), example.source, pool, allow_unknown=unknown),
    )
