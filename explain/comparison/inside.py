"""Two models from the inside: how their attention diverges, and how alike their representations are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from explain.analysis.heads import attention_blocks
from explain.analysis.similarity import cka
from explain.comparison.figures import AttentionChange, BlockDivergence, HeadPair, LayerSimilarity
from explain.comparison.samples import Sample
from explain.evaluation import Estimate
from explain.model import Seq2Seq
from explain.results import Capture

# The delete-a-group jackknife of a CKA leaves out this many groups of examples, one after the other.
GROUPS = 10
_FEWEST_ROWS = 4


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen–Shannon divergence of distributions over the last dimension, in bits: 0 the same, 1 disjoint.

    H((p + q) / 2) − (H(p) + H(q)) / 2, with p and q float [..., key], broadcast.

    Paper: Lin 1991, "Divergence measures based on the Shannon entropy".
    """
    p, q = p.double(), q.double()
    middle = (p + q) / 2
    found = _entropy(middle) - (_entropy(p) + _entropy(q)) / 2
    return found.clamp(0, 1)


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)


def matched_layers(count_a: int, count_b: int) -> list[int]:
    """For each layer of A the layer of B that ends at the same relative depth; last goes with last."""
    return [math.ceil((layer + 1) * count_b / count_a) - 1 for layer in range(count_a)]


def matched(names_a: Sequence[str], names_b: Sequence[str]) -> list[tuple[str, str]]:
    """Names such as `decoder.1.cross` of A, each with B's of the same kind at the same relative depth."""
    found: list[tuple[str, str]] = []
    for name in names_a:
        side, _, kind = name.split(".", 2)
        mine, theirs = (
            [other for other in names if other.split(".")[0] == side and other.split(".", 2)[2] == kind]
            for names in (names_a, names_b)
        )
        if theirs:
            found.append((name, theirs[matched_layers(len(mine), len(theirs))[mine.index(name)]]))
    return found


def blocks_of(a: Seq2Seq, b: Seq2Seq) -> list[tuple[str, str]]:
    """The attention blocks of two models, matched by relative depth."""
    return matched(attention_blocks(a), attention_blocks(b))


def layers_of(a: Seq2Seq, b: Seq2Seq) -> list[tuple[str, str]]:
    """The residual streams after the layers of two models, matched by relative depth."""
    names = [[n for n in model.hook_points() if n.endswith(".residual")] for model in (a, b)]
    return matched(*names)


# ---- attention -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BlockRows:
    """One attention block of A and its partner of B in one output.

    Attributes:
        together: divergence of the patterns averaged over heads, mean over queries, in bits.
        heads: float [head of A, head of B], of every two heads, mean over queries.
    """

    together: float
    heads: Tensor


AttentionRows = Mapping[tuple[str, str], list[BlockRows]]
"""By pair of blocks, what was found in each output, in order."""


def block_rows(a: Tensor, b: Tensor, block: str) -> BlockRows:
    """Compare patterns [1, head of A, query, key] and [1, head of B, query, key] of the same tokens.

    The first query of the decoder's self-attention is left out: it sees one key alone.
    """
    skip = int(block.startswith("decoder") and block.endswith("self"))
    p, q = a[0, :, skip:].double(), b[0, :, skip:].double()
    if not p.shape[1]:
        return BlockRows(math.nan, torch.full((len(p), len(q)), math.nan, dtype=torch.float64))
    together = divergence(p.mean(0), q.mean(0)).mean()
    return BlockRows(float(together), divergence(p[:, None], q[None]).mean(-1))


def attention_change(pairs: Sequence[AttentionRows], seed: int = 0) -> AttentionChange:
    """The figures of one pair of models, or of several pooled, which must have the same layers.

    Heads of two trainings have no common numbering: each head of A is compared with its partner, one to one,
    so that the sum of divergences is least (Kuhn 1955, the assignment problem). Where a model has fewer heads
    some are left without a partner and take no part.
    """
    partners = [{block: _partners(rows) for block, rows in pair.items()} for pair in pairs]
    blocks = list(dict.fromkeys(block for pair in pairs for block in pair))
    found = []
    for block in blocks:
        own = [
            (pair[block], heads[block]) for pair, heads in zip(pairs, partners, strict=True) if block in pair
        ]
        together = Sample.joined(Sample.each(row.together for row in rows) for rows, _ in own)
        heads = ()
        if len(pairs) == 1:
            ((rows, chosen),) = own
            heads = tuple(
                HeadPair(i, j, Sample.each(float(row.heads[i, j]) for row in rows).estimate(seed))
                for i, j in chosen
            )
        found.append(BlockDivergence(*block, together.estimate(seed), heads))
    return AttentionChange(
        divergence=_over_blocks(pairs, lambda row, _: row.together, partners).estimate(seed),
        per_head=_over_blocks(pairs, _mean_of_partners, partners).estimate(seed),
        blocks=tuple(found),
    )


