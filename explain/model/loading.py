"""Opening models: a folder, a run folder or a hub id, never code and never pickles."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from explain.errors import BrokenWeightsError, FileError, InputError, ModelError, RunError
from explain.files import read_json
from explain.model.families import Family, family_of

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(device: str) -> torch.device:
    """The torch device that a name such as `auto`, `cpu` or `cuda:1` stands for.

    Raises:
        InputError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"{device!r} is not a device; use auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but torch sees no CUDA device here; use cpu")
    return chosen


def resolve_path(name: str | os.PathLike[str]) -> tuple[str, bool]:
    """The folder (or hub id) to load, and whether it is local. A run folder means its best checkpoint.

    Raises:
        FileError: no such folder, and it does not look like a hub id.
        RunError: a run folder that has no model yet.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise InputError(f"a model is named by a folder or a hub id, not by a {type(name).__name__}")
    path = Path(name)
    if path.is_dir():
        if (path / "run.json").is_file():
            return str(_model_of_run(path)), True
        if not (path / "config.json").is_file():
            raise FileError(
                f"{path} is not a model folder: it has no config.json; save one with model.save_pretrained"
            )
        return str(path), True
    if path.exists():
        raise FileError(f"{path} is a file; a model is a folder made by save_pretrained")
    text = str(name)
    if not _HUB_ID.fullmatch(text) or text.startswith(("runs/", ".")):
        raise FileError(f"there is no model folder {text}, and it is not a hub id either")
    return text, False


def _model_of_run(path: Path) -> Path:
    run = read_json(path / "run.json", "run")
    name = str(run.get("model") or "model")
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise RunError(f"the run {path} names a model outside its folder ({name}), which is not opened")
    folder = path / name
    if not (folder / "config.json").is_file():
        state = run.get("state", "unknown")
        alive = state in ("queued", "running", "paused")
        hint = "wait for its first checkpoint" if alive else "train it again"
        raise RunError(f"the run {path} has no model yet (state: {state}); {hint}")
    return folder


def open_model(
    name: str | os.PathLike[str], *, device: str = "auto", dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Family]:
    """Load weights and tokenizer.

    Raises:
        FileError, RunError: nothing to load there.
        UnsupportedModelError: not an encoder–decoder we can explain.
        ModelError: broken or incomplete.
        BrokenWeightsError: NaN or infinite weights.
        InputError: unknown device or dtype.
    """
    if dtype not in DTYPES:
        hint = "; float16 overflows in T5" if dtype in ("float16", "fp16") else ""
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}{hint}")
    where = resolve_device(device)
    path, local = resolve_path(name)
    common: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    with _quiet():
        config = _attempt(path, "configuration", local, AutoConfig.from_pretrained, path, **common)
        family = family_of(
            config.model_type,
            is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
            architectures=tuple(getattr(config, "architectures", None) or ()),
        )
        tokenizer = _attempt(path, "tokenizer", local, AutoTokenizer.from_pretrained, path, **common)
        _require_vocabulary(tokenizer, path)
        common |= {"dtype": DTYPES[dtype], "use_safetensors": True, "output_loading_info": True}
        hf, report = _attempt(path, "weights", local, AutoModelForSeq2SeqLM.from_pretrained, path, **common)
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} weights (first: {missing[0]}); random numbers would stand there"
        )
    check_weights(hf, path)
    return hf.to(where).eval(), tokenizer, family


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries' notes off the terminal while a model loads: what matters comes back as one error."""
    hub = getLogger("huggingface_hub")
    level, verbosity, bars = hub.level, logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub.setLevel(ERROR)  # five retries without a network are five warnings
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # A package for punctuation that Marian recommends and does not need.
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            yield
    finally:
        hub.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _require_vocabulary(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse the empty tokenizer that transformers makes up where a folder has none."""
    special = set(tokenizer.all_special_tokens)
    # T5's made-up one holds the mark of a space as well, which is no word.
    if not any(token.strip("▁ ") for token in tokenizer.get_vocab() if token not in special):
        raise ModelError(f"the tokenizer in {path} is missing or has no words; save it with save_pretrained")


def _attempt(path: str, what: str, local: bool, load: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a loader of transformers and turn whatever it raises into one readable line."""
    try:
        return load(*args, **kwargs)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if not local:
            raise ModelError(
                f"the {what} of hub model {path!r} cannot be loaded; "
                f"without internet give a local folder ({reason})"
            ) from error
        if what == "weights" and "safetensors" in reason:
            reason = (
                "only safetensors weights are opened, and the folder has none that can be read: " + reason
            )
        raise ModelError(f"the {what} in {path} cannot be loaded: {reason}") from error


def check_weights(hf: PreTrainedModel, name: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        BrokenWeightsError: names the first tensor.
    """
    for key, tensor in hf.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise BrokenWeightsError(f"{name}: the weight {key} holds {bad} NaN or infinite numbers")


def config_text(hf: PreTrainedModel) -> str:
    """The configuration as canonical JSON without what saving and loading add (class, paths, versions …)."""
    config = hf.config.to_dict()
    added = ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype")
    for name in (*added, "_attn_implementation"):
        config.pop(name, None)
    return json.dumps(config, sort_keys=True, default=str)
