"""The choice of many texts to go through: a task's, a data file's, or those that were read here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import cache, evaluations, inputs, reports, state
from dashboard.catalogue import Choice, Place
from dashboard.evaluations import DATA, TASK
from dashboard.labels import plain
from dashboard.views import new_run
from explain.report.labels import plural
from explain.training import data, tasks

RECENT = "recent"
MOST = 5_000
LINE = 16
"""Tokens of a text and its output, where nothing is known of them."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Many texts.

    Attributes:
        name: what they are called.
        data: as the analyses take them.
        key: plain values that they are known by.
        count: how many there are.
        tokens: of a text and its output, roughly.
        slots: what their tokens mean is known.
        options: how they are read.
    """

    name: str
    data: Any
    key: tuple[Hashable, ...]
    count: int
    tokens: int
    slots: bool
    options: dict[str, Any]


def ask(place: Place, choice: Choice, usual: int) -> Texts | None:
    """The controls, and what they say; None, with what is missing, where there are no texts.

    Args:
        place: where the dashboard works.
        choice: the model.
        usual: how many texts, where the link names no number.
    """
    recent = [each for each in reports.recent(place).values() if each.source.strip()]
    offered = evaluations.sources(place, choice, new_run.data_files(place))
    if recent:
        offered = {**offered, RECENT: f"the {plural(len(recent), 'text')} read here last"}
    if not offered:
        st.caption(plain(f"Many texts are looked at together; give {choice.name} some first."))
        inputs.samples(place, choice, key="many")
        inputs.text_form(place, choice)
        return None
    view = state.current()
    named = view.data if view.data in offered else next(iter(offered))
    left, right = st.columns([5, 2], vertical_alignment="bottom")
    left.selectbox(
        "Texts",
        list(offered),
        format_func=lambda name: offered[name],
        help="Those of a task have known slots; data files lie under the runs folder.",
        **state.bind("data", shown=named),
    )
    count = view.count if view.count != state.View().count else usual
    count = min(MOST, max(2, count))
    right.number_input("How many, at most", 2, MOST, step=50, **state.bind("count", shown=count))
    if named.startswith(TASK):
        task = named.removeprefix(TASK)
        samples = tasks.preview(tasks.get(task), 5)
        length = sum(len(each.source) + len(each.target) for each in samples) // len(samples)
        return Texts(task, tasks.get(task), ("task", task, count), count, max(4, length // 4), True, {})
    if named == RECENT:
        texts = recent[:count]
        unknown = any(each.controls.get("allow_unknown") for each in texts)
        sources = tuple(each.source for each in texts)
        options: dict[str, Any] = {"max_new_tokens": 64} | ({"allow_unknown": True} if unknown else {})
        return Texts("texts read here", list(sources), ("texts", sources), len(sources), LINE, False, options)
    return _of_file(place, choice, named, count)


def _of_file(place: Place, choice: Choice, named: str, count: int) -> Texts | None:
    path = evaluations.data_file(place, choice, named.removeprefix(DATA))
    own = evaluations.own_file(choice)
    read = evaluations.own_reading(choice) if own is not None and path == own else {}
    columns = read.get("source-column", "source"), read.get("target-column", "target")
    languages = {name.replace("-", "_"): text for name, text in read.items() if name.endswith("-language")}
    pairs = data.read_table(path, *columns, need_target=False)[:count]
    stamp = (str(path), path.stat().st_mtime_ns, count)
    size = sum(len(pair.source) for pair in pairs) // max(1, len(pairs)) // 2
    return Texts(path.name, pairs, ("file", *stamp), len(pairs), max(4, size), False, languages)


def device_note(choice: Choice) -> str:
    """What makes the cost less."""
    return " (less on its accelerator)" if cache.facts(choice)["device"] != "cpu" else ""
