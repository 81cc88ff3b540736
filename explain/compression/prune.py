"""Pruning: single weights set to 0, feed-forward neurons taken out, attention heads taken out or silenced.

What goes is what matters least: by magnitude, or by the loss to first order, |Σ w · ∂L/∂w| (Molchanov et
al. 2019, arXiv:1906.10771; heads by the gradient at a gate, Michel et al. 2019, arXiv:1905.10650). Single
weights are ranked over the whole model (Han et al. 2015, arXiv:1506.02626), heads and neurons within their
block, since a configuration has one number for all blocks. Embeddings, norms and the output projection are
left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from transformers import PreTrainedModel

from explain.analysis.heads import Head
from explain.compression.resize import is_t5, layer_prefix, rebuilt
from explain.errors import InputError, UnknownNameError
from explain.model.families import Family, Side, layers, submodule
from explain.training.batches import collate
from explain.training.scoring import Encoded

_BATCH = 16

Scores = Mapping[str, Tensor]
"""Importance by name: of single weights in the shape of the weight, of heads or neurons [unit]."""


def linears(hf: PreTrainedModel, family: Family) -> dict[str, nn.Linear]:
    """The linear layers inside the encoder's and the decoder's layers, by name: what is pruned."""
    found: dict[str, nn.Linear] = {}
    for side in (family.encoder, family.decoder):
        for layer, module in enumerate(layers(hf, side)):
            for name, part in module.named_modules():
                if isinstance(part, nn.Linear):
                    found[layer_prefix(side, layer) + name] = part
    return found


def sensitivities(hf: PreTrainedModel, family: Family, data: Encoded, pad_id: int) -> dict[str, Tensor]:
    """Mean over batches of w · ∂L/∂w, signed, of every weight that may be pruned; the model is not touched.

    Args:
        hf: the model.
        family: its family.
        data: pairs for the loss L, the mean negative log-probability of a target token, in nats.
        pad_id: the padding token.
    """
    twin = copy.deepcopy(hf).eval()
    parts = linears(twin, family)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    for part in parts.values():
        part.weight.requires_grad_(True)
    sums = {name: torch.zeros_like(part.weight) for name, part in parts.items()}
    starts = range(0, len(data.inputs), _BATCH)
    for at in starts:
        rows = slice(at, at + _BATCH)
        batch = {
            k: v.to(twin.device) for k, v in collate(data.inputs[rows], data.labels[rows], pad_id).items()
        }
        loss = twin(**batch, use_cache=False).loss
        gradients = torch.autograd.grad(loss, [part.weight for part in parts.values()], allow_unused=True)
        for (name, part), gradient in zip(parts.items(), gradients, strict=True):
            if gradient is not None:
                sums[name] += part.weight.detach() * gradient / len(starts)
    return sums


# ---- single weights --------------------------------------------------------------------------------------


def prune_weights(
    hf: PreTrainedModel, family: Family, share: float, importance: Scores | None = None
) -> PreTrainedModel:
    """A copy in which the least important `share` of the weights in linear layers is 0.

    Args:
        hf: the model.
        family: its family.
        share: between 0 and 1.
        importance: by name, in the shape of the weights; their magnitude by default.

    Raises:
        InputError: the share is not between 0 and 1.
    """
    require_share(share)
    made = copy.deepcopy(hf)
    parts = [(part, "weight") for part in linears(made, family).values()]
    scores = None
    if importance is not None:
        scores = {(part, "weight"): importance[name].abs() for name, part in linears(made, family).items()}
    torch_prune.global_unstructured(
        parts, pruning_method=torch_prune.L1Unstructured, importance_scores=scores, amount=float(share)
    )
    for part, name in parts:
        torch_prune.remove(part, name)  # bakes the zeros in; no hook and no second tensor stays
    return made


def hold_zeros(family: Family, hf: PreTrainedModel) -> None:
    """Keep the weights that are 0 now at 0 for as long as this model is trained.

    Their gradient is 0 from here on: Adam never moves them, and clipping does not see them.
    """
    for part in linears(hf, family).values():
        kept = part.weight.detach() != 0
        if not bool(kept.all()):
            part.weight.register_hook(_masked_by(kept))


def _masked_by(kept: Tensor):
    return lambda gradient: gradient * kept


# ---- neurons ---------------------------------------------------------------------------------------------


def prune_neurons(
    hf: PreTrainedModel, family: Family, share: float, sensitivity: Scores | None = None
) -> PreTrainedModel:
    """A smaller model without the least important `share` of the feed-forward neurons of every layer.

    Args:
        hf: the model.
        family: its family.
        share: between 0 and 1.
        sensitivity: what `sensitivities` gives; by default a neuron counts by the product of the lengths of
            the weights into and out of it.

    Raises:
        InputError: the share is not between 0 and 1, or takes out none or all.
    """
    weights = dict(hf.state_dict())
    changes: dict[str, int] = {}
    for side_name, side in (("encoder", family.encoder), ("decoder", family.decoder)):
        for layer, module in enumerate(layers(hf, side)):
            prefix = layer_prefix(side, layer)
            inward, outward = _feed_forward(module, side)
            out = submodule(module, outward)
            before = int(out.in_features)  # pyright: ignore[reportArgumentType]
            count = _left(before, share, "neurons")
            if sensitivity is None:
                lengths = [submodule(module, name).weight.norm(dim=1) for name in inward]  # pyright: ignore
                scores = torch.stack(lengths).prod(0) * out.weight.norm(dim=0)  # pyright: ignore
            else:
                scores = sensitivity[prefix + outward].sum(0).abs()
            kept = _best(scores, count)
            for name in inward:
                for part in ("weight", "bias"):
                    if f"{prefix}{name}.{part}" in weights:
                        weights[f"{prefix}{name}.{part}"] = weights[f"{prefix}{name}.{part}"][kept]
            weights[f"{prefix}{outward}.weight"] = weights[f"{prefix}{outward}.weight"][:, kept]
            changes["d_ff" if is_t5(family) else f"{side_name}_ffn_dim"] = count
    return rebuilt(hf, changes, weights)


def _feed_forward(layer: nn.Module, side: Side) -> tuple[list[str], str]:
    """Names of the linear layers into the neurons, and of the one out of them."""
    inward = []
    for path in side.mlp:
        for name, part in submodule(layer, path).named_modules():
            whole = f"{path}.{name}" if name else path
            if isinstance(part, nn.Linear) and whole != side.mlp_out:
                inward.append(whole)
    return inward, side.mlp_out


# ---- heads -----------------------------------------------------------------------------------------------


def prune_heads(
    hf: PreTrainedModel, family: Family, share: float, importance: Scores | None = None
) -> PreTrainedModel:
    """A model without the least important `share` of the heads of every attention block.

    T5's are taken out, and the model is smaller. In the other families a head's width is tied to the model's,
    so heads are silenced: their weights are 0. T5's self-attention shares its position biases between layers,
    so the same heads go in all layers of a stack.

    Args:
        hf: the model.
        family: its family.
        share: between 0 and 1.
        importance: [head] by block (`decoder.1.cross`); by default a head counts by the product of the
            lengths of its value and output weights.

    Raises:
        InputError: the share is not between 0 and 1, or takes out none or all.
    """
    blocks = dict(_attention(hf, family))
    scores = {block: head_lengths(hf, path, family) for block, path in blocks.items()}
    if importance is not None:
        scores = {block: importance[block] for block in blocks}
    if is_t5(family):
        for stack in ("encoder", "decoder"):
            shared = [block for block in blocks if block.startswith(stack) and block.endswith("self")]
            together = torch.stack(
                [scores[block] / scores[block].norm().clamp_min(1e-12) for block in shared]
            )
            scores.update(dict.fromkeys(shared, together.sum(0)))
    count = _left(len(next(iter(scores.values()))), share, "heads")
    kept = {block: _best(score, count) for block, score in scores.items()}
    if is_t5(family):
        return _without_heads(hf, blocks, kept, count)
    gone = [
        Head(block, index)
        for block, score in scores.items()
        for index in range(len(score))
        if index not in kept[block].tolist()
    ]
    return silence_heads(hf, family, gone)


def silence_heads(hf: PreTrainedModel, family: Family, heads: Sequence[Head]) -> PreTrainedModel:
    """A copy in which these heads bring nothing: their query, key, value and output weights are 0.

    Raises:
        UnknownNameError: there is no such head.
    """
    made = copy.deepcopy(hf)
    blocks = dict(_attention(made, family))
    for head in heads:
        if head.block not in blocks:
            raise UnknownNameError("attention block", head.block, blocks)
        module = submodule(made, blocks[head.block])
        count = _heads(module)
        if not 0 <= head.index < count:
            raise UnknownNameError("head", head.name, [Head(head.block, i).name for i in range(count)])
        for name, part in module.named_children():
            if isinstance(part, nn.Linear):
                outward = name == family.output_projection
                width = (part.in_features if outward else part.out_features) // count
                rows = slice(head.index * width, (head.index + 1) * width)
                with torch.no_grad():
                    if outward:
                        part.weight[:, rows] = 0
                    else:
                        part.weight[rows] = 0
                        if part.bias is not None:
                            part.bias[rows] = 0
    return made


def head_lengths(hf: PreTrainedModel, path: str, family: Family) -> Tensor:
    """‖W_V‖ · ‖W_O‖ of each head of an attention module, [head]."""
    module = submodule(hf, path)
    count = _heads(module)
    value = module.get_submodule("v" if is_t5(family) else "v_proj").weight  # pyright: ignore
    out = module.get_submodule(family.output_projection).weight  # pyright: ignore
    values = value.detach().unflatten(0, (count, -1)).flatten(1).norm(dim=1)  # pyright: ignore
    return values * out.detach().unflatten(1, (count, -1)).transpose(0, 1).flatten(1).norm(dim=1)  # pyright: ignore


def _without_heads(
    hf: PreTrainedModel, blocks: Mapping[str, str], kept: Mapping[str, Tensor], count: int
) -> PreTrainedModel:
    weights = dict(hf.state_dict())
    width = int(hf.config.d_kv)
    for block, path in blocks.items():
        rows = torch.cat([torch.arange(head * width, (head + 1) * width) for head in kept[block].tolist()])
        for name in ("q", "k", "v"):
            weights[f"{path}.{name}.weight"] = weights[f"{path}.{name}.weight"][rows]
        weights[f"{path}.o.weight"] = weights[f"{path}.o.weight"][:, rows]
        bias = f"{path}.relative_attention_bias.weight"
        if bias in weights:
            weights[bias] = weights[bias][:, kept[block]]
    return rebuilt(hf, {"num_heads": count}, weights)


def _attention(hf: PreTrainedModel, family: Family) -> Iterator[tuple[str, str]]:
    """Block (`decoder.1.cross`) and module path of every attention."""
    for side_name, side in (("encoder", family.encoder), ("decoder", family.decoder)):
        for layer in range(len(layers(hf, side))):
            for kind, path in (("self", side.self_attention), ("cross", side.cross_attention)):
                if path is not None:
                    yield f"{side_name}.{layer}.{kind}", layer_prefix(side, layer) + path


def _heads(module: nn.Module) -> int:
    return int(getattr(module, "n_heads", None) or module.num_heads)  # pyright: ignore[reportArgumentType]


# ---- how much --------------------------------------------------------------------------------------------


def require_share(share: float) -> None:
    """Refuse a share that is not strictly between 0 and 1.

    Raises:
        InputError: it is not.
    """
    if not 0 < share < 1:
        raise InputError(f"the share to prune (--prune) must be between 0 and 1, got {share}")


def _left(count: int, share: float, what: str) -> int:
    require_share(share)
    left = count - round(share * count)
    if left == 0:
        raise InputError(f"a share of {share} takes out all {count} {what} of a block; prune fewer")
    if left == count:
        raise InputError(f"a share of {share} takes out none of the {count} {what} of a block; prune more")
    return left


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores, in order."""
    return scores.topk(count).indices.sort().values.cpu()
