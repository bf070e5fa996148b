"""Confusions by hand, and against loops over random data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import PictureDetections
from detection.evaluation.diagnosis.confusion import count_confusions, score_thresholds
from detection.evaluation.matching import match_detections, voc_overlap
from tests.detection.evaluation.diagnosis import made

DOG, CAT = (1.0, 1.0, 50.0, 50.0), (101.0, 101.0, 150.0, 150.0)


def confusions(objects, rows, classes=("dog", "cat"), thresholds=None):
    """Counts (object, detected) of one picture: objects (name, box, difficult), rows (name, box, score)."""
    items = tuple(AnnotatedObject(*one) for one in objects)
    picture = AnnotatedPicture("0", Path("x.jpg"), Path("x.xml"), 400, 400, items)
    dataset = DetectionDataset("made", Path(), "made", classes, (picture,))
    boxes = np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    labels = np.array([classes.index(name) for name, _, _ in rows], np.int64)
    matches = match_detections(dataset, {"0": PictureDetections(boxes, np.array([s for *_, s in rows]), labels)})
    limits = np.zeros(len(classes)) if thresholds is None else np.array(thresholds)
    return {(one["object"], one["detected"]): one["count"] for one in count_confusions(dataset, matches, limits)}


def test_count_confusions__right_taken_for_another_background_and_missed():
    objects = [("dog", DOG, False), ("cat", CAT, False), ("dog", (201.0, 1.0, 250.0, 50.0), False)]
    rows = [("dog", DOG, 0.9), ("dog", CAT, 0.8), ("cat", (301.0, 301.0, 350.0, 350.0), 0.7)]
    assert confusions(objects, rows) == {("dog", "dog"): 1, ("cat", "dog"): 1, (None, "cat"): 1, ("dog", None): 1}


def test_count_confusions__an_object_is_given_to_the_surest_and_once():
    rows = [("dog", CAT, 0.6), ("bird", CAT, 0.7)]
    assert confusions([("cat", CAT, False)], rows, ("dog", "cat", "bird")) == {("cat", "bird"): 1, (None, "dog"): 1}


def test_count_confusions__what_is_found_is_confused_with_nothing():
    rows = [("dog", DOG, 0.5), ("cat", DOG, 0.9), ("dog", DOG, 0.3)]  # the last is a second one of it
    assert confusions([("dog", DOG, False)], rows) == {("dog", "dog"): 1, (None, "cat"): 1, (None, "dog"): 1}


def test_count_confusions__difficult_objects_are_left_out():
    objects = [("dog", DOG, True), ("cat", CAT, False)]
    assert confusions(objects, [("dog", DOG, 0.9)]) == {("cat", None): 1}
    assert confusions(objects, [("cat", DOG, 0.9)]) == {("cat", None): 1, (None, "cat"): 1}


def test_count_confusions__only_what_is_shown_counts():
    rows = [("dog", DOG, 0.4), ("dog", CAT, 0.9)]
    objects = [("dog", DOG, False), ("cat", CAT, False)]
    assert confusions(objects, rows, thresholds=(0.5, 0.5)) == {("cat", "dog"): 1, ("dog", None): 1}
    assert confusions(objects, rows, thresholds=(np.inf, 0.5)) == {("dog", None): 1, ("cat", None): 1}


def reference(dataset, matches, thresholds):
    """The same rule, object by object."""
    truth, counts = matches.truth, Counter()
    taken, left = set(), []
    for place, outcome in enumerate(matches.outcomes(0.5)):
        name = dataset.classes[matches.classes[place]]
        if matches.scores[place] < thresholds[matches.classes[place]] or outcome < 0:
            continue
        if outcome == 1:
            taken.add(int(matches.best_object[place]))
            counts[name, name] += 1
        else:
            left.append((-matches.scores[place], place, name))
    for _, place, name in sorted(left):
        best, given = 0.5, None
        for one in range(len(truth.boxes)):
            usable = not truth.difficult[one] and one not in taken and truth.classes[one] != matches.classes[place]
            if usable and truth.pictures[one] == matches.pictures[place]:
                intersection, union = voc_overlap(matches.boxes[place], truth.boxes[one])
                if intersection / union > best:
                    best, given = intersection / union, one
        if given is not None:
            taken.add(given)
        counts[None if given is None else dataset.classes[truth.classes[given]], name] += 1
    for one in range(len(truth.boxes)):
        if not truth.difficult[one] and one not in taken:
            counts[dataset.classes[truth.classes[one]], None] += 1
    return dict(counts)


@pytest.mark.parametrize("seed", range(6))
def test_count_confusions__equals_loops(seed):
    dataset, detections = made.make(seed, 80)
    dataset, _ = made.plant(dataset, seed, 20)
    matches = match_detections(dataset, detections)
    for thresholds in (score_thresholds(matches), np.zeros(len(dataset.classes))):
        found = count_confusions(dataset, matches, thresholds)
        assert {(one["object"], one["detected"]): one["count"] for one in found} == reference(
            dataset, matches, thresholds
        )
        assert sum(one["count"] for one in found if one["object"]) == matches.truth.num_positives.sum()
