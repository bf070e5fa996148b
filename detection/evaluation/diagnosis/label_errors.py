"""Objects whose labels detectors contradict: the label may be wrong, or the detector; a person looks.

Two kinds are told of one detector's sure detections, at least SURE and no less than what a person would be shown:

- ``missing``: nothing that is labelled, of any class, overlaps the detection by WEAK_IOU or more;
- ``class``: it covers, by more than IOU, an object of another class that no such detection of its own class covers.

Of several detectors there is a third: an object that none of them finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detection.datasets.places import object_places
from detection.datasets.types import DetectionDataset
from detection.evaluation.detections import VOC_SHIFT
from detection.evaluation.diagnosis.confusion import given_objects
from detection.evaluation.matching import (
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    GroundTruth,
    Matches,
    box_areas,
    collect_ground_truth,
    overlapping_pairs,
)

IOU, WEAK_IOU = 0.5, 0.1
SURE = 0.5
MAX_LISTED = 100


def suspect_labels(dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray) -> dict[str, Any]:
    """Return ``count`` and, of the surest MAX_LISTED, ``listed``.

    An entry is ``{"kind", "image_id", "detected", "labelled", "score", "box", "annotation", "place"}``: the box is that
    of the detection, left, top, right, bottom in pixels from 0; ``labelled`` the class in the file, None for
    ``missing``; ``place`` where in the annotation's file the object stands, None likewise. ``thresholds`` are those of
    ``score_thresholds``.
    """
    truth = matches.truth
    outcomes = matches.outcomes(IOU)
    sure = matches.scores >= np.maximum(thresholds, SURE)[matches.classes]
    right = np.flatnonzero((outcomes == TRUE_POSITIVE) & sure)
    doubted = np.flatnonzero((outcomes == FALSE_POSITIVE) & sure)
    doubted = doubted[np.argsort(-matches.scores[doubted], kind="stable")]

    free = ~truth.difficult
    free[matches.best_object[right]] = False
    owner = given_objects(matches, doubted, free)
    rows, _, iou = overlapping_pairs(matches.boxes[doubted], matches.pictures[doubted], truth.boxes, truth.pictures)
    overlap = np.zeros(len(doubted))
    np.maximum.at(overlap, rows, iou)
    alone = np.flatnonzero(overlap < WEAK_IOU)
    alone = alone[_first_of_heaps(matches, doubted[alone])]
    suspected = np.sort(np.concatenate([alone, np.flatnonzero(owner >= 0)]))
    listed = [_entry(dataset, matches, int(doubted[row]), int(owner[row])) for row in suspected[:MAX_LISTED]]
    return {"count": len(suspected), "listed": listed}


def find_objects(matches: Matches) -> np.ndarray:
    """Return (M,) bool: whether any detection, however unsure, finds each object of the ground truth."""
    found = np.zeros(len(matches.truth.classes), bool)
    found[matches.best_object[matches.outcomes(IOU) == TRUE_POSITIVE]] = True
    return found


def list_missed(dataset: DetectionDataset, found: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return ``num_runs``, ``num_objects`` that count, how many of these all runs miss (``count``), and ``listed``.

    These are the largest by area, at most MAX_LISTED: ``{"image_id", "object", "box", "annotation", "place"}``, with
    the class, and the others as in ``suspect_labels``. ``found`` has what ``find_objects`` returned for each run.
    """
    truth = collect_ground_truth(dataset)
    missed = np.flatnonzero(~truth.difficult & ~np.any(found, axis=0))
    return {
        "num_runs": len(found),
        "num_objects": int(truth.num_positives.sum()),
        "count": len(missed),
        "listed": [
            _missed_entry(dataset, truth, place)
            for place in missed[np.argsort(-box_areas(truth.boxes[missed]), kind="stable")][:MAX_LISTED].tolist()
        ],
    }


def _missed_entry(dataset: DetectionDataset, truth: GroundTruth, place: int) -> dict[str, Any]:
    picture = dataset.pictures[truth.pictures[place]]
    return {
        "image_id": picture.image_id,
        "object": dataset.classes[truth.classes[place]],
        "box": (truth.boxes[place] - VOC_SHIFT).tolist(),
        "annotation": str(picture.annotation),
        "place": _place_in_file(dataset, truth, place),
    }


def _place_in_file(dataset: DetectionDataset, truth: GroundTruth, place: int) -> str | None:
    """Return where in the annotation's file an object of the ground truth stands; a label may stand there twice."""
    label, index = int(truth.classes[place]), int(truth.pictures[place])
    picture = dataset.pictures[index]
    of_class = [at for at, item in enumerate(picture.objects) if item.name == dataset.classes[label]]
    first = int(np.flatnonzero((truth.classes == label) & (truth.pictures == index))[0])
    return object_places(picture)[of_class[place - first]]


def _first_of_heaps(matches: Matches, places: np.ndarray) -> np.ndarray:
    """Return which of detections in falling order of score overlap no surer one of them by more than IOU."""
    boxes, pictures = matches.boxes[places], matches.pictures[places]
    rows, others, iou = overlapping_pairs(boxes, pictures, boxes, pictures)
    near: dict[int, list[int]] = {}
    for row, other in zip(*(side[(others < rows) & (iou > IOU)].tolist() for side in (rows, others)), strict=True):
        near.setdefault(row, []).append(other)
    kept: set[int] = set()
    for row in range(len(places)):
        if not kept.intersection(near.get(row, ())):
            kept.add(row)
    return np.array(sorted(kept), dtype=np.int64)


def _entry(dataset: DetectionDataset, matches: Matches, place: int, owner: int) -> dict[str, Any]:
    picture = dataset.pictures[matches.pictures[place]]
    labelled = where = None
    if owner >= 0:
        labelled = dataset.classes[matches.truth.classes[owner]]
        where = _place_in_file(dataset, matches.truth, owner)
    return {
        "kind": "missing" if owner < 0 else "class",
        "image_id": picture.image_id,
        "detected": dataset.classes[matches.classes[place]],
        "labelled": labelled,
        "score": float(matches.scores[place]),
        "box": (matches.boxes[place] - VOC_SHIFT).tolist(),
        "annotation": str(picture.annotation),
        "place": where,
    }
