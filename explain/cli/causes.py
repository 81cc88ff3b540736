"""Commands that change the inside of a model and see what comes of it: ablate, knockout, patch, redecode."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain import terminal
from explain.cli.common import (
    Beams,
    Contrast,
    Device,
    Dtype,
    MaxNew,
    Model,
    Objective,
    SourceLanguage,
    TargetLanguage,
    Unknown,
    analyze,
    one_output,
    open_model,
    reading,
)
from explain.errors import InputError
from explain.files import command_line, replacing, write_json, write_text
from explain.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from explain.model import Seq2Seq
    from explain.results import Generation

ENDINGS = (".html", ".json", ".csv")
BY = {
    "head": "heads",
    "sublayer": "sublayers",
    "layer": "layers",
    "neuron": "neurons",
    "position": "positions",
}
# Parts named on the terminal; the file has all of them.
SHOWN = 5

OneText = Annotated[str, typer.Option("--text", help="One source text.")]
Given = Annotated[str | None, typer.Option("--target", help="A given output instead of the model's own.")]
Out = Annotated[Path, typer.Option(help=f"FILE.{{{','.join(ending[1:] for ending in ENDINGS)}}}")]
Points = Annotated[
    list[str] | None, typer.Option(help="Hook points or globs; see explain hook-points; may be repeated.")
]


@analyze.command()
def ablate(
    model: Model,
    out: Out,
    text: Annotated[str | None, typer.Option("--text", help="One source text.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Many outputs instead: a task with known answers; see explain tasks.")
    ] = None,
    target: Given = None,
    by: Annotated[str, typer.Option(help="What is silenced: head, sublayer, layer, neuron or position.")] = (
        "head"
    ),
    how: Annotated[str, typer.Option(help="What stands there instead: zero, mean or resample.")] = "zero",
    reference: Annotated[
        str | None,
        typer.Option(help="Where mean and resample of one text come from: a file of sources, or a task."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Outputs of the task, or of the reference.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the examples that a task draws.")] = 0,
    points: Points = None,
    objective: Objective = "log_prob",
    contrast: Contrast = None,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Silence every head, layer, neuron or position by itself, and see what the output loses."""
    from explain.analysis import ablate as silence
    from explain.analysis import mean_ablation
    from explain.report.causes import ablation_page

    _check_out(out)
    what = _one_of(by, BY, "--by")
    if (text is None) == (task is None):
        raise InputError("give either --text TEXT or --task NAME")
    if task is not None and (target is not None or contrast is not None or reference is not None):
        raise InputError("--target, --contrast and --reference are about one --text")
    if text is not None and (reference is None) != (how == "zero"):
        raise InputError("--how mean and --how resample need --reference FILE or TASK, and zero needs none")
    if task is not None:
        _require_task(task)
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    asked: dict[str, Any] = {"objective": objective, "points": points or None}
    with terminal.progress("ablating") as progress:
        if text is not None:
            generation = one_output(opened, text, target, shared, **controls)
            others = _outputs(opened, reference, examples, seed, {**shared, **controls}) if reference else []
            result = silence(
                opened,
                generation,
                what,
                how,
                reference=others,
                contrast=contrast,
                progress=progress,
                **asked,
            )
        else:
            generations = _outputs(opened, task or "", examples, seed, {**shared, **controls})
            result = mean_ablation(opened, generations, what, how, progress=progress, **asked)
    schema = "ablation" if text is not None else "mean_ablation"
    _save(out, schema, result, ablation_page, seed=None if text is not None else seed)
    unit = result.units.split()[0]
    for part, effect in result.top(SHOWN):
        say(f"{part.name}: {effect:+.3f} {unit}")
    say(f"wrote {out}")


