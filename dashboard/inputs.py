"""The form that says what to look at: a source text, and its output written or given."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import cache, examples, frame, state
from dashboard.catalogue import Choice, Place
from dashboard.examples import Example
from dashboard.labels import excerpt, plain
from explain.errors import ExplainError, UnknownTokenError
from explain.results import Generation
from explain.training import tasks

MODES = {
    "greedy": "Most likely",
    "beams": "Beam search",
    "sample": "Sampling",
    "given": "Score a given output",
}
_HELP = {
    "greedy": "Takes the most likely token at every step.",
    "beams": "Follows several outputs at once and keeps the best of them.",
    "sample": "Draws each token by its probability; the same seed draws the same output.",
    "given": "Scores an output that you give, as if the model had written it.",
}
MORE_SAMPLES = 6
MULTILINGUAL = ("mBART", "M2M100")
"""Families whose models must be told the languages."""


def text_form(place: Place, choice: Choice) -> None:
    """The form; handing it in saves the text and changes the view."""
    _follow_view(place)
    mode = st.session_state["form_mode"] or "greedy"
    with st.form("text", border=False):
        st.text_area(
            "Source text",
            key="form_source",
            height=92,
            label_visibility="collapsed",
            placeholder="Type or paste the text that the model should read",
            persist_state="session",
        )
        if mode == "given":
            st.text_area(
                "Output to score",
                key="form_target",
                height=80,
                label_visibility="collapsed",
                placeholder="The output to score",
                persist_state="session",
            )
        with st.container(horizontal=True, vertical_alignment="center"):
            label = "Score it" if mode == "given" else "Write"
            handed_in = st.form_submit_button(label, type="primary", help="Ctrl + Enter")
            st.caption(_HELP[mode])
    # Outside the form: a choice here changes what else there is to choose at once.
    with st.expander("How it decodes", icon=":material/tune:", key="form_decoding"):
        st.segmented_control(
            "How the output comes about",
            list(MODES),
            format_func=lambda name: MODES[name],
            key="form_mode",
            persist_state="session",
            label_visibility="collapsed",
        )
        controls = _controls(mode) | _reading(choice)
        st.caption(f"It counts from the next time that “{label}” is pressed.")
    if handed_in:
        with frame.friendly():
            _take(place, mode, controls)
            st.rerun()


def writing_form(place: Place, choice: Choice) -> None:
    """The form with a list of examples beside it, for the page that writes."""
    if choice.task in tasks.names():
        with st.container(
            horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="small"
        ):
            st.caption("The text to read", width="content")
            with st.popover("Examples", type="tertiary", icon=":material/lightbulb:", key="form_examples"):
                st.caption("Texts like those that this model was trained on; a click writes its output.")
                for number, sample in enumerate(tasks.preview(tasks.get(choice.task), MORE_SAMPLES)):
                    label = plain(excerpt(sample.source, 64))
                    if st.button(label, key=f"pick_{number}", type="tertiary"):
                        _open(place, sample.source)
    text_form(place, choice)


def _open(place: Place, source: str) -> None:
    with frame.friendly():
        state.change(example=examples.save(place, Example(source)), step=-1, query=-1)
        st.rerun()


def samples(place: Place, choice: Choice, *, key: str = "sample") -> None:
    """One click each: texts of the task that the model was trained for, or a hint where there is none."""
    if choice.task not in tasks.names():
        return
    with st.container(horizontal=True, horizontal_alignment="center", gap="small"):
        for number, sample in enumerate(tasks.preview(tasks.get(choice.task), 3)):
            label = plain(excerpt(sample.source, 44))
            if st.button(label, key=f"{key}_{number}", type="secondary", icon=":material/play_arrow:"):
                _open(place, sample.source)


def generation(place: Place, choice: Choice) -> tuple[Example, Generation] | None:
    """The example of the view and its output; None, with a line that says why, where there is none."""
    try:
        example = examples.load(place, state.current().example)
        with st.spinner("The model is at work …", show_time=True):
            return example, cache.generation(choice, example)
    except ExplainError as error:
        frame.failed(error)
        if isinstance(error, UnknownTokenError):
            st.caption(
                "The switch that accepts such words is under “How it decodes”. Texts that this model knows:"
            )
        samples(place, choice, key="instead")
    return None


def ask_for_text(place: Place, choice: Choice) -> None:
    """The empty state of a page that needs a text: examples in one click, and the form."""
    if choice.task in tasks.names():
        box = frame.empty("Start with an example", "Texts like those that this model was trained on.")
        with box:
            samples(place, choice)
    else:
        frame.empty("Start with a text", "Give the model something to read; everything else follows from it.")
    text_form(place, choice)


def change_text(place: Place, choice: Choice) -> None:
    """The form, tucked away, on pages that already have a text."""
    with st.expander("Another text, or another output"):
        samples(place, choice)
        text_form(place, choice)


def _follow_view(place: Place) -> None:
    """Fill the form from the view's example, once for each example."""
    view = state.current()
    if st.session_state.get("form_of") == view.example and "form_mode" in st.session_state:
        return
    example = examples.find(place, view.example)
    st.session_state["form_of"] = view.example
    mode = "greedy"
    if example is not None:
        st.session_state["form_source"] = example.source
        st.session_state["form_target"] = example.target or ""
        mode = _mode(example)
        for name, value in example.controls.items():
            st.session_state[f"form_{name}"] = value
    st.session_state["form_mode"] = mode


