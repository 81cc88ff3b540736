"""Errors for people: what was wrong, where, and what to do.

```
ExplainError                     anything this package raises on purpose; the command line exits with 2
├── InputError                   a text, an option or a value
│   ├── EmptyTextError           nothing to read
│   ├── TextTooLongError         more tokens than the model has positions for
│   ├── UnknownTokenError        words that the tokenizer does not know
│   └── UnknownNameError         a method, hook point, task or objective that does not exist
├── FileError                    a file or folder that is missing, foreign or broken
│   └── EncodingError            not UTF-8
├── ModelError                   a model that cannot be opened or explained
│   ├── UnsupportedModelError    not an encoder–decoder whose attention can be reached
│   ├── BrokenWeightsError       weights with NaN or infinity
│   └── ParityError              the model's logits depend on how they are asked for
├── RunError                     a run folder that cannot be read, or is in the wrong state
└── TrainingError                training that cannot start or went wrong
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExplainError(Exception):
    """Base of every error that this package raises on purpose; its text is one readable line."""


class InputError(ExplainError):
    """A text, an option or a value that cannot be used."""


class EmptyTextError(InputError):
    """A text that is empty or only white space."""


class TextTooLongError(InputError):
    """A text with more tokens than the model has positions for; nothing is truncated silently."""


class UnknownTokenError(InputError):
    """A text with words that the tokenizer can only replace by its unknown token."""


class UnknownNameError(InputError):
    """A name that is not in the list it should come from; the message names near misses."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class FileError(ExplainError):
    """A file or folder that is missing, of another kind, or broken."""


class EncodingError(FileError):
    """A text file that is not UTF-8."""


class ModelError(ExplainError):
    """A model that cannot be opened or explained."""


class UnsupportedModelError(ModelError):
    """A model that is not an encoder–decoder, or whose attention cannot be reached."""


class BrokenWeightsError(ModelError):
    """A model with NaN or infinite weights."""


class ParityError(ModelError):
    """A model whose logits from ids, from embeddings and from Hugging Face disagree."""


class RunError(ExplainError):
    """A run folder that cannot be read, or that is in the wrong state for what was asked."""


class TrainingError(ExplainError):
    """Training that cannot start with what was given, or that went wrong."""
