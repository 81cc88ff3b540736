"""The output as a strip to pick a token from, and what else the model might have written there."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import frame, state
from dashboard.components.strips import Strip, strips
from dashboard.labels import plain
from explain.attribution.objectives import Foil
from explain.report.labels import probability, shorten, token_label
from explain.results import Alternative, Generation

ALTERNATIVES = 5


def step_of(generation: Generation) -> int:
    """The output token that is looked at; the least certain one where none is chosen."""
    step = state.current().step
    return step if 0 <= step < len(generation.target_tokens) else int(generation.log_probs.argmin())


def output(
    generation: Generation,
    *,
    key: str,
    hint: str,
    beside: Sequence[Strip] = (),
    whole: bool = False,
    notes: Sequence[str] = (),
) -> int | None:
    """Show the output to pick a token of, and strips that light up with it; returns the token.

    Args:
        generation: the output.
        key: unique on the page.
        hint: what a click does.
        beside: further strips.
        whole: no token stands for the whole output, and is what is shown first.
        notes: for each token what is read out beside it; the probabilities by default.
    """
    step = state.current().step
    chosen = step if 0 <= step < len(generation.target_tokens) else None
    if chosen is None and not whole:
        chosen = step_of(generation)
    pick = Strip(
        "output",
        "Output",
        generation.target_tokens,
        generation.target_text,
        role="pick",
        notes=list(notes) or [f"probability {probability(float(x))}" for x in generation.log_probs],
        hint=hint,
    )
    strips(
        [pick, *beside],
        key=key,
        theme=frame.theme(),
        picked=chosen,
        on_pick=lambda row: state.change(step=-1 if row is None else row),
    )
    return chosen


def alternatives(generation: Generation, step: int, *, says: str) -> None:
    """What the model might have written instead, each a contrast in one click.

    Args:
        generation: the output.
        step: the output token.
        says: the words before the token's name and the alternatives, with `{}` for the token.
    """
    view, token = state.current(), generation.target_tokens[step]
    found = generation.alternatives(step, min(ALTERNATIVES + 1, generation.top_ids.shape[1]))
    offered = {each.id: each for each in found if each.id != token.id}
    if not offered:
        return
    key = f"inside_foil_{step}"
    st.session_state[key] = view.foil if view.foil in offered and view.contrast else None

    def change() -> None:
        chosen = st.session_state[key]
        contrast = "" if chosen is None else token_label(offered[chosen].text)
        state.change(contrast=contrast, foil=-1 if chosen is None else chosen, step=step)

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(plain(says.format(token_label(token))), width="content")
        st.pills(
            "Rather than",
            list(offered),
            format_func=lambda id_: plain(
                f"{shorten(token_label(offered[id_].text), 20)} {probability(offered[id_].log_prob)}"
            ),
            key=key,
            on_change=change,
            label_visibility="collapsed",
            width="content",
        )


def foil() -> Foil | None:
    """What stands against the output token, as the analyses take it."""
    view = state.current()
    if not view.contrast:
        return None
    return Alternative(view.contrast, view.foil, float("nan"), 0) if view.foil >= 0 else view.contrast
