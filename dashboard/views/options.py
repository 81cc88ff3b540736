"""A method's own settings: one widget for each field of its settings, by the field's type."""

from __future__ import annotations

import inspect
import json
import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal, Union

import streamlit as st

from dashboard import state
from dashboard.labels import plain
from explain.attribution import Method
from explain.errors import InputError

_NUMBERS = (int, float)
ACROSS = 4


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as a widget shows it.

    Attributes:
        name: of the setting.
        default: its value where nobody changes it.
        kind: `bool`, `int`, `float` or `str`; for several, that of each.
        several: it takes any number of them.
        optional: it may be left empty.
        choices: the values it can take, where the field names them (a `Literal`, or `choices` in its
            metadata); empty for any.
    """

    name: str
    default: Any
    kind: type
    several: bool = False
    optional: bool = False
    choices: tuple[Any, ...] = ()

    def accepts(self, value: Any) -> bool:
        """The value is of the setting's type."""
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        if self.several:
            return isinstance(value, (list, tuple)) and all(self._one(item) for item in value)
        return self._one(value)

    def _one(self, value: Any) -> bool:
        if isinstance(value, bool) or self.kind is bool:
            return isinstance(value, bool) and self.kind is bool
        return isinstance(value, _NUMBERS if self.kind is float else self.kind)

    def read(self, text: str) -> tuple[Any, ...] | None:
        """Several values from a text with commas.

        Raises:
            InputError: one of them is of another kind.
        """
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts and self.optional:
            return None
        try:
            return tuple(self.kind(part) for part in parts)
        except ValueError:
            label = self.name.replace("_", " ")
            raise InputError(
                f"{label}: {text!r} is not a list of numbers with commas, such as 0, 1"
            ) from None


def options_of(method: Method) -> list[Option]:
    """The settings that a widget can show, in their order."""
    hints = typing.get_type_hints(method.settings)
    defaults = method.settings()
    found = []
    for field in fields(method.settings):
        choices = tuple(field.metadata.get("choices", ()))
        option = _option(field.name, getattr(defaults, field.name), hints[field.name], choices)
        if option is not None:
            found.append(option)
    return found


def _option(name: str, default: Any, hint: Any, choices: tuple[Any, ...]) -> Option | None:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    optional = origin in (Union, types.UnionType) and type(None) in inner
    if optional:
        (hint, *others) = [part for part in inner if part is not type(None)]
        if others:
            return None
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return Option(name, default, type(inner[0]), optional=optional, choices=(*choices, *inner))
    several = origin is tuple and len(inner) == 2 and inner[1] is Ellipsis
    kind = inner[0] if several else hint
    if kind not in (bool, int, float, str):
        return None
    return Option(name, default, kind, several, optional, choices)


def ask(method: Method) -> dict[str, Any]:
    """Show the settings; returns those that differ from the method's defaults, and keeps them in the link.

    Raises:
        InputError: a text that cannot be read.
    """
    options = options_of(method)
    if not options:
        return {}
    stored = read(state.current().options, options)
    with st.expander("Settings of the method"):
        told = inspect.getdoc(method.settings) or ""
        if told and not told.startswith(f"{method.settings.__name__}("):
            st.caption(plain(told.replace("`", "")))
        values = {}
        for begin in range(0, len(options), ACROSS):
            row = options[begin : begin + ACROSS]
            for option, column in zip(row, st.columns(ACROSS), strict=False):
                key = f"option_{method.name}_{option.name}"
                values[option.name] = _widget(column, key, option, stored.get(option.name, option.default))
    changed = {
        option.name: values[option.name] for option in options if _differs(option, values[option.name])
    }
    text = json.dumps(changed, sort_keys=True) if changed else ""
    if text != state.current().options:
        state.change(options=text)
    return changed


def _differs(option: Option, value: Any) -> bool:
    if option.several and value is not None and option.default is not None:
        return tuple(value) != tuple(option.default)
    return value != option.default


def read(text: str, options: list[Option]) -> dict[str, Any]:
    """The values that a link names, of those that the method has and could take."""
    try:
        found = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        return {}
    known = {option.name: option for option in options}
    return {name: value for name, value in found.items() if name in known and known[name].accepts(value)}


def _widget(column: Any, key: str, option: Option, value: Any) -> Any:
    """Show one setting; returns its value.

    The value is the widget's own default and not put into the session: where a page is left while it is drawn
    Streamlit may forget what was put there, and a number would fall back to 0.
    """
    label = option.name.replace("_", " ")
    shared: dict[str, Any] = {"key": key, "persist_state": "session"}
    empty = "all" if option.default is None else "none"
    if option.several:
        text = ", ".join(str(item) for item in value or ())
        return option.read(column.text_input(label, text, placeholder=empty, max_chars=200, **shared) or "")
    if option.choices:
        offered = [*([None] if option.optional else []), *option.choices]
        index = offered.index(value) if value in offered else 0
        return column.selectbox(label, offered, index, format_func=lambda item: str(item or empty), **shared)
    if option.kind is bool:
        return column.toggle(label, value, **shared)
    if option.kind is int:
        return column.number_input(label, value=value, step=1, placeholder="by itself", **shared)
    if option.kind is float:
        number = None if value is None else float(value)
        return column.number_input(label, value=number, format="%.4g", placeholder="by itself", **shared)
    return column.text_input(label, value, max_chars=60, **shared)
