"""What a detector says about one picture, in memory. ``detection.evaluation.detection_files`` has the files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection.datasets.types import DetectionDataset

# The devkit counts pixels from 1 and includes the last one. Ours, like Detectron2's, are corner coordinates from 0, so
# only xmin and ymin differ: pixels 1..10 of the devkit are the interval 0..10.
VOC_SHIFT = np.array([1, 1, 0, 0])


class PictureDetections(NamedTuple):
    """N detections in one picture, in any order.

    ``boxes`` (N, 4) float: xmin, ymin, xmax, ymax in pixels of the original picture, 0-based and half-open.
    ``scores`` (N,) float: higher is surer. ``classes`` (N,) int: places in the dataset's class list.

    Detectors give float32; detections read from files keep the float64 of the text.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class FileDetections(dict[str, PictureDetections]):
    """Detections by picture id as the files of ``folder`` have them.

    ``lines`` has the place of each in its file, (N,) int per picture: the devkit takes equal scores in that order.
    ``bboxes`` has left, top, width and height, (N, 4) per picture, as a COCO result file says them; of others it is
    empty.
    """

    def __init__(
        self,
        detections: Mapping[str, PictureDetections],
        lines: Mapping[str, np.ndarray],
        folder: Path,
        bboxes: Mapping[str, np.ndarray] | None = None,
    ):
        super().__init__(detections)
        self.lines, self.folder, self.bboxes = dict(lines), folder, dict(bboxes or {})


def coco_boxes(detections: Mapping[str, PictureDetections], image_id: str) -> np.ndarray:
    """Return left, top, width and height (N, 4) float64 of one picture's detections, as the file has them if one does.

    What a COCO file says has been rounded where corners were made of it.
    """
    if isinstance(detections, FileDetections) and image_id in detections.bboxes:
        return detections.bboxes[image_id]
    boxes = detections[image_id].boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def check_detections(dataset: DetectionDataset, detections: Mapping[str, PictureDetections]) -> None:
    """Refuse detections that cannot be evaluated, with the picture and the value in the message.

    Raises:
        ValueError: an id that ``dataset`` lacks, arrays whose shapes disagree, a class out of range, a value
            that is not finite, or a box whose maximum lies before its minimum.
    """
    known = {picture.image_id for picture in dataset.pictures}
    for image_id, found in detections.items():
        if image_id not in known:
            raise ValueError(f"detections for picture {image_id!r}, which {dataset.name} does not have")
        count = len(found.scores)
        if found.boxes.shape != (count, 4) or found.scores.shape != (count,) or found.classes.shape != (count,):
            raise ValueError(
                f"picture {image_id!r}: expected boxes (N, 4), scores (N,) and classes (N,), but got "
                f"{found.boxes.shape}, {found.scores.shape} and {found.classes.shape}"
            )
    boxes, scores, classes, owner = concatenate(list(detections.values()))
    checks = (
        ("score is not finite", ~np.isfinite(scores), scores),
        ("box is not finite", ~np.isfinite(boxes).all(axis=1), boxes),
        ("box is inverted", (boxes[:, 2:] < boxes[:, :2]).any(axis=1), boxes),
        (f"class is not in 0..{len(dataset.classes) - 1}", (classes < 0) | (classes >= len(dataset.classes)), classes),
    )
    for what, wrong, values in checks:
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"picture {list(detections)[owner[index]]!r}: {what}: {values[index].tolist()}")


def answers_digest(detections: Mapping[str, PictureDetections]) -> str | None:
    """Return a SHA-256 of what was found, in whatever order it stands; None where nothing was."""
    digest, count = hashlib.sha256(), 0
    for image_id in sorted(detections):
        boxes, scores, classes = detections[image_id]
        rows = np.column_stack([boxes, scores, classes]).astype(np.float64)
        digest.update(f"{image_id}\0{len(rows)}\0".encode())
        digest.update(np.ascontiguousarray(rows[np.lexsort(rows.T)]))
        count += len(rows)
    return digest.hexdigest() if count else None


def concatenate(found: list[PictureDetections]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (M, 4) and scores (M,) as precise as they came, classes (M,) int64 and places in ``found`` (M,)."""
    if not found:
        found = [PictureDetections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))]
    counts = [len(one.scores) for one in found]
    return (
        np.concatenate([one.boxes for one in found]),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.classes for one in found]).astype(np.int64),
        np.repeat(np.arange(len(found)), counts),
    )
