"""The tab Causes: what becomes of the output when something inside the model, or before it, changes?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from dashboard import analyses, cache, frame, snippets, state
from dashboard.analyses import Progress
from dashboard.catalogue import Choice, current_place
from dashboard.components.beside import beside
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import costly, other_text, picking
from explain.analysis import (
    Ablation,
    Edit,
    Hidden,
    Knockout,
    Patching,
    Redecoded,
    ablate,
    knockout_sweep,
    patch,
    redecode,
    site_named,
)
from explain.analysis.heads import attention_blocks
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.report.causal_plots import ABLATION_HELP, Grid, grid_figure, grids_of, knockout_grid
from explain.report.inside_facts import KINDS
from explain.report.labels import array, number, plural, token_label
from explain.report.panels import panels_figure
from explain.results import Generation

CAUSES = {
    "heads": "Silence heads",
    "tokens": "Hide source tokens",
    "source": "Swap a word",
    "writing": "Write anew",
}
SAYS = {
    "heads": "Each head is silenced by itself, and the output is kept: what does the output lose without it?",
    "tokens": "Each token is hidden by itself from whoever looks at it: what does the output lose?",
    "source": "The text is read once as it is, and once with a word swapped. Then what the model held in one "
    "place of the first reading is put into the second: does that bring the output back?",
    "writing": "A part is silenced, or a token hidden, and the model writes once more: what comes out then?",
}
CARRIED = {
    "*.residual": ("What each layer hands on", ("layer", "position")),
    "*.self.out": ("What looking at itself adds", ("layer", "position")),
    "*.cross.out": ("What looking at the source adds", ("layer", "position")),
    "*.mlp.out": ("What the feed-forward networks add", ("layer", "position")),
    "*.z": ("What each head reads", ("layer", "head")),
}
STRONGEST = 5
LEAST = 0.005
"""Nats that a head must count for to be named."""


def show(choice: Choice, example: Example, generation: Generation) -> None:
    """Draw the tab."""
    view = state.current()
    cause = view.cause if view.cause in CAUSES else "heads"
    st.segmented_control(
        "What is changed",
        list(CAUSES),
        format_func=lambda name: CAUSES[name],
        label_visibility="collapsed",
        **state.bind("cause", shown=cause),
    )
    st.caption(SAYS[cause])
    asks: dict[str, Callable[[Choice, Example, Generation], None]] = {
        "heads": _heads,
        "tokens": _tokens,
        "source": _source,
        "writing": _writing,
    }
    asks[cause](choice, example, generation)


def _lengths(generation: Generation) -> int:
    return len(generation.source_tokens) + len(generation.target_tokens)


# ---- heads -----------------------------------------------------------------------------------------------


def _heads(choice: Choice, example: Example, generation: Generation) -> None:
    model = cache.model(choice)
    count = _head_count(choice)
    found: Ablation | None = costly.result(
        analyses.key("ablation", choice, example.id),
        lambda tell: ablate(model, generation, "heads", progress=tell, should_stop=cache.unwanted),
        label="Silence every head",
        cost=analyses.seconds(choice, count, _lengths(generation)),
        note=f"Silencing {plural(count, 'head')}, one after the other.",
    )
    if found is None:
        return
    row = picking.output(
        generation,
        key="ablation_output",
        hint="click a token to see what it alone loses; again for the whole output",
        whole=True,
    )
    frame.section(f"What {_about(generation, row)} loses without each head")
    lines = [
        *snippets.written(choice, example),
        "ablation = ablate(model, generation, 'heads')",
        f"grids = causal_plots.grids_of(ablation, {row})",
    ]
    lines.insert(1, "from explain.report import causal_plots")
    grids = grids_of(found, row)
    names = [_kind(grid.title.partition(" · ")[0]) for grid in grids]
    frame.figure(
        panels_figure(grids, names, theme=frame.theme()),
        ABLATION_HELP,
        key="wide_ablation",
        alt=f"Heat maps: what {_about(generation, row)} loses without each head, layer by layer",
        data=found.to_frame,
        python=snippets.shown(lines, ["ablate"], f"panels_figure(grids, {names!r})", "panels"),
    )
    strongest = [(part, value) for part, value in found.top(STRONGEST, row) if abs(value) >= LEAST]
    if not strongest:
        st.caption("No single head counts here: others stand in for each.")
        return
    st.markdown("**Write it anew without the head that counts most**")
    with st.container(horizontal=True, gap="small"):
        for part, value in strongest:
            layer, head = int(part.layer or 0), int(part.head or 0)
            place = f"{part.point.replace('*', str(layer)).removesuffix('.z')} head {head}"
            label = f"{_kind(part.point)} · layer {layer}, head {head} ({number(value, 2, signed=True)})"
            st.button(
                plain(label),
                key=f"without_{place}",
                icon=":material/edit_off:",
                on_click=_without,
                args=(place,),
            )


def _without(place: str) -> None:
    state.change(silenced=place, cause="writing")


def _about(generation: Generation, row: int | None) -> str:
    return "the whole output" if row is None else f"‘{token_label(generation.target_tokens[row])}’"


def _kind(point: str) -> str:
    side, _, kind = point.split(".")[:3]
    return KINDS.get((side, kind), point)


def _head_count(choice: Choice) -> int:
    facts = cache.facts(choice)
    return int(facts["heads"]) * (int(facts["encoder_layers"]) + 2 * int(facts["decoder_layers"]))


# ---- source tokens ---------------------------------------------------------------------------------------


def _tokens(choice: Choice, example: Example, generation: Generation) -> None:
    model = cache.model(choice)
    sides = ["source", "prefix"] if len(generation.target_tokens) > 1 else ["source"]
    count = len(generation.source_tokens) + len(generation.target_tokens) - 1

    def make(tell: Progress) -> list[Knockout]:
        done = 0
        found = []
        for side in sides:
            start = done

            def further(part: int, total: int, start: int = start) -> None:
                tell(start + part, count)

            found.append(
                knockout_sweep(
                    model, generation, side=side, window=None, progress=further, should_stop=cache.unwanted
                )
            )
            done += len(found[-1].parts)
        return found

    found = costly.result(
        analyses.key("knockout", choice, example.id),
        make,
        label="Hide every token",
        cost=analyses.seconds(choice, count, _lengths(generation)),
        note=f"Hiding {plural(count, 'token')}, one after the other.",
    )
    if found is None:
        return
    grids = [knockout_grid(each) for each in found]
    limit = max(grid.scale for grid in grids) or 1.0
    unit = found[0].units
    bar = Bar(
        "diverging", limit, f"lost without it ({unit})", ends=("spoke against", "was needed"), noun="loss"
    )
    lit = [
        Strip(
            "source", "Source", generation.source_tokens, generation.source_text, "lit", grids[0].values, bar
        )
    ]
    if len(grids) > 1:
        # The last token is read by nothing, so it cannot be hidden.
        last = np.full((len(generation.target_tokens), 1), np.nan, dtype=np.float32)
        values = np.hstack([grids[1].values, last])
        lit.append(
            Strip(
                "prefix", "Output so far", generation.target_tokens, generation.target_text, "lit", values,
                bar, legend=False,
            )
        )  # fmt: skip
    picking.output(
        generation, key="knockout_output", hint="click a token to see what it needed to look at", beside=lit
    )
    st.caption(plain(grids[0].help))
    frame.section("The whole map")
    lines = [
        *snippets.written(choice, example),
        "hidden = knockout_sweep(model, generation, side='source', window=None)",
    ]
    for grid, side in zip(grids, sides, strict=True):
        one = replace(grid, limit=limit)
        frame.figure(
            grid_figure(one, theme=frame.theme()),
            grid.help,
            key=f"map_knockout_{side}",
            alt=f"Heat map: what each output token loses without each token of the {side}",
            data=found[sides.index(side)].to_frame,
            python=snippets.shown(
                [line.replace("'source'", repr(side)) for line in lines],
                ["knockout_sweep"],
                "knockout_map(hidden)",
                "causal_plots",
            ),
        )


# ---- another source --------------------------------------------------------------------------------------


def _source(choice: Choice, example: Example, generation: Generation) -> None:
    edited = other_text.ask(current_place(), choice, example, generation, same_length=True)
    if edited is None:
        return
    other, written = edited
    beside(
        generation,
        written,
        names=("As it is", "With the other word"),
        key="patch_beside",
        theme=frame.theme(),
    )
    view = state.current()
    point = view.point if view.point in CARRIED else "*.residual"
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        frame.section("Where is the difference carried?")
        st.selectbox(
            "What is carried over",
            list(CARRIED),
            format_func=lambda name: CARRIED[name][0],
            label_visibility="collapsed",
            width=300,
            **state.bind("point", shown=point),
        )
    found = _patched(choice, example, generation, other, point)
    if found is None:
        return
    row = picking.output(
        generation,
        key="patch_output",
        hint="click a token to look at it alone; again for the whole output",
        whole=True,
    )
    if (found.effect.isnan() if row is None else found.effect[:, row].isnan()).all():
        st.caption(
            plain(
                f"Both texts make {_about(generation, row)} equally likely, so there is no difference to "
                "carry over. Pick another token, or swap another word."
            )
        )
        return
    lines = [
        *snippets.opened(choice),
        f"clean = model.force({example.source!r}, {generation.target_text!r})",
        f"corrupted = model.force({other.source!r}, {generation.target_text!r})",
        f"patching = patch(model, clean, corrupted, {point!r}, {CARRIED[point][1]!r})",
    ]
    for place, grid in enumerate(_named(grids_of(found, row))):
        frame.figure(
            grid_figure(grid, theme=frame.theme()),
            grid.help,
            key=f"map_patching_{place}",
            alt=f"Heat map: {grid.title}: how much of the difference each place carries",
            zoom=len(grid.columns) > 40,
            data=found.to_frame,
            python=snippets.shown(
                lines, ["patch"], f"patching_map(patching, {_point(found, place)!r}, {row})", "causal_plots"
            ),
        )


def _patched(
    choice: Choice, example: Example, generation: Generation, other: Example, point: str
) -> Patching | None:
    model, by = cache.model(choice), CARRIED[point][1]
    depth = int(cache.facts(choice)["encoder_layers"]) + int(cache.facts(choice)["decoder_layers"])
    count = _head_count(choice) if "head" in by else depth * _lengths(generation) // 2

    def make(tell: Progress) -> Patching:
        # By text, so that both are read alike; what the model wrote is then a given output.
        clean, corrupted = (
            model.force(source, generation.target_text, **analyses.reading(example))
            for source in (example.source, other.source)
        )
        return patch(model, clean, corrupted, point, by, progress=tell, should_stop=cache.unwanted)

    return costly.result(
        analyses.key("patching", choice, example.id, other.id, point),
        make,
        label="Carry it over",
        cost=analyses.seconds(choice, count, _lengths(generation)),
        note=f"Carrying over {plural(count, 'place')}, one after the other.",
    )


def _point(found: Patching, place: int) -> str:
    return list(dict.fromkeys(part.point for part in found.parts))[place]


def _named(grids: list[Grid]) -> list[Grid]:
    """Titles as one says them."""
    found = []
    for grid in grids:
        point, about = grid.title.split(" · ", 1)
        side = "Encoder" if point.startswith("encoder") else "Decoder"
        title = _kind(point) if point.endswith(".z") else side
        found.append(
            replace(grid, title=f"{title} · {about}", units="share of the difference", ends="1 = all of it")
        )
    return found


# ---- written anew ----------------------------------------------------------------------------------------


def places(model: Seq2Seq, generation: Generation | None = None) -> dict[str, str]:
    """What can be silenced, by the name that stands in links: heads, blocks, tokens of a source."""
    found = {}
    for block in attention_blocks(model):
        side, layer, kind = block.split(".")
        for head in range(int(model.describe()["heads"])):
            found[f"{block} head {head}"] = f"{KINDS[side, kind]} · layer {layer}, head {head}"
    for point in model.hook_points():
        if point.endswith((".self.out", ".cross.out", ".mlp.out")):
            side, layer, kind, _ = point.split(".")
            name = {"self": "attention to itself", "cross": "attention to the source"}.get(
                kind, "feed-forward"
            )
            found[point.removesuffix(".out")] = f"{side.capitalize()} · layer {layer}, all of its {name}"
    if generation is not None:
        for at, token in enumerate(generation.source_tokens):
            found[f"source {at}"] = f"Source token {at} · ‘{token_label(token)}’"
    return found


def edits_of(model: Seq2Seq, place: str) -> list[Edit]:
    """The edits that silence a place, or hide a source token.

    Raises:
        ExplainError: there is no such place.
    """
    if place.startswith("source "):
        token = place.removeprefix("source ")
        if not token.isdecimal():
            raise InputError(f"{place!r} names no source token")
        depth = int(model.describe()["decoder_layers"])
        return Hidden((int(token),), (), (0, depth - 1)).edits()
    site = site_named(model, place)
    return [Edit(point, site.where(point)) for point in site.points]


def ask_place(choice: Choice, generation: Generation) -> str | None:
    """The choice of what is silenced; None, with what to do, where nothing is chosen."""
    offered = places(cache.model(choice), generation)
    wanted = state.current().silenced
    st.selectbox(
        "What is silenced",
        list(offered),
        format_func=lambda name: offered[name],
        index=None,
        placeholder="Choose a head, a block or a source token, or type a few letters",
        **_bound(wanted if wanted in offered else None),
    )
    if wanted not in offered:
        frame.empty(
            "Nothing is silenced yet",
            "Choose above what to do without; “Silence heads” shows which heads count most.",
        )
        return None
    return wanted


def _writing(choice: Choice, example: Example, generation: Generation) -> None:
    wanted = ask_place(choice, generation)
    if wanted is None:
        return
    model = cache.model(choice)
    name = places(model, generation)[wanted]

    def make(tell: Progress) -> Redecoded:
        controls = {} if example.target is not None else dict(example.controls)
        options = analyses.reading(example) | controls
        return redecode(model, example.source, edits_of(model, wanted), should_stop=cache.unwanted, **options)

    steps = 2 * len(generation.target_tokens)
    found = costly.result(
        analyses.key("redecoded", choice, example.id, wanted),
        make,
        label="Write anew",
        cost=analyses.seconds(choice, steps, _lengths(generation)),
        note="The model writes once as it is, and once without.",
    )
    if found is None:
        return
    if example.target is not None or example.prefix:
        st.caption("The output on this page was given; below is what the model writes by itself.")
    _written_anew(choice, example, found, name, wanted)


def _bound(shown: str | None) -> dict[str, Any]:
    arguments = state.bind("silenced")
    st.session_state["view_silenced"] = shown
    return arguments


def _written_anew(choice: Choice, example: Example, found: Redecoded, name: str, place: str) -> None:
    changed = sum(change.before[1] - change.before[0] for change in found.changes if change.kind != "equal")
    frame.section("What is written then")
    st.markdown(
        plain(
            f"Without it, {plural(changed, 'token')} of {len(found.before.target_tokens)} would be other "
            "ones."
            if found.changed
            else "The output stays word for word the same: others can do without it."
        )
    )
    beside(found.before, found.after, names=("As it is", "Without it"), key="anew", theme=frame.theme())
    lost = array(found.lost)
    limit = float(np.nanmax(np.abs(lost))) if lost.size else 0.0
    bar = Bar(
        "diverging",
        limit or 1.0,
        "lost without it (nats)",
        ends=("likelier without", "needs it"),
        noun="loss",
    )
    strips(
        [
            Strip(
                "lost",
                "What the first output loses",
                found.before.target_tokens,
                found.before.target_text,
                values=lost,
                bar=bar,
                notes=[f"loses {number(float(x), 2, signed=True)} nats" for x in lost],
            )
        ],
        key="anew_lost",
        theme=frame.theme(),
    )
    st.caption(
        "Blue tokens become less likely without the part, orange ones more likely; those without colour do "
        "not mind. A part whose loss changes nothing may still be used: others can stand in for it."
    )
    with st.expander("The same in Python"):
        st.code(python(choice, example, place), language="python", wrap_lines=True)


def python(choice: Choice, example: Example, place: str) -> str:
    """Lines that write the output anew."""
    if place.startswith("source "):
        last = int(cache.facts(choice)["decoder_layers"]) - 1
        names = "Hidden, redecode"
        made = [f"edits = Hidden(({place.removeprefix('source ')},), (), (0, {last})).edits()"]
    else:
        names = "Edit, redecode, site_named"
        made = [
            f"site = site_named(model, {place!r})",
            "edits = [Edit(point, site.where(point)) for point in site.points]",
        ]
    call = snippets.call("redecode", ["model", repr(example.source), "edits"], dict(example.controls))
    first, *rest = snippets.opened(choice)
    lines = [first, f"from explain.analysis import {names}", *rest, *made, f"found = {call}"]
    return "\n".join([*lines, "print(found.to_frame())"])
