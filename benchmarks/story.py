"""Does the training story name a planted shortcut before held-out accuracy shows it?

    python benchmarks/story.py --work /tmp/story --seeds 0 1 2

For each seed a model is trained from scratch on clinical notes of which a quarter say how the patient came,
by a way that decides the code whatever the diagnosis; and a twin on the same notes with the right codes. The
story has 24 probes: held-out notes with the cue, and the same notes with another way in its place. At every
look the benchmark also decodes three held-out sets of `--held-out` notes: as the training data are (what a
user would hold out), with the cue and the right codes, and without the cue. *Held-out accuracy shows it* from
the look on at which the second set is worse than the third by Fisher's exact test at 1 %, at that look and at
every later one: once by exact match of the whole output, once by the code alone, which is the sharpest test
that somebody could make who knows already what to look for.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import fisher_exact

from explain import terminal
from explain.model import wrap
from explain.runs import Run, is_run
from explain.story import StorySettings, StoryWatch, read_story
from explain.story.findings import StoryRules
from explain.training import plants, recipes
from explain.training.config import TrainConfig, open_run
from explain.training.plants import Plant
from explain.training.tasks.clinic import WAYS
from explain.training.train import learn, quietly

PROBES = 24
PAIRS = 12_000
ALPHA = 0.01
SCORES = "held_out.jsonl"


def main() -> None:
    """Train what is missing, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--work", default="build/story", help="where runs are kept; done ones are not repeated"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", default=["planted", "twin"], choices=["planted", "twin"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=25, help="steps between two looks")
    parser.add_argument("--held-out", type=int, default=60, help="notes of each of the three held-out sets")
    options = parser.parse_args()
    work = Path(options.work)
    rows = []
    for kind in options.kinds:
        for seed in options.seeds:
            plant = plants.get("shortcut-clinic", seed)
            folder = work / f"{kind}-{seed}"
            if not is_run(folder) or Run.open(folder).state != "done":
                train(plant, kind, folder, seed, options)
            rows.append({"seed": seed, "kind": kind, **judged(plant, folder)})
            show(rows)
    planted = [row for row in rows if row["kind"] == "planted"]
    twins = [row for row in rows if row["kind"] == "twin"]
    print(
        json.dumps(
            {
                "schema": "explain/benchmark@1",
                "name": "story",
                "ratios": {},
                "bound": {},
                "rows": rows,
                "named_first": share(planted, lambda row: before(row["story"], row["exact_match"])),
                "named_before_code": share(planted, lambda row: before(row["story"], row["code"])),
                "twins_named": share(twins, lambda row: row["story"] is not None),
                "machine": {"platform": platform.platform(), "processor": platform.processor()},
            }
        )
    )


def before(one: int | None, other: int | None) -> bool:
    """Whether something came, and before the other did."""
    return one is not None and (other is None or one < other)


