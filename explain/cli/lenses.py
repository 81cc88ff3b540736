"""Commands that look inside a model without changing it: heads, lenses, contributions, alignment."""

from __future__ import annotations

import csv
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
    SourceColumn,
    SourceLanguage,
    TargetColumn,
    TargetLanguage,
    Unknown,
    analyze,
    one_output,
    open_model,
    reading,
)
from explain.errors import FileError, InputError, UnknownNameError
from explain.files import digest_json, dump_json, envelope, replacing, write_json, write_text
from explain.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from explain.model import Seq2Seq
    from explain.results import Generation
    from explain.training.tasks import TokenGold

ENDINGS = (".html", ".json", ".csv")
SIDES = ("decoder", "encoder")
Out = Annotated[Path, typer.Option(help="FILE.{html,json,csv}")]
OneText = Annotated[str, typer.Option("--text", help="One source text.")]
Target = Annotated[str | None, typer.Option(help="A given output instead of the model's own.")]
Top = Annotated[int, typer.Option(help="How many tokens to name in each place.")]


@analyze.command()
def heads(
    model: Model,
    out: Out,
    task: Annotated[str | None, typer.Option(help="A task with known answers; see explain tasks.")] = None,
    data: Annotated[Path | None, typer.Option(help="File of sources, with outputs or without.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Outputs to look at.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the examples that a task draws.")] = 0,
    forced: Annotated[
        bool, typer.Option("--forced", help="Look at the file's outputs, not the model's.")
    ] = False,
    objective: Annotated[
        str, typer.Option(help="What heads are important for: log_prob, logit, probability or entropy.")
    ] = "log_prob",
    how: Annotated[
        str, typer.Option(help="What stands in a silenced head's place: zero, mean or resample.")
    ] = "zero",
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Find out what every attention head looks at, what role that gives it, and how much outputs need it."""
    from explain.analysis import survey_heads

    _check_out(out)
    if (task is None) == (data is None):
        raise InputError("give either --task NAME or --data FILE")
    if forced and data is None:
        raise InputError("--forced is about the outputs of --data FILE")
    if task is not None:
        from explain.training import tasks

        tasks.get(task)
    pairs = [] if data is None else _pairs(data, (source_column, target_column), forced)[:examples]
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    controls = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    gold: list[TokenGold | None] | None = None
    if task is not None:
        generations, gold = _of_task(opened, task, examples, seed, {**shared, **controls})
    elif forced:
        generations = opened.force([source for source, _ in pairs], [target for _, target in pairs], **shared)
    else:
        generations = opened.generate([source for source, _ in pairs], **shared, **controls)
    with terminal.progress("looking at heads") as progress:
        found = survey_heads(opened, generations, gold, objective=objective, how=how, progress=progress)
    name = task or (data.name if data else "")
    head = _head("heads", opened, generations, seed)
    if out.suffix == ".html":
        from explain.report.inside import heads_page

        write_text(out, heads_page(found, data=name, head=head))
    else:
        _save(out, {**head, "data": name, "how": how}, found)
    order = sorted(found.ablation.rows, key=lambda row: -row.importance)[:5]
    roles = {row.head: row.role for row in found.roles.rows}
    rows = [
        (
            row.head.name,
            roles[row.head],
            f"{row.importance:.4f}",
            f"{found.gradient[row.head].importance:.4f}",
        )
        for row in order
    ]
    say(terminal.table(("needed most", "role", "ablation", "gradient"), rows))
    say(f"\nablation and gradient: rank correlation {found.agreement:.3f} over {len(roles)} heads")
    say(f"wrote {out}")


@analyze.command()
def lens(
    model: Model,
    text: OneText,
    out: Out,
    side: Annotated[
        str, typer.Option(help="decoder: the logit lens; encoder: the decoder reads earlier encoder layers.")
    ] = "decoder",
    watch: Annotated[
        list[str] | None, typer.Option(help="A token to follow through the layers; may be repeated.")
    ] = None,
    top: Top = 5,
    target: Target = None,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Read off every layer what the model would write if it were the last one."""
    from explain.analysis import decoder_lens, logit_lens

    _check_out(out)
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    generation = one_output(opened, text, target, shared, num_beams=num_beams, max_new_tokens=max_new_tokens)
    if side == "decoder":
        found = logit_lens(opened, generation, top=top, watch=watch)
    else:
        found = decoder_lens(opened, generation, top=top, watch=watch, write=True)
    head = _head("lens", opened, [generation])
    if out.suffix == ".html":
        from explain.report.inside import lens_page

        write_text(out, lens_page(found, head=head))
    else:
        _save(out, head, found)
    last = [
        "never" if layer < 0 else found.layers[layer].removesuffix(".residual")
        for layer in found.settled.tolist()
    ]
    rows = [
        (str(step), token.text, where, f"{float(log_prob):.3f}")
        for step, (token, where, log_prob) in enumerate(
            zip(found.target_tokens, last, found.log_probs[-1], strict=True)
        )
    ]
    say(f"output: {generation.target_text}")
    say(terminal.table(("step", "token", "most likely from", "log-probability"), rows))
    say(f"the last layer is the model itself to within {found.error:.1e} logits")
    say(f"wrote {out}")


@analyze.command()
def contributions(
    model: Model,
    text: OneText,
    position: Annotated[int, typer.Option(help="Output token to explain; below 0 from the end.")],
    out: Out,
    contrast: Contrast = None,
    neurons: Annotated[int, typer.Option(min=0, help="Neurons with a row of their own.")] = 10,
    top: Top = 5,
    target: Target = None,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Take an output token's logit apart into what each block, head and neuron of the decoder adds to it."""
    from explain.analysis import contributions as take_apart

    _check_out(out)
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    generation = one_output(opened, text, target, shared, num_beams=num_beams, max_new_tokens=max_new_tokens)
    found = take_apart(opened, generation, position, contrast, neurons=neurons, top=top)
    head = _head("contributions", opened, [generation])
    if out.suffix == ".html":
        from explain.report.inside import contributions_page

        write_text(out, contributions_page(found, head=head))
    else:
        _save(out, head, found)
    strongest = [*found.of("block")[:3], *found.of("head")[:3], *found.of("neuron")[:3]]
    rows = [
        (part.name, f"{part.logit:+.3f}", ", ".join(token.text.strip() for token in part.promoted[:3]))
        for part in strongest
    ]
    say(f"output: {generation.target_text}")
    say(f"token {found.position}: {found.token.text.strip()}, logit {found.value:.3f}")
    say(terminal.table(("part", "adds", "promotes"), rows))
    say(f"all parts add up to {found.total:.3f}, off by {found.error:.1e}")
    say(f"wrote {out}")


@analyze.command()
def align(
    model: Model,
    text: OneText,
    out: Out,
    target: Target = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="LAYER.HEAD of the decoder's cross-attention; may be repeated."),
    ] = None,
    aligned_to: Annotated[
        str, typer.Option(help="output: the step that writes a word; input: the step that reads it.")
    ] = "output",
    mutual: Annotated[bool, typer.Option("--mutual", help="Only links that both words choose.")] = False,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least attention of a link.")] = 0.0,
    num_beams: Beams = 1,
    max_new_tokens: MaxNew = 128,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Link each word of an output to the source word that cross-attention looks at most.

    Without --head all heads of the last layer are averaged.
    """
    from explain.analysis import word_alignment

    _check_out(out)
    chosen = [_head_named(item) for item in head or ()]
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    generation = one_output(opened, text, target, shared, num_beams=num_beams, max_new_tokens=max_new_tokens)
    shape = opened.describe()
    found = word_alignment(
        opened,
        generation,
        chosen or [(shape["decoder_layers"] - 1, index) for index in range(shape["heads"])],
        aligned_to=aligned_to,
        mutual=mutual,
        threshold=threshold,
    )
    record = _head("alignment", opened, [generation])
    if out.suffix == ".html":
        from explain.report.inside import alignment_page

        write_text(out, alignment_page(found, head=record))
    else:
        _save(out, record, found)
    say(f"output: {generation.target_text}")
    rows = [
        (found.target_words[j].text, found.source_words[i].text, f"{float(found.matrix[j, i]):.3f}")
        for i, j in sorted(found.links, key=lambda link: (link[1], link[0]))
    ]
    say(terminal.table(("output word", "source word", "attention"), rows))
    say(f"wrote {out}")


def _head_named(text: str) -> tuple[int, int]:
    layer, dot, index = text.partition(".")
    if not dot or not layer.isdecimal() or not index.isdecimal():
        raise InputError(f"--head {text!r}: write it as LAYER.HEAD, such as 1.3, both counted from 0")
    return int(layer), int(index)


def _of_task(
    model: Seq2Seq, task: str, examples: int, seed: int, options: dict[str, Any]
) -> tuple[list[Generation], list[TokenGold | None]]:
    """A task's held-out outputs, and of those that are right what each token depends on."""
    from explain.training import tasks

    drawn = tasks.get(task).examples("held_out", examples, seed)
    generations = model.generate([example.source for example in drawn], **options)
    gold = [
        tasks.token_gold(example, own.source_tokens, own.target_tokens)
        if own.finished and own.target_text == example.target
        else None
        for example, own in zip(drawn, generations, strict=True)
    ]
    return generations, gold


def _pairs(data: Path, columns: tuple[str, str], forced: bool) -> list[tuple[str, str]]:
    """The rows of a file; with `forced` each needs an output."""
    from explain.training.data import read_table

    pairs = read_table(data, *columns, need_target=False)
    if forced and not all(pair.target for pair in pairs):
        raise FileError(f"--forced needs an output for every source in column {columns[1]!r} of {data}")
    return [(pair.source, pair.target or "") for pair in pairs]


def _check_out(out: Path) -> None:
    """Refuse an ending that cannot be written, before any work."""
    if out.suffix not in ENDINGS:
        raise InputError(f"{out}: the ending {out.suffix!r} is not one of {', '.join(ENDINGS)}")


def _head(
    schema: str, model: Seq2Seq, generations: list[Generation], seed: int | None = None
) -> dict[str, Any]:
    """The envelope of a result about outputs."""
    digest = digest_json([[item.source_text, item.target_text] for item in generations])
    return envelope(schema, seed=seed, model_digest=model.digest, data_digest=digest)


def _save(out: Path, head: dict[str, Any], found: Any) -> None:
    """Write a result as JSON or as its table."""
    if out.suffix == ".json":
        write_json(out, {**head, **found.to_dict()})
        return
    frame: pd.DataFrame = found.to_frame()
    with replacing(out) as temporary:
        # Every text is quoted: a lone carriage return in a token would otherwise end its row.
        frame.map(_cell).to_csv(
            temporary, index=False, encoding="utf-8", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )


def _cell(value: Any) -> Any:
    """A list as JSON text; everything else as it is."""
    return dump_json(list(value), indent=None) if isinstance(value, (tuple, list)) else value
