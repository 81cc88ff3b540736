"""Token strips: texts as rows of buttons, coloured by numbers.

One strip may be there to pick from; the others light up with the numbers of the token under the pointer,
or of the one that is locked, without asking the server. Texts reach the page as data and are shown by
`textContent`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from streamlit.components.v2 import component

from dashboard.components import asset, packed, told
from dashboard.labels import strip_tokens
from dashboard.state import turns
from explain.report import colours
from explain.report.colours import Scale, Theme
from explain.report.labels import decimals_for
from explain.results import Token

_STRIPS = component(
    "explain_strips",
    html='<div class="strips" role="presentation"></div>',
    css=asset("strips.css"),
    js=asset("strips.js"),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A colour scale and its numbers.

    Attributes:
        scale: whose colours.
        limit: the number at the end of the scale; `diverging` runs from -limit to limit, others from 0.
        title: what is measured, with its unit.
        ends: what the lowest and the highest colour stand for; left out, nothing but the numbers.
        numbers: write the numbers at the ends.
        noun: what a number is called when it is read out.
    """

    scale: Scale
    limit: float
    title: str
    ends: tuple[str, str] | None = None
    noun: str = "score"
    numbers: bool = True

    def to_dict(self, theme: Theme) -> dict[str, Any]:
        """The scale as the component takes it."""
        palette = colours.colours(self.scale, theme)
        signed = self.scale == "diverging"
        decimals = decimals_for(self.limit)
        return {
            "background": list(palette),
            "text": [colours.text_colour(colour) for colour in palette],
            "signed": signed,
            "limit": self.limit,
            "title": self.title,
            "ends": list(self.ends or ("", "")),
            "numbers": self.numbers,
            "noun": self.noun,
            "decimals": decimals,
        }


@dataclass(frozen=True, eq=False)
class Strip:
    """One text.

    Attributes:
        id: unique among the strips shown together.
        label: what the strip shows, such as "Output".
        tokens: its tokens, in order.
        text: the text that they are the tokens of.
        role: `pick` is chosen from, `lit` shows the numbers of the chosen token, `plain` has one colour each.
        values: float [rows, tokens] for `lit` (nan: cannot have a number), float [tokens] for the others. A
            row is a token of the `pick` strip; one more is that of the span that is locked.
        bar: the scale of the values; None leaves the tokens without colour.
        notes: for each token what is read out beside it.
        hint: what to do with the strip, in a few words.
        legend: the colour bar is drawn beside the label; strips that share a scale need it once.
        by: what the numbers were made with, where strips of several stand side by side.
        column: 0 on the left, or over the whole width; 1 on the right.
    """

    id: str
    label: str
    tokens: Sequence[Token]
    text: str
    role: Literal["pick", "lit", "plain"] = "plain"
    values: Any = None
    bar: Bar | None = None
    notes: Sequence[str] = ()
    hint: str = ""
    legend: bool = True
    by: str = ""
    column: int = 0

    def to_dict(self, theme: Theme) -> dict[str, Any]:
        """The strip as the component takes it."""
        return {
            "id": self.id,
            "label": self.label,
            "hint": self.hint,
            "role": self.role,
            "tokens": strip_tokens(self.tokens, self.text),
            "values": None if self.values is None else packed(np.asarray(self.values), "f4"),
            "bar": self.bar.to_dict(theme) if self.bar else None,
            "notes": list(self.notes),
            "legend": self.legend,
            "by": self.by,
            "column": self.column,
        }


def strips(
    shown: Sequence[Strip],
    *,
    key: str,
    theme: Theme,
    picked: int | tuple[int, int] | None = None,
    on_pick: Callable[[int | None], object] | None = None,
    on_span: Callable[[int, int], object] | None = None,
    span_note: str = "",
) -> None:
    """Show strips that belong together.

    Args:
        shown: the strips, from the top.
        key: unique on the page.
        theme: whose colours.
        picked: the token of the `pick` strip that is locked, or several, [start, end).
        on_pick: called, before the page runs again, with the token that was clicked; None when unlocked.
        on_span: called likewise with several that were dragged over, [start, end); left out, only one token
            can be picked.
        span_note: what is said of the span that is locked.
    """

    def changed() -> None:
        event = told(key, "picked")
        if not isinstance(event, dict):
            return
        step, end = event.get("step"), event.get("end")
        if on_span is not None and isinstance(step, int) and isinstance(end, int) and end - step > 1:
            on_span(step, end)
        elif on_pick is not None:
            on_pick(step if isinstance(step, int) else None)

    _STRIPS(
        key=key,
        data={
            "strips": [strip.to_dict(theme) for strip in shown],
            "picked": [picked, picked + 1] if isinstance(picked, int) else picked and list(picked),
            "spans": on_span is not None,
            "span_note": span_note,
            "turn": turns(),
        },
        on_picked_change=changed,
    )
