"""report.json as one HTML page, by ``report.html.jinja``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.report.charts import line_chart, precision_recall_chart
from detection.report.illustrations import Illustration
from detection.report.markdown import COCO_RULES, COCO_WORDS, interval_in_words, protocol_rows, rules_in_words
from detection.report.templates import render

WRONG = ("localisation", "confusion", "duplicate", "background")  # detections; missed objects are counted beside them


def render_html(report: Mapping[str, Any], illustrations: Mapping[str, Sequence[Illustration]]) -> str:
    """Return the page for ``report``, the content of report.json, with its ``worst`` and ``best`` pictures."""
    errors, training = report["errors"], report["training"] or {}
    protocol, other_settings = protocol_rows(report["protocol"])
    machine = {key: report[key] for key in ("dataset", "format", "num_images", "voc07", "voc10", "coco", "protocol")}
    return render(
        Path(__file__).with_name("report.html.jinja"),
        report=report,
        rules=rules_in_words(report["protocol"]["evaluation_rules"]),
        between=interval_in_words(report["confidence"]),
        coco_words=COCO_WORDS,
        coco_rules=COCO_RULES,
        curves={
            name: precision_recall_chart(curve["recall"], curve["precision"])
            for name, curve in report["curves"].items()
            if curve is not None
        },
        wrong_counts={kind: errors[kind]["count"] for kind in WRONG},
        wrong_by_class={
            name: {kind: errors[kind]["per_class"][name] for kind in WRONG}
            for name, objects in report["num_objects"].items()
            if objects
        },
        illustrations=illustrations,
        training={name: line_chart(curve["iteration"], curve["value"]) for name, curve in training.items()},
        protocol=protocol,
        other_settings=other_settings,
        machine=json.dumps(machine, indent=1),
    )
