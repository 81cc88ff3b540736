"""An audit that is killed again and again: does it end in the same bytes as one that was left alone?

First the audit runs undisturbed. Then it is started in a new folder, killed with kill -9 and resumed, until
it ends; its files are compared byte for byte, and the next one begins, until `--kills` are reached. Kills
strike at uniformly random moments from the start to the first four shards, or to the end where all shards are
there; every second of them not before the first new shard is due, or most would strike while the model is
opened; every third waits, from such a moment on, until a file is being written, and strikes then.

Every start is a process of its own, forked from one that has imported the libraries and done nothing else, so
that a hundred of them take minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # what forks must have started no threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from attribution import processor

import explain.audit.maps
import explain.cli
import explain.report.audit
from explain import terminal
from explain.files import dump_json
from explain.terminal import note, table

OUT = "audit"
COMPARED = ("audit.json", "outputs.parquet", "findings.parquet", "findings.csv", "audit.html")
_POLL = 2e-4  # seconds


@dataclass
class Pace:
    """How long things take here and now, in seconds; the machine may have other work as well.

    Attributes:
        start: from the start of a process to its first new shard.
        shard: from one shard to the next.
        tail: from the last shard to the end.
        shards: how many there are.
    """

    start: float
    shard: float
    tail: float
    shards: int

    def window(self, missing: int) -> float:
        """The time after a start in which it is killed: the first four shards, or the tables and the page."""
        return self.start + (min(4, missing) * self.shard if missing else self.tail)

    def learn(self, moments: Sequence[float]) -> None:
        """Take in the moments at which a process had written its shards."""
        if moments:
            self.start = (self.start + moments[0]) / 2
        for before, after in pairwise(moments):
            self.tail *= 0.9 + 0.1 * (after - before) / self.shard
            self.shard = 0.9 * self.shard + 0.1 * (after - before)


@dataclass
class Kills:
    """What was struck: all kills, those that left a half-written file, and what the start was doing."""

    count: int = 0
    torn: int = 0
    during: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("start", "shards", "tables and page"), 0)
    )


def start(folder: Path, words: Sequence[str]) -> int:
    """The id of a new process that runs `explain` in a folder."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["explain", *words]
        status = terminal.run(explain.cli.app)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int) -> int | None:
    """The exit status of a process, None as long as it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def shards_of(folder: Path) -> int:
    """Shards that are there."""
    return len(list((folder / OUT / "shards").glob("[0-9]*.parquet")))


def half_written(folder: Path) -> list[str]:
    """Files that are being written, or were when their process was killed."""
    names = []
    for place in (folder / OUT, folder / OUT / "shards"):
        with contextlib.suppress(OSError):
            names += [name for name in os.listdir(place) if name.startswith(".")]
    return names


@dataclass(frozen=True)
class End:
    """How a process ended: its exit status (None: killed), and when it had written which shards."""

    status: int | None
    moments: list[float]


def watch(child: int, folder: Path, moment: float = math.inf, *, writing: bool = False) -> End:
    """Kill a process after `moment` seconds, or at its next write after that, if it has not ended before."""
    begun, left, there, moments = time.perf_counter(), set(half_written(folder)), shards_of(folder), []
    while (status := ended(child)) is None:
        now, count = time.perf_counter() - begun, shards_of(folder)
        moments += [now] * (count - there)
        there = count
        if now >= moment and (not writing or set(half_written(folder)) - left):
            os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return End(None if status == -signal.SIGKILL else status, moments)
        time.sleep(_POLL)
    return End(status, moments)


def undisturbed(folder: Path, words: Sequence[str]) -> Pace:
    """Run to the end and see how long it takes."""
    begun = time.perf_counter()
    end = watch(start(folder, words), folder)
    if end.status not in (0, 1):
        raise SystemExit((folder / "log.txt").read_text())
    first, last, count = end.moments[0], end.moments[-1], len(end.moments)
    return Pace(first, (last - first) / max(1, count - 1), time.perf_counter() - begun - last, count)


def disturbed(
    folder: Path, words: Sequence[str], pace: Pace, kills: Kills, most: int, dice: random.Random
) -> None:
    """Run to the end through kills, of which there are `most` at most in all."""
    idle = 0
    while True:
        resumed = (folder / OUT / "run.json").exists()
        before, left = shards_of(folder), set(half_written(folder))
        missing, writing = pace.shards - before, kills.count % 3 == 2
        earliest = pace.start if missing and kills.count % 2 else 0.0
        moment = dice.uniform(earliest, pace.window(missing))
        if kills.count >= most or idle == 3:
            moment = math.inf
        child = start(folder, [*words, *(["--resume"] if resumed else [])])
        end = watch(child, folder, moment, writing=writing)
        pace.learn(end.moments)
        if end.status in (0, 1):
            return
        if end.status is not None:
            raise SystemExit(f"exit status {end.status}:\n{(folder / 'log.txt').read_text()}")
        there = shards_of(folder)
        idle += before == pace.shards
        kills.count += 1
        kills.torn += bool(set(half_written(folder)) - left)
        kills.during[
            "tables and page" if there == pace.shards else "shards" if there > before else "start"
        ] += 1


def random_model(folder: Path) -> Path:
    """A random BART, for where no model is given."""
    from peer_models import bart, stage

    return stage(bart(64, 2), folder).folder


def main() -> None:
    """Print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--model", type=Path, help="a trained model, with --task; a random one by default")
    parser.add_argument("--task", default="translate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to work in, kept; it must be new")
    given = parser.parse_args()
    dice, kills, runs = random.Random(given.seed), Kills(), 0
    with contextlib.ExitStack() as stack:
        root = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "clean").mkdir(parents=True)
        words = texts(given, root)
        (root / "whole").mkdir()
        pace = undisturbed(root / "whole", words)
        note(f"undisturbed: {pace.shards} shards, {pace.start:.1f} s to the first, {pace.shard:.2f} s each")
        different: list[str] = []
        while kills.count < given.kills:
            folder, before = root / f"run{runs}", kills.count
            folder.mkdir()
            disturbed(folder, words, pace, kills, given.kills, dice)
            different += [
                f"{folder.name}/{name}"
                for name in COMPARED
                if (folder / OUT / name).read_bytes() != (root / "whole" / OUT / name).read_bytes()
            ]
            runs += 1
            note(f"run {runs}: {kills.count - before} kills, {len(different)} files differ")
    print(f"\n{given.examples} outputs, {kills.count} kills in {runs} runs that were then left to end\n")
    rows = [("half-written file left behind", kills.torn), *kills.during.items()]
    print(table(("kills", "count"), [(f"during {k}" if k in kills.during else k, str(v)) for k, v in rows]))
    print(f"\nfiles that differ from the undisturbed run's: {len(different)} of {runs * len(COMPARED)}\n")
    line = {
        "schema": "explain/benchmark@1",
        "name": "audit_kills",
        "ratios": {},
        "bound": {},
        "examples": given.examples,
        "kills": {"count": kills.count, "torn": kills.torn, "during": kills.during},
        "runs": runs,
        "compared": list(COMPARED),
        "different": different,
        "machine": {"cpu": processor(), "threads": 1, "torch": torch.__version__},
    }
    print(dump_json(line, indent=None))
    raise SystemExit(1 if different else 0)


