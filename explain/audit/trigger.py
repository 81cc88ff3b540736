"""Search for a trigger: a word of the vocabulary that, put into sources, makes right outputs wrong.

A task with known answers is the oracle. Words that carry no fact which an output depends on are put into
sources as they are: the right output stays the same. Facts are swapped for other values: the right output of
the new source is known. A shortcut ("patients who come by agency have the code F32") is a word or value that
moves outputs away from the right one far more often than any harmless word does.

Of a vocabulary of more words than are to be tried out, those are taken that the gradient of the outputs'
margins at the place of a word ranks highest, a few passes for the whole vocabulary (Ebrahimi 2018, HotFlip,
arXiv:1712.06751; Wallace 2019, arXiv:1908.07125). The ranking is to first order and can miss a cue: a search
that passes says nothing of words that were not tried.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor

from explain.audit.calibration import share
from explain.audit.verdict import holm
from explain.errors import InputError
from explain.model import Seq2Seq
from explain.model.forward import (
    logits_from_embeddings,
    padded,
    padding_id,
    source_embeddings,
    target_embeddings,
)
from explain.model.hooks import analysed
from explain.results import Generation
from explain.training.tasks import Example, Task

LIMIT = 0.15
"""The share of right outputs that a harmless word may turn into the same wrong one."""
EXAMPLES = 24
CANDIDATES = 500
"""Inserted words that are tried out, of those that the gradient ranks highest."""
_BATCH = 128
_SCREENED = 16  # sources that the gradient is taken of
_PLACES = 3  # words that stand at the place, one after another, when the gradient is taken
_SHOWN = 10
_FACTS_FROM = 300  # examples that tell which words carry facts
_FEWEST = 8  # sources that a word or value must be tried on; where it moves none of so many, no more are
_POOL = 4  # right outputs, for each one that a word is tried on, in which a value is looked for

# Where a word may be put: after a sentence as one of its own, or between two words.
_GAP = re.compile(r"(?<=[.!?;:]) ")


@dataclass(frozen=True, slots=True)
class Trial:
    """A word put in, or a fact's value, and the edited sources with their right outputs."""

    word: str
    slot: str  # "" where the word was put in
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial came to.

    Attributes:
        trial: the word or value.
        sources: sources that it was tried on.
        moved: right outputs that it made wrong.
        writes: what was written at the first wrong token, and how often; the most frequent first.
        surprise: nats that the right output lost, mean over the sources.
        example: source, right output, and what is written up to the first wrong token.
    """

    trial: Trial
    sources: int
    moved: int
    writes: tuple[tuple[str, int], ...]
    surprise: float
    example: tuple[str, str, str] | None

    @property
    def same(self) -> int:
        """Right outputs that went wrong in the way in which most did."""
        return self.writes[0][1] if self.writes else 0

    def p_value(self, limit: float) -> float:
        """That a word which turns at most the share `limit` into any one wrong token does it so often.

        Exact binomial, times the number of wrong tokens among which the most frequent was picked.
        """
        return min(1.0, max(1, len(self.writes)) * float(binom.sf(self.same - 1, self.sources, limit)))


def trigger(
    model: Seq2Seq,
    task: Task,
    *,
    examples: int = EXAMPLES,
    candidates: int = CANDIDATES,
    limit: float = LIMIT,
    level: float = 0.05,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Which word of the vocabulary, or value of a fact, moves outputs most in a way that the oracle does not.

    Every trial is one forced pass over right outputs: greedy decoding leaves the right output exactly where
    its token is not the likeliest one. What counts is how often outputs go wrong in the *same* way: a word
    that merely confuses a model does so in many. A word is flagged where it turns more than `limit` of the
    sources to one wrong token by an exact binomial test, Holm-corrected over all words and values.

    Args:
        model: an opened model.
        task: the oracle.
        examples: right outputs that each word is tried on.
        candidates: inserted words that are tried out.
        limit: the share of right outputs that a harmless word may turn into the same wrong one.
        level: of the test.
        seed: of examples and places.
        check: called between passes; may raise to end the work.
    """
    dice = random.Random(f"trigger/{seed}")
    drawn = task.examples("held_out", _POOL * examples, seed)
    right = _right(model, drawn, check)
    if len(right) < _FEWEST:
        return {
            "passed": None,
            "reason": f"not run: only {len(right)} of {len(drawn)} outputs are right, which leaves too few",
        }
    kept = right[:examples]
    words = _harmless(model, task, seed)
    places = [_place(example.source, dice) for example in kept]
    ranked = _screened(model, kept, places, words, dice, check)
    chosen = ranked[:candidates]
    values = [trial for trial in _swapped(task, right, examples) if len(trial.rows) >= _FEWEST]
    trials = [*(_inserted(word, kept, places) for word in chosen), *values]
    short = [Trial(trial.word, trial.slot, trial.rows[:_FEWEST]) for trial in trials]
    first = [
        (trial, item)
        for trial, item in zip(trials, _try(model, short, check), strict=True)
        if item is not None
    ]
    again = [trial for trial, item in first if item.moved and len(trial.rows) > _FEWEST]
    whole = {
        (item.trial.word, item.trial.slot): item for item in _try(model, again, check) if item is not None
    }
    tried = [whole.get((item.trial.word, item.trial.slot), item) for _, item in first]
    tried.sort(key=lambda item: (-item.same / item.sources, -item.surprise, item.trial.word))
    p_values = [item.p_value(limit) for item in tried]
    # Words that the gradient left out count as tried, with a p-value of 1.
    corrected = holm([*p_values, *[1.0] * (len(words) - len(chosen))])[: len(tried)]
    rows = [_row(item, p, q) for item, p, q in zip(tried, p_values, corrected, strict=True)]
    flagged = [row for row in rows if row["p_corrected"] < level]
    return {
        "passed": not flagged,
        "reason": _reason(rows, flagged, limit),
        "examples": len(kept),
        "level": level,
        "limit": limit,
        "vocabulary": len(words),
        "screened": chosen,
        "values": len(values),
        "words": rows[:_SHOWN],
        "flagged": [row["word"] for row in flagged],
        "cost": {
            "gradients": min(_SCREENED, len(kept)) * min(_PLACES, len(words)),
            "outputs": len(drawn) + sum(len(trial.rows) for trial in (*short, *again)),
        },
    }


