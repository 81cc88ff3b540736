"""Head-by-head and layer × position patching as one batch, against one intervention at a time.

One by one is what a user would write: for every cell `with model.intervene(…)` and a pass of the Hugging
Face model. Both sides run interleaved, on the same pair of inputs, and their numbers are compared. Rows are
counted through each layer (half of the layers is half a row). Times are of this process's CPU when it has one
thread, which other work on the machine does not lengthen; else of the clock. The bound is the same rows in a
plain batch of the whole model, without anything changed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from peer_measure import counted
from peer_models import bart, words
from torch import Tensor, nn

import explain
from explain.analysis import attribution_patching, disagreement, patch
from explain.analysis.effects import sites_of
from explain.files import dump_json
from explain.model import Seq2Seq
from explain.model.hooks import select
from explain.results import Generation
from explain.terminal import note, table

CASES = {
    "heads": ("*.z", ("layer", "head")),
    "layer × position": ("*.residual", ("layer", "position")),
    "neurons": ("*.mlp.hidden", ("layer", "neuron")),
}
Pair = tuple[Generation, Generation]


def random_pair(source: int, target: int) -> tuple[Seq2Seq, Pair]:
    """A random BART, d=256 and 2+2 layers, and two inputs that differ in one token."""
    hf = bart(256, 2).eval()
    model = explain.wrap(hf, words(hf.config.vocab_size))
    clean, output = (
        [f"w{(step * i) % 900}" for i in range(n - 1)] for step, n in ((7, source), (11, target))
    )
    other = ["w901" if i == 3 else word for i, word in enumerate(clean)]
    texts = " ".join(clean), " ".join(other)
    return model, (model.force(texts[0], " ".join(output)), model.force(texts[1], " ".join(output)))


def trained_pair(folder: Path, clean: str, other: str) -> tuple[Seq2Seq, Pair]:
    """A trained model, what it writes for a text, and another text with the same output."""
    model = explain.load(folder, device="cpu")
    output = model.generate(clean).target_text
    return model, (model.force(clean, output), model.force(other, output))


@torch.no_grad()
def one_by_one(model: Seq2Seq, pair: Pair, points: str, by: tuple[str, ...]) -> Tensor:
    """What each place changes, [places, target], by an intervention and a whole pass for each."""
    clean, corrupted = pair
    names = select(points, model.hook_points())
    states = {name: tensor[0] for name, tensor in model.capture(clean, names).items()}
    ids = corrupted.target_ids

    def run() -> Tensor:
        output = model.hf(
            input_ids=corrupted.source_ids[None],
            decoder_input_ids=corrupted.decoder_input_ids[None],
            use_cache=False,
        )
        return output.logits[0].log_softmax(-1).gather(-1, ids[:, None])[:, 0]

    def putting(edit: Any) -> Callable[[Tensor], Tensor]:
        def put(tensor: Tensor) -> Tensor:
            where = (slice(None) if number is None else number for number in edit.where)
            tensor[(slice(None), *where)] = edit.value
            return tensor

        return put

    before, found = run(), []
    for site in sites_of(states, by):
        with model.intervene({edit.point: putting(edit) for edit in site.edits(states)}):
            found.append(run() - before)
    return torch.stack(found)


@torch.no_grad()
def plain_batch(model: Seq2Seq, pair: Pair, rows: int) -> None:
    """As many rows as there are places through the whole model, 64 at a time."""
    _, corrupted = pair
    for begin in range(0, rows, 64):
        size = min(64, rows - begin)
        model.hf(
            input_ids=corrupted.source_ids.expand(size, -1),
            decoder_input_ids=corrupted.decoder_input_ids.expand(size, -1),
            use_cache=False,
        )


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what it gives."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = run()
    return clock() - start, result


def passes(model: Seq2Seq, run: Callable[[], Any]) -> tuple[str, str]:
    """Rows through encoder and decoder, and how often each was called."""
    calls = {"encoder": 0, "decoder": 0}

    def counting(side: str) -> Callable[..., None]:
        def count(module: nn.Module, given: Any, output: Any) -> None:
            calls[side] += 1

        return count

    sides = {"encoder": model.family.encoder, "decoder": model.family.decoder}
    handles = [
        model.hf.get_submodule(side.stack).register_forward_hook(counting(name))
        for name, side in sides.items()
    ]
    try:
        with counted(model.hf) as rows:
            run()
    finally:
        for handle in handles:
            handle.remove()
    return f"{rows.encoder:g} / {rows.decoder:g}", f"{calls['encoder']} / {calls['decoder']}"


def measured(model: Seq2Seq, pair: Pair, name: str, repeats: int) -> dict[str, Any]:
    """One case: medians over interleaved repeats, counts, and how far both sides are apart."""
    points, by = CASES[name]
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: patch(model, *pair, points, by),
        "loop": lambda: one_by_one(model, pair, points, by),
        "estimate": lambda: attribution_patching(model, *pair, points, by),
    }
    exact, loop, estimate = (run() for run in sides.values())
    places = len(exact.parts)
    sides["bound"] = lambda: plain_batch(model, pair, places)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, run in sides.items():
            times[side].append(seconds(run)[0])

    def ratio(side: str, over: str = "ours") -> float:
        return statistics.median(a / b for a, b in zip(times[side], times[over], strict=True))

    found = disagreement(exact, estimate)
    return {
        "places": places,
        "milliseconds": {side: 1000 * statistics.median(values) for side, values in times.items()},
        "ratio": ratio("loop"),
        "estimate_ratio": ratio("ours", "estimate"),
        "over_bound": ratio("ours", "bound"),
        "rows": {side: passes(model, sides[side]) for side in ("ours", "loop")},
        "difference": float((exact.change - loop).abs().max()),
        "disagreement": found.to_dict(),
    }


def row_of(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """A case as a row of the printed table."""
    times, rows = found["milliseconds"], found["rows"]
    apart = found["disagreement"]
    return (
        name,
        str(found["places"]),
        f"{times['ours']:.1f}",
        f"{times['loop']:.1f}",
        f"{found['ratio']:.1f}",
        f"{found['over_bound']:.2f}",
        rows["ours"][1],
        rows["loop"][1],
        rows["ours"][0],
        f"{found['difference']:.0e}",
        f"{times['estimate']:.1f}",
        f"{found['estimate_ratio']:.1f}",
        "" if apart["correlation"] is None else f"{apart['correlation']:.2f}",
    )


COLUMNS = (
    "patching",
    "places",
    "ours ms",
    "loop ms",
    "ratio",
    "× bound",
    "passes, ours",
    "passes, loop",
    "rows, ours",
    "difference",
    "estimate ms",
    "× faster",
    "correlation",
)


def main() -> None:
    """Print a table per model and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--source", type=int, default=12, help="source tokens of the random model")
    parser.add_argument("--target", type=int, default=12, help="target tokens of the random model")
    parser.add_argument("--cases", default="heads,layer × position", help=f"of {', '.join(CASES)}")
    parser.add_argument("--model", type=Path, help="a trained model as well")
    parser.add_argument("--text", default="The cows do not look for the red stars.")
    parser.add_argument("--other", default="The cats do not look for the red stars.")
    given = parser.parse_args()
    made = {"BART d=256 2+2": random_pair(given.source, given.target)}
    if given.model is not None:
        made[given.model.name] = trained_pair(given.model, given.text, given.other)
    records: dict[str, dict[str, Any]] = {}
    for label, (model, pair) in made.items():
        lengths = [len(pair[0].source_tokens), len(pair[0].target_tokens)]
        results = {}
        for name in given.cases.split(","):
            note(f"{label}: {name}")
            results[name] = measured(model, pair, name, given.repeats)
        print(f"\n{label}, {lengths[0]} source and {lengths[1]} target tokens, median of {given.repeats}\n")
        print(table(COLUMNS, [row_of(name, found) for name, found in results.items()]))
        records[label] = {"tokens": lengths, **results}
    first = next(iter(records.values()))
    cases = [name for name in first if name != "tokens"]
    from attribution import processor

    line = {
        "schema": "explain/benchmark@1",
        "name": "internals",
        "ratios": {name: first[name]["ratio"] for name in cases},
        "bound": {name: first[name]["over_bound"] for name in cases},
        "models": records,
        "machine": {
            "cpu": processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    print(dump_json(line, indent=None))


if __name__ == "__main__":
    main()
