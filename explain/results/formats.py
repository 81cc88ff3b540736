"""Attributions as tables and files: JSON, CSV, Parquet and safetensors, there and back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from explain.errors import EncodingError, FileError, InputError
from explain.files import digest_json, dump_json, envelope, read_json, replacing, write_json, write_text
from explain.results.attribution import Attribution

SCHEMA = "attribution"
_TENSORS = {
    "source_scores": "source",
    "prefix_scores": "prefix",
    "start_scores": "start",
    "within_scores": "within",
    "value": "value",
    "baseline_value": "baseline_value",
    "completeness_error": "completeness_error",
    "log_probs": "log_probs",
}


def to_frame(attribution: Attribution) -> pd.DataFrame:
    """The long table of an attribution; see `Attribution.to_frame`."""
    rows = []
    for t, target in enumerate(attribution.target_tokens):
        base = {"target_index": t, **{f"target_{key}": v for key, v in target.to_dict().items()}}
        evidence = {
            "within": float(attribution.within[t]),
            "log_prob": float(attribution.log_probs[t]),
            "value": float(attribution.value[t]),
            "baseline_value": float(attribution.baseline_value[t]),
            "completeness_error": float(attribution.completeness_error[t]),
        }
        for i, token in enumerate(attribution.source_tokens):
            cell = {"side": "source", "index": i, **token.to_dict(), "score": float(attribution.source[t, i])}
            rows.append({**base, **cell, **evidence})
        for u, token in enumerate(attribution.target_tokens[:t]):
            cell = {"side": "prefix", "index": u, **token.to_dict(), "score": float(attribution.prefix[t, u])}
            rows.append({**base, **cell, **evidence})
        cell = {"side": "start", "index": -1, "text": "", "id": -1, "start": 0, "end": 0}
        cell |= {"special": True, "forced": False, "score": float(attribution.start[t])}
        rows.append({**base, **cell, **evidence})
    frame = pd.DataFrame(rows)
    frame.insert(0, "method", attribution.method)
    frame.insert(1, "objective", attribution.objective)
    return frame


def _record(attribution: Attribution) -> dict[str, Any]:
    """What a table cannot say in its columns."""
    whole = attribution.to_dict()
    kept = {key: whole[key] for key in whole if key not in _TENSORS}
    return {**_head(attribution), **kept}


def _head(attribution: Attribution) -> dict[str, Any]:
    return envelope(
        SCHEMA,
        seed=attribution.config.get("seed"),
        model_digest=attribution.model_digest,
        data_digest=digest_json([attribution.source_text, attribution.target_text]),
    )


def _save_json(attribution: Attribution, path: Path) -> None:
    write_json(path, {**_head(attribution), **attribution.to_dict()})


def _load_json(path: Path) -> Attribution:
    return Attribution.from_dict(read_json(path, SCHEMA))


def _save_csv(attribution: Attribution, path: Path) -> None:
    frame = _with_record(attribution)
    with replacing(path) as temporary:
        # Every text is quoted: a lone carriage return in a token would otherwise end its row.
        frame.to_csv(
            temporary,
            index=False,
            encoding="utf-8",
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC,
        )


def _load_csv(path: Path) -> Attribution:
    try:
        frame = pd.read_csv(path, keep_default_na=False)
    except UnicodeDecodeError:
        raise EncodingError(f"{path} is not UTF-8") from None
    return _from_frame(frame, path)


def _save_parquet(attribution: Attribution, path: Path) -> None:
    frame = _with_record(attribution)
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _load_parquet(path: Path) -> Attribution:
    return _from_frame(pd.read_parquet(path), path)


def _with_record(attribution: Attribution) -> pd.DataFrame:
    frame = to_frame(attribution)
    record = [""] * len(frame)
    record[0] = dump_json(_record(attribution), indent=None)
    frame["record"] = record
    return frame


def _from_frame(frame: pd.DataFrame, path: Path) -> Attribution:
    try:
        record = json.loads(frame["record"].iloc[0])
        if record["schema"] != f"explain/{SCHEMA}@1":
            raise KeyError("schema")
    except (KeyError, IndexError, ValueError, TypeError):
        raise FileError(f"{path} was not written by explain: it has no record of its attribution") from None
    target, source = len(record["target"]), len(record["source"])
    scores = {"source": torch.zeros(target, source), "prefix": torch.zeros(target, target)}
    start = torch.zeros(target)
    columns = zip(frame["side"], frame["target_index"], frame["index"], frame["score"], strict=True)
    for side, t, index, score in columns:
        if side == "start":
            start[int(t)] = _number(score)
        else:
            scores[side][int(t), int(index)] = _number(score)
    first = frame.loc[frame["side"] == "start"].sort_values(by="target_index")
    evidence = {
        name: [_number(x) for x in first[column]]
        for name, column in (
            ("within_scores", "within"),
            ("log_probs", "log_prob"),
            ("value", "value"),
            ("baseline_value", "baseline_value"),
            ("completeness_error", "completeness_error"),
        )
    }
    tensors = {"source_scores": scores["source"].tolist(), "prefix_scores": scores["prefix"].tolist()}
    return Attribution.from_dict({**record, **tensors, "start_scores": start.tolist(), **evidence})


def _number(value: Any) -> float:
    return float("nan") if value in ("", None) else float(value)


def _save_safetensors(attribution: Attribution, path: Path) -> None:
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {key: getattr(attribution, name).clone().contiguous() for key, name in _TENSORS.items()}
    metadata = {"explain": dump_json(_record(attribution), indent=None)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _load_safetensors(path: Path) -> Attribution:
    with safe_open(path, "pt") as file:
        record = json.loads((file.metadata() or {}).get("explain", "{}"))
        if record.get("schema") != f"explain/{SCHEMA}@1":
            raise FileError(f"{path} is not an explain/{SCHEMA}@1 file")
        tensors = {key: file.get_tensor(key).tolist() for key in _TENSORS}
    return Attribution.from_dict({**record, **tensors})


def _save_html(attribution: Attribution, path: Path) -> None:
    write_text(path, attribution.to_html())


# What a broken file can raise on its way through a reader.
_UNREADABLE = (
    OSError,
    SafetensorError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    RuntimeError,
)

_WRITERS: dict[str, Callable[[Attribution, Path], None]] = {
    ".json": _save_json,
    ".csv": _save_csv,
    ".parquet": _save_parquet,
    ".safetensors": _save_safetensors,
    ".html": _save_html,
}
_READERS: dict[str, Callable[[Path], Attribution]] = {
    ".json": _load_json,
    ".csv": _load_csv,
    ".parquet": _load_parquet,
    ".safetensors": _load_safetensors,
}


def check_ending(path: str | Path) -> Path:
    """The path, when its ending is one that `save` can write.

    Raises:
        InputError: it is not.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"{path}: the ending {path.suffix!r} is not one of {', '.join(_WRITERS)}")
    return path


def save(attribution: Attribution, path: str | Path) -> Path:
    """Write an attribution in the format that the ending names; see `Attribution.save`."""
    path = check_ending(path)
    _WRITERS[path.suffix.lower()](attribution, path)
    return path


def load(path: str | Path) -> Attribution:
    """Read an attribution back; see `load_attribution`."""
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: attributions are read from {', '.join(_READERS)}")
    if not path.is_file():
        raise FileError(f"cannot read {path}: there is no such file")
    try:
        return reader(path)
    except _UNREADABLE as error:
        raise FileError(f"{path} cannot be read as an attribution: {error}") from None
