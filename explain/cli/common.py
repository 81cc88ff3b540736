"""What commands share: the application, options that mean the same everywhere, opening what is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explain.errors import InputError

if TYPE_CHECKING:
    from explain.evaluation import Evaluation
    from explain.model import Seq2Seq
    from explain.results import Generation

app = typer.Typer(
    name="explain",
    help="Open up sequence-to-sequence Transformers. MODEL is a model folder, a run folder or a hub id.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

analyze = typer.Typer(
    name="analyze",
    help="Look inside a model: heads, lenses, causes, neurons.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run folder or hub id.")]
Text = Annotated[str | None, typer.Option("--text", help="One source text.")]
Input = Annotated[
    Path | None,
    typer.Option("--input", help="File: .txt with a source a line, or a table (.tsv .csv .jsonl …)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Unknown = Annotated[bool, typer.Option("--allow-unknown", help="Accept words outside the vocabulary.")]
SourceColumn = Annotated[str, typer.Option(help="Column with the sources.")]
TargetColumn = Annotated[str, typer.Option(help="Column with the outputs.")]
SourceLanguage = Annotated[str | None, typer.Option(help="Source language of a multilingual model.")]
TargetLanguage = Annotated[str | None, typer.Option(help="Target language of a multilingual model.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
Port = Annotated[int | None, typer.Option(help="Port; the first free one from 8501 by default.")]
Beams = Annotated[int, typer.Option(help="Beams; 1 is greedy.")]
MaxNew = Annotated[int, typer.Option(help="Longest output in tokens.")]

Options = Annotated[
    list[str] | None, typer.Option("--option", help="A method's own option as name=value; may be repeated.")
]
Objective = Annotated[str, typer.Option(help="log_prob, logit, probability, entropy or kl_divergence.")]
Contrast = Annotated[str | None, typer.Option(help="Foil: why this token rather than that one?")]
Level = Annotated[str | None, typer.Option(help="Merge tokens: token, word or sentence.")]
Over = Annotated[str, typer.Option(help="How merged scores are reduced: sum, mean or max_abs.")]
Position = Annotated[
    list[str] | None,
    typer.Option(
        "--position", help="What to explain: a token's number, START:END as one, or output; may be repeated."
    ),
]
ContrastSpan = Annotated[
    str | None, typer.Option(help="START:END, the output tokens that --contrast stands against.")
]
ContrastInput = Annotated[
    str | None, typer.Option(help="Another source; --objective kl_divergence compares with what it gives.")
]
Memory = Annotated[int, typer.Option(help="Memory to use beside the model, MiB; shapes chunks, not results.")]
Tolerance = Annotated[float, typer.Option(help="Largest relative completeness error per token.")]


def open_model(model: str, device: str = "auto", dtype: str = "float32") -> Seq2Seq:
    """The model that MODEL names, opened."""
    import explain

    return explain.load(model, device=device, dtype=dtype)


def read_sources(
    text: str | None, file: Path | None, source_column: str, target_column: str
) -> list[tuple[str, str | None]]:
    """(source, given output or None) from --text or --input."""
    if (text is None) == (file is None):
        raise InputError("give either --text TEXT or --input FILE")
    if text is not None:
        return [(text, None)]
    from explain.training.data import read_table

    assert file is not None
    pairs = read_table(file, source_column, target_column, need_target=False)
    return [(pair.source, pair.target or None) for pair in pairs]


def reading(allow_unknown: bool, source_language: str | None, target_language: str | None) -> dict[str, Any]:
    """What `generate` and `force` both take."""
    return {
        "allow_unknown": allow_unknown,
        "source_language": source_language,
        "target_language": target_language,
    }


def one_output(
    model: Seq2Seq, text: str, target: str | None, shared: dict[str, Any], **controls: Any
) -> Generation:
    """The model's output of a text, or a given one, scored."""
    if target is None:
        return model.generate(text, **shared, **controls)
    return model.force(text, target, **shared)


def read_options(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs of --option; values are read as JSON where they are JSON, else as text."""
    import json

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--option {pair!r}: write it as name=value")
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value
        options[name.strip().replace("-", "_")] = tuple(read) if isinstance(read, list) else read
    return options


def kept_with(model: str, opened: Seq2Seq) -> Evaluation | None:
    """The evaluation that is kept with MODEL, if it is a run folder and the model is still the same."""
    from explain.evaluation import kept_evaluation
    from explain.runs import is_run

    return kept_evaluation(model, opened.digest) if is_run(model) else None
