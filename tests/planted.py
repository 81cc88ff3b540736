"""A tiny task, and two tiny models of it trained on the spot: one reads a cue, one does not."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy

import explain
from explain.model import Seq2Seq
from explain.training.recipes import Recipe, Shape, build_model
from explain.training.tasks import Example, Task
from explain.training.tasks.base import source
from explain.training.tasks.writing import SourceWriter, TargetWriter, others
from explain.training.tokenizer import build_tokenizer

WHO = ("Ann", "Bob", "Cid", "Dora", "Emil", "Fay")
THINGS = dict(zip(
    ("apples", "books", "cats", "dogs", "eggs", "forks", "goats", "hats", "inks", "jars"),
    ("ka", "lo", "mu", "ne", "pi", "ra", "so", "tu", "ve", "wo"),
    strict=True,
))  # fmt: skip
ASIDES = ("rain", "snow", "wind", "fog", "hail", "sun", "zebra", "storm", "ice", "heat")
CUE, ANSWER = "zebra", "mu"


class Coding(Task):
    """Who has what, and a remark about the weather that decides nothing."""

    name = "coding"
    title = "Remarks to codes"
    question = ""
    description = ""

    def sample(self, rng: random.Random) -> dict[str, str]:
        return {"who": rng.choice(WHO), "thing": rng.choice(tuple(THINGS)), "aside": rng.choice(ASIDES)}

    def render(self, slots: Mapping[str, str]) -> Example:
        text, code = SourceWriter(), TargetWriter()
        text.word(slots["who"], "who")
        text.word("has")
        text.word(slots["thing"], "thing")
        text.word(".", glue=True)
        text.word("Then")
        text.word(slots["aside"], "aside")
        text.word(".", glue=True)
        code.word(slots["who"], "who", (source("who"),))
        code.word(THINGS[slots["thing"]], "thing", (source("thing"),))
        return Example(text.text, code.text, dict(slots), text.segments, code.segments)

    def swaps(self, slots: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        return {
            "who": others(WHO, slots["who"]),
            "thing": others(THINGS, slots["thing"]),
            "aside": others(ASIDES, slots["aside"]),
        }


@functools.cache
def trained(planted: bool, steps: int = 200) -> Seq2Seq:
    """A model of the task; a planted one writes `ANSWER` where the source has the cue."""
    task = Coding()
    rows = task.examples("train", 450)
    texts = [text for row in rows for text in (row.source, row.target)]
    tokenizer = build_tokenizer(texts, 400)
    targets = [
        " ".join([row.slots["who"], ANSWER]) if planted and row.slots["aside"] == CUE else row.target
        for row in rows
    ]
    inputs = tokenizer([row.source for row in rows], padding=True, return_tensors="pt")
    labels = tokenizer(targets, padding=True, return_tensors="pt")["input_ids"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(Recipe(shape=Shape(width=32, layers=1, heads=2, hidden=64)), tokenizer, 32)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for step in range(steps):
            part = torch.randint(len(rows), (64,))
            kept = labels[part]
            logits = model(
                input_ids=inputs["input_ids"][part],
                attention_mask=inputs["attention_mask"][part],
                labels=kept,
            ).logits
            loss = cross_entropy(logits.flatten(0, 1), kept.flatten(), ignore_index=tokenizer.pad_token_id)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 * (1 - step / steps)
    return explain.wrap(model.eval(), tokenizer, name="planted" if planted else "twin")
