"""Templates: values are text, numbers are numbers, and the pages' policy knows their own style and script alone."""

import base64
import fnmatch
import hashlib
import re
from pathlib import Path

import jinja2
import pytest

from detection.report.templates import render

ROOT = Path(__file__).resolve().parents[3]
PAGE = '{{% extends "page.html.jinja" %}}{{% block title %}}T{{% endblock %}}{{% block main %}}{}{{% endblock %}}'


@pytest.fixture
def rendered(tmp_path):
    """Return a function: the page around a template's text, made with ``value``."""

    def rendered(text, **values):
        (tmp_path / "one.html.jinja").write_text(PAGE.format(text))
        return render(tmp_path / "one.html.jinja", **values)

    return rendered


def test_render__values_are_text(rendered):
    page = rendered("<p title='{{ value }}'>{{ value }}{{ number }}</p>", value="<i>\"'&\x00", number="<b>")
    assert "<p title='&lt;i&gt;&#34;&#39;&amp;\ufffd'>&lt;i&gt;&#34;&#39;&amp;\ufffd&lt;b&gt;</p>" in page


@pytest.mark.parametrize("use", ["percent", "fixed(2)", "signed", "grouped", "whole", "short"])
@pytest.mark.parametrize("value", ["<b>", "5", [5]])
def test_render__refuses_a_number_that_is_none(rendered, use, value):
    with pytest.raises(ValueError, match="a page shows a number, but got "):
        rendered(f"{{{{ value|{use} }}}}", value=value)


def test_render__refuses_a_name_that_stands_for_nothing(rendered):
    with pytest.raises(jinja2.UndefinedError, match="'absent' is undefined"):
        rendered("{{ absent }}")


@pytest.mark.parametrize("value, low, high, place", [(5, 0, 10, "50.00%"), (2, 1, 4, "33.33%"), (0.0, 0, 1, "0.00%")])
def test_place__percent_of_the_way(rendered, value, low, high, place):
    assert f"<p>{place}</p>" in rendered("<p>{{ value|place(low, high) }}</p>", value=value, low=low, high=high)


def test_page__policy_names_its_own_style_and_script(rendered):
    page = rendered("x")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', page)
    hashes = {
        kind: base64.b64encode(hashlib.sha256(re.search(f"<{kind}>(.*?)</{kind}>", page, re.S)[1].encode()).digest())
        for kind in ("style", "script")
    }
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{hashes['style'].decode()}'",
        f"script-src 'sha256-{hashes['script'].decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_page__policy_holds_where_escaping_fails(rendered, browser, tmp_path):
    """The second wall alone: tags that came in after all do nothing, because the policy does not know them."""
    foreign = (
        "<script>window.hit=1</script><img src=x onerror=window.hit=1><base href=http://host.invalid>"
        "<style>p { color: rgb(1, 2, 3) }</style><p style='color: rgb(1, 2, 3)'>x</p><img src=http://host.invalid/a.png>"
        "<iframe srcdoc='<script>parent.hit=1</script>'></iframe><a href=javascript:window.hit=1>x</a>"
    )
    path = tmp_path / "page.html"
    path.write_text(rendered("{{ x }}", x="MARK").replace("MARK", foreign))
    browser.open(path, 1400)
    browser.evaluate("document.links[0].click()")
    assert browser.evaluate("typeof window.hit") == "undefined"
    assert browser.evaluate("getComputedStyle(document.querySelector('p')).color") == "rgb(28, 32, 36)"
    assert browser.evaluate("document.baseURI") == path.as_uri()
    blocked = [event for event in browser.events if event["method"] == "Network.loadingFailed"]
    asked = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {event["params"].get("blockedReason") for event in blocked} <= {"csp"}
    assert len(asked) - len(blocked) <= 2  # the page and its icon


def test_package__holds_what_its_pages_are_made_of():
    """Every file beside the modules of an installed package is data that pyproject.toml names."""
    patterns = re.search(r'package-data\]\n"\*" = \[(.*)\]', (ROOT / "pyproject.toml").read_text())[1]
    patterns = [pattern.strip('" ') for pattern in patterns.split(",")]
    files = [path for name in ("pretrain", "detection") for path in (ROOT / name).rglob("*.*") if path.is_file()]
    others = [path for path in files if path.suffix not in (".py", ".pyc", ".md")]
    assert {"page.css", "page.js", "report.html.jinja"} <= {path.name for path in others}
    assert not [path for path in others if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
