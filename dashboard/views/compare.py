"""Compare: what changed?"""

from __future__ import annotations

from dashboard import frame


def page() -> None:
    """Draw the page."""
    frame.head("What changed?", "Two texts, two models, or one model with a part silenced: side by side.")
