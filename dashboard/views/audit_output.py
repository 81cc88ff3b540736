"""One output of an audit: where the detectors point, why, what it was read off, and what reviewers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from dashboard import audits, cache, examples, frame, snippets, state
from dashboard.catalogue import Choice, Place
from dashboard.components.strips import Bar, Strip, strips
from dashboard.examples import Example
from dashboard.labels import plain
from dashboard.views import agreed, trust_card
from explain.attribution import REGISTRY
from explain.audit import Audit, Flag
from explain.audit.detectors import Score
from explain.audit.maps import FOLDER, method_for
from explain.audit.measuring import Row
from explain.audit.reviews import MOST_NAME, MOST_NOTE, VERDICTS, Review, load_reviews, output_digest
from explain.errors import ExplainError
from explain.report import audit as words
from explain.report import plots
from explain.report.facts import facts_of, reading_help
from explain.report.labels import array, number, plural, score_limit
from explain.report.levels import at_level, columns_of, fits, fitted
from explain.results import Attribution, Token, load_attribution
from explain.runs import Run

SAYS = {"wrong": "Wrong", "right": "Right: a false alarm", "unsure": "Unsure"}
FLAGS = ""
MOST_REASONS = 4
"""Reasons that are shown at once."""
_COLOURS: dict[str, Any] = {"failed": "red", "passed": "green", "open": "orange"}
_REVIEWER = "audit_reviewer"


@dataclass(frozen=True, eq=False)
class _Subject:
    """The output that is looked at, and the model that wrote it where that can be opened."""

    place: Place
    run: Run
    audit: Audit
    row: Row
    flags: tuple[Flag, ...]
    choice: Choice | None


def show(place: Place, run: Run, audit: Audit, wanted: int, following: int | None) -> None:
    """Draw it.

    Args:
        place: where the dashboard works.
        run: the audit's run.
        audit: what it found.
        wanted: the output's number.
        following: the number of the next one that nobody has reviewed; None where there is none.
    """
    row = _row(audit, wanted)
    if row is None:
        st.caption("The scores of this output are not beside the audit.")
        return
    subject = _Subject(
        place, run, audit, row, audits.flags_of(audit, wanted), audits.model_of(place, run, audit)
    )
    with st.container(border=True, key="audit_output"):
        _head(subject)
        found = _map(subject)
        _texts(subject, found)
        _reasons(subject)
        _review(subject, following)
    _about_map(subject, found)


def _row(audit: Audit, wanted: int) -> Row | None:
    """The output with the scores of its tokens, or without them as the audit itself names it."""
    row = audits.row_of(audit, wanted)
    if row is not None:
        return row
    named = next((each for each in audit.suspects if each.number == wanted), None)
    if named is None:
        return None
    return Row(
        number=named.number,
        source=named.source,
        expected=named.expected,
        output=named.output,
        source_tokens=named.source_tokens,
        tokens=named.tokens,
        length=len(named.tokens),
        scores={name: Score(value) for name, value in named.scores.items()},
    )


def _head(subject: _Subject) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**Output {subject.row.number:,}**", width="content")
        found = words.reviews_of(subject.audit, subject.row.number)
        if found is not None:
            css, sign, word = words.OUTCOMES[found["outcome"]]
            st.badge(plain(f"{sign} reviewed: {word}"), color=_COLOURS[css])


# ---- the texts -------------------------------------------------------------------------------------------


def _texts(subject: _Subject, found: Attribution | None) -> None:
    """Source and output as strips: where the detectors point, and what lights up for a token."""
    row = subject.row
    shades = _shades(row)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Colour tokens by", width="content")
        view = state.current()
        st.selectbox(
            "Colour tokens by",
            [FLAGS, *shades],
            format_func=lambda name: words.about(name).title if name else "Detectors that point at them",
            label_visibility="collapsed",
            width=320,
            **state.bind("shade", shown=view.shade if view.shade in shades else FLAGS),
        )
    shade = state.current().shade if state.current().shade in shades else FLAGS
    source_tokens, tokens = _tokens(row, found)
    on_source, on_output = words.pointed_at(subject.flags)
    picked = _picked(subject, len(tokens))
    shown = [
        Strip(
            "output",
            "Output",
            tokens,
            row.output,
            "pick",
            _values(shade, "token", row, on_output, len(tokens)),
            _bar(shade, "token", row, on_output),
            notes=_notes(row, "token", on_output, len(tokens)),
            hint="click a token to see what it was read off" if found is not None else "",
        )
    ]
    if found is not None:
        limit = score_limit(found)
        scale = "diverging" if found.signed else "sequential"
        shown.append(
            Strip(
                "source",
                "Source",
                source_tokens,
                row.source,
                "lit",
                array(found.source),
                Bar(scale, limit, found.units or "score"),
                notes=_notes(row, "source", on_source, len(source_tokens)),
                by=facts_of(found.method).label,
            )
        )
    else:
        shown.append(
            Strip(
                "source",
                "Source",
                source_tokens,
                row.source,
                "plain",
                _values(shade, "source", row, on_source, len(source_tokens)),
                _bar(shade, "source", row, on_source) if on_source or shade else None,
                notes=_notes(row, "source", on_source, len(source_tokens)),
                legend=bool(shade),
            )
        )
    strips(
        shown,
        key=f"audit_strips_{found is not None}",
        theme=frame.theme(),
        picked=picked,
        on_pick=lambda step: state.change(step=-1 if step is None else step),
    )
    if row.expected and row.expected != row.output:
        st.caption("Expected, as the data say")
        st.text(row.expected)


def _tokens(row: Row, found: Attribution | None) -> tuple[tuple[Token, ...], tuple[Token, ...]]:
    """The tokens of source and output, as the map knows them, else placed in the texts."""
    if found is not None:
        return tuple(found.source_tokens), tuple(found.target_tokens)
    return words.laid_out(row.source, row.source_tokens), words.laid_out(row.output, row.tokens)


def _picked(subject: _Subject, count: int) -> int | None:
    """The token of the link; else the first that a detector points at, else the least likely one."""
    step = state.current().step
    if 0 <= step < count:
        return step
    places = sorted(words.pointed_at(subject.flags)[1])
    if places:
        return places[0]
    score = subject.row.scores.get("log_prob_min")
    return int(np.nanargmin(score.tokens)) if score is not None and _full(score.tokens, count) else None


def _full(values: Sequence[float], count: int) -> bool:
    return len(values) == count > 0 and not all(np.isnan(values))


def _shades(row: Row) -> list[str]:
    """The detectors that have a score for every token."""
    counts = {"token": len(row.tokens), "source": len(row.source_tokens)}
    return [
        name
        for name, score in row.scores.items()
        if _full(score.tokens, counts.get(words.about(name).level, 0))
    ]


def _values(shade: str, level: str, row: Row, pointed: Mapping[int, Sequence[str]], count: int) -> Any:
    if not shade:
        return np.array([len(pointed.get(i, ())) for i in range(count)], dtype=np.float32)
    if words.about(shade).level != level:
        return None
    return np.asarray(row.scores[shade].tokens, dtype=np.float32)


def _bar(shade: str, level: str, row: Row, pointed: Mapping[int, Sequence[str]]) -> Bar | None:
    if not shade:
        most = max((len(names) for names in pointed.values()), default=0)
        return (
            Bar("doubt", float(max(most, 1)), "detectors that point at it", noun="detectors")
            if most
            else None
        )
    if words.about(shade).level != level:
        return None
    values = np.asarray(row.scores[shade].tokens, dtype=np.float64)
    limit = float(np.nanmax(np.abs(values)))
    scale = "diverging" if (values[~np.isnan(values)] < 0).any() else "sequential"
    return Bar(scale, limit, words.about(shade).units, noun="score")


def _notes(row: Row, level: str, pointed: Mapping[int, Sequence[str]], count: int) -> list[str]:
    """What is read out beside each token: who points at it, and every detector's score for it."""
    own = [
        (words.about(name), score.tokens)
        for name, score in row.scores.items()
        if words.about(name).level == level and len(score.tokens) == count
    ]
    found = []
    for place in range(count):
        scores = [
            f"{each.title} {number(tokens[place], 2)} {each.units}"
            for each, tokens in own
            if not np.isnan(tokens[place])
        ]
        flagged = f"flagged by {', '.join(pointed[place])}" if place in pointed else ""
        found.append(" · ".join(filter(None, (flagged, *scores))))
    return found


