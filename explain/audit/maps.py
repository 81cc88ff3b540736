"""Maps of the most suspicious outputs: what each token of them was read off, kept beside the audit.

```
maps/000017.json   explain/attribution@1 of output 17
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from explain.attribution import Cancelled
from explain.audit.result import Audit, Suspect
from explain.errors import ExplainError
from explain.evaluation import Evaluation
from explain.model import Seq2Seq
from explain.results import Attribution, Generation, load_attribution

FOLDER = "maps"
MOST = 5
"""Outputs whose maps are made when an audit ends."""
METHOD = "value_zeroing"
# Methods that ask the model a few times for each output, so that the maps cost little beside the audit.
_CHEAP = ("consensus", "value_zeroing", "norm_attention", "alti", "attention")
_MOST_CELLS = 20_000
_FORCING = ("source_language", "target_language", "allow_unknown")
_NAME = re.compile(r"[0-9]{6,18}\.json")


def method_for(evaluation: Evaluation | None) -> str:
    """The method of the maps: of those that cost little the most trusted one, else value zeroing."""
    if evaluation is not None:
        for name in evaluation.ranking:
            if name in _CHEAP and evaluation.methods[name].card.usable:
                return name
    return METHOD


def explain_suspects(
    model: Seq2Seq,
    audit: Audit,
    *,
    evaluation: Evaluation | None = None,
    most: int = MOST,
    should_stop: Callable[[], bool] | None = None,
) -> dict[int, Attribution]:
    """Maps of the most suspicious outputs, by their number; the same audit has the same maps.

    An output that cannot be explained has none, and neither has one whose map no page could hold.

    Args:
        model: the audited one.
        audit: what was found.
        evaluation: of this model; it says which method to use.
        most: how many outputs.
        should_stop: asked before each; True ends the work with `Cancelled`.

    Raises:
        Cancelled: `should_stop` said so.
    """
    found: dict[int, Attribution] = {}
    for suspect in audit.suspects[:most]:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked")
        if len(suspect.source_tokens) * len(suspect.tokens) > _MOST_CELLS:
            continue
        try:
            generation = generation_of(model, suspect, audit.settings)
            if generation is not None:
                found[suspect.number] = model.attribute(generation, method=method_for(evaluation))
        except Cancelled:
            raise
        except ExplainError:
            continue
    return found


def generation_of(model: Seq2Seq, suspect: Suspect, settings: Mapping[str, Any]) -> Generation | None:
    """The output of a finding once more, token for token; None where it cannot be had.

    It is written as the audit wrote it. Where that gives other tokens (the audit scored given outputs, or
    drew samples), the output's text is forced.
    """
    controls = dict(settings.get("generate") or {})
    if not settings.get("forced"):
        written = model.generate(suspect.source, **controls)
        if _same(written, suspect.tokens):
            return written
    reading = {name: controls[name] for name in _FORCING if name in controls}
    given = model.force(suspect.source, suspect.output, **reading)
    return given if _same(given, suspect.tokens) else None


def _same(generation: Generation, tokens: Sequence[str]) -> bool:
    return tuple(token.text for token in generation.target_tokens) == tuple(tokens)


def save_maps(folder: Path, maps: Mapping[int, Attribution]) -> None:
    """Write maps into an audit's folder.

    Raises:
        FileError: a file cannot be written.
    """
    for number, attribution in maps.items():
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        attribution.save(folder / FOLDER / f"{number:06d}.json")


def load_maps(folder: Path) -> dict[int, Attribution]:
    """The maps in an audit's folder, by the number of their output.

    Raises:
        FileError: one of them is broken.
    """
    paths = sorted((folder / FOLDER).glob("*.json"))
    return {int(path.stem): load_attribution(path) for path in paths if _NAME.fullmatch(path.name)}
