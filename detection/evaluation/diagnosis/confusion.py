"""Which class is taken for which, among the detections that a person would be shown, at IoU .5.

What is right counts as in the AP. A wrong detection is then given, the surest first, to the object of another class
that it overlaps most, of those that no right detection has and none was given to before. A detection that is left over
is of the background (a second detection of one object too), an object that is left over was missed. Difficult objects
and what was found of them are left out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches, overlapping_pairs

IOU = 0.5


def score_thresholds(matches: Matches) -> np.ndarray:
    """Return, for each class, the score from which a person is shown its detections: the one with the best F1.

    It is infinite for a class without a right detection.
    """
    outcomes = matches.outcomes(IOU)
    result = np.full(len(matches.truth.num_positives), np.inf)
    for label, num_positives in enumerate(matches.truth.num_positives):
        span = matches.of_class(label)
        right = np.cumsum(outcomes[span] == TRUE_POSITIVE)
        shown = np.cumsum(outcomes[span] >= FALSE_POSITIVE)
        if len(right) and right[-1]:
            result[label] = matches.scores[span][np.argmax(2 * right / np.maximum(shown + num_positives, 1))]
    return result


def count_confusions(dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Return ``{"object": class or None, "detected": class or None, "count"}`` of all pairs that occur, by class.

    None stands for the background and for nothing. ``thresholds`` are those of ``score_thresholds``.
    """
    outcomes, truth = matches.outcomes(IOU), matches.truth
    shown = matches.scores >= thresholds[matches.classes]
    right, wrong = (np.flatnonzero(shown & (outcomes == kind)) for kind in (TRUE_POSITIVE, FALSE_POSITIVE))
    free = ~truth.difficult
    free[matches.best_object[right]] = False
    owner = given_objects(matches, wrong, free)
    free[owner[owner >= 0]] = False
    counts: Counter[tuple[int, int]] = Counter()
    nothing = len(dataset.classes)
    counts.update((label, label) for label in matches.classes[right].tolist())
    for place, one in zip(wrong.tolist(), owner.tolist(), strict=True):
        counts[(nothing if one < 0 else int(truth.classes[one]), int(matches.classes[place]))] += 1
    counts.update((label, nothing) for label in truth.classes[free].tolist())  # what is left was missed
    names = (*dataset.classes, None)
    return [
        {"object": names[one], "detected": names[other], "count": count}
        for (one, other), count in sorted(counts.items())
    ]


def given_objects(matches: Matches, wrong: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return the object of another class that each of ``wrong`` is given, -1 for none, of those that are ``free``."""
    truth = matches.truth
    rows, objects, iou = overlapping_pairs(matches.boxes[wrong], matches.pictures[wrong], truth.boxes, truth.pictures)
    kept = free[objects] & (iou > IOU) & (truth.classes[objects] != matches.classes[wrong][rows])
    rows, objects, iou = rows[kept], objects[kept], iou[kept]
    result = np.full(len(wrong), -1)
    taken: set[int] = set()
    for pair in np.lexsort((objects, -iou, rows, -matches.scores[wrong][rows])).tolist():
        row, one = int(rows[pair]), int(objects[pair])
        if result[row] < 0 and one not in taken:
            result[row] = one
            taken.add(one)
    return result
