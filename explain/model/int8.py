"""Weights kept as int8: a quarter of the size, opened and saved by transformers like any other model.

Weight-only and symmetric, one scale per output channel (for embeddings: per token): w ≈ q · s with q in
−127 … 127 and s = max|w| / 127 of the row. Activations stay as they are, so gradients with respect to them
are exact and every attribution method works. Norms, biases and position embeddings stay floating-point.

Registered with transformers under the name `explain_int8`, so that `from_pretrained` opens such a folder
wherever `explain.model` was imported. Not torchao's int8: what torchao 0.18 and transformers 5.24 write of an
encoder–decoder they cannot read again, and they leave its embeddings whole.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

NAME = "explain_int8"
_LARGEST = 127
_EMBEDDINGS = ("shared", "embed_tokens")


class _Int8(nn.Module):
    """A matrix as int8 `weight` [row, column] and floating-point `weight_scale` [row, 1]."""

    def __init__(self, rows: int, columns: int, device: torch.device):
        super().__init__()
        # Parameters, not buffers: they count as the model's weights, and transformers ties them by name.
        weight = torch.zeros(rows, columns, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(torch.ones(rows, 1, device=device), requires_grad=False)

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows as floating-point numbers, [..., column]."""
        scale = self.weight_scale[ids]
        return self.weight[ids].to(scale.dtype) * scale

    def full(self) -> Tensor:
        """The whole matrix as floating-point numbers, [row, column]."""
        return self.weight.to(self.weight_scale.dtype) * self.weight_scale


class Int8Linear(_Int8):
    """`nn.Linear` with an int8 weight."""

    def __init__(self, old: nn.Linear):
        super().__init__(old.out_features, old.in_features, old.weight.device)
        self.in_features, self.out_features = old.in_features, old.out_features
        self.bias = old.bias

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]; the scale is applied to the product, which is smaller than the weight."""
        output = functional.linear(input, self.weight.to(input.dtype)) * self.weight_scale[:, 0].to(
            input.dtype
        )
        return output if self.bias is None else output + self.bias


class Int8Embedding(_Int8):
    """A table of token embeddings in int8; `embed_scale` multiplies what comes out, as BART's own does."""

    def __init__(self, old: nn.Embedding):
        super().__init__(old.num_embeddings, old.embedding_dim, old.weight.device)
        self.num_embeddings, self.embedding_dim = old.num_embeddings, old.embedding_dim
        self.padding_idx = old.padding_idx
        self.embed_scale = getattr(old, "embed_scale", None)

    def forward(self, input: Tensor) -> Tensor:
        """Ids [...] -> embeddings [..., width]."""
        rows = self.rows(input)
        return rows if self.embed_scale is None else rows * self.embed_scale


def float_weight(module: nn.Module) -> Tensor:
    """The weight of a linear layer or an embedding as it works, whatever it is kept as."""
    return module.full() if isinstance(module, _Int8) else module.weight  # pyright: ignore[reportReturnType]


def float_rows(module: nn.Module, ids: Tensor) -> Tensor:
    """Rows [..., column] of a weight as it works."""
    return module.rows(ids) if isinstance(module, _Int8) else module.weight[ids]  # pyright: ignore[reportIndexIssue]


def is_int8(hf: nn.Module) -> bool:
    """Whether a model keeps weights in int8."""
    return any(isinstance(module, _Int8) for module in hf.modules())


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [row, column] as int8 [row, column] and scale [row, 1]; rows of zeros stay zeros."""
    largest = weight.detach().abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0).to(weight.dtype)
    return (weight.detach() / scale).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


@torch.no_grad()
def quantised(hf: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model with its linear layers and token embeddings in int8."""
    made = copy.deepcopy(hf)
    before = {name: module for name, module in made.named_modules() if _replaceable(name, module)}
    done: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    _replace(made)
    for name, old in before.items():
        module: Any = made.get_submodule(name)
        if id(old.weight) not in done:
            weight, scale = quantise(old.weight)  # pyright: ignore[reportArgumentType]
            done[id(old.weight)] = nn.Parameter(weight, False), nn.Parameter(scale, False)
        # A shared table stays shared.
        module.weight, module.weight_scale = done[id(old.weight)]
    quantizer = Int8Quantizer(Int8Config())  # pyright: ignore[reportCallIssue]
    made.hf_quantizer = quantizer  # pyright: ignore[reportArgumentType]
    quantizer.postprocess_model(made)
    return made


@torch.no_grad()
def restored(hf: PreTrainedModel) -> PreTrainedModel:
    """Turn the int8 weights of this very model into ordinary ones again; it computes the same.

    A model without such weights is left as it is.
    """
    done: dict[int, nn.Parameter] = {}
    for name, module in list(hf.named_modules()):
        if not isinstance(module, _Int8):
            continue
        if id(module.weight) not in done:
            done[id(module.weight)] = nn.Parameter(module.full())
        weight = done[id(module.weight)]
        new: nn.Module
        if isinstance(module, Int8Linear):
            new = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            new.bias = module.bias
        else:
            new = _scaled_embedding(module)
        new.weight = weight  # pyright: ignore[reportAttributeAccessIssue]
        hf.set_submodule(name, new.train(module.training))
    quantizer: Any = getattr(hf, "hf_quantizer", None)
    if isinstance(quantizer, Int8Quantizer):
        quantizer.remove_quantization_config(hf)
    return hf


class _ScaledEmbedding(nn.Embedding):
    embed_scale: float | Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        found = super().forward(input)
        return found if self.embed_scale is None else found * self.embed_scale


def _scaled_embedding(old: Any) -> nn.Embedding:
    new = _ScaledEmbedding(old.num_embeddings, old.embedding_dim, padding_idx=old.padding_idx, device="meta")
    new.embed_scale = old.embed_scale
    return new


def _replaceable(name: str, module: nn.Module) -> bool:
    return type(module) is nn.Linear or (
        isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _EMBEDDINGS
    )


def _replace(hf: PreTrainedModel) -> None:
    """Put empty int8 modules in the place of linear layers and token embeddings."""
    for name, module in list(hf.named_modules()):
        if _replaceable(name, module):
            make: Any = Int8Linear if isinstance(module, nn.Linear) else Int8Embedding
            hf.set_submodule(name, make(module).train(module.training))
    # What is tied by its weight is tied by its scale as well.
    tied = dict(hf.all_tied_weights_keys)
    hf.all_tied_weights_keys.update({f"{one}_scale": f"{other}_scale" for one, other in tied.items()})


@register_quantization_config(NAME)
@dataclass
class Int8Config(QuantizationConfigMixin):
    """What `config.json` says of a model in int8."""

    bits: int = 8
    granularity: str = "row"
    quant_method: str = NAME  # pyright: ignore[reportIncompatibleVariableOverride]


@register_quantizer(NAME)
class Int8Quantizer(HfQuantizer):
    """Opens and saves models in int8 through transformers."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        _replace(model)
        return model

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        return restored(model)

    def is_serializable(self) -> bool:
        """They can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """They cannot be trained further: steps are smaller than what int8 tells apart."""
        return False
