"""The form that starts a training run."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import frame, state
from dashboard.catalogue import Place, choices
from dashboard.labels import excerpt, plain
from dashboard.views import new_run_data
from dashboard.views.new_run_data import Chosen
from explain.errors import InputError
from explain.files import replacing
from explain.runs import inside
from explain.training import jobs, presets, recipes, tasks
from explain.training.config import FAMILIES, OPTIMIZERS, TOKENIZERS, TrainConfig
from explain.training.material import read_usable

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
        file = new_run_data.chosen(_file(place)) if what == FILE else None
        if what != FILE:
            _task(what)
        folder = str(models[init].folder) if init in models else None
        config = _settings(TrainConfig(**_data(what, file), init=folder))
        with st.container(horizontal=True, vertical_alignment="bottom"):
            name = st.text_input(
                "Name of the run",
                placeholder=_free_name(place, what if what != FILE else "my-data"),
                key="new_name",
                max_chars=64,
                help="The name of its folder.",
            )
            story = st.toggle(
                "Keep explanations along training",
                key="new_story",
                persist_state="session",
                help="At steps 10, 20, 40, … a few held-out texts are explained: it shows when heads align "
                "and what the model leans on. It costs seconds a look and changes nothing of the training.",
            )
        if st.button(
            "Start training", type="primary", icon=":material/play_arrow:", disabled=what == FILE and not file
        ):
            chosen = name or _free_name(place, what if what != FILE else "my-data")
            _start(place, chosen, config, story=story)


def _task(name: str) -> None:
    task = tasks.get(name)
    st.caption(plain(task.description))
    sample = tasks.preview(task, 1)[0]
    st.text(f"{excerpt(sample.source, 110)}\n→ {excerpt(sample.target, 110)}")


def _data(what: str, file: Chosen | None) -> dict[str, Any]:
    """The options that name the data."""
    if what != FILE:
        return {"task": what}
    if file is None:
        return {}
    return {
        "data": str(file.path),
        "source_column": file.source,
        "target_column": file.target,
        "skip_bad_rows": file.skip_bad_rows,
    }


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
    path = keep_upload(place, uploaded.name, uploaded.getvalue()) if uploaded else found.get(lying or "")
    if path is None:
        st.caption("A table with a column of sources and one of outputs: .tsv, .csv, .jsonl or .parquet.")
    return path


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


def _settings(config: TrainConfig) -> TrainConfig:
    """The few settings worth changing; what is left empty, the recipe decides."""
    recipe = _recipe(config)
    with st.expander("Settings (what is left empty, the recipe decides)"):
        one, two, three = st.columns(3)
        length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
        found: dict[str, Any] = {
            "steps": one.number_input(
                "Steps",
                1,
                1_000_000,
                None,
                placeholder=f"recipe: {length}",
                key="new_steps",
                help="Optimiser steps.",
            ),
            "lr": two.number_input(
                "Learning rate",
                1e-7,
                1.0,
                None,
                format="%.2g",
                placeholder=f"recipe: {recipe.learning_rate:.2g}",
                key="new_lr",
                help="The highest; it warms up to it and falls after. It can be changed while it runs.",
            ),
            "batch_size": three.number_input(
                "Pairs per step", 1, 4096, None, placeholder=f"recipe: {recipe.batch_size}", key="new_batch"
            ),
            "optimizer": one.selectbox(
                "Optimiser",
                OPTIMIZERS,
                index=None,
                placeholder=f"recipe: {recipe.optimizer}",
                key="new_optimizer",
            ),
            "seed": two.number_input(
                "Seed", 0, 2**31 - 1, 0, key="new_seed", help="Weights, order, what is held out."
            ),
            "patience": three.number_input(
                "Patience (evaluations)",
                1,
                100,
                None,
                placeholder="never ends early",
                key="new_patience",
                help="End after so many evaluations in a row without a better score; there are ten a run.",
            ),
        }
        if config.init is None:
            found["family"] = one.selectbox(
                "Family", FAMILIES, index=None, placeholder=f"recipe: {recipe.family}", key="new_family"
            )
            found["preset"] = two.selectbox(
                "Size", list(presets.SHAPES), index=None, placeholder="recipe: by the data", key="new_preset"
            )
            if config.task is None:
                found["tokenizer"] = three.selectbox(
                    "Tokenizer",
                    TOKENIZERS,
                    index=None,
                    placeholder="recipe: bpe",
                    key="new_tokenizer",
                    help="What texts are cut into: pieces of words (bpe, unigram), whole words, or bytes.",
                )
        st.caption("How a step is computed; the step stays the same but for rounding.")
        one, two, three = st.columns(3)
        found["accumulate"] = one.number_input(
            "Parts of a step",
            1,
            256,
            None,
            placeholder="1",
            key="new_accumulate",
            help="Each step's pairs in so many parts, one after another: less memory.",
        )
        found["gradient_checkpointing"] = two.toggle(
            "Compute activations twice", key="new_checkpointing", help="Gradient checkpointing: less memory."
        )
        found["bf16"] = three.toggle(
            "bfloat16", key="new_bf16", help="Faster on a GPU; weights stay in float32. It does round."
        )
    given = {name: value for name, value in found.items() if value is not None and value is not False}
    return dataclasses.replace(config, **given)


def _recipe(config: TrainConfig) -> recipes.Recipe:
    """The recipe that decides what is left empty."""
    if config.init:
        return recipes.for_model()
    family, preset = st.session_state.get("new_family"), st.session_state.get("new_preset")
    if config.task:
        recipe = recipes.for_task(config.task, family)
    else:
        pairs = 1_000
        if config.data:
            changed = Path(config.data).stat().st_mtime_ns
            pairs = _count(config.data, changed, config.source_column, config.target_column)
        recipe = recipes.for_file(pairs, family)
    return presets.resize(recipe, preset) if preset else recipe


@st.cache_data(max_entries=4, show_spinner="Reading the file …")
def _count(path: str, changed: int, source: str, target: str) -> int:
    return len(read_usable(path, (source, target), skip=True)[0])


def _free_name(place: Place, wanted: str) -> str:
    name, number = wanted, 2
    while (place.runs / name).exists():
        name, number = f"{wanted}-{number}", number + 1
    return name


def _start(place: Place, name: str, config: TrainConfig, *, story: bool) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a run's name; use letters, digits, and . _ - between them")
    out = inside(place.runs.absolute(), name)
    title = Path(config.data).name if config.data else tasks.get(config.task or "").title
    jobs.start(config, out, title=title, more=["--story"] if story else [])
    state.change(run=name)
    st.rerun()
