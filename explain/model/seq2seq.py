"""`Seq2Seq`: a trained encoder–decoder and its tokenizer, opened up."""

from __future__ import annotations

import importlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from explain.errors import InputError, ModelError, TextTooLongError, UnsupportedModelError
from explain.files import digest_bytes
from explain.model import parity, text
from explain.model.attention import PointFunction
from explain.model.beams import Followed, tree
from explain.model.controls import Controls, controls_from
from explain.model.families import (
    Family,
    all_modules,
    eos_ids,
    family_of,
    layers,
    max_positions,
    vocabulary_size,
)
from explain.model.generation import Decoded, run_generate, score
from explain.model.hooks import analysed, hook_points, hooked, select
from explain.model.loading import check_weights, config_text, open_model
from explain.model.recording import Progress, record
from explain.results import Attribution, Beam, BeamSearch, Capture, Generation, Token


class Seq2Seq:
    """A trained encoder–decoder with its tokenizer.

    `hf` is the Hugging Face model and `tokenizer` its tokenizer. No method changes either: parameters, mode,
    attention implementation and hooks are afterwards what they were before, errors included. `lock` is held
    while a method runs the model, so threads may share one object.
    """

    def __init__(
        self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: Family, name: str = "model"
    ):
        self.hf = hf
        self.tokenizer = tokenizer
        self.family = family
        self.name = name
        self.lock = threading.RLock()
        self._parity_proven = False
        self._digest: tuple[int, str] | None = None
        self._intervened: list[str] = []

    # ---- what it is --------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """Digest of weights, configuration and vocabulary; computed anew when a weight has changed."""
        state = hash(
            tuple(
                (tensor.data_ptr(), tensor._version)
                for module in all_modules(self.hf)
                for own in (module._parameters, module._buffers)
                for tensor in own.values()
                if tensor is not None
            )
        )
        if self._digest is None or self._digest[0] != state:
            self._digest = state, self._compute_digest()
        return self._digest[1]

    def _compute_digest(self) -> str:
        parts = [config_text(self.hf).encode()]
        for key, tensor in sorted(self.hf.state_dict().items()):
            parts += [key.encode(), tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()]
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        parts.append("\n".join(piece for piece, _ in vocabulary).encode("utf-8", "surrogatepass"))
        return digest_bytes(*parts)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.hf.device

    @property
    def decoder_start_id(self) -> int:
        """Id of the token at decoder position 0."""
        for config in (self.hf.generation_config, self.hf.config):
            value = getattr(config, "decoder_start_token_id", None)
            if value is not None:
                return int(value)
        raise ModelError(f"{self.name} names no decoder_start_token_id in its configuration")

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a text."""
        return int(self.tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]

    def describe(self) -> dict[str, Any]:
        """Size and shape of the model, for people."""
        config = self.hf.config
        return {
            "name": self.name,
            "family": self.family.name,
            "class": type(self.hf).__name__,
            "parameters": sum(p.numel() for p in self.hf.parameters()),
            "encoder_layers": len(layers(self.hf, self.family.encoder)),
            "decoder_layers": len(layers(self.hf, self.family.decoder)),
            "heads": int(config.num_attention_heads),
            "width": int(config.hidden_size),
            "vocabulary": len(self.tokenizer),
            "dtype": str(self.hf.dtype).removeprefix("torch."),
            "device": str(self.device),
            "digest": self.digest,
        }

    def hook_points(self) -> list[str]:
        """All hook points, in the order of computation."""
        return hook_points(self.hf, self.family)

    def require_parity(self) -> None:
        """Run the parity gate once for this object.

        Raises:
            ParityError: logits depend on how they are asked for.
        """
        if not self._parity_proven:
            parity.assert_parity(self)
            self._parity_proven = True

    # ---- outputs -----------------------------------------------------------------------------------------

    @overload
    def generate(self, source: str, **options: Any) -> Generation: ...
    @overload
    def generate(self, source: Sequence[str], **options: Any) -> list[Generation]: ...
    def generate(
        self,
        source: str | Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        allow_unknown: bool = False,
        batch_size: int = 32,
        should_stop: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        **controls: Any,
    ) -> Generation | list[Generation]:
        """Write the output of a source text, or of several (list in, list out).

        Args:
            source: one text or a list of texts.
            source_language: for multilingual models, such as `"en_XX"`.
            target_language: for multilingual models; forces the first token.
            allow_unknown: accept words outside the vocabulary.
            batch_size: sources decoded at once; it does not change the result.
            should_stop: asked at every step; True ends decoding with what there is.
            progress: called with (done, all) after every batch.
            **controls: `num_beams`, `do_sample`, `temperature`, `top_k`, `top_p`, `length_penalty`,
                `repetition_penalty`, `no_repeat_ngram_size`, `early_stopping`, `max_new_tokens`,
                `min_new_tokens`, `seed`.

        Raises:
            InputError: a text or control that cannot be used (see `explain.errors`).
        """
        chosen = controls_from(controls).within(self._limit - 1)
        texts = _texts(source, "source")
        _require_batch_size(batch_size)
        with self.lock, text.languages(self.tokenizer, source_language, target_language):
            tokens = [self._source_tokens(item, allow_unknown) for item in texts]
            start, forced_bos = self._output_start(target_language)
            stopping = _stopping(should_stop)
            results: dict[int, Generation] = {}
            order = sorted(range(len(texts)), key=lambda i: -len(tokens[i]))
            with analysed(self.hf), torch.no_grad():
                for begin in range(0, len(order), batch_size):
                    part = order[begin : begin + batch_size]
                    rows = [_ids(tokens[i]) for i in part]
                    decoded = run_generate(
                        self.hf, rows, chosen, start=start, forced_bos=forced_bos, stopping=stopping
                    )
                    finished = self._finish(
                        [texts[i] for i in part],
                        [tokens[i] for i in part],
                        decoded,
                        chosen,
                        start,
                        forced_bos,
                    )
                    results.update(zip(part, finished, strict=True))
                    if progress is not None:
                        progress(len(results), len(texts))
        ordered = [results[i] for i in range(len(texts))]
        return ordered[0] if isinstance(source, str) else ordered

    @overload
    def force(self, source: str, target: str, **options: Any) -> Generation: ...
    @overload
    def force(self, source: Sequence[str], target: Sequence[str], **options: Any) -> list[Generation]: ...
    def force(  # pyright: ignore[reportInconsistentOverload]
        self,
        source: str | Sequence[str],
        target: str | Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        allow_unknown: bool = False,
        batch_size: int = 32,
    ) -> Generation | list[Generation]:
        """Score a given output as if the model had written it; its tokens are marked `forced`.

        Raises:
            InputError: a text that cannot be used, or lists of different lengths.
        """
        single = isinstance(source, str)
        sources, targets = _texts(source, "source"), _texts(target, "output")
        _require_batch_size(batch_size)
        if single != isinstance(target, str) or len(sources) != len(targets):
            raise InputError(f"{len(sources)} sources but {len(targets)} outputs; give one output per source")
        with self.lock, text.languages(self.tokenizer, source_language, target_language):
            tokens = [self._source_tokens(item, allow_unknown) for item in sources]
            rows = [self._target_ids(item, allow_unknown) for item in targets]
            results: list[Generation] = []
            with analysed(self.hf):
                for begin in range(0, len(sources), batch_size):
                    part = slice(begin, begin + batch_size)
                    results += self._scored(
                        sources[part],
                        tokens[part],
                        [start for start, _ in rows[part]],
                        [ids for _, ids in rows[part]],
                        [[True] * len(ids) for _, ids in rows[part]],
                        settings={"decoding": "forced"},
                    )
        return results[0] if single else results

    def continue_from(
        self,
        source: str,
        prefix_ids: Sequence[int] | Tensor,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        allow_unknown: bool = False,
        should_stop: Callable[[], bool] | None = None,
        **controls: Any,
    ) -> Generation:
        """Write the rest of an output whose beginning is given, as ids.

        The beginning is taken as it is: output ids as in `Generation.target_ids`, without the decoder start
        and with a language code or other first token that the model is made to write. From any beginning of
        a greedy output the same output comes about. Its tokens are marked `forced`; one that ends in EOS is
        only scored. The other arguments are those of `generate`; `max_new_tokens` counts what is added.

        Args:
            source: one text.
            prefix_ids: ids of the first output tokens; empty for none.
            source_language: for multilingual models.
            target_language: for multilingual models.
            allow_unknown: accept words outside the vocabulary.
            should_stop: asked at every step; True ends decoding with what there is.
            **controls: how to decode the rest.

        Raises:
            InputError: a text, id or control that cannot be used; an EOS before the end of the beginning.
            TextTooLongError: the model has no position left after it.
        """
        return self._continued(
            source, prefix_ids, source_language, target_language, allow_unknown, should_stop, controls
        )[0]

    def beam_search(
        self,
        source: str,
        *,
        prefix_ids: Sequence[int] | Tensor = (),
        source_language: str | None = None,
        target_language: str | None = None,
        allow_unknown: bool = False,
        should_stop: Callable[[], bool] | None = None,
        num_beams: int = 4,
        **controls: Any,
    ) -> BeamSearch:
        """Write the output of a source text by beam search and keep everything that the search followed.

        The search is Hugging Face's; it is watched, not repeated: beams, ids and scores are its own. The
        arguments are those of `continue_from`.

        Raises:
            InputError: a text, id or control that cannot be used; one beam, or sampling.
        """
        if controls.get("do_sample"):
            raise InputError("a beam search that draws is not a tree; leave do_sample out")
        if num_beams == 1:
            raise InputError("num_beams is 1; a beam search follows at least 2")
        controls = {"num_beams": num_beams, **controls}
        generation, watched = self._continued(
            source, prefix_ids, source_language, target_language, allow_unknown, should_stop, controls
        )
        if watched is None:  # the beginning was the whole output
            return BeamSearch(generation, ())
        prefix = _prefix_ids(prefix_ids)
        returned = [beam.ids[len(prefix) :] for beam in generation.beams]
        penalty = float(generation.settings["length_penalty"])
        with self.lock:
            return BeamSearch(generation, tree(watched, returned, self.tokenizer, prefix, penalty))

    def _continued(
        self,
        source: str,
        prefix_ids: Sequence[int] | Tensor,
        source_language: str | None,
        target_language: str | None,
        allow_unknown: bool,
        should_stop: Callable[[], bool] | None,
        controls: Mapping[str, Any],
    ) -> tuple[Generation, Followed | None]:
        """The output that begins with given ids and, of a beam search, what was followed."""
        if not isinstance(source, str):
            raise InputError("give one source text: a beginning belongs to one output")
        prefix, ends = _prefix_ids(prefix_ids), eos_ids(self.hf)
        whole = bool(prefix) and prefix[-1] in ends
        chosen = self._room_after(prefix, whole, controls_from(dict(controls)))
        watched = None
        with self.lock, text.languages(self.tokenizer, source_language, target_language):
            tokens = self._source_tokens(source, allow_unknown)
            start, forced_bos = self._output_start(target_language)
            with analysed(self.hf), torch.no_grad():
                if whole:
                    decoded = [Decoded(prefix, [])]
                else:
                    if chosen.num_beams > 1 and not chosen.do_sample:
                        watched = Followed(chosen.num_beams, ends, len(prefix) + 1)
                    decoded = run_generate(
                        self.hf,
                        [_ids(tokens)],
                        chosen,
                        start=start,
                        forced_bos=forced_bos,
                        stopping=_stopping(should_stop),
                        prefix=prefix,
                        processors=None if watched is None else LogitsProcessorList([watched]),
                    )
                found = self._finish(
                    [source], [tokens], decoded, chosen, start, forced_bos, prefix=len(prefix)
                )
        return found[0], watched

    def _room_after(self, prefix: Sequence[int], whole: bool, controls: Controls) -> Controls:
        """The controls for what fits after a given beginning, which must be one."""
        size = vocabulary_size(self.hf)
        for place, id_ in enumerate(prefix):
            if not 0 <= id_ < size:
                raise InputError(
                    f"{id_} at place {place} of the beginning is no id; they are 0 to {size - 1}"
                )
            if id_ in eos_ids(self.hf) and place < len(prefix) - 1:
                raise InputError(f"the beginning ends the output at place {place}; nothing can follow that")
        room = self._limit - 1 - len(prefix)
        if room < (0 if whole else 1):
            raise TextTooLongError(
                f"the beginning has {len(prefix)} tokens, but the model has positions for "
                f"{int(self._limit - 1)}"
            )
        return controls if whole else controls.within(room)

    def source_ids(self, source: str, *, allow_unknown: bool = False) -> Tensor:
        """Ids [source] of a source text as the encoder reads it.

        Raises:
            InputError: a text that cannot be used.
        """
        with self.lock:
            return _ids(self._source_tokens(source, allow_unknown))

    # ---- inside ------------------------------------------------------------------------------------------

    @overload
    def capture(self, generations: Generation, points: str | Iterable[str], **options: Any) -> Capture: ...
    @overload
    def capture(
        self, generations: Sequence[Generation], points: str | Iterable[str], **options: Any
    ) -> list[Capture]: ...
    def capture(  # pyright: ignore[reportInconsistentOverload]
        self,
        generations: Generation | Sequence[Generation],
        points: str | Iterable[str],
        *,
        batch_size: int = 16,
        dtype: torch.dtype | None = None,
        memory_budget: int | None = None,
        progress: Progress | None = None,
    ) -> Capture | list[Capture]:
        """Record hook points in one teacher-forced pass over the final ids.

        Args:
            generations: one generation or a list.
            points: glob patterns over `hook_points()`, such as `"decoder.*.cross.pattern"`.
            batch_size: generations per pass; it does not change the result.
            dtype: convert what is kept; default as computed.
            memory_budget: bytes to keep in memory; the rest goes to files that vanish with the result.
            progress: called with (done, all) after every batch.

        Returns:
            Tensors on the CPU by hook point, without padding (see `Capture` for shapes).

        Raises:
            UnknownNameError: a pattern matches no hook point.
        """
        several = as_list(generations)
        _require_batch_size(batch_size)
        names = select(points, self.hook_points())
        self.require_parity()
        with self.lock:
            captures = record(
                self.hf,
                self.family,
                several,
                names,
                batch_size=batch_size,
                dtype=dtype,
                memory_budget=memory_budget,
                progress=progress,
                model_digest=self.digest,
            )
        return captures[0] if isinstance(generations, Generation) else captures

    @contextmanager
    def intervene(self, functions: Mapping[str, PointFunction]) -> Iterator[Seq2Seq]:
        """Replace activations for as long as the block runs: `{"decoder.1.cross.pattern": fn}`.

        Keys are hook points or glob patterns; `fn(tensor) -> tensor` keeps the shape. Everything inside the
        block sees the change: `generate`, `force`, `capture`, `attribute`, and calls of `hf`.

        Raises:
            UnknownNameError: a key matches no hook point.
            InputError: a function returned something of another shape.
        """
        known = self.hook_points()
        chosen: dict[str, PointFunction] = {}
        for pattern, function in functions.items():
            for name in select(pattern, known):
                chosen[name] = _then(chosen.get(name), function)
        with self.lock:
            self.require_parity()  # now: inside, the gate would judge the intervention instead of the model
            before = self._intervened
            self._intervened = [*before, *chosen]
            try:
                with hooked(self.hf, self.family, chosen):
                    yield self
            finally:
                self._intervened = before

    @property
    def intervened(self) -> tuple[str, ...]:
        """The hook points that an intervention replaces just now."""
        return tuple(self._intervened)

    def attribute(
        self,
        generations: Generation | Sequence[Generation],
        method: str = "integrated_gradients",
        target: str = "log_prob",
        contrast: Any = None,
        **options: Any,
    ) -> Any:
        """Score what every source token and earlier target token did to each target token.

        See `explain.attribution.attribute` for all options. One generation gives one `Attribution`, a list
        gives a list.
        """
        # Attribution is a room above this one and is bound by name, late, so that imports go only down.
        room = importlib.import_module("explain.attribution")
        result: Attribution | list[Attribution] = room.attribute(
            self, generations, method=method, target=target, contrast=contrast, **options
        )
        return result

    # ---- helpers -----------------------------------------------------------------------------------------

    def _source_tokens(self, source: str, allow_unknown: bool) -> list[Token]:
        tokens = text.encode(
            self.tokenizer, source, limit=self._limit, allow_unknown=allow_unknown, name="the source"
        )
        self._require_embeddings(tokens)
        return tokens

    def _require_embeddings(self, tokens: Sequence[Token]) -> None:
        """Refuse ids without an embedding where they occur: some models lack one for a mask token."""
        size = vocabulary_size(self.hf)
        for token in tokens:
            if token.id >= size:
                raise ModelError(
                    f"{self.name}: model and tokenizer do not belong together: {token.text!r} has id "
                    f"{token.id}, but there are only {size} embeddings"
                )

    @property
    def _limit(self) -> float:
        """Most tokens on one side: the model's positions, or its tokenizer's where those are relative."""
        positions, stated = max_positions(self.hf), self.tokenizer.model_max_length
        # Tokenizers say 10^30 where nobody set a length.
        return stated if positions == math.inf and stated < 1_000_000 else positions

    def _target_ids(self, target: str, allow_unknown: bool) -> tuple[int, list[int]]:
        """Decoder-start id and output ids of a given output, ending in EOS."""
        tokens = text.encode(
            self.tokenizer,
            target,
            limit=self._limit,
            as_target=True,
            allow_unknown=allow_unknown,
            name="the output",
        )
        self._require_embeddings(tokens)
        ids = [token.id for token in tokens]
        start, eos = self.decoder_start_id, self.eos_id
        if eos in ids and ids[-1] != eos:  # mBART: "… </s> fr_XX"; the language code is the decoder start
            cut = len(ids) - ids[::-1].index(eos)
            start, ids = ids[-1], ids[:cut]
        if ids[0] == start and len(ids) > 1 and start != self.tokenizer.bos_token_id:
            ids = ids[1:]  # mBART-50 writes the code first, and the decoder starts with it
        return start, ids if ids[-1] == eos else [*ids, eos]

    def foil_ids(self, foil: str) -> list[int]:
        """Ids of a foil text without special tokens.

        Raises:
            InputError: the text is empty, a special token, or holds unknown words.
        """
        tokens = text.encode(self.tokenizer, foil, limit=self._limit, as_target=True, name="the contrast")
        ids = [token.id for token in tokens if not token.special]
        if not ids:
            raise InputError(f"the contrast {foil!r} is a special token; give its id, or an alternative's")
        return ids

    def _output_start(self, language: str | None) -> tuple[int, int | None]:
        """Decoder-start id and forced first id of outputs in a language (None: the tokenizer's own).

        mBART was trained with the language code as decoder start, its tokenizer writes "… </s> fr_XX";
        mBART-50, M2M100 and NLLB write the code first, and force it as the first token.
        """
        code = self._language_id(language)
        if getattr(self.tokenizer, "tgt_lang", None) is None:
            return self.decoder_start_id, code
        ids = list(self.tokenizer(text_target="a")["input_ids"])
        if self.eos_id in ids and ids[-1] != self.eos_id:
            return int(ids[-1]), None
        return self.decoder_start_id, code

    def _language_id(self, language: str | None) -> int | None:
        if language is None:
            return None
        ids = getattr(self.tokenizer, "lang_code_to_id", None) or self.tokenizer.get_vocab()
        for name in (language, f"__{language}__"):
            if name in ids:
                return int(ids[name])
        raise InputError(f"the tokenizer knows no language {language!r}")

    def _finish(
        self,
        texts: Sequence[str],
        tokens: Sequence[list[Token]],
        decoded: Sequence[Decoded],
        controls: Controls,
        start: int,
        forced_bos: int | None,
        prefix: int = 0,
    ) -> list[Generation]:
        if forced_bos is None and start == self.decoder_start_id:
            forced_bos = getattr(self.hf.generation_config, "forced_bos_token_id", None)
        forced = [
            [place < prefix or (place == 0 and id_ == forced_bos) for place, id_ in enumerate(item.ids)]
            for item in decoded
        ]
        beams = [
            tuple(
                Beam(text.decode(self.tokenizer, ids, [False] * len(ids))[0], tuple(ids), value)
                for ids, value in item.beams
            )
            for item in decoded
        ]
        return self._scored(
            texts,
            tokens,
            [start] * len(texts),
            [item.ids for item in decoded],
            forced,
            settings=controls.to_dict() | ({"prefix_tokens": prefix} if prefix else {}),
            beams=beams,
        )

    def _scored(
        self,
        texts: Sequence[str],
        tokens: Sequence[list[Token]],
        starts: Sequence[int],
        outputs: Sequence[list[int]],
        forced: Sequence[Sequence[bool]],
        *,
        settings: dict[str, Any],
        beams: Sequence[tuple[Beam, ...]] | None = None,
    ) -> list[Generation]:
        targets = [torch.tensor(ids) for ids in outputs]
        inputs = [torch.tensor([start, *ids[:-1]]) for start, ids in zip(starts, outputs, strict=True)]
        scores = score(self.hf, [_ids(row) for row in tokens], inputs, targets)
        ends = eos_ids(self.hf)
        names: dict[int, str] = {}
        results = []
        for index, values in enumerate(scores):
            output, target_tokens = text.decode(self.tokenizer, outputs[index], forced[index])
            for id_ in values.top_ids.unique().tolist():
                if id_ not in names:
                    names[id_] = text.token_text(self.tokenizer, id_)
            results.append(
                Generation(
                    source_text=texts[index],
                    target_text=output,
                    source_tokens=tuple(tokens[index]),
                    target_tokens=tuple(target_tokens),
                    decoder_start=self._start_token(starts[index]),
                    log_probs=values.log_probs,
                    entropy=values.entropy,
                    ranks=values.ranks,
                    top_ids=values.top_ids,
                    top_log_probs=values.top_log_probs,
                    top_texts=tuple(tuple(names[i] for i in row) for row in values.top_ids.tolist()),
                    beams=beams[index] if beams else (),
                    finished=outputs[index][-1] in ends,
                    settings=settings,
                    model_digest=self.digest,
                )
            )
        return results

    def _start_token(self, id_: int) -> Token:
        return Token(text.pieces_of(self.tokenizer, [id_])[0], id_, 0, 0, special=True, forced=True)


def as_list(generations: Generation | Sequence[Generation]) -> list[Generation]:
    """One generation or several, as a list.

    Raises:
        InputError: something else was given.
    """
    several = [generations] if isinstance(generations, Generation) else generations
    if not isinstance(several, (list, tuple)) or not all(isinstance(g, Generation) for g in several):
        raise InputError("give a Generation (from generate or force) or a list of them")
    return list(several)


def _texts(given: str | Sequence[str], name: str) -> list[str]:
    if isinstance(given, str):
        return [given]
    if given is None or isinstance(given, (bytes, int, float)) or not hasattr(given, "__iter__"):
        raise InputError(f"the {name} must be a text or a list of texts, not {type(given).__name__}")
    return list(given)


def _require_batch_size(size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size is {size!r}; it must be at least 1")


def _ids(tokens: Sequence[Token]) -> Tensor:
    return torch.tensor([token.id for token in tokens])


def _prefix_ids(given: Sequence[int] | Tensor) -> list[int]:
    values = given.tolist() if isinstance(given, Tensor) else list(given)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise InputError("the beginning of an output is a list of token ids")
    return values


def _then(first: PointFunction | None, second: PointFunction) -> PointFunction:
    # A clone, so that a function may write into its tensor: q, k and v are also the cache's, and autograd's.
    def call(tensor: Tensor) -> Tensor:
        return second((tensor if first is None else first(tensor)).clone())

    return call


def _stopping(should_stop: Callable[[], bool] | None) -> StoppingCriteriaList | None:
    if should_stop is None:
        return None

    class Asked(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return torch.full((input_ids.shape[0],), should_stop(), device=input_ids.device)

    return StoppingCriteriaList([Asked()])


def load(name: str | os.PathLike[str], device: str = "auto", dtype: str = "float32") -> Seq2Seq:
    """Open a model folder made by `save_pretrained`, a run folder (its best checkpoint) or a hub id.

    Only safetensors weights are read and no code from the folder runs.

    Raises:
        FileError, RunError: nothing to load there.
        UnsupportedModelError: not an encoder–decoder that can be explained; says why.
        ModelError: broken or incomplete.
    """
    hf, tokenizer, family = open_model(name, device=device, dtype=dtype)
    return Seq2Seq(hf, tokenizer, family, str(name))


def wrap(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "model") -> Seq2Seq:
    """Open a model and tokenizer that are in memory already; neither is changed.

    Raises:
        UnsupportedModelError: not an encoder–decoder that can be explained; says why.
        BrokenWeightsError: NaN or infinite weights.
    """
    if not isinstance(hf, PreTrainedModel):
        raise UnsupportedModelError(f"{type(hf).__name__} is not a Hugging Face model (PreTrainedModel)")
    family = family_of(
        hf.config.model_type,
        is_encoder_decoder=bool(hf.config.is_encoder_decoder),
        architectures=(type(hf).__name__,),
    )
    if not hasattr(hf, "lm_head"):
        raise UnsupportedModelError(
            f"{type(hf).__name__} writes no text; use its ForConditionalGeneration class"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"the tokenizer is a {type(tokenizer).__name__}, not one of transformers' tokenizers"
        )
    check_weights(hf, name)
    return Seq2Seq(hf, tokenizer, family, name)
