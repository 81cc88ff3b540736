"""The form that starts a training run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import frame, state
from dashboard.catalogue import Place, choices
from dashboard.labels import excerpt, plain
from explain.errors import InputError
from explain.files import replacing
from explain.runs import inside, start_job
from explain.training import data, recipes, tasks

FILE = "file"
SCRATCH = ""
ENDINGS = (".tsv", ".csv", ".jsonl", ".parquet", ".tsv.gz", ".csv.gz", ".jsonl.gz")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_FILES = 200


def form(place: Place) -> None:
    """What to learn, from where, and how; the button starts the process."""
    known = [*tasks.names(), FILE]
    left, right = st.columns(2)
    what = left.selectbox(
        "What to learn",
        known,
        format_func=lambda name: "A data file" if name == FILE else tasks.get(name).title,
        key="new_what",
        persist_state="session",
    )
    models = choices(place)
    init = right.selectbox(
        "Start from",
        [SCRATCH, *models],
        format_func=lambda name: "a new model" if name == SCRATCH else f"{name} (train it further)",
        key="new_init",
        persist_state="session",
    )
    with frame.friendly():
        file = _file(place) if what == FILE else None
        if what != FILE:
            _task(what)
        settings = _settings(what, init, file)
        name = st.text_input(
            "Name of the run",
            placeholder=_free_name(place, what if what != FILE else "my-data"),
            key="new_name",
            max_chars=64,
            help="The name of its folder.",
        )
        if st.button(
            "Start training", type="primary", icon=":material/play_arrow:", disabled=what == FILE and not file
        ):
            chosen = name or _free_name(place, what if what != FILE else "my-data")
            _start(place, chosen, what, file, str(models[init].folder) if init in models else None, settings)


def _task(name: str) -> None:
    task = tasks.get(name)
    st.caption(plain(task.description))
    sample = tasks.preview(task, 1)[0]
    st.text(f"{excerpt(sample.source, 110)}\n→ {excerpt(sample.target, 110)}")


def _file(place: Place) -> Path | None:
    """A data file: one that lies under the runs folder, or one that is uploaded there."""
    left, right = st.columns(2)
    uploaded = left.file_uploader(
        "Upload", type=["tsv", "csv", "jsonl", "parquet", "gz"], key="new_upload", help="Up to 20 MB, UTF-8."
    )
    found = data_files(place)
    lying = right.selectbox(
        "Or a file under the runs folder",
        list(found),
        index=None,
        placeholder="Choose a file" if found else "There is none",
        key="new_file",
    )
    names = right.columns(2)
    source = names[0].text_input("Source column", "source", key="new_source_column")
    target = names[1].text_input("Output column", "target", key="new_target_column")
    path = keep_upload(place, uploaded.name, uploaded.getvalue()) if uploaded else found.get(lying or "")
    if path is None:
        st.caption("A table with a column of sources and one of outputs: .tsv, .csv, .jsonl or .parquet.")
        return None
    pairs = _pairs(str(path), path.stat().st_mtime_ns, source, target)
    st.caption(f"{len(pairs):,} pairs; the first of them:")
    st.dataframe(pd.DataFrame([{"source": p.source, "output": p.target} for p in pairs[:3]]), hide_index=True)
    return path


@st.cache_data(max_entries=4, show_spinner="Reading the file …")
def _pairs(path: str, changed: int, source: str, target: str) -> list[data.Pair]:
    return data.read_table(path, source, target)


def data_files(place: Place) -> dict[str, Path]:
    """Data files under the runs folder, by their path in it; what runs write themselves is left out."""
    found: dict[str, Path] = {}
    for pattern in ("*", "*/*", ".dashboard/data/*/*"):
        for path in sorted(place.runs.glob(pattern)):
            hidden = path.name.startswith(".") or path.name in ("progress.jsonl", "log.txt")
            if path.is_file() and not hidden and path.name.lower().endswith(ENDINGS):
                found[str(path.relative_to(place.runs))] = path
    return dict(list(found.items())[:_MOST_FILES])


def keep_upload(place: Place, name: str, content: bytes) -> Path:
    """Write an uploaded file into the dashboard's own folder, by its digest; return where.

    Raises:
        InputError: its ending is not that of a data file.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(name).name).lstrip(".")[-80:] or "data"
    if not safe.lower().endswith(ENDINGS):
        raise InputError(f"{name!r} is not a data file; use {', '.join(ENDINGS[:4])} (or .gz)")
    path = place.hidden / "data" / hashlib.sha256(content).hexdigest()[:12] / safe
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return path


def _settings(what: str, init: str, file: Path | None) -> dict[str, Any]:
    """The few settings worth changing; what is left empty, the recipe decides."""
    recipe = _recipe(what, init, file)
    with st.expander("Settings (what is left empty, the recipe decides)"):
        one, two, three = st.columns(3)
        length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
        steps = one.number_input(
            "Steps",
            1,
            1_000_000,
            None,
            placeholder=f"recipe: {length}",
            key="new_steps",
            help="Optimiser steps.",
        )
        rate = two.number_input(
            "Learning rate",
            1e-7,
            1.0,
            None,
            format="%.2g",
            placeholder=f"recipe: {recipe.learning_rate:g}",
            key="new_lr",
            help="The highest; it warms up to it and falls after.",
        )
        batch = three.number_input(
            "Pairs per step", 1, 4096, None, placeholder=f"recipe: {recipe.batch_size}", key="new_batch"
        )
        optimizer = one.selectbox(
            "Optimiser",
            recipes.OPTIMIZERS,
            index=None,
            placeholder=f"recipe: {recipe.optimizer}",
            key="new_optimizer",
        )
        seed = two.number_input(
            "Seed", 0, 2**31 - 1, 0, key="new_seed", help="Weights, order, what is held out."
        )
    return {"steps": steps, "lr": rate, "batch-size": batch, "optimizer": optimizer, "seed": seed}


def _recipe(what: str, init: str, file: Path | None) -> recipes.Recipe:
    if init:
        return recipes.for_model()
    if what == FILE:
        pairs = len(_pairs(str(file), file.stat().st_mtime_ns, *_columns())) if file else 1_000
        return recipes.for_file(pairs)
    return recipes.for_task(what)


def _columns() -> tuple[str, str]:
    return str(st.session_state.get("new_source_column")), str(st.session_state.get("new_target_column"))


def _free_name(place: Place, wanted: str) -> str:
    name, number = wanted, 2
    while (place.runs / name).exists():
        name, number = f"{wanted}-{number}", number + 1
    return name


def arguments(
    out: Path, what: str, file: Path | None, init: str | None, settings: dict[str, Any]
) -> list[str]:
    """The command line, after `explain`, that starts this run."""
    words = ["train", "--data", str(file)] if file is not None else ["train", "--task", what]
    words += ["--out", str(out)]
    if init is not None:
        words += ["--init", init]
    if file is not None:
        source, target = _columns()
        words += ["--source-column", source, "--target-column", target]
    for name, value in settings.items():
        if value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def _start(
    place: Place, name: str, what: str, file: Path | None, init: str | None, settings: dict[str, Any]
) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a run's name; use letters, digits, and . _ - between them")
    out = inside(place.runs.absolute(), name)
    title = file.name if file is not None else tasks.get(what).title
    words = arguments(out, what, file, init, settings)
    start_job(words, out, kind="train", title=title, seed=int(settings["seed"] or 0))
    state.change(run=name)
    st.rerun()
