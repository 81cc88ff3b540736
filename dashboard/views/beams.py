"""The beam tree: what a beam search followed, what it dropped, and which beam won."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard import cache, frame, snippets, state
from dashboard.catalogue import Choice
from dashboard.components.beams import beams
from dashboard.examples import Example
from dashboard.labels import plain
from explain.report.beam_tree import beam_tree_figure, branches
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
    _reading(search)
    _figure(choice, example, search, wanted)


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


def _figure(choice: Choice, example: Example, search: BeamSearch, wanted: int) -> None:
    """The tree as a figure, which can be saved as every other."""
    dropped = state.current().dropped
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
    with st.expander("As a figure, to save it", key="beam_figure"):
        frame.figure(
            beam_tree_figure(search, dropped=dropped, theme=frame.theme()),
            "Each mark is a token, the larger the likelier where it stands; the strong line is the winner. A "
            "beam that was returned ends in its place and its score; open marks were dropped.",
            key="map_beams",
            alt=f"Tree: what {wanted} beams followed, output positions from left to right",
            data=search.to_frame,
            python=snippets.shown(lines, [], f"beam_tree_figure(search, dropped={dropped})", "beam_tree"),
        )
