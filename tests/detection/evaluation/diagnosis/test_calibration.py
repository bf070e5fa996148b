"""Calibration by hand, and against loops over random data."""

from __future__ import annotations

import math

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
