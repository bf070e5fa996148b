"""COCO AP, computed by pycocotools: of COCO files as they are, of VOC data with difficult objects left out."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from detection.datasets.types import AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import VOC_SHIFT, PictureDetections, check_detections, concatenate
from detection.evaluation.matching import collect_ground_truth

MAX_DETECTIONS = 100  # of a class in a picture
ANNOTATION_KEYS = ("id", "iscrowd", "image_id", "category_id", "bbox", "area", "score")
AREA_RANGE = [0, 1e10]
OUT_OF_RANGE_AREA = 1e11


def evaluate_coco(dataset: DetectionDataset, detections: Mapping[str, PictureDetections]) -> dict[str, float | None]:
    """Return COCO's AP (IoU .50:.05:.95), AP50 and AP75 in percent; None without ground truth.

    Of a COCO file these are pycocotools' own numbers: crowds are crowds, which forgive every box inside them, areas are
    the file's, and pictures have the order of their numbers, which decides between equal scores.

    COCO has no difficult objects. Those of VOC data are given an area outside the measured range, COCO's own way to
    leave an object out: not finding one costs nothing, and one detection of each is forgiven (the VOC rule forgives all
    of them). Marking them as crowds would also forgive every box inside one.

    Raises:
        ValueError: what ``check_detections`` refuses.
    """
    from pycocotools.coco import COCO

    check_detections(dataset, detections)
    dataset = replace(dataset, pictures=_in_order(dataset))
    truth = collect_ground_truth(dataset)
    if not truth.num_positives.any():
        return {"AP": None, "AP50": None, "AP75": None}
    corners = truth.boxes - VOC_SHIFT
    areas = np.where(np.isnan(truth.areas), (corners[:, 2:] - corners[:, :2]).prod(axis=1), truth.areas)
    areas = np.where(truth.difficult & ~truth.crowd, OUT_OF_RANGE_AREA, areas)

    present = [index for index, picture in enumerate(dataset.pictures) if picture.image_id in detections]
    boxes, scores, classes, owner = concatenate([detections[dataset.pictures[index].image_id] for index in present])
    boxes, pictures = boxes.astype(np.float64), np.array(present, np.int64)[owner]
    stride = len(dataset.classes)
    contested = np.isin(pictures * stride + classes, truth.pictures * stride + truth.classes)

    evaluation = _evaluation_type()(
        _coco(COCO, dataset, truth.pictures, truth.classes, corners, areas, crowd=truth.crowd),
        _coco(
            COCO,
            dataset,
            *(part[contested] for part in (pictures, classes, boxes, np.ones(len(boxes)))),
            scores=scores[contested],
        ),
        _scores_by_pair(pictures[~contested], classes[~contested], scores[~contested]),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # by IoU, recall, class, ...; -1 for a class without objects

    def mean(values: np.ndarray) -> float | None:
        defined = values[values > -1]  # none is where all objects have areas outside of COCO's range
        return float(100 * defined.mean()) if defined.size else None

    return {"AP": mean(precision), "AP50": mean(precision[0]), "AP75": mean(precision[5])}


def _in_order(dataset: DetectionDataset) -> tuple[AnnotatedPicture, ...]:
    """Return the pictures as pycocotools orders those of a COCO file: by number, or by id where one is no number."""
    pictures = dataset.pictures
    if dataset.categories is None:
        return pictures
    numbers = all(picture.image_id.lstrip("-").isdecimal() for picture in pictures)
    return tuple(sorted(pictures, key=lambda picture: int(picture.image_id) if numbers else picture.image_id))


def _evaluation_type() -> type:
    """Return pycocotools' COCOeval with a short way for detections in pictures that have no object of their class.

    There all are wrong at every threshold and only their scores matter. They are the great majority, and COCOeval would
    spend most of its time on making, indexing and matching them one by one. Its result does not change by a bit.
    """
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        def __init__(self, truth: Any, contested: Any, uncontested: Mapping[tuple[int, int], np.ndarray]):
            with contextlib.redirect_stdout(io.StringIO()):
                super().__init__(truth, contested, "bbox")
            self.params.areaRng, self.params.areaRngLbl = [AREA_RANGE], ["all"]
            self.params.maxDets = [MAX_DETECTIONS]
            self._uncontested = uncontested

        def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> dict[str, Any] | None:
            scores = self._uncontested.get((imgId, catId))
            if scores is None:
                return super().evaluateImg(imgId, catId, aRng, maxDet)
            # accumulate() cuts the parts of each picture down to maxDets
            wrong = np.zeros((len(self.params.iouThrs), len(scores)), bool)
            return {"dtScores": scores, "dtMatches": wrong, "dtIgnore": wrong, "gtIgnore": np.zeros(0, int)}

    return Evaluation


def _scores_by_pair(pictures: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Return (image id, category id) -> falling scores; ids as in ``_coco``."""
    if not len(scores):
        return {}
    order = np.lexsort((-scores, classes, pictures))
    pictures, classes, scores = pictures[order], classes[order], scores[order]
    starts = np.flatnonzero((np.diff(pictures, prepend=-1) != 0) | (np.diff(classes, prepend=-1) != 0))
    keys = zip((pictures[starts] + 1).tolist(), (classes[starts] + 1).tolist(), strict=True)
    return dict(zip(keys, np.split(scores, starts[1:]), strict=True))


def _coco(
    coco_type: type,
    dataset: DetectionDataset,
    pictures: np.ndarray,
    classes: np.ndarray,
    boxes: np.ndarray,
    areas: np.ndarray,
    *,
    scores: np.ndarray | None = None,
    crowd: np.ndarray | None = None,
) -> Any:
    """Return a COCO object of boxes (N, 4) xmin, ymin, xmax, ymax; ids start at 1, because 0 means "no match" there."""
    coco = coco_type()
    coordinates = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    scores = [None] * len(boxes) if scores is None else scores.tolist()
    crowd = np.zeros(len(boxes), int) if crowd is None else crowd.astype(int)
    columns = (crowd.tolist(), (pictures + 1).tolist(), (classes + 1).tolist(), coordinates, areas.tolist(), scores)
    coco.dataset = {
        "images": [{"id": index + 1} for index in range(len(dataset.pictures))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(dataset.classes)],
        "annotations": [
            dict(zip(ANNOTATION_KEYS, (index, *values), strict=True))
            for index, values in enumerate(zip(*columns, strict=True), start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
