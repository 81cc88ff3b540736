"""What the settings of perturbation methods have in common."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: names them.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")


def check_at_least(least: float, **numbers: float | None) -> None:
    """Refuse numbers that are too small; None is left to the method.

    Raises:
        ValueError: says which.
    """
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise ValueError(f"{name}={number} must be at least {least:g}")


def enough(samples: int | None, features: int) -> int:
    """How many samples: those asked for, or 8 for each feature and at least 128."""
    return max(128, 8 * features) if samples is None else samples
