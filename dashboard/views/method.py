"""The question put to a method: which one, about what, against what. All of it comes from the registry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import streamlit as st

from dashboard import state
from dashboard.labels import plain
from explain.attribution import OBJECTIVES, REGISTRY, Method
from explain.report.labels import OBJECTIVES as OBJECTIVE_NAMES


@dataclass(frozen=True)
class Asked:
    """A method and what it is asked; `options` are those that differ from the method's defaults."""

    method: Method
    objective: str
    contrast: str | None
    options: dict[str, Any]


def ask() -> Asked:
    """The controls, and what they say."""
    view = state.current()
    names = list(REGISTRY.rows)
    name = view.method if view.method in names else names[0]
    method = REGISTRY.get(name)
    with st.container(border=True):
        one, two, three, four = st.columns([4, 3, 3, 2], vertical_alignment="bottom")
        one.selectbox(
            "Method",
            names,
            format_func=lambda item: REGISTRY.get(item).label,
            **state.bind("method", shown=name, options=""),
        )
        _objective(two, method)
        _contrast(three, method)
        four.toggle("Words", help="Merge the pieces of a word.", **state.bind("words"))
        st.caption(plain(method.reads + (f" ({method.paper})" if method.paper else "")))
        options = _options(method)
    return Asked(
        method,
        state.current().objective
        if method.objective and state.current().objective in OBJECTIVES
        else "log_prob",
        (state.current().contrast or None) if method.contrast else None,
        options,
    )


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


def _options(method: Method) -> dict[str, Any]:
    """The method's own settings: one widget for each, by the kind of its default."""
    defaults = asdict(method.settings())
    shown = {name: value for name, value in defaults.items() if isinstance(value, (bool, int, float, str))}
    if not shown:
        return {}
    stored = _stored(state.current().options, shown)
    with st.expander("Settings of the method"):
        columns = st.columns(min(4, len(shown)))
        for index, (name, default) in enumerate(shown.items()):
            column = columns[index % len(columns)]
            _option(column, f"option_{method.name}_{name}", name, stored.get(name, default))
    chosen = {name: st.session_state[f"option_{method.name}_{name}"] for name in shown}
    changed = {name: value for name, value in chosen.items() if value != shown[name]}
    text = json.dumps(changed, sort_keys=True) if changed else ""
    if text != state.current().options:
        state.change(options=text)
    return changed


def _stored(text: str, defaults: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: type(default)(found[name])
        for name, default in defaults.items()
        if isinstance(found.get(name), (int, float) if isinstance(default, float) else type(default))
    }


def _option(column: Any, key: str, name: str, value: Any) -> None:
    label = name.replace("_", " ")
    st.session_state.setdefault(key, value)
    if isinstance(value, bool):
        column.toggle(label, key=key, persist_state="session")
    elif isinstance(value, int):
        column.number_input(label, step=1, key=key, persist_state="session")
    elif isinstance(value, float):
        column.number_input(label, key=key, format="%.4g", persist_state="session")
    else:
        column.text_input(label, key=key, max_chars=60, persist_state="session")
