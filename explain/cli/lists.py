"""Commands that list: methods, hook points, tasks."""

from __future__ import annotations

from typing import Any

from explain import terminal
from explain.cli.common import AsJson, Model, app, open_model
from explain.files import dump_json, envelope
from explain.terminal import say

# Columns left for the paper in the table of methods, on a terminal of 100 and beside a name of 32.
PAPER_WIDTH = 36


@app.command()
def methods(json: AsJson = False) -> None:
    """List the attribution methods: what each needs, gives and means."""
    from explain.attribution import REGISTRY

    records = REGISTRY.records()
    if json:
        say(dump_json(records))
        return
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(record["kind"] for record in records):
        rows.append((kind, "", "", "", "", ""))
        rows += [_method_row(record) for record in records if record["kind"] == kind]
    say(terminal.table(("method", "sign", "objective", "foil", "sum", "paper"), rows))
    say("\nsign: ± scores may be below 0 (against the token); + they are at least 0.")
    say("objective: it explains what --objective names; foil: it takes --contrast.")
    say("sum: the scores of a token add up to what the text changes (completeness).")
    say("paper: a number is its arXiv id; --json has the whole entry, and every method's options.")


def _method_row(record: dict[str, Any]) -> tuple[str, ...]:
    """One row of the table of methods; whole papers are in --json, where they are too long for a terminal."""
    paper = str(record["paper"]).replace("arXiv:", "")
    marks = (_mark(record[name]) for name in ("objective", "contrast", "completeness"))
    sign = "±" if record["signed"] else "+"
    short = paper if len(paper) <= PAPER_WIDTH else f"{paper[: PAPER_WIDTH - 1].rstrip()}…"
    return (f"  {record['name']}", sign, *marks, short)


def _mark(value: bool) -> str:
    return "yes" if value else "-"


@app.command("hook-points")
def hook_points(model: Model, json: AsJson = False) -> None:
    """List a model's hook points: what `capture` can record and `intervene` can replace."""
    opened = open_model(model, "cpu")
    points = opened.hook_points()
    if json:
        say(dump_json({**envelope("hook-points", model_digest=opened.digest), "points": points}))
        return
    say("\n".join(points))


@app.command()
def tasks(json: AsJson = False) -> None:
    """List the tasks with known answers, with samples."""
    from explain.training import tasks as room

    found = [room.get(name) for name in room.names()]
    if json:
        records = [
            {
                "name": t.name,
                "title": t.title,
                "question": t.question,
                "description": t.description,
                "samples": [{"source": e.source, "target": e.target} for e in room.preview(t)],
            }
            for t in found
        ]
        say(dump_json({**envelope("tasks"), "tasks": records}))
        return
    for task in found:
        say(f"{task.name}: {task.title}\n  {task.description}")
        for example in room.preview(task):
            say(f"  source  {example.source}\n  output  {example.target}\n")
