"""VOC mAP of detections: 11-point (VOC2007) and area (VOC2010 on), per class and at full precision.

The rules are the devkit's: sides count both end pixels, difficult objects neither help nor hurt, a second detection of
an object is wrong. One choice is not: by default an IoU must exceed the threshold, as in py-faster-rcnn and Detectron2;
``rules="devkit"`` also takes one that equals it. ``detection.evaluation.matching`` has the rules and the order of
equal scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.average_precision import area_ap, eleven_point_ap, precision_recall
from detection.evaluation.coco import evaluate_coco
from detection.evaluation.detection_files import read_detections, write_detections
from detection.evaluation.detections import PictureDetections
from detection.evaluation.matching import Matches, Rules, match_detections

__all__ = ["PictureDetections", "evaluate_coco", "evaluate_voc", "read_detections", "write_detections"]

IOU_PERCENT = tuple(range(50, 100, 5))
VOC_METRICS = ("voc07", "voc10")  # eleven points, area


def evaluate_voc(
    dataset: DetectionDataset, detections: Mapping[str, PictureDetections], *, rules: Rules = "standard"
) -> dict[str, dict[str, Any]]:
    """Return ``{"voc07": part, "voc10": part}``, by eleven points and by area.

    A part holds ``AP`` (mean over IoU .50:.05:.95), ``AP50`` and ``AP75``, means over the classes that have ground
    truth, ``per_class`` (name -> AP50, None for a class without) and ``num_classes_scored``; AP in percent. A picture
    without detections counts as empty.

    ``rules="detectron2"`` gives Detectron2's own numbers bit for bit. There a class without ground truth is part of the
    mean: as 0 with ``voc07``, and with ``voc10`` as 0 or, if it has detections, as NaN.

    Raises:
        ValueError: no class has ground truth, detections that ``check_detections`` refuses, or unknown rules.
    """
    return average_precisions(dataset, match_detections(dataset, detections, rules=rules))


def average_precisions(dataset: DetectionDataset, matches: Matches) -> dict[str, dict[str, Any]]:
    """Do what ``evaluate_voc`` says, from ``matches``."""
    num_positives = matches.truth.num_positives
    if not num_positives.any():
        place = dataset.folder / "ImageSets" / "Main" / f"{dataset.image_set}.txt"
        if dataset.categories is not None and dataset.pictures:
            place = dataset.pictures[0].annotation
        raise ValueError(f"no class has ground truth in {dataset.name} ({len(dataset.pictures)} pictures of {place})")
    scored = np.ones(len(num_positives), bool) if matches.rules == "detectron2" else num_positives > 0

    table = ap_table(matches)[:, :, scored] * 100
    result = {}
    for metric, by_iou in zip(VOC_METRICS, table, strict=True):
        means = [np.mean(row) for row in by_iou]
        ap50 = iter(by_iou[0].tolist())
        result[metric] = {
            "AP": float(np.mean(means)),
            "AP50": float(means[IOU_PERCENT.index(50)]),
            "AP75": float(means[IOU_PERCENT.index(75)]),
            "per_class": {name: next(ap50) if has else None for name, has in zip(dataset.classes, scored, strict=True)},
            "num_classes_scored": int(scored.sum()),
        }
    return result


def ap_table(matches: Matches) -> np.ndarray:
    """Return AP (0..1) of shape (metric, IoU, class), in the order of VOC_METRICS, IOU_PERCENT and the classes.

    A class without ground truth has Detectron2's value: 0, or NaN by area if it has detections.
    """
    num_positives = matches.truth.num_positives
    table = np.zeros((len(VOC_METRICS), len(IOU_PERCENT), len(num_positives)))
    spans = [matches.of_class(label) for label in range(len(num_positives))]
    for row, percent in enumerate(IOU_PERCENT):
        outcomes = matches.outcomes(percent / 100.0)
        for label, span in enumerate(spans):
            if num_positives[label]:
                recall, precision = precision_recall(outcomes[span], num_positives[label])
                table[:, row, label] = eleven_point_ap(recall, precision), area_ap(recall, precision)
            elif span.stop > span.start:
                table[1, row, label] = np.nan
    return table
