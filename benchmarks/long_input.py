"""Memory and time of a long input: 1,000 source and 200 target tokens on a model shaped like t5-small.

Each method runs in a process of its own, whose largest memory is compared with what it held once the model
was open; the last line is JSON. The bound is 2 GiB above the model. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import explain
from explain.files import dump_json
from explain.model import Seq2Seq
from explain.results import Generation
from explain.terminal import table

LIMIT = 2.0
CASES: dict[str, dict[str, Any]] = {
    "attention": {"method": "attention"},
    "source_share": {},
    "occlusion by sentence": {"method": "occlusion", "unit": "sentence"},
    "saliency of the output": {"method": "saliency", "positions": "output"},
    "integrated gradients of the output": {"positions": "output", "max_steps": 32},
}


def t5_small_shaped() -> Seq2Seq:
    """A random T5 of t5-small's shape, and a tokenizer of numbered words and full stops."""
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", ".", *(f"w{i}" for i in range(32124))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = T5Config(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8)
    config.decoder_start_token_id = 0
    return explain.wrap(T5ForConditionalGeneration(config).eval(), tokenizer)


def long_generation(model: Seq2Seq, source: int, target: int) -> Generation:
    """A source of sentences of twenty tokens and an output, of so many tokens with their EOS."""
    words = [f"w{(7 * i) % 32000}" if (i + 1) % 20 else "." for i in range(source - 1)]
    return model.force(" ".join(words), " ".join(f"w{(11 * i) % 32000}" for i in range(target - 1)))


def gibibytes(field: str) -> float:
    """This process's memory now (`VmRSS`) or at most since `forget_peak` (`VmHWM`), GiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / (1 << 20)


def forget_peak() -> None:
    """Let the largest memory so far be that of now."""
    Path("/proc/self/clear_refs").write_text("5")


def one(name: str, source: int, target: int) -> dict[str, float]:
    """Run one case here: seconds, and GiB above the open model."""
    model = t5_small_shaped()
    generation = long_generation(model, source, target)
    model.require_parity()
    forget_peak()
    before, start = gibibytes("VmRSS"), time.perf_counter()
    if name == "source_share":
        explain.source_share(model, generation)
    else:
        model.attribute(generation, **CASES[name])
    return {"seconds": time.perf_counter() - start, "gibibytes": gibibytes("VmHWM") - before}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=int, default=1000)
    parser.add_argument("--target", type=int, default=200)
    parser.add_argument("--case", choices=list(CASES))
    given = parser.parse_args()
    if given.case:
        print(dump_json(one(given.case, given.source, given.target), indent=None))
        return
    found = {}
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        command += ["--source", str(given.source), "--target", str(given.target)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(output.strip().splitlines()[-1])
        print(f"{name}: {found[name]['seconds']:.0f} s, {found[name]['gibibytes']:.2f} GiB", file=sys.stderr)
    rows = [(name, f"{f['seconds']:.1f}", f"{f['gibibytes']:.2f}") for name, f in found.items()]
    print(table(("method", "seconds", "GiB above the model"), rows))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    line = {"schema": "explain/benchmark@1", "name": "long_input", "ratios": {}, "machine": machine}
    bound = {name: f["gibibytes"] / LIMIT for name, f in found.items()}
    print(dump_json({**line, "bound": bound, "measured": found}, indent=None))


if __name__ == "__main__":
    main()
