"""Which pictures a person is shown: the worst and the best, and those in which two detectors differ, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detection.evaluation.diagnosis.confusion import score_thresholds
from detection.evaluation.diagnosis.pictures import MAX_DISAGREEMENTS, count_pictures, rank_disagreements, rank_pictures
from detection.evaluation.matching import match_detections
from tests.detection.evaluation.diagnosis import made

DOG = (1.0, 1.0, 100.0, 100.0)
CAT = (201.0, 1.0, 230.0, 30.0)
NOWHERE = (300.0, 300.0, 350.0, 350.0)


def test_rank_pictures__worst_first():
    dataset, matches = made.matched_scene(
        {"bad": [("dog", DOG)], "good": [("dog", DOG), ("dog", CAT)], "fair": [("dog", DOG)], "empty": []},
        {"bad": [(0, 0.8, NOWHERE)], "good": [(0, 0.9, DOG), (0, 0.9, CAT)], "fair": [(0, 0.9, DOG)]},
    )
    thresholds = score_thresholds(matches)
    assert thresholds.tolist() == [0.9, np.inf]  # three right of three shown; no cat is found at any score
    ranked = rank_pictures(dataset, count_pictures(dataset, matches, thresholds))
    assert ranked == [
        {"image_id": "bad", "right": 0, "wrong": 0, "missed": 1, "f1": 0},
        {"image_id": "fair", "right": 1, "wrong": 0, "missed": 0, "f1": 1},
        {"image_id": "good", "right": 2, "wrong": 0, "missed": 0, "f1": 1},
    ]


def counts(objects, detections, thresholds=(0.5, 0.5)):
    dataset, found = made.scene(objects, detections)
    return dataset, count_pictures(dataset, match_detections(dataset, found), np.array(thresholds))


OBJECTS = {
    "two": [("dog", DOG), ("dog", CAT)], "one": [("dog", DOG)], "none": [], "same": [("cat", CAT)],
    "hard": [("dog", DOG, True)],
}  # fmt: skip


def test_count_pictures__by_hand():
    found = {"two": [(0, 0.9, DOG), (0, 0.8, DOG), (0, 0.4, CAT)], "none": [(1, 0.6, CAT)], "hard": [(0, 0.9, DOG)]}
    _, seen = counts(OBJECTS, found)
    assert seen.right.tolist() == [1, 0, 0, 0, 0]
    assert seen.wrong.tolist() == [1, 0, 1, 0, 0]  # a duplicate, a cat in an empty picture; a difficult dog is neither
    assert seen.missed.tolist() == [1, 1, 0, 1, 0]  # the second dog's score is too low
    assert seen.f1.tolist() == [0.5, 0, 0, 0, 1]
    assert seen.of(0) == {"right": 1, "wrong": 1, "missed": 1, "f1": 0.5}


def test_rank_disagreements__by_hand():
    base = {"two": [(0, 0.9, DOG)], "one": [(0, 0.9, NOWHERE)], "none": [(1, 0.9, CAT)], "same": [(1, 0.9, CAT)]}
    other = {"two": [(0, 0.9, NOWHERE)], "one": [(0, 0.9, DOG)], "same": [(1, 0.9, CAT)]}
    dataset, baseline = counts(OBJECTS, base)
    _, method = counts(OBJECTS, other)
    ranked = rank_disagreements(dataset, method, baseline)
    assert (ranked["num_better"], ranked["num_worse"]) == (2, 1)
    # Both gain 1: where one object is found and one detection is right, two errors are saved, else one.
    assert [entry["image_id"] for entry in ranked["better"]] == ["one", "none"]
    assert ranked["better"][0] == {
        "image_id": "one",
        "baseline": {"right": 0, "wrong": 1, "missed": 1, "f1": 0},
        "method": {"right": 1, "wrong": 0, "missed": 0, "f1": 1},
    }
    (worse,) = ranked["worse"]
    assert (worse["image_id"], worse["baseline"]["f1"], worse["method"]["f1"]) == ("two", pytest.approx(2 / 3), 0)
    turned = rank_disagreements(dataset, baseline, method)
    assert [entry["image_id"] for entry in turned["worse"]] == ["one", "none"]


def test_rank_disagreements__shows_those_that_differ_most():
    """In picture n both detectors find the dog and one also says n wrong things: its F1 is 2 / (2 + n)."""
    objects = {f"{n:02d}": [("dog", DOG)] for n in range(12)}
    right = {name: [(0, 0.9, DOG)] for name in objects}
    wrong = {name: [*rows, *[(1, 0.9, NOWHERE)] * int(name)] for name, rows in right.items()}
    dataset, baseline = counts(objects, wrong)
    _, method = counts(objects, right)
    ranked = rank_disagreements(dataset, method, baseline)
    assert (ranked["num_better"], ranked["num_worse"], ranked["worse"]) == (11, 0, [])
    assert [entry["image_id"] for entry in ranked["better"]] == [f"{n:02d}" for n in range(11, 3, -1)]
    assert len(ranked["better"]) == MAX_DISAGREEMENTS
