"""Numbers and texts as people read them: signs, units, and foreign text that cannot do harm."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from explain.files import dump_json
from explain.results import Attribution, Token

NOT_DEFINED = "not defined"
# In the place of a figure that was not measured or is not defined, in tables of many figures.
DASH = "–"
# Control characters as their pictures (␀ … ␟, ␡); tab and newline have signs of their own in labels.
_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"} | {127: "␡"}
_MARKS = {"\n": "↵", "\r": "↵", "\t": "⇥"}
_ISOLATE, _POP = "\u2068", "\u2069"
_RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "RLI", "LRI", "FSI", "PDF", "PDI"}
OBJECTIVES = {
    "log_prob": "log-probability",
    "logit": "logit",
    "probability": "probability",
    "entropy": "entropy",
}


def number(value: float, decimals: int = 2, *, signed: bool = False) -> str:
    """A number with a true minus sign, with a plus sign where `signed`; what rounds to 0 has no sign."""
    if math.isnan(value):
        return NOT_DEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{abs(value):,.{decimals}f}"
    if value and not float(text.replace(",", "")):
        return text
    if value < 0:
        return f"−{text}"
    return f"+{text}" if signed and value else text


def decimals_for(limit: float) -> int:
    """How many decimals tell scores apart when the largest is `limit`: two significant digits of it."""
    if not limit > 0 or math.isinf(limit):
        return 2
    if 1 <= limit <= 2:  # shares of a whole
        return 2
    return min(8, max(0 if limit >= 100 else 1, 1 - math.floor(math.log10(limit))))


def probability(log_prob: float) -> str:
    """A log-probability in nats as a probability, `0.89`; `<0.01` and `>0.99` rather than a false 0 or 1."""
    if math.isnan(log_prob):
        return NOT_DEFINED
    share = math.exp(min(0.0, log_prob))
    if 0 < share < 0.005:
        return "<0.01"
    if 0.995 <= share < 1:
        return ">0.99"
    return f"{share:.2f}"


def percent(share: float) -> str:
    """A share as a percentage with two significant digits; nan is `not defined`."""
    if math.isnan(share):
        return NOT_DEFINED
    value = 100 * share
    if math.isinf(value):
        return f"{number(value)}\u00a0%"
    return f"{float(f'{value:.2g}'):,.10g}\u00a0%" if abs(value) >= 0.001 or not value else "<0.001\u00a0%"


def whole_percent(share: float) -> str:
    """A share in whole per cent; `<1 %` and `>99 %` rather than a false 0 or 100; nan is a dash."""
    if math.isnan(share):
        return DASH
    value = round(100 * share)
    if value == 0 and share > 0:
        return "<1\u00a0%"
    return ">99\u00a0%" if value == 100 and share < 1 else f"{value}\u00a0%".replace("-", "−")


def mean(values: Iterable[float]) -> float:
    """The mean of the numbers that are defined; nan when there are none."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 output`, `2 outputs`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def block_label(block: str) -> str:
    """An attention block as one says it: `decoder.1.cross` is `cross, layer 1`; others go by their side."""
    side, layer, kind = block.split(".")[:3]
    return f"{'cross' if kind == 'cross' else side}, layer {layer}"


def shown(text: str) -> str:
    """`text` with control characters as their pictures (␀), so that nothing is there and unseen."""
    return text.translate(_PICTURES)


def shorten(text: str, length: int = 24) -> str:
    """At most `length` characters, with `…` in the place of the rest."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def token_label(token: Token | str, length: int = 24) -> str:
    """What a token is called on an axis: never empty, never invisible, at most `length` characters.

    White space is drawn (`␣`, `↵`); a token of nothing but invisible characters shows their code points.
    """
    text = token if isinstance(token, str) else token.text
    inner = text.strip()
    if not text:
        return "∅"
    if not inner:
        return shorten("".join(_MARKS.get(char, "␣") for char in text), length)
    label = shown("".join(_MARKS.get(char, char) for char in inner))
    if all(unicodedata.category(char) in ("Cf", "Cn", "Co", "Mn", "Zl", "Zp") for char in label):
        label = " ".join(f"U+{ord(char):04X}" for char in label)
    return shorten(label, length)


def plot_label(token: Token | str, length: int = 24) -> str:
    """A token's label for Plotly, which reads HTML, entities and TeX in every text it is given.

    Right-to-left text is isolated, so that it cannot turn round what stands beside it.
    """
    return plot_text(token_label(token, length))


def plot_text(text: str) -> str:
    """`text` so that Plotly shows it as it is: no HTML, no TeX, and its direction stays its own."""
    safe = html.escape(text, quote=False).replace("$", "&#36;")
    if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in text):
        return f"{_ISOLATE}{safe}{_POP}"
    return safe


def setting_text(value: Any) -> str:
    """A setting's value as text: yes and no for booleans, digits in groups, JSON for what is nested."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple, Mapping)) and not value:
        return "–"
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return shown(", ".join(value))
    return shown(dump_json(value, indent=None))


def array(values: Any) -> np.ndarray:
    """A tensor or array as a float32 array on the CPU."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)


def objective_name(attribution: Attribution) -> str:
    """What was explained, in words: `log-probability`, `logit against ‘foil’`; empty without an objective."""
    name = OBJECTIVES.get(attribution.objective, attribution.objective.replace("_", " "))
    return f"{name} against ‘{attribution.contrast}’" if name and attribution.contrast else name


def score_limit(attribution: Attribution) -> float:
    """The end of the colour scale: the largest score of all, without its sign."""
    parts = [attribution.source, attribution.prefix, attribution.start, attribution.within]
    found = [np.abs(array(part)) for part in parts if part.numel()]
    finite = [part[np.isfinite(part)] for part in found]
    return max((float(part.max()) for part in finite if part.size), default=0.0)
