"""How far scores can be believed: of the detections with a score of .8, are 8 in 10 right?

The expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), for detections at
IoU .5: ten bins of equal width over the scores, in each the gap between the mean score and the share of detections that
are right, and the mean of the gaps, weighted by the detections. Detections of difficult objects are neither and left
out, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.matching import IGNORED, TRUE_POSITIVE, Matches

IOU = 0.5
NUM_BINS = 10


def measure_calibration(dataset: DetectionDataset, matches: Matches) -> dict[str, Any]:
    """Return ``ece`` (expected) and ``mce`` (largest gap of a bin), ``bins``, and ``per_class``: name -> ece.

    A bin is ``{"from", "to", "count", "score", "precision"}``; it holds the scores above ``from`` up to ``to``, the
    first one 0 too. All but the bounds and the count are in percent, and None where there is no detection.
    """
    outcomes = matches.outcomes(IOU)
    counted = outcomes != IGNORED
    scores, right = matches.scores[counted], outcomes[counted] == TRUE_POSITIVE
    bins = _bins(scores, right)
    classes = matches.classes[counted]
    return {
        "ece": _expected(bins),
        "mce": max((abs(one["score"] - one["precision"]) for one in bins if one["count"]), default=None),
        "bins": bins,
        "per_class": {
            name: _expected(_bins(scores[classes == label], right[classes == label]))
            for label, name in enumerate(dataset.classes)
        },
    }


def _bins(scores: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    places = np.clip(np.ceil(scores * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts, sums, hits = (
        np.bincount(places, weights=weights, minlength=NUM_BINS).tolist() for weights in (None, scores, right)
    )
    return [
        {
            "from": place / NUM_BINS,
            "to": (place + 1) / NUM_BINS,
            "count": int(counts[place]),
            "score": 100 * sums[place] / counts[place] if counts[place] else None,
            "precision": 100 * hits[place] / counts[place] if counts[place] else None,
        }
        for place in range(NUM_BINS)
    ]


def _expected(bins: list[dict[str, Any]]) -> float | None:
    total = sum(one["count"] for one in bins)
    gaps = sum(one["count"] * abs(one["score"] - one["precision"]) for one in bins if one["count"])
    return gaps / total if total else None