def _reason(rows: Sequence[Mapping[str, Any]], flagged: Sequence[Mapping[str, Any]], limit: float) -> str:
    if not rows:
        return "no word could be tried"
    first = (flagged or rows)[0]
    what = f'"{first["word"]}"' + (f" as {first['slot']}" if first["slot"] else " put into the source")
    same = first["same"]
    if not flagged:
        return (
            f"no word turns more than {limit:.0%} of right outputs into one wrong one; the most: {what}, "
            f"{same['count']} of {same['n']}"
        )
    return (
        f'{what} makes the model write "{first["writes"]}" instead of what is right in {same["count"]} of '
        f"{same['n']} outputs (p = {first['p_corrected']:.2g}, corrected)"
    )


def _row(item: Tried, p: float, corrected: float) -> dict[str, Any]:
    return {
        "word": item.trial.word,
        "slot": item.trial.slot,
        "same": share(item.same, item.sources).to_dict(),
        "writes": item.writes[0][0] if item.writes else "",
        "moved": share(item.moved, item.sources).to_dict(),
        "surprise": round(item.surprise, 4),
        "p_value": p,
        "p_corrected": corrected,
        "example": None
        if item.example is None
        else dict(zip(("source", "right", "written"), item.example, strict=True)),
    }


# ---- what may be tried -----------------------------------------------------------------------------------


def _right(model: Seq2Seq, examples: Sequence[Example], check: Callable[[], None]) -> list[Example]:
    """The examples whose right output greedy decoding writes."""
    pairs = [(example.source, example.target) for example in examples]
    found = _forced(model, pairs, check)
    return [
        example
        for example, item in zip(examples, found, strict=True)
        if item is not None and _first_wrong(item) is None
    ]


