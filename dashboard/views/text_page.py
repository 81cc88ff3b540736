"""What the pages about one text have in common: a model, a text, and its output before anything is shown."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard import frame, inputs, sidebar, state
from dashboard.catalogue import Choice, Place, choices, current_place
from dashboard.examples import Example
from explain.results import Generation


def draw(
    question: str,
    answer: str,
    show: Callable[[Choice, Example, Generation], None],
    *,
    form: Callable[[Place, Choice], None] = inputs.change_text,
    above: Callable[[], None] | None = None,
) -> None:
    """Draw a page about one text: ask for what is missing, else show.

    Args:
        question: what the page answers.
        answer: in one sentence, how.
        show: draws the rest of the page.
        form: how the text can be changed, above what is shown.
        above: draws what stands right below the head, whatever is missing.
    """
    frame.head(question, answer)
    if above is not None:
        above()
    place = current_place()
    choice = sidebar.chosen(place)
    if choice is None:
        no_model(place)
        return
    if not state.current().example:
        inputs.ask_for_text(place, choice)
        return
    form(place, choice)
    found = inputs.generation(place, choice)
    if found is not None:
        with frame.friendly():
            show(choice, *found)


def no_model(place: Place) -> None:
    """The empty state where no model is chosen or none can be."""
    if choices(place):
        frame.empty("Choose a model", "They are listed on the left, under Model.")
        return
    box = frame.empty("No model to look at yet", "Train a small one; that takes about a minute.")
    if box.button("Train a model", type="primary", icon=":material/model_training:"):
        st.switch_page("routes/train.py")
