"""report.json as Markdown, for a terminal, a pull request or a notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import shorten
from typing import Any
from urllib.parse import quote

from detection.evaluation.intervals import COVERAGE, COVERAGE_OF_CLASS, MIN_PICTURES
from detection.evaluation.matching import RULES, Rules
from detection.evaluation.protocol import MAIN_KEYS

# Control characters but the tab and line ends; overrides and isolates of the direction, with which a name rearranges
# the words after it; surrogates, which UTF-8 does not have (a file name that is no UTF-8 brings them in).
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What CommonMark acts on within a line (an underscore inside a word is none, nor are brackets that no address or colon
# follows), within the text of a link, and where a paragraph begins.
ACTIVE = re.compile(r"[\\`*]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
ACTIVE_IN_LINK = re.compile(rf"{ACTIVE.pattern}|[\[\]]")
START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[#>+=|~\[-]))")
NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")  # halves of characters that stand for no byte of a file's name
CLASS_COLUMNS = {"voc07": "AP50 (11 points)", "voc10": "AP50 (area)", "coco": "COCO AP"}
COCO_WORDS = {  # what sets each of COCO's numbers apart
    "AP": "IoU .50 to .95", "AP50": "IoU .50", "AP75": "IoU .75",
    "APs": "up to 32\u00b2", "APm": "32\u00b2 to 96\u00b2", "APl": "from 96\u00b2",
    "AR1": "1 detection", "AR10": "10 detections", "AR100": "100 detections",
    "ARs": "up to 32\u00b2", "ARm": "32\u00b2 to 96\u00b2", "ARl": "from 96\u00b2",
}  # fmt: skip
COCO_RULES = (
    "AR is recall over IoU .50 to .95, with that many detections of a class in a picture, else 100. Small, medium and "
    "large objects (s, m, l) are told by their area in pixels; one on a bound is of both sizes."
)
SHOWN = 10  # of the confusions, and of the labels to look at
LONG_TEXT = 200  # characters of a protocol entry; report.json has the rest


def render_markdown(report: Mapping[str, Any]) -> str:
    """Return the page for ``report``, the content of report.json."""
    scored, classes = report["voc07"]["num_classes_scored"], report["classes"]
    own = ["coco", "voc07", "voc10"] if report["format"] == "coco" else ["voc07", "voc10", "coco"]
    per_class = [("class", *(CLASS_COLUMNS[key] for key in own))]
    per_class += [(name, *(percent(report[key]["per_class"][name]) for key in own)) for name in classes]
    errors = [("error", "count", "gain in mAP")]
    errors += [(name, str(part["count"]), f"{part['gain']:+.2f}") for name, part in report["errors"].items()]
    sizes = [("objects", "number", "found, %", "AP50 (11 points)", "AP50 (area)")]
    sizes += [
        (name, str(part["objects"]), *(percent(part[key]) for key in ("found", "voc07", "voc10")))
        for name, part in report["sizes"].items()
    ]
    protocol, settings = (
        table([("", ""), *((key, shorten(value, LONG_TEXT)) for key, value in rows)]) if rows else []
        for rows in protocol_rows(report["protocol"])
    )
    return inert(
        [
            f"# Detection report: {plain(report['dataset'])}",
            "",
            f"{report['num_images']} pictures. Means run over {scored} of {len(classes)} classes; "
            "a class without ground truth has no AP. AP in percent.",
            "",
            *(_coco(report) + _voc(report) if own[0] == "coco" else _voc(report) + _coco(report)),
            "## Classes",
            "",
            *table(per_class),
            "",
            "## Errors",
            "",
            *table(errors),
            "",
            "## Sizes",
            "",
            *table(sizes),
            "",
            *_diagnoses(report),
            "## Protocol",
            "",
            *protocol,
            "",
            *(["## All other settings", "", *settings, ""] if settings else []),
        ]
    )


def _coco(report: Mapping[str, Any]) -> list[str]:
    """Return the section about COCO's numbers."""
    rows = [("COCO", "", "%"), *((name, what, percent(report["coco"][name])) for name, what in COCO_WORDS.items())]
    return ["## COCO", "", *table(rows), "", COCO_RULES, ""]


def _voc(report: Mapping[str, Any]) -> list[str]:
    """Return the section about the VOC metrics: their rules and means, and how sure mAP is."""
    summary = [("metric", "AP", "AP50", "AP75")]
    for name, key in (("VOC2007 (11 points)", "voc07"), ("VOC2010 on (area)", "voc10")):
        summary.append((name, *(percent(report[key][number]) for number in ("AP", "AP50", "AP75"))))
    return [
        "## VOC metrics",
        "",
        rules_in_words(report["protocol"]["evaluation_rules"]),
        "",
        *table(summary),
        "",
        f"mAP by VOC2007 at IoU .5 is {percent(report['voc07']['AP50'])}.",
        plain(interval_in_words(report["confidence"])),
        "",
    ]


