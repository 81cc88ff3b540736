"""Attribution: why did it write that word?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cache, frame, state
from dashboard.catalogue import Choice
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import agreed, takeaway, text_page, trust_card
from dashboard.views.method import LEVEL_NAMES, Asked, ask
from explain.attribution import Method
from explain.errors import ExplainError
from explain.report import plots, sections
from explain.report.facts import reading_help
from explain.report.labels import (
    array,
    mean,
    number,
    percent,
    probability,
    score_limit,
    shorten,
    token_label,
    whole_percent,
)
from explain.report.levels import at_level, columns_of, fits, fitted, groups_at, levels_of
from explain.results import Attribution, Generation

LEAST = 5e-5
"""Scores below this would stand as 0 in the table."""
STRONGEST = 8
ALTERNATIVES = 5


@dataclass(frozen=True, eq=False)
class Map:
    """What one method says of an output, at the level asked for.

    Attributes:
        method: the method.
        each: every token, word or sentence by itself.
        span: those that are picked as one, and that alone; None where one is picked.
    """

    method: Method
    each: Attribution
    span: Attribution | None = None

    @property
    def at_hand(self) -> Attribution:
        """The attribution that holds the row that is looked at."""
        return self.each if self.span is None else self.span

    @property
    def limit(self) -> float:
        """The largest score of all, without its sign."""
        return max(score_limit(self.each), score_limit(self.at_hand))


def page() -> None:
    """Draw the page."""
    text_page.draw(
        "Why did it write that word?",
        "Click a word of the output, or drag over several: the source and the output so far light up with "
        "what they did to it.",
        _show,
    )


def _show(choice: Choice, example: Example, generation: Generation) -> None:
    kept, missing = trust_card.known(choice)
    asked = ask(kept)
    questions = [asked, *([asked.of(asked.second)] if asked.second else [])]
    failed = _cards(kept, missing, questions)
    view = state.current()
    picked = _picked(generation)
    maps = []
    for question in questions:
        if agreed.to_wait(choice, example, generation, question.method):
            with frame.friendly(), st.spinner("Computing the scores …", show_time=True):
                maps.append(_computed(choice, example, question, view.level, picked))
    if not maps:
        return
    groups = groups_at(maps[0].each.level, generation.target_tokens, generation.target_text)
    at = next(row for row, group in enumerate(groups) if picked[0] in group)
    for found in maps:
        trust_card.notes(kept, found.each)
    with frame.paler(all(failed), "strips"):
        _lit(maps, generation, groups, at)
    _alternatives(generation, picked, questions)
    if len(maps) == 2:
        _agreement(maps, at)
    _details(maps, at)
    frame.section("The whole map" if len(maps) == 1 else "The whole maps")
    for place, (found, question) in enumerate(zip(maps, questions, strict=False)):
        with frame.paler(failed[place], f"whole_{place}"):
            _map(
                found.each, lambda level, q=question: takeaway.python(choice, example, q, level=level), place
            )
    frame.section("Take it with you")
    span = picked if maps[0].span is not None else None
    takeaway.downloads(maps[0].at_hand)
    takeaway.snippet(choice, example, asked, level=maps[0].each.level, span=span)


def _cards(kept: trust_card.Kept | None, missing: str, questions: Sequence[Asked]) -> list[bool]:
    """The trust card of each method; which of them failed."""
    if len(questions) == 1 or kept is None:
        return [trust_card.beside(kept, missing, questions[0].method.name)] * len(questions)
    found = []
    for place, column in enumerate(st.columns(2, gap="large")):
        with column:
            name = questions[place].method.name
            found.append(trust_card.beside(kept, missing, name, key=f"_{place}", named=True))
    return found


def _picked(generation: Generation) -> tuple[int, int]:
    """The output tokens [start, end) that are looked at; the least certain one where none is chosen."""
    view, count = state.current(), len(generation.target_tokens)
    if not 0 <= view.step < count:
        step = int(generation.log_probs.argmin())
        return step, step + 1
    return view.step, view.end if view.step < view.end <= count else view.step + 1


def _computed(choice: Choice, example: Example, asked: Asked, level: str, picked: tuple[int, int]) -> Map:
    """The map of a method, and of the tokens picked as one where they are more than a row of it."""

    def of(span: tuple[int, int] | None) -> Attribution:
        found = cache.attribution(
            choice,
            example,
            asked.method.name,
            asked.objective,
            asked.contrast,
            asked.options,
            foil=asked.foil,
            span=span,
        )
        return at_level(found, level)

    each = of(None)
    groups = groups_at(each.level, cache.generation(choice, example).target_tokens, each.target_text)
    rows = [group for group in groups if picked[0] <= group[0] < picked[1] or picked[0] in group]
    if len(rows) < 2:
        return Map(asked.method, each)
    try:
        return Map(asked.method, each, of((rows[0][0], rows[-1][-1] + 1)))
    except ExplainError as error:  # a contrast that says the same there; the rest can still be shown
        frame.failed(error)
        return Map(asked.method, each)


def _map(found: Attribution, python: Callable[[str], list[str]], place: int) -> None:
    """The map, coarser where the level asked for does not fit; the reader may have that nonetheless."""
    fit = fitted(found)
    shown = fit.attribution
    if fit.note:
        st.caption(plain(fit.note))
        offered = list(reversed(levels_of(found)))
        key = f"map_level_{found.level}_{shown.level}{f'_{place}' if place else ''}"
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
        key=f"map_attribution{f'_{place}' if place else ''}",
        alt=f"Heat map: scores of source and earlier output for each output {shown.level}",
        zoom=not fits(shown),
        python="\n".join([*python(shown.level), "attribution.plot().show()"]),
    )


def _lit(maps: Sequence[Map], generation: Generation, groups: Sequence[Sequence[int]], at: int) -> None:
    """The output to pick from, and the two texts that light up, for each method."""
    first = maps[0].each
    count = len(first.target_tokens)
    level = first.level
    shown = [
        Strip(
            "output",
            "Output",
            first.target_tokens,
            first.target_text,
            role="pick",
            notes=[_note(first, row) for row in range(count)],
            hint=f"click a {level}, or drag over several",
        )
    ]
    sides = [
        _sides(found, generation, at, column, found.method.label if len(maps) > 1 else "")
        for column, found in enumerate(maps)
    ]
    shown += [strip for row in zip(*sides, strict=True) for strip in row]  # source beside source
    several = next((found.span for found in maps if found.span is not None), None)
    end = at + 1 if several is None else at + 1 + count - len(several.target_tokens)

    def pick(row: int | None) -> None:
        state.change(step=-1 if row is None else groups[row][0])

    def span(start: int, end: int) -> None:
        state.change(step=groups[start][0], end=groups[end - 1][-1] + 1)

    strips(
        shown,
        key=f"attribution_{level}_{len(maps)}",
        theme=frame.theme(),
        picked=(at, end),
        on_pick=pick,
        on_span=span,
        span_note="" if several is None else f"{end - at} {level}s as one · {_note(several, at)}",
    )


def _sides(found: Map, generation: Generation, at: int, column: int, by: str) -> list[Strip]:
    """The source and the output so far, with a row of scores for each part of the output."""
    each = found.each
    scale = "diverging" if each.signed else "sequential"
    bar = Bar(scale, found.limit, each.units, ends=_ends(each))
    count = len(each.target_tokens)
    source, start = array(each.source), array(each.start)
    past = np.where(np.tri(count, k=-1, dtype=bool), array(each.prefix), np.nan)
    if each.level != "token":
        np.fill_diagonal(past, np.where(array(each.within) == 0, np.nan, array(each.within)))
    if found.span is not None:  # one more row, of those that are picked as one
        row = np.full(count, np.nan, dtype=np.float32)
        row[:at] = array(found.span.prefix)[at, :at]
        source = np.vstack([source, array(found.span.source)[at]])
        past, start = np.vstack([past, row]), np.append(start, array(found.span.start)[at])
    begun = bool((start != 0).any())
    earlier = ((generation.decoder_start,) if begun else ()) + each.target_tokens
    past = np.hstack([start[:, None], past]) if begun else past
    return [
        Strip(
            f"source_{column}", "Source", each.source_tokens, each.source_text, "lit", source, bar,
            by=by, column=column,
        ),
        Strip(
            f"prefix_{column}", "Output so far", earlier, each.target_text, "lit", past, bar,
            legend=False, by=by, column=column,
        ),
    ]  # fmt: skip


def _alternatives(generation: Generation, picked: tuple[int, int], questions: Sequence[Asked]) -> None:
    """What the model might have written instead, each a contrast in one click."""
    if picked[1] - picked[0] > 1 or not any(asked.method.contrast for asked in questions):
        return
    step, view = picked[0], state.current()
    token = generation.target_tokens[step]
    found = generation.alternatives(step, min(ALTERNATIVES + 1, generation.top_ids.shape[1]))
    offered = {each.id: each for each in found if each.id != token.id}
    if not offered:
        return
    key = f"foil_{step}"
    st.session_state[key] = view.foil if view.foil in offered and view.contrast else None

    def change() -> None:
        chosen = st.session_state[key]
        contrast = "" if chosen is None else token_label(offered[chosen].text)
        state.change(contrast=contrast, foil=-1 if chosen is None else chosen)

    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="foils"):
        st.caption(plain(f"Why ‘{token_label(token)}’ rather than"), width="content")
        st.pills(
            "Rather than",
            list(offered),
            format_func=lambda id_: plain(
                f"{shorten(token_label(offered[id_].text), 20)} {probability(offered[id_].log_prob)}"
            ),
            key=key,
            on_change=change,
            label_visibility="collapsed",
            width="content",
        )


def _agreement(maps: Sequence[Map], at: int) -> None:
    """How alike the two methods are, here and over the whole output."""
    # Evaluation loads scipy, which pages with one method need not wait for.
    from explain.evaluation.agreement import chance, top1, topk_jaccard

    one, two = maps
    k = 5
    here = one.at_hand, two.at_hand
    same_first, overlap = float(top1(*here)[at]), float(topk_jaccard(*here, k)[at])
    every = one.each, two.each
    name = token_label(here[0].target_tokens[at])
    if np.isnan(same_first):
        said = f"For ‘{name}’ there is nothing to compare: a method names no strongest {one.each.level}."
    else:
        first = (
            "name the same"
            if same_first == 1
            else "name different"
            if same_first == 0
            else "partly name the same"
        )
        said = f"For ‘{name}’ both {first} strongest {one.each.level}{'s' if same_first == 0 else ''}"
        shared = "." if np.isnan(overlap) else f"; their {k} strongest overlap by {whole_percent(overlap)}."
        said += shared
    mean_first, mean_overlap = (_mean(found) for found in (top1(*every), topk_jaccard(*every, k)))
    by_chance = _mean(chance(every[0], k).topk_jaccard)
    with st.container(border=True, key="agreement"):
        st.markdown("**Do the two agree?**")
        st.caption(plain(said))
        st.caption(
            plain(
                f"Over the whole output: the same strongest for {whole_percent(mean_first)} of the "
                f"{one.each.level}s, and the {k} strongest overlap by {whole_percent(mean_overlap)} (random "
                f"scores: {whole_percent(by_chance)}). Overlap is what both name over what either names."
            )
        )


def _mean(values: Any) -> float:
    return mean(float(value) for value in values)


def _details(maps: Sequence[Map], at: int) -> None:
    """The strongest scores, and whether they add up: beside each other, or a column for each method."""
    if len(maps) == 1:
        left, right = st.columns([3, 2], gap="large")
        with left:
            _table(maps[0].at_hand, at, _heading(maps[0].at_hand, at))
        with right:
            _evidence(maps[0].at_hand, at)
        return
    st.markdown(f"**{plain(_heading(maps[0].at_hand, at))}**")
    for found, column in zip(maps, st.columns(2, gap="large"), strict=True):
        with column:
            _table(found.at_hand, at, found.method.label)
            _evidence(found.at_hand, at)


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


def _heading(found: Attribution, at: int) -> str:
    return f"What counted most for ‘{token_label(found.target_tokens[at], 40)}’"


def _table(found: Attribution, at: int, heading: str) -> None:
    st.markdown(f"**{plain(heading)}**")
    rows = [row for row in found.top(at, STRONGEST) if abs(row[2]) >= LEAST]
    if not rows:
        st.caption("Nothing: every score is 0, or next to it.")
        return
    tokens = {"source": found.source_tokens, "prefix": found.target_tokens}
    noun = "token" if found.level == "span" else found.level
    st.dataframe(
        pd.DataFrame(
            [
                {
                    noun: token_label(tokens[side][index], 120),
                    "place": f"{'source' if side == 'source' else 'output'} {index}",
                    "score": score,
                }
                for side, index, score in rows
            ],
            columns=[noun, "place", "score"],
        ),
        hide_index=True,
        column_config={
            "score": st.column_config.NumberColumn(format="%+.4f" if found.signed else "%.4f"),
        },
        height="content",
    )
    st.caption(
        plain(
            f"The {len(rows)} strongest of {found.source.shape[1] + at}, "
            + ("as shares. " if found.units == "share" else f"in {found.units}. ")
            + ("Above 0 speaks for it, below 0 against it; " if found.signed else "No sign; ")
            + "0 is no effect. Places count from 0."
        )
    )


def _evidence(found: Attribution, at: int) -> None:
    """One quiet line on completeness, and what it says of the whole output."""
    error = float(found.completeness_error[at])
    name = token_label(found.target_tokens[at], 40)
    tolerance = float(found.config.get("tolerance", 0.01))
    st.markdown("**Do the scores add up?**")
    if np.isnan(error):
        st.caption(plain(f"For ‘{name}’ the check is not defined."))
    else:
        good = error <= tolerance
        icon, colour = (":material/check_circle:", "green") if good else (":material/warning:", "orange")
        st.badge(
            plain(f"{percent(error)} off"),
            icon=icon,
            color=colour,
            help="The completeness error: how far the sum of the scores is from what they explain, as a "
            "share of it; 0 is exact.",
        )
    if found.level != "span":
        st.caption(plain(sections.evidence(found).sentence))
        return
    within = float(found.within[at])
    st.caption(
        plain(
            "Explained as one, by what came before it."
            + (f" {number(within, 2, signed=found.signed)} came from inside it." if within else "")
        )
    )
