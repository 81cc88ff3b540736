"""The trust card of a method in short, beside its map: the verdict, why, and the way to the page Trust."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import evaluations, state
from dashboard.catalogue import Choice, current_place
from dashboard.evaluations import Kept
from dashboard.labels import plain
from explain.attribution import REGISTRY
from explain.errors import ExplainError
from explain.report.facts import facts_of
from explain.report.trust import MARKS, CardView, card_view, label_of, sentence
from explain.results import Attribution

COLOURS: dict[str, Any] = {"passes": "green", "doubtful": "orange", "fails": "red"}
_ICONS = {
    "passes": ":material/check_circle:",
    "doubtful": ":material/help:",
    "fails": ":material/cancel:",
}
_SAYS = {"doubtful": "doubtful", "fails": "fails", "unavailable": "not available"}
PAGE = "routes/trust.py"


def known(choice: Choice) -> tuple[Kept | None, str]:
    """The evaluation of this very model; or None, and in a sentence why there is none."""
    try:
        kept = evaluations.kept(current_place(), choice)
    except ExplainError:
        return None, "The evaluation kept with this model cannot be read."
    if kept is None:
        return None, "Which methods can be believed on this model has not been checked yet."
    if not kept.current:
        return None, "The evaluation kept with this model is of another state of it."
    return kept, ""


def view_of(kept: Kept, name: str, attribution: Attribution | None = None) -> CardView:
    """The card of a method, or one that says that it was not evaluated."""
    return card_view(kept.evaluation, facts_of(name), attribution)


def marked(title: str, name: str, kept: Kept | None) -> str:
    """A method's title in a list, with its verdict where that should make a reader pause, or choose it."""
    if kept is None:
        return title
    if name == kept.best:
        return f"★ {title} – most trusted"
    found = kept.evaluation.methods.get(name)
    verdict = "" if found is None else found.card.verdict
    return f"{MARKS[verdict][0]} {title} – {_SAYS[verdict]}" if verdict in _SAYS else title


def badge(card: CardView, help: str = "") -> None:
    """The verdict in a word; `help` is shown when it is pointed at."""
    st.badge(
        plain(card.word),
        help=plain(help) or None,
        icon=_ICONS.get(card.verdict, ":material/remove:"),
        color=COLOURS.get(card.verdict, "gray"),
    )


def why(kept: Kept, name: str) -> str:
    """The verdict in a sentence: what failed or is doubtful, or the first thing that was proved."""
    card = view_of(kept, name)
    found = kept.evaluation.methods.get(name)
    if found is not None and card.verdict == "passes":
        proved = [check.reason for check in found.card.checks if check.passed]
        return sentence(proved[0]) if proved else card.reason
    return card.reason


def reason(kept: Kept | None, name: str) -> None:
    """Under the choice of a method: why it should make a reader pause, in grey; nothing if it passes."""
    if kept is None:
        return
    card = view_of(kept, name)
    if card.verdict in _SAYS:
        st.caption(plain(f"{card.sign} {card.word.capitalize()} on this model. {card.reason}"))


def beside(kept: Kept | None, missing: str, name: str, *, key: str = "", named: bool = False) -> bool:
    """The card between the choice of a method and its map; True where the map should be shown paler.

    Args:
        kept: the evaluation of the model.
        missing: why there is none.
        name: the method.
        key: tells two cards on one page apart.
        named: the card says whose it is.
    """
    if kept is None:
        with _line(f"trust_missing{key}"):
            st.caption(missing, width="content")
            _to_page("Check the methods", "", key)
        return False
    card = view_of(kept, name)
    failed = card.verdict == "fails"
    if failed:
        others = f" The most trusted here is {label_of(kept.best)}." if kept.best else ""
        st.warning(
            plain(
                f"{card.label} failed its checks on this model, so do not take this map for what the model "
                f"did.{others}"
            ),
            icon=":material/warning:",
        )
    with _line(f"trust_line{key}"):
        if named:
            st.markdown(f"**{plain(card.label)}**", width="content")
        badge(card)
        if failed:
            replaceable = kept.best in REGISTRY.rows and not named
            if replaceable and st.button(
                f"Use {plain(label_of(kept.best))}", icon=":material/star:", key=f"trust_use_best{key}"
            ):
                state.change(method=kept.best, options="")
                st.rerun()
        elif card.verdict not in _SAYS:  # the others said why under the choice of the method
            st.caption(plain(why(kept, name)), width="content")
        _to_page("Its trust card", name, key)
    return failed


def as_explanation(kept: Kept | None, missing: str, name: str) -> None:
    """Beside what a method is made from: whether the method can be believed, in one quiet line."""
    if kept is None:
        beside(kept, missing, name)
        return
    with _line("trust_line"):
        st.caption("Averaged, and taken for an explanation of the output on this model:", width="content")
        badge(view_of(kept, name), help=why(kept, name))
        _to_page("Its trust card", name)


def notes(kept: Kept | None, attribution: Attribution) -> None:
    """Where the map at hand is not what was evaluated."""
    if kept is not None:
        for note in view_of(kept, attribution.method, attribution).notes:
            st.caption(plain(note))


def explain_with(name: str, *, key: str, primary: bool = False) -> None:
    """A button that opens the page Attribution with a method, where there is such a method."""
    if name in REGISTRY.rows and st.button(
        f"Explain with {plain(label_of(name))}",
        key=key,
        icon=":material/format_ink_highlighter:",
        type="primary" if primary else "secondary",
    ):
        same = state.current().method == name
        state.change(method=name, **({} if same else {"options": ""}))
        st.switch_page("routes/attribution.py")


def _line(key: str) -> Any:
    return st.container(horizontal=True, vertical_alignment="center", gap="small", key=key)


def _to_page(label: str, name: str, key: str = "") -> None:
    if st.button(label, type="tertiary", icon=":material/verified:", key=f"trust_page{key}"):
        state.change(card=name)
        st.switch_page(PAGE)
