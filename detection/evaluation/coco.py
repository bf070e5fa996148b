"""COCO's numbers: of COCO files as they are, of VOC data with difficult objects left out.

They are computed by hotcoco, and by pycocotools, the reference, where hotcoco cannot be imported. Both give the same
numbers to the last bit, which the tests hold; hotcoco takes a small part of the time.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import VOC_SHIFT, PictureDetections, check_detections, coco_boxes
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, ClassOutcomes

OUT_OF_RANGE_AREA = 1e11  # more than the 1e10 that COCO counts
NUM_IOUS = 10

logger = logging.getLogger(__name__)


class CocoNumber(NamedTuple):
    """Which part of COCO's result a number is the mean of: its array, and places on its axes.

    ``iou`` is a place among the thresholds .50, .55, ... .95, None for all of them; ``area`` one among all, small,
    medium and large; ``count`` one among 1, 10 and 100, the surest detections of a class in a picture that count.
    """

    array: str
    iou: int | None = None
    area: int = 0
    count: int = 2


COCO_NUMBERS = {
    "AP": CocoNumber("precision"),
    "AP50": CocoNumber("precision", iou=0),
    "AP75": CocoNumber("precision", iou=5),
    "APs": CocoNumber("precision", area=1),
    "APm": CocoNumber("precision", area=2),
    "APl": CocoNumber("precision", area=3),
    "AR1": CocoNumber("recall", count=0),
    "AR10": CocoNumber("recall", count=1),
    "AR100": CocoNumber("recall"),
    "ARs": CocoNumber("recall", area=1),
    "ARm": CocoNumber("recall", area=2),
    "ARl": CocoNumber("recall", area=3),
}

# Those that stand beside each other where detectors are compared, as in Detectron2's tables; AP is their headline.
COCO_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Evaluator(NamedTuple):
    """What computes: the package's name, and how it makes a COCOeval.

    ``prepare`` takes the content of a COCO file, and detections (N, 7): picture, left, top, width, height, score,
    category.
    """

    name: str
    prepare: Callable[[dict[str, Any], np.ndarray], Any]


def evaluate_coco(dataset: DetectionDataset, detections: Mapping[str, PictureDetections]) -> dict[str, Any]:
    """Return COCO's twelve numbers, named as in COCO_NUMBERS, and ``per_class``: name -> AP.

    All in percent; None where they are undefined, as APs is without a small object, and a class's AP without ground
    truth. AP is over IoU .50:.95. An area of 32 x 32 is small and medium, one of 96 x 96 medium and large.

    Of a COCO file these are pycocotools' own numbers: crowds are crowds, which forgive every box inside them, areas are
    the file's (those of the boxes where it has none), and pictures have the order of their ids, which decides between
    equal scores.

    COCO has no difficult objects. Those of VOC data are given an area outside the measured range, COCO's own way to
    leave an object out: not finding one costs nothing, and one detection of each is forgiven (the VOC rule forgives all
    of them). Marking them as crowds would also forgive every box inside one. All other areas are those of the boxes.

    Raises:
        ValueError: what ``check_detections`` refuses.
    """
    categories = _category_numbers(dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        evaluation = _prepare(dataset, categories, detections)
        evaluation.evaluate()
        evaluation.accumulate()
    arrays = {name: evaluation.eval[name] for name in ("precision", "recall")}
    precision = arrays["precision"]  # by IoU, recall, class, area, count; recall likewise, without its second axis
    places = (categories - 1).tolist()
    return {
        **{name: _mean(arrays[one.array], one) for name, one in COCO_NUMBERS.items()},
        "per_class": {
            name: _mean(precision[:, :, [place]], COCO_NUMBERS["AP"])
            for name, place in zip(dataset.classes, places, strict=True)
        },
    }


def coco_outcomes(dataset: DetectionDataset, detections: Mapping[str, PictureDetections]) -> list[ClassOutcomes]:
    """Return of each class, in their order, what its AP is made of: at IoU .50, .55, ... .95, objects of all areas.

    Raises:
        ValueError: what ``check_detections`` refuses.
    """
    categories = _category_numbers(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _prepare(dataset, categories, detections)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    by_class: dict[int, list[dict[str, Any]]] = {number: [] for number in categories.tolist()}
    for entry in evaluation.evalImgs:  # by category, then in the order of the pictures; None without box and detection
        if entry is not None:
            by_class[entry["category_id"]].append(entry)
    place = {picture.image_id: index for index, picture in enumerate(dataset.pictures)}
    places = np.array([place[picture.image_id] for picture in _in_order(dataset)], np.int64)
    return [_class_outcomes(entries, places) for entries in by_class.values()]


def _class_outcomes(entries: list[dict[str, Any]], places: np.ndarray) -> ClassOutcomes:
    """Return the outcomes of a class from those in its pictures; ``places`` are the pictures numbered 1, 2, ..."""
    tables = [np.zeros((0, 2 + NUM_IOUS))]  # score, picture, outcome at each IoU
    positives: list[int] = []
    for entry in entries:
        picture = entry["image_id"] - 1
        matched, ignored = (np.asarray(entry[key]).reshape(NUM_IOUS, -1).T for key in ("dtMatches", "dtIgnore"))
        outcomes = np.where(ignored > 0, IGNORED, np.where(matched > 0, TRUE_POSITIVE, FALSE_POSITIVE))
        tables.append(np.column_stack([entry["dtScores"], np.full(len(outcomes), picture), outcomes]))
        positives += [picture] * int(np.sum(np.asarray(entry["gtIgnore"]) == 0))
    table = np.concatenate(tables)
    table = table[np.argsort(-table[:, 0], kind="stable")]
    return ClassOutcomes(
        tuple(table[:, 2:].T.astype(np.int8)),
        places[table[:, 1].astype(np.int64)],
        places[np.array(positives, np.int64)],
    )


@functools.cache
def coco_evaluator() -> Evaluator:
    """Return what computes COCO's numbers on this machine; where that is the slow one, it is logged once."""
    try:
        import hotcoco
    except ImportError as error:
        logger.warning("hotcoco cannot be imported (%s): COCO's numbers by pycocotools, which takes longer", error)
        return Evaluator("pycocotools", _prepare_pycocotools)

    def prepare(content: dict[str, Any], rows: np.ndarray) -> Any:
        truth = hotcoco.COCO(content)
        return hotcoco.COCOeval(truth, truth.loadRes(rows), "bbox")

    return Evaluator("hotcoco", prepare)


