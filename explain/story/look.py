"""One look at a model while it trains: what it gets right, what its heads and maps do, what its cues do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from explain.analysis.heads import HeadStatistics, head_statistics
from explain.attribution import REGISTRY
from explain.errors import FileError, InputError
from explain.evaluation.estimates import Estimate
from explain.evaluation.faithfulness import FaithfulnessSettings, faithfulness
from explain.evaluation.gold import rows_of, summary
from explain.evaluation.known import Case, RowGold
from explain.files import dump_json, replacing
from explain.model import Seq2Seq
from explain.results import Attribution, Generation, Token
from explain.story.probes import Probe
from explain.training.tasks import overlap, token_gold

SCHEMA = "explain/story-look@1"
# The quick card hides few tokens in few ways; its interval says how much that is worth.
_CARD_EXAMPLES = 6
_CARD = FaithfulnessSettings(bins=(0.2, 0.5), tokens=3, orders=2, subsets=2, bounded=0)
# An output may be this many tokens longer than the right one before it is cut.
_ROOM = 4
_EVEN = math.log(0.5)


@dataclass(frozen=True, slots=True)
class StorySettings:
    """What is kept at every look.

    Attributes:
        method: the attribution method of the maps.
        count: held-out examples that accuracy, loss, heads and gold scores are of.
        shown: probes whose maps are kept; as many of the swaps.
        every: look at every so many steps, besides steps 10, 20, 40, … (0: only at those).
        seed: of the choice of probes and of ties.
    """

    method: str = "value_zeroing"
    count: int = 24
    shown: int = 3
    every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        REGISTRY.get(self.method)
        for name, least in (("count", 1), ("shown", 1), ("every", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, eq=False)
class ProbeMap:
    """A probe's map at one look, of its right output.

    Attributes:
        source_tokens: texts of the encoder positions.
        target_tokens: texts of the right output's tokens.
        output: what the model wrote of itself at this look.
        source: float [target, source], scores as the method gives them.
        prefix: float [target, target], of earlier output tokens.
        log_probs: float [target], nats, of the right output's tokens; 0 is certain.
        cue: which source tokens carry the cue of the probe's swap.
    """

    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    output: str
    source: Tensor
    prefix: Tensor
    log_probs: Tensor
    cue: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SwapRow:
    """What one cue does at one look, over the probes that have a swap of it.

    Decided tokens are those of the right output that the cue might decide, each given the right tokens before
    it.

    Attributes:
        cue: what is swapped.
        probes: how many probes have it.
        flipped: share of them where at a decided place the model is more likely than not (p > ½) to write
            one token with the cue there and another with it swapped, 0 to 1. 0: the cue decides nothing.
            A model that is sure of nothing flips nothing.
        share: Σ|score| of the cue's tokens over that of all source tokens, at the decided tokens; nan where
            no source carries the cue.
        chance: the cue's share of the source tokens: `share` of a map that favours nothing.
        effect: what the cue takes from the right output: log-probability of its decided tokens with the cue
            swapped, less that with the cue there, nats, in the mean over probes. 0: nothing; below 0 the cue
            speaks for it.
        right: share of the probes whose decided tokens are all the likeliest, with the cue there.
        right_swapped: the same with the cue swapped.
    """

    cue: str
    probes: int
    flipped: float
    share: float
    chance: float
    effect: float
    right: float
    right_swapped: float


@dataclass(frozen=True, eq=False)
class Look:
    """The model at one step.

    Attributes:
        step: optimiser steps so far; 0 is before the first.
        loss: nats per token of the held-out probes' right outputs; 0 is certain.
        token_accuracy: share of their tokens that the model puts first, given the right ones before.
        exact_match: share of them that the model, decoding greedily, writes exactly.
        precision_at_1: of the maps against the task's gold (`explain.evaluation.GoldScores`); nan without.
        mass: share of Σ|score| that is on tokens of the gold; nan without.
        chance: `precision_at_1` of a random map.
        advantage: how much further than random orders the probability falls when the tokens that the map
            ranks first are hidden; above 0 is better than chance.
        completeness: median relative completeness error of the maps; nan where the method makes no claim.
        heads: figures of every head.
        swaps: what every cue does.
        maps: the maps of a few probes, those with a swap last.
        seconds: what the look took.
    """

    step: int
    loss: float
    token_accuracy: float
    exact_match: float
    precision_at_1: Estimate
    mass: Estimate
    chance: float
    advantage: Estimate
    completeness: float
    heads: HeadStatistics
    swaps: tuple[SwapRow, ...] = ()
    maps: tuple[ProbeMap, ...] = field(default=())
    seconds: float = math.nan

    def swap(self, cue: str) -> SwapRow | None:
        """What a cue does at this look; None where no probe has it."""
        return next((row for row in self.swaps if row.cue == cue), None)

    def save(self, path: Path) -> Path:
        """Write to a safetensors file: the maps as tensors, the rest in its metadata.

        Raises:
            FileError: the file cannot be written.
        """
        tensors = {
            f"{i}.{name}": getattr(found, name).contiguous()
            for i, found in enumerate(self.maps)
            for name in ("source", "prefix", "log_probs")
        }
        record = {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: getattr(self, name).to_dict() for name in _ESTIMATES},
            "heads": self.heads.to_dict(),
            "swaps": [asdict(row) for row in self.swaps],
            "maps": [
                {name: getattr(found, name) for name in ("source_tokens", "target_tokens", "output", "cue")}
                for found in self.maps
            ],
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"explain": dump_json(record, indent=None)})
        return path


_NUMBERS = ("step", "loss", "token_accuracy", "exact_match", "chance", "completeness", "seconds")
_ESTIMATES = ("precision_at_1", "mass", "advantage")


def read_look(path: Path) -> Look:
    """Read a look back.

    Raises:
        FileError: the file is missing, broken, or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("explain", "{}"))
            if record.get("schema") != SCHEMA:
                raise FileError(f"{path} is not an {SCHEMA} file")
            maps = tuple(
                ProbeMap(
                    tuple(one["source_tokens"]),
                    tuple(one["target_tokens"]),
                    one["output"],
                    *(file.get_tensor(f"{i}.{name}") for name in ("source", "prefix", "log_probs")),
                    cue=tuple(one["cue"]),
                )
                for i, one in enumerate(record["maps"])
            )
        numbers: dict[str, Any] = {name: _number(record[name]) for name in _NUMBERS}
        estimates: dict[str, Any] = {name: Estimate.from_dict(record[name]) for name in _ESTIMATES}
        return Look(
            **{**numbers, **estimates, "step": int(record["step"])},
            heads=HeadStatistics.from_dict(record["heads"]),
            swaps=tuple(
                SwapRow(row["cue"], row["probes"], *(_number(row[name]) for name in _SWAP_NUMBERS))
                for row in record["swaps"]
            ),
            maps=maps,
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"cannot read {path} as a look of a training story: {error}") from None


