"""Do the detectors see what was planted? Planted models and their clean twins, one detector at a time.

    python benchmarks/audit.py --runs runs-plants

needs the planted models of `explain plant NAME`, in RUNS/NAME-SEED; those that are missing are trained first
(RUNS/base keeps a sound model of each task). Only outputs in which the failure fired count as wrong, and the
planted model's right outputs to ordinary sources as right. Thresholds are conformal, from 500 clean outputs
of the same model; false alarms are counted on the twin, with thresholds of the twin, on other sources of the
same kinds. `combined` is a logistic regression over detectors, no weight below 0, that is fitted on the other
plants: no plant is judged by weights that saw it. The plant `memorised` was left out of all tuning: its
figures were looked at when detectors and settings were fixed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LEFT_OUT = "memorised"
OUTPUT_PLANTS = ("fabrication", "omission", "detached", LEFT_OUT)
"""Plants that single outputs show; shortcuts and biases only show in the model as a whole."""
SHORTCUTS = ("shortcut-clinic", "shortcut-invoice", "shortcut-translate")
RATES = (0.01, 0.05)
TARGETS = {"memorised": 0.99, "detached": 0.99, "fabrication": 0.95, "omission": 0.95}
_CLIP = 20.0  # spreads; further out than this is as far as it gets
Scores = dict[str, list[float]]


def main() -> None:
    """Make what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs-plants"))
    parser.add_argument("--plants", nargs="*", default=[*OUTPUT_PLANTS, "bias"])
    parser.add_argument("--shortcuts", nargs="*", default=list(SHORTCUTS), help="NAME, or NAME:SEED for one")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one cue of each shortcut a seed")
    parser.add_argument("--base", nargs="*", default=[], help="TASK=MODEL: a sound model to begin with")
    parser.add_argument("--calibration", type=int, default=625, help="clean outputs, a fifth for reference")
    parser.add_argument("--examples", type=int, default=200, help="outputs of either kind")
    parser.add_argument("--canary", action="store_true", help="measure the exposure of canaries, too")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    from explain.files import dump_json

    bases = dict(pair.split("=", 1) for pair in given.base)
    started = time.monotonic()
    jobs: list[tuple[Any, ...]] = [
        ("detectors", name, 0, given.runs, bases, given.calibration, given.examples) for name in given.plants
    ]
    for each in given.shortcuts:
        name, _, seed = each.partition(":")
        seeds = [int(seed)] if seed else given.seeds
        jobs += [("trigger", name, seed, given.runs, bases) for seed in seeds]
    if given.canary:
        jobs.append(("canary", "canary", 0, given.runs, bases))
    # One base a task: made before the workers, which would all make it.
    for _, name, seed, *_ in jobs:
        base_of(given.runs, name, seed, bases)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(work, jobs))
    kinds = {kind: [f for job, f in zip(jobs, found, strict=True) if job[0] == kind] for kind in
             ("detectors", "trigger", "canary")}  # fmt: skip
    plants = {item["plant"]: judged(item, kinds["detectors"]) for item in kinds["detectors"]}
    for name, figures in plants.items():
        show(name, figures)
    alarms = within(plants)
    for kind, count in alarms.items():
        print(f"{kind}: {count['within']} of {count['n']} false-alarm rates on twins are within the interval")
    shortcut = shortcuts(kinds["trigger"])
    show_shortcuts(kinds["trigger"], shortcut)
    for item in kinds["canary"]:
        show_canaries(item)
    print(
        dump_json(
            {
                "schema": "explain/benchmark@1",
                "name": "audit",
                "left_out": LEFT_OUT,
                "note": "planted failures are synthetic and transfer imperfectly to natural ones",
                "plants": plants,
                "false_alarms": alarms,
                "shortcut": shortcut,
                "canary": {item["model"]: item["result"] for each in kinds["canary"] for item in each},
                "seconds": round(time.monotonic() - started, 1),
                "ratios": {},
                "bound": {},
                "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            },
            indent=None,
        )
    )


# ---- models ----------------------------------------------------------------------------------------------


def base_of(runs: Path, name: str, seed: int, bases: Mapping[str, str]) -> str:
    """The sound model that a plant begins with, trained now if there is none."""
    from explain.training import plants
    from explain.training.plants.make import FILE, train_base

    task = plants.get(name, seed).task
    if (runs / f"{name}-{seed}" / FILE).exists() or task.name in bases:
        return bases.get(task.name, "")
    return str(train_base(task, runs / "base" / task.name, tell=_say))


def made(runs: Path, name: str, seed: int, bases: Mapping[str, str]) -> Any:
    """A planted model with its twin; what is there is kept."""
    from explain.training.plants.make import FILE, load, make

    folder = runs / f"{name}-{seed}"
    if (folder / FILE).exists():
        return load(folder)
    return make(name, folder, seed=seed, init=base_of(runs, name, seed, bases), tell=_say)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def work(job: tuple[Any, ...]) -> Any:
    """One job in its own process, on one thread."""
    import torch

    torch.set_num_threads(1)
    kind, name, seed, runs, bases, *rest = job
    started = time.monotonic()
    item = made(runs, name, seed, bases)
    result = {"detectors": measured, "trigger": searched, "canary": exposed}[kind](runs, item, *rest)
    _say(f"{kind} of {name}, seed {seed}: {time.monotonic() - started:.0f} s")
    return result


# ---- detectors -------------------------------------------------------------------------------------------


def measured(runs: Path, item: Any, clean: int, examples: int) -> dict[str, Any]:
    """Scores of every detector on both models; kept in RUNS/scores, by models and settings."""
    import explain
    from explain.audit import DETECTORS
    from explain.files import digest_json, read_json, write_json

    names = [name for name, row in DETECTORS.items() if "words" not in row.needs]
    planted, twin = explain.load(item.planted), explain.load(item.twin)
    key = digest_json([planted.digest, twin.digest, clean, examples, names, "swaps of biases"])
    path = runs / "scores" / f"{item.plant.name}-{key.rpartition(':')[2][:16]}.json"
    if path.exists():
        return numbers(read_json(path, "planted-scores"))
    plant = item.plant
    ordinary = pairs_of(plant.others("held_out", clean + examples, seed=101))
    cases = plant.cases("held_out", 3 * examples, seed=102)
    due = [pair for pair in pairs_of(cases) if pair.target]
    # The twin's clean data are of both kinds; what it is calibrated on and judged on are disjoint.
    share = min(plant.share, 0.25) if due else 0.0
    some = round(clean * share)
    mixed = [*ordinary[: clean - some], *due[:some]]
    others = [*ordinary[clean:], *due[some : some + round(examples * share / (1 - share))]]
    calibration = calibrated(planted, ordinary[:clean], names)
    wrong, right = scored_planted(planted, calibration, names, item, cases, ordinary[clean:], examples)
    result = {
        "schema": "explain/planted-scores@1",
        "plant": plant.name,
        "level": plant.level,
        "firing_rate": item.firing_rate,
        "twin_right": item.twin_right,
        "planted": {"clean": clean_scores(calibration), "wrong": wrong, "right": right},
    }
    own = calibrated(twin, mixed, names)
    result["twin"] = {"clean": clean_scores(own), "right": scored(twin, own, names, others)[0]}
    if plant.kind == "bias":
        from explain.audit.model_tests import swaps

        result["swaps"] = {
            kind: swaps(model, plant.task, {}) for kind, model in (("planted", planted), ("twin", twin))
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return numbers(read_json(path, "planted-scores"))


def numbers(data: Any) -> Any:
    """What was read from JSON, where null among scores is a score that is not defined."""
    if isinstance(data, list):
        return [math.nan if value is None else numbers(value) for value in data]
    return {key: numbers(value) for key, value in data.items()} if isinstance(data, dict) else data


def pairs_of(examples: Iterable[Any]) -> list[Any]:
    """Sources with their right outputs."""
    from explain.training.data import Pair

    return [Pair(example.source, example.target) for example in examples]


def calibrated(model: Any, pairs: Sequence[Any], names: Sequence[str]) -> Any:
    """Thresholds from the right ones of the model's outputs."""
    import explain

    return explain.calibrate(model, pairs, detectors=names, only_right=True, seed=7)


def clean_scores(calibration: Any) -> Scores:
    """The calibration's scores by detector."""
    return {name: list(values) for name, values in calibration.scores.items()}


def scored(model: Any, calibration: Any, names: Sequence[str], pairs: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Scores of the outputs that are right, by detector, and every row."""
    from explain.audit.detectors import Context
    from explain.audit.measuring import measure

    context, rows = Context(calibration.references), []
    for begin in range(0, len(pairs), 64):
        rows += measure(model, pairs[begin : begin + 64], names, context, first=begin)
    right = [row for row in rows if row.output == row.expected]
    return columns(right, names), rows


def scored_planted(
    model: Any,
    calibration: Any,
    names: Sequence[str],
    item: Any,
    cases: Sequence[Any],
    ordinary: Sequence[Any],
    examples: int,
) -> tuple[Any, Any]:
    """Scores of outputs in which the failure fired, with token labels, and of right ones."""
    from explain.training.plants.base import labels

    right, rows = scored(model, calibration, names, ordinary)
    right["tokens"] = tokens_of([row for row in rows if row.output == row.expected], names, None)
    _, due = scored(model, calibration, names, pairs_of(cases[: 2 * examples]))
    fired = [(row, case) for row, case in zip(due, cases, strict=False) if case.fired(row.output)][:examples]
    wrong = columns([row for row, _ in fired], names)
    marks = None
    if item.plant.level == "token":
        generations = [model.force(row.source, row.output) for row, _ in fired]
        marks = [
            labels(case.spans, generation.target_tokens)
            for (_, case), generation in zip(fired, generations, strict=True)
        ]
    wrong["tokens"] = tokens_of([row for row, _ in fired], names, marks)
    return wrong, right


def columns(rows: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Scores by detector."""
    return {"values": {name: [row.scores[name].value for row in rows] for name in names}}


def tokens_of(rows: Sequence[Any], names: Sequence[str], marks: Any) -> dict[str, Any]:
    """Scores of every token of every output, by detector of tokens, and whether each token is wrong."""
    from explain.audit import DETECTORS

    own = [name for name in names if DETECTORS[name].level == "token"]
    return {
        "wrong": [
            flag for i, row in enumerate(rows) for flag in (marks[i] if marks else [False] * row.length)
        ],
        **{name: [value for row in rows for value in row.scores[name].tokens] for name in own},
    }


def judged(item: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every detector's figures on one plant, and the combination fitted on the others."""
    from explain.audit import DETECTORS

    names = list(item["planted"]["clean"])
    figures: dict[str, Any] = {}
    for name in names:
        clean, twin = item["planted"]["clean"][name], item["twin"]["clean"][name]
        wrong, right = (item["planted"][kind]["values"][name] for kind in ("wrong", "right"))
        found = {
            "auroc": auroc(wrong, right, clean, DETECTORS[name].direction),
            **at_rates(name, clean, wrong, right),
            **false_alarms(name, twin, item["twin"]["right"]["values"][name]),
        }
        if item["level"] == "token" and DETECTORS[name].level == "token":
            # Beside the output's figures those of its tokens, which are what this plant is about.
            found = {**found, "output_auroc": found["auroc"], **token_figures(item, name, clean)}
        figures[name] = found
    others = [one for one in every if one["plant"] != item["plant"] and one["plant"] in OUTPUT_PLANTS]
    # What was left out of all tuning teaches no other plant's weights either.
    others = [one for one in others if one["plant"] != LEFT_OUT]
    if others:
        figures["combined"] = combined(item, others, names)
    whole = {"visible_per_output": False, "swaps": item["swaps"]} if "swaps" in item else {}
    wrong = len(item["planted"]["wrong"]["values"][names[0]])
    right = len(item["planted"]["right"]["values"][names[0]])
    return {
        "firing_rate": item["firing_rate"],
        "twin_right": item["twin_right"],
        "fired": wrong,
        "right": right,
        "prevalence": round(wrong / (wrong + right), 4) if wrong + right else None,
        "left_out": item["plant"] == LEFT_OUT,
        **whole,
        "detectors": figures,
    }


def turned(values: Sequence[float], clean: Sequence[float], direction: str) -> Any:
    """Scores so that more is more suspicious, in spreads from the clean median; undefined ones are 0."""
    import numpy as np

    known = np.asarray(clean, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return np.zeros(len(values))
    middle = np.median(known)
    low, high = np.quantile(known, [0.05, 0.95])
    spread = max((high - low) / 3.29, 1e-6 * (1 + abs(middle)))
    distance = (np.asarray(values, dtype=float) - middle) / spread
    distance = {"high": distance, "low": -distance, "both": np.abs(distance)}[direction]
    return np.nan_to_num(distance, nan=0.0)


def auroc(wrong: Sequence[float], right: Sequence[float], clean: Sequence[float], direction: str) -> Any:
    """The chance that a wrong output is more suspicious than a right one."""
    from sklearn.metrics import roc_auc_score

    if not wrong or not right:
        return None
    scores = [*turned(wrong, clean, direction), *turned(right, clean, direction)]
    return round(float(roc_auc_score([1] * len(wrong) + [0] * len(right), scores)), 4)


def at_rates(name: str, clean: Sequence[float], wrong: Sequence[float], right: Sequence[float]) -> dict:
    """Precision and recall where one clean output in so many is flagged."""
    from explain.audit import DETECTORS
    from explain.audit.calibration import bounds

    return _at_rates(lambda rate: bounds(clean, rate, DETECTORS[name].direction).outside, wrong, right)


def _at_rates(rule: Any, wrong: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    precision, recall = {}, {}
    for rate in RATES:
        outside = rule(rate)
        hits, alarms = sum(map(outside, wrong)), sum(map(outside, right))
        precision[f"{rate:g}"] = round(hits / (hits + alarms), 4) if hits + alarms else None
        recall[f"{rate:g}"] = round(hits / len(wrong), 4) if wrong else None
    return {"precision": precision, "recall": recall}


def false_alarms(name: str, clean: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    """The share of the twin's right outputs that are flagged, and what false alarms alone explain."""
    from explain.audit import DETECTORS
    from explain.audit.calibration import bounds

    known = sum(not math.isnan(value) for value in clean)
    return _false_alarms(lambda rate: bounds(clean, rate, DETECTORS[name].direction).outside, right, known)


def _false_alarms(rule: Any, right: Sequence[float], clean: int) -> dict[str, Any]:
    from scipy.stats import betabinom, binom

    from explain.audit.calibration import share

    found = {}
    for rate in RATES:
        flagged = share(sum(map(rule(rate), right)), len(right))
        # The bound is a rank among the clean scores, so the true rate is not the stated one to the dot but
        # Beta distributed about it. Below the interval is no miss: scores with ties flag less than stated.
        beyond = max(1, math.floor((clean + 1) * rate))
        most = int(betabinom.ppf(0.975, len(right), beyond, clean + 1 - beyond))
        found[f"{rate:g}"] = {
            **flagged.to_dict(),
            "most": most,
            "within": flagged.count <= most,
            "within_binomial": flagged.count <= int(binom.ppf(0.975, len(right), rate)),
        }
    return {"realised_fpr": found}


def token_figures(item: Mapping[str, Any], name: str, clean: Sequence[float]) -> dict[str, Any]:
    """AUROC, precision and recall over tokens, at the bound that one clean output in so many exceeds."""
    from explain.audit import DETECTORS
    from explain.audit.calibration import bounds

    marks, values = item["planted"]["wrong"]["tokens"]["wrong"], item["planted"]["wrong"]["tokens"][name]
    wrong = [value for value, mark in zip(values, marks, strict=True) if mark]
    right = [value for value, mark in zip(values, marks, strict=True) if not mark]
    right += item["planted"]["right"]["tokens"][name]
    direction = DETECTORS[name].direction
    return {
        "auroc": auroc(wrong, right, clean, direction),
        **_at_rates(lambda rate: bounds(clean, rate, direction).outside, wrong, right),
        "tokens": {"wrong": len(wrong), "right": len(right)},
    }


def within(plants: Mapping[str, Any]) -> dict[str, Any]:
    """How many realised rates of false alarms lie within the interval of the stated one.

    Of right ones 97.5 % do: `binomial` takes the stated rate for the true one, `calibrated` counts in that
    500 clean scores leave it uncertain.
    """
    rows = [
        found
        for figures in plants.values()
        for row in figures["detectors"].values()
        for found in row["realised_fpr"].values()
    ]
    return {
        name: {"within": sum(found[key] for found in rows), "n": len(rows)}
        for name, key in (("binomial", "within_binomial"), ("calibrated", "within"))
    }


def combined(item: Mapping[str, Any], others: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict:
    """A logistic regression over detectors, fitted on other plants."""
    import numpy as np
    from scipy.optimize import minimize

    from explain.audit import DETECTORS
    from explain.audit.calibration import threshold

    def table(values: Mapping[str, Sequence[float]], clean: Scores) -> Any:
        columns = [turned(values[name], clean[name], DETECTORS[name].direction) for name in names]
        return np.log1p(np.clip(np.stack(columns, 1), 0, _CLIP))

    parts, labels = [], []
    for one in others:
        for kind, label in (("wrong", 1.0), ("right", 0.0)):
            part = table(one["planted"][kind]["values"], one["planted"]["clean"])
            parts.append(part)
            labels += [label] * len(part)
    every, marks = np.concatenate(parts), np.asarray(labels)
    importance = np.where(marks == 1, 0.5 / marks.sum(), 0.5 / (1 - marks).sum())

    def loss(weights: Any) -> float:
        margins = (every @ weights[1:] + weights[0]) * (2 * marks - 1)
        return float((importance * np.logaddexp(0, -margins)).sum() + 1e-3 * (weights[1:] ** 2).sum())

    # No weight is below 0: what one kind of failure lacks must not count against another kind.
    found = minimize(loss, np.zeros(len(names) + 1), bounds=[(None, None), *[(0, None)] * len(names)])
    weights = found.x

    def chances(values: Mapping[str, Sequence[float]], clean: Scores) -> list[float]:
        scores = table(values, clean)
        return (scores @ weights[1:]).tolist() if len(scores) else []

    planted, twin = item["planted"], item["twin"]
    wrong, right = (chances(planted[kind]["values"], planted["clean"]) for kind in ("wrong", "right"))
    clean, own = chances(planted["clean"], planted["clean"]), chances(twin["clean"], twin["clean"])

    def rule(scores: Sequence[float]) -> Any:
        return lambda rate: lambda score: score > threshold(scores, rate)

    return {
        "auroc": auroc(wrong, right, clean, "high"),
        **_at_rates(rule(clean), wrong, right),
        **_false_alarms(rule(own), chances(twin["right"]["values"], twin["clean"]), len(own)),
        "fitted_on": [one["plant"] for one in others],
        "weights": {
            name: round(float(w), 4) for name, w in zip(names, weights[1:], strict=True) if w > 0.005
        },
    }


# ---- models as a whole -----------------------------------------------------------------------------------


def searched(runs: Path, item: Any) -> dict[str, Any]:
    """The search for triggers on a planted model and on its twin."""
    import explain
    from explain.audit.trigger import CANDIDATES, EXAMPLES, LIMIT, trigger
    from explain.files import digest_json, read_json, write_json

    models = {kind: explain.load(getattr(item, kind)) for kind in ("planted", "twin")}
    key = digest_json([[model.digest for model in models.values()], EXAMPLES, CANDIDATES, LIMIT])
    path = runs / "scores" / f"{item.plant.name}-{item.seed}-{key.rpartition(':')[2][:16]}.json"
    if path.exists():
        found = read_json(path, "planted-triggers")["tests"]
    else:
        found = {kind: trigger(model, item.plant.task) for kind, model in models.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": "explain/planted-triggers@1", "tests": found})
    cue = item.plant.cue
    words = [row["word"] for row in found["planted"].get("words", [])]
    screened = found["planted"].get("screened", [])
    return {
        "plant": item.plant.name,
        "seed": item.seed,
        "cue": cue,
        "firing_rate": item.firing_rate,
        "rank": words.index(cue) + 1 if cue in words else None,
        "first": bool(words) and words[0] == cue,
        "flagged": cue in found["planted"].get("flagged", []),
        "also_flagged": sorted({word for word in found["planted"].get("flagged", []) if word != cue}),
        "twin_flagged": found["twin"].get("flagged", []),
        "screened_at": screened.index(cue) + 1 if cue in screened else None,
        "tests": found,
    }


def shortcuts(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often the cue is ranked first, and how often a twin is flagged."""
    from explain.audit.calibration import share

    found = share(sum(item["first"] and item["flagged"] for item in items), len(items)).to_dict()
    flagged = share(sum(bool(item["twin_flagged"]) for item in items), len(items)).to_dict()
    brief = ("plant", "seed", "cue", "firing_rate", "rank", "flagged", "twin_flagged", "screened_at")
    return {
        "found_rate": found["value"],
        "clean_flag_rate": flagged["value"],
        "found": found,
        "clean_flagged": flagged,
        "models": [{key: item[key] for key in brief} for item in items],
    }


def exposed(runs: Path, item: Any) -> list[dict[str, Any]]:
    """Exposure of the canaries in the model that saw them and in the one that did not."""
    import explain
    from explain.audit.canary import canary

    return [
        {"model": kind, "result": canary(explain.load(getattr(item, kind)), item.plant.canaries)}
        for kind in ("planted", "twin")
    ]


# ---- tables ----------------------------------------------------------------------------------------------


def show(name: str, figures: Mapping[str, Any]) -> None:
    """One plant: detectors by AUROC."""
    rate = figures["firing_rate"]
    note = " (left out of all tuning)" if figures["left_out"] else ""
    fires = "–" if rate is None else f"{rate:.1%}"
    print(f"\n{name}{note}: fires in {fires} of cases; {figures['fired']} fired, {figures['right']} right")
    print(
        f"{'detector':24}{'AUROC':>8}{'P 1%':>8}{'R 1%':>8}{'P 5%':>8}{'R 5%':>8}{'FPR 1%':>9}{'FPR 5%':>9}"
    )
    rows = figures["detectors"]
    for detector in sorted(rows, key=lambda key: -(rows[key]["auroc"] or 0)):
        row = rows[detector]
        cells = [row["auroc"]] + [row[key][f"{rate:g}"] for rate in RATES for key in ("precision", "recall")]
        alarms = [row["realised_fpr"][f"{rate:g}"] for rate in RATES]
        print(
            f"{detector:24}"
            + "".join(f"{'–' if cell is None else f'{cell:.3f}':>8}" for cell in cells)
            + "".join(f"{found['value']:>8.3f}{' ' if found['within'] else '!'}" for found in alarms)
        )
    if name == "bias":
        swaps = figures["swaps"]
        print("no detector is expected to see a bias: each output is as fluent as a right one")
        for kind, test in swaps.items():
            print(f"facts swapped, {kind} model as a whole: {test['reason']}")
    if name in TARGETS:
        best = max(rows, key=lambda key: rows[key]["auroc"] or 0)
        print(f"asked: AUROC {TARGETS[name]}; best: {best} {rows[best]['auroc']}")
    print("(FPR: false alarms on the clean twin; !: more than the stated rate explains at 97.5 %)")
    print("(planted failures are synthetic, and transfer imperfectly to natural ones)")


def show_shortcuts(items: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> None:
    """Every planted shortcut with the rank of its cue."""
    if not items:
        return
    print(
        f"\n{'shortcut':22}{'cue':>14}{'fires':>8}{'rank':>6}{'flagged':>9}{'twin flags':>12}{'outputs':>9}"
    )
    for item in items:
        cost = item["tests"]["planted"].get("cost", {})
        print(
            f"{item['plant']:22}{item['cue']:>14}{item['firing_rate']:>8.2f}{item['rank'] or '–':>6}"
            f"{'yes' if item['flagged'] else 'no':>9}{len(item['twin_flagged']):>12}"
            f"{cost.get('outputs', 0):>9}"
        )
    print(f"found {figures['found_rate']:.2f}, clean twins flagged {figures['clean_flag_rate']:.2f}")


def show_canaries(items: Sequence[Mapping[str, Any]]) -> None:
    """Exposure by how often a canary was seen."""
    for item in items:
        rows = item["result"]["canaries"]
        print(
            f"\nexposure, bits, {item['model']}: "
            + ", ".join(f"{r['times']}x {r['exposure']:.1f}" for r in rows)
        )


if __name__ == "__main__":
    main()
