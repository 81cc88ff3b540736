"""Compare: what changed? One output under two conditions, or two models over many texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from dashboard import analyses, cache, frame, pairs, sidebar, snippets, state
from dashboard.catalogue import Choice, Place, choices, current_place
from dashboard.components.beside import beside
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.pairs import Both, Pair
from dashboard.views import agreed, compare_runs, costly, inside_causes, other_text, picking, text_page
from dashboard.views.method import by_kind, title
from explain.attribution import REGISTRY
from explain.errors import ExplainError
from explain.report import plots
from explain.report.causal_plots import grid_figure
from explain.report.facts import reading_help
from explain.report.labels import array, block_label, mean, number, score_limit, token_label, whole_percent
from explain.report.pair_plots import SHIFT_HELP, difference_grid, shifts_figure
from explain.results import Attribution, Generation

CHANGED = {
    "source": "Another text",
    "model": "Another model",
    "head": "A part silenced",
    "models": "Two models, many texts",
}
QUESTION = "What changed?"
ANSWERS = {
    "source": "Change a word of the text: what becomes of the output, of what it was written "
    "for, and of where "
    "the heads look?",
    "model": "Give the same text to another model: does it write the same, and for the same reasons?",
    "head": "Silence a head, a block or a source token: what becomes of the output and of its reasons?",
    "models": "Two models may write the same for other reasons. Many texts show whether that "
    "is more than what "
    "another training seed changes.",
}
K = 5
"""Strongest tokens that are compared."""


def page() -> None:
    """Draw the page."""
    view = state.current()
    changed = view.changed if view.changed in CHANGED else "source"
    if changed != "models":
        text_page.draw(QUESTION, ANSWERS[changed], _show, above=lambda: _tabs(changed))
        return
    frame.head(QUESTION, ANSWERS[changed])
    _tabs(changed)
    place = current_place()
    choice = sidebar.chosen(place)
    if choice is None:
        text_page.no_model(place)
        return
    with frame.friendly():
        compare_runs.show(place, choice)


def _tabs(changed: str) -> None:
    st.segmented_control(
        "What is changed",
        list(CHANGED),
        format_func=lambda name: CHANGED[name],
        label_visibility="collapsed",
        **state.bind("changed", shown=changed),
    )


def _show(choice: Choice, example: Example, generation: Generation) -> None:
    place, changed = current_place(), state.current().changed
    if changed == "model":
        pair = _with_model(place, choice, example)
    elif changed == "head":
        pair = _silenced(choice, example, generation)
    else:
        pair = _with_text(place, choice, example, generation)
    if pair is None:
        return
    try:
        with st.spinner("The model is at work …", show_time=True):
            written = pairs.written(pair)
    except ExplainError as error:
        whose = f"{pair.rival.name} cannot read this text: " if changed == "model" else ""
        st.error(plain(f"{whose}{error}"), icon=":material/error:")
        return
    frame.section("The output")
    same = generation.target_text == written.target_text
    st.markdown("Both write the same, word for word." if same else "The outputs differ:")
    beside(generation, written, names=pair.names, key="compare_beside", theme=frame.theme(), by="text")
    _reasons(pair, generation)


# ---- what is changed -------------------------------------------------------------------------------------


def _with_text(place: Place, choice: Choice, example: Example, generation: Generation) -> Pair | None:
    edited = other_text.ask(place, choice, example, generation, same_length=False)
    if edited is None:
        return None
    names = "A · as it is", "B · changed"
    return Pair(choice, example, choice, edited[0], (), ("source", edited[0].id), names)


def _with_model(place: Place, choice: Choice, example: Example) -> Pair | None:
    others = [each for name, each in choices(place).items() if name != choice.name]
    others.sort(key=lambda each: each.task != choice.task)  # those that read the same texts come first
    offered = {each.name: each for each in others}
    if not offered:
        box = frame.empty("There is no other model yet", "Train a second one, of another seed for example.")
        if box.button("Train a model", type="primary", icon=":material/model_training:"):
            st.switch_page("routes/train.py")
        return None
    wanted = state.current().rival
    chosen = wanted if wanted in offered else next(iter(offered))
    st.selectbox(
        "The other model",
        list(offered),
        format_func=lambda name: name,
        **state.bind("rival", shown=chosen),
    )
    rival = offered[chosen]
    # A branch begins with ids of its own model, which another one may number otherwise.
    other = replace(example, prefix=(), model="", origin="") if example.prefix else example
    names = f"A · {choice.name}", f"B · {rival.name}"
    return Pair(choice, example, rival, other, (), ("model", rival.name, rival.stamp), names)


def _silenced(choice: Choice, example: Example, generation: Generation) -> Pair | None:
    wanted = inside_causes.ask_place(choice, generation)
    if wanted is None:
        return None
    edits = tuple(inside_causes.edits_of(cache.model(choice), wanted))
    # What is given in A is written in B, so that it can change.
    other = replace(example, target=None, prefix=(), model="", origin="")
    return Pair(choice, example, choice, other, edits, ("head", wanted), ("A · as it is", "B · without it"))


# ---- what changed in the reasons -------------------------------------------------------------------------


def _reasons(pair: Pair, generation: Generation) -> None:
    names, view = by_kind(), state.current()
    name = view.method if view.method in names else names[0]
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        frame.section("What it was written for")
        st.selectbox(
            "Method",
            names,
            format_func=title,
            label_visibility="collapsed",
            width=340,
            **state.bind("method", shown=name, options=""),
        )
    method = REGISTRY.get(name)
    lengths = len(generation.source_tokens), len(generation.target_tokens)
    parameters = int(cache.facts(pair.choice)["parameters"]) + int(cache.facts(pair.rival)["parameters"])
    found = costly.result(
        analyses.key("pair", pair.choice, pair.example.id, pair.other.id, *pair.key, name),
        lambda tell: pairs.explained(pair, generation.target_text, name, tell),
        label="Explain both",
        cost=agreed.seconds(method, parameters, *lengths),
        note=f"{method.label}, once for each side.",
    )
    if found is None:
        return
    st.caption(
        plain(
            "Both explain the same output, the one that A wrote: a map differs because its reasons "
            "do, and not "
            "because the output does."
        )
    )
    _maps(found, pair, method.label, pairs.python(pair, generation.target_text, name))
    frame.section("Where the heads look")
    if not found.aligned:
        st.caption(
            plain(
                f"A reads {len(found.a.source_tokens)} tokens and B {len(found.b.source_tokens)}, so that "
                "places "
                "cannot be matched: neither the heads nor the strongest tokens are compared one by one. "
                "A change "
                "that keeps the number of tokens would show them."
            )
        )
        return
    _heads(found, pairs.python(pair, generation.target_text, name, heads=True))


def _maps(found: Both, pair: Pair, label: str, python: list[str]) -> None:
    """Both maps lit up by the token that is picked, and their difference below."""
    a, b = found.map_a, found.map_b
    at = picking.step_of(found.a)
    scale = "diverging" if a.signed else "sequential"
    bar = Bar(scale, max(score_limit(a), score_limit(b)) or 1.0, a.units or "score")
    shown = [
        Strip("output", "Output of A", a.target_tokens, a.target_text, role="pick", hint="click a token"),
        *_lit("source", "Source", (a, b), pair.names, bar),
        *_lit("prefix", "Output so far", (a, b), pair.names, bar),
    ]
    if found.aligned:
        apart = _source(b) - _source(a), _past(b) - _past(a)
        limit = max(float(np.nanmax(np.abs(each), initial=0.0)) for each in apart)
        shift = Bar("diverging", limit or 1.0, "B less A", ends=("more in A", "more in B"), noun="difference")
        shown += [
            Strip(
                "apart_source", "Difference, source", a.source_tokens, a.source_text, "lit", apart[0], shift,
                by="B less A", column=0,
            ),
            Strip(
                "apart_prefix", "Difference, output so far", a.target_tokens, a.target_text, "lit", apart[1],
                shift, legend=False, by="B less A", column=1,
            ),
        ]  # fmt: skip
    strips(
        shown,
        key="compare_strips",
        theme=frame.theme(),
        picked=at,
        on_pick=lambda row: state.change(step=-1 if row is None else row),
    )
    st.caption(
        plain(
            "The two maps share one scale. "
            + (
                "In the difference blue counts more in B, orange more in A, no colour alike."
                if found.aligned
                else ""
            )
        )
    )
    if found.aligned:
        _agreement(a, found.map_b_by_place, at)
    with st.expander("The whole maps", key="compare_maps"):
        for place, (each, column) in enumerate(zip((a, b), st.columns(2, gap="medium"), strict=True)):
            with column:
                st.markdown(f"**{plain(pair.names[place])}**")
                frame.figure(
                    plots.attribution_map(each, theme=frame.theme()),
                    reading_help(each),
                    key=f"map_compare_{place}",
                    alt=f"Heat map: {label}, {pair.names[place]}",
                    zoom=True,
                    data=each.to_frame,
                    python="\n".join([*python, f"map_{'ab'[place]}.plot().show()"]),
                )


def _lit(
    id_: str, label: str, maps: tuple[Attribution, Attribution], names: tuple[str, str], bar: Bar
) -> list[Strip]:
    found = []
    for column, (each, name) in enumerate(zip(maps, names, strict=True)):
        source = id_ == "source"
        found.append(
            Strip(
                f"{id_}_{column}",
                label,
                each.source_tokens if source else each.target_tokens,
                each.source_text if source else each.target_text,
                "lit",
                _source(each) if source else _past(each),
                bar,
                legend=source,
                by=name,
                column=column,
            )
        )
    return found


def _source(found: Attribution) -> np.ndarray:
    return array(found.source)


def _past(found: Attribution) -> np.ndarray:
    """Scores of the earlier output, nan where none is possible."""
    return np.where(np.tri(len(found.target_tokens), k=-1, dtype=bool), array(found.prefix), np.nan)


def _agreement(a: Attribution, b: Attribution, at: int) -> None:
    """How alike the reasons are, here and over the whole output."""
    # Evaluation loads scipy, which the rest of the page need not wait for.
    from explain.evaluation.agreement import chance, top1, topk_jaccard

    first, overlap = top1(a, b), topk_jaccard(a, b, K)
    here = float(overlap[at])
    name = token_label(a.target_tokens[at])
    said = "" if np.isnan(here) else f"For ‘{name}’ the {K} strongest overlap by {whole_percent(here)}. "
    said += (
        "Over the whole output both name the same strongest token for "
        f"{whole_percent(mean(first.tolist()))} of "
        f"the tokens, and the {K} strongest overlap by {whole_percent(mean(overlap.tolist()))} "
        "(random scores: "
        f"{whole_percent(mean(chance(a, K).topk_jaccard.tolist()))}). Overlap is what both name over what "
        "either names."
    )
    with st.container(border=True, key="compare_agreement"):
        st.markdown("**Are the reasons the same?**")
        st.caption(plain(said))


def _heads(found: Both, python: list[str]) -> None:
    """How far every head looks elsewhere, and where to in those that do most."""
    if not found.patterns:
        st.caption("Every head looks at the same places in both.")
        return
    frame.figure(
        shifts_figure(found.shifts, theme=frame.theme()),
        SHIFT_HELP,
        key="map_shifts",
        alt="Heat maps: how far each head looks elsewhere, layer by layer",
        python=snippets.shown(python, [], "shifts_figure(shifts)", "pair_plots"),
    )
    names = [f"{shift.a}.{shift.head}" for shift, _, _ in found.patterns]
    wanted = state.current().shifted
    chosen = wanted if wanted in names else names[0]
    bits = {name: shift.bits for name, (shift, _, _) in zip(names, found.patterns, strict=True)}
    st.pills(
        "Where does it look instead?",
        names,
        format_func=lambda name: plain(
            f"{block_label(name)}, head {name.rsplit('.', 1)[1]} ({number(bits[name])} bits)"
        ),
        **state.bind("shifted", shown=chosen),
    )
    shift, a, b = found.patterns[names.index(chosen)]
    grid = difference_grid(shift, a, b, found.a)
    frame.figure(
        grid_figure(grid, theme=frame.theme()),
        grid.help,
        key="map_shift",
        alt=f"Heat map: {grid.title}, what it looks at in B less what it looks at in A",
        zoom=len(grid.columns) > 40,
        python=snippets.shown(
            [
                *python,
                f"shift = next(s for s in shifts if (s.a, s.head) == {(shift.a, shift.head)!r})",
                'a_looks = looks_a[f"{shift.a}.pattern"][0, shift.head]',
                'b_looks = looks_b[f"{shift.b}.pattern"][0, shift.partner]',
                "grid = difference_grid(shift, a_looks, b_looks, a)",
            ],
            [],
            "grid_figure(grid)",
            "causal_plots",
        ).replace(
            "import explain\n", "import explain\nfrom explain.report.pair_plots import difference_grid\n", 1
        ),
    )
