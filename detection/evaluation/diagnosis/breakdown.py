"""Where the AP is lost: errors by kind, and AP by the size of the objects. All at IoU .5.

The kinds follow Hoiem et al., "Diagnosing Error in Object Detectors" (ECCV 2012). A wrong detection is

- ``duplicate``: of an object that a surer detection has found already;
- ``localisation``: its best object of the same class overlaps it by more than .1, but not enough;
- ``confusion``: otherwise, it overlaps an object of another class by more than .1;
- ``background``: it overlaps nothing by more than .1.

An object without a right detection is ``missed``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.average_precision import area_ap, eleven_point_ap, precision_recall
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, Matches, best_overlaps, box_areas

IOU = 0.5
WEAK_IOU = 0.1  # less than this is no overlap worth the name
Metric = Callable[[np.ndarray, np.ndarray], float]  # recall, precision -> AP
KINDS = ("localisation", "confusion", "duplicate", "background")
# COCO's bounds on the area in pixels; VOC has none of its own.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, None)}


class Curve(NamedTuple):
    """A class's detections as its AP sees them: outcomes (N,) in falling order of score, and the objects to find."""

    outcomes: np.ndarray
    num_positives: int


def error_kinds(matches: Matches) -> np.ndarray:
    """Return (N,) int8: the place in KINDS of each wrong detection, -1 for the others."""
    wrong = matches.outcomes(IOU) == FALSE_POSITIVE
    close, hit = matches.best_iou > WEAK_IOU, matches.hits(IOU)
    any_class, _ = best_overlaps(
        matches.boxes, matches.pictures, matches.truth.boxes, matches.truth.pictures, rules=matches.rules
    )
    kinds = np.select([hit, close, any_class > WEAK_IOU], [2, 0, 1], 3)
    return np.where(wrong, kinds, -1).astype(np.int8)


def break_down_errors(dataset: DetectionDataset, matches: Matches) -> dict[str, dict[str, Any]]:
    """Return, for each kind and ``missed``: ``count``, ``per_class`` (name -> count) and ``gain``.

    Wrong detections count among a class's surest only, as many as it has objects (Hoiem's choice): with all of them the
    count would say how many hopeless detections the detector prints. ``gain`` is what the 11-point mAP at IoU .5 would
    rise by, in points, if no error of this kind were made: confusions, duplicates and background detections vanish, a
    poorly placed detection finds its object (or vanishes if that is found already), a missed object need not be found.
    """
    truth = matches.truth
    outcomes, kinds = matches.outcomes(IOU), error_kinds(matches)
    names = (*KINDS, "missed")
    counts = {name: dict.fromkeys(dataset.classes, 0) for name in names}
    repaired: dict[str, list[Curve]] = {name: [] for name in ("nothing", *names)}
    for label in np.flatnonzero(truth.num_positives):
        class_name, num_positives = dataset.classes[label], int(truth.num_positives[label])
        span = matches.of_class(label)
        of_class, kind = outcomes[span], kinds[span]
        num_found = int(np.count_nonzero(of_class == TRUE_POSITIVE))
        surest = kind[np.flatnonzero(of_class != IGNORED)[:num_positives]]
        repaired["nothing"].append(Curve(of_class, num_positives))
        for index, name in enumerate(KINDS):
            counts[name][class_name] = int(np.count_nonzero(surest == index))
            without = np.where(kind == index, IGNORED, of_class)
            if name == "localisation":
                without = _with_better_boxes(matches, span, without, kind == index)
            repaired[name].append(Curve(without, num_positives))
        counts["missed"][class_name] = num_positives - num_found
        repaired["missed"].append(Curve(of_class, num_found))

    actual = _mean_ap(repaired["nothing"])
    return {
        name: {
            "count": sum(counts[name].values()),
            "gain": _mean_ap(repaired[name]) - actual,
            "per_class": counts[name],
        }
        for name in names
    }


def _with_better_boxes(matches: Matches, span: slice, outcomes: np.ndarray, poor: np.ndarray) -> np.ndarray:
    """Return ``outcomes`` (N,) where each ``poor`` detection covers its object: right, unless a surer one has it."""
    objects = matches.best_object[span]
    claims = np.flatnonzero(((outcomes == TRUE_POSITIVE) | poor) & (objects >= 0))
    claims = claims[~matches.truth.difficult[objects[claims]]]
    _, first = np.unique(objects[claims], return_index=True)
    result = outcomes.copy()
    result[claims] = IGNORED
    result[claims[first]] = TRUE_POSITIVE
    return result


def break_down_sizes(matches: Matches) -> dict[str, dict[str, Any]]:
    """Return, for each of SIZES: ``area`` bounds, ``objects``, ``found`` (percent), AP50 as ``voc07`` and ``voc10``.

    Objects of another size count as difficult, and wrong detections whose own box has another size do not count (COCO's
    rule). ``found`` and AP are None where there is no object of that size.
    """
    truth = matches.truth
    object_area, detection_area = box_areas(truth.boxes), box_areas(matches.boxes)
    outcomes, hit = matches.outcomes(IOU), matches.hits(IOU)
    result = {}
    for name, (low, high) in SIZES.items():
        object_fits = _within(object_area, low, high)
        fits = np.where(hit, object_fits[matches.best_object], _within(detection_area, low, high))
        of_size = np.where(fits, outcomes, IGNORED)
        wanted = np.bincount(truth.classes[object_fits & ~truth.difficult], minlength=len(truth.num_positives))
        curves = [Curve(of_size[matches.of_class(label)], int(wanted[label])) for label in np.flatnonzero(wanted)]
        total, found = int(wanted.sum()), int(np.count_nonzero(of_size == TRUE_POSITIVE))
        result[name] = {
            "area": [low, high],
            "objects": total,
            "found": 100 * found / total if total else None,
            "voc07": _mean_ap(curves) if total else None,
            "voc10": _mean_ap(curves, area_ap) if total else None,
        }
    return result


def _mean_ap(curves: list[Curve], metric: Metric = eleven_point_ap) -> float:
    """Return the mean AP in percent; a class that has nothing left to find has lost nothing."""
    return float(np.mean([100 * metric(*precision_recall(*one)) if one.num_positives else 100.0 for one in curves]))


def _within(areas: np.ndarray, low: float, high: float | None) -> np.ndarray:
    return (areas >= low) & (areas < (np.inf if high is None else high))
