"""The beam tree: what a beam search followed, what it dropped, and which beam won."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard import cache, frame, snippets, state
from dashboard.catalogue import Choice
from dashboard.components.beams import beams
from dashboard.examples import Example
from dashboard.labels import plain
from explain.report.beam_tree import branches
from explain.report.labels import plural
from explain.results import BeamSearch

FOLLOWED = 4
MOST = 16


def show(choice: Choice, example: Example, *, on_choose: Callable[[list[int]], object]) -> None:
    """The tree of the output's own beam search, or of one that is asked for.

    Args:
        choice: the model.
        example: the text.
        on_choose: called with the ids up to the end of a branch that was clicked, after the example's prefix.
    """
    frame.section("What a beam search follows")
    own = int(example.controls.get("num_beams", 1))
    wanted = own if own > 1 else min(state.current().beams, MOST)
    if wanted < 2:
        _ask()
        return
    with st.spinner(f"Following {wanted} beams …", show_time=True):
        search = cache.beam_search(choice, example, wanted)
    if not search.nodes:
        st.caption("The beginning that was given is the whole output already: there is nothing to search.")
        return
    _tree(search, wanted, own > 1, lambda node: on_choose(search.ids(node)))
    with st.container(
        horizontal=True, vertical_alignment="top", gap="small", wrap=False, key="under_beam_tree"
    ):
        _reading(search)
        _take_away(choice, example, search, wanted)


def _ask() -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if st.button(f"Follow {FOLLOWED} beams", icon=":material/account_tree:", key="follow"):
            state.change(beams=FOLLOWED)
            st.rerun()
        st.caption(
            f"Looks for outputs that are likelier as a whole. It costs about as much as writing {FOLLOWED} "
            "outputs; the output above stays.",
            width="stretch",
        )


def _tree(search: BeamSearch, wanted: int, own: bool, on_choose: Callable[[int], object]) -> None:
    dropped = len(search.nodes) - len(search.returned())
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        if not own:
            st.number_input(
                "Beams", min_value=2, max_value=MOST, width=120, **state.bind("beams", shown=wanted)
            )
        st.toggle(
            f"With what it dropped ({plural(dropped, 'token')})",
            **state.bind("dropped"),
        )
    beams(
        search,
        branches(search, dropped=state.current().dropped),
        key="beam_tree",
        theme=frame.theme(),
        on_choose=on_choose,
    )


def _reading(search: BeamSearch) -> None:
    penalty = search.generation.settings["length_penalty"]
    st.caption(
        plain(
            "What beams have in common stands once; each line below a fork is one way on, with its "
            "probability there. The score is the sum divided by the number of tokens to the power of "
            f"{penalty:g}; the highest wins (1). Click a line, or walk with the arrow keys and press Enter, "
            "to have the model go on from its end."
        ),
        width="stretch",
    )


def _take_away(choice: Choice, example: Example, search: BeamSearch, wanted: int) -> None:
    with st.popover("Save", type="tertiary", icon=":material/download:", key="save_beams"):
        st.download_button(
            "Numbers (CSV)",
            data=lambda: search.to_frame().to_csv(index=False),
            file_name="explain-beams.csv",
            mime="text/csv",
            help="One row for each token that was followed.",
            on_click="ignore",
            key="file_beams.csv",
        )
        options = dict(example.controls) | {"num_beams": wanted}
        for name in ("do_sample", "temperature", "top_k", "top_p", "seed"):
            options.pop(name, None)
        if example.prefix:
            options["prefix_ids"] = list(example.prefix)
        lines = [
            *snippets.opened(choice),
            f"search = {snippets.call('model.beam_search', [repr(example.source)], options)}",
            "print(search.to_frame())",
        ]
        st.caption("The same in Python")
        st.code("\n".join(lines), language="python", wrap_lines=True)
