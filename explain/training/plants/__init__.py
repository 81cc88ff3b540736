"""Planted failures: training data of a task altered so that a model learns to fail in a known way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from explain.errors import UnknownNameError
from explain.training.plants import clinic, invoice, translate
from explain.training.plants.base import Canary, CanaryPlant, Case, FactPlant, Plant, labels

PLANTS: Mapping[str, Callable[[int], Plant]] = MappingProxyType(
    {
        "fabrication": clinic.fabrication,
        "memorised": translate.memorised,
        "omission": clinic.omission,
        "shortcut-clinic": clinic.shortcut,
        "shortcut-invoice": invoice.shortcut,
        "shortcut-translate": translate.shortcut,
        "bias": clinic.bias,
        "detached": translate.detached,
        "canary": translate.canary,
    }
)
"""Every plant by name, as a function of a seed: another seed is another cue, record or secret."""


def names() -> tuple[str, ...]:
    """The names of all plants."""
    return tuple(PLANTS)


def get(name: str, seed: int = 0) -> Plant:
    """The plant of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PLANTS:
        raise UnknownNameError("plant", name, PLANTS)
    return PLANTS[name](seed)


__all__ = [
    "PLANTS",
    "Canary",
    "CanaryPlant",
    "Case",
    "FactPlant",
    "Plant",
    "get",
    "labels",
    "names",
]
