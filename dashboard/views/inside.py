"""Inside: what happens between the source and the output?"""

from __future__ import annotations

import streamlit as st

from dashboard import frame, sidebar, state
from dashboard.catalogue import current_place
from dashboard.views import inside_causes, inside_lenses, inside_neurons, inside_projector, text_page

TABS = {"lenses": "Lenses", "causes": "Causes", "neurons": "Neurons", "projector": "Projector"}
ANSWERS = {
    "lenses": "Read every layer as if it were the last: where does the output take shape, and who wrote it?",
    "causes": "Change one thing inside and look at what becomes of the output: that is how a cause shows.",
    "neurons": "Go through many texts and see where a single neuron is most active: what does it respond to?",
    "projector": "Put the states of many tokens on a plane: what does the model hold apart, what together?",
}


def page() -> None:
    """Draw the page."""
    view = state.current()
    tab = view.inside if view.inside in TABS else "lenses"
    if tab in ("lenses", "causes"):
        show = inside_lenses.show if tab == "lenses" else inside_causes.show
        text_page.draw("What happens inside?", ANSWERS[tab], show, above=lambda: _tabs(tab))
        return
    frame.head("What happens inside?", ANSWERS[tab])
    _tabs(tab)
    place = current_place()
    choice = sidebar.chosen(place)
    if choice is None:
        text_page.no_model(place)
        return
    with frame.friendly():
        (inside_neurons if tab == "neurons" else inside_projector).show(place, choice)


def _tabs(tab: str) -> None:
    st.segmented_control(
        "What is asked",
        list(TABS),
        format_func=lambda name: TABS[name],
        label_visibility="collapsed",
        **state.bind("inside", shown=tab, point=""),
    )
