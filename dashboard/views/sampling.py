"""Bolder or wilder: what temperature, top-k and top-p make of one step, without asking the model again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st
import torch

from dashboard import cache, frame, snippets, state
from dashboard.catalogue import Choice
from dashboard.examples import Example
from dashboard.labels import plain
from explain.model.sampling import entropy_of, reshaped
from explain.report import plots
from explain.report.labels import number, plural, probability
from explain.results import Generation

SHOWN = 8
FIELDS = {"temperature", "top_k", "top_p"}
_TRIED = "explain_sampling_tried"
LARGE = 100
"""Megabytes of logits that are not kept without asking."""


def show(choice: Choice, example: Example, generation: Generation, step: int, python: Sequence[str]) -> None:
    """The sliders, the bars of one step, and what they do to the whole output."""
    # Filled when it is opened, or where the link says what was tried: a figure's library is large, and the
    # browser would read it before the tokens can be clicked.
    if FIELDS & state.to_parameters(state.current()).keys():
        st.session_state[_TRIED] = True  # and it stays open when the sliders go back to where they were
    box = st.expander(
        "Bolder or wilder: if it drew its tokens",
        expanded=_TRIED in st.session_state,
        key="sampling",
        on_change="rerun",
    )
    if box.open:
        with box:
            _filled(choice, example, generation, step, python)


def _filled(
    choice: Choice, example: Example, generation: Generation, step: int, python: Sequence[str]
) -> None:
    size = len(generation.target_tokens) * cache.facts(choice)["vocabulary"] * 4 / 1e6
    if size > LARGE and not st.toggle(f"Keep the logits of every step (about {size:,.0f} MB of memory)"):
        st.caption("One pass over the output; after that the sliders move without asking the model.")
        return
    with st.spinner("Keeping the logits …"):
        logits = cache.logits(choice, example)
    _try_out(generation, logits, step, list(python))


@st.fragment
def _try_out(generation: Generation, logits: torch.Tensor, step: int, python: list[str]) -> None:
    left, middle, right = st.columns(3, gap="medium")
    vocabulary = logits.shape[1]
    with left:
        temperature = st.slider(
            "Temperature",
            0.1,
            3.0,
            step=0.05,
            help="Below 1 the likely become likelier still, above 1 all come closer together.",
            **_bound("temperature", 100, 0.1, 3.0),
        )
    with middle:
        top_k = st.slider(
            "Top k (0: no limit)",
            0,
            min(50, vocabulary),
            help="Only the k most likely tokens may be drawn.",
            **_bound("top_k", 1, 0, min(50, vocabulary)),
        )
    with right:
        top_p = st.slider(
            "Top p",
            0.05,
            1.0,
            step=0.05,
            help="Only the most likely tokens that hold this probability together may be drawn.",
            **_bound("top_p", 100, 0.05, 1.0),
        )
    settings = {"temperature": temperature, "top_k": int(top_k), "top_p": top_p}
    drawn = reshaped(logits, **settings)  # [target, vocabulary]
    tokens = generation.alternatives(step, min(SHOWN, generation.top_ids.shape[1]))
    written = int(generation.target_ids[step])
    shown = [token.id for token in tokens]
    frame.figure(
        plots.reshaped_bars(tokens, drawn[step, shown], step=step, written=written, theme=frame.theme()),
        "The upper bar is the model's own probability, the full one below it that with which sampling would "
        "draw the token. The dot marks the token in the output; what is cut off can no longer come.",
        key="reshaped",
        alt=f"Bars: probabilities of the {len(tokens)} most likely tokens at step {step}, before and after",
        python=_python(python, step, len(tokens), settings),
    )
    st.caption(plain(_says(generation, drawn, step)))


def _says(generation: Generation, drawn: torch.Tensor, step: int) -> str:
    left = int((drawn[step] > -math.inf).sum())
    before, after = float(generation.entropy[step]), float(entropy_of(drawn[step]))
    chosen = drawn.gather(1, generation.target_ids[:, None])[:, 0]
    whole, own = float(chosen.sum()), float(generation.log_probs.sum())
    same = "cannot come about" if math.isinf(whole) else f"has a probability of {probability(whole)}"
    return (
        f"Entropy of step {step}: {number(before)} → {number(after)} nats, with {plural(left, 'token')} of "
        f"{drawn.shape[1]:,} left to draw from. Drawn like this at every step, exactly this output {same}; "
        f"as the model gives it, {probability(own)}."
    )


def _python(lines: list[str], step: int, count: int, settings: dict[str, Any]) -> str:
    first, *rest = lines
    call = snippets.call("reshaped", ["logits[step]"], settings)
    return "\n".join(
        [
            first,
            "from explain.model.sampling import reshaped",
            "from explain.report import plots",
            *rest,
            f"step, tokens = {step}, generation.alternatives({step}, {count})",
            'logits = model.capture(generation, "logits")["logits"][0]',
            f"drawn = {call}[[token.id for token in tokens]]",
            "plots.reshaped_bars(tokens, drawn, step=step, written=int(generation.target_ids[step])).show()",
        ]
    )


def _bound(field: str, scale: int, low: float, high: float) -> dict[str, Any]:
    """Ties a slider to a field of the view that holds its value times `scale`, as a whole number."""
    key = f"view_{field}"
    value = getattr(state.current(), field)
    st.session_state[key] = min(max(value if scale == 1 else value / scale, low), high)

    def commit() -> None:
        state.change(**{field: round(st.session_state[key] * scale)})

    return {"key": key, "on_change": commit}
