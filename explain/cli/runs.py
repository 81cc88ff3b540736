"""Commands about runs: list them, and steer those that are at work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explain import terminal
from explain.cli.common import AsJson, Runs, app
from explain.files import dump_json, envelope
from explain.terminal import say

if TYPE_CHECKING:
    from explain.runs import Run

runs = typer.Typer(
    name="runs",
    help="List the runs in a folder with their state, or steer one: explain runs pause NAME.",
    rich_markup_mode=None,
)
app.add_typer(runs)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The run's name, or the path of its folder.")]
Folder = Annotated[Path | None, typer.Option("--runs", help="Folder of run folders.", show_default="runs")]

_COLUMNS = ("kind", "title", "seed", "model_digest", "data_digest", "result", "error")


@runs.callback(invoke_without_command=True)
def list_all(context: typer.Context, folder: Runs = Path("runs"), json: AsJson = False) -> None:
    """List the runs in a folder with their state, or steer one: explain runs pause NAME."""
    context.obj = folder
    if context.invoked_subcommand is not None:
        return
    from explain.runs import list_runs

    found = list_runs(folder)
    records = [
        {
            "name": run.path.name,
            "path": str(run.path),
            **{k: run.manifest.get(k) for k in _COLUMNS},
            "state": run.state,
        }
        for run in found
    ]
    if json:
        say(dump_json({**envelope("runs"), "runs": records}))
        return
    if not records:
        say(f"no runs in {folder}; train one: explain train --task translate --out {folder}/translate")
        return
    rows = [(r["name"], r["kind"], r["state"], r["title"] or "") for r in records]
    say(terminal.table(("name", "kind", "state", "title"), rows))


def _named(context: typer.Context, folder: Path | None, name: str) -> Run:
    """The run that NAME names: a folder, or one under the folder of runs."""
    from explain.runs import Run, is_run

    return Run.open(name if is_run(name) else (folder or context.obj) / name)


@runs.command()
def pause(context: typer.Context, name: Name, folder: Folder = None) -> None:
    """Let a run wait after the step it is in; it keeps its place in memory."""
    _named(context, folder, name).request("pause")
    say(f"{name} pauses after the step it is in; go on with: explain runs continue {name}")


@runs.command("continue")
def go_on(context: typer.Context, name: Name, folder: Folder = None) -> None:
    """Let a paused run go on."""
    _named(context, folder, name).request("continue")
    say(f"{name} goes on")


@runs.command()
def stop(context: typer.Context, name: Name, folder: Folder = None) -> None:
    """Let a run put its work away and end; it can be resumed."""
    _named(context, folder, name).request("stop")
    say(f"{name} stops after the step it is in")


@runs.command()
def kill(context: typer.Context, name: Name, folder: Folder = None) -> None:
    """End a run's process at once; it can be resumed from its last checkpoint."""
    _named(context, folder, name).kill()
    say(f"{name} is killed; its last checkpoint is kept")


@runs.command()
def resume(context: typer.Context, name: Name, folder: Folder = None) -> None:
    """Go on with a training run that stopped, failed or was killed, in a process of its own."""
    from explain.training import jobs

    run = jobs.resume(_named(context, folder, name))
    say(f"{name} goes on in a process of its own; it writes to {run.path}/log.txt")


@runs.command("set-lr")
def set_rate(
    context: typer.Context,
    name: Name,
    rate: Annotated[float, typer.Argument(metavar="RATE", help="The highest learning rate, as of --lr.")],
    folder: Folder = None,
) -> None:
    """Give a training run another highest learning rate, from its next step on.

    Warm-up and decay stay as they are. A run that is not at work takes it up when it is resumed. The change
    is written down (run.json, progress.jsonl); a new run repeats it with --lr-at STEP:RATE.
    """
    run = _named(context, folder, name)
    run.request_rate(rate)
    when = "from its next step on" if run.state in ("running", "paused", "queued") else "once it is resumed"
    say(f"{name}: highest learning rate {rate:g}, {when}")
