"""What does compression cost? Size, speed, accuracy and explanations of smaller demo models, in one table.

    python benchmarks/compression.py --runs runs --tasks translate clinic

needs the trained models of seeds 0 and 1, as `benchmarks/known_answers.py` leaves them; those missing are
trained first. Every variant is a run folder in RUNS/compressed/TASK-0-VARIANT; those that are done are not
made again. Explanations are compared with the original's on the same forced outputs, against the floor: what
another seed of the same training changes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "int8": {"quantize": "int8"},
    "prune-30": {"prune": 0.3},
    "prune-50": {"prune": 0.5},
    "prune-70": {"prune": 0.7},
    "prune-30-tuned": {"prune": 0.3, "finetune_steps": 150},
    "prune-50-tuned": {"prune": 0.5, "finetune_steps": 150},
    "prune-70-tuned": {"prune": 0.7, "finetune_steps": 150},
    "heads-50-tuned": {"prune": 0.5, "structure": "heads", "finetune_steps": 150},
    "neurons-50-tuned": {"prune": 0.5, "structure": "neurons", "finetune_steps": 150},
    "one-layer": {"distill": "1"},
}


def main() -> None:
    """Make the variants, compare them, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--tasks", nargs="+", default=["translate", "clinic"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--methods", nargs="+", default=["occlusion", "attention"])
    parser.add_argument("--examples", type=int, default=20, help="outputs that are explained; 0: none")
    given = parser.parse_args()
    from known_answers import trained

    tasks: dict[str, dict[str, Any]] = {}
    for task in given.tasks:
        original, other = (trained(given.runs, task, seed) for seed in (0, 1))
        rows = {}
        for name in given.variants:
            folder = made(original, given.runs / "compressed" / f"{task}-0-{name}", VARIANTS[name])
            rows[name] = figures(folder)
            if given.examples:
                rows[name] |= drift(original, folder, other, task, given.methods, given.examples)
            print(f"{task} {name}: done", file=sys.stderr, flush=True)
        show(task, rows, given.methods if given.examples else [])
        tasks[task] = rows
    print(
        json.dumps(
            {
                "schema": "explain/benchmark@1",
                "name": "compression",
                "tasks": tasks,
                "ratios": {
                    f"{task}.{name}": round(row["speed"]["ratio"], 3)
                    for task, rows in tasks.items()
                    for name, row in rows.items()
                },
                "bound": {},
                "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            }
        )
    )


def made(original: Path, folder: Path, options: Mapping[str, Any]) -> Path:
    """The run folder of a variant, made now unless it is there and of this very original."""
    import explain
    from explain.compression import FILE, CompressConfig, Compression, compress, open_run
    from explain.runs import Run, is_run

    if is_run(folder):
        if Run.open(folder).state == "done":
            if Compression.load(folder / FILE).original_digest == explain.load(original).digest:
                return folder
        shutil.rmtree(folder)
    config, run = open_run(CompressConfig(str(original), **options), folder)
    compress(config, run)
    return folder


def figures(folder: Path) -> dict[str, Any]:
    """Size, speed and accuracy from `compression.json`."""
    from explain.compression import FILE, Compression

    found = Compression.load(folder / FILE).to_dict()
    return {name: found[name] for name in ("original", "compressed", "speed")}


def drift(
    original: Path, folder: Path, other: Path, task: str, methods: list[str], examples: int
) -> dict[str, Any]:
    """How far the explanations moved, the same between two seeds, and whether accuracy hides it."""
    import explain
    from explain.comparison import ComparisonSettings, compare

    opened = (explain.load(str(path)) for path in (original, folder, other))
    first, second, floor = opened
    found = compare(
        first,
        second,
        task,
        floor=[floor],
        methods=methods,
        settings=ComparisonSettings(examples=examples, outputs=max(200, examples)),
    )

    def values(figures: Any) -> dict[str, dict[str, float]]:
        names = ("topk_jaccard", "top1", "weighted_tau")
        return {m: {n: getattr(d, n).value for n in names} for m, d in figures.drift.items()}

    return {
        "drift": values(found.figures),
        "floor": {} if found.floor is None else values(found.floor.figures),
        "alarm": found.alarm.alarm,
        "accuracy_unchanged": found.alarm.accuracy_unchanged,
    }


def show(task: str, rows: Mapping[str, Mapping[str, Any]], methods: list[str]) -> None:
    """One line per variant; beside each method top-k Jaccard, top-1 and weighted tau, and last the floor."""
    from explain.terminal import table

    columns = ["variant", "parameters", "zeros", "disk kB", "zipped kB", "speed", "exact match", "token acc."]
    columns += [f"{method} J / top-1 / τ" for method in methods] + (["alarm"] if methods else [])
    lines = []
    first = next(iter(rows.values()))
    for name, side, row in [
        ("original", "original", first),
        *((n, "compressed", r) for n, r in rows.items()),
    ]:
        size, accuracy = row[side]["size"], row[side]["accuracy"]
        line = [
            name,
            f"{size['parameters']:,}",
            f"{size['sparsity']:.0%}",
            f"{size['disk_bytes'] / 1000:.0f}",
            f"{size['zipped_bytes'] / 1000:.0f}",
            "1.00" if side == "original" else f"{row['speed']['ratio']:.2f}",
            f"{accuracy['exact_match']:.1%}",
            f"{accuracy['token_accuracy']:.2%}",
        ]
        for method in methods:
            found = {} if side == "original" else row["drift"].get(method, {})
            line.append(" / ".join(f"{value:.2f}" for value in found.values()) or "-")
        if methods:
            line.append("" if side == "original" else {True: "ALARM", False: "no", None: "?"}[row["alarm"]])
        lines.append(line)
    if methods:
        seeds = [" / ".join(f"{value:.2f}" for value in first["floor"].get(m, {}).values()) for m in methods]
        lines.append(["floor: another seed", *[""] * 7, *seeds, ""])
    print(f"\n{task}\n{table(columns, lines)}", flush=True)


if __name__ == "__main__":
    main()
