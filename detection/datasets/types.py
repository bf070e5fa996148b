"""Datasets in memory, whatever their format on disk, and what their readers do with a defect.

Boxes are kept as the VOC format has them: xmin, ymin, xmax, ymax in pixels, 1-based and inclusive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT_VARIABLE = "DETECTRON2_DATASETS"


class AnnotatedObject(NamedTuple):
    """One annotated object; ``box`` is xmin, ymin, xmax, ymax in 1-based inclusive pixels, unchecked, as in the XML.

    ``difficult`` objects are trained on and neither help nor hurt in evaluation. A ``crowd``, which only COCO files
    have, is difficult and not trained on.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    crowd: bool = False


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture of an image set; ``width`` and ``height`` are the XML's, or the file's own where the XML has none."""

    image_id: str
    path: Path
    annotation: Path
    width: int
    height: int
    objects: tuple[AnnotatedObject, ...]


@dataclass(frozen=True)
class DetectionDataset:
    """An image set, in the order of its text file; a class's place in ``classes`` is its label."""

    name: str
    folder: Path
    image_set: str
    classes: tuple[str, ...]
    pictures: tuple[AnnotatedPicture, ...]


OnDefect = Callable[[Exception], None]


OnDefect = Callable[[Exception], None]


def class_name_faults(names: Iterable[str]) -> list[str]:
    """Return what is wrong with class names, given or found: each one names a file of detections."""
    return [f"class name {name!r} holds a slash; a file is named after it" for name in names if "/" in name]


def refuse(defect: Exception) -> None:
    """Raise ``defect``: what the readers of datasets do unless told otherwise."""
    raise defect


def default_root() -> Path:
    """Return where datasets lie if nobody says so: ``$DETECTRON2_DATASETS``, else ``./datasets``, as in Detectron2."""
    return Path(os.environ.get(ROOT_VARIABLE) or "datasets")
