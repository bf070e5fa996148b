"""Detections against ground truth by the VOC devkit's rules, for all pictures, classes and thresholds at once.

Which object a detection overlaps most does not depend on the IoU threshold, so it is found once. What is left for each
threshold is cheap: a comparison, and the first detection of each object.

Three dialects of one rule exist, and ``Rules`` has each:

- ``standard``, the default: scores and boxes as they are; a detection matches where its IoU exceeds the threshold, as
  in py-faster-rcnn and Detectron2, from which published numbers come. Equal scores are ordered by picture id, then
  xmin, ymin, xmax, ymax, so that the result depends neither on the order of the input nor on the machine.
- ``devkit``: as the official VOCevaldet.m: an IoU that equals the threshold matches too, and equal scores stay in the
  order of the lines in the file. The two differ only where an IoU is exactly a threshold or scores are equal.
  (Detections that come from no file have the order in which they would be written to one.)
- ``detectron2``: scores rounded to three digits and boxes to one, as its evaluator's text files have them, and equal
  scores in the order that ``np.argsort`` happens to give on this machine. For comparison with its printed numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.detections import (
    VOC_SHIFT,
    FileDetections,
    PictureDetections,
    check_detections,
    concatenate,
)

Rules = Literal["standard", "devkit", "detectron2"]
RULES: dict[Rules, str] = {  # in words, for reports
    "standard": "a detection matches where its IoU exceeds the threshold",
    "devkit": "a detection matches where its IoU exceeds or equals the threshold; equal scores by line",
    "detectron2": "a detection matches where its IoU exceeds the threshold; scores rounded to .001, boxes to .1",
}

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, -1  # IGNORED: a match with a difficult object, neither right nor wrong


@dataclass(frozen=True)
class GroundTruth:
    """All M objects of a dataset, ordered by class, then picture, then place in the XML; boxes as in the XML."""

    boxes: np.ndarray  # (M, 4) float64
    classes: np.ndarray  # (M,) int64
    pictures: np.ndarray  # (M,) int64, place in dataset.pictures
    difficult: np.ndarray  # (M,) bool: difficult or a crowd
    num_positives: np.ndarray  # (num_classes,) int64: objects that are not difficult


@dataclass(frozen=True)
class Matches:
    """All N detections, ordered by class, then falling score, and the object that each overlaps most."""

    rules: Rules
    truth: GroundTruth
    boxes: np.ndarray  # (N, 4) float64 in the XML's convention: 1-based, inclusive
    scores: np.ndarray  # (N,) float64
    classes: np.ndarray  # (N,) int64
    pictures: np.ndarray  # (N,) int64, place in dataset.pictures
    best_iou: np.ndarray  # (N,) float64; -1 where the picture has no object of the class
    best_object: np.ndarray  # (N,) int64, place in truth; -1 likewise

    def of_class(self, label: int) -> slice:
        """Return where the detections of class ``label`` stand."""
        return slice(*np.searchsorted(self.classes, [label, label + 1]))

    def hits(self, threshold: float) -> np.ndarray:
        """Return (N,) bool: whether the best object is overlapped enough at this IoU threshold."""
        return self.best_iou >= threshold if self.rules == "devkit" else self.best_iou > threshold

    def outcomes(self, threshold: float) -> np.ndarray:
        """Return (N,) int8: TRUE_POSITIVE, FALSE_POSITIVE or IGNORED at this IoU threshold.

        The best object counts even when it is difficult or already taken; there is no second choice. The first
        detection of an object, in falling order of score, is right; later ones are duplicates and wrong.
        """
        hits = np.flatnonzero(self.hits(threshold))
        objects = self.best_object[hits]
        result = np.full(len(self.scores), FALSE_POSITIVE, np.int8)
        first = np.full(len(self.truth.boxes), len(result))
        first[objects[::-1]] = hits[::-1]  # of several assignments to one place the last stays: the highest score
        result[first[first < len(result)]] = TRUE_POSITIVE
        result[hits[self.truth.difficult[objects]]] = IGNORED
        return result


class ClassOutcomes(NamedTuple):
    """The N detections of a class in falling order of score, and the P objects that are to be found."""

    outcomes: tuple[np.ndarray, ...]  # one an IoU threshold, (N,) as of ``Matches.outcomes``
    pictures: np.ndarray  # (N,) int64, place in dataset.pictures
    positives: np.ndarray  # (P,) int64, likewise of each object


def collect_ground_truth(dataset: DetectionDataset) -> GroundTruth:
    """Gather the objects of ``dataset`` into arrays."""
    label = {name: index for index, name in enumerate(dataset.classes)}
    rows = [
        (label[item.name], index, item.difficult, *item.box)
        for index, picture in enumerate(dataset.pictures)
        for item in picture.objects
    ]
    table = np.array(rows, np.float64).reshape(-1, 7)
    table = table[np.argsort(table[:, 0], kind="stable")]
    classes, difficult = table[:, 0].astype(np.int64), table[:, 2].astype(bool)
    num_positives = np.bincount(classes[~difficult], minlength=len(dataset.classes))
    return GroundTruth(table[:, 3:].copy(), classes, table[:, 1].astype(np.int64), difficult, num_positives)


def match_detections(
    dataset: DetectionDataset, detections: Mapping[str, PictureDetections], *, rules: Rules = "standard"
) -> Matches:
    """Order ``detections`` (picture id -> detections; a picture may be absent) and match them with the ground truth.

    Raises:
        ValueError: what ``check_detections`` refuses, or rules that do not exist.
    """
    if rules not in RULES:
        raise ValueError(f"evaluation rules {rules!r} do not exist; choose from {', '.join(RULES)}")
    check_detections(dataset, detections)
    present = [index for index, picture in enumerate(dataset.pictures) if picture.image_id in detections]
    found = [detections[dataset.pictures[index].image_id] for index in present]
    boxes, scores, classes, owner = concatenate(found)
    pictures = np.array(present, np.int64)[owner]
    if rules == "detectron2":
        boxes, scores = _detectron2_rounding(boxes, scores)
        order = _detectron2_order(scores, classes, len(dataset.classes))
    else:
        boxes, scores = boxes.astype(np.float64) + VOC_SHIFT, scores.astype(np.float64)
        if rules == "devkit":
            order = np.lexsort((_lines(dataset, detections, present, len(scores)), -scores, classes))
        else:
            order = _reproducible_order(scores, classes, _picture_rank(dataset)[pictures], boxes)
    boxes, scores, classes, pictures = boxes[order], scores[order], classes[order], pictures[order]

    truth = collect_ground_truth(dataset)
    stride = len(dataset.pictures)  # a group is a class in a picture
    best_iou, best_object = best_overlaps(
        boxes, classes * stride + pictures, truth.boxes, truth.classes * stride + truth.pictures, rules=rules
    )
    return Matches(rules, truth, boxes, scores, classes, pictures, best_iou, best_object)


def voc_overlap(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intersection and union, in pixels, of boxes (..., 4) in the XML's convention: a side is max - min + 1."""
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]) + 1.0
    sides = np.maximum(sides, 0.0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, box_areas(first) + box_areas(second) - intersection


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Return the area (...) in pixels of boxes (..., 4) in the XML's convention."""
    return (boxes[..., 2] - boxes[..., 0] + 1.0) * (boxes[..., 3] - boxes[..., 1] + 1.0)


def _lines(
    dataset: DetectionDataset, detections: Mapping[str, PictureDetections], present: list[int], count: int
) -> np.ndarray:
    """Return (count,) the line in its file of each detection of the pictures ``present``, one after the other."""
    if not isinstance(detections, FileDetections) or not present:
        return np.arange(count)
    return np.concatenate([detections.lines[dataset.pictures[index].image_id] for index in present])


def _picture_rank(dataset: DetectionDataset) -> np.ndarray:
    """Return, for each picture, its place among the sorted ids."""
    ids = [picture.image_id for picture in dataset.pictures]
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank


def _reproducible_order(scores: np.ndarray, classes: np.ndarray, rank: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the order by class, falling score, picture id and box; what is still equal is equal in every respect."""
    order = np.lexsort((-scores, classes))
    ordered_scores, ordered_classes = scores[order], classes[order]
    tied = (ordered_scores[1:] == ordered_scores[:-1]) & (ordered_classes[1:] == ordered_classes[:-1])
    if not tied.any():
        return order
    # Sorting by seven keys is slow and ties are rare at full precision: only the members of ties are sorted again.
    run = np.concatenate([[0], np.cumsum(~tied)])
    members = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
    subset = order[members]
    within = np.lexsort((*boxes[subset].T[::-1], rank[subset], run[members]))
    order[members] = subset[within]
    return order


def _detectron2_rounding(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what Detectron2 reads back from its text files: boxes (1-based) with one digit, scores with three.

    It adds the one in float32. The products below are exact in float64, so ``rint`` rounds as ``%.1f`` and ``%.3f`` do.
    """
    boxes = (boxes.astype(np.float32) + VOC_SHIFT.astype(np.float32)).astype(np.float64)
    return np.rint(boxes * 10) / 10, np.rint(scores.astype(np.float32).astype(np.float64) * 1000) / 1000


def _detectron2_order(scores: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return its order: class by class ``np.argsort`` as it comes, which is not stable, on the same array as there."""
    parts = []
    for label in range(num_classes):
        members = np.flatnonzero(classes == label)
        parts.append(members[np.argsort(-scores[members])])
    return np.concatenate(parts)


def best_overlaps(
    boxes: np.ndarray, groups: np.ndarray, object_boxes: np.ndarray, object_groups: np.ndarray, *, rules: Rules
) -> tuple[np.ndarray, np.ndarray]:
    """Return each box's highest IoU with an object of its group (-1 without one), and the first object that has it.

    Boxes (N, 4) and objects (M, 4) are in the XML's convention; groups are small integers from 0. The objects' order is
    free; "first" is by their place.
    """
    best_iou, best_object = np.full(len(boxes), -1.0), np.full(len(boxes), -1)
    pair_row, pair_object, iou = overlapping_pairs(boxes, groups, object_boxes, object_groups, rules=rules)
    if not len(pair_row):
        return best_iou, best_object
    pair_starts = np.flatnonzero(np.diff(pair_row, prepend=-1))
    rows = pair_row[pair_starts]  # boxes with at least one candidate
    highest = np.maximum.reduceat(iou, pair_starts)
    best_iou[rows] = highest
    candidates = np.where(iou == best_iou[pair_row], pair_object, len(object_boxes))
    best_object[rows] = np.minimum.reduceat(candidates, pair_starts)
    return best_iou, best_object


def overlapping_pairs(
    boxes: np.ndarray,
    groups: np.ndarray,
    object_boxes: np.ndarray,
    object_groups: np.ndarray,
    *,
    rules: Rules = "standard",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the place of the box, that of the object, and the IoU of every pair of one group, in the boxes' order.

    Arguments as those of ``best_overlaps``; pairs that do not overlap are among them.
    """
    by_group = np.argsort(object_groups, kind="stable")  # so that a box's candidates are a range
    num_groups = int(max(groups.max(initial=-1), object_groups.max(initial=-1))) + 1
    sizes = np.bincount(object_groups, minlength=num_groups)
    starts = np.cumsum(sizes) - sizes
    counts = sizes[groups]
    pair_starts = np.cumsum(counts) - counts
    pair_row = np.repeat(np.arange(len(boxes)), counts)
    pair_object = by_group[np.arange(counts.sum()) + np.repeat(starts[groups] - pair_starts, counts)]
    intersection, union = voc_overlap(boxes[pair_row], object_boxes[pair_object])
    with np.errstate(divide="ignore", invalid="ignore"):  # two boxes without area
        iou = intersection / union
    if rules != "detectron2":  # the devkit looks at overlapping boxes only; there 0 / 0 hides every other object
        iou = np.where(intersection > 0, iou, 0.0)
    return pair_row, pair_object, iou