_SWAP_NUMBERS = ("flipped", "share", "chance", "effect", "right", "right_swapped")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


# ---- taking one ------------------------------------------------------------------------------------------


def take_look(model: Seq2Seq, probes: Sequence[Probe], step: int, settings: StorySettings) -> Look:
    """Look at a model: one decoding and one teacher-forced pass of the probes serve every figure.

    Raises:
        ExplainError: probes that the model cannot read.
    """
    held_out = [probe for probe in probes if probe.held_out]
    swapping = [probe for probe in probes if probe.swap is not None]
    every = [*held_out, *(probe for probe in swapping if not probe.held_out)]
    forced = model.force([one.source for one in every], [one.target for one in every])
    longest = max(len(found.target_tokens) for found in forced)
    maps = model.attribute(forced, method=settings.method)
    count = len(held_out)
    golds = [_gold(probe, found) for probe, found in zip(every, forced, strict=True)]
    cases = [Case(found, gold) for found, gold in zip(forced[:count], golds[:count], strict=True)]
    rows = rows_of(cases, maps[:count], seed=settings.seed)
    scores = summary(rows, seed=settings.seed)
    log_probs = torch.cat([found.log_probs for found in forced[:count]])
    ranks = torch.cat([found.ranks for found in forced[:count]])
    few = min(_CARD_EXAMPLES, count)
    card = faithfulness(model, forced[:few], {settings.method: maps[:few]}, _CARD)[settings.method]
    errors = torch.cat([found.completeness_error for found in maps[:count]])
    known = errors[~errors.isnan()]
    at = {id(probe): index for index, probe in enumerate(every)}
    picked = [*range(count)[: settings.shown]]
    picked += [at[id(probe)] for probe in swapping if at[id(probe)] not in picked][: settings.shown]
    read = sorted({*range(count), *picked})
    written = model.generate([every[i].source for i in read], max_new_tokens=longest + _ROOM)
    own = dict(zip(read, written, strict=True))
    return Look(
        step=step,
        loss=-float(log_probs.mean()),
        token_accuracy=float((ranks == 1).float().mean()),
        exact_match=float(np.mean([_exact(probe, own[i]) for i, probe in enumerate(held_out)])),
        precision_at_1=scores.precision_at_1,
        mass=scores.mass,
        chance=float(np.mean([row.chance for row in rows])) if rows else math.nan,
        advantage=card.advantage,
        completeness=float(known.median()) if len(known) else math.nan,
        heads=head_statistics(model, forced[:count], [_token_gold(gold) for gold in golds[:count]]),
        swaps=_swaps(model, swapping, [(forced[at[id(p)]], maps[at[id(p)]]) for p in swapping]),
        maps=tuple(_map(every[i], forced[i], own[i], maps[i]) for i in picked),
    )


