"""The question put to a method: which one, about what, against what. All of it comes from the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import state
from dashboard.evaluations import Kept
from dashboard.labels import plain
from dashboard.views import options, trust_card
from explain.attribution import OBJECTIVES, REGISTRY, Method
from explain.attribution.registry import KINDS
from explain.report.labels import OBJECTIVES as OBJECTIVE_NAMES
from explain.report.levels import CHOICES

KIND_NAMES = {
    "gradient": "Gradients",
    "perturbation": "Perturbation",
    "internals": "Inside the model",
    "control": "Control",
}
LEVEL_NAMES = {"token": "Tokens", "word": "Words", "sentence": "Sentences"}


@dataclass(frozen=True)
class Asked:
    """A method and what it is asked; `options` are those that differ from the method's defaults."""

    method: Method
    objective: str
    contrast: str | None
    options: dict[str, Any]


def ask(kept: Kept | None = None) -> Asked:
    """The controls, and what they say; methods are marked by the evaluation of the model."""
    view = state.current()
    names = by_kind()
    name = view.method if view.method in names else names[0]
    method = REGISTRY.get(name)
    with st.container(border=True):
        one, two, three, four = st.columns([14, 6, 6, 5], vertical_alignment="bottom")
        one.selectbox(
            "Method",
            names,
            format_func=lambda item: trust_card.marked(title(item), item, kept),
            help="Grouped by what they look at. Type a few letters to find one. "
            + ("★ is the most trusted on this model; ✗ failed its checks." if kept else ""),
            **state.bind("method", shown=name, options=""),
        )
        _objective(two, method)
        _contrast(three, method)
        four.selectbox(
            "Between",
            CHOICES,
            format_func=lambda item: LEVEL_NAMES[item],
            help="Merge the pieces of a word, or the words of a sentence: their scores are summed.",
            **state.bind("level", shown=view.level if view.level in CHOICES else CHOICES[0]),
        )
        st.caption(plain(method.reads + (f" ({method.paper})" if method.paper else "")))
        trust_card.reason(kept, name)
        settings = options.ask(method)
    return Asked(
        method,
        state.current().objective
        if method.objective and state.current().objective in OBJECTIVES
        else "log_prob",
        (state.current().contrast or None) if method.contrast else None,
        settings,
    )


def by_kind() -> list[str]:
    """The methods, those of one kind together."""
    return sorted(REGISTRY.rows, key=lambda name: KINDS.index(REGISTRY.get(name).kind))


def title(name: str) -> str:
    """What a method is called among many: `Gradients · Saliency`."""
    method = REGISTRY.get(name)
    return f"{KIND_NAMES.get(method.kind, method.kind)} · {method.label}"


def _objective(column: Any, method: Method) -> None:
    known = list(OBJECTIVES)
    if not method.objective:
        column.selectbox("What is explained", ["–"], disabled=True, help="This method explains no objective.")
        return
    view = state.current()
    column.selectbox(
        "What is explained",
        known,
        format_func=lambda item: OBJECTIVE_NAMES.get(item, item.replace("_", " ")),
        **state.bind("objective", shown=view.objective if view.objective in known else "log_prob"),
    )


def _contrast(column: Any, method: Method) -> None:
    if not method.contrast:
        column.text_input("Rather than", disabled=True, placeholder="takes no contrast")
        return
    column.text_input(
        "Rather than",
        max_chars=200,
        placeholder="another word or output",
        help="A foil: why this rather than that? One token stands against every output token, a longer text "
        "is aligned by position.",
        **state.bind("contrast"),
    )
