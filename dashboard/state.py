"""The view: everything that says what is on the page, as one typed value and as the page's link.

A session reads its view from the link when it begins, and when the browser goes back or forward; otherwise
the session is the truth and the link follows. Widgets are tied to a field by `bind`, components change fields
by `change`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

_VIEW = "explain_view"
_TURNS = "explain_turns"
MEAN = -1
"""Stands for "all of them, averaged" where a layer or a head is chosen."""
MAX = -2
"""Stands for the maximum over the heads where a head is chosen."""
ROLLOUT = -2
"""Stands for the layers multiplied up where a layer is chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What is on the page.

    Attributes:
        model: name in the catalogue.
        example: id of the text (see `dashboard.examples`).
        step: output token that is looked at; -1 is none.
        side: which attention: `cross`, `encoder` or `decoder`.
        layer: layer of the attention, `MEAN` for the mean over layers, `ROLLOUT` for their product.
        head: head of the attention, `MEAN` for the mean over heads, `MAX` for their maximum.
        query: source token that is looked at in the encoder's attention; -1 is none.
        method: attribution method.
        objective: what is explained.
        contrast: foil text, empty for none.
        level: what the scores are between: `token`, `word` or `sentence`.
        options: the method's own settings as JSON, empty for the defaults.
        run: run folder shown on the training page.
        part: what is shown of it there: `curves`, `outputs`, `story` or `kept`.
        card: method whose trust card is shown; empty for the most trusted one.
        data: what an evaluation is to be made on (see `dashboard.evaluations.sources`); empty for the first.
        count: how many outputs it is to explain.
        scope: which methods it is to evaluate: `all` or `fast`.
        end: the output tokens from `step` up to this one are looked at as one; -1 is `step` alone.
        second: attribution method shown beside `method`; empty for none.
        foil: id of the token that `contrast` stands for, where it was picked and not typed; -1 is none.
        drawn: how the attention of one token is drawn: in the `text`, or as `lines`.
        figures: what the heads' figures are taken over: texts of the model's `task`, or this `text`.
        beams: beams of the search whose tree is shown; 0 where none was asked for.
        dropped: the tree has the branches that the search gave up.
        temperature: of the sampling that is tried out on one step, in per cent.
        top_k: of that sampling; 0 is no limit.
        top_p: of that sampling, in per cent; 100 is no limit.
        inside: what is asked of the inside: `lenses`, `causes`, `neurons` or `projector`.
        lens: whose layers are read: those of the `decoder` or the `encoder`.
        watch: further tokens that are followed through the layers, with commas between them.
        parts: what a logit is taken apart into: `block`, `head` or `neuron`.
        cause: what is changed to find a cause: `heads`, `tokens`, `source` or `writing`.
        other: id of the edited text that the example is compared with; empty for none.
        point: hook points that are looked at, as a name or pattern; empty for the usual ones.
        neuron: the unit of it that is looked at; -1 is the most telling one.
        colour: what the states on a plane are coloured by; empty for the most telling.
        changed: what two outputs differ in: the `source`, the `model`, a `head`, or whole `models`.
        rival: the other model, by its name in the catalogue.
        silenced: the place that is silenced, as `explain.analysis.site_named` reads it.
        shifted: the head whose change of attention is shown, as `BLOCK.HEAD`; empty for the furthest.
        finding: number of the audited output that is looked at; -1 is the most suspicious one.
        detector: whose flagged outputs are listed; empty for all, `unreviewed` for those without a verdict.
        shade: the detector whose scores colour its tokens; empty for how many point at them.
    """

    model: str = ""
    example: str = ""
    step: int = -1
    side: str = "cross"
    layer: int = MEAN
    head: int = MEAN
    query: int = -1
    method: str = "integrated_gradients"
    objective: str = "log_prob"
    contrast: str = ""
    level: str = "token"
    options: str = ""
    run: str = ""
    part: str = "curves"
    card: str = ""
    data: str = ""
    count: int = 50
    scope: str = "all"
    end: int = -1
    second: str = ""
    foil: int = -1
    drawn: str = "text"
    figures: str = "task"
    beams: int = 0
    dropped: bool = False
    temperature: int = 100
    top_k: int = 0
    top_p: int = 100
    inside: str = "lenses"
    lens: str = "decoder"
    watch: str = ""
    parts: str = "block"
    cause: str = "heads"
    other: str = ""
    point: str = ""
    neuron: int = -1
    colour: str = ""
    changed: str = "source"
    rival: str = ""
    silenced: str = ""
    shifted: str = ""
    finding: int = -1
    detector: str = ""
    shade: str = ""


_DEFAULT = View()


def parse(parameters: Mapping[str, str]) -> View:
    """The view that a link names; what cannot be read is left at its default."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(View):
        text = parameters.get(field.name)
        if text is None:
            continue
        default = getattr(_DEFAULT, field.name)
        if isinstance(default, bool):
            found[field.name] = text == "1"
        elif isinstance(default, int):
            if text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) < 12:
                found[field.name] = int(text)
        else:
            found[field.name] = text
    if parameters.get("words") == "1":  # links from before there were sentences
        found.setdefault("level", "word")
    return View(**found)


def to_parameters(view: View) -> dict[str, str]:
    """The link's parameters: the fields that differ from their defaults."""
    return {
        name: ("1" if value else "0") if isinstance(value, bool) else str(value)
        for name, value in dataclasses.asdict(view).items()
        if value != getattr(_DEFAULT, name)
    }


def current() -> View:
    """The session's view."""
    if _VIEW not in st.session_state:
        st.session_state[_VIEW] = parse(st.query_params.to_dict())
    return st.session_state[_VIEW]


def follow() -> None:
    """Where the browser has gone back or forward, take the view from the link that it came to.

    Otherwise the session is the truth: a link that comes with a click may be older than the view. A link that
    names nothing is a page that was just turned to, before its link followed.
    """
    context = get_script_run_ctx()
    if context is not None and context.is_history_navigation and st.query_params:
        st.session_state[_VIEW] = parse(st.query_params.to_dict())
        st.session_state[_TURNS] = turns() + 1


def turns() -> int:
    """How often the browser has gone back or forward in this session.

    Components mark at once what is clicked, and Streamlit tells them nothing where their data are as they
    were: who goes back before a click was answered would be shown the click. This number makes the data new.
    """
    return st.session_state.get(_TURNS, 0)


def change(**fields: Any) -> View:
    """Change fields of the view, and the link with it; a new step without an `end` is looked at alone."""
    if "step" in fields:
        fields.setdefault("end", -1)
    view = dataclasses.replace(current(), **fields)
    st.session_state[_VIEW] = view
    publish()
    return view


def publish() -> None:
    """Write the view into the link."""
    wanted = to_parameters(current())
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def bind(field: str, *, shown: Any = None, **also: Any) -> dict[str, Any]:
    """Arguments that tie a widget to a field: `st.text_input("Rather than", **bind("contrast"))`.

    Args:
        field: name of the field.
        shown: value to show where the field's own is not among the widget's options.
        **also: other fields to set when this one changes.
    """
    key = f"view_{field}"
    st.session_state[key] = getattr(current(), field) if shown is None else shown
    return {"key": key, "on_change": _commit(field, key, also)}


def _commit(field: str, key: str, also: Mapping[str, Any]) -> Callable[[], None]:
    def commit() -> None:
        value = st.session_state.get(key)  # it is gone where its page was left before it was drawn
        if value is None:  # a segmented control can be emptied by clicking what is chosen
            value = getattr(current(), field)
        change(**{field: value, **also})

    return commit
