"""Datasets by name, whatever their format; their pictures; and class lists as the command line has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from detection.datasets.coco import is_coco, load_coco
from detection.datasets.types import AnnotatedPicture, DetectionDataset, OnDefect, class_name_faults, refuse
from detection.datasets.voc import load_voc
from pretrain.run.pictures import read_picture
from pretrain.run.text import parse_json, read_text


def load_dataset(
    name: str,
    *,
    root: Path | str | None = None,
    classes: Sequence[str] | None = None,
    check_pictures: bool = True,
    pictures_anywhere: bool = False,
    on_defect: OnDefect = refuse,
) -> DetectionDataset:
    """Read the dataset ``name``: COCO's format for ``coco_<year>_<set>`` and ``<path>.json``, else VOC's.

    Arguments and errors are those of ``detection.datasets.voc.load_voc`` and ``detection.datasets.coco.load_coco``.
    """
    if not is_coco(name):
        return load_voc(name, root=root, classes=classes, check_pictures=check_pictures, on_defect=on_defect)
    return load_coco(
        name,
        root=root,
        classes=classes,
        check_pictures=check_pictures,
        pictures_anywhere=pictures_anywhere,
        on_defect=on_defect,
    )


def read_checked(picture: AnnotatedPicture) -> Image.Image:
    """Return ``read_picture`` of a dataset's picture, whose size must be the one that its boxes are for.

    Raises:
        FileNotFoundError, ValueError: as ``read_picture``; or another size, with both files and sizes.
    """
    image = read_picture(picture.path)
    if (image.width, image.height) != (picture.width, picture.height):
        raise ValueError(
            f"{picture.annotation}: the boxes are for a picture of {picture.width}x{picture.height} pixels, but"
            f" {picture.path} has {image.width}x{image.height}"
        )
    return image


def read_class_list(text: str) -> list[str]:
    """Return the class names in ``text``: separated by commas, a JSON list, or the path of a file with one a line.

    Raises:
        FileNotFoundError: ``text`` is written like a path, but there is no such file.
        ValueError: no name, a name twice, a name that no file can have, or a file or list that cannot be read.
    """
    is_file = os.path.isfile(text)  # False too of a list that is too long for a file's name
    if text.startswith("[") and not is_file:  # the form for names that hold a comma
        names = _read_json_list(text)
    elif is_file:
        names = read_text(text).split("\n")
    elif text.endswith(".txt") or ("/" in text and "," not in text):
        raise FileNotFoundError(f"class list {text} does not exist")
    else:
        names = text.split(",")
    names = [name.strip() for name in names if name.strip()]
    twice = [f"class name {name!r} stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    faults = [*class_name_faults(names), *twice]
    if faults or not names:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise ValueError(f"class list {shown!r}: {'; '.join(faults) or 'it names no class'}")
    return names


def _read_json_list(text: str) -> list[str]:
    names = parse_json(text, f"classes {text:.80}")
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"classes {text}: expected a JSON list of names")
    return names
