"""The worker that runs inseq in its own environment: JSON requests on standard input, JSON answers back.

    {"load": folder, "threads": n}                     -> {"inseq": version, "torch": version}
    {"encode": [source, target]}                       -> {"source": ids, "target": ids, "baseline": [...]}
    {"method": name, "options": {...}, "reduce": "sum" or "l2", "counted": bool, "scores": file or null}
        -> {"seconds": s, "rows": [encoder, decoder, backward], "peak": bytes}
    {"dataset": [sources, outputs], "method": name, "batch_size": n}  -> {"seconds": s}

Every answer may be {"error": message} instead; the model is then loaded anew, because inseq leaves its hooks
on a model when a method raises. Both sides explain the log-probability of the same forced target.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import inseq
import torch
from inseq.attr.step_functions import StepFunctionArgs, probability_fn
from peer_measure import counted, peak_memory, seconds
from torch import Tensor


def log_prob(args: StepFunctionArgs) -> Tensor:
    """The objective: inseq's own probability function has a switch for the logarithm, but no such name."""
    return probability_fn(args, logprob=True)


def reduced(scores: Tensor | None, reduce: str) -> Tensor | None:
    """Scores [inputs, target, …] -> [target, inputs].

    inseq keeps the embedding's width (summed or normed here), or layers and heads (averaged, as its own
    aggregation does).
    """
    if scores is None:
        return None
    scores = torch.nan_to_num(scores)
    if scores.dim() > 2 and reduce == "sum":
        scores = scores.sum(-1)
    elif scores.dim() > 2 and reduce == "l2":
        scores = scores.norm(dim=-1)
    elif scores.dim() > 2:
        scores = scores.flatten(2).mean(-1)
    return scores.T.contiguous()


class Worker:
    """The model that is open, and the requests one can make about it."""

    def __init__(self) -> None:
        self.folder, self.model, self.texts = "", None, ("", "")

    def load(self, folder: str, threads: int) -> dict[str, Any]:
        """Open a folder; inseq itself asks for eager attention."""
        torch.set_num_threads(threads)
        self.folder = folder
        self.open()
        return {"inseq": version("inseq"), "torch": torch.__version__}

    def open(self) -> None:
        """Load the weights (again)."""
        self.model = inseq.load_model(self.folder, "saliency", device="cpu")

    def encode(self, source: str, target: str) -> dict[str, Any]:
        """The ids inseq makes of the texts, and those of its baseline; the texts are kept for the methods."""
        self.texts = source, target
        first = self.model.encode([source], return_baseline=True)
        second = self.model.encode([target], as_targets=True, return_baseline=True)
        return {
            "source": first.input_ids[0].tolist(),
            "target": second.input_ids[0].tolist(),
            "baseline": [first.baseline_ids[0].tolist(), second.baseline_ids[0].tolist()],
        }

    def run(self, method: str, options: dict, reduce: str, counting: bool, scores: str | None) -> dict:
        """One attribution of the whole target."""
        source, target = self.texts
        given = {"attribute_target": True, **options}

        def call() -> Any:
            return self.model.attribute(
                [source], [target], method=method, attributed_fn="log_prob", show_progress=False, **given
            )

        rows = peak = None
        if counting:
            with counted(self.model.model) as counts:
                (took, found), peak = peak_memory(lambda: seconds(call))
            rows = counts.as_list()
        else:
            took, found = seconds(call)
        if scores is not None:
            one = found.sequence_attributions[0]
            pair = (reduced(one.source_attributions, reduce), reduced(one.target_attributions, reduce))
            torch.save(pair, scores)
        return {"seconds": took, "rows": rows, "peak": peak}

    def dataset(self, sources: list[str], outputs: list[str], method: str, batch_size: int) -> dict[str, Any]:
        """Many outputs as `inseq attribute-dataset` attributes them: its own objective and options."""

        def call() -> Any:
            return self.model.attribute(
                sources, outputs, method=method, batch_size=batch_size, show_progress=False
            )

        return {"seconds": seconds(call)[0]}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        if "load" in request:
            return self.load(request["load"], request["threads"])
        if "encode" in request:
            return self.encode(*request["encode"])
        if "dataset" in request:
            return self.dataset(*request["dataset"], request["method"], request["batch_size"])
        return self.run(
            request["method"], request["options"], request["reduce"], request["counted"], request["scores"]
        )


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not end up among the answers
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    inseq.register_step_function(log_prob, "log_prob", overwrite=True)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = worker.answer(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            if "method" in request:
                worker.open()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
