"""Options that gradient methods share."""

from __future__ import annotations

from dataclasses import dataclass

from explain.attribution.gradients.quadrature import RULES
from explain.attribution.inputs import BASELINES, SIDES
from explain.options import choice


@dataclass(frozen=True, slots=True)
class PathSettings:
    """`baseline` stands for "no token"; steps double from `steps` to `max_steps` until the tolerance is met.

    `sides` says what moves from the baseline to the input: `both`, or the `source` or the `prefix` alone
    while the other stays as it is; scores then add up to what that side alone changes, and the other's are 0.
    `rule` is `nested` (evenly spaced, points re-used), `midpoint` or `gauss_legendre` (Captum's default);
    `rows` is how many points of the path go through the model at once, at most, and `batch_size` how many
    generations: they shape memory and time, not results.
    """

    baseline: str = choice("pad", BASELINES)
    sides: str = choice("both", SIDES)
    steps: int = 8
    max_steps: int = 1024
    rule: str = choice("nested", RULES)
    rows: int = 64
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_path(self)


def check_path(settings: PathSettings) -> None:
    """Refuse numbers that make no path.

    Raises:
        ValueError: says which.
    """
    if not 2 <= settings.steps <= settings.max_steps:
        raise ValueError(
            f"steps={settings.steps} must be at least 2 and at most max_steps={settings.max_steps}"
        )
    if settings.rule not in RULES:
        raise ValueError(f"rule={settings.rule!r} is not one of {', '.join(RULES)}")
    check_sides(settings.sides)
    if settings.rows < 1 or settings.batch_size < 1:
        raise ValueError("rows and batch_size must be at least 1")


def check_sides(sides: str) -> None:
    """Refuse what is no side.

    Raises:
        ValueError: names them.
    """
    if sides not in SIDES:
        raise ValueError(f"sides={sides!r} is not one of {', '.join(SIDES)}")
