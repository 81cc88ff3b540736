"""Generate: what did it write, and what else might it have written?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard import cache, examples, frame, inputs, snippets, state
from dashboard.catalogue import Choice, current_place
from dashboard.components.beside import beside
from dashboard.components.strips import Strip, strips
from dashboard.components.writing import writing
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import beams, sampling, text_page
from explain.errors import ExplainError
from explain.report import plots
from explain.report.labels import number, plural, probability, token_label
from explain.results import Generation

OFFERED = 8
_FAILED = "generate_failed"


def page() -> None:
    """Draw the page."""
    text_page.draw(
        "What did it write, and what else might it have written?",
        "Click a token of the output to see what else the model weighed there; choose another, and it goes "
        "on from that.",
        _show,
        form=inputs.writing_form,
    )


def _show(choice: Choice, example: Example, generation: Generation) -> None:
    python = snippets.written(choice, example)
    st.divider()
    failed = st.session_state.pop(_FAILED, "")
    if failed:
        st.error(plain(failed), icon=":material/error:")
    if example.origin:
        _beside(choice, example, generation)
    step = _step(generation)
    strips(
        [Strip("source", "Source", generation.source_tokens, generation.source_text)],
        key="generate_strips",
        theme=frame.theme(),
    )
    writing(
        generation,
        offered=OFFERED,
        key="generate_writing",
        theme=frame.theme(),
        picked=step,
        on_pick=lambda picked: state.change(step=-1 if picked is None else picked),
        on_fork=lambda at, id_: fork(choice, example, [*generation.target_ids[:at].tolist(), id_]),
    )
    st.caption(
        "The more violet a token, the less likely it was; the higher the bar below it, the more the model "
        "hesitated (entropy; 0 nats is no doubt). A number such as #2 is the rank of a token that was not "
        "the most likely one."
    )
    _summary(generation)
    if step >= 0:
        sampling.show(choice, example, generation, step, python)
    beams.show(
        choice,
        example,
        on_choose=lambda ids: fork(choice, example, [*example.prefix, *ids]),
    )
    # Filled when it is opened: a table and two figures that nobody asked for would delay the first page.
    sure = st.expander("How sure it was, token by token", key="certainty", on_change="rerun")
    if sure.open:
        with sure:
            _certainty(generation, python)


def fork(choice: Choice, example: Example, ids: Sequence[int]) -> None:
    """Make the view's example the one that begins with these ids; the model writes the rest."""
    kept = dict(example.controls)
    try:
        branch = Example(
            example.source,
            None,
            kept,
            prefix=tuple(ids),
            model=cache.facts(choice)["digest"],
            origin=state.current().example,
        )
        state.change(example=examples.save(current_place(), branch), step=len(ids) - 1, query=-1)
    except ExplainError as error:
        st.session_state[_FAILED] = str(error)


def _step(generation: Generation) -> int:
    """The step that is looked at: the chosen one, else the one that the model was least sure of."""
    steps = len(generation.target_tokens)
    if 0 <= state.current().step < steps:
        return state.current().step
    return int(generation.log_probs.argmin()) if steps else -1


def _beside(choice: Choice, example: Example, generation: Generation) -> None:
    """What a branch branches off from, and what has become of it."""
    origin = examples.find(current_place(), example.origin)
    if origin is None:
        return
    before = cache.generation(choice, origin)
    pairs = zip(example.prefix, before.target_ids.tolist(), strict=False)
    same = min(len(example.prefix), len(before.target_tokens))
    at = next((step for step, (one, other) in enumerate(pairs) if one != other), same)
    said = "You had it begin as it did the first time; the rest is its own"
    if at < len(example.prefix):
        shared = at < len(before.target_tokens)
        instead = f" instead of ‘{token_label(before.target_tokens[at])}’" if shared else ""
        chosen = token_label(generation.target_tokens[at])
        said = f"You had it write ‘{chosen}’{instead} at step {at}; the rest is its own"
    with st.container(border=True, key="branch"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(f"**{plain(said)}**", width="content")
            if st.button("Back to the first", icon=":material/undo:", type="tertiary", key="back"):
                state.change(example=example.origin, step=at)
                st.rerun()
        beside(before, generation, names=("First", "With your token"), key="beside", theme=frame.theme())
        st.caption(
            "Struck through: only in the first output. Underlined: only in the second. Nats per token: how "
            "likely the model finds each output as a whole, your token included; 0 is certain."
        )


def _summary(generation: Generation) -> None:
    count = len(generation.target_tokens)
    mean = float(generation.log_probs.mean()) if count else math.nan
    how = {
        "greedy": "the most likely token at every step",
        "beam": f"beam search with {generation.settings.get('num_beams')} beams",
        "sample": f"sampling with seed {generation.settings.get('seed')}",
        "forced": "given, not written by the model (tokens underlined with dots)",
    }[str(generation.settings["decoding"])]
    given = int(generation.settings.get("prefix_tokens", 0))
    if given:
        how = f"the first {plural(given, 'token')} given (underlined with dots), then {how}"
    st.caption(
        plain(
            f"{plural(count, 'token')} · {how} · mean log-probability {number(mean)} nats per token "
            f"(0 = certain; this is a probability of {probability(mean)})"
        )
    )
    if not generation.finished:
        limit = generation.settings.get("max_new_tokens", count)
        st.warning(
            f"The output was cut at {limit} tokens, before its end. “Longest output” is under "
            "“How it decodes”.",
            icon=":material/content_cut:",
        )


def _certainty(generation: Generation, python: Sequence[str]) -> None:
    frame.figure(
        plots.token_log_probs(generation, theme=frame.theme()),
        "Each bar hangs down by how unlikely the token was; 0 nats is certain, −0.7 is one in two.",
        key="log_probs",
        alt="Bars: log-probability of each output token",
        python=snippets.drawn(python, "token_log_probs(generation)"),
    )
    frame.figure(
        plots.entropy_strip(generation, theme=frame.theme()),
        "The stronger a cell's colour, the more the model hesitated at that step; 0 nats is no doubt at all.",
        key="entropy",
        alt="Strip: entropy at each step",
        python=snippets.drawn(python, "entropy_strip(generation)"),
    )
    st.dataframe(
        pd.DataFrame(
            {
                "step": range(len(generation.target_tokens)),
                "token": [token_label(token) for token in generation.target_tokens],
                "probability": generation.log_probs.exp().tolist(),
                "log-prob (nats)": generation.log_probs.tolist(),
                "entropy (nats)": generation.entropy.tolist(),
                "rank": generation.ranks.tolist(),
            }
        ),
        hide_index=True,
    )
