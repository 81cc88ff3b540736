"""Templates to one offline HTML file: no script, no network, and a policy in the page that says so."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from explain.report import colours
from explain.report.labels import shown


def page(template: str, **context: Any) -> str:
    """Render a template of this package that extends `base.html.jinja`; the same input gives the same bytes.

    The page's policy allows one style sheet, by its hash, and nothing else: no script, no image, no request.
    """
    sheet = stylesheet()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return environment().get_template(template).render(policy=policy, stylesheet=Markup(sheet), **context)


@functools.cache
def environment() -> Environment:
    """The template environment: everything is escaped, an unknown name is an error."""
    found = Environment(
        loader=PackageLoader("explain.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["shown"] = shown
    return found


@functools.cache
def stylesheet() -> str:
    """The one style sheet: colours of both themes from `colours`, then the rules of `report.css`."""
    rules = files("explain.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    light, dark = (f"{_variables(theme)}\n{colours.css(theme)}\n" for theme in colours.THEMES)
    return f"{rules}\n{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _variables(theme: colours.Theme) -> str:
    values = {
        "page": colours.PAGE,
        "ink": colours.INK,
        "muted": colours.MUTED,
        "line": colours.LINE,
        "empty": colours.EMPTY,
        "accent": colours.ACCENT,
        "wrong": colours.WRONG,
    }
    return ":root{" + ";".join(f"--{name}:{found[theme]}" for name, found in values.items()) + "}"
