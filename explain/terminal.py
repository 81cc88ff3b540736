"""The terminal: progress bars where there is one, plain lines elsewhere, tables, and how errors end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from explain.errors import ExplainError

DONE, OVER_POLICY, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
_INTERRUPTION = "explain: interrupted; what was finished is kept"

Progress = Callable[[int, int], None]


def prepare() -> None:
    """Set what must be set before torch is imported.

    Spinning OpenMP threads make small models a hundred times slower on busy cores; nothing is sent anywhere.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def say(text: str = "") -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line to standard error: news about the work, not its result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A callback (done, all): a bar on a terminal, a plain line now and then elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def lines(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= 10:
            last = time.monotonic()
            note(f"{label}: {done} of {total}")

    yield lines


@contextmanager
def training_progress() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A callback for the records of a training run: a bar on a terminal, else a line now and then."""
    last = 0.0
    with progress("training") as draw:

        def show(record: Mapping[str, Any]) -> None:
            nonlocal last
            step, total = record.get("step", 0), record.get("total_steps") or 0
            if record.get("kind") == "result":
                return
            if record.get("kind") == "evaluation":
                names = {"loss": "validation loss", "exact_match": "exact match", "chrf": "chrF"}
                scores = [
                    f"{label} {record[k]:.4g}" for k, label in names.items() if record.get(k) is not None
                ]
                note(f"step {step}: {', '.join(scores)}")
            elif record.get("kind") == "learning_rate":
                note(f"step {step}: the highest learning rate is now {record.get('highest', 0):g}")
            elif sys.stderr.isatty():
                draw(int(step), int(total))
            elif time.monotonic() - last >= 10:
                last = time.monotonic()
                note(f"step {step} of {total}: loss {record.get('loss', 0):.4f}")

        yield show


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as aligned plain text."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in [lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def run(app: Callable[..., Any]) -> int:
    """Run a command-line application and turn how it ended into an exit status.

    Errors of ours are one line on standard error; so are usage errors. Nothing of ours shows a traceback.
    """
    try:
        result = app(standalone_mode=False, prog_name="explain")
    except ExplainError as error:
        note(f"explain: {error}")
        return WRONG_INPUT
    except KeyboardInterrupt:
        note(_INTERRUPTION)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; that is not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if type(error).__name__ == "Abort":  # Typer's name for Ctrl+C
            note(_INTERRUPTION)
            return INTERRUPTED
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        note(f"explain: {message()} (see explain --help)")
        return WRONG_INPUT
    status = result if isinstance(result, int) else DONE
    if status == INTERRUPTED:
        note(_INTERRUPTION)
    return status
