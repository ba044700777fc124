"""The page's HTML comes from the templates in `assets/templates`, which escape all text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("assets") / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Values are escaped, so two adjacent angle brackets are always the template's own.
BETWEEN_TAGS = re.compile(r">\s+<")


def render(name: str, **values: Any) -> str:
    """Returns the HTML of the template `name` ('status.html') with `values`, which are escaped.

    White space between tags is removed, so that a template may be indented. Raises
    jinja2.UndefinedError where the template names a value that is not given.
    """
    return BETWEEN_TAGS.sub("><", ENVIRONMENT.get_template(name).render(values).strip())


def paragraphs_html(*sentences: str) -> str:
    return render("paragraphs.html", sentences=sentences)


def lines_html(*lines: str) -> str:
    """Returns plain text as HTML, one line below the other."""
    return render("lines.html", lines=lines)