def _prepare_pycocotools(content: dict[str, Any], rows: np.ndarray) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    found = truth.loadRes(rows) if len(rows) else COCO()  # loadRes fails on no detections
    return COCOeval(truth, found, "bbox")


def _prepare(dataset: DetectionDataset, categories: np.ndarray, detections: Mapping[str, PictureDetections]) -> Any:
    """Return the COCOeval of ``detections``; pictures are numbered from 1 in the order of ``_in_order``."""
    check_detections(dataset, detections)
    pictures = _in_order(dataset)
    return coco_evaluator().prepare(_content(dataset, pictures, categories), _rows(pictures, categories, detections))


def _mean(array: np.ndarray, number: CocoNumber) -> float | None:
    """Return the mean of what is defined in the part that ``number`` names, in percent; -1 marks what is not."""
    values = array[slice(None) if number.iou is None else number.iou][..., number.area, number.count]
    defined = values[values > -1]
    return float(100 * defined.mean()) if defined.size else None


def _in_order(dataset: DetectionDataset) -> tuple[AnnotatedPicture, ...]:
    """Return the pictures as pycocotools orders those of a COCO file: by number, or by id where one is no number."""
    pictures = dataset.pictures
    if dataset.format == "voc":
        return pictures
    numbers = all(picture.number is not None for picture in pictures)
    return tuple(sorted(pictures, key=lambda picture: picture.number if numbers else picture.image_id))


def _category_numbers(dataset: DetectionDataset) -> np.ndarray:
    """Return the number from 1 of each class: that of its place among the file's numbers, so that any number may stand.

    What a class is called does not change COCO's numbers; the order of the classes does, in the last bit of a mean.
    """
    numbers = dataset.class_numbers
    order = sorted(range(len(numbers)), key=lambda label: (numbers[label] is None, numbers[label] or 0))
    return np.argsort(order) + 1


def _content(
    dataset: DetectionDataset, pictures: tuple[AnnotatedPicture, ...], categories: np.ndarray
) -> dict[str, Any]:
    """Return the content of a COCO file; pictures and objects have numbers from 1, because 0 means "no match" there."""
    numbers = dict(zip(dataset.classes, categories.tolist(), strict=True))
    annotations = []
    for place, picture in enumerate(pictures, start=1):
        for item in picture.objects:
            bbox = _bbox(item)
            area = bbox[2] * bbox[3] if item.area is None else item.area
            if item.difficult and not item.crowd:
                area = OUT_OF_RANGE_AREA
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": place,
                    "category_id": numbers[item.name],
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(item.crowd),
                }
            )
    return {
        "images": [{"id": place} for place in range(1, len(pictures) + 1)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": annotations,
    }


def _bbox(item: AnnotatedObject) -> list[float]:
    """Return left, top, width and height of an object."""
    if item.bbox is not None:
        return list(item.bbox)
    left, top, right, bottom = (side - shift for side, shift in zip(item.box, VOC_SHIFT.tolist(), strict=True))
    return [left, top, right - left, bottom - top]


def _rows(
    pictures: tuple[AnnotatedPicture, ...], categories: np.ndarray, detections: Mapping[str, PictureDetections]
) -> np.ndarray:
    """Return detections as ``Evaluator.prepare`` takes them, in their order; numbers as those of ``_content``."""
    tables = [np.zeros((0, 7))]
    for place, picture in enumerate(pictures, start=1):
        found = detections.get(picture.image_id)
        if found is not None:
            number = np.full(len(found.scores), place)
            boxes = coco_boxes(detections, picture.image_id)
            tables.append(np.column_stack([number, boxes, found.scores, categories[found.classes]]))
    return np.concatenate(tables)
