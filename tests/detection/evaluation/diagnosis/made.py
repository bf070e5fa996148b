"""Made ground truth and detections: scenes by hand, and a good detector's, some labels of which are then made wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import PictureDetections
from detection.evaluation.matching import Matches, match_detections

SIDE = 400
CLASSES = ("dog", "person", "car", "cat", "bird")


def scene(
    objects: dict[str, list[tuple]], detections: dict[str, list[tuple]], *, folder: Path = Path()
) -> tuple[DetectionDataset, dict[str, PictureDetections]]:
    """Return pictures of dogs and cats, and what a detector says of them, both as written down.

    objects: id -> (class, box, difficult=False); detections: id -> (label, score, box). Boxes are as in the XML.
    """
    pictures = tuple(
        AnnotatedPicture(
            image_id,
            folder / f"{image_id}.jpg",
            folder / f"{image_id}.xml",
            SIDE,
            SIDE,
            tuple(AnnotatedObject(name, box, bool(rest)) for name, box, *rest in items),
        )
        for image_id, items in objects.items()
    )
    found = {
        image_id: PictureDetections(np.array(boxes) - [1, 1, 0, 0], np.array(scores), np.array(labels))
        for image_id, rows in detections.items()
        for labels, scores, boxes in [zip(*rows, strict=True)]
    }
    return DetectionDataset("made", folder, "made", ("dog", "cat"), pictures), found


def matched_scene(*scene_as_written: Any, **options: Any) -> tuple[DetectionDataset, Matches]:
    """Return the data set of ``scene``, and the matches of its detections."""
    dataset, detections = scene(*scene_as_written, **options)
    return dataset, match_detections(dataset, detections)


def make(
    seed: int, num_pictures: int, classes: tuple[str, ...] = CLASSES
) -> tuple[DetectionDataset, dict[str, PictureDetections]]:
    """Return pictures of one to five objects apart from each other, and what a good detector says of them.

    It finds 97 in 100 objects, with scores around .9 and boxes that are a few pixels off, takes 2 in 100 for another
    class, and adds a detection of nothing, with a low score, to every other picture.
    """
    rng = np.random.default_rng(seed)
    pictures, detections = [], {}
    for number in range(num_pictures):
        cells = rng.permutation(16)[: rng.integers(1, 6)]
        objects, rows = [], []
        for cell in cells.tolist():
            left, top = 100 * (cell % 4) + rng.integers(1, 15), 100 * (cell // 4) + rng.integers(1, 15)
            box = (float(left), float(top), float(left + rng.integers(40, 80)), float(top + rng.integers(40, 80)))
            label = int(rng.integers(len(classes)))
            objects.append(AnnotatedObject(classes[label], box, difficult=bool(rng.random() < 0.05)))
            if rng.random() < 0.97:
                told = label if rng.random() < 0.98 else (label + 1) % len(classes)
                score = rng.beta(18, 2) if told == label else rng.uniform(0.05, 0.6)
                rows.append((*(np.array(box) + rng.normal(0, 2, 4)), score, told))
        if number % 2:
            left, top = rng.uniform(0, 300, 2)
            rows.append((left, top, left + 60, top + 60, rng.uniform(0.05, 0.4), rng.integers(len(classes))))
        image_id = f"{number:06d}"
        pictures.append(AnnotatedPicture(image_id, Path("x.jpg"), Path(f"{image_id}.xml"), SIDE, SIDE, tuple(objects)))
        table = np.array(rows, np.float64).reshape(-1, 6)
        shift = np.array([1, 1, 0, 0])
        detections[image_id] = PictureDetections(table[:, :4] - shift, table[:, 4], table[:, 5].astype(np.int64))
    return DetectionDataset("made", Path(), "made", classes, tuple(pictures)), detections


def plant(dataset: DetectionDataset, seed: int, count: int) -> tuple[DetectionDataset, dict[str, Any]]:
    """Return ``dataset`` with ``count`` wrong labels, every other a removed box; image id -> (kind, true object)."""
    rng = np.random.default_rng(seed)
    pictures = list(dataset.pictures)
    planted: dict[str, Any] = {}
    for place in rng.permutation(len(pictures)).tolist():
        picture = pictures[place]
        able = [at for at, item in enumerate(picture.objects) if not item.difficult]
        if len(planted) == count or not able:
            continue
        at = int(rng.choice(able))
        item = picture.objects[at]
        others = [name for name in dataset.classes if name != item.name]
        removed = len(planted) % 2 == 0
        new = () if removed else (item._replace(name=str(rng.choice(others))),)
        pictures[place] = replace(picture, objects=picture.objects[:at] + new + picture.objects[at + 1 :])
        planted[picture.image_id] = ("missing" if removed else "class", item)
    return replace(dataset, pictures=tuple(pictures)), planted
