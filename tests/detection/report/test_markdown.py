"""What a value becomes in Markdown: itself, whatever CommonMark would make of it."""

import os

import pytest

from detection.report.markdown import address, inert, linked, paragraph, plain, printable, table


@pytest.mark.parametrize(
    "value, text",
    [
        ("voc_2007_test", "voc_2007_test"),  # no emphasis inside a word
        ("_a_ __b__", r"\_a\_ \_\_b\_\_"),
        ("*a* `b`", r"\*a\* \`b\`"),
        ("C:\\x", r"C:\\x"),
        ("[33000]", "[33000]"),
        ("[a](b) ![c](d)", r"[a\](b) ![c\](d)"),
        ("a\r\nb\u2028c", "a b c"),
        ("-", "-"),
        ("77.00 +- 1.00 (3)", "77.00 +- 1.00 (3)"),
    ],
)
def test_plain__escapes_what_would_act(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    "value, text",
    [
        ("  # a", r"\# a"),
        ("- a", r"\- a"),
        ("+ a", r"\+ a"),
        ("> a", r"\> a"),
        ("1. a", r"1\. a"),
        ("12) a", r"12\) a"),
        ("1.5 a", "1.5 a"),
        ("---", r"\---"),
        ("~~~", r"\~~~"),
        ("[x]: y", r"\[x\]: y"),
        ("Two words.", "Two words."),
    ],
)
def test_paragraph__begins_nothing_else(value, text):
    assert paragraph(value) == text


def test_linked__brackets_of_a_name_end_no_link():
    assert linked("a](b) [c]", "d/e f") == r"[a\](b) \[c\]](d/e%20f)"
    assert linked("_a", None) == linked("_a", "") == r"\_a"


def test_table__escapes_values_and_leaves_links():
    lines = table([("a|b", "*c*"), (linked("d|e", "f"), "g\nh")])
    assert lines == [r"| a\|b      | \*c\* |", "| --------- | ----: |", r"| [d\|e](f) | g h   |"]


@pytest.mark.parametrize(
    "path, url",
    [
        ("runs/seed 0/report.html", "runs/seed%200/report.html"),
        ("../a/b", "../a/b"),
        ("/a/b", "/a/b"),
        ("//host.invalid/a", "/host.invalid/a"),
        ("\\\\host.invalid\\a", "%5C%5Chost.invalid%5Ca"),
        ("javascript:window.hit=1", "javascript%3Awindow.hit%3D1"),
        ("data:text/html,a", "data%3Atext/html%2Ca"),
        ("http://host.invalid/a?b#c", "http%3A//host.invalid/a%3Fb%23c"),
        ("a)\n\"'<>", "a%29%0A%22%27%3C%3E"),
        (os.fsdecode(b"caf\xe9"), "caf%E9"),  # a file name of another encoding
        ("a\ud800", "a%EF%BF%BD"),  # no file name
    ],
)
def test_address__is_a_path(path, url):
    assert address(path) == url


def test_inert__no_tag_no_entity_nothing_unseen():
    assert (
        inert(["a <b> &amp; & c", "d\x1b[31m\u202ee\ud800\tf"]) == "a &lt;b> &amp;amp; & c\nd\ufffd[31m\ufffde\ufffd\tf"
    )


def test_printable__leaves_what_writing_needs():
    text = "tab\t, line\n, \u05d0\u200f, e\u0301, \U0001f600, \u200d"
    assert printable(text) == text
