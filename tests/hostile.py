"""Names and settings that want to be more than text, for the tests of the pages; see the fixture ``hostile``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

PAYLOADS = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "</style><script>window.hit=1</script>",
    "</script><script>window.hit=1</script>",
    "</title><script>window.hit=1</script>",
    "--><script>window.hit=1</script><!-- ]]>",
    "' onmouseover=window.hit=1 style=color:red x='",
    "<svg onload=window.hit=1><a xlink:href=javascript:window.hit=1>",
    "{{7*7}} {% include 'page.js' %} {# gone #}",
    "javascript:window.hit=1",
    "data:text/html,<script>window.hit=1</script>",
    "//host.invalid/x",
    "http://host.invalid/x",
    "\\' \\\" ` & &lt;b&gt; &#x3c;",
    "[a](javascript:window.hit=1) ![b](http://host.invalid/b.png) | *c* _d_ `e` ~f~",
    "# a\n\n1. b\r\n\u2028> c\n\n    d\n---\n[x]: http://host.invalid",
    "\x00\x1b[31m\x7f\u202egnp.exe\u2066\ud800",
    "x" * 3000,
)
UNSEEN = "\x00\x1b\x7f\u202e\u2066\ud800"  # of the above, what a page shows as U+FFFD


def hostile(content: Any, payload: str, *, names: Collection[str], untyped: Collection[str]) -> tuple[Any, list[str]]:
    """Return plain values with every text replaced by one that begins with ``payload``, and these texts.

    The same text becomes the same, another another, so that a name is still a name. A key is replaced where it is one
    of the texts that are replaced as values, or stands somewhere beneath a key in ``untyped``, whose numbers are
    replaced too. What is in ``names`` stays: the words that are our own.
    """
    made: dict[str, str] = {}
    values = set(texts_of(content))

    def replaced(text: str) -> str:
        return text if text in names else made.setdefault(text, f"{payload} {len(made)}")

    def walk(value: Any, loose: bool) -> Any:
        if isinstance(value, dict):
            return {
                replaced(key) if loose or key in values else key: walk(item, loose or key in untyped)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [walk(item, loose) for item in value]
        if isinstance(value, str):
            return replaced(value)
        return replaced(str(value)) if loose and type(value) in (int, float) else value

    return walk(content, False), list(made.values())


def check_page(browser: Any, page: Path, payload: str, *, columns: str | None) -> str:
    """Open ``page``; nothing of ``payload`` acts and our own script does. Return all text that it shows.

    ``columns`` is the selector of a button that sorts a table, None where there is none.
    """
    browser.open(page, 1400)
    browser.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    browser.evaluate("""document.querySelectorAll('*').forEach(element => {
      for (const kind of ['mouseover', 'error', 'load', 'focus']) element.dispatchEvent(new Event(kind));
    })""")
    assert browser.evaluate("typeof window.hit") == "undefined"
    foreign = browser.evaluate("""[...document.querySelectorAll('*')].flatMap(element => [...element.attributes].filter(
      one => /^on|^style$|^srcdoc$|:href$/.test(one.name)).map(one => one.name))""")
    assert foreign == []
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate("[...document.images].every(image => image.src.startsWith('data:image/'))")
    assert browser.evaluate("[...document.links].every(link => link.protocol === 'file:' && link.host === '')")
    kinds = browser.evaluate("[...new Set([...document.querySelectorAll('*')].map(one => one.localName))]")
    assert not {"iframe", "object", "embed", "form", "base", "template", "textarea", "x"} & set(kinds)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1400
    if columns is not None:
        browser.evaluate(f"document.querySelector('{columns}').click()")
        assert browser.evaluate(f"document.querySelector('{columns}').closest('th').ariaSort") == "ascending"
    browser.check_quiet(page)
    return browser.evaluate(
        "document.title + ' ' + document.body.innerText + [...document.querySelectorAll('svg title')].map("
        "title => ' ' + title.textContent).join('') + [...document.images].map(image => ' ' + image.alt).join('')"
    )


def structure(markdown: str) -> list[str]:
    """Return what CommonMark, with tables, makes of a text, without its words: headings, rows, links, emphasis."""
    markdown_it = pytest.importorskip("markdown_it")
    found = []
    for token in markdown_it.MarkdownIt("commonmark").enable("table").parse(markdown):
        found.append(f"{token.type} {token.tag}")
        inside = (one.type for one in token.children or ())
        found += [kind for kind in inside if kind not in ("text", "text_special")]
    return found


def unseen(texts: Collection[str], shown: str) -> list[str]:
    """Return those ``texts`` that do not stand in what a page shows, spaces and capitals (a style's) aside.

    In a list that is written as Python writes it, a text stands as its ``repr``.
    """

    def folded(text: str) -> str:
        return re.sub(r"\s+", " ", re.sub(f"[{UNSEEN}]", "\ufffd", text)).lower()

    page = folded(shown)
    return [text for text in texts if folded(text) not in page and folded(repr(text)[1:-1]) not in page]


def texts_of(value: Any) -> Iterator[str]:
    """Yield every text among the values of plain values."""
    if isinstance(value, dict):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str):
        yield value
