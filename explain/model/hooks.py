"""Hook points: the same names on every family, read or replaced for as long as a block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from explain.errors import InputError, UnknownNameError
from explain.model.attention import POINTS, PointFunction, Tap, tapped
from explain.model.families import Family, Side, all_modules, layers, submodule

Handle = Any


def hook_points(hf: PreTrainedModel, family: Family) -> list[str]:
    """All hook points of a model, in the order of computation."""
    names: list[str] = []
    for side_name, side in (("encoder", family.encoder), ("decoder", family.decoder)):
        names.append(f"{side_name}.embed")
        kinds = ("self", "cross") if side.cross_attention else ("self",)
        for layer in range(len(layers(hf, side))):
            for kind in kinds:
                names += [f"{side_name}.{layer}.{kind}.{point}" for point in (*POINTS, "out")]
            names += [f"{side_name}.{layer}.{point}" for point in ("mlp.hidden", "mlp.out", "residual")]
    return [*names, "logits"]


def select(patterns: str | Iterable[str], known: list[str]) -> list[str]:
    """The hook points that match one or several glob patterns, in the model's order.

    Raises:
        UnknownNameError: a pattern matches nothing.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UnknownNameError("hook point", pattern, _shown(known))
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _shown(known: list[str]) -> list[str]:
    """Hook points with the layer left open, so that a message stays short."""
    return sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in known})


@contextmanager
def hooked(hf: PreTrainedModel, family: Family, functions: Mapping[str, PointFunction]) -> Iterator[None]:
    """Call `functions[point](tensor) -> tensor` at hook points; afterwards the model is exactly as it was.

    Raises:
        InputError: a function returned something else than a tensor of the shape it was given.
    """
    checked = {name: _checked(name, function) for name, function in functions.items()}
    with ExitStack() as stack:
        sites = attention_sites(hf, family)
        if any(name.rpartition(".")[2] in POINTS for name in checked):
            stack.enter_context(tapped(hf, Tap(sites, checked)))
        for name, function in checked.items():
            handle = _register(hf, family, name, function)
            if handle is not None:
                stack.callback(handle.remove)
        yield


@contextmanager
def growing(hf: PreTrainedModel, side: Side, joined: Sequence[int]) -> Iterator[None]:
    """Let a batch grow on its way through the layers of a stack: rows take part only from where they differ.

    New rows are copies of row 0. Masks must have one row, which broadcasts, and encoder states one row or as
    many as the batch will have. Functions of a `hooked` block inside see the batch after it has grown.

    Args:
        hf: the model.
        side: which stack.
        joined: how many rows there are before and after each layer at least: [2 · layers].
    """

    def grow(count: int) -> PointFunction:
        def call(tensor: Tensor) -> Tensor:
            more = count - tensor.shape[0]
            return tensor if more <= 0 else torch.cat([tensor, tensor[:1].expand(more, *tensor.shape[1:])])

        return call

    with ExitStack() as stack:
        for layer, before, after in zip(layers(hf, side), joined[::2], joined[1::2], strict=True):
            own: list[Handle] = [
                layer.register_forward_pre_hook(_input_hook(grow(before)), with_kwargs=True),
                layer.register_forward_hook(_output_hook(grow(after))),
            ]
            if side.cross_attention:
                cross = submodule(layer, side.cross_attention)
                own.append(cross.register_forward_pre_hook(_source_of_rows, with_kwargs=True))
            for handle in own:
                stack.callback(handle.remove)
        yield


def _source_of_rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Encoder states of the rows that are there already."""
    rows = (args[0] if args else kwargs["hidden_states"]).shape[0]
    return args, {**kwargs, "key_value_states": kwargs["key_value_states"][:rows]}


def _checked(name: str, function: PointFunction) -> PointFunction:
    def call(tensor: Tensor) -> Tensor:
        result = function(tensor)
        if not isinstance(result, Tensor):
            raise InputError(f"the function at {name} returned {type(result).__name__}, not a tensor")
        if result.shape != tensor.shape:
            shapes = f"{tuple(result.shape)} instead of {tuple(tensor.shape)}"
            raise InputError(f"the function at {name} returned a tensor of shape {shapes}")
        return result

    return call


def attention_sites(hf: PreTrainedModel, family: Family) -> dict[int, str]:
    """The hook-point prefix of every attention block (`decoder.1.cross`), by the `id` of its module."""
    sites = {}
    for side_name, side in (("encoder", family.encoder), ("decoder", family.decoder)):
        for index, layer in enumerate(layers(hf, side)):
            sites[id(submodule(layer, side.self_attention))] = f"{side_name}.{index}.self"
            if side.cross_attention:
                sites[id(submodule(layer, side.cross_attention))] = f"{side_name}.{index}.cross"
    return sites


def _register(hf: PreTrainedModel, family: Family, name: str, function: PointFunction) -> Handle | None:
    if name == "logits":
        return hf.register_forward_hook(_logits_hook(function))
    side_name, _, rest = name.partition(".")
    side = family.encoder if side_name == "encoder" else family.decoder
    stack = layers(hf, side)
    if rest == "embed":
        return stack[0].register_forward_pre_hook(_input_hook(function), with_kwargs=True)
    number, _, point = rest.partition(".")
    layer = stack[int(number)]
    if point == "residual":
        return layer.register_forward_hook(_output_hook(function))
    if point == "mlp.hidden":
        return submodule(layer, side.mlp_out).register_forward_pre_hook(
            _input_hook(function), with_kwargs=True
        )
    if point == "mlp.out":
        return submodule(layer, side.mlp_out).register_forward_hook(_output_hook(function))
    if point.endswith(".out"):
        projection = f"{_attention_path(side, point)}.{family.output_projection}"
        return submodule(layer, projection).register_forward_hook(_output_hook(function))
    return None  # q, k, v, scores, pattern, z: the attention function calls those


def _attention_path(side: Side, point: str) -> str:
    path = side.self_attention if point.startswith("self.") else side.cross_attention
    if path is None:
        raise InputError(f"{side.stack} has no cross-attention")
    return path


def _output_hook(function: PointFunction) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    return hook


def _input_hook(function: PointFunction) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (function(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": function(kwargs["hidden_states"])}

    return hook


def _logits_hook(function: PointFunction) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            raise InputError("the hook point logits needs return_dict=True")
        output.logits = function(output.logits)
        return output

    return hook


@contextmanager
def analysed(hf: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode with frozen parameters; afterwards mode and `requires_grad` are as they were.

    Frozen parameters make a backward pass to the inputs cost two forwards instead of up to five.
    """
    modules = all_modules(hf)
    training = [module for module in modules if module.training]
    # A shared parameter is found more than once, which does no harm: all its rows say the same.
    trained = [p for m in modules for p in m._parameters.values() if p is not None and p.requires_grad]
    try:
        # Only what differs is touched: inside another such block nothing is, and this costs next to nothing.
        for module in training:
            module.training = False
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad_(True)
