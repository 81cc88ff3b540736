"""Training under fire and against a bare loop.

    python benchmarks/training.py kills --kills 50       a run is killed at random moments and resumed
    python benchmarks/training.py overhead --steps 400   the trainer against a plain PyTorch loop

`kills`: every process is `kill -9`ed at a random moment of its work, some on purpose while a checkpoint or a
model is being written, and the run is resumed by a new one. While it works, and after each kill, every
checkpoint that bears a number is looked into: all its files are there and can be read. At the end the weights
at every twenty-fifth step and the last, and the kept model's bytes, must equal those of a run that nobody
disturbed. Dropout, masking, gradient accumulation and a learning rate that changes on the way are on.

`overhead`: the demo's model and batches in one process, twenty steps by the trainer and the same twenty by a
loop in plain PyTorch in turns; the median of the blocks' ratios. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BOUND = 1.25
BLOCK = 20
EVERY = 25
MODEL_FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
STATE_FILES = {
    "identity.json", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
}  # fmt: skip


def main() -> None:
    """Do what was asked, print, and end in one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["kills", "overhead", "child"])
    parser.add_argument("run", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each run; 500 for kills, 200 else")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--fresh", action="store_true", help="a new Python for each process, not a fork")
    given = parser.parse_args()
    if given.what == "child":
        child(given.run, json.loads(given.options))
        return
    if given.what == "kills":
        found = kills(given.kills, given.steps or 500, given.seed, given.fresh)
    else:
        found = overhead(given.steps or 200)
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
    print(
        json.dumps(
            {"schema": "explain/benchmark@1", "name": f"training-{given.what}", **found}
            | {"machine": machine}
        )
    )


# ---- killed and resumed ----------------------------------------------------------------------------------


class Trail:
    """Keeps a digest of all weights at every twenty-fifth step and at the last one."""

    def due(self, step: int) -> bool:
        """Every twenty-fifth step."""
        return step % EVERY == 0

    def look(self, model: Any, tokenizer: Any, step: int, run: Any) -> None:
        """Write the digest into the run folder."""
        from explain.files import write_text

        state = hashlib.sha256()
        for name, tensor in model.state_dict().items():
            state.update(name.encode() + tensor.numpy().tobytes())
        write_text(run.path / "weights" / str(step), state.hexdigest())


def child(folder: Path, options: dict[str, Any]) -> None:
    """Begin the run, or go on with it: a whole process of its own."""
    from explain.training.config import TrainConfig, open_run
    from explain.training.train import train

    resume = (folder / "run.json").exists()
    config = TrainConfig.from_dict(options | {"resume": resume})
    train(config, open_run(config, folder), watch=Trail())


def start(folder: Path, options: dict[str, Any], fresh: bool) -> Process:
    """A process that works in the run folder: a fork of this one, which has torch loaded, or a new Python."""
    import explain.training.train  # noqa: F401  (loaded once, for all forks)

    process = multiprocessing.get_context("fork").Process(target=begin, args=(folder, options, fresh))
    process.start()
    return process


def begin(folder: Path, options: dict[str, Any], fresh: bool) -> None:
    """The forked process: what it says goes to a file beside the run."""
    with (folder.parent / f"{folder.name}.txt").open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    if fresh:
        os.execv(sys.executable, [sys.executable, __file__, "child", str(folder), json.dumps(options)])
    child(folder, options)


def kills(count: int, steps: int, seed: int, fresh: bool) -> dict[str, Any]:
    """Kill `count` times; as many runs as that takes, each compared with the undisturbed one."""
    moments = random.Random(seed)
    seen: Counter[str] = Counter()
    equal = True
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        options = {
            "data": str(pairs(place / "pairs.tsv")),
            "steps": steps,
            "batch_size": 8,
            "accumulate": 2,
            "lr_at": [f"{steps // 3}:0.0005", f"{2 * steps // 3}:0.001"],
        }
        whole = place / "whole"
        began = time.monotonic()
        first = start(whole, options, fresh)
        first.join()
        if first.exitcode:
            raise SystemExit((place / "whole.txt").read_text())
        lasted = time.monotonic() - began
        print(f"the undisturbed run: {lasted:.0f} s, {len(trail(whole))} digests", flush=True)
        runs = 0
        while seen["kills"] < count:
            runs += 1
            run = place / f"run-{runs}"
            while True:
                ended = live(run, options, moments, seen, fresh=fresh, killing=seen["kills"] < count)
                if ended:
                    break
                print(f"kill {seen['kills']}: {position(run)}", flush=True)
            mine, wanted = trail(run), trail(whole)
            other = [step for step in wanted if mine.get(step) != wanted[step]]
            if other or len(mine) != len(wanted):
                print(f"weights differ after steps {other}; looked at {list(mine)}", flush=True)
            kept = model_bytes(run) == model_bytes(whole)
            if not kept:
                print("the kept model differs", flush=True)
            same = mine == wanted and kept
            print(
                f"run {runs} is done after {seen['kills']} kills: {'equal' if same else 'NOT EQUAL'}",
                flush=True,
            )
            equal &= same
            shutil.rmtree(run)
        digests = len(trail(whole))
    return {
        "counts": {**seen, "runs": runs, "digests_compared": digests},
        "equal_bit_for_bit": equal,
        "half_written": seen["half-written"],
    }