def _reasons(subject: _Subject) -> None:
    """Why it is flagged and how sure that is."""
    if not subject.flags:
        if subject.audit.flagged is None:
            st.caption("Not calibrated, so nothing says whether these scores are unusual.")
        return
    st.markdown("**Why it is flagged**")
    sure = words.how_sure(subject.audit, subject.flags)
    if sure:
        st.caption(plain(sure))
    reasons = [f"- {plain(words.why(flag, sees=False))}" for flag in subject.flags]
    st.markdown("\n".join(reasons[:MOST_REASONS]))
    if len(reasons) > MOST_REASONS:
        with st.expander(plural(len(reasons) - MOST_REASONS, "more reason"), key="audit_reasons"):
            st.markdown("\n".join(reasons[MOST_REASONS:]))


# ---- the map ---------------------------------------------------------------------------------------------


def _map(subject: _Subject) -> Attribution | None:
    """What the output was read off: the map kept with the audit, else one that is made now.

    Where it takes long the reader is asked first.
    """
    path = _kept_at(subject)
    if path.is_file():
        found = _kept_map(str(path), path.stat().st_mtime_ns)
        if found is not None and _is_of(found.target_tokens, subject.row):
            return found
    if subject.choice is None:
        return None
    try:
        example = _example(subject, subject.choice)
        if example is None:
            return None
        generation = cache.generation(subject.choice, example)
        method = REGISTRY.get(_method(subject.choice))
        if not agreed.to_wait(subject.choice, example, generation, method):
            return None
        with st.spinner("Computing the map …", show_time=True):
            return cache.attribution(subject.choice, example, method.name, "log_prob", None, {})
    except ExplainError as error:
        frame.failed(error)
        return None