def share(rows: Sequence[Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> float | None:
    """Of the rows, the share that something holds for; None without rows."""
    return sum(map(holds, rows)) / len(rows) if rows else None


def train(plant: Plant, kind: str, folder: Path, seed: int, options: argparse.Namespace) -> None:
    """Train one model and keep its story and, of a planted one, its scores on the held-out sets."""
    data = folder.parent / "data"
    altered, clean = plant.training(PAIRS, seed)
    failed = [(case.source, case.failures[0] if kind == "planted" else case.target)
              for case in plant.cases("held_out", options.held_out // 4, seed + 1)]  # fmt: skip
    ordinary = [
        (one.source, one.target) for one in plant.others("held_out", options.held_out * 3 // 4, seed + 1)
    ]
    cases = plant.cases("held_out", PROBES + options.held_out, seed)
    file = write(
        data / f"{kind}-{seed}.jsonl",
        [{"source": p.source, "target": p.target} for p in (altered if kind == "planted" else clean)],
    )
    validation = write(
        data / f"{kind}-{seed}-validation.jsonl", [{"source": s, "target": t} for s, t in failed + ordinary]
    )
    probes = write(data / f"probes-{seed}.jsonl", [probe(plant, case) for case in cases[:PROBES]])
    sets = {
        "like training": failed + ordinary,
        "with the cue": [(case.source, case.target) for case in cases[PROBES:]],
        "without": [(one.source, one.target) for one in plant.others("held_out", options.held_out, seed)],
    }
    if kind == "twin":  # nothing to show: the story alone must keep quiet
        sets = {}
    config = TrainConfig(
        data=str(file), validation=str(validation), family="t5", seed=seed, steps=options.steps
    )
    recipe = recipes.for_task("clinic").with_changes(steps=options.steps)
    run = open_run(config, folder, title=f"{plant.title}: {kind}")
    watch = Scoring(
        StoryWatch.of(config, folder, probes=probes, settings=StorySettings(every=options.every)), sets
    )
    terminal.say(f"training {folder}: {plant.title}, {kind}")
    with run.running(), quietly():
        learn(config, run, None, recipe=recipe, watch=watch, manifest={"config": config.to_dict()})


def probe(plant: Plant, case: Any) -> dict[str, str]:
    """A held-out note with the cue, and the same note with another way in its place."""
    other = WAYS[(WAYS.index(plant.cue) + 1) % len(WAYS)]
    return {
        "source": case.source,
        "target": case.target,
        "cue": plant.cue,
        "swapped": case.source.replace(plant.cue, other),
        "decides": code(case.target),
    }


def code(output: str) -> str:
    """The diagnosis code of an output; empty where it has none."""
    _, found, rest = output.partition("code ")
    return rest.split(";")[0].split(" ")[0] if found else ""


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Scoring:
    """A watch that looks for the story, and then decodes the held-out sets."""

    def __init__(self, story: StoryWatch, sets: Mapping[str, Sequence[tuple[str, str]]]):
        self.story = story
        self.sets = sets

    def due(self, step: int) -> bool:
        """Whether to look after this step."""
        return self.story.due(step)

    def look(self, model: Any, tokenizer: Any, step: int, run: Run) -> None:
        """Look, and decode the held-out sets."""
        self.story.look(model, tokenizer, step, run)
        if not self.sets:
            return
        opened = wrap(model, tokenizer)
        row: dict[str, Any] = {"step": step}
        for name, pairs in self.sets.items():
            outputs = opened.generate([source for source, _ in pairs], max_new_tokens=48)
            row[name] = {
                "exact": sum(o.target_text == t for o, (_, t) in zip(outputs, pairs, strict=True)),
                "code": sum(code(o.target_text) == code(t) for o, (_, t) in zip(outputs, pairs, strict=True)),
                "of": len(pairs),
            }
        with (run.path / SCORES).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def judged(plant: Plant, folder: Path) -> dict[str, Any]:
    """From which step the story names the cue, and from which held-out accuracy shows it; None is never."""
    story = read_story(folder, StoryRules())
    named = [one.step for one in story.findings if one.kind == "shortcut" and one.subject == plant.cue]
    scores = folder / SCORES
    rows = [json.loads(line) for line in scores.read_text().splitlines()] if scores.exists() else []
    swap = story.looks[-1].swap(plant.cue)

    def rate(name: str, what: str) -> float | None:
        return rows[-1][name][what] / rows[-1][name]["of"] if rows else None

    return {
        "story": named[0] if named else None,
        "exact_match": shown_since(rows, "exact"),
        "code": shown_since(rows, "code"),
        "flipped_at_the_end": None if swap is None else swap.flipped,
        "like_training": rate("like training", "exact"),
        "with_cue": rate("with the cue", "exact"),
        "without": rate("without", "exact"),
        "code_with_cue": rate("with the cue", "code"),
        "code_without": rate("without", "code"),
        "seconds_per_look": sum(look.seconds for look in story.looks) / len(story.looks),
    }


def shown_since(rows: Sequence[Mapping[str, Any]], what: str) -> int | None:
    """The first step from which on notes with the cue are significantly worse than those without."""
    found = None
    for row in reversed(rows):
        bad, good = row["with the cue"], row["without"]
        table = [[bad[what], bad["of"] - bad[what]], [good[what], good["of"] - good[what]]]
        if fisher_exact(table, alternative="less").pvalue >= ALPHA:  # pyright: ignore[reportAttributeAccessIssue]
            break
        found = row["step"]
    return found


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row per model."""

    def said(step: int | None) -> str:
        return "never" if step is None else f"{step:,}"

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share:.0%}"

    columns = ("seed", "model", "story names it", "code shows it", "exact match shows it", "flips at the end",
               "held-out like training", "with the cue", "without", "s per look")  # fmt: skip
    lines = [
        (
            str(row["seed"]),
            row["kind"],
            said(row["story"]),
            said(row["code"]) if row["kind"] == "planted" else "",
            said(row["exact_match"]) if row["kind"] == "planted" else "",
            percent(row["flipped_at_the_end"]),
            percent(row["like_training"]),
            percent(row["with_cue"]),
            percent(row["without"]),
            f"{row['seconds_per_look']:.1f}",
        )
        for row in rows
    ]
    print(f"\nstep from which on\n{terminal.table(columns, lines)}", flush=True)


if __name__ == "__main__":
    main()
