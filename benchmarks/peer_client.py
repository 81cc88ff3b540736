"""The other side of `peer_inseq.py`: makes inseq's environment and talks to the worker in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explain.terminal import note

# scikit-learn is what inseq's LIME fits with; inseq names it as an extra.
PACKAGES = ("torch>=2.9,<2.14", "inseq", "scikit-learn")
WORKER = Path(__file__).with_name("peer_inseq.py")


class PeerError(Exception):
    """inseq raised; the message is its own."""


def environment(folder: Path) -> Path | None:
    """The Python of an environment with inseq, made when it is absent; None when it cannot be made."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    check = [str(python), "-c", "import inseq, sklearn"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return python
    note(f"Installing inseq into {folder} (once; without it the inseq columns stay empty)")
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES],
        check,
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            note(f"inseq could not be installed, so its columns stay empty: {reason}")
            return None
    return python


class Peer:
    """A running worker; one request at a time, so that while one side works the other waits."""

    def __init__(self, python: Path) -> None:
        names = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.version = ""
        self.log = tempfile.TemporaryFile("w+")
        self.scores = Path(tempfile.mkdtemp()) / "scores.pt"
        self.process = subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=names | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            PeerError: inseq raised.
            RuntimeError: the worker died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"the inseq worker died: {self.log.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def open(self, folder: Path, source: str, target: str) -> dict[str, Any]:
        """Load a model and set the texts; returns the ids it makes of them."""
        self.version = self.ask(load=str(folder), threads=torch.get_num_threads())["inseq"]
        return self.ask(encode=[source, target])

    def run(self, method: str, options: dict, reduce: str, *, counted: bool = False) -> dict[str, Any]:
        """One attribution: its seconds, and when counted its rows, peak memory and scores."""
        file = str(self.scores) if counted else None
        return self.ask(method=method, options=options, reduce=reduce, counted=counted, scores=file)

    def read(self) -> tuple[Tensor, Tensor | None]:
        """Scores of the last counted run.

        Source scores are [target, source]; decoder scores [target, target] begin with the decoder start.
        """
        source, decoder = torch.load(self.scores, weights_only=True)
        return source, None if decoder is None else decoder[:, : len(decoder)]

    def close(self) -> None:
        """End the worker."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(timeout=30)
        self.scores.unlink(missing_ok=True)
        self.scores.parent.rmdir()
