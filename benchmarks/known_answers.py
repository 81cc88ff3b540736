"""Are the maps right? Every method against known answers: three tasks, several seeds, one table.

    python benchmarks/known_answers.py --runs runs --seeds 0 1 2

needs a trained model for each task and seed; those that are missing are trained first (a minute or two
each) into RUNS/known-answers/TASK-SEED; the first seed may be RUNS/TASK as `explain demo` leaves it. One
process per core evaluates the models. The last line is one JSON object: `tasks.NAME.methods.NAME` holds the
figures of `evaluation.json`, averaged over seeds, beside `verified_share` and `dropped_share` of the gold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SECONDS = 600
"""What the evaluations should take together, from trained models, on two cores."""


def main() -> None:
    """Train what is missing, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--tasks", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--few", type=int, default=2, help="examples of checks that explain anew many times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    from explain.training import tasks

    names = given.tasks or list(tasks.names())
    folders = {
        (task, seed): trained(given.runs, task, seed) for task in names for seed in dict.fromkeys(given.seeds)
    }
    started = time.monotonic()
    jobs = []
    for (task, seed), folder in folders.items():
        # Stability compares with the next seed's model: every pair of neighbours once.
        later = [other for other in folders if other[0] == task and other[1] > seed]
        other = folders[min(later)] if later else None
        jobs.append((task, seed, folder, other, given.methods, given.examples, given.few))
    # Slow tasks first, so that no core is left with a slow one at the end.
    jobs.sort(key=lambda job: job[0] == "translate")
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(measure, jobs))
    seconds = time.monotonic() - started
    result = {
        task: averaged([evaluation for (name, _), evaluation in found if name == task]) for task in names
    }
    for task, figures in result.items():
        show(task, figures)
    print(f"\n{len(found)} models in {seconds:.0f} s on {given.workers} processes")
    print(
        json.dumps(
            {
                "schema": "explain/benchmark@1",
                "name": "known_answers",
                "seeds": given.seeds,
                "examples": given.examples,
                "tasks": result,
                "ratios": {"time_allowed": round(SECONDS / seconds, 2)},
                "bound": {},
                "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            }
        )
    )


def trained(runs: Path, task: str, seed: int) -> Path:
    """The run folder of a model of this task and seed, trained now if there is none."""
    from explain.runs import Run, is_run
    from explain.training.config import TrainConfig, open_run
    from explain.training.train import train

    for folder in (runs / task, runs / "known-answers" / f"{task}-{seed}"):
        if is_run(folder):
            run = Run.open(folder)
            if run.state == "done" and (run.manifest.get("seed"), run.config.get("task")) == (seed, task):
                return folder
    folder = runs / "known-answers" / f"{task}-{seed}"
    print(f"training {folder}", file=sys.stderr, flush=True)
    config = TrainConfig(resume=True) if is_run(folder) else TrainConfig(task=task, seed=seed)
    train(config, open_run(config, folder))
    return folder


def measure(job: tuple[Any, ...]) -> tuple[tuple[str, int], dict[str, Any]]:
    """Evaluate one model in its own process, on one thread."""
    import torch

    import explain
    from explain.evaluation import EvaluationSettings, FaithfulnessSettings

    task, seed, folder, other, methods, examples, few = job
    torch.set_num_threads(1)
    others = [] if other is None else [explain.load(str(other))]
    settings = EvaluationSettings(
        examples=examples,
        faithfulness_examples=2 * few,
        randomisation_examples=few,
        stability_examples=few,
        cascade="ends",
        seed=seed,
        faithfulness=FaithfulnessSettings(tokens=6),
    )
    started = time.monotonic()
    found = explain.evaluate(
        explain.load(str(folder)), task, methods=methods, others=others, settings=settings
    )
    print(f"{task} seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return (task, seed), found.to_dict()


def averaged(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several evaluations as one: numbers are averaged, intervals and counts with them."""
    verification = [item["task"]["verification"] for item in evaluations]
    dependencies = sum(item["dependencies"] for item in verification)
    testable = sum(item["testable"] for item in verification)
    verified = sum(item["verified"] for item in verification)
    names = list(evaluations[0]["methods"])
    methods = {name: mean([item["methods"][name] for item in evaluations]) for name in names}
    for name in names:
        verdicts = [item["methods"][name]["card"]["verdict"] for item in evaluations]
        methods[name]["card"] = {"verdicts": verdicts}
    return {
        "exact_match": mean([item["task"]["exact_match"] for item in evaluations]),
        "dependencies": dependencies,
        "verified_share": verified / testable if testable else None,
        "dropped_share": 1 - verified / dependencies if dependencies else None,
        "random_order": mean([item["random_order"] for item in evaluations]),
        "methods": methods,
    }


def mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, entry by entry of what holds them; null and nan are left out; else the first."""
    known = [value for value in values if value is not None and value == value]
    if not known:
        return None
    first = known[0]
    if isinstance(first, bool):
        return sum(known) / len(known)
    if isinstance(first, (int, float)):
        return round(sum(known) / len(known), 6)
    if isinstance(first, Mapping):
        return {key: mean([value[key] for value in known if key in value]) for key in first}
    if isinstance(first, (list, tuple)) and all(len(value) == len(first) for value in known):
        return [mean(column) for column in zip(*known, strict=True)]
    return first


def show(task: str, figures: Mapping[str, Any]) -> None:
    """One table per task, best P@1 first."""
    print(
        f"\n{task}: exact match {figures['exact_match']:.3f}; gold: {figures['dependencies']} dependencies, "
        f"{figures['verified_share']:.1%} of those a swap can test are borne out, "
        f"{figures['dropped_share']:.1%} dropped"
    )
    columns = (
        "P@1",
        "R-prec",
        "multi R",
        "contrast",
        "mass",
        "AUPRC",
        "AER",
        "compr.",
        "suff.",
        "weights",
        "seeds",
    )
    print(f"{'method':34}" + "".join(f"{name:>9}" for name in columns) + "  verdicts")

    def order(name: str) -> float:
        gold = figures["methods"][name]["gold"]
        return -(gold["precision_at_1"]["value"] or 0) if gold else 0

    for name in sorted(figures["methods"], key=order):
        found = figures["methods"][name]
        gold, faithful = found["gold"], found["faithfulness"]
        if not gold:
            print(f"{name:34} {found['problem']}")
            continue
        shuffled, stable = found["randomisation"], found["stability"]
        cells = [
            gold["precision_at_1"]["value"],
            gold["r_precision"]["value"],
            gold["subsets"]["multi_token"]["r_precision"]["value"],
            gold["subsets"]["contrastive"]["precision_at_1"]["value"],
            gold["mass"]["value"],
            gold["auprc"]["value"],
            gold["aer"]["value"],
            faithful["comprehensiveness"]["value"],
            faithful["sufficiency"]["value"],
            shuffled["stages"][-1]["top1"]["value"],
            stable["top1"]["value"] if stable else None,
        ]
        print(
            f"{name:34}"
            + "".join(f"{'–' if cell is None else f'{cell:.3f}':>9}" for cell in cells)
            + "  "
            + " ".join(found["card"]["verdicts"])
        )


if __name__ == "__main__":
    main()
