"""What a compression brings: sizes, speed and accuracy of the original and of what came out."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from explain.files import envelope, read_json, write_json
from explain.model import Seq2Seq
from explain.model.families import layers
from explain.model.forward import padded, padding_id
from explain.model.hooks import analysed

if TYPE_CHECKING:
    import pandas as pd

FILE = "compression.json"
_ROUNDS = 7
_ROWS = 32
_TOKENS = 24
_CHUNK = 2**22
_LARGEST_ZIPPED = 2**30


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is.

    Attributes:
        parameters: numbers that training set; the scales of int8 weights are not counted.
        nonzero: of them, those that are not 0.
        disk_bytes: its weight files; None for a model that is not in a local folder.
        zipped_bytes: the same files under zlib, which is what zeros save; None above 1 GiB.
        memory_bytes: its weights and buffers in memory.
        layers: layers of encoder and decoder.
    """

    parameters: int
    nonzero: int
    disk_bytes: int | None
    zipped_bytes: int | None
    memory_bytes: int
    layers: tuple[int, int]

    @property
    def sparsity(self) -> float:
        """Share of the parameters that are 0."""
        return 1 - self.nonzero / self.parameters


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How right the outputs are on held-out pairs: see `explain.training.scoring.Scores`."""

    exact_match: float
    token_accuracy: float
    loss: float
    chrf: float | None
    examples: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Greedy generation of the same batch by both models, in turns, in one process.

    Attributes:
        original: target tokens per second, median over rounds.
        compressed: the same of the compressed model.
        ratio: compressed over original, median over rounds; above 1 is faster.
        low: the smallest ratio of a round.
        high: the largest.
        rounds: how many.
        rows: outputs per batch.
        tokens: tokens per output.
        threads: CPU threads of torch.
        device: where both ran.
    """

    original: float
    compressed: float
    ratio: float
    low: float
    high: float
    rounds: int
    rows: int
    tokens: int
    threads: int
    device: str


