"""Direct logit attribution: a logit as the sum of what each part of the decoder wrote.

The decoder's last hidden state, its residual stream after all blocks, is a chain of sums and norms,

    h ← N_j(h + out_j)   for every block j (N_j is there where norms stand after the blocks), then N_final(h),

and with each norm's division held at the value it has at this input, N(x) = γ ⊙ (x − mean(x)) / σ + β is
affine (RMS norms take no mean and have no β). So every out_j, and every part of it, goes through all later
norms by itself, and the sum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from explain.analysis.inputs import require_same_vocabulary
from explain.analysis.lenses import final_norm, require_top
from explain.attribution.internals.blocks import projection
from explain.attribution.objectives import Foil, contrast_text, question
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.model.families import layers, submodule
from explain.model.forward import project, project_to
from explain.model.hooks import analysed
from explain.model.recording import passes
from explain.model.text import token_text
from explain.results import Generation, Token

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = ("self", "cross", "mlp")
# Rows of the output projection's result that are held at once.
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of the vocabulary and how much is added to its logit, against the mean over the vocabulary."""

    text: str
    id: int
    score: float


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the decoder and what it adds to the logit.

    Attributes:
        name: `decoder.embed`, a block (`decoder.1.cross`), or a part of one (`decoder.1.cross.head.0`,
            `decoder.0.mlp.neuron.17`, `decoder.0.mlp.bias`); `logits.bias` for the output's own bias.
        kind: `embed`, `block`, `head`, `neuron`, `neurons` (those of a layer that have no row of their own)
            or `bias`.
        layer: its layer, counted from 0; None outside the layers.
        block: `self`, `cross` or `mlp`; None outside the blocks.
        index: of a head or neuron, counted from 0.
        part_of: the block that it is a part of; None for what adds up to the logit itself.
        logit: what it adds to the logit, or to the difference from the contrast; below 0: it speaks against
            the token; 0: nothing.
        promoted: the tokens whose logits it raises most, best first.
        suppressed: the tokens whose logits it lowers most, lowest first.
    """

    name: str
    kind: str
    layer: int | None
    block: str | None
    index: int | None
    part_of: str | None
    logit: float
    promoted: tuple[TokenScore, ...] = ()
    suppressed: tuple[TokenScore, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Component:
        """Read a component back from its JSON object."""
        scores = {n: tuple(TokenScore(**item) for item in data[n]) for n in ("promoted", "suppressed")}
        return cls(**{**data, **scores})


@dataclass(frozen=True, slots=True)
class Contributions:
    """A logit at one position of an output, taken apart.

    The components with `part_of` None add up to `value`; those that are part of a block add up to the block.

    Attributes:
        source_text: the source.
        target_text: the output.
        position: which target token is explained, counted from 0.
        token: that token.
        contrast: the foil's text, or None; the logit is then logit(token) − logit(foil).
        value: the model's own logit, or difference.
        total: Σ of the components with `part_of` None.
        components: in the order of computation, each block followed by its parts.
        error: |total − value|, in logits; 0 is exact. Rounding, unless an intervention replaces a residual
            stream or the logits: what it brings is no component's.
        inner_error: the largest |block − Σ of its parts|, in logits; likewise, for `z`, `out`
            and `mlp.hidden`.
        model_digest: of the model that was looked at.
    """

    source_text: str
    target_text: str
    position: int
    token: Token
    contrast: str | None
    value: float
    total: float
    components: tuple[Component, ...]
    error: float
    inner_error: float
    model_digest: str = ""

    @property
    def relative_error(self) -> float:
        """`error` over the sum of what the components add, signs left out; nan where that is 0."""
        size = sum(abs(part.logit) for part in self.components if part.part_of is None)
        return self.error / size if size else math.nan

    def __getitem__(self, name: str) -> Component:
        for component in self.components:
            if component.name == name:
                return component
        raise UnknownNameError("component", name, [component.name for component in self.components])

    def of(self, kind: str) -> list[Component]:
        """The components of a kind, what adds most to the logit, either way, first."""
        return sorted((c for c in self.components if c.kind == kind), key=lambda c: -abs(c.logit))

    def to_frame(self) -> pd.DataFrame:
        """One row per component; `promoted` and `suppressed` are tuples of texts, best first."""
        import pandas as pd

        rows = []
        for component in self.components:
            texts = {n: tuple(t.text for t in getattr(component, n)) for n in ("promoted", "suppressed")}
            rows.append({**asdict(component), **texts})
        return pd.DataFrame(rows).astype({"layer": "Int64", "index": "Int64"})

    def to_dict(self) -> dict[str, Any]:
        """The contributions as a JSON object."""
        return {
            **asdict(self),
            "components": [
                {
                    **asdict(c),
                    "promoted": [asdict(t) for t in c.promoted],
                    "suppressed": [asdict(t) for t in c.suppressed],
                }
                for c in self.components
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Contributions:
        """Read contributions back from their JSON object; what else stands there is passed over."""
        components = tuple(Component.from_dict(item) for item in data["components"])
        known = {field.name: data[field.name] for field in fields(cls)}
        return cls(**{**known, "token": Token.from_dict(data["token"]), "components": components})


@torch.no_grad()
def contributions(
    model: Seq2Seq,
    generation: Generation,
    position: int,
    contrast: Foil | None = None,
    *,
    neurons: int = 10,
    top: int = 5,
) -> Contributions:
    """Take the logit of one target token apart into what each block, head and neuron adds to it directly.

    What a part adds by way of later blocks is counted there: the answer is who wrote the word, not who told
    the writer. A raw logit holds what is added to all words alike, which no probability sees: with a
    contrast, or in `promoted` and `suppressed`, that drops out. Each norm's division is held at its value.

    Elhage et al. 2021, "A mathematical framework for transformer circuits"; Geva et al. 2022,
    arXiv:2203.14680 (neurons promote words).

    Args:
        model: an opened model.
        generation: the output.
        position: which target token, counted from the end where negative.
        contrast: a foil: explains logit(token) − logit(foil).
        neurons: how many neurons, of all layers, get a row of their own: those that add most either way.
        top: how many promoted and suppressed tokens to name for each component; 0 for none.

    Raises:
        InputError: a position outside the output, or a foil that says the same.
    """
    require_same_vocabulary(model, [generation])
    if top:
        require_top(model, top)
    if not isinstance(neurons, int) or neurons < 0:
        raise InputError(f"neurons is {neurons!r}; it must be at least 0")
    asked = question(
        model,
        generation,
        "logit",
        None if contrast is None else {position: contrast},
        positions=position,
    )
    step = asked.spans[0][0]
    foil = None if asked.foils is None else int(asked.foils[step])
    model.require_parity()
    with model.lock, analysed(model.hf):
        pieces, own = _pieces(model, generation, step)
        reader = _Reader(model, int(generation.target_ids[step]), foil)
        components, inner = _components(reader, pieces, neurons, top)
        value = reader.of_logits(own)
        digest = model.digest
    total = sum(part.logit for part in components if part.part_of is None)
    return Contributions(
        source_text=generation.source_text,
        target_text=generation.target_text,
        position=step,
        token=generation.target_tokens[step],
        contrast=None if contrast is None else contrast_text(contrast),
        value=value,
        total=total,
        components=tuple(components),
        error=abs(total - value),
        inner_error=inner,
        model_digest=digest,
    )


# ---- norms with their division held ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A layer norm or RMS norm at one input x, with its division held there: affine in what it is applied to.

    Attributes:
        weight: [width], γ / σ(x).
        bias: [width], β, or None.
        centres: whether it takes the mean (layer norm).
    """

    weight: Tensor
    bias: Tensor | None
    centres: bool

    @classmethod
    def at(cls, norm: nn.Module, x: Tensor) -> FrozenNorm:
        """The norm at input x [width]."""
        centres = isinstance(norm, nn.LayerNorm)
        eps: Any = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        around = x - x.mean() if centres else x
        scale = (around.square().mean() + eps).rsqrt()
        weight: Any = getattr(norm, "weight", None)
        bias: Any = getattr(norm, "bias", None)
        return cls(
            scale.expand_as(x) if weight is None else weight.to(x) * scale,
            None if bias is None else bias.to(x),
            centres,
        )

    def push(self, vectors: Tensor) -> Tensor:
        """The linear part: what vectors [..., width] become behind the norm."""
        return self.weight * (vectors - vectors.mean(-1, keepdim=True) if self.centres else vectors)

    def pull(self, direction: Tensor) -> Tensor:
        """Its transpose: the direction [width] in front of the norm that `direction` reads behind it."""
        back = self.weight * direction
        return back - back.mean() if self.centres else back


