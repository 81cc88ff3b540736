"""Captured tensors: a mapping from hook point to tensor, in memory or streamed from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from explain.errors import FileError, UnknownNameError
from explain.files import digest_json, envelope, replacing
from explain.results.generation import Generation

_KIND = "explain/capture@1"


@dataclass(frozen=True, eq=False)
class Capture(Mapping[str, Tensor]):
    """The activations of one generation, by hook point.

    `pattern` and `scores` are [1, head, query, key]; `q`, `k`, `v`, `z` are [1, head, position, head_dim];
    the rest is [1, position, width]. Queries of the decoder are decoder positions: query t is the step that
    writes target token t, key 0 is the decoder-start token, key u + 1 is target token u.

    Past a memory budget the tensors lie in a file and are read when asked for.
    """

    generation: Generation
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    path: Path | None = None
    names: tuple[str, ...] = ()
    model_digest: str = ""  # of the model that was captured, which need not be the one that wrote the output
    folder: object | None = None  # keeps a temporary folder alive for as long as the capture is

    def __getitem__(self, name: str) -> Tensor:
        if name in self.tensors:
            return self.tensors[name]
        if self.path is not None and name in self.names:
            with safe_open(self.path, "pt") as file:
                return file.get_tensor(name)
        raise KeyError(str(UnknownNameError("hook point", name, tuple(self))))

    def __iter__(self) -> Iterator[str]:
        yield from self.names or self.tensors

    def __len__(self) -> int:
        return len(self.names or self.tensors)

    def save(self, path: str | Path) -> Path:
        """Write the tensors and their generation to a safetensors file.

        Raises:
            FileError: the file cannot be written.
        """
        tensors = {name: self[name].contiguous() for name in self}
        texts = [self.generation.source_text, self.generation.target_text]
        head = envelope("capture", model_digest=self.model_digest, data_digest=digest_json(texts))
        record = {**head, "generation": self.generation.to_dict()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"explain": json.dumps(record)})
        return Path(path)


def load_capture(path: str | Path) -> Capture:
    """Open a capture written by `Capture.save`; its tensors are read from the file when asked for.

    Raises:
        FileError: the file is missing, broken, or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("explain", "{}"))
            names = tuple(file.keys())
        if record.get("schema") != _KIND:
            raise FileError(f"{path} is not an {_KIND} file")
        generation = Generation.from_dict(record["generation"])
        return Capture(generation, path=Path(path), names=names, model_digest=record["model_digest"] or "")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"cannot read {path} as a capture: {error}") from None
