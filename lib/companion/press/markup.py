"""Turns data into the HTML of the book's pages: the template environment, its filters, and raw blocks in MyST."""

import html
import math
import re
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin

SYMBOLS = {"held": "✓", "partly": "◐", "failed": "✗", "not tested": "○"}
"""A symbol for each verdict, so that it never depends on colour alone."""


def render(template: str, **values: Any) -> str:
    """Return the template press/templates/<template> filled with `values`."""
    return _environment().get_template(template).render(**values)


def raw(markup: str) -> str:
    """Return HTML as a block of MyST that goes to the page as it is; nothing stays nothing."""
    if not markup.strip():
        return ""
    return f"``````{{raw}} html\n{markup.strip()}\n``````"


@cache
def _environment() -> Environment:
    loader = PackageLoader("companion.press", "templates")
    layout = {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **layout)
    filters = (inline, duration, moment, number, short, status_class)
    environment.filters.update({function.__name__: function for function in filters})
    environment.globals.update(SYMBOLS=SYMBOLS)
    return environment


def inline(text: str) -> Markup:
    """Return a line of Markdown (code, emphasis, links, $mathematics$) as HTML; other HTML in it is escaped."""
    return Markup(_markdown().renderInline(text))


@cache
def _markdown() -> MarkdownIt:
    from companion.press.mathml import to_mathml

    def formula(tex: str, options: dict[str, Any]) -> str:
        return to_mathml(tex, options["display_mode"])

    return MarkdownIt("commonmark", {"html": False}).use(dollarmath_plugin, renderer=formula)


def duration(seconds: float | None) -> str:
    """Return a duration as a person would say it.

    >>> duration(7.04), duration(192), duration(3600 * 1.5)
    ('7 s', '3 min 12 s', '1 h 30 min')
    """
    if seconds is None:
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(iso: str) -> Markup:
    """Return an ISO moment as a <time> element: date and hour (UTC), to which the page's script adds the age."""
    when = datetime.fromisoformat(iso)
    return Markup(f'<time datetime="{html.escape(iso)}">{when:%Y-%m-%d %H:%M}</time>')


def number(value: float | None) -> str:
    """Return a number with four significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}"


def short(key: str | None) -> str:
    """Return the first characters of a digest or commit."""
    return (key or "none")[:10]


def status_class(status: str) -> str:
    """Return a verdict or state as the name of a CSS class."""
    return re.sub(r"[^a-z]+", "-", status.lower())