@dataclass(frozen=True, eq=False)
class _Block:
    """What one block of the decoder wrote at one position.

    Attributes:
        layer: its layer.
        kind: one of `BLOCKS`.
        out: [width], all of it.
        parts: [head, width], what each head wrote; None for the feed-forward network.
        hidden: [neuron], the activations of the feed-forward network; None for attention.
        columns: [neuron, width], what each neuron writes at an activation of 1; None for attention.
        bias: [width], of the block's last projection.
    """

    layer: int
    kind: str
    out: Tensor
    parts: Tensor | None
    hidden: Tensor | None
    columns: Tensor | None
    bias: Tensor

    @property
    def name(self) -> str:
        return f"decoder.{self.layer}.{self.kind}"


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The last hidden state at one position as embedding, blocks and norms.

    `norms[j]` stands behind `blocks[j]`, or is None; there is one norm more than blocks, the final one. All
    in float64.
    """

    embed: Tensor
    blocks: list[_Block]
    norms: list[FrozenNorm | None]

    def behind(self, block: int) -> list[FrozenNorm]:
        """The norms from `norms[block]` on."""
        return [norm for norm in self.norms[block:] if norm is not None]

    def push(self, vectors: Tensor, block: int) -> Tensor:
        """Vectors [..., width] in front of `norms[block]`, as they stand in the last hidden state."""
        for norm in self.behind(block):
            vectors = norm.push(vectors)
        return vectors

    def pull(self, direction: Tensor, block: int) -> Tensor:
        """The direction [width] before `norms[block]` that `direction` reads in the last hidden state."""
        for norm in reversed(self.behind(block)):
            direction = norm.pull(direction)
        return direction


def _pieces(model: Seq2Seq, generation: Generation, step: int) -> tuple[_Pieces, Tensor]:
    """The pieces at decoder position `step`, and the model's logits [vocabulary] there."""
    hf, family = model.hf, model.family
    side = family.decoder
    stack = layers(hf, side)
    points = ["decoder.embed", "logits"]
    for layer in range(len(stack)):
        points += [f"decoder.{layer}.{kind}.{point}" for kind in ("self", "cross") for point in ("z", "out")]
        points += [f"decoder.{layer}.{point}" for point in ("mlp.hidden", "mlp.out", "residual")]
    [(_, found)] = passes(hf, family, [generation], points, [0])

    def at(name: str) -> Tensor:  # [width], or [head, head_dim] of z
        tensor = found[name][0]
        return (tensor[:, step] if name.endswith(".z") else tensor[step]).double()

    state = embed = at("decoder.embed")
    blocks: list[_Block] = []
    norms: list[FrozenNorm | None] = []
    for layer, module in enumerate(stack):
        for kind, path in zip(BLOCKS, (side.self_norm, side.cross_norm, side.mlp_norm), strict=True):
            blocks.append(_block(model, module, layer, kind, at))
            state = state + blocks[-1].out
            norm = None if family.pre_norm else FrozenNorm.at(submodule(module, str(path)), state)
            norms.append(norm)
            if norm is not None:
                state = norm.push(state) if norm.bias is None else norm.push(state) + norm.bias
        state = at(f"decoder.{layer}.residual")  # the same but for rounding, and interventions
    norms.append(None if side.final_norm is None else FrozenNorm.at(final_norm(hf, side), state))
    return _Pieces(embed, blocks, norms), found["logits"][0, step]


