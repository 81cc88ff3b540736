"""Texts kept in the runs folder, so that a link holds a short id and a reload finds the text again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from dashboard.catalogue import Place
from explain.errors import ExplainError, FileError
from explain.files import digest_json, envelope, read_json, write_json

SCHEMA = "dashboard-text"
_ID = re.compile("[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True)
class Example:
    """A source text and how its output comes about.

    Attributes:
        source: the text that the model reads.
        target: the output where it is given; None where it is written.
        controls: how it is written.
        prefix: ids that the output is made to begin with.
        model: digest of the model whose ids these are; empty without a prefix.
        origin: id of the example that this one branches off from; empty where it is none.
    """

    source: str
    target: str | None = None
    controls: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: tuple[int, ...] = ()
    model: str = ""
    origin: str = ""

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of the digest of all of it."""
        return digest_json(self.to_dict()).removeprefix("sha256:")[:16]

    def to_dict(self) -> dict[str, Any]:
        """The example as a JSON object; one that is no branch says nothing of branches."""
        found = {"source": self.source, "target": self.target, "controls": dict(self.controls)}
        branch = {"prefix": list(self.prefix), "model": self.model, "origin": self.origin}
        return found | {name: value for name, value in branch.items() if value}


def save(place: Place, example: Example) -> str:
    """Keep the example and return its id.

    Raises:
        FileError: the runs folder cannot be written to.
    """
    path = place.hidden / "texts" / f"{example.id}.json"
    if not path.exists():
        head = envelope(SCHEMA, command="explain dashboard")
        write_json(path, {**head, **example.to_dict()})
    return example.id


def load(place: Place, id_: str) -> Example:
    """The example of that id.

    Raises:
        FileError: there is none, or its file is broken.
    """
    if not _ID.fullmatch(id_):
        raise FileError(f"{id_!r} is not the name of a text")
    path = place.hidden / "texts" / f"{id_}.json"
    if not path.is_file():
        raise FileError(f"this link's text ({id_}) is not in {place.runs}; it was made with another folder")
    data = read_json(path, SCHEMA)
    try:
        example = Example(
            str(data["source"]),
            data["target"],
            dict(data["controls"]),
            tuple(int(id_) for id_ in data.get("prefix", ())),
            str(data.get("model", "")),
            str(data.get("origin", "")),
        )
        if example.target is not None and not isinstance(example.target, str):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise FileError(f"{path} is not a text of this dashboard") from None
    return example


def find(place: Place, id_: str) -> Example | None:
    """The example of that id, None when there is none to find."""
    try:
        return load(place, id_) if id_ else None
    except ExplainError:
        return None
