"""What helps when labels are few: one task, several tasks, or denoising first?

    python benchmarks/generalisation.py --out runs/generalisation --seeds 0 1 2

trains a small model to translate by the controlled grammar from 5 %, 20 % and 100 % of the labelled
sentences, in three ways of the same number of steps, from the same first weights and with the same tokenizer:

single      all steps on the labelled pairs
multi-task  every second pair is of another task, with plentiful labels: English to the facts it states
denoising   two fifths of the steps go to unlabelled English and French sentences first

and scores each by exact match, greedily decoded, on three sets of sentences that nothing was trained on:
`held-out`, drawn as the labelled ones are; `longer`, with more words than any labelled one; `new pairs`, with
a noun and adjective that never stand together in a labelled one. The other task and the unlabelled sentences
are drawn from the whole grammar: they do have longer sentences and such pairs, as plentiful text would.

Each model's figures are kept in OUT, so that a run that was cut short goes on, and several may run side by
side, a seed each, once the data are there (`--seeds` without any makes them). The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from explain.files import write_json, write_text

WAYS = ("single", "multi-task", "denoising")
SHARES = (0.05, 0.2, 1.0)
SETS = ("held-out", "longer", "new pairs")
LONGEST = 9
"""Words of the longest labelled sentence."""
PREFIX = "translate: "
TASK = "translate"


def main() -> None:
    """Make the data, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/generalisation"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--family", choices=("bart", "t5"), default="bart")
    parser.add_argument("--labelled", type=int, default=2_000, help="labelled sentences at 100 %%")
    parser.add_argument(
        "--plenty", type=int, default=6_000, help="sentences of the other task, and unlabelled"
    )
    parser.add_argument("--tests", type=int, default=300, help="sentences in each set that is scored")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "seeds", "shares")}
    kept = given.out / "settings.json"
    if kept.exists() and json.loads(kept.read_text("utf-8")) != settings:
        sys.exit(f"{given.out} holds figures of other settings; name another folder")
    tests = make_data(given.out, given)
    write_text(kept, json.dumps(settings))
    if not given.seeds:
        return
    started = time.monotonic()
    cells: dict[tuple[str, float], list[Mapping[str, float]]] = {}
    for seed in given.seeds:
        for share in given.shares:
            for way in WAYS:
                cells.setdefault((way, share), []).append(cell(given, way, share, seed, tests))
    seconds = time.monotonic() - started
    show(cells)
    table = {f"{way} {share:g}": averaged(found) for (way, share), found in cells.items()}
    print(
        json.dumps(
            {
                "schema": "explain/benchmark@1",
                "name": "generalisation",
                "seeds": given.seeds,
                **settings,
                "table": table,
                "ratios": {},
                "bound": {},
                "seconds": round(seconds),
                "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            }
        )
    )


def make_data(out: Path, given: argparse.Namespace) -> dict[str, list[Any]]:
    """Write the data files, the same for all seeds, and return the sets to score by name."""
    from explain.training import tasks
    from explain.training.data import Pair

    task = tasks.get(TASK)
    (out / "data").mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"generalisation/{given.labelled}/{given.plenty}")
    seen: set[str] = set()

    def draw(count: int, fits: Callable[[Any], bool]) -> list[Any]:
        found = []
        while len(found) < count:
            example = task.render(task.sample(rng))
            if example.source not in seen and fits(example):
                seen.add(example.source)
                found.append(example)
        return found

    def labelled(example: Any) -> bool:
        return _words(example) <= LONGEST and not _new_pair(example)

    sets = {
        "held-out": draw(given.tests, labelled),
        "longer": draw(given.tests, lambda one: _words(one) > LONGEST and not _new_pair(one)),
        "new pairs": draw(given.tests, lambda one: _words(one) <= LONGEST and _new_pair(one)),
    }
    pairs = draw(given.labelled, labelled)
    others = draw(given.plenty, lambda one: True)
    english, french = draw(given.plenty, lambda one: True), draw(given.plenty, lambda one: True)
    for share in given.shares:
        part = pairs[: round(share * len(pairs))]
        # Bare, with the prefix, and in a mixture that puts the prefix there itself.
        _write(out / "data" / f"prefixed-{share:g}.tsv", [(PREFIX + one.source, one.target) for one in part])
        _write(out / "data" / f"pairs-{share:g}.tsv", [(one.source, one.target) for one in part])
        mixture = {
            TASK: {"data": f"pairs-{share:g}.tsv", "prefix": PREFIX, "rate": 1},
            "facts": {"data": "facts.tsv", "rate": 1},
        }
        write_text(out / "data" / f"mixture-{share:g}.yaml", json.dumps({"tasks": mixture}))
    _write(out / "data" / "facts.tsv", [(one.source, _facts(one)) for one in others])
    texts = [one.source for one in english] + [one.target for one in french]
    rng.shuffle(texts)
    write_text(out / "data" / "texts.txt", "\n".join(texts) + "\n")
    return {name: [Pair(PREFIX + one.source, one.target) for one in found] for name, found in sets.items()}