def _block(model: Seq2Seq, module: nn.Module, layer: int, kind: str, at: Any) -> _Block:
    side, name = model.family.decoder, f"decoder.{layer}.{kind}"
    out = at(f"{name}.out")
    if kind == "mlp":
        linear = submodule(module, side.mlp_out)
        hidden = at(f"{name}.hidden")
        bias = _zero_output(linear, len(hidden), model)
        return _Block(layer, kind, out, None, hidden, _columns(linear, len(hidden), bias, model), bias)
    z = at(f"{name}.z")  # [head, head_dim]
    parts = torch.einsum("hd,hdw->hw", z, projection(model, module, side, kind).to(z))
    path = side.self_attention if kind == "self" else side.cross_attention
    linear = submodule(module, f"{path}.{model.family.output_projection}")
    return _Block(layer, kind, out, parts, None, None, _zero_output(linear, z.numel(), model))


def _zero_output(linear: nn.Module, width: int, model: Seq2Seq) -> Tensor:
    """What a linear layer of any make gives for nothing: its bias, float64."""
    # Its forward, not itself: an intervention at its output is no bias.
    return linear.forward(torch.zeros(1, width, dtype=model.hf.dtype, device=model.device))[0].double()


def _columns(linear: nn.Module, width: int, bias: Tensor, model: Seq2Seq) -> Tensor:
    """What a linear layer gives for each unit vector, less its bias: float64 [input, output]."""
    weight: Any = linear.weight
    if type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point():
        return weight.T.double()
    return linear.forward(torch.eye(width, dtype=model.hf.dtype, device=model.device)).double() - bias


