"""Calibration by hand, and against loops over random data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detection.evaluation.detections import PictureDetections
from detection.evaluation.diagnosis.calibration import measure_calibration
from detection.evaluation.matching import match_detections
from tests.detection.evaluation.diagnosis import made


def expected(matches, wanted=None):
    """ECE and MCE in percent, detection by detection; ``wanted`` is a label or None for all."""
    outcomes = matches.outcomes(0.5)
    bins = {}
    for outcome, score, label in zip(outcomes, matches.scores, matches.classes, strict=True):
        if outcome >= 0 and wanted in (None, label):
            bins.setdefault(max(1, math.ceil(score * 10)), []).append((score, outcome))
    total = sum(map(len, bins.values()))
    if not total:
        return None, None
    gaps = {
        place: abs(sum(s for s, _ in one) / len(one) - sum(o for _, o in one) / len(one)) for place, one in bins.items()
    }
    ece = sum(len(one) / total * gaps[place] for place, one in bins.items())
    return 100 * ece, 100 * max(gaps.values())


@pytest.mark.parametrize("seed", range(6))
def test_measure_calibration__equals_loops(seed):
    dataset, detections = made.make(seed, 60)
    matches = match_detections(dataset, detections)
    result = measure_calibration(dataset, matches)
    assert (result["ece"], result["mce"]) == pytest.approx(expected(matches))
    for label, name in enumerate(dataset.classes):
        assert result["per_class"][name] == pytest.approx(expected(matches, label)[0])
    assert sum(one["count"] for one in result["bins"]) == np.count_nonzero(matches.outcomes(0.5) >= 0)


def test_measure_calibration__by_hand():
    """Scores .1 (in the first bin), .8 and .75 (in one bin), 1: of an object each, but one of nothing."""
    dataset, _ = made.make(0, 30)
    objects = [(picture, item) for picture in dataset.pictures for item in picture.objects if not item.difficult]
    rows = {}
    for (picture, item), score in zip(objects, (0.1, 0.8, 1.0), strict=False):
        rows.setdefault(picture.image_id, []).append((item, score, True))
    rows[objects[1][0].image_id].append((objects[1][1], 0.75, False))
    detections = {}
    for image_id, found in rows.items():
        boxes = np.array([item.box if right else (1, 390, 9, 399) for item, _, right in found]) - [1, 1, 0, 0]
        labels = np.array([dataset.classes.index(item.name) for item, _, _ in found])
        detections[image_id] = PictureDetections(boxes, np.array([score for _, score, _ in found]), labels)
    result = measure_calibration(dataset, match_detections(dataset, detections))
    assert [(place, one["count"]) for place, one in enumerate(result["bins"]) if one["count"]] == [
        (0, 1),
        (7, 2),
        (9, 1),
    ]
    assert result["bins"][7] == {"from": 0.7, "to": 0.8, "count": 2, "score": pytest.approx(77.5), "precision": 50.0}
    assert result["mce"] == pytest.approx(90)  # a score of .1, and right
    assert result["ece"] == pytest.approx((90 + 2 * 27.5 + 0) / 4)


def test_measure_calibration__nothing_detected():
    dataset, _ = made.make(0, 3)
    result = measure_calibration(dataset, match_detections(dataset, {}))
    assert (result["ece"], result["mce"]) == (None, None)
    assert result["per_class"] == dict.fromkeys(dataset.classes)
    assert {one["precision"] for one in result["bins"]} == {None}


def test_measure_calibration__is_hotcoco_s_where_both_match_alike():
    """Without difficult objects, and with boxes whose IoU is far from .5 by either way of counting pixels."""
    hotcoco = pytest.importorskip("hotcoco")
    dataset, detections = made.make(1, 120)
    content = {"categories": [{"id": at, "name": name} for at, name in enumerate(dataset.classes, 1)]}
    content |= {"images": [], "annotations": []}
    results, pictures = [], []
    for number, picture in enumerate(dataset.pictures, 1):
        objects = tuple(item._replace(difficult=False) for item in picture.objects)
        pictures.append(replace(picture, objects=objects))
        content["images"].append({"id": number, "width": picture.width, "height": picture.height, "file_name": "x.jpg"})
        for item in objects:
            left, top, right, bottom = item.box
            bbox = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            label = dataset.classes.index(item.name) + 1
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label, "bbox": bbox}
            content["annotations"].append({**entry, "area": bbox[2] * bbox[3], "iscrowd": 0})
        for box, score, label in zip(*(part.tolist() for part in detections[picture.image_id]), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": number, "category_id": label + 1, "bbox": bbox, "score": score})
    truth = hotcoco.COCO(content)
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results), "bbox")
    evaluation.evaluate()
    theirs = evaluation.calibration(n_bins=10, iou_threshold=0.5)
    dataset = replace(dataset, pictures=tuple(pictures))
    ours = measure_calibration(dataset, match_detections(dataset, detections))
    assert (ours["ece"], ours["mce"]) == pytest.approx((100 * theirs["ece"], 100 * theirs["mce"]))
    assert [one["count"] for one in ours["bins"]] == [one["count"] for one in theirs["bins"]]
