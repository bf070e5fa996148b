"""What a person sees of a detector in each picture, and in which pictures two detectors differ most, at IoU .5.

A detection is shown from its class's own score on, that with the best F1 over the split (``score_thresholds``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches

IOU = 0.5
MAX_DISAGREEMENTS = 8  # of those where a detector is better, and of those where it is worse


class PictureCounts(NamedTuple):
    """Of each picture, in their order: shown detections that are right or wrong, objects that none of them finds, F1.

    F1 is 1 where there is nothing to find and nothing is shown.
    """

    right: np.ndarray  # (pictures,) int64
    wrong: np.ndarray
    missed: np.ndarray
    f1: np.ndarray  # (pictures,) float64

    def of(self, index: int) -> dict[str, Any]:
        """Return ``{"right", "wrong", "missed", "f1"}`` of one picture."""
        return {name: column[index].item() for name, column in self._asdict().items()}


def count_pictures(dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray) -> PictureCounts:
    """Return the counts of all pictures; ``thresholds`` are those of ``score_thresholds``."""
    size = len(dataset.pictures)
    outcomes = matches.outcomes(IOU)
    shown = matches.scores >= thresholds[matches.classes]
    right = np.bincount(matches.pictures[shown & (outcomes == TRUE_POSITIVE)], minlength=size)
    wrong = np.bincount(matches.pictures[shown & (outcomes == FALSE_POSITIVE)], minlength=size)
    missed = np.bincount(matches.truth.pictures[~matches.truth.difficult], minlength=size) - right
    total = 2 * right + wrong + missed
    return PictureCounts(right, wrong, missed, np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0))


def rank_pictures(dataset: DetectionDataset, counts: PictureCounts) -> list[dict[str, Any]]:
    """Return the pictures that have objects or shown detections, the worst first.

    Each is ``{"image_id", "right", "wrong", "missed", "f1"}``. The worst has the lowest F1, then the most errors, then
    the fewest right detections; the best, at the end, is perfect and has the most objects.
    """
    entries = [
        {"image_id": dataset.pictures[index].image_id, **counts.of(index)}
        for index in np.flatnonzero(counts.right + counts.wrong + counts.missed).tolist()
    ]
    return sorted(entries, key=lambda e: (e["f1"], -e["wrong"] - e["missed"], e["right"], e["image_id"]))


def rank_disagreements(dataset: DetectionDataset, counts: PictureCounts, baseline: PictureCounts) -> dict[str, Any]:
    """Return where a detector is better than the baseline's, and where worse, by F1.

    ``num_better`` and ``num_worse`` count the pictures; ``better`` and ``worse`` are those where F1 differs most, at
    most MAX_DISAGREEMENTS each, then by how many errors more the one makes. Each is ``{"image_id", "baseline",
    "method"}``, with ``{"right", "wrong", "missed", "f1"}`` of both.
    """
    gain = counts.f1 - baseline.f1
    saved = (baseline.wrong + baseline.missed) - (counts.wrong + counts.missed)
    result: dict[str, Any] = {}
    for name, sign in (("better", 1), ("worse", -1)):
        places = np.flatnonzero(sign * gain > 0).tolist()
        places.sort(key=lambda at: (-sign * gain[at], -sign * saved[at], dataset.pictures[at].image_id))
        result[f"num_{name}"] = len(places)
        result[name] = [
            {"image_id": dataset.pictures[at].image_id, "baseline": baseline.of(at), "method": counts.of(at)}
            for at in places[:MAX_DISAGREEMENTS]
        ]
    return result
