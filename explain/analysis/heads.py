"""What attention heads look at: figures of every head over many outputs, and the roles that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from explain.analysis.inputs import Progress, require_batch_size, require_same_vocabulary
from explain.attribution.memory import DEFAULT, forward_row_bytes, rows_within
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.attention import PointFunction
from explain.model.forward import batches, logits_from_ids, padded, padding_id
from explain.model.hooks import analysed, hooked
from explain.model.seq2seq import as_list
from explain.results import Generation, Token
from explain.training.tasks import TokenGold

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("self", "cross")


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """One attention head, by the block that it is in (`decoder.1.cross`) and its index there, from 0."""

    block: str
    index: int

    @property
    def side(self) -> str:
        """`encoder` or `decoder`."""
        return self.block.split(".")[0]

    @property
    def layer(self) -> int:
        """Its layer, counted from 0."""
        return int(self.block.split(".")[1])

    @property
    def kind(self) -> str:
        """`self` or `cross`."""
        return self.block.split(".")[2]

    @property
    def name(self) -> str:
        """The head in words: `decoder.1.cross head 0`."""
        return f"{self.block} head {self.index}"

    @property
    def place(self) -> dict[str, Any]:
        """The columns that say which head a row of a table is about."""
        return {
            "block": self.block,
            "side": self.side,
            "layer": self.layer,
            "kind": self.kind,
            "head": self.index,
        }


class _OfHead(Protocol):
    @property
    def head(self) -> Head: ...


Row = TypeVar("Row", bound=_OfHead)


def of_head(rows: Sequence[Row], head: Head) -> Row:
    """The row that is about a head.

    Raises:
        UnknownNameError: there is none.
    """
    for row in rows:
        if row.head == head:
            return row
    raise UnknownNameError("head", head.name, [row.head.name for row in rows])


def attention_blocks(model: Seq2Seq) -> list[str]:
    """The attention blocks of a model in the order of computation: `encoder.0.self`, …, `decoder.1.cross`."""
    return [n.removesuffix(".pattern") for n in model.hook_points() if n.endswith(".pattern")]


# ---- figures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeadRow:
    """What one head looks at, on average over query tokens; nan where a figure has no meaning for the head.

    A query is an encoder position, or the decoder position that writes an output token; the decoder's keys
    are the decoder start and the output so far. Every token weighs the same, special ones included.

    Attributes:
        head: which head.
        tokens: queries that were looked at.
        entropy: nats, of the attention distribution; 0: all on one token (Clark et al. 2019).
        relative_entropy: entropy over that of looking everywhere alike, 0 to 1; queries that see one key
            alone are left out.
        distance: self-attention: mean |query − key| in tokens; cross-attention: mean distance of the relative
            places in output and source, (i + ½) / length, 0 to 1. 0: always at one's own place.
        diagonal: attention on the query's own position (in the decoder that holds the token written last);
            in cross-attention on the source token at the same relative place.
        previous: self-attention: attention on the position before, of queries that have one.
        next: the encoder's self-attention: attention on the position after.
        copy: cross-attention: attention on source tokens with the same text as the output token being
            written, over output tokens that have one.
        copy_top: share of those output tokens whose strongest source token has the same text.
        special: attention on special tokens: EOS, language codes, the decoder start (a sink, Clark et al.
            2019).
        max_weight: the highest weight.
        confidence: the highest weight on a token that is not special (Voita et al. 2019).
        alignment: cross-attention: share of output tokens whose strongest source token is in the gold, over
            output tokens whose gold names the source; of equal weights each counts in part.
    """

    head: Head
    tokens: int
    entropy: float
    relative_entropy: float
    distance: float
    diagonal: float
    previous: float
    next: float
    copy: float
    copy_top: float
    special: float
    max_weight: float
    confidence: float
    alignment: float

    def to_dict(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadRow:
        """Read a row back from its JSON object; null stands for nan."""
        figures = {name: math.nan if data[name] is None else float(data[name]) for name in FIGURES}
        return cls(Head(**data["head"]), int(data["tokens"]), **figures)


FIGURES = tuple(f.name for f in fields(HeadRow) if f.name not in ("head", "tokens"))
"""The names of the figures."""


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """Figures of every head of a model over some outputs.

    Attributes:
        rows: one per head, in the order of computation.
        generations: how many outputs.
        copied: output tokens that have a source token of the same text.
        copy_chance: share of the source that has it, on average over them: what `copy` and `copy_top` of a
            head that looks anywhere come to; nan where there is none.
        aligned: output tokens whose gold names source tokens; 0 without gold.
        alignment_chance: share of the source in the gold, on average over them: the same for `alignment`.
        model_digest: of the model that was looked at.
    """

    rows: tuple[HeadRow, ...]
    generations: int
    copied: int
    copy_chance: float
    aligned: int
    alignment_chance: float
    model_digest: str = ""

    def __getitem__(self, head: Head) -> HeadRow:
        return of_head(self.rows, head)

    def to_frame(self) -> pd.DataFrame:
        """One row per head; columns `block`, `side`, `layer`, `kind`, `head`, `tokens` and the figures."""
        import pandas as pd

        records = [{**row.head.place, **row.to_dict(), "head": row.head.index} for row in self.rows]
        return pd.DataFrame(records)

    def to_dict(self) -> dict[str, Any]:
        """The statistics as a JSON object."""
        return {**_flat(self), "rows": [row.to_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadStatistics:
        """Read statistics back from their JSON object; null stands for nan."""
        chances = ("copy_chance", "alignment_chance")
        return cls(
            **{
                **data,
                **{name: math.nan if data[name] is None else data[name] for name in chances},
                "rows": tuple(HeadRow.from_dict(row) for row in data["rows"]),
            }
        )


def _flat(result: Any) -> dict[str, Any]:
    return {f.name: getattr(result, f.name) for f in fields(result)}


@torch.no_grad()
def head_statistics(
    model: Seq2Seq,
    generations: Generation | Sequence[Generation],
    gold: Sequence[TokenGold | None] | None = None,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> HeadStatistics:
    """Figures of every attention head over outputs, as one teacher-forced pass per batch sees them.

    Patterns are summed up where they arise and not kept: memory does not grow with the number of outputs.

    Args:
        model: an opened model.
        generations: one output, or a list.
        gold: for each output what its tokens depend on (`explain.training.tasks.token_gold`), or None where
            that is not known; without any, `alignment` is nan.
        batch_size: outputs per pass at most; it does not change the result.
        progress: called with (done, all) after every batch.

    Raises:
        InputError: no outputs, outputs of another vocabulary, or gold that does not go with them.
    """
    several = as_list(generations)
    require_batch_size(batch_size)
    require_same_vocabulary(model, several)
    if not several:
        raise InputError("head statistics need at least one output")
    known: list[TokenGold | None] = [None] * len(several) if gold is None else list(gold)
    _require_gold(several, known)
    model.require_parity()
    sums = _Sums({block: {} for block in attention_blocks(model)})
    longest = (max(len(g.source_tokens) for g in several), max(len(g.target_tokens) for g in several))
    size = rows_within(DEFAULT // 4, forward_row_bytes(model, *longest), batch_size)
    done = 0
    with model.lock, analysed(model.hf):
        for part in batches(several, size):
            chosen = [several[i] for i in part]
            _add(model, chosen, [known[i] for i in part], sums)
            done += len(part)
            if progress is not None:
                progress(done, len(several))
        digest = model.digest
    return HeadStatistics(
        rows=tuple(row for block in sums.blocks for row in sums.rows(block)),
        generations=len(several),
        copied=int(sums.counts.get("copy_top", 0)),
        copy_chance=sums.chance("copy_top"),
        aligned=int(sums.counts.get("alignment", 0)),
        alignment_chance=sums.chance("alignment"),
        model_digest=digest,
    )


def _require_gold(generations: Sequence[Generation], gold: Sequence[TokenGold | None]) -> None:
    if len(gold) != len(generations):
        raise InputError(f"gold of {len(gold)} outputs for {len(generations)}; give one for each, or None")
    for number, (generation, known) in enumerate(zip(generations, gold, strict=True), start=1):
        if known is None:
            continue
        count, source = len(generation.target_tokens), len(generation.source_tokens)
        places = [i for groups in known for group in groups for side, i in group if side == "source"]
        if len(known) != count or not all(0 <= i < source for i in places):
            raise InputError(
                f"the gold of output {number} is about {len(known)} output tokens and source tokens up to "
                f"{max(places, default=0)}, but the texts have {count} and {source}; was it made for them?"
            )


@dataclass
class _Sums:
    """What is summed up over queries while outputs stream by.

    Attributes:
        blocks: by block and figure the sum [head] and how many queries are in it.
        counts: by figure of links (`copy_top`, `alignment`) the queries that have one.
        chances: likewise the sum over those of the share of keys that are right.
    """

    blocks: dict[str, dict[str, tuple[Tensor, float]]]
    counts: dict[str, float] = field(default_factory=dict)
    chances: dict[str, float] = field(default_factory=dict)

    def add(self, block: str, figure: str, total: Tensor, count: float) -> None:
        before, number = self.blocks[block].get(figure, (torch.zeros(()), 0.0))
        self.blocks[block][figure] = (before + total.cpu(), number + count)

    def chance(self, figure: str) -> float:
        count = self.counts.get(figure, 0)
        return self.chances[figure] / count if count else math.nan

    def rows(self, block: str) -> list[HeadRow]:
        found = self.blocks[block]
        heads = len(found["entropy"][0])
        return [
            HeadRow(
                Head(block, head),
                int(found["entropy"][1]),
                **{name: _mean(found.get(name), head) for name in FIGURES},
            )
            for head in range(heads)
        ]


def _mean(found: tuple[Tensor, float] | None, head: int) -> float:
    return float(found[0][head]) / found[1] if found is not None and found[1] else math.nan


def _add(model: Seq2Seq, chosen: Sequence[Generation], gold: Sequence[TokenGold | None], sums: _Sums) -> None:
    """One pass over a batch; what its heads do is added to the sums."""
    hf, device = model.hf, model.device
    views = {
        ("encoder", "self"): _self_view([g.source_tokens for g in chosen], device, causal=False),
        ("decoder", "self"): _self_view(
            [(g.decoder_start, *g.target_tokens[:-1]) for g in chosen], device, causal=True
        ),
        ("decoder", "cross"): _cross_view(chosen, gold, device),
    }
    for name, linked in views["decoder", "cross"].links.items():
        rows = linked.any(-1)
        size = views["decoder", "cross"].keys
        sums.counts[name] = sums.counts.get(name, 0) + float(rows.sum())
        sums.chances[name] = sums.chances.get(name, 0) + float((linked.sum(-1) / size)[rows].double().sum())

    def adder(block: str) -> PointFunction:
        side, _, kind = block.split(".")
        view = views[side, kind]

        def add(pattern: Tensor) -> Tensor:
            for figure, (total, count) in _measured(pattern.float(), view).items():
                sums.add(block, figure, total, count)
            return pattern

        return add

    source, mask = padded([item.source_ids for item in chosen], padding_id(hf))
    decoder, _ = padded([item.decoder_input_ids for item in chosen], padding_id(hf))
    with hooked(hf, model.family, {f"{block}.pattern": adder(block) for block in sums.blocks}):
        logits_from_ids(hf, source.to(device), mask.to(device), decoder.to(device))


@dataclass(frozen=True, eq=False)
class _View:
    """What the queries and keys of a batch are to each other.

    Attributes:
        valid: bool [batch, query], real queries.
        keys: int [batch, query], how many keys each sees.
        special: bool [batch, key].
        weights: by figure, what attention counts for, [batch, query, key], and for which queries,
            bool [batch, query]; the figure is the mean of Σ_k pattern · weight.
        links: by figure, which keys are right, bool [batch, query, key]; rows without any are left out.
    """

    valid: Tensor
    keys: Tensor
    special: Tensor
    weights: dict[str, tuple[Tensor, Tensor]]
    links: dict[str, Tensor]


def _measured(pattern: Tensor, view: _View) -> dict[str, tuple[Tensor, float]]:
    """Sums over queries [head] and their number, by figure, from patterns [batch, head, query, key]."""
    found: dict[str, tuple[Tensor, float]] = {}

    def add(name: str, values: Tensor, where: Tensor) -> None:  # [batch, head, query], [batch, query]
        total = torch.where(where[:, None], values, 0).sum((0, 2), dtype=torch.float64)
        found[name] = (total, float(where.sum()))

    entropy = torch.special.entr(pattern).sum(-1)
    add("entropy", entropy, view.valid)
    add(
        "relative_entropy",
        entropy / view.keys.clamp_min(2).log()[:, None],
        view.valid & (view.keys > 1),
    )
    top = pattern.amax(-1, keepdim=True)  # [batch, head, query, 1]
    add("max_weight", top[..., 0], view.valid)
    add("confidence", pattern.masked_fill(view.special[:, None, None], 0).amax(-1), view.valid)
    for name, (weight, where) in view.weights.items():
        add(name, torch.einsum("bhqk,bqk->bhq", pattern, weight), where)
    for name, linked in view.links.items():
        best = (pattern == top).float()
        right = torch.einsum("bhqk,bqk->bhq", best, linked.float())
        add(name, right / best.sum(-1), linked.any(-1))
    return found


def _self_view(rows: Sequence[Sequence[Token]], device: torch.device, *, causal: bool) -> _View:
    special, real = _marked(rows)
    longest = special.shape[1]
    place = torch.arange(longest)
    step = place[None, :] - place[:, None]  # key − query, [query, key]
    count = len(rows)
    last = place[None, :] == real.sum(1, keepdim=True) - 1
    offsets = {"diagonal": (0, real), "previous": (-1, real & (place > 0))}
    if not causal:
        offsets["next"] = (1, real & ~last)
    seen = (place + 1).expand(count, -1) if causal else real.sum(1, keepdim=True).expand(-1, longest)
    weights = {
        "distance": (step.abs().float().expand(count, -1, -1), real),
        "special": (special.float()[:, None].expand(-1, longest, -1), real),
    }
    for name, (offset, where) in offsets.items():
        weights[name] = ((step == offset).float().expand(count, -1, -1), where)
    return _on(device, _View(real, seen, special, weights, {}))


def _cross_view(
    chosen: Sequence[Generation], gold: Sequence[TokenGold | None], device: torch.device
) -> _View:
    special, real_keys = _marked([g.source_tokens for g in chosen])
    _, real = _marked([g.target_tokens for g in chosen])
    source, target = real_keys.sum(1), real.sum(1)  # lengths, [batch]
    query, key = torch.arange(real.shape[1]), torch.arange(special.shape[1])
    # Relative places, [batch, position].
    at_query, at_key = (query + 0.5) / target[:, None], (key + 0.5) / source[:, None]
    # In whole numbers: a rounded product could fall short of the next place.
    same_place = (2 * query + 1) * source[:, None] // (2 * target[:, None])  # [batch, query]
    copied = torch.zeros(len(chosen), len(query), len(key), dtype=torch.bool)
    aligned = torch.zeros_like(copied)
    for row, (generation, known) in enumerate(zip(chosen, gold, strict=True)):
        same = same_text(generation)
        copied[row, : same.shape[0], : same.shape[1]] = same
        for step, groups in enumerate(known or ()):
            for i in {i for group in groups for side, i in group if side == "source"}:
                aligned[row, step, i] = True
    weights = {
        "distance": ((at_query[:, :, None] - at_key[:, None]).abs(), real),
        "diagonal": ((same_place[:, :, None] == key).float(), real),
        "special": (special.float()[:, None].expand(-1, len(query), -1), real),
        "copy": (copied.float(), copied.any(-1)),
    }
    links = {"copy_top": copied, "alignment": aligned}
    return _on(device, _View(real, source[:, None].expand(-1, len(query)), special, weights, links))


def _marked(rows: Sequence[Sequence[Token]]) -> tuple[Tensor, Tensor]:
    """Which positions are special, and which are real, bool [batch, position]."""
    special = [torch.tensor([token.special for token in row]) for row in rows]
    flags, real = padded(special, 0)
    return flags, real.bool()


def same_text(generation: Generation) -> Tensor:
    """Which source tokens have the text of an output token, bool [target, source]; special ones never."""
    numbers: dict[str, int] = {}

    def number(tokens: Sequence[Token], absent: int) -> Tensor:
        found = []
        for token in tokens:
            text = token.text.strip()
            usable = text and not token.special
            found.append(numbers.setdefault(text, len(numbers)) if usable else absent)
        return torch.tensor(found)

    target, source = number(generation.target_tokens, -1), number(generation.source_tokens, -2)
    return target[:, None] == source[None, :]


def _on(device: torch.device, view: _View) -> _View:
    return _View(
        view.valid.to(device),
        view.keys.to(device),
        view.special.to(device),
        {name: (weight.to(device), where.to(device)) for name, (weight, where) in view.weights.items()},
        {name: linked.to(device) for name, linked in view.links.items()},
    )


# ---- roles -----------------------------------------------------------------------------------------------

ROLES = ("alignment", "copy", "broad", "positional", "sink", "mixed")
"""What a head may be, the most telling first; `mixed` is none of the others."""


@dataclass(frozen=True, slots=True)
class RoleRules:
    """From which figure on a head has a role; each is between 0 and 1.

    Attributes:
        alignment: of the way from chance to always right, `alignment` has come this far (without gold
            `copy_top`, and the tokens that are copied stand for all).
        copy: attention on source tokens with the text of the output token (cross-attention).
        positional: attention on one relative position: the one before, its own, the one after, or in
            cross-attention the same relative place. Voita et al. 2019 ask for the highest weight to be there
            90 % of the time.
        sink: attention on special tokens.
        broad: relative entropy. A head above it is neither positional nor a sink: where there are few tokens,
            looking everywhere alike puts much on each.
    """

    alignment: float = 0.5
    copy: float = 0.5
    positional: float = 0.5
    sink: float = 0.5
    broad: float = 0.8

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"the rule {name} is {value}; it must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class HeadRole:
    """What a head does.

    Attributes:
        head: which head.
        role: the first of `ROLES` that holds.
        roles: all that hold.
        score: the figure behind `role`, as in `HeadRow`; for `mixed` the relative entropy.
        offset: of a positional head, where it looks: −1, 0 or 1 from its own position (0 in cross-attention:
            the same relative place); else None.
    """

    head: Head
    role: str
    roles: tuple[str, ...]
    score: float
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class HeadRoles:
    """The roles of all heads, and the rules that they follow from.

    Attributes:
        rows: one per head, in the order of computation.
        rules: the thresholds.
        alignment_by: what alignment heads were found by: `gold`, `copy` (tokens with the same text), or `""`
            where the outputs have neither.
    """

    rows: tuple[HeadRole, ...]
    rules: RoleRules
    alignment_by: str

    def heads(self, role: str, kind: str | None = None) -> list[Head]:
        """The heads that have a role, whether or not it is their first; `kind` is `self` or `cross`.

        Raises:
            UnknownNameError: there is no such role or kind.
        """
        for name, value, known in (("role", role, ROLES), ("kind", kind or "self", KINDS)):
            if value not in known:
                raise UnknownNameError(name, value, known)
        return [row.head for row in self.rows if role in row.roles and kind in (None, row.head.kind)]

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `block`, `side`, `layer`, `kind`, `head`, `role`, `roles`, `score`, `offset`."""
        import pandas as pd

        frame = pd.DataFrame([{**row.head.place, **_flat(row), "head": row.head.index} for row in self.rows])
        return frame.astype({"offset": "Int64"})

    def to_dict(self) -> dict[str, Any]:
        """The roles as a JSON object."""
        return {
            "rows": [{**asdict(row), "roles": list(row.roles)} for row in self.rows],
            "rules": asdict(self.rules),
            "alignment_by": self.alignment_by,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadRoles:
        """Read roles back from their JSON object; null stands for nan."""
        rows = [
            HeadRole(
                Head(**row["head"]),
                row["role"],
                tuple(row["roles"]),
                math.nan if row["score"] is None else row["score"],
                row["offset"],
            )
            for row in data["rows"]
        ]
        return cls(tuple(rows), RoleRules(**data["rules"]), data["alignment_by"])


def head_roles(statistics: HeadStatistics, rules: RoleRules | None = None) -> HeadRoles:
    """Name what every head does, by stated rules (Voita et al. 2019, arXiv:1905.09418; Clark et al. 2019).

    Alignment heads are cross-attention heads whose strongest source token is in the gold that the statistics
    were computed with; without gold, one with the text of the output token, where there is such a token.
    """
    rules = rules or RoleRules()
    by = "gold" if statistics.aligned else "copy" if statistics.copied else ""
    return HeadRoles(tuple(_role(row, statistics, rules, by) for row in statistics.rows), rules, by)


def _role(row: HeadRow, statistics: HeadStatistics, rules: RoleRules, by: str) -> HeadRole:
    cross = row.head.kind == "cross"
    offset, most = _position(row)
    score = {
        "alignment": row.alignment if by == "gold" else row.copy_top,
        "copy": row.copy,
        "broad": row.relative_entropy,
        "positional": most,
        "sink": row.special,
        "mixed": row.relative_entropy,
    }
    chance = statistics.alignment_chance if by == "gold" else statistics.copy_chance
    broad = row.relative_entropy >= rules.broad
    holds = {
        "alignment": cross and chance < 1 and score["alignment"] >= chance + rules.alignment * (1 - chance),
        "copy": cross and row.copy >= rules.copy,
        "broad": broad,
        "positional": not broad and most >= rules.positional,
        "sink": not broad and row.special >= rules.sink,
    }
    roles = tuple(name for name in ROLES if holds.get(name)) or ("mixed",)
    return HeadRole(row.head, roles[0], roles, score[roles[0]], offset if "positional" in roles else None)


def _position(row: HeadRow) -> tuple[int, float]:
    """Where a head looks most, relative to its own position, and how much."""
    shares = {-1: row.previous, 0: row.diagonal, 1: row.next}
    known = {offset: share for offset, share in shares.items() if not math.isnan(share)}
    return max(known.items(), key=lambda item: item[1])
