"""COCO's numbers timed beside pycocotools and hotcoco, on made detections, in one process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.coco import COCO_NUMBERS, coco_evaluator, evaluate_coco
from detection.evaluation.detections import PictureDetections
from tools.benchmarks.evaluation import make_detections, timed

NUM_CLASSES, OBJECTS_PER_PICTURE = 80, 7.2  # as val2017, whose 5,000 pictures have 36,000 objects


def benchmark(num_pictures: int, num_detections: int) -> dict[str, Any]:
    """Time COCO's numbers of a made data set as crowded as val2017, with ``num_detections`` in each picture.

    Returns:
        The size as ``pictures``, ``objects``, ``detections`` (of all pictures) and ``classes``; seconds as ``ours``,
        from a dataset and its detections in memory, and as ``pycocotools`` and ``hotcoco``, from content and results as
        each of them takes them fastest; whether all twelve numbers of the three are bit-equal as ``equal``.

    Raises:
        ImportError: hotcoco or pycocotools cannot be imported.
    """
    dataset = make_dataset(num_pictures)
    detections = make_detections(dataset, num_detections)
    content, results = coco_content(dataset), coco_results(detections)
    rows = np.array([(one["image_id"], *one["bbox"], one["score"], one["category_id"]) for one in results])

    coco_evaluator()  # the import is nobody's
    ours, our_seconds = timed(lambda: evaluate_coco(dataset, detections))
    raw, raw_seconds = timed(lambda: by_hotcoco(content, rows))
    theirs, their_seconds = timed(lambda: by_pycocotools(content, results))
    numbers = [None if value == -1 else 100 * value for value in theirs]
    return {
        "pictures": num_pictures,
        "objects": len(content["annotations"]),
        "detections": len(results),
        "classes": NUM_CLASSES,
        "ours": our_seconds,
        "pycocotools": their_seconds,
        "hotcoco": raw_seconds,
        "equal": raw == theirs and [ours[name] for name in COCO_NUMBERS] == numbers,
    }


def by_hotcoco(content: dict[str, Any], rows: np.ndarray) -> list[float]:
    """Return its twelve numbers."""
    import hotcoco

    truth = hotcoco.COCO(content)
    return _summarised(hotcoco.COCOeval(truth, truth.loadRes(rows), "bbox"))


def by_pycocotools(content: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """Return its twelve numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        return _summarised(COCOeval(truth, truth.loadRes(results), "bbox"))


def _summarised(evaluation: Any) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def table(result: Mapping[str, Any]) -> list[str]:
    """Return a result of ``benchmark`` as lines of text."""
    return [
        f"COCO: {result['pictures']:,} pictures, {result['objects']:,} objects, {result['detections']:,} detections, "
        f"{result['classes']} classes",
        f"ours                         {result['ours']:8.2f} s",
        f"hotcoco itself               {result['hotcoco']:8.2f} s",
        f"pycocotools                  {result['pycocotools']:8.2f} s",
        f"ours {result['pycocotools'] / result['ours']:.0f} times as fast as pycocotools; "
        f"all twelve numbers bit-equal: {'yes' if result['equal'] else 'NO'}",
    ]


def make_dataset(num_pictures: int) -> DetectionDataset:
    """Return pictures with objects of any class and size, one in fifty a crowd, areas smaller than their boxes."""
    rng = np.random.default_rng(0)
    names = [f"class {number}" for number in range(1, NUM_CLASSES + 1)]
    pictures = []
    for number, count in enumerate(rng.poisson(OBJECTS_PER_PICTURE, num_pictures).tolist(), start=1):
        corners = rng.random((count, 2)) * [400, 280]
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        objects = []
        for box, side, label in zip(corners.tolist(), sides.tolist(), rng.integers(0, NUM_CLASSES, count), strict=True):
            corners_of_voc = (box[0] + 1, box[1] + 1, box[0] + side[0], box[1] + side[1])
            crowd, area = bool(rng.random() < 0.02), float(side[0] * side[1] * rng.uniform(0.4, 1))
            objects.append(AnnotatedObject(names[label], corners_of_voc, crowd, crowd, area, (*box, *side)))
        pictures.append(AnnotatedPicture(str(number), Path(), Path(), 500, 375, tuple(objects), number))
    return DetectionDataset("made", Path(), "made", tuple(names), tuple(pictures), tuple(enumerate(names, start=1)))


def coco_content(dataset: DetectionDataset) -> dict[str, Any]:
    """Return ``make_dataset``'s as the content of a COCO file."""
    numbers = {name: number for number, name in dataset.categories}
    objects = [(picture.number, item) for picture in dataset.pictures for item in picture.objects]
    return {
        "images": [{"id": picture.number} for picture in dataset.pictures],
        "categories": [{"id": number, "name": name} for number, name in dataset.categories],
        "annotations": [
            {
                "id": place,
                "image_id": image,
                "category_id": numbers[item.name],
                "bbox": list(item.bbox),
                "area": item.area,
                "iscrowd": int(item.crowd),
            }
            for place, (image, item) in enumerate(objects, start=1)
        ],
    }


def coco_results(detections: Mapping[str, PictureDetections]) -> list[dict[str, Any]]:
    """Return detections in ``make_dataset``'s pictures as COCO's results."""
    return [
        {
            "image_id": int(image_id),
            "category_id": label + 1,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": score,
        }
        for image_id, found in detections.items()
        for box, score, label in zip(*(part.tolist() for part in found), strict=True)
    ]
