"""The report of one set of detections: ``report.json`` first, then Markdown and HTML rendered from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.average_precision import precision_recall
from detection.evaluation.coco import coco_evaluator, evaluate_coco
from detection.evaluation.detections import PictureDetections
from detection.evaluation.diagnosis.breakdown import break_down_errors, break_down_sizes
from detection.evaluation.diagnosis.calibration import measure_calibration
from detection.evaluation.diagnosis.confusion import count_confusions, score_thresholds
from detection.evaluation.diagnosis.label_errors import suspect_labels
from detection.evaluation.diagnosis.pictures import count_pictures, rank_pictures
from detection.evaluation.intervals import confidence
from detection.evaluation.matching import Matches, Rules, match_detections
from detection.evaluation.resampling import NUM_RESAMPLES
from detection.evaluation.results import write_coco_results
from detection.evaluation.voc import average_precisions
from detection.report.html import render_html
from detection.report.illustrations import illustrate_all, illustrate_doubt
from detection.report.markdown import render_markdown
from detection.report.training_curves import read_training
from pretrain.run.files import atomic_write
from pretrain.run.run_folder import package_versions

COCO_HEADLINE = ("AP50", "AP75", "APs", "APm", "APl", "AR100")  # beside AP
NUM_PICTURES = 8  # shown of the worst, and of the best
NUM_DOUBTS = 12  # pictures shown with labels that may be wrong
MAX_CURVE_POINTS = 200


def write_report(
    dataset: DetectionDataset,
    detections: Mapping[str, PictureDetections],
    output_dir: Path | str,
    protocol: Mapping[str, Any],
    *,
    rules: Rules = "standard",
    run_folder: Path | str | None = None,
    training_objects: Mapping[str, int] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate ``detections`` and write report.json, report.md and report.html into ``output_dir`` (made if absent).

    Of a data set in COCO's format, ``write_coco_results`` writes the detections there, too.

    Pictures without detections count as empty. Each file is replaced whole or not at all, and report.json before any
    picture is drawn: one that cannot be costs a warning and its place on the page.

    Args:
        protocol: what made the detections (method, weights and their card, engine, config, seed, command: plain JSON
            values). It stands in the report as it is, beside the protocol of the evaluation itself.
        run_folder: where ``metrics.json`` of the training lies, for its curves.
        training_objects: class -> how many objects of it the detector was trained on, where that is known.
        num_resamples, seed: of the random halves of the pictures behind the intervals.

    Returns the content of report.json.

    Raises:
        ValueError: detections that cannot be evaluated, no ground truth, or a protocol that JSON cannot hold.
    """
    matches = match_detections(dataset, detections, rules=rules)
    thresholds = score_thresholds(matches)
    ranked = rank_pictures(dataset, count_pictures(dataset, matches, thresholds))
    worst = [entry for entry in ranked if entry["f1"] < 1][:NUM_PICTURES]
    best = ranked[len(worst) :][: -NUM_PICTURES - 1 : -1]
    report = {
        "dataset": dataset.name,
        "format": dataset.format,
        "num_images": len(dataset.pictures),
        "classes": list(dataset.classes),
        **_without_nan(average_precisions(dataset, matches)),
        "coco": evaluate_coco(dataset, detections),
        "protocol": {
            **protocol,
            "image_set": dataset.image_set,
            "evaluation_rules": rules,
            "versions": {
                **protocol.get("versions", {}),
                **package_versions(("python", "numpy", coco_evaluator().name)),
            },
        },
        "num_objects": dict(zip(dataset.classes, matches.truth.num_positives.tolist(), strict=True)),
        "num_detections": len(matches.scores),
        "confidence": confidence(dataset, matches, num_resamples=num_resamples, seed=seed),
        "curves": _curves(dataset, matches),
        "errors": break_down_errors(dataset, matches),
        "sizes": break_down_sizes(matches),
        "calibration": measure_calibration(dataset, matches),
        "confusions": count_confusions(dataset, matches, thresholds),
        "label_errors": suspect_labels(dataset, matches, thresholds),
        "training_objects": None if training_objects is None else dict(training_objects),
        "pictures": {"worst": worst, "best": best},
        "training": read_training(run_folder) if run_folder is not None else None,
    }
    try:
        content = json.dumps(report, indent=2, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the protocol must hold plain JSON values: {error}") from None
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write(output_dir / "report.json", content + "\n")
    _write(output_dir / "report.md", render_markdown(report))
    if dataset.format == "coco":
        write_coco_results(dataset, detections, output_dir)
    illustrations = illustrate_all(dataset, matches, thresholds, report["pictures"])
    illustrations["doubts"] = [
        illustrate_doubt(dataset, entry) for entry in report["label_errors"]["listed"][:NUM_DOUBTS]
    ]
    _write(output_dir / "report.html", render_html(report, illustrations))
    return report


def _write(path: Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def headline(report: Mapping[str, Any]) -> str:
    """Return the main numbers on one line, with the metric that each one is: COCO's of data in its format."""
    voc07, voc10, coco = report["voc07"], report["voc10"], report["coco"]
    if report["format"] == "coco":
        scored = sum(value is not None for value in coco["per_class"].values())
        others = ", ".join(f"{name} {_percent(coco[name])}" for name in COCO_HEADLINE)
        return (
            f"{report['dataset']}: COCO AP {_percent(coco['AP'])} (IoU .50:.95), {others}, "
            f"over {scored} of {len(report['classes'])} classes and {report['num_images']} pictures"
        )
    return (
        f"{report['dataset']}: mAP {_percent(voc07['AP50'])} (VOC2007, 11 points, IoU .5), "
        f"{_percent(voc10['AP50'])} (area, IoU .5), {_percent(voc10['AP'])} (area, IoU .50:.95), "
        f"over {voc07['num_classes_scored']} of {len(report['classes'])} classes and {report['num_images']} pictures"
    )


def _curves(dataset: DetectionDataset, matches: Matches) -> dict[str, dict[str, list[float]] | None]:
    """Return recall and precision (0..1) at IoU .5 after right detections, thinned out; None without ground truth."""
    outcomes = matches.outcomes(0.5)
    result: dict[str, dict[str, list[float]] | None] = {}
    for label, name in enumerate(dataset.classes):
        num_positives = matches.truth.num_positives[label]
        if not num_positives:
            result[name] = None
            continue
        recall, precision = precision_recall(outcomes[matches.of_class(label)], num_positives)
        kept = np.unique(np.linspace(0, max(len(recall) - 1, 0), MAX_CURVE_POINTS).round().astype(int))[: len(recall)]
        result[name] = {"recall": recall[kept].round(5).tolist(), "precision": precision[kept].round(5).tolist()}
    return result


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _without_nan(value: Any) -> Any:
    """Return ``value`` with None for NaN, which only Detectron2's rules give and JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if value != value else value
