"""What is in a data file, before it is trained on: its columns, first rows, and on request its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import frame
from dashboard.labels import excerpt, plain
from explain.errors import InputError
from explain.training.statistics import Preview, Statistics, preview, statistics

SHOWN = 8
"""Rows that cannot be used which are listed."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A data file and its columns."""

    path: Path
    source: str
    target: str
    skip_bad_rows: bool


def choose(path: Path) -> Chosen:
    """Show the first rows, let the columns be chosen, and count the whole file where asked.

    Raises:
        InputError: it has one column only.
        FileError, EncodingError: it cannot be read.
    """
    changed = path.stat().st_mtime_ns
    seen = _preview(str(path), changed)
    if len(seen.columns) < 2:
        raise InputError(f"{path.name} has one column; training needs sources and outputs")
    left, right = st.columns(2)
    columns = list(seen.columns)
    source = left.selectbox(
        "Column of the sources", columns, index=columns.index(seen.source), key=f"new_source_{path.name}"
    )
    others = [name for name in columns if name != source]
    target = right.selectbox(
        "Column of the outputs",
        others,
        index=others.index(seen.target) if seen.target in others else 0,
        key=f"new_target_{path.name}",
    )
    st.dataframe(pd.DataFrame(list(seen.rows), columns=columns)[[source, target]], hide_index=True)
    st.caption(plain(f"The first {len(seen.rows)} rows of {path.name}."))
    asked = st.session_state.setdefault("new_counted", set())
    key = (str(path), changed, source, target)
    if key not in asked and st.button(
        "Look through the whole file",
        icon=":material/query_stats:",
        key="new_count",
        help="Lengths, vocabulary, duplicates, overlap of what is held out, rows that cannot be used.",
    ):
        asked.add(key)
    skip = False
    if key in asked:
        found = _statistics(*key)
        _numbers(found)
        if found.bad_rows:
            st.warning(f"{len(found.bad_rows):,} rows cannot be used.", icon=":material/warning:")
            st.code("\n".join(found.bad_rows[:SHOWN]), language=None, wrap_lines=True)
            skip = st.toggle("Leave these rows out", key="new_skip", help="Else training stops at them.")
    return Chosen(path, str(source), str(target), skip)


@st.cache_data(max_entries=8, show_spinner="Reading the file …")
def _preview(path: str, changed: int) -> Preview:
    return preview(path)


@st.cache_data(max_entries=4, show_spinner="Counting …")
def _statistics(path: str, changed: int, source: str, target: str) -> Statistics:
    return statistics(path, source_column=source, target_column=target)


def _numbers(found: Statistics) -> None:
    """What a reader wants to know before training, in two rows and a table."""
    row = st.container(horizontal=True, gap="medium")
    for label, value, help in (
        ("To train on", found.train, "rows"),
        ("Held out", found.held_out, "rows that are never trained on; the same for the same seed"),
        ("Duplicates", found.duplicates, "rows that repeat an earlier one, source and output"),
        ("Contradictions", found.contradictions, "sources with more than one output"),
        ("Leaked", found.leaked, "held-out rows whose source is also trained on; 0 is right"),
        (
            "Nearly leaked",
            found.nearly_leaked,
            "held-out rows that differ from one trained on only by case, digits, signs or spaces",
        ),
    ):
        row.metric(label, f"{value:,}", help=help, width="content")
    table = pd.DataFrame(
        [
            {
                "side": name,
                "tokens (median)": side.tokens.median,
                "95 % are at most": side.tokens.percentile_95,
                "longest": side.tokens.most,
                "distinct words": side.words,
                "of these once": side.words_once,
                "unknown tokens": side.unknown,
            }
            for name, side in (("source", found.source), ("output", found.target))
        ]
    )
    st.dataframe(table, hide_index=True)
    st.caption(plain(f"Counted with {excerpt(found.tokenizer, 80)}; lengths include the end of the text."))


def chosen(path: Path | None) -> Chosen | None:
    """What was chosen of a file; None, with the reason shown, where it cannot be used."""
    if path is None:
        return None
    with frame.friendly():
        return choose(path)
    return None
