"""report.json as one HTML page: no network, no script needed to read it, light and dark, phone and paper."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from detection.report_markdown import flatten, percent

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d8dee4; --page: #ffffff; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #343b44; --page: #14171b; --bar: #6f9fe0; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.headline { font-size: 3rem; font-weight: 650; line-height: 1.1; font-variant-numeric: tabular-nums; }
.soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; } td.text { overflow-wrap: anywhere; }
.bar { height: .7rem; min-width: 1px; border-radius: 2px; background: var(--bar); }
td.graph { width: 45%; vertical-align: middle; }
"""


def render_html(report: Mapping[str, Any]) -> str:
    """Return the page for ``report``, the content of report.json."""
    scored, classes = report["voc07"]["num_classes_scored"], report["classes"]
    parts = {"VOC2007 (11 points)": report["voc07"], "VOC2010 on (area)": report["voc10"], "COCO": report["coco"]}
    summary = "".join(_row(name, *(part[key] for key in ("AP", "AP50", "AP75"))) for name, part in parts.items())
    per_class = "".join(_class_row(report, name) for name in classes)
    protocol = "".join(
        f'<tr><td>{escape(key)}</td><td class="text">{escape(value)}</td></tr>'
        for key, value in flatten(report["protocol"])
    )
    title = f"Detection report: {escape(report['dataset'])}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<div class="headline">{percent(report["voc07"]["AP50"])}</div>
<p class="soft">mAP in percent: VOC2007 metric (11 points), IoU 0.5, over {scored} of {len(classes)} classes
and {report["num_images"]} pictures. A class without ground truth has no AP.</p>
<table>
<thead><tr><th>Metric</th><th class="number">AP</th><th class="number">AP50</th>
<th class="number">AP75</th></tr></thead>
<tbody>{summary}</tbody>
</table>
<h2>Classes</h2>
<table>
<thead><tr><th>Class</th><th class="number">AP50 (11 points)</th><th></th>
<th class="number">AP50 (area)</th></tr></thead>
<tbody>{per_class}</tbody>
</table>
<h2>Protocol</h2>
<table><tbody>{protocol}</tbody></table>
</body>
</html>
"""


def _row(name: str, *values: float | None) -> str:
    numbers = "".join(f'<td class="number">{percent(value)}</td>' for value in values)
    return f"<tr><td>{escape(name)}</td>{numbers}</tr>"


def _class_row(report: Mapping[str, Any], name: str) -> str:
    points, area = (report[key]["per_class"][name] for key in ("voc07", "voc10"))
    bar = "" if points is None else f'<div class="bar" style="width:{points:.1f}%"></div>'
    return (
        f'<tr><td>{escape(name)}</td><td class="number">{percent(points)}</td><td class="graph">{bar}</td>'
        f'<td class="number">{percent(area)}</td></tr>'
    )
