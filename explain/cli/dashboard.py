"""Commands that open the dashboard: dashboard, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explain.cli.common import Port, Runs, app


def _serve(runs: Path, models: list[Path], host: str, port: int | None, headless: bool) -> None:
    """Serve the dashboard: a package above this one, so it is bound by name."""
    import importlib

    importlib.import_module("dashboard.serve").serve(
        runs, models=models, host=host, port=port, headless=headless
    )


Headless = Annotated[bool, typer.Option("--headless", help="Open no browser.")]
Host = Annotated[str, typer.Option(help="Address to bind; only this machine by default.")]


@app.command()
def dashboard(
    models: Annotated[list[Path] | None, typer.Argument(metavar="[MODEL]…", help="Models to offer.")] = None,
    folder: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = None,
    headless: Headless = False,
) -> None:
    """Open the dashboard over a folder of runs, and over model folders named here."""
    _serve(folder, models or [], host, port, headless)


@app.command()
def demo(
    folder: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = None,
    headless: Headless = False,
    seed: Annotated[int, typer.Option(help="Seed of the three trainings.")] = 0,
) -> None:
    """Train the embedded models once (the first in about a minute), and open the dashboard."""
    from explain.demo import train_models

    train_models(folder, seed)
    _serve(folder, [], host, port, headless)