Partners = list[tuple[int, int]]


def _partners(rows: Sequence[BlockRows]) -> Partners:
    """A's heads and B's, one to one, least divergence in all; those without a partner are left out."""
    cost = torch.stack([row.heads for row in rows]).nanmean(0).nan_to_num(0.0).numpy()
    # Of two equal assignments the one that keeps the numbers.
    cost = cost + 1e-9 * np.abs(np.subtract.outer(np.arange(cost.shape[0]), np.arange(cost.shape[1])))
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def _mean_of_partners(row: BlockRows, partners: Partners) -> float:
    return float(torch.stack([row.heads[i, j] for i, j in partners]).mean())


def _over_blocks(
    pairs: Sequence[AttentionRows],
    value: Callable[[BlockRows, Partners], float],
    partners: Sequence[Mapping[tuple[str, str], Partners]],
) -> Sample:
    """One number for each output and pair of models: the mean over blocks."""
    samples = []
    for pair, heads in zip(pairs, partners, strict=True):
        table = torch.tensor(
            [[value(row, heads[block]) for row in rows] for block, rows in pair.items()], dtype=torch.float64
        )
        samples.append(Sample.each(table.nanmean(0).tolist() if len(table) else []))
    return Sample.joined(samples)


# ---- representations -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LayerRows:
    """CKA of two matched layers: over all outputs, and with each group of outputs left out [groups]."""

    value: float
    without: tuple[float, ...]
    outputs: int


def layer_rows(a: Sequence[Tensor], b: Sequence[Tensor]) -> LayerRows:
    """Compare residual streams, float [position, width] by output, of the same tokens in two models."""
    groups = [range(g, len(a), GROUPS) for g in range(min(GROUPS, len(a)))]

    def over(outputs: Sequence[int]) -> float:
        rows = [torch.cat([side[i] for i in outputs]) if outputs else torch.zeros(0) for side in (a, b)]
        return cka(*rows) if len(rows[0]) >= _FEWEST_ROWS else math.nan

    without = [over([i for i in range(len(a)) if i not in group]) for group in groups]
    return LayerRows(over(range(len(a))), tuple(without), len(a))


def layer_similarity(
    layers: Sequence[tuple[str, str]], pairs: Sequence[Mapping[tuple[str, str], LayerRows]]
) -> tuple[LayerSimilarity, ...]:
    """The figures of one pair of models, or the mean over several, with jackknife intervals over outputs.

    A bootstrap would draw an output twice, and two equal rows are alike whatever the models are; leaving out
    one group of outputs after the other (Tukey 1958) does not.
    """
    return tuple(
        LayerSimilarity(*layer, _jackknifed([pair[layer] for pair in pairs if layer in pair]))
        for layer in layers
    )


def _jackknifed(rows: Sequence[LayerRows]) -> Estimate:
    value = float(np.mean([row.value for row in rows])) if rows else math.nan
    without = np.mean([row.without for row in rows], axis=0) if rows else np.zeros(0)
    outputs = sum(row.outputs for row in rows)
    groups = len(without)
    if math.isnan(value) or groups < 2 or np.isnan(without).any():
        return Estimate(value, math.nan, math.nan, outputs)
    error = math.sqrt((groups - 1) / groups * float(((without - without.mean()) ** 2).sum()))
    return Estimate(value, value - 1.96 * error, value + 1.96 * error, outputs)


def rows_of_layers(
    layers: Sequence[tuple[str, str]], a: Mapping[str, list[Tensor]], b: Mapping[str, list[Tensor]]
) -> dict[tuple[str, str], LayerRows]:
    """Every two matched layers, from residual streams by name and output."""
    return {(x, y): layer_rows(a[x], b[y]) for x, y in layers}


def states_of(captures: Sequence[Capture], names: Sequence[str]) -> dict[str, list[Tensor]]:
    """Residual streams [position, width] by name, one for each output."""
    return {name: [capture[name][0] for capture in captures] for name in names}