def _mode(example: Example) -> str:
    if example.target is not None:
        return "given"
    if example.controls.get("do_sample"):
        return "sample"
    return "beams" if example.controls.get("num_beams", 1) > 1 else "greedy"


def _take(place: Place, mode: str, controls: dict[str, Any]) -> None:
    source = st.session_state["form_source"]
    target = st.session_state.get("form_target") if mode == "given" else None
    example = Example(source, target if target is None else str(target), controls)
    state.change(example=examples.save(place, example), step=-1, query=-1)


def _number(name: str, label: str, default: float, low: float, high: float, step: float, help: str) -> Any:
    key = f"form_{name}"
    st.session_state.setdefault(key, default)
    return st.number_input(
        label, min_value=low, max_value=high, step=step, key=key, help=help, persist_state="session"
    )


def _controls(mode: str) -> dict[str, Any]:
    """The controls that this way of decoding listens to."""
    if mode == "given":
        return {}
    found: dict[str, Any] = {}
    one, two, three = st.columns(3)
    with one:
        found["max_new_tokens"] = _number(
            "max_new_tokens", "Longest output (tokens)", 128, 1, 1024, 1, "The output is cut there."
        )
    if mode == "beams":
        with two:
            found["num_beams"] = _number("num_beams", "Beams", 4, 2, 32, 1, "Outputs followed at once.")
        with three:
            found["length_penalty"] = _number(
                "length_penalty", "Length penalty", 1.0, -5.0, 5.0, 0.1, "Above 0 favours longer outputs."
            )
    if mode == "sample":
        found["do_sample"] = True
        with two:
            found["temperature"] = _number(
                "temperature", "Temperature", 1.0, 0.05, 5.0, 0.05, "Below 1 is bolder, above 1 wilder."
            )
            found["seed"] = _number("seed", "Seed", 0, 0, 2**31 - 1, 1, "The same seed, the same output.")
        with three:
            found["top_p"] = _number(
                "top_p",
                "Top p (share)",
                1.0,
                0.01,
                1.0,
                0.01,
                "Draw from the best that hold this probability.",
            )
            found["top_k"] = _number("top_k", "Top k", 0, 0, 1000, 1, "Draw from the k best; 0 is all.")
    with one:
        found["repetition_penalty"] = _number(
            "repetition_penalty", "Repetition penalty", 1.0, 0.1, 5.0, 0.1, "Above 1 discourages repeats."
        )
    return found


def _reading(choice: Choice) -> dict[str, Any]:
    """How the texts are read: unknown words, and languages where the model has several."""
    found: dict[str, Any] = {}
    unknown = st.toggle(
        "Accept words that the tokenizer does not know",
        key="form_allow_unknown",
        persist_state="session",
        help="They reach the model as its unknown token.",
    )
    if unknown:
        found["allow_unknown"] = True
    with frame.friendly():
        if cache.facts(choice)["family"] in MULTILINGUAL:
            left, right = st.columns(2)
            for column, name, label in (
                (left, "source_language", "Language of the source (code)"),
                (right, "target_language", "Language of the output (code)"),
            ):
                code = column.text_input(label, key=f"form_{name}", max_chars=20, persist_state="session")
                if code:
                    found[name] = code
    return found
