"""The teacher-forced pass: every analysis runs the model through these few functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from explain.model.families import Family, source_embeddings, submodule, target_embeddings
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
        encoder = submodule(hf, family.encoder.stack)
        states = encoder(inputs_embeds=source, attention_mask=source_mask).last_hidden_state
    output = hf(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),  # pyright: ignore[reportArgumentType]
        attention_mask=source_mask,
        decoder_inputs_embeds=target,
        decoder_attention_mask=target_mask,
        use_cache=False,
        return_dict=True,
    )
    return output.logits


__all__ = [
    "batches",
    "encode_source",
    "logits_from_embeddings",
    "logits_from_ids",
    "padded",
    "padding_id",
    "source_embeddings",
    "target_embeddings",
]
