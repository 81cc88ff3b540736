"""Word alignments by people: Pharaoh files, links read off attributions, and their error rate (AER)."""

from __future__ import annotations

import bisect
import math
import os
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from explain.errors import FileError, InputError, UnknownNameError
from explain.evaluation.estimates import Estimate, ratio
from explain.results import Attribution, Generation, Token
from explain.training.data import Pair, read_text
from explain.training.tasks import TokenGold, TokenGroup

Link: TypeAlias = tuple[int, int]
"""(source word, target word), or (source token, target token); both count from 0."""

Links: TypeAlias = frozenset[Link]

CONVENTIONS = ("output", "input")
_LINK = re.compile(r"([0-9]{1,9})([-?p])([0-9]{1,9})")
# Exactly what str.split() takes for a word, with its place.
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Alignment:
    """What people linked in one pair of sentences.

    Attributes:
        sure: links that a good alignment must have.
        possible: links that it may have; every sure one is among them.
    """

    sure: Links
    possible: Links

    def __post_init__(self) -> None:
        if not self.sure <= self.possible:
            raise InputError(f"links that are sure are possible as well: {sorted(self.sure - self.possible)}")

    def to_pharaoh(self) -> str:
        """The line of a Pharaoh file: `i-j` for sure links, `i?j` for possible ones; `""` without links."""
        return " ".join(f"{i}{'-' if (i, j) in self.sure else '?'}{j}" for i, j in sorted(self.possible))


def read_alignments(
    path: str | os.PathLike[str],
    pairs: Sequence[Pair],
    *,
    one_based: bool = False,
    target_first: bool = False,
) -> list[Alignment]:
    """Read a Pharaoh file: a line for each pair, `i-j` a sure and `i?j` or `ipj` a possible link.

    i is a word of the source and j one of the target, where words are what white space separates; a blank
    line has no links. A name that ends in .gz is read as gzip.

    Args:
        path: the file.
        pairs: the texts that it aligns, in the same order.
        one_based: the file counts words from 1, as the German–English gold of RWTH Aachen does.
        target_first: the file writes the target's word first.

    Raises:
        FileError: the file is missing or has no link at all, has another number of lines than there are
            pairs, or has a link that cannot be read or is not between words of its pair.
        EncodingError: it is not UTF-8.
    """
    path = Path(path)
    # Trailing blank lines are pairs without links, so only what ends the last line is dropped.
    lines = read_text(path).removesuffix("\n").split("\n")
    if len(lines) != len(pairs):
        raise FileError(
            f"{path} has {len(lines)} lines for {len(pairs)} pairs; write one line for each pair, a blank "
            "one where nothing is linked"
        )
    found = []
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=True), start=1):
        sure, possible = set[Link](), set[Link]()
        for text in line.split():
            link, is_sure = _parsed(f"{path}, line {number}", text, pair, one_based, target_first)
            possible.add(link)
            if is_sure:
                sure.add(link)
        found.append(Alignment(frozenset(sure), frozenset(possible)))
    return found


def _parsed(where: str, text: str, pair: Pair, one_based: bool, target_first: bool) -> tuple[Link, bool]:
    match = _LINK.fullmatch(text)
    if match is None:
        raise FileError(f"{where}: {text!r} is no link; write 3-5, or 3?5 for a possible one")
    first, kind, second = int(match[1]) - one_based, match[2], int(match[3]) - one_based
    link = (second, first) if target_first else (first, second)
    sizes = len(pair.source.split()), len(pair.target.split())
    if not all(0 <= word < size for word, size in zip(link, sizes, strict=True)):
        raise FileError(
            f"{where}: {text!r} is outside its pair of {sizes[0]} source words and {sizes[1]} target words; "
            f"the file was read as counting from {int(one_based)} (one_based={one_based}) with the "
            f"{'target' if target_first else 'source'} first (target_first={target_first})"
        )
    return link, kind == "-"


# ---- from tokens to words --------------------------------------------------------------------------------


def word_tokens(tokens: Sequence[Token], text: str) -> list[list[int]]:
    """For each word of `text` the indices of its tokens, in order; words are what white space separates.

    That is the convention of alignment gold, where "l'homme," is one word; `explain.results.group_words`
    cuts finer. A token belongs to every word that it shares a character with; one without characters (the
    bare "▁" of SentencePiece) to the word it stands in, or else the next. Special tokens belong to none.
    """
    ends = [match.end() for match in _WORD.finditer(text)]
    starts = [match.start() for match in _WORD.finditer(text)]
    groups: list[list[int]] = [[] for _ in starts]
    for index, token in enumerate(tokens):
        if token.special:
            continue
        first = bisect.bisect_right(ends, token.start)  # the first word that ends later
        last = bisect.bisect_left(starts, token.end) if token.start < token.end else first + 1
        for word in range(first, min(last, len(groups))):
            groups[word].append(index)
    return groups


