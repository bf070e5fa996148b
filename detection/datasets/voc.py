"""Datasets in the Pascal VOC layout: find, read and check them before anything expensive starts.

A dataset is an image set, a text file of picture ids, in a folder with the challenge's layout::

    VOC2007/Annotations/<id>.xml   ImageSets/Main/<set>.txt   JPEGImages/<id>.jpg

Boxes are kept exactly as the XML has them: xmin, ymin, xmax, ymax in pixels, 1-based and inclusive.
``detection.samples`` shifts them for training and ``detection.evaluation`` follows the devkit, each in one place.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.parsers import expat

from detection.datasets.types import (
    ROOT_VARIABLE,
    AnnotatedObject,
    AnnotatedPicture,
    DetectionDataset,
    OnDefect,
    class_name_faults,
    default_root,
    refuse,
)
from pretrain.run.pictures import PICTURE_SUFFIXES, displayed_size

if TYPE_CHECKING:
    pass

# Alphabetical, as the challenge and Detectron2 have them: the index is the label.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_NAME = re.compile(r"voc_(\d{4})_(.+)")  # as in Detectron2: voc_2007_trainval
MAX_ANNOTATION_BYTES = 16 << 20  # 100,000 objects take less; parsing takes many times the file's size in memory

logger = logging.getLogger(__name__)


def load_voc(
    name: str,
    *,
    root: Path | str | None = None,
    classes: Sequence[str] | None = None,
    check_pictures: bool = True,
    on_defect: OnDefect = refuse,
) -> DetectionDataset:
    """Read the dataset ``name`` with all its annotations.

    ``voc_<year>_<image set>`` lives in ``VOC<year>`` under ``root`` or under ``root/VOCdevkit``, with the challenge's
    20 classes unless ``classes`` says otherwise. Any other name is an image set of the folder ``root`` itself; without
    ``classes`` it has those that its annotations name, in alphabetical order. Without ``root`` (or with "") it is
    ``default_root()``.

    Boxes that are degenerate or leave the picture are kept: training clips or drops them, evaluation treats them as the
    devkit does. With ``check_pictures=False`` the picture files may be absent, which is enough to evaluate detections.

    ``on_defect`` is called with every error below that concerns one line, picture or object. If it returns, that one is
    left out and reading goes on.

    Raises:
        FileNotFoundError: the folder, the image set, an annotation or a picture is missing.
        ValueError: an empty image set, a duplicate id, an unknown class, or an annotation that cannot be understood.
    """
    year_and_set = VOC_NAME.fullmatch(name)
    root = Path(root) if root else default_root()
    if year_and_set:
        folder, image_set = _year_folder(name, root, year_and_set[1]), year_and_set[2]
        classes = tuple(classes or VOC_CLASSES)
    else:
        folder, image_set = root, name
        classes = tuple(classes) if classes else None
    if not folder.is_dir():
        raise FileNotFoundError(f"dataset {name!r}: folder {folder} does not exist; {_how_to_set_root(f'{name}.txt')}")

    ids = _read_image_set(name, folder, image_set, on_defect)
    found = _find_pictures(folder / "JPEGImages")
    pictures = []
    set_file = str(_set_file(folder, image_set))
    for image_id, line in ids.items():
        source = f"{set_file}, line {line}"
        try:
            picture = _read_picture(image_id, folder, found.get(image_id), source, classes, check_pictures, on_defect)
        except (FileNotFoundError, ValueError) as defect:
            on_defect(defect)
        else:
            pictures.append(picture)
    if classes is None:
        classes = tuple(sorted({item.name for picture in pictures for item in picture.objects}))
        if not classes:
            raise ValueError(
                f"dataset {name!r}: no picture of {_set_file(folder, image_set)} has an object, so its "
                "classes are unknown; set VOC.CLASSES, for example \"('cat', 'dog')\""
            )
    return DetectionDataset(name, folder, image_set, classes, tuple(pictures))


def _year_folder(name: str, root: Path, year: str) -> Path:
    tried = [root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"dataset {name!r}: neither {tried[0]} nor {tried[1]} exists; {_how_to_set_root(f'VOC{year}')}"
    )


def _how_to_set_root(content: str) -> str:
    where = "ImageSets/Main/" if content.endswith(".txt") else ""
    return f"set VOC.ROOT or ${ROOT_VARIABLE} to the folder that holds {where}{content}"


def _set_file(folder: Path, image_set: str) -> Path:
    return folder / "ImageSets" / "Main" / f"{image_set}.txt"


def _read_image_set(name: str, folder: Path, image_set: str, on_defect: OnDefect) -> dict[str, int]:
    """Return picture id -> line number (from 1), in the file's order."""
    path = _set_file(folder, image_set)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"dataset {name!r}: image set {path} does not exist; this folder has {', '.join(known[:20]) or 'none'}"
        )
    ids: dict[str, int] = {}
    for line, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
        words = text.split()
        if not words:
            continue
        if len(words) > 1:
            on_defect(ValueError(f"{path}, line {line}: expected one picture id, but got {text.strip()!r}"))
        elif words[0] in ids:
            first = ids[words[0]]
            on_defect(ValueError(f"{path}, line {line}: duplicate id {words[0]!r}, first seen in line {first}"))
        else:
            ids[words[0]] = line
    if not ids:
        raise ValueError(f"dataset {name!r}: image set {path} names no picture")
    return ids