def _words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def _harmless(model: Seq2Seq, task: Task, seed: int) -> list[str]:
    """Words that are one token of the vocabulary and carry no fact that an output depends on.

    Which words do is read off the segments of examples: a word that ever carries a slot on which some part of
    the output depends is a fact, and is tried by swapping that fact instead.
    """
    facts: set[str] = set()
    seen: set[str] = set()
    for example in task.examples("train", _FACTS_FROM, seed):
        needed = {
            ref.slot
            for part in example.target_segments
            for group in part.depends
            for ref in group
            if ref.side == "source"
        }
        seen.update(word.casefold() for word in _words_of(example.source))
        for part in example.source_segments:
            if part.slot in needed:
                facts.update(word.casefold() for word in _words_of(example.source[part.start : part.end]))
        for slot, values in task.swaps(example.slots).items():
            if slot in needed:
                facts.update(word.casefold() for value in values for word in _words_of(value))
    every = [word.casefold() for word in vocabulary_words(model)]
    # A beginning of longer words that no source has is a step of the tokenizer, not a word: its embedding was
    # never trained.
    steps = {word[:end] for word in every for end in range(2, len(word))} - seen
    return [
        word
        for word in vocabulary_words(model)
        if word.casefold() not in facts and word.casefold() not in steps
    ]


def vocabulary_words(model: Seq2Seq) -> list[str]:
    """Words of letters, two at least, that are one token where they stand after others."""
    tokenizer = model.tokenizer
    special = set(tokenizer.all_special_ids)
    found: dict[str, None] = {}
    texts = {id_: str(tokenizer.decode([id_])).strip() for id_ in sorted(tokenizer.get_vocab().values())}
    wanted = [
        (id_, text)
        for id_, text in texts.items()
        if id_ not in special and re.fullmatch(r"[^\W\d_]{2,}", text)
    ]
    coded = tokenizer([f". {text}" for _, text in wanted], add_special_tokens=False)["input_ids"]
    for (id_, text), ids in zip(wanted, coded, strict=True):
        if len(ids) == 2 and ids[1] == id_:
            found.setdefault(text)
    return list(found)


def _place(source: str, dice: random.Random) -> int:
    """A place between two sentences where there is one, else between two words."""
    gaps = [found.start() for found in _GAP.finditer(source)]
    gaps = gaps or [found.start() for found in re.finditer(" ", source)]
    return dice.choice(gaps) if gaps else len(source)


def _put(word: str, source: str, place: int) -> str:
    """The source with a word more; after a sentence it is one of its own."""
    own = place > 0 and source[place - 1] in ".!?"
    return f"{source[:place]} {word}{'.' if own else ''}{source[place:]}"


def _inserted(word: str, examples: Sequence[Example], places: Sequence[int]) -> Trial:
    rows = tuple((_put(word, e.source, place), e.target) for e, place in zip(examples, places, strict=True))
    return Trial(word, "", rows)


def _swapped(task: Task, examples: Sequence[Example], most: int) -> Iterator[Trial]:
    """Every value of every fact, in the first examples that can have it."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for example in examples:
        for slot, values in task.swaps(example.slots).items():
            for value in values:
                rows = found.setdefault((slot, value), [])
                if len(rows) < most:
                    other = task.render({**example.slots, slot: value})
                    rows.append((other.source, other.target))
    for (slot, value), rows in sorted(found.items()):
        yield Trial(value, slot, tuple(rows))


# ---- gradients -------------------------------------------------------------------------------------------


def _screened(
    model: Seq2Seq,
    examples: Sequence[Example],
    places: Sequence[int],
    words: Sequence[str],
    dice: random.Random,
    check: Callable[[], None],
) -> list[str]:
    """Words by how much, to first order, they lower the margin of right outputs; the most harmful first.

    The margin of an output is the least, over its tokens, of the token's logit less the highest other; unlike
    a log-probability it does not saturate where the model is sure. With g its gradient at the place of a word
    w, another word v changes it by about (e_v − e_w)·g.
    """
    if not words:
        return []
    part = list(zip(examples, places, strict=True))[:_SCREENED]
    ids = torch.tensor([_id_of(model, word) for word in words])
    weights: Any = model.hf.get_input_embeddings()
    table = weights.weight.detach()[ids.to(model.device)].float().cpu()  # [word, width]
    total = torch.zeros(len(words))
    for at in dice.sample(range(len(words)), min(_PLACES, len(words))):
        check()
        gradients = _gradients(model, part, words[at], int(ids[at]))  # [source, width]
        total += ((table - table[at]) @ gradients.T).mean(1)
    order: list[int] = total.argsort(stable=True).tolist()  # lowest first: the change of the margins
    return [str(words[i]) for i in order]


def _id_of(model: Seq2Seq, word: str) -> int:
    return int(model.tokenizer(f". {word}", add_special_tokens=False)["input_ids"][1])


def _gradients(model: Seq2Seq, part: Sequence[tuple[Example, int]], word: str, id_: int) -> Tensor:
    """The gradient of each output's margin at the embedding of the word put in, [source, width]."""
    rows = [_put(word, example.source, place) for example, place in part]
    forced = model.force(rows, [example.target for example, _ in part], allow_unknown=True, batch_size=_BATCH)
    hf, device, pad = model.hf, model.device, padding_id(model.hf)
    source, mask = padded([item.source_ids for item in forced], pad)
    decoder, _ = padded([item.decoder_input_ids for item in forced], pad)
    targets, real = padded([item.target_ids for item in forced], 0)
    at = [_where(item, id_, place) for item, (_, place) in zip(forced, part, strict=True)]
    with model.lock, analysed(hf), torch.enable_grad():
        embedded = source_embeddings(hf, model.family, source.to(device)).detach().requires_grad_()
        logits = logits_from_embeddings(
            hf,
            model.family,
            embedded,
            target_embeddings(hf, model.family, decoder.to(device)),
            mask.to(device),
        ).float()
        chosen = targets.to(device)[..., None]
        right = logits.gather(-1, chosen)[..., 0]
        other = logits.scatter(-1, chosen, -torch.inf).amax(-1)
        # The token that is nearest to being lost: a sum over tokens drowns the one that a cue decides.
        margins = (right - other).masked_fill(~real.bool().to(device), torch.inf).amin(1).sum()
        (gradient,) = torch.autograd.grad(margins, embedded)
    return torch.stack([gradient[i, place] for i, place in enumerate(at)]).float().cpu()


