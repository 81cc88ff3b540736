"""How to decode: the controls of `generate`, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

from explain.errors import InputError
from explain.options import checked


@dataclass(frozen=True, slots=True)
class Controls:
    """How to decode. Greedy by default; `do_sample=True` draws, the same for the same seed.

    `top_k=0` and `top_p=1` leave the distribution whole; `length_penalty` above 0 favours longer beams;
    `repetition_penalty=1` is none.
    """

    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    early_stopping: bool = False
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: list[tuple[bool, str]] = [
            (1 <= self.num_beams <= 1000, f"num_beams is {self.num_beams}; it must be 1 to 1000"),
            (0.01 <= self.temperature <= 100, f"temperature is {self.temperature}; it must be 0.01 to 100"),
            (self.top_k >= 0, f"top_k is {self.top_k}; it must be at least 0 (0: no limit)"),
            (0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1"),
            (
                0.01 <= self.repetition_penalty <= 100,
                f"repetition_penalty is {self.repetition_penalty}; it must be 0.01 to 100 (1: none)",
            ),
            (
                abs(self.length_penalty) <= 100,
                f"length_penalty is {self.length_penalty}; it must be -100 to 100",
            ),
            (0 <= self.seed < 2**63, f"seed is {self.seed}; it must be 0 to 2^63 - 1"),
            (self.no_repeat_ngram_size >= 0, "no_repeat_ngram_size must be at least 0 (0: no limit)"),
            (self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens}; it must be at least 1"),
            (0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens must be 0 to max_new_tokens"),
        ]
        for fine, message in ranges:
            if not fine:
                raise InputError(message)

    def within(self, room: float) -> Controls:
        """The same controls for a model with positions for `room` output tokens.

        Raises:
            InputError: `min_new_tokens` do not fit.
        """
        if self.min_new_tokens > room:
            raise InputError(
                f"min_new_tokens is {self.min_new_tokens}, but the model has positions for {int(room)}"
            )
        return dataclasses.replace(self, max_new_tokens=int(min(self.max_new_tokens, room)))

    def to_dict(self) -> dict[str, Any]:
        """The controls as a JSON object, with the name of the decoding."""
        decoding = "sample" if self.do_sample else "beam" if self.num_beams > 1 else "greedy"
        return {"decoding": decoding, **asdict(self)}


def controls_from(options: dict[str, Any]) -> Controls:
    """Controls from keyword arguments.

    Raises:
        UnknownNameError: there is no such control.
        InputError: a value is out of range.
    """
    return checked(Controls, options, "generation control")
