"""How much outputs depend on each attention head: the gradient at a gate on it, and its ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explain.analysis.ablation import mean_ablation
from explain.analysis.heads import Head, attention_blocks, of_head
from explain.analysis.inputs import Progress, require_batch_size, require_same_vocabulary
from explain.attribution.memory import DEFAULT, graph_row_bytes, rows_within
from explain.attribution.objectives import Contrast, Objective, Question, question
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.attention import PointFunction
from explain.model.forward import batches, logits_from_ids, padded, padding_id
from explain.model.hooks import analysed, hooked
from explain.model.seq2seq import as_list
from explain.results import Generation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class HeadWeight:
    """How much the objective depends on one head.

    Attributes:
        head: which head.
        importance: mean over outputs of |change of f|, in units of the objective; 0: nothing changes without
            the head, or by gradient, to first order, when it is turned down.
        signed: the same with its sign; above 0: the head speaks for the outputs.
        relative: importance over the root of the sum of squares of all heads in the block's layer and kind,
            0 to 1 (Michel et al. 2019 prune by this); 0 in a block where no head matters.
    """

    head: Head
    importance: float
    signed: float
    relative: float


@dataclass(frozen=True, slots=True)
class HeadImportance:
    """Importance of every head of a model over some outputs.

    Attributes:
        rows: one per head, in the order of computation.
        by: `gradient` or `ablation`.
        generations: how many outputs.
        objective: what f is, on average over an output's tokens.
        units: what an importance of 1 is worth.
        model_digest: of the model that was looked at.
    """

    rows: tuple[HeadWeight, ...]
    by: str
    generations: int
    objective: str
    units: str
    model_digest: str = ""

    def __getitem__(self, head: Head) -> HeadWeight:
        return of_head(self.rows, head)

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `block`, `side`, `layer`, `kind`, `head`, `importance`, `signed`, `relative`."""
        import pandas as pd

        return pd.DataFrame(
            [
                {**r.head.place, "importance": r.importance, "signed": r.signed, "relative": r.relative}
                for r in self.rows
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadImportance:
        """Read a result back from its JSON object."""
        rows = tuple(HeadWeight(**{**row, "head": Head(**row["head"])}) for row in data["rows"])
        return cls(**{**data, "rows": rows})


def head_importance(
    model: Seq2Seq,
    generations: Generation | Sequence[Generation],
    objective: Objective = "log_prob",
    contrast: Contrast | None = None,
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> HeadImportance:
    """Mean |∂f/∂gate| of every attention head, with one backward pass per batch for all of them.

    A gate of 1 multiplies what a head brings, z; f is the objective on average over an output's tokens. The
    gradient at the gate is the first-order estimate of f with the head less f without it; it is blind to a
    head that others make up for, or whose effect is flat around 1 (ablation is not).

    Michel et al. 2019, arXiv:1905.10650.

    Args:
        model: an opened model.
        generations: one output, or a list.
        objective: a name such as `log_prob`, or a function, as for `attribute`.
        contrast: a foil, as for `attribute`: f is then objective(token) − objective(foil), and 0 at tokens
            that have nothing to contrast; with foils by position only those tokens count.
        batch_size: outputs per backward pass at most; it does not change the result.
        progress: called with (done, all) after every batch.

    Raises:
        UnknownNameError, InputError: an objective or contrast that cannot be used, or no outputs.
    """
    several = _several(model, generations)
    require_batch_size(batch_size)
    questions = [question(model, item, objective, contrast) for item in several]
    model.require_parity()
    longest = (max(len(g.source_tokens) for g in several), max(len(g.target_tokens) for g in several))
    size = rows_within(DEFAULT, graph_row_bytes(model, *longest), batch_size)
    blocks = attention_blocks(model)
    absolute: dict[str, Tensor] = {}
    signed: dict[str, Tensor] = {}
    done = 0
    with model.lock, analysed(model.hf):
        for part in batches(several, size):
            gradients = gate_gradients(
                model, [several[i] for i in part], [questions[i] for i in part], blocks
            )
            for block, gradient in gradients.items():  # [batch, head]
                absolute[block] = absolute.get(block, torch.zeros(())) + gradient.abs().sum(0)
                signed[block] = signed.get(block, torch.zeros(())) + gradient.sum(0)
            done += len(part)
            if progress is not None:
                progress(done, len(several))
        digest = model.digest
    return HeadImportance(
        rows=tuple(row for b in blocks for row in _rows(b, absolute[b], signed[b], len(several))),
        by="gradient",
        generations=len(several),
        objective=questions[0].objective,
        units=questions[0].units,
        model_digest=digest,
    )


def head_ablation(
    model: Seq2Seq,
    generations: Generation | Sequence[Generation],
    objective: Objective = "log_prob",
    *,
    how: str = "zero",
    progress: Progress | None = None,
) -> HeadImportance:
    """Mean |f − f without the head| of every attention head, each silenced by itself; see `mean_ablation`.

    It is exact where `head_importance` is of first order, and costs a row of the decoder for each head and
    output. It, too, is blind to a head that others make up for.

    Args:
        model: an opened model.
        generations: one output, or a list.
        objective: as for `head_importance`; f is its mean over an output's tokens.
        how: what stands in the head's place: `zero`, or `mean` or `resample` of the other outputs.
        progress: called with (done, all) after every output.

    Raises:
        UnknownNameError, InputError: an objective or replacement that cannot be used, or too few outputs.
    """
    several = _several(model, generations)
    found = mean_ablation(model, several, "heads", how, objective=objective, progress=progress)
    lost = found.lost.double()  # [outputs, parts]
    columns: dict[str, list[int]] = {}
    for number, site in enumerate(found.parts):  # heads of a block, in order
        columns.setdefault(site.points[0].removesuffix(".z"), []).append(number)
    return HeadImportance(
        rows=tuple(
            row
            for block in attention_blocks(model)
            for row in _rows(
                block, lost[:, columns[block]].abs().sum(0), lost[:, columns[block]].sum(0), len(several)
            )
        ),
        by="ablation",
        generations=len(several),
        objective=found.objective,
        units=found.units,
        model_digest=found.model_digest,
    )


def rank_correlation(one: HeadImportance, other: HeadImportance) -> float:
    """Spearman's ρ between two importances of the same heads: 1 the same order, 0 none, −1 the reverse.

    nan where one of them is the same for all heads.

    Raises:
        InputError: they are not about the same heads.
    """
    if [row.head for row in one.rows] != [row.head for row in other.rows]:
        raise InputError("the two importances are about different heads; compare two of the same model")
    first, second = ([row.importance for row in item.rows] for item in (one, other))
    if min(len(set(first)), len(set(second))) < 2:
        return math.nan
    from scipy.stats import spearmanr

    found: Any = spearmanr(first, second)
    return float(found.statistic)


def _several(model: Seq2Seq, generations: Generation | Sequence[Generation]) -> list[Generation]:
    several = as_list(generations)
    require_same_vocabulary(model, several)
    if not several:
        raise InputError("head importance needs at least one output")
    return several


def gate_gradients(
    model: Seq2Seq,
    generations: Sequence[Generation],
    questions: Sequence[Question],
    blocks: Sequence[str],
) -> dict[str, Tensor]:
    """∂f/∂gate of every head of every block, float64 [batch, head] by block; to be run inside `analysed`."""
    hf = model.hf
    gates: dict[str, Tensor] = {}

    def gated(block: str) -> PointFunction:
        def call(z: Tensor) -> Tensor:  # [batch, head, query, head_dim]
            gates[block] = torch.ones_like(z[:, :, :1, :1], requires_grad=True)
            return z * gates[block]

        return call

    source, mask = padded([item.source_ids for item in generations], padding_id(hf))
    decoder, _ = padded([item.decoder_input_ids for item in generations], padding_id(hf))
    source, mask, decoder = (tensor.to(model.device) for tensor in (source, mask, decoder))
    functions = {f"{block}.z": gated(block) for block in blocks}
    with torch.enable_grad(), hooked(hf, model.family, functions):
        logits = logits_from_ids(hf, source, mask, decoder)
        # Rows of a batch do not see each other: the gradient of their sum has each row's own.
        total = torch.stack(
            [
                asked(logits[row : row + 1, : len(item.target_tokens)]).mean()
                for row, (item, asked) in enumerate(zip(generations, questions, strict=True))
            ]
        ).sum()
    # An intervention may have cut a block off: its gradient is then 0.
    gradients = torch.autograd.grad(total, [gates[block] for block in blocks], allow_unused=True)
    return {
        block: (torch.zeros_like(gates[block]) if found is None else found)[:, :, 0, 0]
        .detach()
        .cpu()
        .double()
        for block, found in zip(blocks, gradients, strict=True)
    }


def _rows(block: str, absolute: Tensor, signed: Tensor, count: int) -> list[HeadWeight]:
    length = float(absolute.norm())
    return [
        HeadWeight(Head(block, i), a / count, s / count, a / length if length else 0.0)
        for i, (a, s) in enumerate(zip(absolute.tolist(), signed.tolist(), strict=True))
    ]
