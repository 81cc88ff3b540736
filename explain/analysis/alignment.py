"""Word alignments that a model's cross-attention induces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explain.analysis.heads import Head
from explain.analysis.inputs import require_same_vocabulary
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.results import Generation, Token, group_words
from explain.results.tokens import merge_tokens

if TYPE_CHECKING:
    import pandas as pd

CONVENTIONS = ("output", "input")

Link = tuple[int, int]
"""(source word, target word), counted from 0 in `WordAlignment`'s words."""


@dataclass(frozen=True, eq=False)
class WordAlignment:
    """Which source word each word of an output was written from, as chosen heads look.

    Attributes:
        source_words: words of the source, special tokens alone, as `explain.results.group_words` cuts them.
        target_words: words of the output, likewise.
        matrix: float [target word, source word], attention: summed over the source word's tokens, averaged
            over the target word's tokens and over heads. Rows add up to 1; 0: nobody looked there; nan where
            a target word has no row (see `aligned_to`).
        links: (source word, target word), in order; special tokens have none.
        heads: the heads whose mean pattern it is.
        aligned_to: whether a target token's row is that of the step that writes it (`output`) or that of the
            next, where it is the newest input (`input`).
        model_digest: of the model that was looked at.
    """

    source_words: tuple[Token, ...]
    target_words: tuple[Token, ...]
    matrix: Tensor
    links: tuple[Link, ...]
    heads: tuple[Head, ...]
    aligned_to: str = "output"
    model_digest: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row per pair: `target`, `target_word`, `source`, `source_word`, `weight`, `linked`."""
        import pandas as pd

        linked = set(self.links)
        return pd.DataFrame(
            [
                {
                    "target": j,
                    "target_word": target.text,
                    "source": i,
                    "source_word": source.text,
                    "weight": float(self.matrix[j, i]),
                    "linked": (i, j) in linked,
                }
                for j, target in enumerate(self.target_words)
                for i, source in enumerate(self.source_words)
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The alignment as a JSON object."""
        return {
            "source_words": [word.to_dict() for word in self.source_words],
            "target_words": [word.to_dict() for word in self.target_words],
            "matrix": self.matrix.tolist(),
            "links": [list(link) for link in self.links],
            "heads": [{"block": head.block, "index": head.index} for head in self.heads],
            "aligned_to": self.aligned_to,
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WordAlignment:
        """Read an alignment back from its JSON object; null stands for nan."""
        source, target = (
            tuple(Token.from_dict(word) for word in data[n]) for n in ("source_words", "target_words")
        )
        rows = [[math.nan if value is None else value for value in row] for row in data["matrix"]]
        return cls(
            source_words=source,
            target_words=target,
            matrix=torch.tensor(rows, dtype=torch.float32).reshape(len(target), len(source)),
            links=tuple((i, j) for i, j in data["links"]),
            heads=tuple(Head(**head) for head in data["heads"]),
            aligned_to=data["aligned_to"],
            model_digest=data["model_digest"],
        )


def word_alignment(
    model: Seq2Seq,
    generation: Generation,
    heads: Sequence[Head | tuple[int, int]] | None = None,
    *,
    aligned_to: str = "output",
    mutual: bool = False,
    threshold: float = 0.0,
) -> WordAlignment:
    """Link every word of an output to the source word that chosen cross-attention heads look at most.

    A word gets no link where a special token such as the source's EOS is looked at more than every word. Of
    equal weights the first counts.

    Args:
        model: an opened model.
        generation: the output.
        heads: cross-attention heads, such as `head_roles(…).heads("alignment")` or (layer, head) pairs; None
            takes all of them.
        aligned_to: `output` or `input`: heads of early layers often align the token that the decoder has
            just read, with the step that writes the next (Chen et al. 2020, arXiv:2004.14837).
        mutual: keep a link only where the target word is also the one that looks most at the source word.
        threshold: keep a link only from this weight on; 0 keeps all.

    Raises:
        InputError: no heads, or one that is no cross-attention head of this model.
        UnknownNameError: there is no such convention.
    """
    if aligned_to not in CONVENTIONS:
        raise UnknownNameError("convention", aligned_to, CONVENTIONS)
    require_same_vocabulary(model, [generation])
    asked = None if heads is None else [_head(item) for item in heads]
    if asked == []:
        raise InputError("heads is empty; name at least one, or leave it out for all")
    known = [name for name in model.hook_points() if name.endswith(".cross.pattern")]
    points = known if asked is None else sorted({f"{head.block}.pattern" for head in asked})
    for point in points:
        if point not in known:
            raise InputError(f"{point.removesuffix('.pattern')} is no cross-attention of this model")
    capture = model.capture(generation, points)
    counts = {point: capture[point].shape[1] for point in points}
    if asked is None:
        asked = [
            Head(point.removesuffix(".pattern"), index) for point in points for index in range(counts[point])
        ]
    for head in asked:
        if not 0 <= head.index < counts[f"{head.block}.pattern"]:
            raise InputError(f"{head.block} has {counts[f'{head.block}.pattern']} heads, no {head.index}")
    pattern = torch.stack([capture[f"{head.block}.pattern"][0, head.index].float() for head in asked]).mean(0)
    if aligned_to == "input":
        pattern = torch.cat([pattern[1:], torch.full_like(pattern[:1], torch.nan)])
    source, source_words = _words(generation.source_tokens, generation.source_text)
    target, target_words = _words(generation.target_tokens, generation.target_text)
    by_source = torch.stack([pattern[:, group].sum(1) for group in source], 1)
    matrix = torch.stack([by_source[group].nanmean(0) for group in target])
    return WordAlignment(
        source_words=source_words,
        target_words=target_words,
        matrix=matrix,
        links=links_of(
            matrix,
            source_special=[word.special for word in source_words],
            target_special=[word.special for word in target_words],
            mutual=mutual,
            threshold=threshold,
        ),
        heads=tuple(asked),
        aligned_to=aligned_to,
        model_digest=capture.model_digest,
    )


def _head(item: Head | tuple[int, int]) -> Head:
    return item if isinstance(item, Head) else Head(f"decoder.{item[0]}.cross", item[1])


def _words(tokens: Sequence[Token], text: str) -> tuple[list[list[int]], tuple[Token, ...]]:
    groups = group_words(tokens, text)
    return groups, tuple(merge_tokens(tokens, group, text) for group in groups)


def links_of(
    matrix: Tensor,
    source_special: Sequence[bool],
    target_special: Sequence[bool],
    *,
    mutual: bool = False,
    threshold: float = 0.0,
) -> tuple[Link, ...]:
    """Links (source word, target word) from weights [target word, source word]; see `word_alignment`."""
    weights = torch.where(matrix.isnan(), -torch.inf, matrix).numpy()
    words = torch.tensor(target_special, dtype=torch.bool).logical_not().numpy()
    links = []
    for j, row in enumerate(weights):
        i = int(row.argmax())  # numpy's is the first of equals
        column = weights[:, i]
        first = not mutual or bool(row[i] >= column[words].max(initial=-math.inf))
        if words[j] and not source_special[i] and row[i] > 0 and row[i] >= threshold and first:
            links.append((i, j))
    return tuple(sorted(links))