# ---- from vectors to logits ------------------------------------------------------------------------------


class _Reader:
    """Reads vectors in the last hidden state as logits, of one token (less a foil's) or of all."""

    def __init__(self, model: Seq2Seq, token: int, foil: int | None):
        self.model = model
        self.token = token
        self.foil = foil
        self.width = int(model.hf.config.hidden_size)
        zero = torch.zeros(1, self.width, dtype=model.hf.dtype, device=model.device)
        self.bias = project(model.hf, zero)[0]  # [vocabulary]
        self.direction = self._direction(token)
        if foil is not None:
            self.direction = self.direction - self._direction(foil)

    def _direction(self, id_: int) -> Tensor:
        """What a token's logit reads in the last hidden state, float64 [width]."""
        hf: PreTrainedModel = self.model.hf
        units = torch.eye(self.width, dtype=hf.dtype, device=self.model.device)[:, None]
        ids = torch.tensor([id_], device=self.model.device)
        return (project_to(hf, units, ids) - project_to(hf, torch.zeros_like(units), ids))[:, 0].double()

    def of_logits(self, logits: Tensor) -> float:
        """The explained number from logits [vocabulary]."""
        value = float(logits[self.token])
        return value if self.foil is None else value - float(logits[self.foil])

    def tokens(
        self, vectors: Tensor, top: int
    ) -> list[tuple[tuple[TokenScore, ...], tuple[TokenScore, ...]]]:
        """For each of the vectors [n, width] the tokens that it promotes and suppresses."""
        found = []
        for part in vectors.split(_CHUNK) if top else ():
            logits = (project(self.model.hf, part.to(self.model.hf.dtype)) - self.bias).float()
            found += self.ranked(logits, top)
        return found or [((), ())] * len(vectors)

    def ranked(self, logits: Tensor, top: int) -> list[tuple[tuple[TokenScore, ...], tuple[TokenScore, ...]]]:
        """The same from logits [n, vocabulary]."""
        centred = logits - logits.mean(-1, keepdim=True)
        raised, lowered = centred.topk(top), (-centred).topk(top)
        return [
            (
                self._named(raised.indices[row], raised.values[row]),
                self._named(lowered.indices[row], -lowered.values[row]),
            )
            for row in range(len(logits))
        ]

    def _named(self, ids: Tensor, scores: Tensor) -> tuple[TokenScore, ...]:
        """Tokens with their scores, as far as the scores have the sign of the first."""
        return tuple(
            TokenScore(token_text(self.model.tokenizer, id_), id_, score)
            for id_, score in zip(ids.tolist(), scores.tolist(), strict=True)
            if score * float(scores[0]) > 0
        )


