"""Attention: where did it look?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from dashboard import cache, frame, state
from dashboard.catalogue import Choice
from dashboard.components.heads import heads
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.state import MEAN
from dashboard.views import text_page, trust_card
from explain.report import plots
from explain.report.levels import FIT_COLUMNS, FIT_ROWS
from explain.results import Generation, Token

SIDES = {"cross": "Output → source", "encoder": "Source → source", "decoder": "Output → earlier output"}
_SAYS = {
    "cross": "Cross-attention: where in the source the decoder looked while it wrote each output token.",
    "encoder": "The encoder's self-attention: where each source token looked in the source.",
    "decoder": "The decoder's self-attention: where it looked in its own output so far.",
}


@dataclass(frozen=True, eq=False)
class Looked:
    """The attention of one side: maps [head, query, key] by layer, and whose rows and columns they are."""

    maps: list[np.ndarray]
    queries: tuple[Token, ...]
    keys: tuple[Token, ...]
    query_text: str
    key_text: str
    query_name: str
    key_name: str

    @property
    def limit(self) -> float:
        """The largest weight of all, the end of every colour scale on the page."""
        return max((float(part.max()) for part in self.maps if part.size), default=1.0)

    def chosen(self, layer: int, head: int) -> np.ndarray:
        """One map [query, key]; `MEAN` averages over the layers, over the heads, or both."""
        parts = self.maps if layer == MEAN else [self.maps[layer]]
        rows = [part.mean(0) if head == MEAN else part[head] for part in parts]
        return np.mean(rows, axis=0)


def page() -> None:
    """Draw the page."""
    text_page.draw(
        "Where did it look?",
        "Attention weights, head by head. They say where the model looked, not what made it decide.",
        _show,
    )


def _show(choice: Choice, example: Example, generation: Generation) -> None:
    view = state.current()
    side = view.side if view.side in SIDES else "cross"
    st.segmented_control(
        "Attention",
        list(SIDES),
        format_func=lambda name: SIDES[name],
        label_visibility="collapsed",
        **state.bind("side", shown=side),
    )
    st.caption(_SAYS[side])
    if side != "encoder":
        trust_card.as_explanation(*trust_card.known(choice), "attention")
    with st.spinner("Recording the attention …", show_time=True):
        looked = _looked(choice, example, generation, side)
    layer = view.layer if view.layer < len(looked.maps) else MEAN
    head = view.head if view.head < looked.maps[max(0, layer)].shape[0] else MEAN
    heads(
        looked.maps,
        key=f"heads_{side}",
        theme=frame.theme(),
        layer=layer,
        head=head,
        limit=looked.limit,
        on_choose=lambda layer, head: state.change(layer=layer, head=head),
    )
    st.caption(
        "Each small map has the tokens that look down and the tokens looked at across. All share one scale; "
        "in a long text a cell shows the largest weight that it stands for."
    )
    _chooser(looked, layer, head)
    _row(looked, side, looked.chosen(layer, head))
    _whole(looked, layer, head)


def _looked(choice: Choice, example: Example, generation: Generation, side: str) -> Looked:
    capture = cache.attention(choice, example, side)
    names = sorted(capture, key=lambda name: int(name.split(".")[1]))
    maps = [capture[name][0].float().numpy() for name in names]
    source, output = generation.source_tokens, generation.target_tokens
    before = (generation.decoder_start, *output[:-1])
    texts = generation.source_text, generation.target_text
    if side == "encoder":
        return Looked(maps, source, source, texts[0], texts[0], "source token", "source token looked at")
    if side == "decoder":
        return Looked(maps, output, before, texts[1], texts[1], "output token", "earlier output token")
    return Looked(maps, output, source, texts[1], texts[0], "output token", "source token")


def _chooser(looked: Looked, layer: int, head: int) -> None:
    """Name the chosen map, and offer the averages."""
    layers, count = len(looked.maps), looked.maps[max(0, layer)].shape[0]
    left, right, _ = st.columns([2, 2, 3])
    left.selectbox(
        "Layer",
        [MEAN, *range(layers)],
        format_func=lambda at: f"mean over {layers} layers" if at == MEAN else f"layer {at}",
        **state.bind("layer", shown=layer),
    )
    right.selectbox(
        "Head",
        [MEAN, *range(count)],
        format_func=lambda at: f"mean over {count} heads" if at == MEAN else f"head {at}",
        **state.bind("head", shown=head),
    )


def _row(looked: Looked, side: str, weights: np.ndarray) -> None:
    """One row of the map over the text itself."""
    field = "query" if side == "encoder" else "step"
    at = getattr(state.current(), field)
    at = at if 0 <= at < len(looked.queries) else 0

    def pick(index: int | None) -> None:
        state.change(**{field: -1 if index is None else index})

    values = weights.copy()
    if side == "decoder":
        values[np.triu_indices_from(values, 1)] = np.nan
    shown = [
        Strip(
            "query",
            "Source" if side == "encoder" else "Output",
            looked.queries,
            looked.query_text,
            role="pick",
            hint="click a token to see where it looked" if side == "encoder" else "click a token",
        ),
        Strip(
            "key",
            {"cross": "Source", "encoder": "Source, looked at", "decoder": "Output so far"}[side],
            looked.keys,
            looked.key_text,
            role="lit",
            values=values,
            bar=Bar(
                "sequential", float(weights.max()) or 1.0, "attention weight (a row sums to 1)", noun="weight"
            ),
        ),
    ]
    strips(shown, key=f"attention_{side}", theme=frame.theme(), picked=at, on_pick=pick)


def _whole(looked: Looked, layer: int, head: int) -> None:
    title = " · ".join(
        (
            "mean over layers" if layer == MEAN else f"layer {layer}",
            "mean over heads" if head == MEAN else f"head {head}",
        )
    )
    frame.section("The whole map")
    frame.figure(
        plots.attention_map(
            looked.chosen(layer, head),
            looked.queries,
            looked.keys,
            title=title,
            query_name=looked.query_name,
            key_name=looked.key_name,
            theme=frame.theme(),
        ),
        f"Each row is one {looked.query_name} and sums to 1: how its attention was shared out over the "
        f"{looked.key_name}s. 0 is no attention at all. The scale ends at the largest weight of this map.",
        key="map_attention",
        alt=f"Heat map: attention, {title}",
        zoom=len(looked.keys) > FIT_COLUMNS or len(looked.queries) > FIT_ROWS,
    )
