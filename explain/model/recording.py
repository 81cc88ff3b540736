"""Recording hook points: one teacher-forced pass per batch, and only what was asked for is kept."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from explain.model.attention import PointFunction
from explain.model.families import Family
from explain.model.forward import batches, logits_from_ids, padded, padding_id
from explain.model.hooks import analysed, hooked
from explain.results import Capture, Generation

Progress = Callable[[int, int], None]


class TemporaryFolder:
    """A folder that lives as long as the captures that hold it; `path` is where it is."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="explain-capture-"))
        # Not TemporaryDirectory: it warns when it is collected, which here is how it is meant to end.
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def record(
    hf: PreTrainedModel,
    family: Family,
    generations: Sequence[Generation],
    names: Sequence[str],
    *,
    batch_size: int,
    dtype: torch.dtype | None,
    memory_budget: int | None,
    progress: Progress | None,
    model_digest: str,
) -> list[Capture]:
    """Captures of generations at the hook points `names`; see `Seq2Seq.capture`."""
    kept: dict[int, Capture] = {}
    used, folder = 0, None
    for part in batches(generations, batch_size):
        with analysed(hf):
            found = passes(hf, family, generations, names, part, device="cpu")
        for index, views in found:
            # A copy, or the padded batch would stay alive.
            tensors = {name: view.to(dtype or view.dtype, copy=True) for name, view in views.items()}
            used += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            if memory_budget is not None and used > memory_budget:
                folder = folder or TemporaryFolder()
                kept[index] = _on_disk(generations[index], tensors, folder, index, model_digest)
            else:
                kept[index] = Capture(
                    generations[index], tensors, names=tuple(names), model_digest=model_digest
                )
        if progress is not None:
            progress(len(kept), len(generations))
    return [kept[i] for i in range(len(generations))]


def passes(
    hf: PreTrainedModel,
    family: Family,
    generations: Sequence[Generation],
    names: Sequence[str],
    part: Sequence[int],
    *,
    device: str | None = None,
) -> list[tuple[int, dict[str, Tensor]]]:
    """One teacher-forced pass over the generations at the indices `part`, to be run inside `analysed`.

    Returns:
        Each index with its activations as in `Capture`, but as views of the padded batch, on `device` (by
        default the model's own, where nothing is copied).
    """
    chosen = [generations[i] for i in part]
    recorded: dict[str, Tensor] = {}

    def recorder(name: str) -> PointFunction:
        def keep(tensor: Tensor) -> Tensor:
            recorded[name] = tensor.detach().to(device or tensor.device)
            return tensor

        return keep

    source, mask = padded([item.source_ids for item in chosen], padding_id(hf))
    decoder, _ = padded([item.decoder_input_ids for item in chosen], padding_id(hf))
    functions = {name: recorder(name) for name in names}
    with torch.no_grad(), hooked(hf, family, functions):
        logits_from_ids(hf, source.to(hf.device), mask.to(hf.device), decoder.to(hf.device))
    found = []
    for row, index in enumerate(part):
        sizes = len(generations[index].source_tokens), len(generations[index].target_tokens)
        found.append((index, {n: _unpadded(n, recorded[n][row : row + 1], *sizes) for n in names}))
    return found


def _unpadded(name: str, tensor: Tensor, source: int, target: int) -> Tensor:
    """Cut one example's tensor to its real positions."""
    own = source if name.startswith("encoder") else target
    point = name.rpartition(".")[2]
    across = source if ".cross." in name else own
    if point in ("pattern", "scores"):
        tensor = tensor[:, :, :own, :across]
    elif point in ("q", "z"):
        tensor = tensor[:, :, :own]
    elif point in ("k", "v"):
        tensor = tensor[:, :, :across]
    else:
        tensor = tensor[:, :own]
    return tensor


def _on_disk(
    generation: Generation, tensors: Mapping[str, Tensor], folder: TemporaryFolder, index: int, digest: str
) -> Capture:
    path = folder.path / f"{index}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return Capture(generation, path=path, names=tuple(tensors), folder=folder, model_digest=digest)
