"""Shards measured by the workers of Ray Data, on this machine or on a cluster.

```
shards/job/job.json  what workers do with a shard, and how
shards/job/…         the audited model
```

The audit's folder is what everybody shares, so on a cluster it must be one that all machines see. Every
worker opens the model once, and reads the texts of a shard and writes its rows there; Ray only says who does
which. Model, texts and the number of threads, which is that of the process that asks, decide a shard: it has
the same bytes whoever measured it, and one that a worker did not finish is measured again.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import logging as bars

from explain.audit.engine import Work
from explain.audit.shards import FOLDER, Shards
from explain.errors import ExplainError, InputError, ModelError, RunError
from explain.files import read_json, versions, write_json
from explain.model import Seq2Seq
from explain.model.loading import open_model

_JOB = "job"
_MOST_TASKS = 10_000
_STORE = 150 * 2**20
"""Bytes of the object store of a local cluster; what goes through it is small."""
_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_PATIENCE = 10.0
"""Seconds after which a cluster that does not answer counts as not there."""


class _Worker:
    """One process of Ray: a model, and the shards that it is given one after the other."""

    def __init__(self, folder: str) -> None:
        # What is wrong is said with the first shard: a worker that does not start is started for ever.
        self.problem = ""
        try:
            self._open(Path(folder))
        except ExplainError as error:
            self.problem = str(error)

    def _open(self, folder: Path) -> None:
        host, path = f"the worker on {os.uname().nodename}", folder / FOLDER / _JOB
        if not path.is_dir():
            raise RunError(
                f"{host} does not see {folder}; an audit on several machines needs a folder that all see"
            )
        job = read_json(path / "job.json", "audit-job")
        if versions() != job["versions"]:
            raise RunError(f"{host} has other versions ({versions()}, not {job['versions']})")
        torch.set_num_threads(job["threads"])
        self.work = Work.from_dict(job["work"])
        self.shards = Shards(folder, self.work.names, job["examples"])
        self.model = Seq2Seq(*open_model(path, device=job["device"], dtype=job["dtype"]), job["name"])
        if self.model.digest != job["model_digest"]:
            raise RunError(f"{host} got another model than the one that is audited")
        self.pairs = self.shards.inputs()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        index = int(batch["shard"][0])
        problem = self.problem
        try:
            # A task that is tried again finds the shards that it wrote before.
            if not problem and not self.shards.whole(index):
                rows = self.work.rows(self.model, self.pairs, self.shards.part(index))
                self.shards.write(index, rows)
        except ExplainError as error:
            problem = str(error)
        return {"shard": batch["shard"], "problem": np.array([problem])}


def measured_by_ray(
    model: Seq2Seq,
    shards: Shards,
    work: Work,
    missing: Sequence[int],
    check: Callable[[], None],
    address: str | None = None,
) -> Iterator[int]:
    """Measure shards on Ray; their numbers as they are done, in no order.

    Raises:
        InputError: no cluster at the address, or none of its machines has cores enough for a worker.
        ModelError: a worker could not open or run the model, or does not see the folder.
        RunError: Ray gave up.
    """
    with _job(model, shards, work), _cluster(address):
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]

        try:
            for batch in _batches(shards, missing, torch.get_num_threads(), model.device.type):
                for index, problem in zip(batch["shard"], batch["problem"], strict=True):
                    if problem:
                        raise ModelError(str(problem))
                    yield int(index)
                    check()
        except RayError as error:
            raise RunError(f"Ray gave up: {_last_line(error)}; resume the audit to go on") from error


@contextmanager
def _job(model: Seq2Seq, shards: Shards, work: Work) -> Iterator[None]:
    """What workers read, in the audit's folder for as long as the block runs."""
    path = shards.folder / _JOB
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model.hf.save_pretrained(path)
        model.tokenizer.save_pretrained(path)
    finally:
        if shown:
            bars.enable_progress_bar()
    job: Mapping[str, Any] = {
        "schema": "explain/audit-job@1",
        "versions": versions(),
        "model_digest": model.digest,
        "name": model.name,
        "device": model.device.type,
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "examples": shards.examples,
        "work": work.to_dict(),
    }
    write_json(path / "job.json", job)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _batches(shards: Shards, missing: Sequence[int], threads: int, device: str) -> Iterator[Any]:
    """What the workers say of each shard, as they finish."""
    import ray  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns of its own defaults
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    parts = np.array_split(np.asarray(missing, dtype=np.int64), min(len(missing), _MOST_TASKS))
    data = ray.data.from_arrow([pa.table({"shard": part}) for part in parts]).map_batches(
        _Worker,
        fn_constructor_args=(str(shards.folder.parent.resolve()),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(len(parts), _room(threads, device))),
        num_cpus=threads,
        num_gpus=int(device == "cuda"),
    )
    yield from data.iter_batches(batch_size=None, prefetch_batches=0)


