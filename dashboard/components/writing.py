"""The output step by step: each token with how sure the model was, and what else it weighed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamlit.components.v2 import component

from dashboard.components import asset, told
from dashboard.labels import strip_tokens
from dashboard.state import turns
from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number, probability, token_label
from explain.results import Generation

_WRITING = component(
    "explain_writing",
    html='<div class="writing"></div>',
    css=asset("writing.css"),
    js=asset("writing.js"),
)


def writing(
    generation: Generation,
    *,
    offered: int,
    key: str,
    theme: Theme,
    picked: int,
    on_pick: Callable[[int | None], object],
    on_fork: Callable[[int, int], object],
) -> None:
    """Show the output and, for the token that is pointed at or locked, its alternatives.

    Args:
        generation: the output.
        offered: how many alternatives to show for each token.
        key: unique on the page.
        theme: whose colours.
        picked: the token that is locked; negative for none.
        on_pick: called, before the page runs again, with the token that was clicked; None when unlocked.
        on_fork: called likewise with a step and the id of an alternative that was chosen there.
    """

    def changed() -> None:
        event = told(key, "picked")
        if isinstance(event, dict):
            step = event.get("step")
            on_pick(step if isinstance(step, int) else None)

    def forked() -> None:
        event = told(key, "forked")
        if (
            isinstance(event, dict)
            and isinstance(event.get("step"), int)
            and isinstance(event.get("id"), int)
        ):
            on_fork(event["step"], event["id"])

    _WRITING(
        key=key,
        data={
            **to_data(generation, offered, theme),
            "picked": picked if picked >= 0 else None,
            "turn": turns(),
        },
        on_picked_change=changed,
        on_forked_change=forked,
    )


def to_data(generation: Generation, offered: int, theme: Theme) -> dict[str, Any]:
    """The output as the component takes it."""
    doubt, blue = colours.colours("doubt", theme), colours.colours("sequential", theme)
    steps = range(len(generation.target_tokens))
    highest = float(generation.entropy.max()) if len(steps) else 0.0
    return {
        "tokens": strip_tokens(generation.target_tokens, generation.target_text),
        "steps": [_step(generation, step, offered) for step in steps],
        # A bar of full height is at least half a nat, so that a model without doubts does not look torn.
        "limit": max(0.5, highest),
        "high": number(max(0.5, highest)),
        "doubt": list(doubt),
        "ink": [colours.text_colour(colour) for colour in doubt],
        "fill": [blue[3], blue[14]],
        "muted": colours.MUTED[theme],
        "rows": min(offered, generation.top_ids.shape[1]),
    }


def _step(generation: Generation, step: int, offered: int) -> dict[str, Any]:
    token, value = generation.target_tokens[step], float(generation.log_probs[step])
    kept = min(offered, generation.top_ids.shape[1])
    rows = [
        {
            "id": item.id,
            "t": token_label(item.text, 60),
            "rank": item.rank,
            "share": min(1.0, float(generation.top_log_probs[step, place].exp())),
            "p": probability(item.log_prob),
            "written": item.id == token.id,
        }
        for place, item in enumerate(generation.alternatives(step, kept))
    ]
    if not any(row["written"] for row in rows):
        own = float(generation.log_probs[step].exp())
        row = {"id": token.id, "t": token_label(token, 60), "rank": int(generation.ranks[step])}
        rows.append(row | {"share": own, "p": probability(value), "written": True})
    return {
        "doubt": 1 - float(generation.log_probs[step].exp()),
        "entropy": float(generation.entropy[step]),
        "rank": int(generation.ranks[step]),
        "note": f"probability {probability(value)} · rank {int(generation.ranks[step]):,} · log-probability "
        f"{number(value)} nats · entropy {number(float(generation.entropy[step]))} nats",
        "rows": rows,
    }