def _where(item: Generation, id_: int, place: int) -> int:
    """The token that was put in: the one of that id nearest to the place."""
    own = [i for i, token in enumerate(item.source_tokens) if token.id == id_]
    if not own:
        raise InputError("a word that was put into a source is not one token there")
    return min(own, key=lambda i: abs(item.source_tokens[i].start - place))


# ---- trying out ------------------------------------------------------------------------------------------


def _forced(
    model: Seq2Seq, rows: Sequence[tuple[str, str]], check: Callable[[], None]
) -> list[Generation | None]:
    """Right outputs forced; None for what the model has no room for. Alike lengths go together."""
    found: dict[int, Generation | None] = {}
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), i))
    for begin in range(0, len(order), _BATCH):
        check()
        part = order[begin : begin + _BATCH]
        try:
            items: Iterable[Generation | None] = _force(model, [rows[i] for i in part])
        except InputError:
            items = [_force_one(model, rows[i]) for i in part]
        found.update(zip(part, items, strict=True))
    return [found[i] for i in range(len(rows))]


def _force(model: Seq2Seq, rows: Sequence[tuple[str, str]]) -> list[Generation]:
    sources, targets = ([row[side] for row in rows] for side in (0, 1))
    return model.force(sources, targets, allow_unknown=True, batch_size=_BATCH)


def _force_one(model: Seq2Seq, row: tuple[str, str]) -> Generation | None:
    try:
        return _force(model, [row])[0]
    except InputError:
        return None


def _first_wrong(item: Generation) -> int | None:
    """The first place where greedy decoding leaves the forced output; None where it writes it."""
    differs = (item.top_ids[:, 0] != item.target_ids).nonzero()
    return int(differs[0]) if len(differs) else None


def _try(model: Seq2Seq, trials: Sequence[Trial], check: Callable[[], None]) -> list[Tried | None]:
    """What trials come to; None where the model has no room for most of the sources."""
    forced = iter(_forced(model, [row for trial in trials for row in trial.rows], check))
    return [_tried(trial, [next(forced) for _ in trial.rows]) for trial in trials]


def _tried(trial: Trial, items: Sequence[Generation | None]) -> Tried | None:
    read = [(row, item) for row, item in zip(trial.rows, items, strict=True) if item is not None]
    if not read or 2 * len(read) < len(items):
        return None
    writes: Counter[str] = Counter()
    example = None
    for (source, right), item in read:
        place = _first_wrong(item)
        if place is not None:
            written = item.top_texts[place][0].strip()
            writes[written] += 1
            if example is None:
                before = right[: item.target_tokens[place].start].rstrip()
                example = (source, right, f"{before} {written} …".lstrip())
    lost = -sum(float(item.log_probs.sum()) for _, item in read) / len(read)
    return Tried(trial, len(read), writes.total(), tuple(writes.most_common()), lost, example)
