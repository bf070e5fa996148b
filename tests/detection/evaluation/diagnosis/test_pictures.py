"""Which pictures a person is shown: the worst and the best, and those in which two detectors differ, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detection.evaluation.diagnosis.confusion import score_thresholds
from detection.evaluation.diagnosis.pictures import MAX_DISAGREEMENTS, count_pictures, rank_disagreements, rank_pictures

DOG = (1.0, 1.0, 100.0, 100.0)
CAT = (201.0, 1.0, 230.0, 30.0)
NOWHERE = (300.0, 300.0, 350.0, 350.0)


def test_rank_pictures__worst_first(make):
    dataset, matches = make(
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
