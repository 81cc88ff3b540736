"""The command line: one thin function per command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys

from explain import terminal

try:
    # Commands are listed by --help in the order of these imports.
    from explain.cli import lists, runs, models, explanations, evaluation, comparison, lenses, causes  # isort: skip
    from explain.cli import neurons, data, training, story, compression, audit, dashboard  # isort: skip
    from explain.cli.common import analyze, app
except KeyboardInterrupt:  # Ctrl-C before a command has begun
    sys.exit(terminal.INTERRUPTED)

app.add_typer(analyze)

__all__ = [
    "app",
    "audit",
    "causes",
    "comparison",
    "compression",
    "dashboard",
    "data",
    "evaluation",
    "explanations",
    "lenses",
    "lists",
    "main",
    "models",
    "neurons",
    "runs",
    "story",
    "training",
]


def main() -> None:
    """Entry point of the `explain` command."""
    terminal.prepare()
    sys.exit(terminal.run(app))
