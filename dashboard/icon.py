"""The page's icon, drawn here: Streamlit would fetch an emoji or a symbol from the network."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from explain.report import colours


@functools.cache
def icon() -> Image.Image:
    """A 4 × 4 map with its weight on the diagonal, 64 pixels wide."""
    levels = np.array([[18, 3, 0, 0], [5, 18, 4, 0], [0, 6, 16, 3], [0, 2, 5, 18]])
    palette = [tuple(bytes.fromhex(colour[1:])) for colour in colours.colours("sequential")]
    cells = np.array([[palette[level] for level in row] for row in levels], dtype=np.uint8)
    return Image.fromarray(cells.repeat(16, axis=0).repeat(16, axis=1))
