"""Attention: where did it look?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cache, frame, snippets, state
from dashboard.catalogue import Choice
from dashboard.components.heads import heads
from dashboard.components.lines import lines
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.state import MAX, MEAN, ROLLOUT
from dashboard.views import text_page, trust_card
from dashboard.views.method import LEVEL_NAMES
from explain.analysis.attention_maps import AttentionMaps
from explain.analysis.heads import Head, HeadRole, HeadRoles, HeadStatistics, of_head
from explain.errors import InputError
from explain.report import plots
from explain.report.head_plots import FIGURE_HELP, head_figure, head_note, role_sentence
from explain.report.labels import listed, plural
from explain.report.levels import CHOICES, FIT_COLUMNS, FIT_ROWS, groups_at
from explain.results import Generation
from explain.training import tasks

SIDES = {"cross": "Output → source", "encoder": "Source → source", "decoder": "Output → earlier output"}
_SAYS = {
    "cross": "Cross-attention: where in the source the decoder looked while it wrote each output token.",
    "encoder": "The encoder's self-attention: where each source token looked in the source.",
    "decoder": "The decoder's self-attention: where it looked in its own output so far.",
}
_BLOCKS = {"cross": ("decoder", "cross"), "encoder": ("encoder", "self"), "decoder": ("decoder", "self")}
_OVER = {"task": f"{cache.TASK_TEXTS} texts of its task", "text": "This text"}
_DRAWN = {"text": "In the text", "lines": "As lines"}


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
    level = view.level if view.level in CHOICES else CHOICES[0]
    st.segmented_control(
        "Attention",
        list(SIDES),
        format_func=lambda name: SIDES[name],
        label_visibility="collapsed",
        **state.bind("side", shown=side),
    )
    st.caption(_SAYS[side])
    with st.spinner("Recording the attention …", show_time=True):
        grid = cache.head_grid(choice, example, side, level)
        known = choice.task if choice.task in tasks.names() and view.figures != "text" else None
        try:
            statistics, roles = (
                cache.task_figures(choice, known) if known else cache.head_figures(choice, example)
            )
        except InputError:
            # A model may be named after a task whose words it does not know; this text it does.
            known, (statistics, roles) = None, cache.head_figures(choice, example)
    layer, head = _known(view.layer, view.head, grid.heads)
    found = _of_side(side, grid.heads)
    heads(
        grid.maps,
        grid.heads,
        key=f"heads_{side}",
        theme=frame.theme(),
        layer=layer,
        head=head,
        limit=grid.limit,
        on_choose=lambda layer, head: state.change(layer=layer, head=head),
        tags=[[_tag(of_head(roles.rows, one)) for one in row] for row in found],
        notes=[[head_note(statistics[one], of_head(roles.rows, one)) for one in row] for row in found],
    )
    noun = f"{level}s"
    st.caption(
        f"Each small map has the {noun} that look down and the {noun} looked at across, all on one scale; in "
        "a long text a cell shows the largest weight that it stands for. The word under a map is the head's "
        f"role, where it has one, over {_over(statistics, known)}."
    )
    _head(choice, example, side, layer, head, grid.heads, statistics, roles, known)
    if side != "encoder":
        method = "attention_rollout" if layer == ROLLOUT else "attention"
        trust_card.as_explanation(*trust_card.known(choice), method)
    maps = cache.attention_map(choice, example, side, level, layer, head)
    _one(maps, generation)
    _whole(maps, layer, head, _python(choice, example, side, level, layer, head))


def _known(layer: int, head: int, counts: tuple[int, ...]) -> tuple[int, int]:
    """The layer and head that a link names, or the mean where the model has none such."""
    layer = layer if ROLLOUT <= layer < len(counts) else MEAN
    most = 0 if layer == ROLLOUT else counts[max(0, layer)]
    return layer, head if MAX <= head < most else MEAN


def _of_side(side: str, counts: tuple[int, ...]) -> list[list[Head]]:
    first, kind = _BLOCKS[side]
    return [[Head(f"{first}.{layer}.{kind}", i) for i in range(count)] for layer, count in enumerate(counts)]


def _name(layer: int, head: int) -> str:
    one = {MEAN: "mean over layers", ROLLOUT: "rolled out over layers"}.get(layer, f"layer {layer}")
    return f"{one} · {({MEAN: 'mean over heads', MAX: 'maximum over heads'}).get(head, f'head {head}')}"


def _tag(role: HeadRole) -> str:
    return "" if role.role == "mixed" else role.role


def _over(statistics: HeadStatistics, task: str | None) -> str:
    return f"{statistics.generations} held-out texts of its task" if task else "this text"


def _head(
    choice: Choice,
    example: Example,
    side: str,
    layer: int,
    head: int,
    counts: tuple[int, ...],
    statistics: HeadStatistics,
    roles: HeadRoles,
    known: str | None,
) -> None:
    """Name the chosen map and offer the averages; beside that, what the head does among the others."""
    layers, count = len(counts), counts[max(0, layer)]
    left, right = st.columns([4, 6], gap="large")
    with left:
        st.selectbox(
            "Layer",
            [MEAN, ROLLOUT, *range(layers)],
            format_func=lambda at: {
                MEAN: f"mean over {layers} layers",
                ROLLOUT: f"rolled out over {layers} layers",
            }.get(at, f"layer {at}"),
            help="Rolled out: the layers multiplied up, with their residual connections, so that a row says "
            "which inputs reached that place (Abnar & Zuidema 2020).",
            **state.bind("layer", shown=layer),
        )
        st.selectbox(
            "Head",
            [MEAN, MAX, *(range(count) if layer != ROLLOUT else ())],
            format_func=lambda at: {
                MEAN: f"mean over {count} heads",
                MAX: f"maximum over {count} heads",
            }.get(at, f"head {at}"),
            **state.bind("head", shown=head),
        )
        st.selectbox(
            "Between",
            CHOICES,
            format_func=lambda item: LEVEL_NAMES[item],
            help="Between words or sentences a row is the mean over their tokens, a column the sum.",
            **state.bind(
                "level", shown=state.current().level if state.current().level in CHOICES else "token"
            ),
        )
        st.caption(plain(_role(side, layer, head, counts, roles)))
        over = "text"
        if choice.task in tasks.names():
            over = state.current().figures if state.current().figures in _OVER else "task"
            st.segmented_control(
                "Role and figures over",
                list(_OVER),
                format_func=lambda name: _OVER[name],
                help="Texts of the task that the model was trained on have known answers, which show "
                "which heads look at the right source word.",
                **state.bind("figures", shown=over),
            )
    with right:
        first, kind = _BLOCKS[side]
        chosen = Head(f"{first}.{layer}.{kind}", head) if layer >= 0 and head >= 0 else None
        frame.figure(
            head_figure(
                statistics,
                first,
                kind,
                chosen,
                layer=layer if layer >= 0 else None,
                index=head if head >= 0 else None,
                theme=frame.theme(),
            ),
            f"{FIGURE_HELP} Over {_over(statistics, choice.task if over == 'task' else None)}.",
            key="wide_head_figures",
            alt=f"Marks: what every head looks at; {_name(layer, head)} set apart",
            data=lambda: statistics.to_frame(),
            python=_figures_python(choice, example, known, (first, kind, chosen, layer, head)),
        )


def _role(side: str, layer: int, head: int, counts: tuple[int, ...], roles: HeadRoles) -> str:
    """What the chosen head does, or how many heads do what."""
    of_side = [of_head(roles.rows, one) for row in _of_side(side, counts) for one in row]
    chosen = [
        r for r in of_side if layer in (r.head.layer, MEAN, ROLLOUT) and (head < 0 or r.head.index == head)
    ]
    if len(chosen) == 1:
        return role_sentence(chosen[0], roles.alignment_by)
    tally = pd.Series([row.role for row in chosen]).value_counts()
    said = listed([f"{number} {name}" for name, number in tally.items()])
    return f"Of {plural(len(chosen), 'head')} here: {said}."


@st.fragment
def _one(maps: AttentionMaps, generation: Generation) -> None:
    """One row of the map, over the text itself or as lines."""
    side = maps.side
    field = "query" if side == "encoder" else "step"
    tokens = generation.source_tokens if side == "encoder" else generation.target_tokens
    groups = groups_at(maps.level, tokens, maps.query_text)
    step = getattr(state.current(), field)
    at = next((row for row, group in enumerate(groups) if step in group), 0)

    def pick(row: int | None) -> None:
        state.change(**{field: -1 if row is None else groups[row][0]})

    drawn = state.current().drawn if state.current().drawn in _DRAWN else "text"
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        frame.section(f"One {maps.level}")
        st.segmented_control(
            "Drawn",
            list(_DRAWN),
            format_func=lambda name: _DRAWN[name],
            label_visibility="collapsed",
            width="content",
            **state.bind("drawn", shown=drawn),
        )
    weights = maps.chosen().numpy()
    bar = Bar("sequential", float(weights.max()) or 1.0, "attention weight", noun="weight")
    query = Strip(
        "query",
        "Source" if side == "encoder" else "Output",
        maps.queries,
        maps.query_text,
        role="pick",
        hint=f"click a {maps.level} to see where it looked",
    )
    key = Strip(
        "key",
        {"cross": "Source", "encoder": "Source, looked at", "decoder": "Output so far"}[side],
        maps.keys,
        maps.key_text,
        role="lit",
        values=np.where(maps.seen.numpy(), weights, np.nan),
        bar=bar,
    )
    shared = {"theme": frame.theme(), "picked": at, "on_pick": pick}
    if drawn == "lines":
        lines(key, query, weights, bar, key=f"lines_{side}_{maps.level}", **shared)
        st.caption(
            f"A line's thickness and colour are its weight. Point at a {maps.level} on the left to see what "
            "looked at it."
        )
    else:
        strips([query, key], key=f"attention_{side}_{maps.level}", **shared)


def _whole(maps: AttentionMaps, layer: int, head: int, python: str) -> None:
    title = _name(layer, head)
    query, key = {
        "cross": ("output {}", "source {}"),
        "encoder": ("source {}", "source {} looked at"),
        "decoder": ("output {}", "earlier output {}"),
    }[maps.side]
    query, key = query.format(maps.level), key.format(maps.level)
    frame.section("The whole map")
    frame.figure(
        plots.attention_map(
            maps.chosen(),
            maps.queries,
            maps.keys,
            title=title,
            query_name=query,
            key_name=key,
            theme=frame.theme(),
        ),
        _reading(maps, layer, head, query, key),
        key="map_attention",
        alt=f"Heat map: attention, {title}",
        zoom=len(maps.keys) > FIT_COLUMNS or len(maps.queries) > FIT_ROWS,
        python=python,
    )


def _reading(maps: AttentionMaps, layer: int, head: int, query: str, key: str) -> str:
    ends = "0 is no attention at all. The scale ends at the largest weight of this map."
    if layer == ROLLOUT:
        whole = {
            "encoder": "its shares add up to 1",
            "cross": "the rest of it came from the output so far",
            "decoder": "the rest of it came from the source",
        }[maps.side]
        return f"Each row is one {query}: which {key}s reached it along all layers; {whole}. {ends}"
    if head == MAX:
        return f"Each row is one {query}: the most that a head gave to each {key}, so it may pass 1. {ends}"
    return f"Each row is one {query} and sums to 1: how its attention was shared out over the {key}s. {ends}"


def _figures_python(
    choice: Choice, example: Example, task: str | None, shown: tuple[str, str, Head | None, int, int]
) -> str:
    """Lines that draw what every head looks at, over texts of a task or over this text."""
    side, kind, chosen, layer, head = shown
    if task:
        made = [
            *snippets.opened(choice),
            f"drawn = tasks.get({task!r}).examples('held_out', {cache.TASK_TEXTS}, 0)",
            "outputs = model.force([each.source for each in drawn], [each.target for each in drawn])",
            "pairs = zip(drawn, outputs, strict=True)",
            "gold = [tasks.token_gold(each, o.source_tokens, o.target_tokens) for each, o in pairs]",
            "statistics = head_statistics(model, outputs, gold)",
        ]
        made.insert(1, "from explain.training import tasks")
    else:
        made = [*snippets.written(choice, example), "statistics = head_statistics(model, generation)"]
    named = f", Head({chosen.block!r}, {chosen.index})" if chosen else ""
    named += f", layer={layer}" if layer >= 0 and not chosen else ""
    named += f", index={head}" if head >= 0 and not chosen else ""
    names = ["Head", "head_statistics"] if chosen else ["head_statistics"]
    return snippets.shown(made, names, f"head_figure(statistics, {side!r}, {kind!r}{named})", "head_plots")


def _python(choice: Choice, example: Example, side: str, level: str, layer: int, head: int) -> str:
    """Lines that draw the chosen map."""
    made_by = [
        *snippets.written(choice, example),
        "maps = {",
        "    side: attention_maps(model.capture(generation, points), generation, side)",
        "    for side, points in SIDES.items()",
        "}",
    ]
    over = {"over": "max"} if head == MAX else {}
    merged = f".at_level({level!r})" if level != "token" else ""
    if layer == ROLLOUT:
        sides = ["maps['encoder']", "maps['decoder']", "maps['cross']", repr(side)]
        made, chosen = snippets.call("rolled_out", sides, over), {}
    else:
        made = f"maps[{side!r}]"
        chosen = {"layer": layer} if layer >= 0 else {}
        chosen |= {"head": head} if head >= 0 else over
    made_by += [
        f"found = {made}{merged}",
        f"pattern = {snippets.call('found.chosen', [], chosen)}",
    ]
    first, *rest = made_by
    names = "SIDES, attention_maps" + (", rolled_out" if layer == ROLLOUT else "")
    imported = [first, f"from explain.analysis.attention_maps import {names}", *rest]
    return snippets.drawn(imported, "attention_map(pattern, found.queries, found.keys)")
