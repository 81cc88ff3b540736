"""The teacher-forced pass: every analysis runs the model through these few functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from explain.model.families import Family, source_embeddings, submodule, target_embeddings
from explain.model.int8 import float_rows
from explain.results import Generation


def padded(rows: Sequence[Tensor], value: int) -> tuple[Tensor, Tensor]:
    """Right-pad id rows into [batch, length], with the mask of what is real.

    Padding goes to the right: left padding shifts absolute positions and breaks several families.
    """
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
    return ids, mask


def padding_id(hf: PreTrainedModel) -> int:
    """The id to pad with; any will do where the configuration names none, since the mask hides it."""
    return int(getattr(hf.config, "pad_token_id", None) or 0)


def batches(generations: Sequence[Generation], size: int) -> list[list[int]]:
    """Indices in batches of like lengths, longest first, so that little is padded."""
    order = sorted(
        range(len(generations)),
        key=lambda i: (-len(generations[i].source_tokens), -len(generations[i].target_tokens), i),
    )
    return [order[start : start + size] for start in range(0, len(order), size)]


def encode_source(hf: PreTrainedModel, family: Family, ids: Tensor, mask: Tensor) -> Tensor:
    """Encoder states [batch, source, width]."""
    encoder = submodule(hf, family.encoder.stack)
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def logits_from_ids(
    hf: PreTrainedModel, source_ids: Tensor, source_mask: Tensor, decoder_ids: Tensor
) -> Tensor:
    """Logits [batch, target, vocabulary] of given ids, as Hugging Face computes them."""
    # A warm cache would ignore new encoder outputs; and without decoder ids BART silently shifts the source.
    output = hf(
        input_ids=source_ids,
        attention_mask=source_mask,
        decoder_input_ids=decoder_ids,
        use_cache=False,
        return_dict=True,
    )
    return output.logits


def states_of(hf: PreTrainedModel, family: Family, source: Tensor, mask: Tensor) -> Tensor:
    """Encoder states [batch, source, width] of what `source_embeddings` makes."""
    encoder = submodule(hf, family.encoder.stack)
    return encoder(inputs_embeds=source, attention_mask=mask).last_hidden_state


def hidden_of(
    hf: PreTrainedModel,
    family: Family,
    states: Tensor,  # [batch, source, width], encoder output
    target: Tensor,  # [batch, target, width], what `target_embeddings` makes
    source_mask: Tensor,  # [batch, source]
    target_mask: Tensor | None = None,  # [batch, target]
) -> Tensor:
    """Decoder output [batch, target, width], from which `project` makes logits.

    The mask of a right-padded target may be left out: causality keeps padding from what comes before it.
    """
    decoder = submodule(hf, family.decoder.stack)
    return decoder(
        inputs_embeds=target,
        attention_mask=target_mask,
        encoder_hidden_states=states,
        encoder_attention_mask=source_mask,
        use_cache=False,
    ).last_hidden_state


def project(hf: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [..., vocabulary] of decoder output [..., width]."""
    logits = hf.lm_head(_scaled(hf, hidden))  # pyright: ignore[reportCallIssue]
    bias = getattr(hf, "final_logits_bias", None)
    return logits if bias is None else logits + bias[0]


def project_to(hf: PreTrainedModel, hidden: Tensor, ids: Tensor) -> Tensor:
    """The logits of one token per position: hidden [..., position, width], ids [position] -> [..., position].

    Only the needed rows of the output matrix are used, which saves the vocabulary's width in time and memory.
    """
    rows = float_rows(hf.lm_head, ids)  # [position, width]  # pyright: ignore[reportArgumentType]
    logits = (_scaled(hf, hidden) * rows).sum(-1)
    bias = getattr(hf, "final_logits_bias", None)
    return logits if bias is None else logits + bias[0, ids]


def _scaled(hf: PreTrainedModel, hidden: Tensor) -> Tensor:
    # Only T5's configuration has this entry; mT5 reads the output as it is.
    return hidden * hf.config.d_model**-0.5 if getattr(hf.config, "scale_decoder_outputs", False) else hidden


def projection_hooked(hf: PreTrainedModel) -> bool:
    """Whether somebody listens where logits are made, so that only the whole model may be called."""
    head = hf.lm_head
    return any(
        hooks
        for module in (hf, head)
        for hooks in (module._forward_hooks, module._forward_pre_hooks)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    )


def logits_from_states(
    hf: PreTrainedModel,
    states: Tensor,
    target: Tensor,
    source_mask: Tensor,
    target_mask: Tensor | None = None,
) -> Tensor:
    """Logits [batch, target, vocabulary] through the whole model, so that hooks at its output are called."""
    output = hf(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),  # pyright: ignore[reportArgumentType]
        attention_mask=source_mask,
        decoder_inputs_embeds=target,
        decoder_attention_mask=target_mask,
        use_cache=False,
        return_dict=True,
    )
    return output.logits


def logits_from_embeddings(
    hf: PreTrainedModel,
    family: Family,
    source: Tensor | None,  # [batch, source, width]; None when `states` are given
    target: Tensor,  # [batch, target, width]
    source_mask: Tensor,  # [batch, source]
    *,
    states: Tensor | None = None,  # [batch, source, width], encoder output computed before
    target_mask: Tensor | None = None,  # [batch, target]
) -> Tensor:
    """Logits [batch, target, vocabulary] from what `source_embeddings` and `target_embeddings` make."""
    if states is None:
        assert source is not None
        states = states_of(hf, family, source, source_mask)
    if projection_hooked(hf):
        return logits_from_states(hf, states, target, source_mask, target_mask)
    return project(hf, hidden_of(hf, family, states, target, source_mask, target_mask))


__all__ = [
    "batches",
    "encode_source",
    "hidden_of",
    "logits_from_embeddings",
    "logits_from_ids",
    "logits_from_states",
    "padded",
    "padding_id",
    "project",
    "project_to",
    "projection_hooked",
    "source_embeddings",
    "states_of",
    "target_embeddings",
]