def _find_pictures(folder: Path) -> dict[str, Path]:
    """Return picture id -> file, from one listing of the folder (a look for each file would cost more than the XML)."""
    if not folder.is_dir():
        return {}
    names = [os.path.splitext(name) for name in os.listdir(folder)]
    rank = {suffix: place for place, suffix in enumerate(PICTURE_SUFFIXES)}
    pictures = [(stem, suffix) for stem, suffix in names if suffix.lower() in rank]
    pictures.sort(key=lambda parts: rank[parts[1].lower()], reverse=True)  # so that the preferred one stays
    return {stem: folder / (stem + suffix) for stem, suffix in pictures}


def _read_picture(
    image_id: str,
    folder: Path,
    path: Path | None,
    source: str,
    classes: tuple[str, ...] | None,
    check_pictures: bool,
    on_defect: OnDefect,
) -> AnnotatedPicture:
    expected = folder / "JPEGImages" / f"{image_id}.jpg"
    if path is None and check_pictures:
        raise FileNotFoundError(f"{source}: picture {expected} of id {image_id!r} does not exist")
    annotation = folder / "Annotations" / f"{image_id}.xml"
    try:
        with open(annotation, "rb") as file:
            too_big = os.fstat(file.fileno()).st_size > MAX_ANNOTATION_BYTES
            content = b"" if too_big else file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: annotation {annotation} of id {image_id!r} does not exist") from None
    if too_big:
        raise ValueError(f"{annotation}: more than {MAX_ANNOTATION_BYTES >> 20} MiB, which no VOC annotation has")
    width, height, objects = _read_annotation(annotation, content, classes, on_defect)
    if width <= 0 or height <= 0:  # some labelling tools leave the size out or write 0
        if path is None:
            raise ValueError(f"{annotation}: no picture size, and picture {expected}, which has it, does not exist")
        width, height = displayed_size(path)
    return AnnotatedPicture(image_id, path or expected, annotation, width, height, objects)


def _read_annotation(
    path: Path, content: bytes, classes: tuple[str, ...] | None, on_defect: OnDefect
) -> tuple[int, int, tuple[AnnotatedObject, ...]]:
    """Return width and height (0 where absent) and the objects."""
    # A document type can define entities that grow without bound; no VOC annotation has one. (UTF-16 pads with zeros.)
    forbidden = re.search(rb"<!(DOCTYPE|ENTITY)", content.replace(b"\0", b""))
    if forbidden:
        line = content.replace(b"\0", b"")[: forbidden.start()].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: {forbidden[0].decode()} is not allowed in an annotation")
    try:
        tree = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(":")[0]
        raise ValueError(f"{path}, line {line}, column {column + 1}: not well-formed XML ({reason})") from None
    except (LookupError, ValueError) as error:  # an encoding that does not exist or cannot be read
        raise ValueError(f"{path}, line 1: not well-formed XML ({error})") from None

    objects = []
    for number, node in enumerate(tree.findall("object")):
        try:
            objects.append(_read_object(node, classes))
        except ValueError as error:
            on_defect(ValueError(f"{path}, line {_object_line(content, number)}: {error}"))
    try:
        width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (ValueError, OverflowError):
        raise ValueError(f"{path}: the picture's width and height must be numbers") from None
    return width, height, tuple(objects)


def _read_object(node: ElementTree.Element, classes: tuple[str, ...] | None) -> AnnotatedObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("object without name")
    if faults := class_name_faults([name]):
        raise ValueError(faults[0])
    if classes is not None and name not in classes:
        raise ValueError(f"unknown class {name!r}; the known ones are {', '.join(classes)}")
    box = node.find("bndbox")
    if box is None:
        raise ValueError(f"object {name!r} without bndbox")
    coordinates = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(side)
        if text is None:
            raise ValueError(f"object {name!r} without {side}")
        coordinates.append(_number(name, side, text))
    difficult = _number(name, "difficult", node.findtext("difficult") or "0")
    return AnnotatedObject(name, tuple(coordinates), difficult != 0)


def _number(name: str, tag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{tag} of object {name!r} is not a number: {text.strip()!r}")
    return value


def _object_line(content: bytes, number: int) -> int:
    """Return the line of the ``number``-th object (from 0); ElementTree does not keep lines, so parse again."""
    lines: list[int] = []
    depth = 0

    def start(tag: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth == 2 and tag == "object":
            lines.append(parser.CurrentLineNumber)

    def end(_tag: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(content, True)
    return lines[number]