def live(
    run: Path,
    options: dict[str, Any],
    moments: random.Random,
    seen: Counter[str],
    *,
    fresh: bool,
    killing: bool,
) -> bool:
    """One process's life; True when the run is done, False when it was killed."""
    process = start(run, options, fresh)
    kind = moments.choices(["at work", "while it writes", "while it starts"], [5, 3, 1])[0]
    wait = moments.uniform(0, 1.5)
    target = None
    before = (run / "progress.jsonl").stat().st_size if (run / "progress.jsonl").exists() else 0
    while process.exitcode is None:
        complete(run, seen)
        now = worked(process)
        if target is None and (kind == "while it starts" or grown(run, before)):
            target = now + wait
        if killing and target is not None and now >= target and (kind != "while it writes" or writing(run)):
            process.kill()
            process.join()
            seen["kills"] += 1
            seen[f"killed {kind}"] += 1
            seen["left a torn folder aside"] += writing(run)
            complete(run, seen, read=True)
            return False
        time.sleep(0.01)
    if process.exitcode:
        raise SystemExit(f"a process failed:\n{(run.parent / f'{run.name}.txt').read_text()[-3000:]}")
    return True


def worked(process: Process) -> float:
    """Processor time that a process has used, in seconds: a moment means the same on a busy machine."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def grown(run: Path, before: int) -> bool:
    """Whether the process has begun to train: a resumed one first cuts the record back to its checkpoint."""
    try:
        return (run / "progress.jsonl").stat().st_size != before
    except OSError:
        return False


def writing(run: Path) -> bool:
    """Whether a checkpoint or a model is being written."""
    try:
        return any((run / "checkpoints" / ".writing").iterdir()) or (run / ".model-new").exists()
    except OSError:
        return (run / ".model-new").exists()


def complete(run: Path, seen: Counter[str], *, read: bool = False) -> None:
    """Look into every checkpoint with a number, and the kept model: all files there, and readable."""
    import torch
    from safetensors import safe_open

    for folder in [*checkpoints(run), run / "model"]:
        try:
            names = {path.name for path in folder.iterdir()}
        except OSError:
            continue  # it was replaced by a newer one, or there is none yet
        wanted = MODEL_FILES if folder.name == "model" else MODEL_FILES | STATE_FILES
        seen["folders looked into"] += 1
        if wanted - names and folder.exists() and wanted - {path.name for path in folder.iterdir()}:
            seen["half-written"] += 1
            print(f"HALF-WRITTEN {folder}: {sorted(wanted - names)} missing", flush=True)
        if read:
            with safe_open(folder / "model.safetensors", "pt") as weights:
                for key in weights.keys():
                    weights.get_tensor(key)
            if folder.name != "model":
                for file in ("optimizer.pt", "scheduler.pt"):
                    torch.load(folder / file, weights_only=True)
                json.loads((folder / "trainer_state.json").read_text())
            seen["folders read through"] += 1


def position(run: Path) -> str:
    """Where a killed run will go on."""
    steps = sorted(path.name for path in checkpoints(run))
    return steps[-1] if steps else "no checkpoint"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints that bear a number."""
    try:
        names = os.listdir(run / "checkpoints")
    except OSError:
        return []
    return [run / "checkpoints" / name for name in names if name.startswith("checkpoint-")]


def trail(run: Path) -> dict[str, str]:
    """The digests of a run's weights, by step."""
    return {path.name: path.read_text() for path in (run / "weights").iterdir()}


