"""AP on many random halves of a split's pictures, side by side.

No half is ever built. Matching does not change when a picture is left out or repeated, so each detection and object
only counts as often as its picture was drawn. Runs on the same split share the draws: their differences are then
resampled in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from detection.evaluation.average_precision import ELEVEN_POINTS
from detection.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, ClassOutcomes, Matches
from detection.evaluation.voc import IOU_PERCENT

NUM_RESAMPLES = 1000
SUMMARIES = ("AP", "AP50", "AP75")
COCO_POINTS = np.linspace(0.0, 1.0, 101)  # pycocotools' recalls, to the last bit
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]  # recall, envelope of precision, (T, R) each -> AP (R,)
CHUNK = 125  # resamples computed together; a class's arrays then stay in the processor's cache


def draw_halves(num_pictures: int, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return (num_pictures, num_resamples) uint8: 1 where a picture is in a half, 0 where not.

    Of an odd number of pictures a half has one more or one less, in turn.
    """
    rng = np.random.default_rng(seed)
    halves = np.zeros((num_pictures, num_resamples), np.uint8)
    for column in range(num_resamples):
        size = (num_pictures + column % 2) // 2
        halves[rng.permutation(num_pictures)[:size], column] = 1
    return halves


def resampled_ap(matches: Matches, counts: np.ndarray, *, thresholds: Sequence[int] = IOU_PERCENT) -> np.ndarray:
    """Return AP (0..1) of shape (metric, IoU, class, resample), NaN for a class without ground truth in a resample.

    Args:
        thresholds: IoU in percent.
        matches: of any rules; a class without ground truth is NaN under Detectron2's too.
        counts: (pictures, R), how often each resample has each picture, as from ``draw_halves``.
    """
    truth, outcomes = matches.truth, [matches.outcomes(percent / 100.0) for percent in thresholds]
    spans = [matches.of_class(label) for label in range(len(truth.num_positives))]
    classes = [
        ClassOutcomes(
            tuple(one[span] for one in outcomes),
            matches.pictures[span],
            truth.pictures[(truth.classes == label) & ~truth.difficult],
        )
        for label, span in enumerate(spans)
    ]
    return _resample(classes, counts, (_eleven_points, _area), len(thresholds))


def resampled_coco_ap(classes: Sequence[ClassOutcomes], counts: np.ndarray) -> np.ndarray:
    """Return COCO's AP, of objects of all areas, as ``resampled_ap`` returns its two: (1, IoU, class, resample)."""
    return _resample(classes, counts, (_coco_points,), len(IOU_PERCENT))


def _resample(
    classes: Sequence[ClassOutcomes], counts: np.ndarray, metrics: Sequence[Metric], num_thresholds: int
) -> np.ndarray:
    num_resamples = counts.shape[1]
    result = np.full((len(metrics), num_thresholds, len(classes), num_resamples), np.nan)
    for label, one in enumerate(classes):
        for start in range(0, num_resamples if len(one.positives) else 0, CHUNK):
            columns = slice(start, start + CHUNK)
            result[:, :, label, columns] = _class_ap(one, counts[:, columns], metrics)
    return result


def _class_ap(found: ClassOutcomes, counts: np.ndarray, metrics: Sequence[Metric]) -> np.ndarray:
    """Return AP (metric, IoU, R) of one class; ``counts`` is (pictures, R)."""
    outcomes = found.outcomes
    num_positives = counts[found.positives].sum(axis=0, dtype=np.float64)  # (R,) objects to be found
    counts = counts[found.pictures]  # (N, R) of each detection's picture
    result = np.zeros((len(metrics), len(outcomes), counts.shape[1]))
    # Recall and precision matter at right detections only: what lies between two of them is summed at once.
    rows = np.flatnonzero(np.any([one == TRUE_POSITIVE for one in outcomes], axis=0))
    if len(rows):
        bounds = [0, *(rows + 1).tolist()]
        between = [counts[low:high].sum(axis=0, dtype=np.int32) for low, high in pairwise(bounds)]
        num_detections = np.cumsum(between, axis=0)  # (rows, R) up to and with each row
    with np.errstate(divide="ignore", invalid="ignore"):  # a class that a resample lacks becomes NaN below
        for index, one in enumerate(outcomes):
            right = np.flatnonzero(one == TRUE_POSITIVE)
            if len(right):
                counted = num_detections[np.searchsorted(rows, right)]
                counted = counted - _ignored_before(one, right, counts)
                curves = _curves(np.cumsum(counts[right], axis=0, dtype=np.int32), counted, num_positives)
                result[:, index] = [metric(*curves) for metric in metrics]
    result[:, :, num_positives == 0] = np.nan
    return result


def _ignored_before(outcomes: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray | int:
    ignored = np.flatnonzero((outcomes != TRUE_POSITIVE) & (outcomes != FALSE_POSITIVE))
    if not len(ignored):
        return 0
    sums = np.cumsum(counts[ignored], axis=0, dtype=np.int32)
    return np.concatenate([np.zeros_like(sums[:1]), sums])[np.searchsorted(ignored, right)]


def _curves(num_right: np.ndarray, counted: np.ndarray, num_positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and the falling envelope of precision, both (T, R).

    A right detection whose picture was not drawn stays as a row. It has the recall of the row above and no higher
    precision, so that it changes neither metric.
    """
    precision = num_right / np.maximum(counted, 1)
    return num_right / num_positives, np.maximum.accumulate(precision[::-1], axis=0)[::-1]


def _eleven_points(recall: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    padded = np.concatenate([envelope, np.zeros((1, envelope.shape[1]))])
    columns = np.arange(envelope.shape[1])
    return sum(padded[(recall < point).sum(axis=0), columns] for point in ELEVEN_POINTS) / 11.0


def _area(recall: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    return (np.diff(recall, axis=0, prepend=0.0) * envelope).sum(axis=0)


def _coco_points(recall: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    padded = np.concatenate([envelope, np.zeros((1, envelope.shape[1]))])
    places = np.stack([np.searchsorted(column, COCO_POINTS) for column in recall.T], axis=1)
    return np.take_along_axis(padded, places, axis=0).mean(axis=0)


def summarise_resamples(table: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``{"AP", "AP50", "AP75"}`` in percent, each (metric, R), of a table with AP at all of IOU_PERCENT."""
    has_ground_truth = ~np.isnan(table)
    total = np.where(has_ground_truth, table, 0.0).sum(axis=2)
    count = has_ground_truth.sum(axis=2)
    means = 100 * np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    ap50, ap75 = (means[:, IOU_PERCENT.index(percent)] for percent in (50, 75))
    return dict(zip(SUMMARIES, (means.mean(axis=1), ap50, ap75), strict=True))
