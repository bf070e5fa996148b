"""report.json as one HTML page: no network, no script needed to read it, light and dark, phone and paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detection.evaluation.bootstrap import COVERAGE
from detection.report.assets import SCRIPT, STYLE
from detection.report.charts import line_chart, precision_recall_chart
from detection.report.illustrations import Illustration, data_uri
from detection.report.markdown import address, percent, protocol_rows, rules_in_words

LONG_TEXT = 200  # characters; a protocol entry beyond it is folded away

ERRORS = {
    "localisation": "Overlaps its object, but not enough (IoU .1 to .5)",
    "confusion": "Overlaps an object of another class",
    "duplicate": "Finds an object that a surer detection has found",
    "background": "Overlaps no object",
    "missed": "Objects that no detection finds",
}
METRIC_TITLES = {"voc07": "VOC2007, 11 points", "voc10": "VOC2010 on, area", "coco": "COCO"}
BOXES = {"right": "right", "wrong": "wrong", "missed": "missed object", "difficult": "difficult object (not scored)"}


def render_html(report: Mapping[str, Any], illustrations: Mapping[str, Sequence[Illustration]]) -> str:
    """Return the page for ``report``, the content of report.json, with its ``worst`` and ``best`` pictures."""
    sections = [
        _head(report),
        _classes(report),
        _curves(report),
        _errors(report),
        _sizes(report),
        _pictures(illustrations),
        _training(report),
        _protocol(report),
    ]
    return page(f"Detection report: {report['dataset']}", "\n".join(sections))


def page(title: str, body: str, style: str = "") -> str:
    """Return a complete page around ``body``, with ``style`` after the rules that all pages share.

    Its policy forbids the browser every request.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def sortable(name: str, *, number: bool = True, attributes: str = "") -> str:
    """Return the head of a column that sorts its table when pressed."""
    kind = ' class="number"' if number and not attributes else ""
    numeric = " data-numeric" if number else ""
    return f'<th{kind}{attributes}><button type="button"{numeric}>{escape(name)}</button></th>'


def number_cell(value: float | None, interval: Sequence[float] | None = None, attributes: str = "") -> str:
    """Return a cell with an AP and, beneath, its interval."""
    below = f'<span class="range">{interval[0]:.1f} to {interval[1]:.1f}</span>' if interval else ""
    sort = "" if value is None else repr(value)
    return f'<td class="number{attributes}" data-value="{sort}">{percent(value)}{below}</td>'


def link(text: str, path: str) -> str:
    """Return a link to ``path``, which is relative to the page."""
    return f'<a href="{escape(address(path))}">{escape(text)}</a>'


def _head(report: Mapping[str, Any]) -> str:
    voc07, confidence = report["voc07"], report["confidence"]
    interval = confidence["voc07"]["AP50"]
    between = (
        f"{confidence['level']} % interval {interval[0]:.2f} to {interval[1]:.2f}, from {confidence['resamples']:,} "
        f"resamples of the pictures; approximate: in simulations such intervals held in {COVERAGE} of the cases"
        if interval
        else ""
    )
    rows = "".join(
        f"<tr><th>{text}</th>"
        + "".join(
            number_cell(report[key][column], confidence.get(key, {}).get(column)) for column in ("AP", "AP50", "AP75")
        )
        + "</tr>"
        for key, text in METRIC_TITLES.items()
    )
    method = report["protocol"].get("method")
    title = f"{escape(str(method))} on {escape(report['dataset'])}" if method else escape(report["dataset"])
    return f"""<header>
<div class="eyebrow">Detection report</div>
<h1>{title}</h1>
<div class="soft">{report["num_images"]:,} pictures, {sum(report["num_objects"].values()):,} objects,
{report["num_detections"]:,} detections;
means over {voc07["num_classes_scored"]} of {len(report["classes"])} classes.
{escape(rules_in_words(report["protocol"]["evaluation_rules"]))}</div>
</header>
<div class="hero">
<div class="card">
<div class="soft">mAP at IoU .5, 11 points (VOC2007)</div>
<div class="big">{percent(voc07["AP50"])}<small>%</small></div>
<div class="note">{between}</div>
</div>
<div class="card"><div class="scroll"><table>
<thead><tr><th>Metric</th><th class="number">AP<span class="range">IoU .50 to .95</span></th>
<th class="number">AP50</th><th class="number">AP75</th></tr></thead>
<tbody>{rows}</tbody>
</table></div></div>
</div>"""


