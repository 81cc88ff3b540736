"""The colour scales of every map: one for scores without a sign, one round zero, one for doubt.

Scores with a sign run from orange (opposes, below 0) over the page's own background (0) to blue (supports,
above 0): a pair that people with any common colour blindness tell apart. Scores without a sign use the blue
half. Doubt (1 - probability) has violet to itself, so that it is never read as a score. Every scale is even
to the eye: equal steps are equal distances in the OKLab colour space, on a light page and on a dark one.

A score becomes one of 41 levels, -20 to 20. Levels are what CSS classes (`n20` … `n1`, `p1` … `p20`, `d1` …
`d20`) and the dashboard's JavaScript (`for_javascript`) name; Plotly gets the same colours as a colour scale.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Theme = Literal["light", "dark"]
Scale = Literal["sequential", "diverging", "doubt"]

LEVELS = 20
THEMES: tuple[Theme, ...] = ("light", "dark")
PAGE: dict[Theme, str] = {"light": "#ffffff", "dark": "#0e1117"}
INK: dict[Theme, str] = {"light": "#1b1f24", "dark": "#e8eaed"}
MUTED: dict[Theme, str] = {"light": "#5a626c", "dark": "#a3abb5"}
LINE: dict[Theme, str] = {"light": "#dfe3e8", "dark": "#30363f"}
# Cells that cannot hold a score: a token does not influence what was written before it.
EMPTY: dict[Theme, str] = {"light": "#f1f3f5", "dark": "#1a1f27"}
ACCENT: dict[Theme, str] = {"light": "#1f5fa8", "dark": "#8fc1f5"}
# Lines of several methods in one figure; a line is told apart by its dash and its marks as well.
SERIES: dict[Theme, tuple[str, ...]] = {
    "light": ("#1f5fa8", "#b4480b", "#14785a", "#8a3f9c", "#7d6400", "#b3295b"),
    "dark": ("#8fc1f5", "#f5a66b", "#5fd0a5", "#d79be6", "#e0c55a", "#f58db0"),
}
# What stands for a failure, in text and in figures; always with a word or a sign beside it.
WRONG: dict[Theme, str] = {"light": "#a3320b", "dark": "#ffae7d"}

_RAMPS: dict[str, dict[Theme, tuple[str, str, str]]] = {
    "blue": {"light": ("#ffffff", "#69a9d8", "#0b3a75"), "dark": ("#0e1117", "#2b6cb0", "#b9deff")},
    "orange": {"light": ("#ffffff", "#ee9a57", "#7d2d06"), "dark": ("#0e1117", "#ad5a1f", "#ffd2a8")},
    "violet": {"light": ("#ffffff", "#c193d6", "#571a73"), "dark": ("#0e1117", "#8450a3", "#efcdff")},
}


def colours(scale: Scale, theme: Theme = "light") -> tuple[str, ...]:
    """The colours of a scale as `#rrggbb`, lowest level first.

    `sequential` and `doubt` have 21 colours (levels 0 to 20), `diverging` has 41 (levels -20 to 20); level
    0 is the page's background.
    """
    if scale == "diverging":
        return (*reversed(_ramp("orange", theme)), *_ramp("blue", theme)[1:])
    return _ramp("blue" if scale == "sequential" else "violet", theme)


def colorscale(scale: Scale, theme: Theme = "light") -> list[list[Any]]:
    """The scale as Plotly takes it: `[[0, "#…"], …, [1, "#…"]]`."""
    found = colours(scale, theme)
    return [[round(i / (len(found) - 1), 4), colour] for i, colour in enumerate(found)]


def level(score: float, limit: float) -> int:
    """The level of one score, -20 to 20, when `limit` is the score at the end of the scale.

    Scores past the limit get the last level; anything but an exact 0 that rounds to 0 stays at 0, as does
    nan, which a reader must be told about in words.
    """
    if not limit > 0 or math.isnan(score):
        return 0
    return round(max(-1.0, min(1.0, score / limit)) * LEVELS)


def levels(scores: np.ndarray, limit: float) -> np.ndarray:
    """The levels of an array of scores, int8 of the same shape; see `level`."""
    if not limit > 0:
        return np.zeros(scores.shape, dtype=np.int8)
    shares = np.clip(np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=0.0) / limit, -1, 1)
    return np.rint(shares * LEVELS).astype(np.int8)


def doubt_level(probability: float) -> int:
    """The level of a token's doubt: 0 at probability 1, 20 at probability 0."""
    return level(1 - probability, 1.0)


def text_colour(background: str) -> str:
    """Black or white, whichever reads better on `background`; the contrast is at least 4.5 (WCAG AA)."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, background))


def contrast(one: str, other: str) -> float:
    """The WCAG contrast ratio of two `#rrggbb` colours, 1 (the same) to 21 (black on white)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def css(theme: Theme = "light") -> str:
    """One rule per level: classes `n20` … `n1`, `p1` … `p20` and `d1` … `d20`; level 0 has no class."""
    rules = []
    for prefix, ramp in (("n", "orange"), ("p", "blue"), ("d", "violet")):
        for step, colour in enumerate(_ramp(ramp, theme)[1:], start=1):
            rules.append(f".{prefix}{step}{{background:{colour};color:{text_colour(colour)}}}")
    return "\n".join(rules)


def css_class(step: int) -> str:
    """The CSS class of a level: `p7` for 7, `n7` for -7, empty for 0."""
    return f"p{step}" if step > 0 else f"n{-step}" if step < 0 else ""


def for_javascript() -> dict[str, Any]:
    """Every scale as plain data: per theme the page's colours, and per scale backgrounds and text colours.

    Index a diverging scale with `level + levels`, the others with `level`.
    """
    scales: tuple[Scale, ...] = ("sequential", "diverging", "doubt")
    themes = {
        theme: {
            "page": PAGE[theme],
            "ink": INK[theme],
            "empty": EMPTY[theme],
            **{
                scale: {
                    "background": list(colours(scale, theme)),
                    "text": [text_colour(colour) for colour in colours(scale, theme)],
                }
                for scale in scales
            },
        }
        for theme in THEMES
    }
    return {"levels": LEVELS, **themes}


@functools.cache
def _ramp(name: str, theme: Theme) -> tuple[str, ...]:
    """21 colours from the page's background outwards, in equal OKLab steps along the anchors."""
    anchors = np.array([_to_oklab(colour) for colour in _RAMPS[name][theme]])
    lengths = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(anchors)]
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0.0, reached[-1], LEVELS + 1)
    columns = [np.interp(wanted, reached, anchors[:, axis]) for axis in range(3)]
    return tuple(_to_hex(lab) for lab in zip(*columns, strict=True))


# OKLab: Björn Ottosson, "A perceptual color space for image processing" (2020).
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _luminance(colour: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ _linear(colour))


def _to_oklab(colour: str) -> np.ndarray:
    return _TO_LAB @ np.cbrt(_TO_LMS @ _linear(colour))


def _to_hex(lab: Sequence[float]) -> str:
    linear = np.linalg.solve(_TO_LMS, np.linalg.solve(_TO_LAB, np.array(lab)) ** 3).clip(0, 1)
    parts = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(float(part) * 255):02x}" for part in parts)
