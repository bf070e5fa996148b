"""Average precision of one class, by VOC2007's eleven points and by the area that later challenges use.

Precision peaks and recall grows at right detections only, so both metrics are computed from those alone.
"""

from __future__ import annotations

import numpy as np

from detection.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE

# Multiples of 0.1 in floating point: the fourth is .30000000000000004, so a recall of exactly 3/10 does not reach it;
# 6/10 and 7/10 miss theirs likewise. Detectron2, py-faster-rcnn and the devkit's loop over 0:0.1:1, run by Octave, have
# the same values. (A vector 0:0.1:1 of MATLAB's would count its upper half down from 1, but a loop makes no vector.)
ELEVEN_POINTS = np.arange(0.0, 1.1, 0.1)


def precision_recall(outcomes: np.ndarray, num_positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision after each right detection, both (T,) float64.

    Args:
        outcomes: (N,) of one class in falling order of score, as ``Matches.outcomes`` gives them.
        num_positives: objects of the class that are not difficult; 0 only if there is no right detection.
    """
    right = np.flatnonzero(outcomes == TRUE_POSITIVE)
    num_right = np.arange(1, len(right) + 1, dtype=np.float64)
    num_wrong = np.cumsum(outcomes == FALSE_POSITIVE)[right]
    return num_right / num_positives, num_right / (num_right + num_wrong)


def eleven_point_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the mean, over eleven recalls, of the best precision at that recall or more (0..1).

    ``recall`` and ``precision`` as from ``precision_recall``; without any right detection the result is 0.
    """
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    total = 0.0
    for best in best_from_here[np.searchsorted(recall, ELEVEN_POINTS)]:
        total = total + best / 11.0  # in this order, so that the last bit is Detectron2's and the devkit's too
    return float(total)


def area_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the area under the precision-recall curve whose precision never rises with recall (0..1)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if not len(recall) or recall[-1] != 1.0:  # the sentinel adds nothing, but np.sum groups its terms by their number
        recall, envelope = np.append(recall, 1.0), np.append(envelope, 0.0)
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
