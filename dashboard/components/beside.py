"""Two outputs of one source, one below the other, with what differs marked."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

from streamlit.components.v2 import component

from dashboard.components import asset
from dashboard.labels import strip_tokens
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number
from explain.results import Generation

_BESIDE = component(
    "explain_beside",
    html='<div class="beside"></div>',
    css=asset("beside.css"),
    js=asset("beside.js"),
)


def beside(
    before: Generation, after: Generation, *, names: tuple[str, str], key: str, theme: Theme, by: str = "id"
) -> None:
    """Show two outputs; a token that only one of them has is marked, and those that were given are dotted.

    Args:
        before: the first.
        after: the second.
        names: what they are called.
        key: unique on the page.
        theme: whose colours.
        by: tokens are the same by their `id`, or, where two models number them otherwise, by their `text`.
    """
    _BESIDE(key=key, data=to_data(before, after, names, theme, by))


def to_data(
    before: Generation, after: Generation, names: tuple[str, str], theme: Theme, by: str = "id"
) -> dict[str, Any]:
    """Both outputs as the component takes them."""
    one, other = ([getattr(token, by) for token in found.target_tokens] for found in (before, after))
    # Nothing is junk: words that come often matter as much.
    changes = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    gone = {at for kind, start, end, _, _ in changes if kind != "equal" for at in range(start, end)}
    new = {at for kind, _, _, start, end in changes if kind != "equal" for at in range(start, end)}
    return {
        "rows": [_row(names[0], before, gone, "gone"), _row(names[1], after, new, "new")],
        "muted": colours.MUTED[theme],
    }


def _row(name: str, found: Generation, marked: set[int], mark: str) -> dict[str, Any]:
    tokens = strip_tokens(found.target_tokens, found.target_text)
    for at, token in enumerate(tokens):
        if at in marked:
            token["mark"] = mark
    return {"name": name, "tokens": tokens, "mean": number(float(found.log_probs.mean()))}
