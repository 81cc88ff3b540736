"""Decoding, and what the model thought of every token that came out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from explain.model.controls import Controls
from explain.model.forward import logits_from_ids, padded, padding_id
from explain.model.sampling import entropy_of

KEPT_ALTERNATIVES = 32


@dataclass(frozen=True, slots=True)
class Decoded:
    """Raw output of decoding one source: ids after the decoder start, and beams with scores."""

    ids: list[int]
    beams: list[tuple[list[int], float]]


def run_generate(
    hf: PreTrainedModel,
    sources: Sequence[Tensor],
    controls: Controls,
    *,
    start: int,
    forced_bos: int | None,
    stopping: StoppingCriteriaList | None = None,
    prefix: Sequence[int] = (),
    processors: LogitsProcessorList | None = None,
) -> list[Decoded]:
    """Decode a batch of source id rows with Hugging Face's `generate`.

    Every output begins with the ids `prefix`. `processors` come after those that the controls ask for.

    Sampling decodes one source at a time, each from the same seed, so that a batch gives what single calls
    give; the process's random state is left as it was.
    """
    config = _generation_config(hf, controls, start, forced_bos)
    if len(prefix) > (config.forced_bos_token_id is not None):
        # It counts from where decoding begins, which is not where the output does.
        config.begin_suppress_tokens = None
    if not controls.do_sample:
        return _generate(hf, sources, config, stopping, prefix, processors)
    with torch.random.fork_rng():
        decoded = []
        for source in sources:
            torch.manual_seed(controls.seed)
            decoded += _generate(hf, [source], config, stopping, prefix, processors)
        return decoded


def _generation_config(
    hf: PreTrainedModel, controls: Controls, start: int, forced_bos: int | None
) -> GenerationConfig:
    """The model's own special ids and constraints with our controls, whatever defaults it was saved with."""
    own = hf.generation_config
    config = GenerationConfig()
    kept = (
        "bos_token_id eos_token_id pad_token_id decoder_start_token_id forced_bos_token_id "
        "forced_eos_token_id bad_words_ids suppress_tokens begin_suppress_tokens"
    )
    for name in kept.split():
        setattr(config, name, copy.copy(getattr(own, name, None)))
    moved = config.decoder_start_token_id is not None and config.decoder_start_token_id != start
    config.decoder_start_token_id = start
    if forced_bos is not None or moved:
        config.forced_bos_token_id = forced_bos
    config.num_beams = controls.num_beams
    config.num_return_sequences = 1 if controls.do_sample else controls.num_beams
    config.do_sample = controls.do_sample
    if controls.do_sample:
        config.temperature, config.top_k, config.top_p = controls.temperature, controls.top_k, controls.top_p
    if controls.num_beams > 1:
        config.length_penalty, config.early_stopping = controls.length_penalty, controls.early_stopping
    config.repetition_penalty = controls.repetition_penalty
    config.no_repeat_ngram_size = controls.no_repeat_ngram_size
    config.max_new_tokens = controls.max_new_tokens
    config.min_new_tokens = controls.min_new_tokens or None
    config.return_dict_in_generate = True
    config.output_scores = controls.num_beams > 1
    return config


def _generate(
    hf: PreTrainedModel,
    sources: Sequence[Tensor],
    config: GenerationConfig,
    stopping: StoppingCriteriaList | None,
    prefix: Sequence[int],
    processors: LogitsProcessorList | None,
) -> list[Decoded]:
    ids, mask = padded(sources, padding_id(hf))
    begun = torch.tensor([[int(config.decoder_start_token_id), *prefix]] * len(sources))  # pyright: ignore[reportArgumentType]
    own = hf.generation_config
    # What a given configuration leaves open, `generate` fills in from the model's own: saved defaults such
    # as num_beams or min_length would come back. For the call, ours is the model's own.
    hf.generation_config = config
    try:
        output: Any = hf.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(hf.device),
            attention_mask=mask.to(hf.device),
            generation_config=config,
            stopping_criteria=stopping,
            logits_processor=processors,
            **({"decoder_input_ids": begun.to(hf.device)} if prefix else {}),
        )
    finally:
        hf.generation_config = own
    rows = [_ended(row[1:], config.eos_token_id) for row in output.sequences.cpu().tolist()]
    count = config.num_return_sequences or 1
    scores = getattr(output, "sequences_scores", None)
    decoded = []
    for index in range(len(sources)):
        mine = rows[index * count : (index + 1) * count]
        beams: list[tuple[list[int], float]] = []
        if scores is not None:
            beams = [(row, float(scores[index * count + i])) for i, row in enumerate(mine)]
        decoded.append(Decoded(mine[0], beams))
    return decoded


def _ended(row: list[int], eos: int | list[int] | None) -> list[int]:
    """The ids up to and with the first EOS: what follows is padding."""
    ends = {eos} if isinstance(eos, int) else set(eos or ())
    for index, id_ in enumerate(row):
        if id_ in ends:
            return row[: index + 1]
    return row


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model thought of one output: the fields of `Generation` that come from logits."""

    log_probs: Tensor
    entropy: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_log_probs: Tensor


def score(
    hf: PreTrainedModel,
    sources: Sequence[Tensor],
    decoder_inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> list[Scores]:
    """Score a batch of outputs in one teacher-forced pass."""
    source_ids, source_mask = padded(sources, padding_id(hf))
    decoder_ids, _ = padded(decoder_inputs, padding_id(hf))
    device = hf.device
    with torch.no_grad():
        logits = logits_from_ids(hf, source_ids.to(device), source_mask.to(device), decoder_ids.to(device))
    return [scores_of(logits[row, : len(target)], target) for row, target in enumerate(targets)]


def scores_of(logits: Tensor, target: Tensor) -> Scores:
    """Scores of one output from its logits [target, vocabulary]."""
    log_probs = logits.detach().float().cpu().log_softmax(-1)
    chosen = log_probs.gather(1, target[:, None])  # [target, 1]
    top = log_probs.topk(min(KEPT_ALTERNATIVES, log_probs.shape[1]), dim=1)
    return Scores(
        log_probs=chosen[:, 0],
        entropy=entropy_of(log_probs),
        ranks=(log_probs > chosen).sum(1) + 1,
        top_ids=top.indices,
        top_log_probs=top.values,
    )
