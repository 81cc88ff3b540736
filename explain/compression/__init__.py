"""The compression room: the same model made smaller, and what that costs."""

from explain.compression.config import CompressConfig, open_run
from explain.compression.distil import Layers, choose_layers, distillation_loss, student
from explain.compression.figures import FILE, Accuracy, Compression, Size, Speed
from explain.compression.prune import (
    hold_zeros,
    prune_heads,
    prune_neurons,
    prune_weights,
    sensitivities,
    silence_heads,
)
from explain.compression.run import compress
from explain.model.int8 import is_int8, quantised

__all__ = [
    "FILE",
    "Accuracy",
    "CompressConfig",
    "Compression",
    "Layers",
    "Size",
    "Speed",
    "choose_layers",
    "compress",
    "distillation_loss",
    "hold_zeros",
    "is_int8",
    "open_run",
    "prune_heads",
    "prune_neurons",
    "prune_weights",
    "quantised",
    "sensitivities",
    "silence_heads",
    "student",
]