@dataclass(frozen=True, slots=True)
class Compression:
    """What was done to a model and what it cost.

    Attributes:
        kind: `quantize`, `prune` or `distill`.
        settings: the options.
        original_digest: of the model that was compressed.
        compressed_digest: of what came out.
        original_size: before.
        compressed_size: after.
        original_accuracy: before; None where no pairs were given.
        compressed_accuracy: after.
        speed: both side by side.
        command: what makes it again.
        seed: of training and of what is held out.
        data_digest: of the held-out pairs.
    """

    kind: str
    settings: Mapping[str, Any]
    original_digest: str
    compressed_digest: str
    original_size: Size
    compressed_size: Size
    original_accuracy: Accuracy | None
    compressed_accuracy: Accuracy | None
    speed: Speed
    command: str
    seed: int
    data_digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        head = envelope(
            "compression",
            seed=self.seed,
            model_digest=self.compressed_digest,
            data_digest=self.data_digest,
            command=self.command,
        )
        sides = {
            name: {
                "digest": digest,
                "size": {**asdict(size), "layers": list(size.layers), "sparsity": size.sparsity},
                "accuracy": None if accuracy is None else asdict(accuracy),
            }
            for name, digest, size, accuracy in (
                ("original", self.original_digest, self.original_size, self.original_accuracy),
                ("compressed", self.compressed_digest, self.compressed_size, self.compressed_accuracy),
            )
        }
        return {
            **head,
            "kind": self.kind,
            "settings": dict(self.settings),
            **sides,
            "speed": asdict(self.speed),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Compression:
        """Read a result back from its JSON object."""

        def size(side: str) -> Size:
            fields = {name: value for name, value in data[side]["size"].items() if name != "sparsity"}
            return Size(**{**fields, "layers": tuple(fields["layers"])})

        def accuracy(side: str) -> Accuracy | None:
            found = data[side]["accuracy"]
            return None if found is None else Accuracy(**found)

        return cls(
            kind=data["kind"],
            settings=data["settings"],
            original_digest=data["original"]["digest"],
            compressed_digest=data["compressed"]["digest"],
            original_size=size("original"),
            compressed_size=size("compressed"),
            original_accuracy=accuracy("original"),
            compressed_accuracy=accuracy("compressed"),
            speed=Speed(**data["speed"]),
            command=data["command"],
            seed=data["seed"],
            data_digest=data["data_digest"],
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per figure: `figure`, `original`, `compressed`, `ratio` (compressed over original)."""
        import pandas as pd

        rows: list[tuple[str, Any, Any]] = []
        before, after = self.original_size, self.compressed_size
        for name in ("parameters", "nonzero", "disk_bytes", "zipped_bytes", "memory_bytes"):
            rows.append((name, getattr(before, name), getattr(after, name)))
        rows.append(("tokens_per_second", self.speed.original, self.speed.compressed))
        if self.original_accuracy is not None and self.compressed_accuracy is not None:
            for name in ("exact_match", "token_accuracy", "loss", "chrf"):
                old, new = getattr(self.original_accuracy, name), getattr(self.compressed_accuracy, name)
                if old is not None and new is not None:
                    rows.append((name, old, new))
        ratios = [new / old if old and new is not None else None for _, old, new in rows]
        frame = pd.DataFrame(rows, columns=["figure", "original", "compressed"])
        return frame.assign(ratio=ratios)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON, atomically."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Compression:
        """Read a result that `save` wrote.

        Raises:
            FileError: the file is missing, broken, or holds something else.
        """
        return cls.from_dict(read_json(path, "compression"))


def size_of(model: Seq2Seq, folder: str | os.PathLike[str] | None) -> Size:
    """The size of a model, and of its files where it lies in a folder."""
    named = dict(model.hf.named_parameters())  # a tied weight once
    counted = [tensor for name, tensor in named.items() if not name.endswith("weight_scale")]
    held = {t.untyped_storage().data_ptr(): t for t in [*named.values(), *model.hf.buffers()]}
    files = [] if folder is None else sorted(Path(folder).glob("*.safetensors"))
    disk = sum(path.stat().st_size for path in files)
    return Size(
        parameters=sum(tensor.numel() for tensor in counted),
        nonzero=sum(int(torch.count_nonzero(tensor)) for tensor in counted),
        disk_bytes=disk or None,
        zipped_bytes=_zipped(files) if 0 < disk <= _LARGEST_ZIPPED else None,
        memory_bytes=sum(tensor.untyped_storage().nbytes() for tensor in held.values()),
        layers=(len(layers(model.hf, model.family.encoder)), len(layers(model.hf, model.family.decoder))),
    )


def _zipped(files: Sequence[Path]) -> int:
    total = 0
    for path in files:
        packer = zlib.compressobj(6)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total += len(packer.compress(chunk))
        total += len(packer.flush())
    return total


@torch.inference_mode()
def speed_of(original: Seq2Seq, compressed: Seq2Seq, sources: Sequence[Sequence[int]], limit: float) -> Speed:
    """Let both models write outputs of the same length for the same sources, in turns.

    Args:
        original: one model.
        compressed: the other.
        sources: token ids; the first few are used.
        limit: the most positions that both have.
    """
    rows = [torch.tensor(list(ids)) for ids in sources[:_ROWS]]
    ids, mask = (t.to(original.device) for t in padded(rows, padding_id(original.hf)))
    tokens = int(min(_TOKENS, limit - 2))

    def seconds(hf: PreTrainedModel) -> float:
        writer: Any = hf
        started = time.perf_counter()
        writer.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1,
            min_new_tokens=tokens, max_new_tokens=tokens,
        )  # fmt: skip
        return time.perf_counter() - started

    with original.lock, compressed.lock, analysed(original.hf), analysed(compressed.hf):
        for model in (original, compressed):  # a first call costs more than those that follow
            seconds(model.hf)
        times = [(seconds(original.hf), seconds(compressed.hf)) for _ in range(_ROUNDS)]
    written = len(rows) * tokens
    ratios = [before / after for before, after in times]
    return Speed(
        original=written / median(before for before, _ in times),
        compressed=written / median(after for _, after in times),
        ratio=median(ratios),
        low=min(ratios),
        high=max(ratios),
        rounds=_ROUNDS,
        rows=len(rows),
        tokens=tokens,
        threads=torch.get_num_threads(),
        device=str(original.device),
    )
