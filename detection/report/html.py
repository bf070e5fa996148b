"""report.json as one HTML page, by ``report.html.jinja``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.report.charts import ScatterChart, line_chart, precision_recall_chart, scatter_chart
from detection.report.illustrations import Illustration
from detection.report.markdown import COCO_RULES, COCO_WORDS, interval_in_words, protocol_rows, rules_in_words
from detection.report.templates import render

MAX_CONFUSIONS = 20  # shown, the most frequent ones
MAX_MATRIX = 24  # classes, of which a matrix can still be looked at
WRONG = ("localisation", "confusion", "duplicate", "background")  # detections; missed objects are counted beside them


def render_html(report: Mapping[str, Any], illustrations: Mapping[str, Sequence[Illustration]]) -> str:
    """Return the page for ``report``, the content of report.json, with its ``worst`` and ``best`` pictures."""
    errors, training = report["errors"], report["training"] or {}
    protocol, other_settings = protocol_rows(report["protocol"])
    confused = [pair for pair in report["confusions"] if pair["object"] != pair["detected"]]
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
        illustrations={name: shown for name, shown in illustrations.items() if name != "doubts"},
        doubts=illustrations.get("doubts", ()),
        confused=sorted(
            (pair for pair in confused if pair["object"] and pair["detected"]), key=lambda pair: -pair["count"]
        )[:MAX_CONFUSIONS],
        matrix=confusion_matrix(report) if len(report["classes"]) <= MAX_MATRIX else None,
        by_objects=objects_chart(report),
        training={name: line_chart(curve["iteration"], curve["value"]) for name, curve in training.items()},
        protocol=protocol,
        other_settings=other_settings,
        machine=json.dumps(machine, indent=1),
    )


def confusion_matrix(report: Mapping[str, Any]) -> list[tuple[str | None, list[tuple[int, float]]]]:
    """Return a row for each class and the background: its name, and (count, share of the row 0..1) for each column."""
    names = [*report["classes"], None]
    counts = {(pair["object"], pair["detected"]): pair["count"] for pair in report["confusions"]}
    rows = []
    for name in names:
        row = [counts.get((name, other), 0) for other in names]
        rows.append((name, [(count, count / max(sum(row), 1)) for count in row]))
    return rows


def objects_chart(report: Mapping[str, Any]) -> ScatterChart | None:
    """Return AP50 (11 points) of the classes over their objects in training; None where these are not known."""
    counts = report["training_objects"]
    if counts is None:
        return None
    points = [
        (name, counts.get(name, 0), value) for name, value in report["voc07"]["per_class"].items() if value is not None
    ]
    return scatter_chart(points)
