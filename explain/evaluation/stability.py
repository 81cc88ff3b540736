"""Do the maps hold still? Under another training seed, and under noise too small to matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explain.errors import InputError
from explain.evaluation.agreement import agreement, defined_rows, same_tokens
from explain.evaluation.estimates import Estimate, estimate
from explain.evaluation.randomisation import ROWS, copied, maps_of, pooled, require_maps
from explain.model import Seq2Seq
from explain.model.families import submodule
from explain.results import Attribution, Generation


@dataclass(frozen=True, slots=True)
class Stability:
    """How alike a method's maps are between models that differ in nothing but the seed of their training.

    Attributes:
        top1: share of target tokens with the same strongest token, 0 to 1.
        topk_jaccard: overlap of the strongest k, 0 to 1.
        weighted_tau: agreement of the order, -1 to 1.
        models: how many other models were compared with.
    """

    top1: Estimate
    topk_jaccard: Estimate
    weighted_tau: Estimate
    models: int

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "top1": self.top1.to_dict(),
            "topk_jaccard": self.topk_jaccard.to_dict(),
            "weighted_tau": self.weighted_tau.to_dict(),
            "models": self.models,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stability:
        """Read the result back from its JSON object."""
        return cls(
            top1=Estimate.from_dict(data["top1"]),
            topk_jaccard=Estimate.from_dict(data["topk_jaccard"]),
            weighted_tau=Estimate.from_dict(data["weighted_tau"]),
            models=data["models"],
        )


def stability(
    model: Seq2Seq,
    generations: Sequence[Generation],
    originals: Mapping[str, Sequence[Attribution]],
    others: Sequence[Seq2Seq],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rows: int | None = ROWS,
    check: Callable[[], None] = lambda: None,
    k: int = 5,
) -> dict[str, Stability]:
    """Agreement of a method's maps between retrained models, on the same forced outputs.

    A map that changes with the seed tells of this very training run, not of the task. `random` with the same
    seed is stable and says nothing, so this is no verdict by itself.

    Args:
        model: the model that wrote the outputs.
        generations: its outputs, which are forced on every other model.
        originals: by method, its maps of these outputs on the model.
        others: the same training with other seeds. Their tokenizers may number tokens otherwise, but must
            cut these texts into the same ones.
        options: by method, what `attribute` was and will be given, the same for every output.
        rows: the most tokens of each output that are explained again; None is all.
        check: called before each map; what it raises ends the work.
        k: how many strongest tokens `topk_jaccard` compares.

    Returns:
        By method, the agreement over all target tokens and models; nan for a method that cannot explain them.

    Raises:
        InputError: a model cuts the texts into other tokens or does not know them, or the maps are not of
            these outputs.
    """
    require_maps(generations, originals, rows)
    forced = [forced_on(model, generations, other) for other in others]
    results = {}
    for method, maps in originals.items():
        given = (options or {}).get(method, {})
        examples: list[int] = []
        found = []
        for other, outputs in zip(others, forced, strict=True):
            there = maps_of(other, outputs, method, given, rows=rows, check=check).maps or ()
            examples += range(len(there))
            found += [agreement(maps[number], map_, k) for number, map_ in enumerate(there)]
        results[method] = Stability(
            top1=pooled([each.top1 for each in found], examples),
            topk_jaccard=pooled([each.topk_jaccard for each in found], examples),
            weighted_tau=pooled([each.weighted_tau for each in found], examples),
            models=len(others),
        )
    return results


def sensitivity(
    model: Seq2Seq,
    generations: Sequence[Generation],
    originals: Mapping[str, Sequence[Attribution]],
    *,
    radius: float = 0.02,
    samples: int = 3,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rows: int | None = ROWS,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Estimate]:
    """The largest relative change of a row of the map when the input embeddings move a little.

    ‖φ(x + δ) - φ(x)‖ / ‖φ(x)‖ over source and prefix of a target token, the largest of several δ; then the
    mean over target tokens. 0 does not move; 1 moves by as much as it says. Never a verdict by itself: a map
    that is always the same wins.

    δ is uniform within ± `radius` standard deviations of the embedding table, and is added on a copy of the
    model to the rows of the tokens at hand, so a token that occurs twice moves alike. The output projection
    stays as it is even where it is tied to the embeddings, and so do the decoder start and tokens that stand
    for absence (padding, mask). The model itself is never touched.

    Args:
        model: the model whose maps are in question.
        generations: its outputs.
        originals: by method, its maps of these outputs on the model.
        radius: largest move of an embedding's entry, in standard deviations of the table.
        samples: how many δ are tried; the cost is that many times the maps'.
        options: by method, what `attribute` was and will be given, the same for every output.
        rows: the most tokens of each output that are explained again; None is all.
        seed: of the noise.
        check: called before each map; what it raises ends the work.

    Returns:
        By method, the mean over target tokens; nan where the map is 0 everywhere or the method failed.

    Raises:
        InputError: the maps are not of these outputs, or a number makes no sense.

    Paper: Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations".
    """
    if not radius > 0 or samples < 1:
        raise InputError(f"radius is {radius} and samples is {samples}; both must be above 0")
    require_maps(generations, originals, rows)
    moved = copied(model)
    tables = _tables(moved, generations)
    clean = [table.detach().clone() for table, _ in tables]
    dice = torch.Generator().manual_seed(seed)
    changes: dict[str, list[list[Tensor]]] = {method: [] for method in originals}
    for _ in range(samples):
        with torch.no_grad():
            for (table, ids), before in zip(tables, clean, strict=True):
                noise = 2 * torch.rand(len(ids), table.shape[1], generator=dice) - 1
                table[ids] = before[ids] + radius * before.std() * noise.to(before)
        for method, maps in originals.items():
            given = (options or {}).get(method, {})
            found = maps_of(moved, generations, method, given, rows=rows, check=check).maps
            if found is not None:
                changes[method].append([_change(*pair) for pair in zip(maps, found, strict=True)])
    examples = range(len(generations))
    return {
        method: pooled([torch.stack(each).amax(0) for each in zip(*tried, strict=True)], examples)
        if len(tried) == samples
        else estimate([])
        for method, tried in changes.items()
    }


def forced_on(model: Seq2Seq, generations: Sequence[Generation], other: Seq2Seq) -> list[Generation]:
    """The same outputs in the ids of another model; with the same vocabulary they are returned as they are.

    Raises:
        InputError: its tokenizer cuts the texts into other tokens, or does not know a word.
    """
    if other.tokenizer.get_vocab() == model.tokenizer.get_vocab():
        return list(generations)
    # A tokenizer trained anew on another draw of the same texts numbers the same tokens otherwise.
    sources, targets = [g.source_text for g in generations], [g.target_text for g in generations]
    forced = other.force(sources, targets)
    for mine, theirs in zip(generations, forced, strict=True):
        if not (
            same_tokens(mine.source_tokens, theirs.source_tokens)
            and same_tokens(mine.target_tokens, theirs.target_tokens)
        ):
            raise InputError(
                f"the vocabularies of {model.name} and {other.name} differ, and {mine.source_text[:40]!r} or "
                "its output is cut into other tokens by each; only maps of the same tokens can be compared"
            )
    return forced


def _tables(model: Seq2Seq, generations: Sequence[Generation]) -> list[tuple[Tensor, Tensor]]:
    """The embedding tables of a model that may be changed, with the ids [n] that the outputs use.

    A projection that is tied to one of them gets a table of its own.
    """
    used: dict[int, tuple[Tensor, set[int]]] = {}
    for side, name in ((model.family.encoder, "source_ids"), (model.family.decoder, "target_ids")):
        table: Any = submodule(model.hf, f"{side.stack}.embed_tokens").weight
        _, ids = used.setdefault(id(table), (table, set()))
        ids.update(number for generation in generations for number in getattr(generation, name).tolist())
    head: Any = model.hf.lm_head
    if id(head.weight) in used:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    return [(table, torch.tensor(sorted(ids), device=table.device)) for table, ids in used.values()]


def _change(before: Attribution, after: Attribution) -> Tensor:
    """How far each row moved, relative to its length, [target]; nan for rows that say nothing."""
    mine, theirs = (torch.cat([a.source, a.prefix], dim=1).double() for a in (before, after))
    change = (theirs - mine).norm(dim=1) / mine.norm(dim=1)
    defined = defined_rows(before) & defined_rows(after) & (mine != 0).any(1)
    return torch.where(defined, change, torch.nan).float()
