"""What a report says about a method, taken from the registry of attribution methods alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from explain.errors import UnknownNameError
from explain.results import Attribution


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """What the registry says about one method.

    `objective` and `contrast` tell what it can be asked; `options` are the names of its own settings, or None
    when they are not known.
    """

    name: str
    label: str
    reads: str
    paper: str
    objective: bool = True
    contrast: bool = True
    options: frozenset[str] | None = None
    kind: str = ""


def method_facts(names: Iterable[str]) -> dict[str, MethodFacts]:
    """The facts of each method by name.

    Raises:
        UnknownNameError: the registry has no such method.
    """
    rows = {str(row["name"]): row for row in registry()}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in rows:
            raise UnknownNameError("method", name, rows)
    return {name: _facts(name, rows[name]) for name in wanted}


def facts_of(name: str) -> MethodFacts:
    """The facts of one method; one that the registry does not know is described by its name alone.

    An attribution may come from a file that another version wrote, and can still be shown.
    """
    found = next((row for row in registry() if row["name"] == name), None)
    return _facts(name, found) if found else MethodFacts(name, name.replace("_", " "), "", "")


def registry() -> list[dict[str, Any]]:
    """The registered methods as rows; the registry lives in a room that loads late because it is heavy."""
    from explain.attribution import REGISTRY

    return REGISTRY.records()


def _facts(name: str, row: dict[str, Any]) -> MethodFacts:
    return MethodFacts(
        name=name,
        label=str(row.get("label") or name.replace("_", " ")),
        reads=str(row.get("reads") or ""),
        paper=str(row.get("paper") or ""),
        objective=bool(row.get("objective", True)),
        contrast=bool(row.get("contrast", True)),
        options=frozenset(row["options"]) if "options" in row else None,
        kind=str(row.get("kind") or ""),
    )


def reading_help(attribution: Attribution) -> str:
    """How to read this map's colours, and how its scores were merged where they are not sums."""
    noun = attribution.level
    merged = "".join(f" {sentence}" for sentence in _merging(attribution))
    if not attribution.signed:
        return (
            f"Each row is an output {noun}. The stronger the blue, the more the column counted for it; 0 is "
            f"no part in it. These scores have no sign: they cannot tell support from opposition.{merged}"
        )
    more, less = _directions(attribution)
    return f"Each row is an output {noun}. Blue columns {more}, orange ones {less}; 0 is no effect.{merged}"


def reductions(attribution: Attribution) -> list[tuple[str, str]]:
    """How the scores were merged, in order: (level, reduction), such as `("word", "sum")`."""
    grouped = attribution.config.get("grouped", ())
    pairs = [str(step).partition(": ") for step in grouped] if isinstance(grouped, (list, tuple)) else []
    return [(level, over) for level, _, over in pairs]


def _merging(attribution: Attribution) -> list[str]:
    says = {
        "mean": "is the mean over the tokens of its {level}, so a row does not add up",
        "max_abs": "is the one furthest from 0 among the tokens of its {level}, so a row does not add up",
    }
    steps = reductions(attribution)
    return [f"Each score {says[over].format(level=level)}." for level, over in steps if over in says]


def _directions(attribution: Attribution) -> tuple[str, str]:
    if attribution.objective == "entropy":
        return "made the model less certain at that point (+)", "made it more certain (−)"
    if attribution.contrast:
        foil = f"‘{attribution.contrast}’"
        return f"favoured it over {foil} (+)", f"favoured {foil} over it (−)"
    return "made it more likely (+)", "made it less likely (−)"


def zero_means(attribution: Attribution) -> str:
    """What the sign and a score of 0 mean, for the table of methods."""
    if not attribution.signed:
        return "no sign; 0 = no part in it"
    more, less = _directions(attribution)
    return f"+ {more.removesuffix(' (+)')}; − {less.removesuffix(' (−)')}; 0 = no effect"


def scale_ends(attribution: Attribution) -> str:
    """What the two ends of the colour scale mean, in a few words."""
    if not attribution.signed:
        return "0 = no part in it"
    if attribution.objective == "entropy":
        return "below 0 lowers it, above 0 raises it"
    if attribution.contrast:
        return "below 0 favours the contrast, above 0 the output"
    return "below 0 opposes, above 0 supports"


def short_unit(attribution: Attribution) -> str:
    """The unit to write after a number in a sentence: `nats`, `logits`, or nothing."""
    if not attribution.signed:
        return ""
    first = attribution.units.split()[:1]
    return first[0] if first and first[0] in ("nats", "logits") else ""