def _classes(report: Mapping[str, Any]) -> str:
    rows = []
    for name in report["classes"]:
        points, area = (report[key]["per_class"][name] for key in ("voc07", "voc10"))
        interval = report["confidence"]["voc07"]["per_class"][name]
        rows.append(
            f'<tr><th class="text">{escape(name)}</th><td class="number">{report["num_objects"][name]:,}</td>'
            f'{number_cell(points)}<td class="bars">{_bar(points, interval)}</td>'
            f"{number_cell(area, attributes=' wide')}</tr>"
        )
    return f"""<section id="classes">
<h2>Classes</h2>
<p class="note">AP at IoU .5. The dark line in a bar is the interval; a class without ground truth has no AP and is not
part of the mean. Press a column's name to sort.</p>
<div class="card"><div class="scroll"><table>
<thead><tr>{sortable("Class", number=False)}{sortable("Objects")}{sortable("11 points")}<th class="bars"></th>
{sortable("Area", attributes=' class="number wide"')}</tr></thead>
<tbody>{"".join(rows)}</tbody>
</table></div></div>
</section>"""


def _bar(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    low, high = interval or (value, value)
    return (
        f'<div class="track"><i style="width:{min(value, 100):.2f}%"></i>'
        f'<b style="left:{low:.2f}%;width:{high - low:.2f}%"></b></div>'
    )


def _curves(report: Mapping[str, Any]) -> str:
    figures = []
    for name, curve in report["curves"].items():
        if curve is not None:
            title = f"Precision over recall of {name}"
            figures.append(
                f'<figure class="card">{precision_recall_chart(curve["recall"], curve["precision"], title)}'
                f"<figcaption><span>{escape(name)}</span>"
                f'<span class="soft">{percent(report["voc07"]["per_class"][name])}</span></figcaption></figure>'
            )
    return f"""<section id="curves">
<h2>Precision and recall</h2>
<p class="note">Precision (upwards) over recall (to the right), both from 0 to 1, at IoU .5, as the score falls. Where a
curve ends, the detector has no more detections that are right.</p>
<div class="curves">{"".join(figures)}</div>
</section>"""


def _errors(report: Mapping[str, Any]) -> str:
    errors = report["errors"]
    wrong = [name for name in ERRORS if name != "missed"]
    rows = "".join(
        f'<tr><th><span class="dot {name}"></span>{name.capitalize()}</th><td class="wide soft">{text}</td>'
        f'<td class="number">{errors[name]["count"]:,}</td><td class="number">{errors[name]["gain"]:+.2f}</td></tr>'
        for name, text in ERRORS.items()
    )
    by_class = "".join(
        f'<tr><th class="text">{escape(name)}</th>'
        f'<td class="bars">{_stack({kind: errors[kind]["per_class"][name] for kind in wrong}, " thin")}</td>'
        + "".join(f'<td class="number wide">{errors[kind]["per_class"][name]:,}</td>' for kind in wrong)
        + f'<td class="number">{errors["missed"]["per_class"][name]:,}</td></tr>'
        for name, objects in report["num_objects"].items()
        if objects
    )
    heads = "".join(sortable(kind.capitalize(), attributes=' class="number wide"') for kind in wrong)
    return f"""<section id="errors">
<h2>Errors</h2>
<p class="note">Wrong detections among each class's surest, as many as it has objects, and missed objects. Gain: the
points of mAP (11 points, IoU .5) to be won if no error of this kind were made. Gains do not add up.</p>
<div class="card">
{_stack({kind: errors[kind]["count"] for kind in wrong})}
<div class="scroll" style="margin-top:1rem"><table>
<thead><tr><th>Kind</th><th class="wide"></th><th class="number">Count</th><th class="number">Gain</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>
<details style="margin-top:1rem"><summary>By class</summary>
<div class="scroll"><table>
<thead><tr>{sortable("Class", number=False)}<th class="bars"></th>{heads}{sortable("Missed")}</tr></thead>
<tbody>{by_class}</tbody></table></div></details>
</div>
</section>"""


def _stack(counts: Mapping[str, int], attributes: str = "") -> str:
    """Return a bar that is divided in the proportion of ``counts``."""
    parts = "".join(
        f'<i class="{name}" style="flex:{count}" title="{name}: {count:,}"></i>'
        for name, count in counts.items()
        if count
    )
    return f'<div class="stack{attributes}">{parts}</div>'


def _sizes(report: Mapping[str, Any]) -> str:
    rows = []
    for name, size in report["sizes"].items():
        low, high = size["area"]
        bounds = f"{round(low**0.5)}² to {round(high**0.5)}² pixels" if high else f"{round(low**0.5)}² pixels and more"
        rows.append(
            f'<tr><th>{name.capitalize()}<span class="range">{bounds}</span></th>'
            f'<td class="number">{size["objects"]:,}</td>{number_cell(size["found"])}{number_cell(size["voc07"])}'
            f'<td class="bars">{_bar(size["voc07"], None)}</td>{number_cell(size["voc10"], attributes=" wide")}</tr>'
        )
    return f"""<section id="sizes">
<h2>Sizes</h2>
<p class="note">AP at IoU .5 of objects by area, with COCO's bounds. Found: the share of the objects that any detection
finds, however unsure.</p>
<div class="card"><div class="scroll"><table>
<thead><tr><th>Objects</th><th class="number">Number</th><th class="number">Found, %</th>
<th class="number">11 points</th><th class="bars"></th><th class="number wide">Area</th></tr></thead>
<tbody>{"".join(rows)}</tbody>
</table></div></div>
</section>"""


def _pictures(illustrations: Mapping[str, Sequence[Illustration]]) -> str:
    if not any(illustrations.values()):
        return ""
    key = "".join(f'<span><span class="swatch {kind}"></span>{text}</span>' for kind, text in BOXES.items())
    groups = "".join(
        f'<h3>{name.capitalize()}</h3><div class="gallery">{"".join(map(_picture, shown))}</div>'
        for name, shown in illustrations.items()
        if shown
    )
    return f"""<section id="pictures">
<h2>Pictures</h2>
<p class="note">By F1 at IoU .5, with the detections from each class's best score on. Point at a box for its class and
score.</p>
<div class="key">{key}</div>
{groups}
</section>"""


def _picture(shown: Illustration) -> str:
    entry = shown.entry
    boxes = "".join(
        f'<rect class="box-{box.kind}" x="{box.left:.4f}" y="{box.top:.4f}" width="{box.width:.4f}" '
        f'height="{box.height:.4f}"><title>{escape(box.label)} ({BOXES[box.kind]})</title></rect>'
        for box in shown.boxes
    )
    name = escape(entry["image_id"])
    picture = (
        f'<img src="{data_uri(shown.jpeg)}" width="{shown.width}" height="{shown.height}" alt="picture {name}">'
        if shown.jpeg
        else f'<div class="absent" style="aspect-ratio:{shown.width}/{shown.height}">picture not at hand</div>'
    )
    counts = " ".join(f'<b class="ink-{kind}">{entry[kind]}</b> {kind}' for kind in ("right", "wrong", "missed"))
    return (
        f'<figure class="card"><div class="frame">{picture}'
        f'<svg viewBox="0 0 1 1" preserveAspectRatio="none">{boxes}</svg></div>'
        f'<figcaption><span>{name}</span><span class="soft">{counts}</span></figcaption></figure>'
    )


def _training(report: Mapping[str, Any]) -> str:
    if not report["training"]:
        return ""
    figures = "".join(
        f'<figure class="card" style="margin:0"><figcaption><span>{escape(name)}</span>'
        f'<span class="soft">{curve["value"][-1]:.4g} at the end</span></figcaption>'
        f"{line_chart(curve['iteration'], curve['value'], f'{name} over the iterations')}</figure>"
        for name, curve in report["training"].items()
    )
    return f"""<section id="training">
<h2>Training</h2>
<div class="columns">{figures}</div>
</section>"""


def _protocol(report: Mapping[str, Any]) -> str:
    shown, settings = (
        "".join(f"<dt>{escape(key)}</dt><dd>{_protocol_value(value)}</dd>" for key, value in rows)
        for rows in protocol_rows(report["protocol"])
    )
    others = f"<details><summary>All other settings</summary><dl>{settings}</dl></details>" if settings else ""
    machine = {key: report[key] for key in ("dataset", "num_images", "voc07", "voc10", "coco", "protocol")}
    return f"""<section id="protocol">
<h2>Protocol</h2>
<p class="note">What made these numbers. Everything on this page is in report.json, at full precision.</p>
<div class="card"><dl>{shown}</dl>{others}</div>
<details style="margin-top:1rem"><summary>As JSON</summary><pre>{escape(json.dumps(machine, indent=1))}</pre></details>
</section>"""


def _protocol_value(text: str) -> str:
    if len(text) <= LONG_TEXT:
        return escape(text)
    return f"<details><summary>{len(text):,} characters</summary><pre>{escape(text)}</pre></details>"