def _diagnoses(report: Mapping[str, Any]) -> list[str]:
    """Return the sections about calibration, confusions and doubted labels; the first few of the last two."""
    calibration, doubts = report["calibration"], report["label_errors"]
    confused = [pair for pair in report["confusions"] if pair["object"] and pair["detected"]]
    confused = [pair for pair in confused if pair["object"] != pair["detected"]]
    confused.sort(key=lambda pair: -pair["count"])
    pairs = [("object", "taken for", "count")]
    pairs += [(pair["object"], pair["detected"], str(pair["count"])) for pair in confused[:SHOWN]]
    labels = [("detected", "score", "labelled", "picture", "annotation")]
    labels += [
        (
            one["detected"],
            f"{one['score']:.2f}",
            one["labelled"] or "not",
            one["image_id"],
            place_in_words(one),
        )
        for one in doubts["listed"][:SHOWN]
    ]
    return [
        "## Calibration",
        "",
        f"Expected calibration error {percent(calibration['ece'])} points, {percent(calibration['mce'])} in the worst "
        "of ten bins: how far the scores are from the share of detections that is right at IoU .5.",
        "",
        *(["## Confusions", "", *table(pairs), ""] if confused else []),
        *([f"## Labels to look at ({doubts['count']})", "", *table(labels), ""] if doubts["count"] else []),
    ]


def place_in_words(entry: Mapping[str, Any]) -> str:
    """Return the annotation's file and, if that is known, where in it the object of an entry stands."""
    return ", ".join(filter(None, (entry["annotation"], entry["place"])))


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD for what no reader sees: controls, halves of characters, turns of the direction."""
    return UNSEEN.sub("\ufffd", text)


def inert(lines: list[str]) -> str:
    """Return ``lines`` as Markdown in which names are only names: nothing in it is a tag or an entity of HTML."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", printable("\n".join(lines)))
    return text.replace("<", "&lt;")


class Markdown(str):
    """Markdown that is to act as such, where any other text is a value and is escaped."""


def plain(text: str, active: re.Pattern[str] = ACTIVE) -> str:
    """Return a value as part of a line of Markdown in which it is what it is: no emphasis, no code, no link."""
    return active.sub(r"\\\g<0>", " ".join(text.splitlines()))


def paragraph(text: str) -> str:
    """Return a value as a paragraph or an item of a list: ``plain``, and no heading, list or quotation either."""
    return START.sub(r"\1\\", plain(text).strip())


def bold(text: str) -> Markdown:
    """Return ``text`` in bold."""
    return Markdown(f"**{plain(text)}**")


def linked(text: str, path: str | None) -> Markdown:
    """Return a link to ``path``, which is relative to the page; the text alone where there is none."""
    return Markdown(f"[{plain(text, ACTIVE_IN_LINK)}]({address(path)})" if path else plain(text))


def address(path: str) -> str:
    """Return the URL of ``path``, which is relative to the page or absolute, and never of another host or scheme."""
    return quote(re.sub("^/+", "/", NO_BYTE.sub("\ufffd", path)), errors="surrogateescape")


def interval_in_words(confidence: Mapping[str, Any]) -> str:
    """Return the interval of a report's mAP (11 points) in sentences: what it is about, how it is made, how sure."""
    interval = confidence["voc07"]["AP50"]
    if interval is None:
        return f"No interval: {confidence['reasons']['voc07']['AP50']}."
    return (
        f"{confidence['level']} % interval {interval[0]:.2f} to {interval[1]:.2f}, for {confidence['target']} "
        f"({confidence['method']}: {confidence['resamples']:,} of them). In simulations (tools/simulate_intervals.py) "
        f"such intervals held in {COVERAGE} of the cases, those of a class in {COVERAGE_OF_CLASS}; "
        f"a class with objects in fewer than {MIN_PICTURES} pictures has none."
    )


def protocol_rows(protocol: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return ``flatten`` of a report's protocol in two parts: what is shown first, and the other settings."""
    shown, others = dict(protocol), {}
    for part, main in MAIN_KEYS.items():
        settings = protocol.get(part)
        if isinstance(settings, Mapping):
            shown[part] = {key: value for key, value in settings.items() if key in main}
            others[part] = {key: value for key, value in settings.items() if key not in main}
    return flatten(shown), flatten(others)


def rules_in_words(rules: Rules) -> str:
    """Return a sentence that names ``rules`` and says what they are."""
    return f"Rules: {rules} ({RULES[rules]})."


def percent(value: float | None) -> str:
    """Return an AP in percent with two digits, a dash for None."""
    return "-" if value is None else f"{value:.2f}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested mappings as (dotted key, text), a dash for None."""
    rows = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += flatten(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "-" if item is None else str(item)))
    return rows


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table of values and links; its first row is its head, numbers are aligned to the right."""
    cells = [
        [(cell if isinstance(cell, Markdown) else plain(cell)).replace("|", "\\|") for cell in row] for row in rows
    ]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [cells[0], rule, *cells[1:]]
    return ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
