"""The question put to a method: which one, about what, against what. All of it comes from the registry."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """A method and what it is asked.

    Attributes:
        method: the method.
        objective: what is explained.
        contrast: what stands against the output, or None.
        options: those of the method's settings that differ from its defaults.
        foil: the id of the token that the contrast stands for; -1 where it is a text.
        second: another method to be asked the same, with its defaults, or None.
    """

    method: Method
    objective: str
    contrast: str | None
    options: dict[str, Any]
    foil: int = -1
    second: Method | None = None

    def of(self, method: Method, *, options: dict[str, Any] | None = None) -> Asked:
        """The same asked of another method, as far as that can be asked it."""
        return Asked(
            method,
            self.objective if method.objective else "log_prob",
            self.contrast if method.contrast else None,
            options or {},
            self.foil if method.contrast else -1,
        )


def ask(kept: Kept | None = None) -> Asked:
    """The controls, and what they say; methods are marked by the evaluation of the model."""
    view = state.current()
    names = by_kind()
    name = view.method if view.method in names else names[0]
    method = REGISTRY.get(name)
    with st.container(border=True):
        one, beside, two, three, four = st.columns([12, 7, 8, 6, 5], vertical_alignment="bottom")
        one.selectbox(
            "Method",
            names,
            format_func=lambda item: trust_card.marked(title(item), item, kept),
            help="Grouped by what they look at. Type a few letters to find one. "
            + ("★ is the most trusted on this model; ✗ failed its checks." if kept else ""),
            **state.bind("method", shown=name, options=""),
        )
        second = _second(beside, name, names, kept)
        asks = [method, *([second] if second else [])]
        _objective(two, asks)
        _contrast(three, asks)
        four.selectbox(
            "Between",
            CHOICES,
            format_func=lambda item: LEVEL_NAMES[item],
            help="Merge the pieces of a word, or the words of a sentence: their scores are summed.",
            **state.bind("level", shown=view.level if view.level in CHOICES else CHOICES[0]),
        )
        for each in asks:
            name_first = f"**{plain(each.label)}:** " if second else ""
            st.caption(name_first + plain(each.reads + (f" ({each.paper})" if each.paper else "")))
        trust_card.reason(kept, name)
        settings = options.ask(method)
    view = state.current()
    whole = Asked(
        method,
        view.objective if view.objective in OBJECTIVES else "log_prob",
        view.contrast or None,
        settings,
        view.foil if view.contrast else -1,
        second,
    )
    return replace(whole.of(method, options=settings), second=second)


def by_kind() -> list[str]:
    """The methods, those of one kind together."""
    return sorted(REGISTRY.rows, key=lambda name: KINDS.index(REGISTRY.get(name).kind))


def title(name: str) -> str:
    """What a method is called among many: `Gradients · Saliency`."""
    method = REGISTRY.get(name)
    return f"{KIND_NAMES.get(method.kind, method.kind)} · {method.label}"


def _second(column: Any, name: str, names: list[str], kept: Kept | None) -> Method | None:
    view = state.current()
    shown = view.second if view.second in names and view.second != name else ""
    column.selectbox(
        "Beside it",
        ["", *(item for item in names if item != name)],
        format_func=lambda item: trust_card.marked(title(item), item, kept) if item else "no other",
        help="A second method on the same output, with its own defaults: where two unlike methods agree, "
        "both are easier to believe.",
        **state.bind("second", shown=shown),
    )
    return REGISTRY.get(shown) if shown else None


def _objective(column: Any, asks: list[Method]) -> None:
    known = list(OBJECTIVES)
    if not any(method.objective for method in asks):
        column.selectbox("What is explained", ["–"], disabled=True, help="This method explains no objective.")
        return
    view = state.current()
    column.selectbox(
        "What is explained",
        known,
        format_func=lambda item: OBJECTIVE_NAMES.get(item, item.replace("_", " ")),
        **state.bind("objective", shown=view.objective if view.objective in known else "log_prob"),
    )


def _contrast(column: Any, asks: list[Method]) -> None:
    if not any(method.contrast for method in asks):
        column.text_input("Rather than", disabled=True, placeholder="takes no contrast")
        return
    column.text_input(
        "Rather than",
        max_chars=200,
        placeholder="another word",
        help="A foil: why this rather than that? One token stands against every output token, a longer text "
        "is aligned by position.",
        **state.bind("contrast", foil=-1),
    )
