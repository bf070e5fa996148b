"""The report of one set of detections: ``report.json`` first, then Markdown and HTML rendered from it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from detection.coco_ap import evaluate_coco
from detection.detections import PictureDetections
from detection.evaluation import evaluate_voc
from detection.matching import Rules
from detection.report_html import render_html
from detection.report_markdown import render_markdown
from detection.voc import VocDataset
from pretrain.checkpoint import atomic_write

VERSIONED = ("numpy", "pycocotools")  # what the numbers of the report are computed with


def write_report(
    dataset: VocDataset,
    detections: Mapping[str, PictureDetections],
    output_dir: Path | str,
    protocol: Mapping[str, Any],
    *,
    rules: Rules = "standard",
) -> dict[str, Any]:
    """Evaluate ``detections`` and write report.json, report.md and report.html into ``output_dir`` (made if absent).

    ``protocol`` says what made the detections (weights, engine, config, seed, command: plain JSON values); it stands in
    the report as it is, beside the protocol of the evaluation itself. Pictures without detections count as empty. Each
    file is replaced whole or not at all, and none before all three are complete.

    Returns the content of report.json.

    Raises:
        ValueError: detections that cannot be evaluated, no ground truth, or a protocol that JSON cannot hold.
    """
    report = build_report(dataset, detections, protocol, rules=rules)
    try:
        content = json.dumps(report, indent=2, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the protocol must hold plain JSON values: {error}") from None
    files = {"report.json": content + "\n", "report.md": render_markdown(report), "report.html": render_html(report)}
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with atomic_write(output_dir / name, "w") as file:
            file.write(text)
    return report


def build_report(
    dataset: VocDataset,
    detections: Mapping[str, PictureDetections],
    protocol: Mapping[str, Any],
    *,
    rules: Rules = "standard",
) -> dict[str, Any]:
    """Return the content of report.json; AP in percent, None where a class has no ground truth."""
    return {
        "dataset": dataset.name,
        "num_images": len(dataset.pictures),
        "classes": list(dataset.classes),
        **_without_nan(evaluate_voc(dataset, detections, rules=rules)),
        "coco": evaluate_coco(dataset, detections),
        "protocol": {
            **protocol,
            "image_set": dataset.image_set,
            "evaluation_rules": rules,
            "versions": {**_versions(), **protocol.get("versions", {})},
        },
    }


def headline(report: Mapping[str, Any]) -> str:
    """Return the main numbers on one line, with the metric that each one is."""
    voc07, voc10 = report["voc07"], report["voc10"]
    return (
        f"{report['dataset']}: mAP {_percent(voc07['AP50'])} (VOC2007, 11 points, IoU .5), "
        f"{_percent(voc10['AP50'])} (area, IoU .5), {_percent(voc10['AP'])} (area, IoU .50:.95), "
        f"over {voc07['num_classes_scored']} of {len(report['classes'])} classes and {report['num_images']} pictures"
    )


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _without_nan(value: Any) -> Any:
    """Return ``value`` with None for NaN, which only Detectron2's rules give and JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if value != value else value


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}
