"""COCO AP of VOC-format ground truth, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import numpy as np

from detection.detections import VOC_SHIFT, PictureDetections, check_detections, concatenate
from detection.matching import collect_ground_truth
from detection.voc import VocDataset

ANNOTATION_KEYS = ("id", "iscrowd", "image_id", "category_id", "bbox", "area", "score")
OUT_OF_RANGE_AREA = 1e11  # above COCO's largest area range, 1e5 squared


def evaluate_coco(dataset: VocDataset, detections: Mapping[str, PictureDetections]) -> dict[str, float | None]:
    """Return COCO's AP (IoU .50:.05:.95), AP50 and AP75 in percent, at 100 detections a picture; None without objects.

    COCO has no difficult objects. They are given an area outside the measured range, COCO's own way to leave an object
    out: not finding one costs nothing, and one detection of each is forgiven (the VOC rule forgives all of them).
    Marking them as crowds would also forgive every box inside one.

    Raises:
        ValueError: what ``check_detections`` refuses.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    check_detections(dataset, detections)
    truth = collect_ground_truth(dataset)
    if not truth.num_positives.any():
        return {"AP": None, "AP50": None, "AP75": None}
    corners = truth.boxes - VOC_SHIFT
    sizes = corners[:, 2:] - corners[:, :2]
    areas = np.where(truth.difficult, OUT_OF_RANGE_AREA, sizes.prod(axis=1))
    ground_truth = _coco(COCO, dataset, truth.pictures, truth.classes, corners, areas)

    present = [index for index, picture in enumerate(dataset.pictures) if picture.image_id in detections]
    boxes, scores, classes, owner = concatenate([detections[dataset.pictures[index].image_id] for index in present])
    boxes = boxes.astype(np.float64)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    results = _coco(COCO, dataset, np.array(present, np.int64)[owner], classes, boxes, areas, scores)

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        evaluation = COCOeval(ground_truth, results, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # by IoU, recall, class, ...; -1 for a class without objects

    def mean(values: np.ndarray) -> float:
        return float(100 * values[values > -1].mean())

    return {"AP": mean(precision), "AP50": mean(precision[0]), "AP75": mean(precision[5])}


def _coco(coco_type, dataset, pictures, classes, boxes, areas, scores=None):
    """Return a COCO object of boxes (N, 4) xmin, ymin, xmax, ymax; ids start at 1, because 0 means "no match" there."""
    coco = coco_type()
    sizes = boxes[:, 2:] - boxes[:, :2]
    coordinates = np.concatenate([boxes[:, :2], sizes], axis=1).tolist()
    pictures, classes, areas = (pictures + 1).tolist(), (classes + 1).tolist(), areas.tolist()
    scores = [None] * len(areas) if scores is None else scores.tolist()
    coco.dataset = {
        "images": [{"id": index + 1} for index in range(len(dataset.pictures))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(dataset.classes)],
        "annotations": [
            dict(zip(ANNOTATION_KEYS, (index, 0, *values), strict=True))
            for index, values in enumerate(zip(pictures, classes, coordinates, areas, scores, strict=True), start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
