"""Attribution: why did it write that word?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cache, frame, state
from dashboard.catalogue import Choice
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import takeaway, text_page, trust_card
from dashboard.views.method import LEVEL_NAMES, ask
from explain.report import plots, sections
from explain.report.facts import reading_help
from explain.report.labels import array, number, percent, probability, score_limit, token_label
from explain.report.levels import at_level, columns_of, fits, fitted, levels_of
from explain.results import Attribution, Generation, group_sentences, group_words

STRONGEST = 12


def page() -> None:
    """Draw the page."""
    text_page.draw(
        "Why did it write that word?",
        "Click a word of the output: the source and the output so far light up with what they did to it.",
        _show,
    )


def _show(choice: Choice, example: Example, generation: Generation) -> None:
    kept, missing = trust_card.known(choice)
    asked = ask(kept)
    failed = trust_card.beside(kept, missing, asked.method.name)
    with st.spinner("Computing the scores …", show_time=True):
        tokens = cache.attribution(
            choice, example, asked.method.name, asked.objective, asked.contrast, asked.options
        )
    found = at_level(tokens, state.current().level)
    groups = _groups(found, generation)
    at = _place_of(state.current().step, groups, generation)
    trust_card.notes(kept, tokens)
    with frame.paler(failed, "strips"):
        _lit(found, generation, groups, at)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _table(found, at)
    with right:
        _evidence(found, at)
    frame.section("The whole map")
    with frame.paler(failed, "whole"):
        _map(found, lambda level: takeaway.python(choice, example, asked, level=level))
    frame.section("Take it with you")
    takeaway.downloads(found)
    takeaway.snippet(choice, example, asked, level=found.level)


def _map(found: Attribution, python: Callable[[str], list[str]]) -> None:
    """The map, coarser where the level asked for does not fit; the reader may have that nonetheless."""
    fit = fitted(found)
    shown = fit.attribution
    if fit.note:
        st.caption(plain(fit.note))
        offered = list(reversed(levels_of(found)))
        key = f"map_level_{found.level}_{shown.level}"
        st.session_state.setdefault(key, shown.level)
        chosen = st.segmented_control(
            "Map by",
            offered,
            format_func=lambda name: LEVEL_NAMES[name],
            key=key,
            label_visibility="collapsed",
        )
        shown = at_level(found, chosen or shown.level)
    drawn = plots.attribution_map(shown, theme=frame.theme())
    if columns_of(shown) > 14:
        drawn.update_xaxes(tickangle=-60)
    frame.figure(
        drawn,
        reading_help(shown),
        key="map_attribution",
        alt=f"Heat map: scores of source and earlier output for each output {shown.level}",
        zoom=not fits(shown),
        python="\n".join([*python(shown.level), "attribution.plot().show()"]),
    )


def _groups(found: Attribution, generation: Generation) -> list[list[int]]:
    """The output tokens that each row of the attribution stands for."""
    group = {"word": group_words, "sentence": group_sentences}.get(found.level)
    if group is not None:
        return group(generation.target_tokens, generation.target_text)
    return [[index] for index in range(len(found.target_tokens))]


def _place_of(step: int, groups: Sequence[Sequence[int]], generation: Generation) -> int:
    """The row that output token `step` belongs to; the least certain token's row where none is chosen."""
    if not 0 <= step < len(generation.target_tokens):
        step = int(generation.log_probs.argmin())
    return next(row for row, group in enumerate(groups) if step in group)


def _lit(found: Attribution, generation: Generation, groups: Sequence[Sequence[int]], at: int) -> None:
    """The output to pick from, and the two texts that light up."""
    scale = "diverging" if found.signed else "sequential"
    bar = Bar(scale, score_limit(found), found.units, ends=_ends(found))
    count = len(found.target_tokens)
    past = np.where(np.tri(count, k=-1, dtype=bool), array(found.prefix), np.nan)
    if found.level != "token":
        np.fill_diagonal(past, np.where(array(found.within) == 0, np.nan, array(found.within)))
    begun = bool((found.start != 0).any())
    earlier = ((generation.decoder_start,) if begun else ()) + found.target_tokens
    values = np.hstack([array(found.start)[:, None], past]) if begun else past
    shown = [
        Strip(
            "output",
            "Output",
            found.target_tokens,
            found.target_text,
            role="pick",
            notes=[_note(found, row) for row in range(count)],
            hint=f"click a {found.level}",
        ),
        Strip("source", "Source", found.source_tokens, found.source_text, "lit", array(found.source), bar),
        Strip("prefix", "Output so far", earlier, found.target_text, "lit", values, bar, legend=False),
    ]

    def pick(row: int | None) -> None:
        state.change(step=-1 if row is None else groups[row][0])

    strips(shown, key=f"attribution_{found.level}", theme=frame.theme(), picked=at, on_pick=pick)


def _ends(found: Attribution) -> tuple[str, str]:
    """What the two ends of the colours mean, in a word or two."""
    if not found.signed:
        return "no part", "most"
    if found.objective == "entropy":
        return "surer", "less sure"
    return ("for the contrast", "for the output") if found.contrast else ("against", "for")


def _note(found: Attribution, row: int) -> str:
    value, base = float(found.value[row]), float(found.baseline_value[row])
    parts = [f"probability {probability(float(found.log_probs[row]))}"]
    if not np.isnan(value) and not np.isnan(base):
        parts.append(f"{number(value - base, 2, signed=True)} {found.units} to explain")
    contrasted = found.config.get("contrasted")
    if contrasted is not None and found.level == "token" and not contrasted[row]:
        parts.append("the contrast is the same here, so there is nothing to explain")
    return " · ".join(parts)


def _table(found: Attribution, at: int) -> None:
    name = token_label(found.target_tokens[at])
    st.markdown(f"**{plain(f'What counted most for ‘{name}’')}**")
    rows = [row for row in found.top(at, STRONGEST) if row[2] != 0]
    if not rows:
        st.caption("Nothing: every score of it is 0.")
        return
    tokens = {"source": found.source_tokens, "prefix": found.target_tokens}
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "token": token_label(tokens[side][index], 120),
                    "where": "source" if side == "source" else "output so far",
                    "position": index,
                    "score": score,
                }
                for side, index, score in rows
            ],
            columns=["token", "where", "position", "score"],
        ),
        hide_index=True,
        column_config={
            "token": found.level,
            "score": st.column_config.NumberColumn(
                f"score ({found.units})", format="%+.4f" if found.signed else "%.4f"
            ),
        },
        height=min(38 + 35 * len(rows), 320),
    )
    st.caption(
        plain(
            f"The {len(rows)} strongest of {found.source.shape[1] + at}. "
            + ("Above 0 speaks for it, below 0 against it; " if found.signed else "No sign; ")
            + "0 is no effect. Positions count from 0."
        )
    )


def _evidence(found: Attribution, at: int) -> None:
    st.markdown("**Do the scores add up?**")
    error = float(found.completeness_error[at])
    name = token_label(found.target_tokens[at])
    tolerance = float(found.config.get("tolerance", 0.01))
    if np.isnan(error):
        st.caption(plain(f"For ‘{name}’ the check is not defined."))
    else:
        good = error <= tolerance
        st.metric(
            f"Completeness error of this {found.level}",
            percent(error),
            help="How far the sum of the scores is from what they explain, as a share of it; 0 is exact.",
        )
        icon, colour = (":material/check_circle:", "green") if good else (":material/warning:", "orange")
        st.badge(
            f"within {percent(tolerance)}" if good else f"beyond {percent(tolerance)}",
            icon=icon,
            color=colour,
        )
    st.caption(plain(sections.evidence(found).sentence))