def model_bytes(run: Path) -> str:
    """The digest of the kept model's file."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def pairs(path: Path) -> Path:
    """A file of 256 sentences."""
    subjects = {"a cat": "un chat", "a bird": "un oiseau", "the dog": "le chien", "the tree": "l'arbre"}
    verbs = {"sees": "voit", "likes": "aime", "eats": "mange", "knows": "connaît"}
    ends = {"": "", " today": " aujourd'hui", " again": " encore", " now": " maintenant"}
    lines = [
        f"{a} {verb} {b}{end}.\t{subjects[a]} {verbs[verb]} {subjects[b]}{ends[end]}."
        for a in subjects
        for verb in verbs
        for b in subjects
        for end in ends
    ]
    path.write_text("\n".join(["source\ttarget", *lines, ""]), encoding="utf-8")
    return path


# ---- against a bare loop ---------------------------------------------------------------------------------


def overhead(steps: int) -> dict[str, Any]:
    """Blocks of steps by the trainer and by a bare loop in turns, on the demo's model and batches."""
    import copy

    import torch
    from transformers import TrainerCallback

    from explain.training.config import TrainConfig, open_run
    from explain.training.loop import Loop
    from explain.training.recipes import build_optimizer, build_schedule
    from explain.training.train import _Job, quietly

    torch.set_num_threads(1)
    aside: Counter[str] = Counter()
    ours: list[float] = []
    bare: list[float] = []

    def timed(name: str) -> None:
        inner = getattr(Loop, name)

        def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(self, *args, **kwargs)
            finally:
                aside[name] += time.perf_counter() - began  # type: ignore[assignment]

        setattr(Loop, name, outer)

    for name in ("evaluate", "_save_checkpoint"):
        timed(name)

    with tempfile.TemporaryDirectory() as folder, quietly():
        config = TrainConfig(task="translate", steps=steps)
        run = open_run(config, Path(folder) / "run")
        with run.running():
            job = _Job(config, run, None, None, None, None, {})
            model: Any = copy.deepcopy(job.data.model)
            recipe = job.data.recipe
            batches = copy.deepcopy(job.batches)
            optimizer = build_optimizer(recipe, model)
            schedule = build_schedule(recipe, optimizer, steps)

            def bare_block(first: int) -> float:
                began = time.perf_counter()
                for step in range(first, first + BLOCK):
                    model.train()
                    loss = model(**batches[step], use_cache=False).loss
                    loss.item()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                return time.perf_counter() - began

            class Turns(TrainerCallback):
                """After each block of the trainer's, the same block by the bare loop."""

                began = 0.0
                aside = 0.0

                def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                    self.began, self.aside = time.perf_counter(), sum(aside.values())

                def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                    if state.global_step % BLOCK:
                        return
                    took = time.perf_counter() - self.began - (sum(aside.values()) - self.aside)
                    if state.global_step > BLOCK:  # the first block warms up
                        ours.append(took)
                    block = bare_block(state.global_step - BLOCK)
                    if state.global_step > BLOCK:
                        bare.append(block)
                    self.began, self.aside = time.perf_counter(), sum(aside.values())

            job.loop.add_callback(Turns())
            job.learn()
            same = all(
                torch.equal(a, b)
                for a, b in zip(job.data.model.parameters(), model.parameters(), strict=True)
            )
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    ratio = statistics.median(ratios)
    whole = (sum(ours) + aside["_save_checkpoint"]) / sum(bare)
    print(
        f"blocks of {BLOCK} steps: {len(ratios)}; the weights of both are {'equal' if same else 'different'}"
    )
    print(f"bare loop {1000 * sum(bare) / len(bare) / BLOCK:.2f} ms a step")
    print(f"trainer, with the live record and the controls: {ratio:.3f} times that (median of the blocks)")
    print(f"with its checkpoints as well: {whole:.3f}; with evaluations: ", end="")
    print(f"{(sum(ours) + sum(aside.values())) / sum(bare):.3f} (a bare loop has none)")
    return {
        "ratios": {"trainer": 1 / ratio, "with_checkpoints": 1 / whole},
        "bound": {"overhead": ratio, "with_checkpoints": whole, "wanted": BOUND},
        "equal_bit_for_bit": same,
    }


if __name__ == "__main__":
    main()