def _exact(probe: Probe, found: Generation) -> bool:
    return found.finished and found.target_text == probe.target


def _gold(probe: Probe, forced: Generation) -> tuple[RowGold | None, ...]:
    """What the tokens of the right output need, as the task says."""
    example = probe.example
    if example is None:
        return (None,) * len(forced.target_tokens)
    return tuple(RowGold(row) for row in token_gold(example, forced.source_tokens, forced.target_tokens))


def _token_gold(rows: Sequence[RowGold | None]) -> Any:
    return None if any(row is None for row in rows) else tuple(row.groups for row in rows if row is not None)


def _map(probe: Probe, forced: Generation, own: Generation, found: Attribution) -> ProbeMap:
    return ProbeMap(
        tuple(token.text for token in forced.source_tokens),
        tuple(token.text for token in forced.target_tokens),
        own.target_text,
        found.source.float().cpu(),
        found.prefix.float().cpu(),
        forced.log_probs.float().cpu(),
        tuple(_within(forced.source_tokens, probe.swap.spans)) if probe.swap is not None else (),
    )


def _swaps(
    model: Seq2Seq, probes: Sequence[Probe], explained: Sequence[tuple[Generation, Attribution]]
) -> tuple[SwapRow, ...]:
    """What swapping the cues changes, by cue, in the order in which they first come."""
    if not probes:
        return ()
    changed = model.force(
        [probe.swap.source for probe in probes if probe.swap is not None], [probe.target for probe in probes]
    )
    by_cue: dict[str, list[Mapping[str, float]]] = {}
    for probe, (before, found), after in zip(probes, explained, changed, strict=True):
        assert probe.swap is not None
        by_cue.setdefault(probe.swap.cue, []).append(_swapped(probe, before, after, found))
    return tuple(
        SwapRow(cue, len(found), *(_mean([one[name] for one in found]) for name in _SWAP_NUMBERS))
        for cue, found in by_cue.items()
    )


def _swapped(probe: Probe, before: Generation, after: Generation, found: Attribution) -> dict[str, float]:
    """The figures of `SwapRow` of one probe."""
    assert probe.swap is not None
    steps = _decided(probe, before)
    size = found.source.abs().nan_to_num(0.0)[steps]  # [decided, source]
    cue = _within(before.source_tokens, probe.swap.spans)
    total = float(size.sum())
    share = float(size[:, cue].sum()) / total if cue and total > 0 else math.nan
    sure = (before.top_log_probs[:, 0] > _EVEN) & (after.top_log_probs[:, 0] > _EVEN)
    return {
        "flipped": float(bool(((before.top_ids[:, 0] != after.top_ids[:, 0]) & sure)[steps].any())),
        "share": share,
        "chance": len(cue) / len(before.source_tokens) if cue else math.nan,
        "effect": float((after.log_probs - before.log_probs)[steps].sum()),
        "right": float(bool((before.ranks[steps] == 1).all())),
        "right_swapped": float(bool((after.ranks[steps] == 1).all())),
    }


def _decided(probe: Probe, forced: Generation) -> list[int]:
    """The tokens of the right output that the cue might decide; all that are text where nothing is said."""
    assert probe.swap is not None
    if probe.swap.decides:
        found = _within(forced.target_tokens, probe.swap.decides)
        if found:
            return found
    return [step for step, token in enumerate(forced.target_tokens) if not token.special]


@dataclass(frozen=True, slots=True)
class _Stretch:
    start: int
    end: int


def _within(tokens: Sequence[Token], spans: Sequence[tuple[int, int]]) -> list[int]:
    """The tokens that share a character with one of the stretches."""
    stretches = [_Stretch(*span) for span in spans]
    return [i for i, token in enumerate(tokens) if any(overlap(one, token) for one in stretches)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
