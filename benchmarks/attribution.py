"""Attribution side by side with inseq, with plain Captum, and with what the rows alone would cost.

Everything runs in one session and interleaved: ours, inseq (in an environment of its own, same weights, same
tokens, same objective), and the bound, which is the rows that the method needs times the time of such a row
in plain PyTorch. Medians are of ratios within a repeat. One run of each side goes before, to warm up; it
counts the rows (encoder / decoder / backward) and measures the memory. The sizes are random models with 32
source and 16 target tokens; `--model` takes a trained one.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from peer_captum import PLAIN
from peer_case import Case, Result, measure, middle, registered
from peer_client import Peer, environment
from peer_measure import seconds
from peer_models import SIZES, Size, Stage, given

from explain.attribution.inputs import inputs_of
from explain.errors import ExplainError
from explain.files import dump_json
from explain.terminal import note, table

SAMPLED = {
    "peer": "lime",
    "peer_options": {"n_samples": 20, "attribute_target": False},
    "compares": "",
    "samples": (50, 20),
}
CASES: dict[str, Case] = {
    "saliency": Case("saliency", {"reduction": "l2"}, "saliency", reduce="l2"),
    "input_x_gradient": Case("input_x_gradient", {}, "input_x_gradient"),
    "integrated_gradients": Case(
        "integrated_gradients",
        {"baseline": "unk"},
        "integrated_gradients",
        note="inseq with its default steps; ours to the largest error that leaves, or 1e-4",
    ),
    "integrated_gradients_1pct": Case(
        "integrated_gradients",
        {"baseline": "unk", "tolerance": 0.01},
        "integrated_gradients",
        slow=True,
        note="inseq with the fewest steps that leave every token an error of 1 % at most; ours to 1 %",
    ),
    "source_share": Case(
        "source_share",
        {"baseline": "unk", "tolerance": 0.01},
        "integrated_gradients",
        compares="shares",
        note="to 1 % (or to inseq's error, where larger), against inseq's default integrated gradients, "
        "from which one would add it up",
    ),
    "occlusion": Case(
        "occlusion",
        {"by": "unk"},
        "occlusion",
        compares="magnitude",
        note="inseq drops the sign and never hides </s>: magnitudes are compared, without that column",
    ),
    "attention": Case("attention", {}, "attention", reduce="mean"),
    "value_zeroing": Case(
        "value_zeroing",
        {"threshold": 1e-5},
        "value_zeroing",
        reduce="mean",
        sibling=True,
        note="on the T5 of this size: inseq raises a TypeError on BART, mBART and Marian with transformers 5",
    ),
    "gradient_shap": Case(
        "gradient_shap",
        {"baseline": "unk", "samples": 5, "noise": 0.0},
        "gradient_shap",
        {"n_samples": 5},
        compares="",
        note="5 random points each: not the same ones, so scores are not compared",
    ),
    "deeplift": Case("deeplift", {"baseline": "unk"}, "deeplift"),
    "lime": Case(
        "lime",
        {"samples": 50},
        **SAMPLED,
        note="per sample; scores are not compared: inseq puts the unknown token's id, as a number, into "
        "every dimension of a hidden token's embedding, and hides no prefix",
    ),
    "kernel_shap": Case(
        "kernel_shap", {"samples": 50}, **SAMPLED, slow=True, note="per sample, against inseq's LIME"
    ),
    "contextcite": Case(
        "contextcite", {"samples": 50}, **SAMPLED, slow=True, note="per sample, against inseq's LIME"
    ),
}


def captum(where: Stage, repeats: int, only: list[str]) -> dict[str, dict[str, float]]:
    """Ratios against plain per-position Captum, with the largest difference of the source scores."""
    inputs = inputs_of(where.model, where.generation, "pad")
    found: dict[str, dict[str, float]] = {"ratios": {}, "agreement": {}}
    for name, (peer, options) in PLAIN.items():
        if only and name not in only:
            continue
        ratios, apart = [], 0.0
        for _ in range(repeats):
            ours, att = seconds(
                lambda n=name, o=options: where.model.attribute(where.generation, method=n, **o)
            )
            theirs, scores = seconds(lambda p=peer: p(where.model, where.generation, inputs))
            ratios.append(theirs / ours)
            apart = max(apart, float((att.source - scores).abs().max()))
        found["ratios"][name], found["agreement"][name] = statistics.median(ratios), apart
    return found


def _cells(name: str, result: Result) -> tuple[str, ...]:
    """A row of the printed table."""

    def number(value: float | None, form: str, scale: float = 1.0) -> str:
        return "" if value is None else format(value * scale, form)

    def rows(counts: list[float] | None) -> str:
        return "" if counts is None else " / ".join(f"{count:g}" for count in counts)

    return (
        name,
        number(middle(result.ours), ".3g", 1000),
        number(middle(result.theirs), ".3g", 1000),
        number(result.ratio(), ".1f"),
        number(result.difference, ".1e"),
        number(result.over_bound(), ".2f"),
        rows(result.rows[0]),
        rows(result.rows[1]),
        number(result.peak[0], ".1f", 2**-20),
        number(result.peak[1], ".1f", 2**-20),
    )


COLUMNS = (
    "method",
    "ours ms",
    "inseq ms",
    "ratio",
    "difference",
    "× bound",
    "rows, ours",
    "rows, inseq",
    "MiB, ours",
    "MiB, inseq",
)


@dataclass
class Outcome:
    """What one size gave."""

    results: dict[str, Result] = field(default_factory=dict)
    captum: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lengths: tuple[int, int] = (0, 0)

    def record(self) -> dict[str, Any]:
        """The part of the JSON line that is about this size."""
        found = self.results.items()
        return {
            "ratios": {name: r.ratio() for name, r in found if r.theirs},
            "agreement": {name: r.difference for name, r in found if r.theirs},
            "bound": {name: r.over_bound() for name, r in found},
            "details": {name: r.record() for name, r in found},
            "captum": self.captum,
            "tokens": self.lengths,
        }

    def show(self, size: Size, repeats: int) -> None:
        """Print the table and its notes."""
        of = f"median of {repeats}" + (", inseq once" if size.slow else "")
        source, target = self.lengths
        print(f"\n{size.label}, {source} source and {target} target tokens, {of}\n")
        print(table(COLUMNS, [_cells(name, result) for name, result in self.results.items()]))
        for name, result in self.results.items():
            for text in (CASES[name].note, *result.notes):
                print(f"  {name}: {text}" if text else "", end="\n" if text else "")
        for name, ratio in self.captum.get("ratios", {}).items():
            apart = self.captum["agreement"][name]
            print(f"  {name}: {ratio:.1f} × plain per-position Captum, difference {apart:.1e}")
        for text in self.notes:
            print(f"  {text}")


def measured(size: Size, peer: Peer | None, repeats: int, folder: Path, only: list[str]) -> Outcome:
    """Every case that this size has time for."""
    outcome = Outcome()
    for sibling in (False, True):
        cases = {n: c for n, c in CASES.items() if c.sibling is sibling and (not only or n in only)}
        missing = [name for name, case in cases.items() if not registered(case)]
        outcome.notes += [f"{name}: not among our methods, left out" for name in missing]
        cases = {n: c for n, c in cases.items() if n not in missing and not (size.slow and c.slow)}
        if not cases:
            continue
        where = (size.sibling if sibling else size.open)(folder / f"{size.label} {sibling}")
        outcome.lengths = where.lengths
        if sibling and where.model.hf.config.model_type != "t5":
            outcome.notes += [f"{name}: left out, inseq cannot run it here" for name in cases]
            continue
        if peer is not None:
            warmed(peer, where)
        for name, case in cases.items():
            note(f"{size.label}: {name}")
            try:
                outcome.results[name] = measure(name, case, where, peer, repeats, once=size.slow)
            except ExplainError as error:
                outcome.notes.append(f"{name}: ours raised {error}")
        if not sibling and not size.slow:
            outcome.captum = captum(where, repeats, only)
    return outcome


def warmed(peer: Peer, where: Stage) -> None:
    """Open the same weights in inseq's worker, check that both sides see the same ids, and warm it up."""
    seen = peer.open(where.folder, *where.texts)
    generation = where.generation
    assert seen["source"] == generation.source_ids.tolist(), "inseq encodes another source"
    assert seen["target"][1:] == generation.target_ids.tolist(), "inseq encodes another target"
    assert seen["target"][0] == int(generation.decoder_input_ids[0]), "inseq starts with another token"
    peer.run("saliency", {}, "l2")


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", default="tiny,bart,rough,t5", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--only", default="", help=f"of {', '.join(CASES)}")
    parser.add_argument("--peer-env", type=Path, default=Path("build/peer-env"), help="inseq's environment")
    parser.add_argument("--model", type=Path, help="a trained model's own folder, instead of the sizes")
    parser.add_argument("--source", default="", help="the source text for --model")
    return parser.parse_args()


def main() -> None:
    """Print a table per size and the JSON line."""
    options = arguments()
    sizes = {name: SIZES[name] for name in options.sizes.split(",")}
    if options.model is not None:
        sizes = {"model": given(options.model, options.source)}
    python = environment(options.peer_env)
    peer = None if python is None else Peer(python)
    machine = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    only = [name for name in options.only.split(",") if name]
    records: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in sizes.items():
            repeats = min(options.repeats, 2) if size.slow else options.repeats
            outcome = measured(size, peer, repeats, Path(folder), only)
            outcome.show(size, repeats)
            records[name] = outcome.record()
    if peer is not None:
        machine |= {"inseq": peer.version}
        peer.close()
    main_size = records.get("bart", {})
    parts = {key: main_size.get(key, {}) for key in ("ratios", "agreement", "bound", "captum")}
    line = {"schema": "explain/benchmark@1", "name": "attribution", **parts, "sizes": records}
    print(dump_json({**line, "machine": machine}, indent=None))


if __name__ == "__main__":
    main()
