"""From text to tokens and back: ids, character offsets, and refusals that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase

from explain.errors import EmptyTextError, InputError, TextTooLongError, UnknownTokenError
from explain.results import Token

_SPACE = "▁"


@contextmanager
def languages(tokenizer: PreTrainedTokenizerBase, source: str | None, target: str | None) -> Iterator[None]:
    """Set the languages of a multilingual tokenizer for the block.

    Raises:
        InputError: the tokenizer has no languages, or not this one.
    """
    wanted = {"src_lang": source, "tgt_lang": target}
    before = {}
    try:
        for name, value in wanted.items():
            if value is None:
                continue
            if not hasattr(tokenizer, name):
                raise InputError(f"this model's tokenizer has no languages; leave {value!r} out")
            before[name] = getattr(tokenizer, name)
            try:
                setattr(tokenizer, name, value)
            except (KeyError, ValueError):
                raise InputError(f"the tokenizer knows no language {value!r}") from None
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                setattr(tokenizer, name, value)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    limit: float,
    as_target: bool = False,
    allow_unknown: bool = False,
    name: str = "the text",
) -> list[Token]:
    """Tokens of a text as the model gets them, special tokens included.

    Raises:
        EmptyTextError: nothing but white space.
        TextTooLongError: more tokens than `limit`; nothing is truncated.
        UnknownTokenError: words the tokenizer does not know, unless `allow_unknown`.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, not {type(text).__name__}")
    if not text.strip():
        raise EmptyTextError(f"{name} is empty; give it at least one word")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds half a character (a lone surrogate at {error.start})") from None
    ids, spans = _ids_and_spans(tokenizer, text, as_target)
    if len(ids) > limit:
        raise TextTooLongError(
            f"{name} has {len(ids)} tokens, but the model has positions for {int(limit)}; shorten or split it"
        )
    special = special_ids(tokenizer)
    if not allow_unknown:
        _refuse_unknown(tokenizer, text, ids, spans, name)
    unknown = tokenizer.unk_token_id
    tokens = []
    cursor = 0
    for id_, piece, (start, end) in zip(ids, pieces_of(tokenizer, ids), spans, strict=True):
        outside = id_ in special and (id_ != unknown or start == end)
        if start == end:  # nothing of the text: it stands where the text has come to
            start = end = max(start, cursor)
        cursor = max(cursor, end)
        shown = piece if outside or start == end else text[start:end]
        tokens.append(Token(shown, int(id_), start, end, special=outside))
    return tokens


def _ids_and_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, as_target: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    arguments: dict[str, Any] = {"text_target": text} if as_target else {"text": text}
    with _quiet():
        if tokenizer.is_fast:
            encoding = tokenizer(**arguments, return_offsets_mapping=True, truncation=False)
            spans = [_trimmed(text, int(a), int(b)) for a, b in encoding["offset_mapping"]]
            return list(encoding["input_ids"]), spans
        ids = list(tokenizer(**arguments, truncation=False)["input_ids"])
    return ids, _aligned(tokenizer, text, ids)


@contextmanager
def _quiet() -> Iterator[None]:
    # "Token indices sequence length is longer than…": we measure the length ourselves, and refuse.
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space that some tokenizers count to the token."""
    piece = text[start:end]
    if piece and not piece.isspace():
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
    return start, end


def _aligned(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Spans for tokenizers without offsets: each piece is looked for after the end of the one before."""
    spans, cursor = [], 0
    special = special_ids(tokenizer)
    for id_, piece in zip(ids, pieces_of(tokenizer, ids), strict=True):
        surface = piece.replace(_SPACE, " ").strip()
        while cursor < len(text) and text[cursor].isspace() and surface:
            cursor += 1
        found = text.find(surface, cursor) if surface and id_ not in special else -1
        if found < 0 or found > cursor + 8:  # normalised away, or a far match by accident
            spans.append((cursor, cursor))
            continue
        cursor = found + len(surface)
        spans.append((found, cursor))
    return spans


def _refuse_unknown(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    name: str,
) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id or unknown not in ids:
        return
    words = [text[a:b] for id_, (a, b) in zip(ids, spans, strict=True) if id_ == unknown and b > a]
    shown = ", ".join(dict.fromkeys(repr(word) for word in words[:5])) or "a character"
    raise UnknownTokenError(
        f"{name} holds what the tokenizer does not know: {shown}; "
        "reword it, or allow unknown tokens (allow_unknown=True, --allow-unknown)"
    )


def decode(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], forced: Sequence[bool]
) -> tuple[str, list[Token]]:
    """The text of output ids, and their tokens with offsets into it."""
    special = {id_ for id_ in special_ids(tokenizer) if id_ != tokenizer.unk_token_id}
    plain = [id_ for id_ in ids if id_ not in special]
    text = _decode(tokenizer, plain)
    spans = iter(_output_spans(tokenizer, text, plain))
    tokens, cursor = [], 0
    for id_, piece, was_forced in zip(ids, pieces_of(tokenizer, ids), forced, strict=True):
        if id_ in special:
            tokens.append(Token(piece, int(id_), cursor, cursor, special=True, forced=was_forced))
            continue
        start, end = next(spans)
        cursor = max(cursor, end)
        tokens.append(Token(text[start:end] or piece, int(id_), start, end, forced=was_forced))
    return text, tokens


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    known = [id_ for id_ in ids if _piece(tokenizer, id_) is not None]
    text = tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def _output_spans(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Offsets of output ids: from the tokenizer where it gives the same ids back, else piece by piece."""
    if tokenizer.is_fast and text.strip():
        with _quiet():
            encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        if list(encoding["input_ids"]) == list(ids):
            return [_trimmed(text, int(a), int(b)) for a, b in encoding["offset_mapping"]]
    spans, before = [], 0
    for count in range(1, len(ids) + 1):
        # The end of what is decoded so far; half a character at the end decodes to U+FFFD.
        sofar = _decode(tokenizer, ids[:count]).rstrip("\ufffd")
        end = max(before, _shared(sofar, text))
        spans.append(_trimmed(text, before, end))
        before = end
    return spans


def _shared(left: str, right: str) -> int:
    """How many characters two texts have in common from the start."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def token_text(tokenizer: PreTrainedTokenizerBase, id_: int) -> str:
    """A single token as a person reads it: its text, or its name when it has none."""
    shown = _decode(tokenizer, [id_]).strip()
    return shown or pieces_of(tokenizer, [id_])[0]


def _piece(tokenizer: PreTrainedTokenizerBase, id_: int) -> str | None:
    """The tokenizer's own name of an id, or None: many models have embeddings beyond their vocabulary."""
    try:
        piece = tokenizer.convert_ids_to_tokens([int(id_)])[0]
    except IndexError:  # SentencePiece tokenizers written in Python raise, the others give None
        return None
    return None if piece is None else str(piece)


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The tokenizer's own names of ids; an id without a token is named by its number."""
    return [_piece(tokenizer, id_) or f"<{id_}>" for id_ in ids]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that stand outside the text: EOS, padding, language codes."""
    languages = getattr(tokenizer, "id_to_lang_token", {})
    return {*tokenizer.all_special_ids, *languages}