@analyze.command()
def knockout(
    model: Model,
    text: OneText,
    out: Out,
    target: Given = None,
    source_token: Annotated[
        list[int] | None,
        typer.Option(
            help="Hide these source tokens, counted from 0, all at once; by default each by itself."
        ),
    ] = None,
    prefix_token: Annotated[
        list[int] | None, typer.Option(help="The same for tokens of the output so far.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="FIRST:LAST decoder layer where they are hidden, both included; all by default."),
    ] = None,
    objective: Objective = "log_prob",
    contrast: Contrast = None,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Keep the output from looking at source tokens, and at its own earlier tokens, and see what it loses."""
    from explain.analysis import knockout as hide
    from explain.analysis import knockout_sweep
    from explain.report.causes import knockout_page, record

    _check_out(out)
    chosen = _layers(layers)
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    generation = one_output(opened, text, target, shared, num_beams=num_beams, max_new_tokens=max_new_tokens)
    asked: dict[str, Any] = {"objective": objective, "contrast": contrast, "layers": chosen}
    if source_token or prefix_token:
        results = [hide(opened, generation, source_token or (), prefix=prefix_token or (), **asked)]
    else:
        sides = ["source", "prefix"] if len(generation.target_tokens) > 1 else ["source"]
        results = [knockout_sweep(opened, generation, side=side, window=None, **asked) for side in sides]
    if out.suffix == ".html":
        write_text(out, knockout_page(results, command=command_line()))
    elif out.suffix == ".json":
        write_json(out, {**record("knockout", results[0]), "sweeps": [item.to_dict() for item in results]})
    else:
        import pandas as pd

        _write_csv(out, pd.concat([item.to_frame() for item in results]))
    say(f"output: {generation.target_text}")
    for result in results:
        for part, effect in result.top(SHOWN):
            says = [generation.source_tokens[i].text for i in part.source]
            says += [generation.target_tokens[u].text for u in part.prefix]
            say(f"without {part.name} ({' '.join(says)}): {-effect:+.3f} {result.units.split()[0]}")
    say(f"wrote {out}")


@analyze.command()
def patch(
    model: Model,
    text: Annotated[str, typer.Option("--text", help="The clean text, whose output is explained.")],
    other: Annotated[str, typer.Option(help="Another text of as many tokens.")],
    out: Out,
    target: Given = None,
    points: Points = None,
    by: Annotated[
        str, typer.Option(help="What makes a place: some of layer, position, head, neuron, with commas.")
    ] = "layer,position",
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Estimate to first order, and measure how far off that is.")
    ] = False,
    contrast: Annotated[
        bool, typer.Option("--contrast", help="Explain the output against what the other text gives.")
    ] = False,
    foil: Annotated[str | None, typer.Option(help="Explain the output against this token or text.")] = None,
    noising: Annotated[
        bool, typer.Option("--noising", help="Put the other text's activations into the clean run instead.")
    ] = False,
    objective: Objective = "log_prob",
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Put one text's activations into the run of another, place by place: where is the difference carried?"""
    from explain.analysis import attribution_patching, measured_disagreement
    from explain.analysis import patch as exact
    from explain.report.causes import patching_page

    _check_out(out)
    if contrast and foil is not None:
        raise InputError("--contrast and --foil ask for two things; give one of them")
    axes = [axis.strip() for axis in by.split(",")]
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    clean = one_output(opened, text, target, shared, **controls)
    # By text, so that both are read alike; what the model wrote is then a given output.
    clean, corrupted = (opened.force(source, clean.target_text, **shared) for source in (text, other))
    against = opened.generate(other, **shared, **controls).target_text if contrast else foil
    asked: dict[str, Any] = {"objective": objective, "contrast": against, "positions": None}
    places: dict[str, Any] = {"points": points or ["*.residual"], "by": axes, "noising": noising}
    found = None
    if approximate:
        result = attribution_patching(opened, clean, corrupted, **places, **asked)
        found = measured_disagreement(result, opened, clean, corrupted, **asked)
    else:
        with terminal.progress("patching") as progress:
            result = exact(opened, clean, corrupted, **places, **asked, progress=progress)
    more = None if found is None else found.to_dict()
    _save(out, "patching", result, partial(patching_page, found=found), disagreement=more)
    say(f"output: {clean.target_text}" + (f" (against: {against})" if against is not None else ""))
    if found is not None:
        say(
            f"the estimate against patching, {found.cells} cells: correlation {found.correlation:.3f}, mean "
            f"distance {found.mean:.3f}, {found.overlap:.0%} of the {found.k} strongest places the same"
        )
    say(f"wrote {out}")


@analyze.command()
def redecode(
    model: Model,
    text: OneText,
    out: Out,
    ablate: Annotated[
        list[str] | None,
        typer.Option(
            help="A place to silence: a hook point, then head, position or neuron with a number, such as "
            "'decoder.1.cross head 0'; may be repeated."
        ),
    ] = None,
    source_token: Annotated[
        list[int] | None, typer.Option(help="A source token the output may not look at; may be repeated.")
    ] = None,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Write the output anew with parts of the model silenced, and compare it with the first."""
    from explain.analysis import Edit, Hidden, site_named
    from explain.analysis import redecode as again
    from explain.report.causes import redecoded_page

    _check_out(out)
    if not ablate and not source_token:
        raise InputError("nothing is changed; give --ablate 'decoder.1.cross head 0', or --source-token 3")
    opened = open_model(model, device, dtype)
    sites = [site_named(opened, place) for place in ablate or []]
    edits = [Edit(point, site.where(point)) for site in sites for point in site.points]
    changes = [site.name for site in sites]
    shared = reading(allow_unknown, source_language, target_language)
    if source_token:
        tokens = opened.source_ids(text, allow_unknown=allow_unknown)
        if not all(0 <= token < len(tokens) for token in source_token):
            raise InputError(
                f"--source-token: there are {len(tokens)} source tokens (0 to {len(tokens) - 1})"
            )
        if len(set(source_token)) == len(tokens):
            raise InputError("the whole source is hidden, and attention needs something to look at")
        last = opened.describe()["decoder_layers"] - 1
        edits += Hidden(tuple(sorted(set(source_token))), (), (0, last)).edits()
        changes += [f"attention to source token {token}" for token in sorted(set(source_token))]
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    result = again(opened, text, edits, **shared, **controls)
    _save(out, "redecoded", result, partial(redecoded_page, changes=changes), changed=changes)
    say(f"before: {result.before.target_text}")
    say(f"after:  {result.after.target_text}")
    say(f"the first output loses {float(result.lost.sum()):.3f} nats; wrote {out}")


def _outputs(
    model: Seq2Seq, name: str, examples: int, seed: int, options: dict[str, Any]
) -> list[Generation]:
    """What the model writes for the first sources of a file, or for held-out ones of a task."""
    from explain.training import tasks
    from explain.training.data import read_table

    if name in tasks.names():
        sources = [item.source for item in tasks.get(name).examples("held_out", examples, seed)]
    else:
        sources = [pair.source for pair in read_table(Path(name), need_target=False)][:examples]
    return model.generate(sources, **options)


def _require_task(name: str) -> None:
    from explain.training import tasks

    tasks.get(name)


def _layers(given: str | None) -> tuple[int, int] | None:
    """FIRST:LAST, or one layer."""
    if given is None:
        return None
    first, _, last = given.partition(":")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise InputError(
            f"--layers {given!r}: write it as FIRST:LAST, such as 0:1, or as one layer"
        ) from None


def _one_of(name: str, known: dict[str, str], option: str) -> str:
    if name not in known:
        raise InputError(f"{option} {name!r}: choose one of {', '.join(known)}")
    return known[name]


def _check_out(out: Path) -> None:
    """Refuse an ending that cannot be written, before any work."""
    if out.suffix not in ENDINGS:
        raise InputError(f"{out}: the ending {out.suffix!r} is not one of {', '.join(ENDINGS)}")


def _save(
    out: Path,
    schema: str,
    result: Any,
    page: Callable[..., str],
    *,
    seed: int | None = None,
    **more: Any,
) -> None:
    """Write a result in the format that the ending names."""
    from explain.report.causes import record

    if out.suffix == ".html":
        write_text(out, page(result, command=command_line()))
    elif out.suffix == ".json":
        write_json(out, {**record(schema, result, **more), "seed": seed})
    else:
        _write_csv(out, result.to_frame())


def _write_csv(out: Path, frame: pd.DataFrame) -> None:
    with replacing(out) as temporary:
        # Every text is quoted: a lone carriage return in a token would otherwise end its row.
        frame.to_csv(
            temporary, index=False, encoding="utf-8", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )
