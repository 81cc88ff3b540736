"""Do the maps come from what the model learnt? Its weights are shuffled, output first, and they must go.

The target token right before the explained one is left out of every figure here. The decoder reads it at the
very position that predicts, so the residual stream carries it to the output in any network of this
architecture, trained or not: it is the strongest influence on half of all tokens before and after shuffling,
and a method that is right about both must not be blamed for saying so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.attribution import Cancelled
from explain.errors import ExplainError, InputError, UnknownNameError
from explain.evaluation.agreement import defined_rows, membership, side_chance, top1, topk_jaccard
from explain.evaluation.estimates import Estimate, estimate
from explain.model import Seq2Seq
from explain.model.families import layers
from explain.model.int8 import restored
from explain.results import Attribution, Generation

MARGIN = 0.1
"""So much more top-1 agreement than chance still passes.

Random networks of one architecture share some structure, such as a leaning to what is near. Methods without
fault had up to .05 over all tokens of six outputs of the demonstration models, and up to .09 over twelve of
each, where one draw of the shuffling weighs more. A method that does not look at the weights has about .9.
"""

ROWS = 12
"""So many tokens of each output are explained again unless told otherwise, evenly spread."""

# The token before: see above.
_SKIP = 1
# On shuffled weights a path's integral converges thirty times as slowly, and nobody reads the digits.
_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class StageScores:
    """Agreement of the maps with the original ones, with all weights down to this stage shuffled.

    Attributes:
        name: the stage that was shuffled last; see `stage_names`.
        top1: share of target tokens with the same strongest token, 0 to 1.
        topk_jaccard: overlap of the strongest k, 0 to 1.
    """

    name: str
    top1: Estimate
    topk_jaccard: Estimate

    def to_dict(self) -> dict[str, Any]:
        """The scores as a JSON object."""
        return {"name": self.name, "top1": self.top1.to_dict(), "topk_jaccard": self.topk_jaccard.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageScores:
        """Read the scores back from their JSON object."""
        return cls(data["name"], Estimate.from_dict(data["top1"]), Estimate.from_dict(data["topk_jaccard"]))


@dataclass(frozen=True, slots=True)
class Randomisation:
    """How a method's maps change while the model's weights are shuffled, stage by stage.

    Attributes:
        stages: agreement with the original maps after each stage that was measured.
        chance_top1: top-1 agreement, at the last stage measured, of maps that share nothing but the side they
            point to, source or prefix; see `side_chance`.
        excess: top-1 agreement with everything shuffled, minus chance, paired token by token; 0 is what the
            method should reach, about 1 is a map that does not look at the weights at all.
        passed: the maps are gone: `excess` is below `MARGIN`, or its interval reaches down to 0. False where
            the whole interval is above `MARGIN`; None where that cannot be told.
        reason: the verdict in one sentence.
    """

    stages: tuple[StageScores, ...]
    chance_top1: Estimate
    excess: Estimate
    passed: bool | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "stages": [stage.to_dict() for stage in self.stages],
            "chance_top1": self.chance_top1.to_dict(),
            "excess": self.excess.to_dict(),
            "passed": self.passed,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Randomisation:
        """Read the result back from its JSON object."""
        return cls(
            stages=tuple(StageScores.from_dict(stage) for stage in data["stages"]),
            chance_top1=Estimate.from_dict(data["chance_top1"]),
            excess=Estimate.from_dict(data["excess"]),
            passed=data["passed"],
            reason=data["reason"],
        )


def stage_names(model: Seq2Seq) -> list[str]:
    """The stages of the cascade in its order, such as `decoder.1`; the last one leaves nothing as learnt."""
    return list(stage_weights(model))


def stage_weights(model: Seq2Seq) -> dict[str, list[str]]:
    """The names of the weights that each stage shuffles; every weight is in one stage, tied ones count once.

    The stages are `lm_head` where it is not tied to the embeddings, the decoder's layers from the last to the
    first, the encoder's likewise, and `embeddings` with whatever remains. A final norm belongs to the last
    layer of its stack.
    """
    hf, family = model.hf, model.family
    stages: dict[str, list[str]] = {"lm_head": []}
    prefixes = {"lm_head.": "lm_head", "final_logits_bias": "lm_head"}
    for side_name, side in (("decoder", family.decoder), ("encoder", family.encoder)):
        last = len(layers(hf, side)) - 1
        for layer in range(last, -1, -1):
            stages[f"{side_name}.{layer}"] = []
            prefixes[f"{side.stack}.{side.layers}.{layer}."] = f"{side_name}.{layer}"
        if side.final_norm is not None:
            prefixes[f"{side.stack}.{side.final_norm}."] = f"{side_name}.{last}"
    stages["embeddings"] = []
    for name, aliases in _weights(model).items():
        places = {
            next((prefixes[p] for p in prefixes if alias.startswith(p)), "embeddings") for alias in aliases
        }
        # A head that is tied to the embeddings goes with them, at the very end.
        stages[places.pop() if len(places) == 1 else "embeddings"].append(name)
    if "lm_head.weight" not in stages["lm_head"]:
        stages["embeddings"] += stages.pop("lm_head")
    return stages


def randomisation(
    model: Seq2Seq,
    generations: Sequence[Generation],
    originals: Mapping[str, Sequence[Attribution]],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Sequence[str] | None = None,
    rows: int | None = ROWS,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
    k: int = 5,
) -> dict[str, Randomisation]:
    """Cascading parameter randomisation: maps must change with the weights that they claim to explain.

    On a copy of the model, stage by stage from the output down, the entries of every weight tensor are
    shuffled, which keeps their distribution; a tensor whose entries are all equal (a norm that was never
    trained) stays as it is. At each stage the same outputs are explained again and compared with the
    original maps. The model itself is never touched.

    A method that cannot explain the shuffled model scores nan there. One that does not look at the model
    (`random` with the same seed) agrees perfectly and does not pass.

    Args:
        model: the model whose maps are in question.
        generations: its outputs; their ids are forced on the shuffled model.
        originals: by method, its maps of these outputs on the model.
        options: by method, what `attribute` was and will be given, the same for every output. `tolerance` is
            0.1 here unless it is among them.
        stages: the stages to measure, all by default. Explaining is what costs, not shuffling; the last one
            alone decides the verdict.
        rows: the most tokens of each output that are explained again; None is all.
        seed: of the shuffling.
        check: called before each map; what it raises ends the work.
        k: how many strongest tokens `topk_jaccard` compares.

    Raises:
        UnknownNameError: there is no such stage, method or option.
        InputError: the maps are not of these outputs, or the model is being intervened on.

    Paper: Adebayo et al. 2018, "Sanity checks for saliency maps".
    """
    require_maps(generations, originals, rows)
    shuffled = copied(model)
    by_stage = stage_weights(shuffled)
    chosen = list(by_stage) if stages is None else list(stages)
    for name in chosen:
        if name not in by_stage:
            raise UnknownNameError("stage", name, by_stage)
    results: dict[str, list[tuple[str, Maps]]] = {method: [] for method in originals}
    for name in cascade(shuffled, by_stage, seed):
        if name in chosen:
            for method in originals:
                given = {"tolerance": _TOLERANCE, **(options or {}).get(method, {})}
                found = maps_of(shuffled, generations, method, given, rows=rows, check=check)
                results[method].append((name, found))
    complete = list(by_stage)[-1] in chosen
    return {
        method: _result(originals[method], found, complete=complete, k=k) for method, found in results.items()
    }


@dataclass(frozen=True, slots=True)
class Maps:
    """The maps of one method, or why there are none."""

    maps: Sequence[Attribution] | None
    problem: str = ""


def maps_of(
    model: Seq2Seq,
    generations: Sequence[Generation],
    method: str,
    options: Mapping[str, Any],
    *,
    rows: int | None,
    check: Callable[[], None],
) -> Maps:
    """Explain outputs on another model than the one that wrote them, where that is possible.

    Args:
        model: that other model.
        generations: the outputs.
        method: a name in `methods()`.
        options: what `attribute` is given; with `positions` among them, `rows` counts for nothing.
        rows: the most tokens of each output that are explained; None is all.
        check: called before each map; what it raises ends the work.

    Raises:
        InputError: no such method or option, or a value that the method cannot take: the caller's mistake,
            which must not pass for a result.
        Cancelled: the caller asked to stop.
    """
    maps = []
    for generation in generations:
        check()
        given = {"positions": _spread(generation, rows), **options}
        try:
            maps.append(model.attribute(generation, method=method, **given))
        except (InputError, Cancelled):
            raise
        except ExplainError as error:
            return Maps(None, str(error))
    return Maps(maps)


def _spread(generation: Generation, rows: int | None) -> list[int] | None:
    """At most so many of the output's tokens, evenly spread; None is all of them."""
    plain = [place for place, token in enumerate(generation.target_tokens) if not token.special]
    if rows is None or len(plain) <= rows:
        return None
    return [plain[number * len(plain) // rows] for number in range(rows)]


def copied(model: Seq2Seq) -> Seq2Seq:
    """The same model in memory of its own, weights in floating point, past the parity gate already.

    Raises:
        InputError: the model is being intervened on; a copy would keep some of that for good.
        ParityError: the model's logits depend on how they are asked for.
    """
    if model.intervened:
        raise InputError("take the interventions off first: this check needs a copy of the model as it is")
    model.require_parity()
    with model.lock:
        # Weights in int8 become ordinary ones, which can be shuffled and moved a little.
        twin = Seq2Seq(restored(copy.deepcopy(model.hf)), model.tokenizer, model.family, model.name)
    # Once proven it is not asked again: shuffled weights may blow rounding up past the gate's tolerance.
    twin.require_parity()
    return twin


def require_maps(
    generations: Sequence[Generation], originals: Mapping[str, Sequence[Attribution]], rows: int | None
) -> None:
    """Refuse maps that are not one for each output, and numbers that make no sense.

    Raises:
        InputError: another number of maps than of outputs, or no tokens to explain.
    """
    if rows is not None and rows < 1:
        raise InputError(f"rows is {rows}; it must be at least 1, or None for all tokens")
    for method, maps in originals.items():
        if len(maps) != len(generations):
            raise InputError(
                f"{len(maps)} maps of {method} for {len(generations)} outputs; give one for each"
            )


def pooled(rows: Sequence[Tensor], examples: Sequence[int]) -> Estimate:
    """The mean over all rows [target] of several maps; `examples` tells which example each map is of."""
    values = [value for row in rows for value in row.tolist()]
    return estimate(values, [example for example, row in zip(examples, rows, strict=True) for _ in row])


def _result(
    originals: Sequence[Attribution], found: Sequence[tuple[str, Maps]], *, complete: bool, k: int
) -> Randomisation:
    stages, by_chance, excess = [], estimate([]), estimate([])
    for name, result in found:
        pairs = [] if result.maps is None else list(zip(originals, result.maps, strict=True))
        examples = range(len(pairs))
        same = [top1(*pair, skip=_SKIP) for pair in pairs]
        overlap = [topk_jaccard(*pair, k, skip=_SKIP) for pair in pairs]
        random = [side_chance(*pair, skip=_SKIP) for pair in pairs]
        stages.append(StageScores(name, pooled(same, examples), pooled(overlap, examples)))
        by_chance = pooled(random, examples)
        excess = pooled([row - other for row, other in zip(same, random, strict=True)], examples)
    if not complete:
        excess = estimate([])
        verdict = None, "The weights were not shuffled to the end, so this check is open."
    elif found[-1][1].maps is None:
        verdict = None, f"The model with shuffled weights cannot be explained: {found[-1][1].problem}."
    elif not _mostly_one_winner(originals):
        verdict = None, "Most of its maps name no single strongest token, which this check needs."
    else:
        verdict = _verdict(stages[-1].top1, by_chance, excess)
    return Randomisation(tuple(stages), by_chance, excess, *verdict)


def _mostly_one_winner(originals: Sequence[Attribution]) -> bool:
    """Whether most rows name one strongest token: of maps of words or sentences, chance is not known."""
    defined = torch.cat([defined_rows(original, 1, skip=_SKIP) for original in originals])
    alone = torch.cat([(membership(original, 1, skip=_SKIP) == 1).any(1) for original in originals])
    return bool((alone & defined).sum() * 2 > defined.sum())


def _verdict(same: Estimate, by_chance: Estimate, excess: Estimate) -> tuple[bool | None, str]:
    if math.isnan(excess.value):
        return None, "Its maps of the model with shuffled weights have no strongest token to compare."
    figures = f"top-1 agreement {same.value:.0%} with all weights shuffled, chance {by_chance.value:.0%}"
    if excess.value < MARGIN or excess.low <= 0:
        return True, f"Its maps go with the weights: {figures}."
    if excess.low > MARGIN:
        return False, f"Its maps stay when the weights go: {figures}."
    return None, f"Too few tokens to tell whether its maps go with the weights: {figures}."


def cascade(model: Seq2Seq, stages: Mapping[str, Sequence[str]], seed: int) -> Iterator[str]:
    """Shuffle stage after stage of this very model, and name each when it is done."""
    weights = dict(_tensors(model))
    dice = torch.Generator().manual_seed(seed)
    for stage, names in stages.items():
        with torch.no_grad():
            for name in names:
                flat = weights[name].flatten()
                order = torch.randperm(len(flat), generator=dice).to(flat.device)
                weights[name].copy_(flat[order].view_as(weights[name]))
        yield stage


def _weights(model: Seq2Seq) -> dict[str, list[str]]:
    """All names of each weight tensor, by its first."""
    names: dict[int, list[str]] = {}
    for name, tensor in _tensors(model):
        names.setdefault(id(tensor), []).append(name)
    return {aliases[0]: aliases for aliases in names.values()}


def _tensors(model: Seq2Seq) -> Iterator[tuple[str, Tensor]]:
    """Everything that training sets, under each of its names."""
    yield from model.hf.named_parameters(remove_duplicate=False)
    # Of the buffers only this one is learnt (by Marian's own training); the others are computed.
    yield from ((name, tensor) for name, tensor in model.hf.named_buffers() if name == "final_logits_bias")
