"""The tab Lenses: where does the output take shape, and which part of the model wrote it?"""

from __future__ import annotations

import streamlit as st

from dashboard import analyses, cache, frame, snippets, state
from dashboard.catalogue import Choice
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import picking
from explain.analysis import Contributions, Lens, contributions, decoder_lens, logit_lens
from explain.attribution.objectives import Foil
from explain.errors import ExplainError
from explain.report.inside_facts import (
    CONTRIBUTIONS_HELP,
    LENS_HELP,
    layer_label,
    reconstruction_sentence,
)
from explain.report.inside_plots import contributions_bars, lens_map
from explain.report.labels import probability, token_label
from explain.report.panels import lens_steps
from explain.results import Generation

LENSES = {"decoder": "Layers of the decoder", "encoder": "Layers of the encoder"}
PARTS = {"block": "Blocks", "head": "Heads", "neuron": "Neurons"}
_KINDS = {"block": ("embed", "block", "bias"), "head": ("head",), "neuron": ("neuron",)}
FOLLOWED = 4
"""Tokens that are followed beside the one that was written."""
_SAYS = {
    "decoder": "If the model stopped after a layer of its decoder, what would it write?",
    "encoder": "If the decoder read the source after a layer of the encoder, what would it write?",
}


def show(choice: Choice, example: Example, generation: Generation) -> None:
    """Draw the tab."""
    view = state.current()
    side = view.lens if view.lens in LENSES else "decoder"
    picked = picking.output(generation, key="lens_output", hint="click a token to look at it")
    step = picking.step_of(generation) if picked is None else picked
    picking.alternatives(generation, step, says="Why ‘{}’ rather than")
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        frame.section("Where does it take shape?")
        st.segmented_control(
            "Whose layers",
            list(LENSES),
            format_func=lambda name: LENSES[name],
            label_visibility="collapsed",
            width="content",
            **state.bind("lens", shown=side),
        )
    st.caption(_SAYS[side])
    watched = _watched(choice)
    with st.spinner("Reading the layers …", show_time=True):
        lens = _lens(choice, example, generation, side, watched)
    _shape(choice, example, generation, lens, side, step)
    _parts(choice, example, generation, step)


def _lens(
    choice: Choice, example: Example, generation: Generation, side: str, watched: tuple[Foil, ...]
) -> Lens:
    read = logit_lens if side == "decoder" else decoder_lens
    names = tuple(item if isinstance(item, (str, int)) else item.id for item in watched)
    return analyses.kept(
        analyses.key("lens", choice, example.id, side, names),
        lambda: read(cache.model(choice), generation, watch=list(names)),
    )


def _watched(choice: Choice) -> tuple[Foil, ...]:
    """The tokens to follow: the contrast, and those that are named; one that is no token is told."""
    view = state.current()
    st.text_input(
        "Follow other tokens, too",
        max_chars=200,
        placeholder="such as: dog, cat",
        help="Words of one token, with commas between them. A token picked under “rather than” is followed "
        "as well.",
        **state.bind("watch"),
    )
    wanted: list[Foil] = [word.strip() for word in view.watch.split(",") if word.strip()]
    if view.foil >= 0 and view.contrast:
        wanted.insert(0, view.foil)
    found: list[Foil] = []
    for item in wanted[:FOLLOWED]:
        try:
            if isinstance(item, str):
                ids = next(
                    (
                        ids
                        for text in (f" {item}", item)
                        if len(ids := cache.model(choice).foil_ids(text)) == 1
                    ),
                    None,
                )
                if ids is None:
                    st.caption(plain(f"‘{item}’ is more than one token, so it cannot be followed."))
                    continue
            found.append(item)
        except ExplainError as error:
            frame.failed(error)
    return tuple(dict.fromkeys(found))


def _shape(
    choice: Choice, example: Example, generation: Generation, lens: Lens, side: str, step: int
) -> None:
    drawn = lens_map(lens, theme=frame.theme())
    drawn.add_vrect(x0=step - 0.5, x1=step + 0.5, line={"width": 2.5, "color": frame.ink()}, fillcolor=None)
    name = "logit_lens" if side == "decoder" else "decoder_lens"
    given = f", watch={[item.id for item in lens.watched]!r}" if lens.watched else ""
    lines = [*snippets.written(choice, example), f"lens = {name}(model, generation{given})"]
    frame.figure(
        drawn,
        f"{LENS_HELP[name]} The frame is the token that is looked at.",
        key="map_lens",
        alt=f"Heat map: what each layer of the {side} would write at each step",
        zoom=len(lens.target_tokens) > 40,
        data=lens.to_frame,
        python=snippets.shown(lines, [name], "lens_map(lens)", "inside_plots"),
    )
    frame.figure(
        lens_steps(lens, step, theme=frame.theme()),
        _settled(lens, step, side),
        key="lens_step",
        alt=f"Lines: probability of ‘{token_label(lens.target_tokens[step])}’ at each layer of the {side}",
        data=lens.to_frame,
        python=snippets.shown(lines, [name], f"lens_steps(lens, {step})", "panels"),
    )


def _settled(lens: Lens, step: int, side: str) -> str:
    """From which layer on the token is what would be written."""
    name, at = token_label(lens.target_tokens[step]), int(lens.settled[step])
    where = layer_label(lens, at) if at >= 0 else ""
    chance = probability(float(lens.log_probs[-1, step]))
    if at < 0:
        return (
            f"‘{name}’ is not the most likely token at any end of the {side}: it was given, or drawn. In the "
            f"end its probability is {chance}."
        )
    if at == 0:
        return f"‘{name}’ is the most likely token all along, from the embedding on; in the end {chance}."
    return (
        f"From {where} of the {side} on, ‘{name}’ is the most likely token; in the end its probability is "
        f"{chance}. A line near 0 means that the layer would write something else."
    )


def _parts(choice: Choice, example: Example, generation: Generation, step: int) -> None:
    """The contributions of blocks, heads or neurons to one token."""
    view, name = state.current(), token_label(generation.target_tokens[step])
    parts = view.parts if view.parts in PARTS else "block"
    foil = picking.foil()
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        frame.section(f"Who wrote ‘{plain(name)}’?")
        st.segmented_control(
            "Parts",
            list(PARTS),
            format_func=lambda item: PARTS[item],
            label_visibility="collapsed",
            width="content",
            **state.bind("parts", shown=parts),
        )
    with frame.friendly():
        named = (view.contrast, view.foil) if foil is not None else ()
        found: Contributions = analyses.kept(
            analyses.key("contributions", choice, example.id, step, *named),
            lambda: contributions(cache.model(choice), generation, step, foil),
        )
        against = "" if foil is None else f", {(view.foil if view.foil >= 0 else view.contrast)!r}"
        lines = [
            *snippets.written(choice, example),
            f"found = contributions(model, generation, {step}{against})",
        ]
        kinds = _KINDS[parts]
        call = f"contributions_bars(found, {kinds!r})"
        frame.figure(
            contributions_bars(found, kinds, theme=frame.theme()),
            CONTRIBUTIONS_HELP,
            key="wide_contributions",
            alt=f"Bars: what each part adds to the logit of ‘{name}’",
            data=found.to_frame,
            python=snippets.shown(lines, ["contributions"], call, "inside_plots"),
        )
        st.caption(plain(reconstruction_sentence(found)))
