"""The list of keys, opened by a link in the sidebar or by `?` on every page."""

from __future__ import annotations

from streamlit.components.v2 import component

from dashboard.components import asset

_KEYS = component(
    "explain_keys",
    html='<div class="keys"></div>',
    css=asset("keys.css"),
    js=asset("keys.js"),
)
_LIST = (
    (
        "In a text",
        (
            (("←", "→"), "the token before, the token after"),
            (("Home", "End"), "the first token, the last token"),
            (("Enter",), "look at this token, or at none any more"),
            (("Escape",), "let go of the token"),
        ),
    ),
    (
        "In what the model writes",
        (
            (("↓",), "from a token to what else it weighed there, and along that list"),
            (("Enter",), "write this instead; in the beam tree, go on from this branch"),
            (("Escape",), "back to the token"),
        ),
    ),
    (
        "In the grid of heads",
        ((("←", "→", "↑", "↓"), "move between heads and layers"), (("Enter",), "choose the head")),
    ),
    ("In a list of runs", ((("↑", "↓"), "the one above, the one below"), (("Enter",), "open it"))),
    ("Everywhere", ((("Ctrl", "Enter"), "hand in the text that you are typing"), (("?",), "this list"))),
)


def keys(*, key: str) -> None:
    """Show the link, and listen for `?`."""
    _KEYS(key=key, data={"keys": [[title, [[list(k), does] for k, does in rows]] for title, rows in _LIST]})
