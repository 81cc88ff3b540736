"""Generate: what did it write, and what else might it have written?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard import frame, inputs, snippets, state
from dashboard.catalogue import Choice
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import text_page
from explain.report import plots
from explain.report.labels import array, number, plural, probability, token_label
from explain.results import Generation

OFFERED = 8


def page() -> None:
    """Draw the page."""
    text_page.draw(
        "What did it write, and what else might it have written?",
        "The output, each token coloured by how unsure the model was. Click one to see what else it weighed.",
        _show,
        form=inputs.text_form,
    )


def _show(choice: Choice, example: Example, generation: Generation) -> None:
    st.divider()
    show(generation, snippets.written(choice, example))


def show(generation: Generation, python: Sequence[str]) -> None:
    """The output, token by token, and what the model thought of it; `python` are the lines that made it."""
    steps = len(generation.target_tokens)
    step = state.current().step if 0 <= state.current().step < steps else _least_sure(generation)
    shown = [
        Strip("source", "Source", generation.source_tokens, generation.source_text),
        Strip(
            "output",
            "Output",
            generation.target_tokens,
            generation.target_text,
            role="pick",
            values=1 - array(generation.log_probs.exp()),
            bar=Bar("doubt", 1.0, "probability", ends=("1", "0"), numbers=False),
            notes=[_note(generation, t) for t in range(steps)],
            hint="click a token",
        ),
    ]
    strips(shown, key="generate_strips", theme=frame.theme(), picked=step, on_pick=_pick)
    _summary(generation)
    frame.section("What else it might have written here")
    _alternatives(generation, step, python)
    if generation.beams:
        frame.section("The beams")
        _beams(generation)
    with st.expander("How sure it was, token by token"):
        _certainty(generation, python)


def _pick(step: int | None) -> None:
    state.change(step=-1 if step is None else step)


def _least_sure(generation: Generation) -> int:
    return int(generation.log_probs.argmin()) if len(generation.target_tokens) else -1


def _note(generation: Generation, step: int) -> str:
    value = float(generation.log_probs[step])
    return (
        f"step {step} · probability {probability(value)} · rank {int(generation.ranks[step]):,} · "
        f"log-probability {number(value)} nats · entropy {number(float(generation.entropy[step]))} nats"
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
    st.caption(
        plain(
            f"{plural(count, 'token')} · {how} · mean log-probability {number(mean)} nats per token "
            f"(0 = certain; this is a probability of {probability(mean)})"
        )
    )
    if not generation.finished:
        limit = generation.settings.get("max_new_tokens", count)
        st.warning(
            f"The output was cut at {limit} tokens, before its end. “Longest output” is in Settings.",
            icon=":material/content_cut:",
        )


def _alternatives(generation: Generation, step: int, python: Sequence[str]) -> None:
    if step < 0:
        st.caption("The output is empty.")
        return
    kept = min(OFFERED, generation.top_ids.shape[1])
    left, right = st.columns([3, 2], gap="medium")
    with left:
        frame.figure(
            plots.alternatives_bars(generation, step, kept, theme=frame.theme()),
            "The filled bar is the token in the output. A probability of 1 is certain; the rest of 1 goes to "
            "tokens that are not shown.",
            key="alternatives",
            alt=f"Bars: the {kept} most likely tokens at step {step}",
            python=snippets.drawn(python, f"alternatives_bars(generation, {step}, {kept})"),
        )
    with right:
        st.dataframe(
            pd.DataFrame(
                [
                    {
                        "rank": item.rank,
                        "token": token_label(item.text),
                        "probability": math.exp(item.log_prob),
                        "log-prob (nats)": item.log_prob,
                    }
                    for item in generation.alternatives(step, kept)
                ]
            ),
            hide_index=True,
            column_config={
                "probability": st.column_config.NumberColumn(format="%.4f"),
                "log-prob (nats)": st.column_config.NumberColumn(format="%.3f"),
            },
        )


def _beams(generation: Generation) -> None:
    st.dataframe(
        pd.DataFrame(
            [
                {"beam": place + 1, "score (nats)": beam.score, "output": beam.text}
                for place, beam in enumerate(generation.beams)
            ]
        ),
        hide_index=True,
        column_config={"score (nats)": st.column_config.NumberColumn(format="%.4f")},
    )
    st.caption(
        "The score is the beam's log-probability, evened out over its length; 0 is certain. The best wins."
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
        "The darker a cell, the more the model hesitated at that step; 0 nats is no doubt at all.",
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