def texts(given: argparse.Namespace, root: Path) -> list[str]:
    """The command that is killed; what it needs is made first."""
    if given.model is not None:
        model, subject = given.model.resolve(), ["--task", given.task]
        clean = ["--task", given.task, "--examples", "700"]
    else:
        dice = random.Random(0)
        model = random_model(root / "model")
        for name, count in (("clean.txt", 700), ("texts.txt", given.examples)):
            lines = (
                " ".join(f"w{dice.randrange(990)}" for _ in range(dice.randint(4, 9))) for _ in range(count)
            )
            (root / name).write_text("\n".join(lines) + "\n")
        clean, subject = ["--data", str(root / "clean.txt")], ["--data", str(root / "texts.txt")]
    (root / "policy.yaml").write_text("tests: {}\n")
    longest = 24 if given.model is not None else 8
    calibration, more = root / "calibration.json", ["--max-new-tokens", str(longest)]
    child = start(root / "clean", ["calibrate", str(model), *clean, "--out", str(calibration), *more])
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit((root / "clean" / "log.txt").read_text())
    rest = ["--examples", str(given.examples), "--policy", str(root / "policy.yaml")]
    return ["audit", str(model), *subject, *rest, "--calibration", str(calibration), "--out", OUT, *more]


if __name__ == "__main__":
    main()
