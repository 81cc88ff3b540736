"""Foreign text made harmless for Markdown, and tokens as the strips take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from explain.report.labels import token_label
from explain.results import Token

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def plain(text: str) -> str:
    """`text` for a place that reads Markdown: it shows as it is, with no links, images or formulas."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def excerpt(text: str, length: int = 72) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


def strip_tokens(tokens: Sequence[Token], text: str) -> list[dict[str, Any]]:
    """Tokens for a strip: `t` text, `g` a space before it, `n` a line break before it, `s`, `f` flags."""
    found, reached = [], 0
    for index, token in enumerate(tokens):
        between = text[reached : token.start] if not token.special else " "
        surface = text[token.start : token.end]
        lead = surface[: len(surface) - len(surface.lstrip())]
        entry: dict[str, Any] = {"t": token_label(token, 300)}
        if index and (between + lead).strip(" \t\n\r") == "" and (between + lead):
            entry["g"] = 1
        if "\n" in between:
            entry["n"] = 1
        if token.special:
            entry["s"] = 1
        if token.forced:
            entry["f"] = 1
        found.append(entry)
        reached = max(reached, token.end)
    return found
