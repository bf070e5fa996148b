"""The pictures of a report, and their boxes for the eye: the worst and the best ones, and those with doubted labels.

A detector prints detections of every certainty; a person looks at the sure ones. Each class has its own score from
which a detection is shown: the one with the best F1 over the split at IoU .5 (``score_thresholds``).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from detection.datasets.types import AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import VOC_SHIFT
from detection.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches
from pretrain.run.cli import one_line
from pretrain.run.pictures import read_picture

IOU = 0.5
LONGEST_SIDE = 480  # of an embedded picture, in pixels
JPEG_QUALITY = 80

logger = logging.getLogger(__name__)


class DrawnBox(NamedTuple):
    """``kind`` is right, wrong, missed, difficult or doubted; the sides are shares of the picture (0..1)."""

    kind: str
    label: str
    left: float
    top: float
    width: float
    height: float


class Illustration(NamedTuple):
    """A picture of the report: its line in report.json, the JPEG (None if there is none) and the boxes over it."""

    entry: dict[str, Any]
    jpeg: bytes | None
    width: int
    height: int
    boxes: list[DrawnBox]


def rank_pictures(dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Return the pictures that have objects or shown detections, the worst first.

    Each is ``{"image_id", "right", "wrong", "missed", "f1"}``. The worst has the lowest F1, then the most errors, then
    the fewest right detections; the best, at the end, is perfect and has the most objects.
    """
    size = len(dataset.pictures)
    outcomes = matches.outcomes(IOU)
    shown = matches.scores >= thresholds[matches.classes]
    right = np.bincount(matches.pictures[shown & (outcomes == TRUE_POSITIVE)], minlength=size)
    wrong = np.bincount(matches.pictures[shown & (outcomes == FALSE_POSITIVE)], minlength=size)
    wanted = np.bincount(matches.truth.pictures[~matches.truth.difficult], minlength=size)
    missed = wanted - right
    entries = [
        {"image_id": picture.image_id, "right": r, "wrong": w, "missed": m, "f1": 2 * r / (2 * r + w + m)}
        for picture, r, w, m in zip(dataset.pictures, right.tolist(), wrong.tolist(), missed.tolist(), strict=True)
        if r + w + m
    ]
    return sorted(entries, key=lambda e: (e["f1"], -e["wrong"] - e["missed"], e["right"], e["image_id"]))


def illustrate(
    dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray, entry: dict[str, Any]
) -> Illustration:
    """Return the picture of ``entry``, one of ``rank_pictures``, with its boxes."""
    index = next(i for i, picture in enumerate(dataset.pictures) if picture.image_id == entry["image_id"])
    picture, truth = dataset.pictures[index], matches.truth
    outcomes = matches.outcomes(IOU)
    shown = np.flatnonzero((matches.pictures == index) & (matches.scores >= thresholds[matches.classes]))
    found = set(matches.best_object[shown[outcomes[shown] == TRUE_POSITIVE]].tolist())
    boxes = []
    for place in np.flatnonzero(truth.pictures == index).tolist():
        if truth.difficult[place] or place not in found:
            kind = "difficult" if truth.difficult[place] else "missed"
            boxes.append(_relative(kind, dataset.classes[truth.classes[place]], truth.boxes[place], picture))
    for place in shown[outcomes[shown] >= FALSE_POSITIVE][::-1].tolist():  # the surest last, so that it lies on top
        kind = "right" if outcomes[place] == TRUE_POSITIVE else "wrong"
        label = f"{dataset.classes[matches.classes[place]]} {matches.scores[place]:.2f}"
        boxes.append(_relative(kind, label, matches.boxes[place], picture))
    return Illustration(entry, _jpeg(picture), picture.width, picture.height, boxes)


def illustrate_doubt(dataset: DetectionDataset, entry: dict[str, Any]) -> Illustration:
    """Return the picture of ``entry``, one of ``suspect_labels``, with what is detected over what is labelled there."""
    picture = next(picture for picture in dataset.pictures if picture.image_id == entry["image_id"])
    boxes = [_relative("difficult", item.name, np.array(item.box), picture) for item in picture.objects]
    label = f"{entry['detected']} {entry['score']:.2f}"
    boxes.append(_relative("doubted", label, np.array(entry["box"]) + VOC_SHIFT, picture))
    return Illustration(entry, _jpeg(picture), picture.width, picture.height, boxes)


def illustrate_all(
    dataset: DetectionDataset,
    matches: Matches,
    thresholds: np.ndarray,
    groups: Mapping[str, Sequence[dict[str, Any]]],
) -> dict[str, list[Illustration]]:
    """Return ``illustrate`` of every entry of ``groups``; one warning stands for all files that are not there."""
    paths = {picture.image_id: picture.path for picture in dataset.pictures}
    shown = [paths[entry["image_id"]] for entries in groups.values() for entry in entries]
    missing = [path for path in shown if not path.is_file()]
    if missing:
        logger.warning(
            "the page shows boxes alone for %d of its %d pictures, whose files do not exist, such as %s",
            len(missing),
            len(shown),
            missing[0],
        )
    return {
        name: [illustrate(dataset, matches, thresholds, entry) for entry in entries] for name, entries in groups.items()
    }


def _relative(kind: str, label: str, box: np.ndarray, picture: AnnotatedPicture) -> DrawnBox:
    """Return ``box``, in the XML's convention, as shares of the picture; what leaves the picture is cut off."""
    size = np.array([picture.width, picture.height])
    low = np.clip((box[:2] - 1) / size, 0, 1)
    sides = np.clip(box[2:] / size, 0, 1) - low
    return DrawnBox(kind, label, *low.tolist(), *np.maximum(sides, 0).tolist())


def _jpeg(picture: AnnotatedPicture) -> bytes | None:
    """Return the picture as the detector sees it, scaled down, as JPEG.

    None where that cannot be done, with a warning unless there is no file: a picture decides nothing about a number.
    """
    try:
        small = read_picture(picture.path)
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(small)).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)  # no metadata
    except FileNotFoundError:
        return None
    except Exception as error:  # an encoder of other people's, as the decoders in pretrain.run.pictures
        logger.warning("the page goes without a picture: %s", one_line(error))
        return None
    return buffer.getvalue()
