"""How audits grow: memory and disk with the number of outputs, and outputs per second beside inseq.

Memory: audits of more and more outputs, each in a process of its own that is forked from one that has
imported the libraries; the peak is that of the process's resident memory. Speed: the detectors of
log-probability, source share and attention on given outputs, against `inseq attribute-dataset` with
integrated gradients (its default options) on the same outputs, one thread each, interleaved; and against the
plain forward passes that those detectors need. inseq runs in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # what forks must have started no threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from attribution import processor
from peer_client import Peer, environment
from peer_measure import _status, seconds

import explain
from explain.audit.inputs import Inputs
from explain.files import dump_json
from explain.model import Seq2Seq
from explain.model.forward import logits_from_ids, padded, padding_id
from explain.results import Generation
from explain.terminal import note, table
from explain.training import tasks

DETECTORS = {"log_prob": {}, "source_share": {}, "attention_uniform": {}}
PASSES = 5
"""Forward passes that they need: the output scored, source, prefix and both hidden, attention."""
_BATCH = 32


def model_of(given: argparse.Namespace, root: Path) -> Path:
    """The folder of the model: the given one, or a random BART."""
    if given.model is not None:
        folder = given.model.resolve()
        return folder / "model" if (folder / "model").is_dir() else folder  # inseq knows no run folders
    from peer_models import bart, stage

    return stage(bart(64, 2), root / "model").folder


def sources_of(given: argparse.Namespace, count: int) -> list[str]:
    """Sources: of the task where a model is given, else random words."""
    if given.model is not None:
        return [example.source for example in tasks.get(given.task).examples("train", count, 1)]
    dice = random.Random(0)
    return [" ".join(f"w{dice.randrange(990)}" for _ in range(dice.randint(4, 9))) for _ in range(count)]


# ---- memory and disk -------------------------------------------------------------------------------------


def size_of(folder: Path, pattern: str) -> int:
    """Bytes of the files of a pattern."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def audited(model: Path, data: Path, folder: Path, longest: int) -> dict[str, Any]:
    """One audit of a file in this process: peak memory, seconds to measure and to merge, bytes on disk."""
    opened = explain.load(model, device="cpu")
    moments: list[float] = []
    begun = time.perf_counter()
    explain.audit(
        opened,
        data,
        folder=folder,
        policy={"tests": {}},
        generate={"max_new_tokens": longest},
        progress=lambda done, total: moments.append(time.perf_counter()),
    )
    return {
        "peak": _status("VmHWM"),
        "seconds": moments[-1] - begun,
        "merge": time.perf_counter() - moments[-1],
        "outputs": len(Inputs(folder / "shards" / "inputs.parquet")),
        "shards": size_of(folder, "shards/[0-9]*.parquet"),
        "inputs": size_of(folder, "shards/inputs.parquet"),
        "tables": size_of(folder, "*.parquet"),
    }


