"""The command that tells how a model's explanations changed while it trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explain import terminal
from explain.cli.common import AsJson, app
from explain.errors import InputError
from explain.files import command_line, dump_json, write_json, write_text
from explain.terminal import say

_ENDINGS = (".html", ".json", ".csv")


@app.command()
def story(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of explain train --story.")],
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .html (a page), .json, or .csv (a row per look).")
    ] = None,
) -> int:
    """Tell when alignment heads formed, maps became right and a cue began to decide, with the evidence."""
    if out is not None and out.suffix.lower() not in _ENDINGS:
        raise InputError(f"{out}: write a story to {', '.join(_ENDINGS)}")
    from explain.story import read_story

    found = read_story(run)
    if out is not None:
        ending = out.suffix.lower()
        if ending == ".json":
            write_json(out, found.to_json())
        elif ending == ".csv":
            write_text(out, found.to_frame().to_csv(index=False, lineterminator="\n"))
        else:
            from explain.report.story import story_page

            write_text(out, story_page(found, command=command_line()))
    if as_json:
        say(dump_json(found.to_json()))
        return terminal.DONE
    columns = ("step", "loss", "exact match", "P@1", "cue flips")
    rows = [
        (
            f"{look.step:,}",
            f"{look.loss:.3f}",
            f"{look.exact_match:.0%}",
            f"{look.precision_at_1.value:.2f}" if look.precision_at_1.n else "–",
            ", ".join(f"{row.cue} {row.flipped:.0%}" for row in look.swaps) or "–",
        )
        for look in found.looks
    ]
    say(terminal.table(columns, rows))
    for finding in found.findings:
        say(f"\nstep {finding.step:,}: {finding.text}")
    if not found.findings:
        say("\nnothing that the rules name has happened yet")
    if out is not None:
        say(f"\nwrote {out}")
    return terminal.DONE
