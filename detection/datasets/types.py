"""Datasets in memory, whatever their format on disk, and what their readers do with a defect.

Boxes are kept as the VOC format has them: xmin, ymin, xmax, ymax in pixels, 1-based and inclusive.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pretrain.run.files import file_name_fault, same_file_names

ROOT_VARIABLE = "DETECTRON2_DATASETS"
MAX_CLASS_BYTES, MAX_SET_BYTES = 150, 90  # both stand in the name of a file of detections, which has 255


class AnnotatedObject(NamedTuple):
    """One annotated object; ``box`` is xmin, ymin, xmax, ymax in 1-based inclusive pixels, unchecked, as in the XML.

    ``difficult`` objects are trained on and neither help nor hurt in evaluation. A ``crowd``, which only COCO files
    have, is difficult for the VOC metrics, a crowd by COCO's own rule for COCO AP, and not trained on. ``area`` is what
    a COCO file says it is, in pixels; None where it does not say. ``bbox`` is left, top, width and height as a COCO
    file has them, from which ``box`` may differ in the last bit; None for an object of a VOC file.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    crowd: bool = False
    area: float | None = None
    bbox: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture of an image set; ``width`` and ``height`` are the XML's, or the file's own where the XML has none.

    ``number`` is the id where a COCO file gives it as a number; None where it is a word, as in all VOC datasets.
    """

    image_id: str
    path: Path
    annotation: Path
    width: int
    height: int
    objects: tuple[AnnotatedObject, ...]
    number: int | None = None


@dataclass(frozen=True)
class DetectionDataset:
    """An image set, in the order of its text file; a class's place in ``classes`` is its label.

    ``categories`` are those of a COCO file, all of them, each with its number and in the order of the numbers; a class
    keeps its number whatever its label is. None for a VOC dataset, which has no numbers.
    """

    name: str
    folder: Path
    image_set: str
    classes: tuple[str, ...]
    pictures: tuple[AnnotatedPicture, ...]
    categories: tuple[tuple[int, str], ...] | None = None

    @property
    def format(self) -> Literal["coco", "voc"]:
        """Return what the dataset's files are in, and so whose metrics are its own."""
        return "voc" if self.categories is None else "coco"

    @property
    def class_numbers(self) -> tuple[int | None, ...]:
        """Return each class's number in the COCO file; None where the file lacks the class, or is none."""
        numbers = {normal_form(name): number for number, name in self.categories or ()}
        return tuple(numbers.get(normal_form(name)) for name in self.classes)


OnDefect = Callable[[Exception], None]


def class_name_faults(names: Iterable[str]) -> list[str]:
    """Return what is wrong with class names, given or found: each one names a file of detections."""
    names = list(names)
    found = ((name, file_name_fault(name, longest=MAX_CLASS_BYTES)) for name in names)
    faults = [f"class name {_brief(name)} {fault}; a file is named after it" for name, fault in found if fault]
    if pair := same_file_names(names):
        faults.append(f"class names {pair[0]!r} and {pair[1]!r} would be one file's name; files are named after them")
    return faults


def set_name_fault(name: str) -> str | None:
    """Return what is wrong with the name of an image set, None if nothing."""
    fault = file_name_fault(name, longest=MAX_SET_BYTES)
    return fault and f"image set {_brief(name)} {fault}; files of detections are named after it"


def image_id_fault(image_id: str) -> str | None:
    """Return what keeps an id from being the first word of a line of detections, None if nothing."""
    if image_id.split() != [image_id]:
        return f"id {_brief(image_id)} is not one word, as a file of detections has it"
    if any(unicodedata.category(one) in ("Cc", "Cs") or one == "\ufeff" for one in image_id):
        return f"id {_brief(image_id)} holds a control character, which no file of detections can have"
    return None


def _brief(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"{name[:40]!r}..."


def normal_form(name: str) -> str:
    """Return ``name`` with accents composed: what looks the same is then the same, whichever system wrote it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def refuse(defect: Exception) -> None:
    """Raise ``defect``: what the readers of datasets do unless told otherwise."""
    raise defect


def default_root() -> Path:
    """Return where datasets lie if nobody says so: ``$DETECTRON2_DATASETS``, else ``./datasets``, as in Detectron2."""
    return Path(os.environ.get(ROOT_VARIABLE) or "datasets")