def _words(example: Any) -> int:
    return len(example.source.split())


def _new_pair(example: Any) -> bool:
    """Whether a noun and its adjective are among the quarter of pairs that no labelled sentence has."""
    slots = example.slots
    for role, place in (("subject", "subject"), ("object", "object"), ("subject", "predicate")):
        noun, adjective = slots.get(f"{role}.noun"), slots.get(f"{place}.adjective")
        if noun and adjective and random.Random(f"{noun}/{adjective}").random() < 0.25:
            return True
    return False


def _facts(example: Any) -> str:
    """What a sentence states: the values of its slots, in the order of their names."""
    return " ".join(value for _, value in sorted(example.slots.items()))


def _write(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    lines = ["source\ttarget", *(f"{source}\t{target}" for source, target in rows)]
    write_text(path, "\n".join(lines) + "\n")


def cell(
    given: argparse.Namespace, way: str, share: float, seed: int, tests: Mapping[str, Sequence[Any]]
) -> dict[str, float]:
    """The figures of one model, trained now unless they are there."""
    path = given.out / "cells" / f"{way}-{share:g}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    from explain.model.loading import open_model
    from explain.runs import Run
    from explain.training.checkpoints import last_checkpoint
    from explain.training.config import CHECKPOINTS, TrainConfig
    from explain.training.prepare import encode_pairs
    from explain.training.scoring import score
    from explain.training.train import learn, quietly

    started = time.monotonic()
    folder = given.out / "runs" / f"{way}-{share:g}-{seed}"
    init, recipe = first_model(given, seed)
    denoise = given.steps * 2 // 5 if way == "denoising" else None
    data = f"mixture-{share:g}.yaml" if way == "multi-task" else f"prefixed-{share:g}.tsv"
    config = TrainConfig(
        data=str(given.out / "data" / data),
        init=str(init),
        seed=seed,
        denoise=str(given.out / "data" / "texts.txt") if denoise else None,
        denoise_steps=denoise,
        resume=folder.exists(),
    )
    recipe = recipe.with_changes(steps=given.steps - (denoise or 0), denoise_steps=denoise)
    run = Run.open(folder) if folder.exists() else Run.create(folder, kind="train", title=folder.name)
    with run.running(), quietly():
        learn(config, run, recipe=recipe)
    # The last weights, not those that did best on the way: no way of training gets to choose.
    last = last_checkpoint(folder / CHECKPOINTS)
    model, tokenizer, _ = open_model(str(last), device="cpu")
    found = {
        name: score(model, tokenizer, encode_pairs(tokenizer, pairs, model)).exact_match
        for name, pairs in tests.items()
    }
    found["seconds"] = round(time.monotonic() - started, 1)
    write_json(path, found)
    print(f"{way} {share:.0%} seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def first_model(given: argparse.Namespace, seed: int) -> tuple[Path, Any]:
    """A model that nothing was trained on, of which all ways begin, and how they train it."""
    from transformers import set_seed

    from explain.training import presets, recipes
    from explain.training.denoising import ROW, count_spans
    from explain.training.tokenizer import build_tokenizer
    from explain.training.train import save_model

    recipe = presets.resize(recipes.for_file(given.labelled, given.family), "tiny")
    recipe = recipe.with_changes(batch_size=given.batch_size)
    folder = given.out / "first" / str(seed)
    if not folder.exists():
        texts = [
            text
            for name in ("texts.txt", "facts.tsv", f"prefixed-{max(given.shares):g}.tsv")
            for text in (given.out / "data" / name).read_text("utf-8").split("\n")
        ]
        tokenizer = build_tokenizer(texts, 2_000, sentinels=1 + count_spans(ROW)[1])
        set_seed(seed)
        save_model(recipes.build_model(recipe, tokenizer, 96), tokenizer, folder)
    return folder, recipe


def averaged(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, least and most over the seeds."""
    return {
        name: {
            "mean": round(statistics.mean(one[name] for one in found), 4),
            "least": min(one[name] for one in found),
            "most": max(one[name] for one in found),
        }
        for name in SETS
    }


def show(cells: Mapping[tuple[str, float], Sequence[Mapping[str, float]]]) -> None:
    """Print the table: exact match in per cent, mean (least to most) over the seeds."""
    print(f"{'labels':>6}  {'way':<11}" + "".join(f"{name:>20}" for name in SETS))
    for (way, share), found in sorted(cells.items(), key=lambda item: (item[0][1], WAYS.index(item[0][0]))):
        figures = averaged(found)
        texts = (
            f"{100 * one['mean']:.1f} ({100 * one['least']:.1f}-{100 * one['most']:.1f})"
            for one in (figures[name] for name in SETS)
        )
        print(f"{share:>6.0%}  {way:<11}" + "".join(f"{text:>20}" for text in texts))


if __name__ == "__main__":
    main()