def in_a_fork(*arguments: Any) -> dict[str, Any]:
    """`audited` in a process of its own.

    Raises:
        RuntimeError: the process failed.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(write, json.dumps(audited(*arguments)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("an audit failed; see above")
    return json.loads(text)


def growth(given: argparse.Namespace, model: Path, root: Path) -> list[dict[str, Any]]:
    """Audits of each size."""
    found = []
    for count in given.sizes:
        data = root / f"{count}.txt"
        data.write_text("\n".join(sources_of(given, count)) + "\n", encoding="utf-8")
        found.append(in_a_fork(model, data, root / f"of{count}", given.longest))
        note(f"{count} outputs: {found[-1]['peak'] / 2**20:.0f} MiB, {found[-1]['seconds']:.1f} s")
    return found


# ---- speed -----------------------------------------------------------------------------------------------


def plain(model: Seq2Seq, outputs: Sequence[Generation]) -> float:
    """Seconds of the plain forward passes that the detectors need, in batches of like lengths."""
    order = sorted(outputs, key=lambda one: -len(one.source_ids))
    parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    pad = padding_id(model.hf)

    def run() -> None:
        with torch.no_grad():
            for part in parts:
                source, mask = padded([one.source_ids for one in part], pad)
                decoder, _ = padded([one.decoder_input_ids for one in part], pad)
                for _ in range(PASSES):
                    logits_from_ids(model.hf, source, mask, decoder)

    return seconds(run)[0]


def speed(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Outputs per second of both sides, and of the passes alone, over interleaved repeats."""
    model = explain.load(folder, device="cpu")
    sources = sources_of(given, given.outputs)
    # A random model may write nothing; it is given texts of the same kind to score.
    texts = [" ".join(reversed(source.split())) for source in sources]
    trained = given.model is not None
    outputs = (
        model.generate(sources, max_new_tokens=given.longest) if trained else model.force(sources, texts)
    )
    pairs = [(one.source_text, one.target_text) for one in outputs]
    python = None if given.without_inseq else environment(given.peer_env)
    peer = None if python is None else Peer(python)
    if peer is not None:
        peer.version = peer.ask(load=str(folder), threads=1)["inseq"]
        ask(peer, pairs[:2], given.batch_size)
    times: dict[str, list[float]] = {"ours": [], "inseq": [], "plain": []}

    def ours() -> None:
        explain.audit(model, pairs, forced=True, policy={"detectors": DETECTORS, "tests": {}})

    ours()
    for repeat in range(given.repeats):
        times["ours"].append(seconds(ours)[0])
        times["plain"].append(plain(model, outputs))
        if peer is not None:
            times["inseq"].append(ask(peer, pairs, given.batch_size))
        note(f"repeat {repeat + 1}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in times.items() if v))
    middle = {name: statistics.median(values) for name, values in times.items() if values}
    found: dict[str, Any] = {
        "outputs": len(pairs),
        "tokens": sum(len(one.target_tokens) for one in outputs),
        "per_second": {name: len(pairs) / value for name, value in middle.items()},
        "bound": statistics.median(a / b for a, b in zip(times["ours"], times["plain"], strict=True)),
        "ratio": None,
    }
    if peer is not None:
        found["ratio"] = statistics.median(b / a for a, b in zip(times["ours"], times["inseq"], strict=True))
        found["inseq"] = peer.version
    return found


def ask(peer: Peer, pairs: Sequence[tuple[str, str]], batch_size: int) -> float:
    """Seconds that inseq takes for all pairs."""
    sources, outputs = map(list, zip(*pairs, strict=True))
    answer = peer.ask(dataset=[sources, outputs], method="integrated_gradients", batch_size=batch_size)
    return answer["seconds"]


def main() -> None:
    """Print two tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="a trained model, with --task; a random one by default")
    parser.add_argument("--task", default="translate")
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[256, 1024])
    parser.add_argument("--outputs", type=int, default=64, help="for the comparison with inseq")
    parser.add_argument("--longest", type=int, default=16, help="tokens of an output")
    parser.add_argument("--batch-size", type=int, default=8, help="of inseq; 8 is its own default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-inseq", action="store_true")
    parser.add_argument("--peer-env", type=Path, default=Path("build/peer-env"), help="inseq's environment")
    given = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = model_of(given, root)
        grown = growth(given, model, root)
        torch.set_num_threads(1)
        fast = speed(given, model)
    rows = [
        (
            str(one["outputs"]),
            f"{one['peak'] / 2**20:.0f}",
            f"{one['outputs'] / one['seconds']:.0f}",
            f"{one['outputs'] / one['merge']:.0f}",
            *(f"{one[name] / one['outputs']:.0f}" for name in ("inputs", "shards", "tables")),
        )
        for one in grown
    ]
    print("\nAll fast detectors, outputs generated, one thread\n")
    columns = ("outputs", "peak MiB", "outputs/s", "merged/s", "bytes: inputs", "shards", "tables")
    print(table(columns, rows))
    print(f"\n{', '.join(DETECTORS)} on {fast['outputs']} given outputs, one thread\n")
    print(table(("side", "outputs/s"), [(k, f"{v:.1f}") for k, v in fast["per_second"].items()]))
    print(
        f"\n× plain passes {fast['bound']:.2f}; inseq takes {fast['ratio'] or float('nan'):.1f} × as long\n"
    )
    line = {
        "schema": "explain/benchmark@1",
        "name": "audit_scale",
        "ratios": {} if fast["ratio"] is None else {"audit": fast["ratio"]},
        "bound": {"audit": fast["bound"]},
        "growth": grown,
        "speed": fast,
        "machine": {"cpu": processor(), "threads": 1, "torch": torch.__version__},
    }
    print(dump_json(line, indent=None))


if __name__ == "__main__":
    main()