def _room(threads: int, device: str) -> int:
    """How many workers the cluster has room for."""
    import ray  # pyright: ignore[reportMissingImports]

    kind, need = ("GPU", 1) if device == "cuda" else ("CPU", threads)
    room = sum(int(node["Resources"].get(kind, 0)) // need for node in ray.nodes() if node["Alive"])
    if not room:
        raise InputError(
            f"no machine of the Ray cluster has {need} {kind}s for a worker; set OMP_NUM_THREADS lower"
        )
    return room


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to Ray: the caller's own where there is one, else one that ends with the block.

    Ray says nothing of its own doings unless `RAY_BACKEND_LOG_LEVEL` is set.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    # Read when Ray is imported: nothing is sent anywhere.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "local":
        # Its processes listen on the loopback address alone; the name is of the systems where that is usual.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        options = {"include_dashboard": False, "object_store_memory": _STORE}
    import ray  # pyright: ignore[reportMissingImports]
    import ray.data  # pyright: ignore[reportMissingImports]

    if ray.is_initialized():
        yield
        return
    _require_answer(address)
    loud = _LOG_LEVEL in os.environ
    if not loud:
        options["logging_level"] = logging.ERROR
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        with _hushed(not loud):
            ray.init(address=address, log_to_driver=loud, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"there is no Ray cluster at {address} that takes this process: {_last_line(error)}; with "
            f"{_LOG_LEVEL}=info it says more, and RAY_AUTH_MODE=token gives it the token that ray start made"
        ) from None
    try:
        with nullcontext() if loud else redirect_stdout(_WithoutNews(sys.stdout)):
            yield
    finally:
        # It ends by writing what it held back as repetitions.
        with nullcontext() if loud else redirect_stdout(io.StringIO()):
            ray.shutdown()


class _WithoutNews:
    """Standard output without what Ray's own thread writes there: that a worker died, and is replaced."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name == "ray_listen_error_messages":
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _require_answer(address: str) -> None:
    """Refuse a HOST:PORT where nobody listens, which Ray itself would go on asking for many minutes.

    Raises:
        InputError: nobody answers there.
    """
    from ray.util import get_node_ip_address  # pyright: ignore[reportMissingImports]

    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    # Ray asks this machine by the address that other machines know it by.
    asked = get_node_ip_address() if host in ("127.0.0.1", "localhost") else host.strip("[]")
    try:
        socket.create_connection((asked, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        at = address if asked == host else f"{address} (asked for at {asked}:{port})"
        raise InputError(f"there is no Ray cluster at {at}: {error}") from None


@contextmanager
def _hushed(quiet: bool) -> Iterator[None]:
    """What Ray's core writes to standard error while it starts, left out; it goes on at the level set here.

    The core is not Python: it writes to the file descriptor, the first line before it looks at any level.
    """
    if not quiet:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.environ[_LOG_LEVEL] = "fatal"
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        del os.environ[_LOG_LEVEL]


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
