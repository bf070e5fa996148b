"""Datasets in the Pascal VOC layout: find, read and check them before anything expensive starts.

A dataset is an image set, a text file of picture ids, in a folder with the challenge's layout::

    VOC2007/Annotations/<id>.xml   ImageSets/Main/<set>.txt   JPEGImages/<id>.jpg

Boxes are kept exactly as the XML has them: xmin, ymin, xmax, ymax in pixels, 1-based and inclusive.
``detection.samples`` shifts them for training and ``detection.evaluation`` follows the devkit, each in one place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from detection.datasets.types import (
    ROOT_VARIABLE,
    AnnotatedPicture,
    DetectionDataset,
    OnDefect,
    class_name_faults,
    default_root,
    image_id_fault,
    normal_form,
    refuse,
    set_name_fault,
)
from detection.datasets.voc_xml import Known, known_names, read_annotation
from pretrain.run.pictures import PICTURE_SUFFIXES, displayed_size
from pretrain.run.text import read_text

# Alphabetical, as the challenge and Detectron2 have them: the index is the label.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_NAME = re.compile(r"voc_(\d{4})_(.+)")  # as in Detectron2: voc_2007_trainval
SET_OF_A_CLASS = re.compile(r"\S+\s+(-1|0|1)")  # a line of cat_train.txt: id, and whether the class is in the picture
MAX_ANNOTATION_BYTES = 16 << 20  # 100,000 objects take less; parsing takes many times the file's size in memory


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
    if fault := set_name_fault(image_set):
        raise ValueError(fault)
    if not folder.is_dir():
        raise FileNotFoundError(f"dataset {name!r}: folder {folder} does not exist; {_how_to_set_root(f'{name}.txt')}")

    defects: list[Exception] = []

    def tell(defect: Exception) -> None:
        defects.append(defect)
        on_defect(defect)

    ids = _read_image_set(name, folder, image_set, tell)
    found = _find_pictures(folder / "JPEGImages", ids)
    annotations = _AnnotationFiles(folder / "Annotations")
    pictures = []
    set_file = str(_set_file(folder, image_set))
    known = known_names(classes)
    for image_id, line in ids.items():
        source = f"{set_file}, line {line}"
        try:
            pictures.append(_read_picture(image_id, annotations, found, source, known, check_pictures, tell))
        except (FileNotFoundError, ValueError) as defect:
            tell(defect)
    if classes is None:
        classes = tuple(sorted({item.name for picture in pictures for item in picture.objects}))
        if faults := class_name_faults(classes):
            raise ValueError(f"dataset {name!r}: {'; '.join(faults)}")
        if not classes and not defects:  # else the defects are the reason
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
    lines = [(line, text.strip()) for line, text in enumerate(read_text(path).split("\n"), start=1)]
    lines = [(line, text) for line, text in lines if text]
    if lines and all(SET_OF_A_CLASS.fullmatch(text) for _, text in lines):
        on_defect(
            ValueError(
                f"{path}, line {lines[0][0]}: expected one picture id, but got {lines[0][1]!r}: this is the set of one "
                f"class, whose lines end in 1, 0 or -1; use the set of all classes, such as {_without_class(image_set)}"
            )
        )
        return {}
    ids: dict[str, int] = {}
    for line, text in lines:
        if fault := _id_fault(text):
            on_defect(ValueError(f"{path}, line {line}: {fault}"))
        elif text in ids:
            on_defect(ValueError(f"{path}, line {line}: duplicate id {text!r}, first seen in line {ids[text]}"))
        else:
            ids[text] = line
    if not lines:
        raise ValueError(f"dataset {name!r}: image set {path} names no picture")
    return ids


def _without_class(image_set: str) -> str:
    return image_set.rpartition("_")[2]


def _id_fault(text: str) -> str | None:
    """Return what is wrong with a line of an image set, None for a picture id."""
    if len(text.split()) > 1:
        return f"expected one picture id, but got {text!r}"
    drive = re.match(r"[A-Za-z]:", text)
    if drive or os.path.isabs(text) or {".", "..", ""} & set(re.split(r"[/\\]", text)):
        return f"id {text!r} is no path below JPEGImages"
    return image_id_fault(text)


def _find_pictures(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Return picture id -> file, from one listing of each folder (a look for each file would cost more than the XML).

    An id may name a folder below ``folder``: ``a/b``. Accents are compared in their composed form.
    """
    found: dict[str, Path] = {}
    rank = {suffix: place for place, suffix in enumerate(PICTURE_SUFFIXES)}
    for below in {image_id.rpartition("/")[0] for image_id in ids}:
        place = folder / below
        names = [os.path.splitext(name) for name in _list(place)]
        pictures = [(stem, suffix) for stem, suffix in names if suffix.lower() in rank]
        pictures.sort(key=lambda parts: rank[parts[1].lower()], reverse=True)  # so that the preferred one stays
        prefix = f"{below}/" if below else ""
        files = {prefix + stem: place / (stem + suffix) for stem, suffix in pictures}
        found |= {normal_form(image_id): file for image_id, file in files.items() if not image_id.isascii()} | files
    return found


def _list(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


class _AnnotationFiles:
    """The files of ``folder`` by picture id; it is listed only where an id with accents is written in another form."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.listed: dict[str, dict[str, str]] = {}

    def path(self, image_id: str) -> Path:
        path = self.folder / f"{image_id}.xml"
        if image_id.isascii() or os.path.exists(path):
            return path
        below = os.path.dirname(image_id)
        if below not in self.listed:
            self.listed[below] = {normal_form(name): name for name in _list(self.folder / below)}
        return path.with_name(self.listed[below].get(normal_form(path.name), path.name))


def _read_picture(
    image_id: str,
    annotations: _AnnotationFiles,
    found: dict[str, Path],
    source: str,
    known: Known,
    check_pictures: bool,
    on_defect: OnDefect,
) -> AnnotatedPicture:
    path = found.get(image_id) or found.get(normal_form(image_id))
    expected = path or annotations.folder.parent / "JPEGImages" / f"{image_id}.jpg"
    if path is None and check_pictures:
        hint = "; an id has no suffix" if image_id.lower().endswith(PICTURE_SUFFIXES) else ""
        raise FileNotFoundError(f"{source}: picture {expected} of id {image_id!r} does not exist{hint}")
    annotation = annotations.path(image_id)
    try:
        with open(annotation, "rb") as file:
            too_big = os.fstat(file.fileno()).st_size > MAX_ANNOTATION_BYTES
            content = b"" if too_big else file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: annotation {annotation} of id {image_id!r} does not exist") from None
    except (OSError, ValueError) as error:  # a folder of that name, a name that is too long, no permission
        raise ValueError(f"{source}: annotation {annotation} cannot be read: {error}") from None
    if too_big:
        raise ValueError(f"{annotation}: more than {MAX_ANNOTATION_BYTES >> 20} MiB, which no VOC annotation has")
    width, height, objects = read_annotation(annotation, content, known, on_defect)
    if not (width and height):  # some labelling tools leave the size out or write 0
        if path is None:
            raise ValueError(f"{annotation}: no picture size, and picture {expected}, which has it, does not exist")
        width, height = displayed_size(path)
    return AnnotatedPicture(image_id, expected, annotation, width, height, objects)