def _kept_at(subject: _Subject) -> Path:
    return subject.run.path / FOLDER / f"{subject.row.number:06d}.json"


@st.cache_resource(max_entries=32, show_spinner=False)
def _kept_map(path: str, changed: int) -> Attribution | None:
    try:
        return load_attribution(path)
    except ExplainError:
        return None


def _method(choice: Choice) -> str:
    kept, _ = trust_card.known(choice)
    return method_for(None if kept is None else kept.evaluation)


def _example(subject: _Subject, choice: Choice) -> Example | None:
    """The output as a text of the other pages; None where the model does not give these tokens any more."""
    for made in (audits.example_of, audits.given_example):
        example = made(subject.audit, subject.row)
        if _is_of(cache.generation(choice, example).target_tokens, subject.row):
            return example
    return None


def _is_of(tokens: Sequence[Token], row: Row) -> bool:
    return tuple(token.text for token in tokens) == row.tokens


def _about_map(subject: _Subject, found: Attribution | None) -> None:
    """Whether the map can be believed, the whole of it, and the way to the page Attribution."""
    choice = subject.choice
    if choice is None:
        st.caption(
            "The model that was audited is not here, or has changed since, so no more maps can be made of it."
        )
    if found is None:
        return
    if choice is not None:
        kept, missing = trust_card.known(choice)
        trust_card.beside(kept, missing, found.method, key="_audit", named=True)
    with st.expander("The whole map", key="audit_map"):
        fit = fitted(at_level(found, "word"), whole=found)
        if fit.note:
            st.caption(plain(fit.note))
        drawn = plots.attribution_map(fit.attribution, theme=frame.theme())
        if columns_of(fit.attribution) > 14:
            drawn.update_xaxes(tickangle=-60)
        frame.figure(
            drawn,
            reading_help(fit.attribution),
            key="map_audit",
            alt=f"Heat map: scores of source and earlier output for each output {fit.attribution.level}",
            zoom=not fits(fit.attribution),
            python=_python(subject, found, fit.attribution.level),
        )
    if choice is not None and st.button(
        "Explain it on the page Attribution",
        icon=":material/format_ink_highlighter:",
        key="audit_attribution",
    ):
        example = _example(subject, choice)
        if example is None:
            st.caption("The model does not write these tokens any more.")
            return
        state.change(
            model=choice.name,
            example=examples.save(subject.place, example),
            method=found.method,
            options="",
            contrast="",
            second="",
        )
        st.switch_page("routes/attribution.py")


