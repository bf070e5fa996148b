"""The one place where values become HTML: templates, into which everything is put as text.

A template stands beside the module that renders it, as ``NAME.html.jinja``, and may name those of this folder, whose
``page.html.jinja`` is around every page. Python says what stands on a page and a template how: no tag is written
anywhere else, and nothing but the pages' own style and script goes into one unescaped.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from detection.report.markdown import address, percent, printable

FOLDER = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """Return the page that ``template`` makes of ``values``.

    Raises:
        ValueError: a number is to be shown that is none.
        jinja2.UndefinedError: the template names what ``values`` do not hold.
    """
    return printable(_environment(template.parent).get_template(template.name).render(values))


@functools.cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def source(name: str) -> Markup:
        """Return one of our own files: text inside <style> and <script> is not HTML, and would not be unescaped."""
        return Markup(environment.loader.get_source(environment, name)[0])

    environment.globals["source"] = source
    environment.globals["source_hash"] = lambda name: _policy_hash(source(name))
    environment.filters["percent"] = lambda value: percent(value if value is None else _number(value))
    environment.filters["fixed"] = lambda value, digits: f"{_number(value):.{digits}f}"
    environment.filters["signed"] = lambda value: f"{_number(value):+.2f}"
    environment.filters["grouped"] = lambda value: f"{_number(value):,}"
    environment.filters["whole"] = lambda value: f"{_number(value):,.0f}"
    environment.filters["short"] = lambda value: f"{_number(value):.4g}"
    environment.filters["place"] = lambda value, low, high: f"{100 * (value - low) / (high - low):.2f}%"
    environment.filters["address"] = address
    environment.filters["data_address"] = _data_address
    return environment


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise ValueError(f"a page shows a number, but got {value!r:.80}")
    return value


def _policy_hash(text: str) -> str:
    """Return how a Content-Security-Policy names the only style or script of this text that may take effect."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data_address(content: bytes, kind: str) -> str:
    """Return a picture's file, a ``jpeg`` or ``png``, as an address that a page can show without a file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
