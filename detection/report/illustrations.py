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
    """``kind`` is right, wrong, missed, difficult, doubted or labelled; the sides are shares of the picture (0..1)."""

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


def illustrate(
    dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray, entry: dict[str, Any]
) -> Illustration:
    """Return the picture of ``entry``, one of ``rank_pictures``, with its boxes."""
    index = next(i for i, picture in enumerate(dataset.pictures) if picture.image_id == entry["image_id"])
    picture = dataset.pictures[index]
    boxes = draw_detections(dataset, matches, thresholds, index)
    return Illustration(entry, thumbnail(picture), picture.width, picture.height, boxes)


def draw_detections(dataset: DetectionDataset, matches: Matches, thresholds: np.ndarray, index: int) -> list[DrawnBox]:
    """Return the detections shown in the picture at ``index``, right or wrong, and the objects missed or difficult."""
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
    return boxes


def illustrate_doubt(dataset: DetectionDataset, entry: dict[str, Any]) -> Illustration:
    """Return the picture of ``entry``, one of ``suspect_labels``, with what is detected over what is labelled there."""
    picture = next(picture for picture in dataset.pictures if picture.image_id == entry["image_id"])
    boxes = draw_labels(picture, "doubted", f"{entry['detected']} {entry['score']:.2f}", entry["box"])
    return Illustration(entry, thumbnail(picture), picture.width, picture.height, boxes)


def draw_labels(picture: AnnotatedPicture, kind: str, label: str, box: Sequence[float]) -> list[DrawnBox]:
    """Return the objects of a picture and, over them, what is to be looked at: left, top, right, bottom from 0."""
    boxes = [_relative("labelled", item.name, np.array(item.box), picture) for item in picture.objects]
    return [*boxes, _relative(kind, label, np.array(box) + VOC_SHIFT, picture)]


def illustrate_all(
    dataset: DetectionDataset,
    matches: Matches,
    thresholds: np.ndarray,
    groups: Mapping[str, Sequence[dict[str, Any]]],
) -> dict[str, list[Illustration]]:
    """Return ``illustrate`` of every entry of ``groups``; one warning stands for all files that are not there."""
    pictures = {picture.image_id: picture for picture in dataset.pictures}
    warn_of_absent([pictures[entry["image_id"]] for entries in groups.values() for entry in entries])
    return {
        name: [illustrate(dataset, matches, thresholds, entry) for entry in entries] for name, entries in groups.items()
    }


def warn_of_absent(shown: Sequence[AnnotatedPicture]) -> None:
    """Say in one warning how many of the pictures that a page shows have no file."""
    missing = [picture.path for picture in shown if not picture.path.is_file()]
    if missing:
        logger.warning(
            "the page shows boxes alone for %d of its %d pictures, whose files do not exist, such as %s",
            len(missing),
            len(shown),
            missing[0],
        )


def _relative(kind: str, label: str, box: np.ndarray, picture: AnnotatedPicture) -> DrawnBox:
    """Return ``box``, in the XML's convention, as shares of the picture; what leaves the picture is cut off."""
    size = np.array([picture.width, picture.height])
    low = np.clip((box[:2] - 1) / size, 0, 1)
    sides = np.clip(box[2:] / size, 0, 1) - low
    return DrawnBox(kind, label, *low.tolist(), *np.maximum(sides, 0).tolist())


def thumbnail(picture: AnnotatedPicture) -> bytes | None:
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
