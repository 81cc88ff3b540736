"""Commands about one model: doctor, generate, capture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explain import terminal
from explain.cli.common import (
    AsJson,
    Beams,
    Device,
    Dtype,
    Input,
    MaxNew,
    Model,
    SourceColumn,
    SourceLanguage,
    TargetLanguage,
    Text,
    Unknown,
    app,
    one_output,
    open_model,
    read_sources,
    reading,
)
from explain.errors import InputError
from explain.files import digest_json, dump_json, envelope
from explain.terminal import say


@app.command()
def doctor(model: Model, device: Device = "auto", dtype: Dtype = "float32", json: AsJson = False) -> int:
    """Check that a model can be explained: parity, attention, tokenizer, dtype. Pass, or why not."""
    from explain.model import doctor as examine

    opened = open_model(model, device, dtype)
    checks = examine(opened)
    fine = all(check.passed for check in checks)
    if json:
        found = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks]
        head = envelope("doctor", model_digest=opened.digest)
        say(dump_json({**head, "model": opened.describe(), "passed": fine, "checks": found}))
    else:
        for check in checks:
            say(f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}")
        say("\nThis model can be explained." if fine else "\nThis model cannot be explained as it is.")
    return terminal.DONE if fine else terminal.WRONG_INPUT


@app.command()
def generate(
    model: Model,
    text: Text = None,
    input: Input = None,
    num_beams: Beams = 1,
    do_sample: Annotated[bool, typer.Option("--sample", help="Draw instead of taking the best.")] = False,
    temperature: Annotated[float, typer.Option(help="Below 1 is bolder, above 1 wilder.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k best; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the best that hold this probability.")] = 1.0,
    length_penalty: Annotated[float, typer.Option(help="Above 0 favours longer beams.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages repetition.")] = 1.0,
    no_repeat_ngram_size: Annotated[int, typer.Option(help="No n-gram twice; 0: no limit.")] = 0,
    max_new_tokens: MaxNew = 128,
    min_new_tokens: Annotated[int, typer.Option(help="Shortest output in tokens.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    source_column: SourceColumn = "source",
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    json: AsJson = False,
) -> None:
    """Write the output of a text, or of every text in a file."""
    sources = [source for source, _ in read_sources(text, input, source_column, "target")]
    opened = open_model(model, device, dtype)
    controls = {
        "num_beams": num_beams,
        "do_sample": do_sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "length_penalty": length_penalty,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "seed": seed,
    }
    shared = reading(allow_unknown, source_language, target_language)
    with terminal.progress("generating") as progress:
        generations = opened.generate(sources, progress=progress, **shared, **controls)
    if json:
        digest = digest_json(sources)
        head = envelope("generation", seed=seed, model_digest=opened.digest, data_digest=digest)
        say(dump_json({**head, "generations": [g.to_dict() for g in generations]}))
        return
    for generation in generations:
        say(generation.target_text)
        if not generation.finished:
            count = len(generation.target_tokens)
            terminal.note(f"cut at {count} tokens, before its end: {generation.source_text[:60]!r}")


@app.command()
def capture(
    model: Model,
    text: Annotated[str, typer.Option("--text", help="One source text.")],
    points: Annotated[str, typer.Option(help="Glob over hook points, such as 'decoder.*.cross.pattern'.")],
    out: Annotated[Path, typer.Option(help="FILE.safetensors")],
    target: Annotated[str | None, typer.Option(help="A given output instead of the model's own.")] = None,
    source_language: SourceLanguage = None,
    target_language: TargetLanguage = None,
    allow_unknown: Unknown = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Record activations and attention of one text into a safetensors file."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: captures are written to .safetensors")
    opened = open_model(model, device, dtype)
    shared = reading(allow_unknown, source_language, target_language)
    captured = opened.capture(one_output(opened, text, target, shared), points)
    captured.save(out)
    for name, tensor in captured.items():
        say(f"{name}  {list(tensor.shape)}")
    say(f"wrote {out}")