@dataclass(frozen=True, eq=False)
class _Row:
    """A component to be, with the vector that it is in the last hidden state."""

    vector: Tensor
    name: str
    kind: str
    layer: int | None = None
    block: str | None = None
    index: int | None = None
    part_of: str | None = None


def _components(reader: _Reader, pieces: _Pieces, neurons: int, top: int) -> tuple[list[Component], float]:
    """All components in order, and the largest difference between a block and its parts."""
    shown = _strongest(reader, pieces, neurons)
    rows = [_Row(pieces.push(pieces.embed, 0), "decoder.embed", "embed")]
    inner = 0.0
    for j, block in enumerate(pieces.blocks):
        rows.append(_Row(pieces.push(block.out, j), block.name, "block", block.layer, block.kind))
        parts = _parts(pieces, j, shown[j])
        whole, sum_ = rows[-1].vector, torch.stack([part.vector for part in parts]).sum(0)
        inner = max(inner, abs(float((whole - sum_) @ reader.direction)))
        rows += [part for part in parts if part.kind != "bias" or bool(part.vector.any())]
    for j, norm in enumerate(pieces.norms):
        if norm is not None and norm.bias is not None and bool(norm.bias.any()):
            block = pieces.blocks[j] if j < len(pieces.blocks) else None
            name = "decoder.final_norm.bias" if block is None else f"{block.name}.norm.bias"
            place = (None, None) if block is None else (block.layer, block.kind)
            rows.append(_Row(pieces.push(norm.bias, j + 1), name, "bias", *place))
    tokens = reader.tokens(torch.stack([row.vector for row in rows]), top)
    components = [
        Component(
            row.name,
            row.kind,
            row.layer,
            row.block,
            row.index,
            row.part_of,
            float(row.vector @ reader.direction),
            *named,
        )
        for row, named in zip(rows, tokens, strict=True)
    ]
    if bool(reader.bias.any()):
        named = reader.ranked(reader.bias[None].float(), top)[0] if top else ((), ())
        value = reader.of_logits(reader.bias)
        components.append(Component("logits.bias", "bias", None, None, None, None, value, *named))
    return components, inner


def _strongest(reader: _Reader, pieces: _Pieces, neurons: int) -> list[list[int]]:
    """For each block its neurons that are among the strongest of all."""
    added = []  # (what it adds, block, neuron)
    for j, block in enumerate(pieces.blocks):
        if block.hidden is not None and block.columns is not None:
            scores = block.hidden * (block.columns @ pieces.pull(reader.direction, j))
            best = scores.abs().topk(min(neurons, len(scores)))
            added += zip(best.values.tolist(), [j] * len(best.indices), best.indices.tolist(), strict=True)
    kept = sorted(added, key=lambda item: -item[0])[:neurons]
    return [[n for size, at, n in kept if at == j and size > 0] for j in range(len(pieces.blocks))]


def _parts(pieces: _Pieces, j: int, shown: Sequence[int]) -> list[_Row]:
    """The parts of block j: heads, or the neurons shown and the sum of the others; and its bias."""
    block = pieces.blocks[j]
    place = {"layer": block.layer, "block": block.kind, "part_of": block.name}
    rows = []
    if block.parts is not None:
        for index, vector in enumerate(pieces.push(block.parts, j)):
            rows.append(_Row(vector, f"{block.name}.head.{index}", "head", index=index, **place))
    if block.hidden is not None and block.columns is not None:
        own = block.hidden[list(shown), None] * block.columns[list(shown)]  # [shown, width]
        rest = block.hidden @ block.columns - own.sum(0)
        for index, vector in zip(shown, pieces.push(own, j), strict=True):
            rows.append(_Row(vector, f"{block.name}.neuron.{index}", "neuron", index=index, **place))
        rows.append(_Row(pieces.push(rest, j), f"{block.name}.neurons", "neurons", **place))
    return [*rows, _Row(pieces.push(block.bias, j), f"{block.name}.bias", "bias", **place)]