def _python(subject: _Subject, found: Attribution, level: str) -> str:
    """Lines that draw the map: from the file beside the audit, or computed anew."""
    path, merged = _kept_at(subject), f".{level}s()" if level != "token" else ""
    if path.is_file():
        lines = ["import explain", "", f"attribution = explain.load_attribution({str(path)!r})"]
    elif subject.choice is not None and (example := _example(subject, subject.choice)) is not None:
        made = snippets.call("model.attribute", ["generation"], {"method": found.method})
        lines = [*snippets.written(subject.choice, example), f"attribution = {made}"]
    else:
        return ""
    return "\n".join([*lines, f"attribution{merged}.plot().show()"])


# ---- reviewers -------------------------------------------------------------------------------------------


def _review(subject: _Subject, following: int | None) -> None:
    """What others say, and the form for one's own verdict and note."""
    row = subject.row
    digest = output_digest(row.source, row.output)
    said = [one for one in load_reviews(subject.run.path) if one.output_digest == digest]
    st.markdown("**Is this output right?**")
    for at, one in enumerate(said):
        _said(subject, one, at)
    name = st.session_state.get(_REVIEWER, "")
    own = next((one for one in said if one.reviewer == name), None)
    key = f"{subject.run.name}_{row.number}"
    with st.form(f"review_{key}", border=False):
        verdict = st.segmented_control(
            "Your verdict",
            VERDICTS,
            default=None if own is None else own.verdict,
            format_func=lambda word: SAYS[word],
            key=f"verdict_{key}",
            label_visibility="collapsed",
        )
        note = st.text_area(
            "Note",
            value="" if own is None else own.note,
            placeholder="Why, for who reads the report (may stay empty)",
            max_chars=MOST_NOTE,
            height=68,
            key=f"note_{key}",
            label_visibility="collapsed",
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            reviewer = st.text_input(
                "Reviewer",
                value=name,
                placeholder="Your name (may stay empty)",
                max_chars=MOST_NAME,
                key=f"reviewer_{key}",
                label_visibility="collapsed",
                width=240,
            )
            handed_in = st.form_submit_button("Save the verdict", type="primary")
    if handed_in:
        if verdict is None:
            st.caption("Choose one of the three first.")
        else:
            with frame.friendly():
                st.session_state[_REVIEWER] = (reviewer or "").strip()
                audits.review(subject.run, subject.audit, row, verdict, note or "", reviewer or "")
                st.rerun()
    if said and following is not None:
        st.button(
            "Next without a verdict",
            type="tertiary",
            icon=":material/arrow_forward:",
            key="audit_next",
            on_click=_go,
            args=(following,),
        )


def _go(number: int) -> None:
    state.change(finding=number, step=-1)


def _said(subject: _Subject, one: Review, at: int) -> None:
    css, sign, word = words.OUTCOMES[one.verdict]
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"said_{at}"):
        who = one.reviewer or "A reviewer"
        st.markdown(f":{_COLOURS[css]}[{sign}] **{plain(who)}**: {plain(word)}", width="content")
        st.caption(plain(one.time[:16].replace("T", " ")), width="content")
        if st.button("Take back", type="tertiary", key=f"take_back_{subject.row.number}_{at}"):
            with frame.friendly():
                audits.take_back(subject.run, subject.audit, one)
                st.rerun()
    if one.note:
        st.text(one.note)