def word_scores(attribution: Attribution, *, aligned_to: str = "output") -> Tensor:
    """Scores between words, float64 [target word, source word], in the attribution's units.

    The scores of a source word's tokens are summed and those of a target word's tokens averaged, as in Zenkel
    et al. 2019 (arXiv:1901.11359), Garg et al. 2019 (arXiv:1909.02074) and Kobayashi et al. 2020
    (arXiv:2004.10102); scores keep their sign. 0 means that the source word did nothing, or has no token;
    nan that the target word has no row.

    Two conventions are published for which row stands for a target token:
    `output` takes the row of the step that writes it, which is what the row explains;
    `input` the row of the next step, where the token is the decoder's newest input (Chen et al. 2020,
    arXiv:2004.14837), so the row of EOS stands for the last token and an output cut short has no row for it.
    Attention in early layers aligns with the input token. Scores that explain an objective are about the
    token being written, so for them only `output` has a meaning; `input` can be computed all the same.

    Args:
        attribution: an attribution between tokens.
        aligned_to: `output` or `input`.

    Raises:
        UnknownNameError: there is no such convention.
        InputError: the attribution is between words or sentences.
    """
    source = word_tokens(attribution.source_tokens, attribution.source_text)
    target = word_tokens(attribution.target_tokens, attribution.target_text)
    return _between(_aligned_rows(attribution, aligned_to), target, source)


def _aligned_rows(attribution: Attribution, aligned_to: str) -> Tensor:
    """The row that stands for each target token, float64 [target, source]."""
    if aligned_to not in CONVENTIONS:
        raise UnknownNameError("convention", aligned_to, CONVENTIONS)
    if attribution.level != "token":
        raise InputError(
            f"alignments are made from attributions between tokens, not of a {attribution.level}"
        )
    rows = attribution.source.double()
    if aligned_to == "input" and len(rows):
        rows = torch.cat([rows[1:], torch.full_like(rows[:1], torch.nan)])
    return rows


def _between(rows: Tensor, target: Sequence[Sequence[int]], source: Sequence[Sequence[int]]) -> Tensor:
    """Means over target groups of sums over source groups: [target token, source token] to [group, group]."""
    if not target or not source:
        return rows.new_zeros(len(target), len(source))
    sums = torch.stack([rows[:, list(group)].sum(1) for group in source], dim=1)
    return torch.stack([sums[list(group)].mean(0) for group in target])  # the mean of nothing is nan


# ---- links -----------------------------------------------------------------------------------------------


def word_links(attribution: Attribution, *, aligned_to: str = "output") -> Links:
    """Link every target word to the source word with the highest score; (source word, target word).

    A word gets no link where nothing is above 0 or a number, so a signed method links by its positive scores
    alone, and none where a special token such as the source's EOS scores higher than every word (Kobayashi
    et al. 2020, arXiv:2004.10102; Ferrando et al. 2022, arXiv:2205.11631). Of equal scores the first counts.

    Raises:
        UnknownNameError, InputError: as in `word_scores`, which says what `aligned_to` means.
    """
    source = word_tokens(attribution.source_tokens, attribution.source_text)
    target = word_tokens(attribution.target_tokens, attribution.target_text)
    special = [[i] for i, token in enumerate(attribution.source_tokens) if token.special]
    scores = _between(_aligned_rows(attribution, aligned_to), target, [*source, *special])
    return frozenset((i, j) for j, i in enumerate(_best(scores)) if i is not None and i < len(source))


def token_links(attribution: Attribution, *, aligned_to: str = "output") -> Links:
    """The same between tokens, (source token, target token); special tokens are never part of a link."""
    scores = _aligned_rows(attribution, aligned_to)
    return frozenset(
        (i, j)
        for j, (i, token) in enumerate(zip(_best(scores), attribution.target_tokens, strict=True))
        if i is not None and not token.special and not attribution.source_tokens[i].special
    )


def _best(scores: Tensor) -> list[int | None]:
    """For each row the column of its highest number above 0; None where there is none."""
    if not scores.shape[1]:
        return [None] * len(scores)
    numbers = torch.where(scores.isnan(), -torch.inf, scores)
    # The maximum is the first of equals, which torch's argmax does not promise.
    highest, columns = numbers.numpy().max(1), numbers.numpy().argmax(1)
    return [int(i) if top > 0 else None for top, i in zip(highest, columns, strict=True)]


