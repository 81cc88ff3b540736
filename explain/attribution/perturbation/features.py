"""What is hidden as one: tokens, words, sentences or windows of source and prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.attribution.inputs import split_prefix
from explain.attribution.objectives import Question, Span
from explain.results import Generation, Token, group_sentences, group_words

UNITS = ("token", "word", "sentence")
# How `Features.spread` shares what a unit is worth, for the record.
SPREAD = "evenly over the unit's tokens"


def _single(tokens: Sequence[Token], text: str) -> list[list[int]]:
    return [[index] for index in range(len(tokens))]


_GROUPS: dict[str, Callable[[Sequence[Token], str], list[list[int]]]] = {
    "token": _single,
    "word": group_words,
    "sentence": group_sentences,
}


@dataclass(frozen=True, eq=False)
class Features:
    """Parts of one input that are there or hidden as a whole: first those of the source, then the prefix.

    Attributes:
        source: bool [features, source], the source tokens of each feature.
        target: bool [features, target], its decoder inputs; position 0, the decoder start, is in none.
        sliding: features overlap, as windows that slide over the tokens do.
    """

    source: Tensor
    target: Tensor
    sliding: bool = False

    def __len__(self) -> int:
        return len(self.source)

    def there(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Which source tokens [n, source] and decoder inputs [n, target] are there, given features [n, f]."""
        hidden = (~present).float()
        return hidden @ self.source.float() == 0, hidden @ self.target.float() == 0

    def relevant(self, spans: Sequence[Span]) -> Tensor:
        """Which features can influence each row: bool [rows, features].

        By causality those of the source and those that begin in the prefix of the row's last token.
        """
        return self.source.any(1)[None] | (_earlier(spans, self.target.shape[1]).float() @ self._target.T > 0)

    def spread(self, scores: Tensor, question: Question) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of features [rows, features] -> source [rows, source], prefix [rows, target], start [rows].

        What a feature is worth is divided evenly among its tokens (in the prefix: those that come before the
        row's last token), so that sums stay what they are. Of windows that overlap, a token gets the mean.
        """
        source, target = self.source.to(scores), self.target.to(scores)
        if self.sliding:
            for_source = scores @ source / source.sum(0).clamp_min(1)
            decoder = scores @ target / target.sum(0).clamp_min(1)
        else:
            earlier = _earlier(question.spans, target.shape[1]).to(scores)
            for_source = scores @ (source / source.sum(1, keepdim=True).clamp_min(1))
            decoder = (scores / (earlier @ target.T).clamp_min(1)) @ target
        # The decoder-start token cannot be hidden: the first position would have nothing to attend to.
        prefix, start = split_prefix(decoder, question.spans)
        return for_source, prefix, start

    @property
    def _target(self) -> Tensor:
        return self.target.float()


def _earlier(spans: Sequence[Span], length: int) -> Tensor:
    """Decoder inputs that a row can see: bool [rows, target]; token t is written after inputs 0 to t."""
    ends = torch.tensor([end for _, end in spans])
    return torch.arange(length)[None, :] < ends[:, None]


def features_of(generation: Generation, unit: str, *, special: bool = False) -> Features:
    """The features of a generation by token, word or sentence.

    Special tokens (EOS, language codes) are features of their own where `special` says so, and else always
    there. The last target token is no input, and the decoder-start token is always there.
    """
    tokens = generation.source_tokens
    source = [g for g in _GROUPS[unit](tokens, generation.source_text) if special or not tokens[g[0]].special]
    tokens, last = generation.target_tokens, len(generation.target_tokens) - 1
    target = [g for g in _GROUPS[unit](tokens, generation.target_text) if special or not tokens[g[0]].special]
    shifted = [[u + 1 for u in group if u < last] for group in target]
    return _features(generation, source, [group for group in shifted if group])


def windows_of(generation: Generation, window: int) -> tuple[Features, dict[str, int]]:
    """Windows of `window` tokens that slide over source and decoder inputs, as Captum's `Occlusion` has them.

    Where the text is shorter, they are, too; one token of the source (of several) is always left.

    Returns:
        The windows, and how wide they are: `source_window` and `prefix_window`.
    """
    lengths = len(generation.source_tokens), len(generation.target_tokens)
    wide, width = max(1, min(window, lengths[0] - 1)), min(window, lengths[1])
    source = [list(range(i, i + wide)) for i in range(lengths[0] - wide + 1)]
    target = [[p for p in range(i, i + width) if p] for i in range(lengths[1] - width + 1)]
    features = _features(generation, source, [group for group in target if group], sliding=True)
    return features, {"source_window": wide, "prefix_window": width}


def _features(
    generation: Generation,
    source: Sequence[Sequence[int]],
    target: Sequence[Sequence[int]],
    *,
    sliding: bool = False,
) -> Features:
    count = len(source) + len(target)
    of_source = torch.zeros(count, len(generation.source_tokens), dtype=torch.bool)
    of_target = torch.zeros(count, len(generation.target_tokens), dtype=torch.bool)
    for number, group in enumerate(source):
        of_source[number, list(group)] = True
    for number, group in enumerate(target, start=len(source)):
        of_target[number, list(group)] = True
    return Features(of_source, of_target, sliding)
