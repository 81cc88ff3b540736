"""The Python that makes what a page shows, with the public interface alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboard.catalogue import Choice
from dashboard.examples import Example


def opened(choice: Choice) -> list[str]:
    """Lines that open the model as `model`."""
    return ["import explain", "", f"model = explain.load({str(choice.run or choice.folder)!r})"]


def written(choice: Choice, example: Example) -> list[str]:
    """Lines that open the model and make the example's output as `generation`."""
    options: dict[str, Any] = dict(example.controls)
    if example.prefix:
        made = call("model.continue_from", [repr(example.source), repr(list(example.prefix))], options)
    elif example.target is None:
        made = call("model.generate", [repr(example.source)], options)
    else:
        made = call("model.force", [repr(example.source), repr(example.target)], options)
    return [*opened(choice), f"generation = {made}"]


def call(name: str, positional: Sequence[str], named: Mapping[str, Any]) -> str:
    """A call as one writes it: `positional` are expressions, `named` are values."""
    return f"{name}({', '.join([*positional, *(f'{key}={value!r}' for key, value in named.items())])})"


def drawn(lines: Sequence[str], figure: str) -> str:
    """The text that shows a figure: `lines` make what it needs, `figure` calls a function of `plots`."""
    first, *rest = lines
    return "\n".join([first, "from explain.report import plots", *rest, f"plots.{figure}.show()"])


def shown(lines: Sequence[str], names: Sequence[str], figure: str, room: str) -> str:
    """The text that shows a figure of an analysis.

    Args:
        lines: make what it needs.
        names: what they use of `explain.analysis`.
        figure: calls a function of `room`.
        room: the module of `explain.report` that draws.
    """
    first, *rest = lines
    made = [f"from explain.analysis import {', '.join(names)}"] if names else []
    drawer = f"from explain.report.{room} import {figure.partition('(')[0]}"
    return "\n".join([first, *made, drawer, *rest, f"{figure}.show()"])