# ---- the error rate --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """How the predicted links of one pair compare with its gold.

    Attributes:
        links: predicted links, |A|.
        sure: sure links of the gold, |S|.
        in_sure: predicted links that are sure, |A ∩ S|.
        in_possible: predicted links that are possible, sure ones included, |A ∩ P|.
    """

    links: int
    sure: int
    in_sure: int
    in_possible: int


def count_links(predicted: Set[Link], alignment: Alignment) -> LinkCounts:
    """Compare the links of one pair with its gold."""
    return LinkCounts(
        links=len(predicted),
        sure=len(alignment.sure),
        in_sure=len(predicted & alignment.sure),
        in_possible=len(predicted & alignment.possible),
    )


def aer(predicted: Set[Link], alignment: Alignment) -> float:
    """Alignment error rate of one pair: 1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|) (Och & Ney 2003, J03-1002).

    0 means that every sure link was found and no other than possible ones; 1 that nothing is right; nan that
    nothing is linked on either side.
    """
    counts = count_links(predicted, alignment)
    total = counts.links + counts.sure
    return 1 - (counts.in_sure + counts.in_possible) / total if total else math.nan


@dataclass(frozen=True, slots=True)
class AlignmentScores:
    """Agreement with gold alignments over many pairs.

    Each figure is a ratio of counts summed over the pairs, as published, so long pairs weigh more; its
    interval resamples pairs, and its `n` is their number.

    Attributes:
        aer: alignment error rate, 0 (all right) to 1.
        precision: predicted links that are possible, of all predicted.
        recall: sure links that were predicted, of all sure.
        links: predicted links.
        aligned_to: which row stood for a target token, `output` or `input`; see `word_scores`.
    """

    aer: Estimate
    precision: Estimate
    recall: Estimate
    links: int
    aligned_to: str

    def to_dict(self) -> dict[str, Any]:
        """The scores as a JSON object."""
        return {
            "aer": self.aer.to_dict(),
            "precision": self.precision.to_dict(),
            "recall": self.recall.to_dict(),
            "links": self.links,
            "aligned_to": self.aligned_to,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AlignmentScores:
        """Read scores back from their JSON object."""
        estimates = (Estimate.from_dict(data[name]) for name in ("aer", "precision", "recall"))
        return cls(*estimates, links=data["links"], aligned_to=data["aligned_to"])


def alignment_scores(
    attributions: Sequence[Attribution],
    gold: Sequence[Alignment],
    *,
    aligned_to: str = "output",
    seed: int = 0,
) -> AlignmentScores:
    """Score the word links of attributions against gold alignments of the same pairs.

    Args:
        attributions: one attribution between tokens for each pair, of the target text that the gold aligns:
            force it (`model.force`) unless the model wrote that very text.
        gold: their alignments, in the same order.
        aligned_to: `output` or `input`; see `word_scores`.
        seed: of the resampling.

    Raises:
        UnknownNameError: there is no such convention.
        InputError: the numbers differ, an attribution is not between tokens, or the gold names words that its
            texts do not have.
    """
    if len(attributions) != len(gold):
        raise InputError(
            f"{len(attributions)} attributions for {len(gold)} gold alignments; give one for each"
        )
    counts = []
    for number, (attribution, alignment) in enumerate(zip(attributions, gold, strict=True), start=1):
        _require_words(f"pair {number}", alignment, attribution.source_text, attribution.target_text)
        counts.append(count_links(word_links(attribution, aligned_to=aligned_to), alignment))
    return scores_of_counts(counts, aligned_to=aligned_to, seed=seed)


def scores_of_counts(counts: Sequence[LinkCounts], *, aligned_to: str, seed: int = 0) -> AlignmentScores:
    """Sum the counts of pairs to scores; links may be between words or between tokens."""
    links, sure = [c.links for c in counts], [c.sure for c in counts]
    totals = [c.links + c.sure for c in counts]
    wrong = [c.links + c.sure - c.in_sure - c.in_possible for c in counts]
    return AlignmentScores(
        aer=ratio(wrong, totals, seed=seed),
        precision=ratio([c.in_possible for c in counts], links, seed=seed),
        recall=ratio([c.in_sure for c in counts], sure, seed=seed),
        links=sum(links),
        aligned_to=aligned_to,
    )


def _require_words(where: str, alignment: Alignment, source_text: str, target_text: str) -> None:
    sizes = len(source_text.split()), len(target_text.split())
    for link in sorted(alignment.possible):
        if not all(0 <= word < size for word, size in zip(link, sizes, strict=True)):
            raise InputError(
                f"{where}: the gold links word {link[0]} to word {link[1]} (from 0), but the texts have "
                f"{sizes[0]} and {sizes[1]} words; force the target text that the gold was made for"
            )


# ---- gold for tokens -------------------------------------------------------------------------------------


def token_gold_of(alignment: Alignment, generation: Generation) -> tuple[TokenGold, tuple[bool, ...]]:
    """The gold in tokens, for scores such as precision at 1, and which target tokens it says something about.

    A token of a word with sure links gets one group: all tokens of all source words that the word is surely
    linked to, any one of which suffices, because an alignment does not say that every one of them is needed.
    All other tokens get no group and are not to be scored: possible links are in doubt, and a word that
    translates no other (an article, a full stop) need not depend on nothing. Links say nothing of the prefix.

    Returns:
        The groups of every target token, and for every target token whether it is scored.

    Raises:
        InputError: the gold names words that the texts do not have.
    """
    _require_words("gold alignment", alignment, generation.source_text, generation.target_text)
    source = word_tokens(generation.source_tokens, generation.source_text)
    target = word_tokens(generation.target_tokens, generation.target_text)
    places: list[set[tuple[str, int]]] = [set() for _ in generation.target_tokens]
    for i, j in alignment.sure:
        for token in target[j]:
            places[token].update(("source", index) for index in source[i])
    groups: list[tuple[TokenGroup, ...]] = [(frozenset(found),) if found else () for found in places]
    return tuple(groups), tuple(bool(found) for found in groups)
