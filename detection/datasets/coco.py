"""Datasets in COCO's JSON format, read into the same ``DetectionDataset`` that everything downstream takes.

COCO's boxes are left, top, width and height from 0; they become the VOC format's corners, counted from 1 and inclusive,
so that one rule serves both: left + 1, top + 1, left + width, top + height.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.datasets.types import (
    AnnotatedObject,
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
from pretrain.run.files import same_file_names
from pretrain.run.pictures import displayed_size
from pretrain.run.text import read_json
from pretrain.run.values import flag, number_of_json, whole_number

COCO_NAME = re.compile(r"coco_(\d{4})_(.+)")  # as in Detectron2: coco_2017_train
PARTS = ("images", "annotations", "categories")


def is_coco(name: str) -> bool:
    """Return whether the dataset ``name`` is in COCO's format: ``coco_<year>_<set>`` or a ``.json`` file."""
    return name.endswith(".json") or COCO_NAME.fullmatch(name) is not None


def report_name(name: str) -> str:
    """Return what the reports and folders of the dataset ``name`` of a config are called: a file's name as one word."""
    return name.removesuffix(".json").replace("/", "_")


def load_coco(
    name: str,
    *,
    root: Path | str | None = None,
    classes: Sequence[str] | None = None,
    check_pictures: bool = True,
    pictures_anywhere: bool = False,
    on_defect: OnDefect = refuse,
) -> DetectionDataset:
    """Read the COCO dataset ``name``; arguments and defects as those of ``detection.datasets.voc.load_voc``.

    ``coco_<year>_<set>`` is ``root/coco/annotations/instances_<set><year>.json``; any other name is the path of a
    ``.json`` file in ``root``. Its pictures lie beside it, above it, or in a folder there called ``images``, like the
    file, or like the file without ``instances_``: in the first of these that has the first picture.

    A ``file_name`` may lead elsewhere in ``root``, and with ``pictures_anywhere`` to any picture of the machine:
    whoever wrote the file then chooses what stands in the reports.

    A picture's id is the number that the file gives it. Without ``classes`` the labels are the file's categories in the
    order of their numbers, as in Detectron2; a class keeps its number in any list (``DetectionDataset.categories``).
    Crowds are left out of training, and in evaluation neither help nor hurt.

    Raises:
        FileNotFoundError: the file or a picture does not exist.
        ValueError: the file is not COCO's format, or an entry of it cannot be understood.
    """
    root = Path(root) if root else default_root()
    year_and_set = COCO_NAME.fullmatch(name)
    if year_and_set:
        year, part = year_and_set.groups()
        path = root / "coco" / "annotations" / f"instances_{part}{year}.json"
    else:
        path = root / name
        name = report_name(name)
    if fault := set_name_fault(path.stem):
        raise ValueError(f"{path}: {fault}")
    images, annotations, categories = _read_parts(path)
    names = _read_categories(path, categories, on_defect)
    classes = tuple(classes) if classes else tuple(names[number] for number in sorted(names))
    known = {normal_form(one): one for one in classes}

    objects: dict[str, list[AnnotatedObject]] = {}
    for place, image in enumerate(images):
        try:
            key = _picture_id(image, f"images[{place}]")
            if key in objects:
                raise ValueError(f"images[{place}]: duplicate id {key}")
            objects[key] = []
        except ValueError as defect:
            on_defect(ValueError(f"{path}: {defect}"))
    for place, annotation in enumerate(annotations):
        try:
            where = f"annotations[{place}]"
            image_id = _entry(annotation, "image_id", where)
            key = str(image_id) if type(image_id) in (int, str) else None
            if key not in objects:
                raise ValueError(f"{where}: image_id {image_id!r:.80} is not among the images")
            objects[key].append(_read_object(annotation, where, names, known))
        except ValueError as defect:
            on_defect(ValueError(f"{path}: {defect}"))

    within = None if pictures_anywhere else root
    file_names = list(filter(None, map(_file_name, images)))
    found_in = _picture_folder(path, file_names, within)
    all_outside = file_names and all(_picture_file(path.parent, name, within) is None for name in file_names)
    if found_in is None and check_pictures and not all_outside:  # else each of them is told of
        on_defect(FileNotFoundError(_no_picture(path, images)))
        return DetectionDataset(name, root, path.stem, classes, (), tuple(sorted(names.items())))
    folder = found_in or path.parent
    pictures = []
    for place, image in enumerate(images):
        key = str(image.get("id")) if isinstance(image, dict) else ""
        if key not in objects:
            continue  # told above
        try:
            found = objects.pop(key)
            pictures.append(_read_picture(path, folder, within, image, f"images[{place}]", key, found, check_pictures))
        except (FileNotFoundError, ValueError) as defect:
            on_defect(defect)
    return DetectionDataset(name, root, path.stem, classes, tuple(pictures), tuple(sorted(names.items())))


def _picture_id(image: Any, where: str) -> str:
    """Return the id that the file gives to a picture, a number or a word, as text."""
    key = _entry(image, "id", where)
    if type(key) not in (int, str):
        raise ValueError(f"{where}: id must be a number or text, but is {key!r:.80}")
    if fault := image_id_fault(str(key)):
        raise ValueError(f"{where}: {fault}")
    return str(key)


def _read_parts(path: Path) -> list[list[Any]]:
    """Return the file's images, annotations and categories."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"COCO file {path} does not exist; a .json name is a path in VOC.ROOT") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with {', '.join(PARTS)}, but got {type(content).__name__}")
    for part in PARTS:
        if not isinstance(content.get(part), list):
            raise ValueError(f"{path}: expected a list {part!r}; it holds {', '.join(content) or 'nothing'}")
    if not content["images"]:
        raise ValueError(f"{path} names no picture")
    return [content[part] for part in PARTS]


def _read_categories(path: Path, categories: list[Any], on_defect: OnDefect) -> dict[int, str]:
    """Return category number -> name."""
    if not categories:
        raise ValueError(f"{path} has no category")
    names: dict[int, str] = {}
    for place, category in enumerate(categories):
        where = f"categories[{place}]"
        try:
            number, name = _entry(category, "id", where), _entry(category, "name", where)
            if type(number) is not int or not isinstance(name, str) or not name.strip():
                raise ValueError(f"{where}: expected a number and a name, but got {number!r:.80} and {name!r:.80}")
            if faults := class_name_faults([name]):
                raise ValueError(f"{where}: {faults[0]}")
            if number in names or name in names.values():
                raise ValueError(f"{where}: a second category {number} or {name!r}")
        except ValueError as error:
            on_defect(ValueError(f"{path}: {error}"))
        else:
            names[number] = name
    if pair := same_file_names(names.values()):
        on_defect(
            ValueError(
                f"{path}: categories {pair[0]!r} and {pair[1]!r} would be one file's name; files are named after them"
            )
        )
    return names


def _read_object(
    annotation: dict[str, Any], where: str, names: Mapping[int, str], known: Mapping[str, str]
) -> AnnotatedObject:
    category = _entry(annotation, "category_id", where)
    if type(category) is not int or category not in names:
        raise ValueError(f"{where}: category_id {category!r:.80} is not among the categories")
    name = known.get(normal_form(names[category]))
    if name is None:
        raise ValueError(f"{where}: unknown class {names[category]!r}; the known ones are {', '.join(known.values())}")
    box = _entry(annotation, "bbox", where)
    try:
        left, top, width, height = bbox = read_bbox(box)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        crowd = flag(annotation.get("iscrowd", 0))
    except ValueError as error:
        raise ValueError(f"{where}: iscrowd {error}") from None
    area = annotation.get("area")
    try:
        area = None if area is None else number_of_json(area)
    except ValueError as error:
        raise ValueError(f"{where}: area {error}") from None
    corners = (left + 1.0, top + 1.0, left + width, top + height)
    return AnnotatedObject(name, corners, crowd, crowd, area, bbox)


def read_bbox(value: Any) -> tuple[float, float, float, float]:
    """Return left, top, width and height of a bbox of JSON; a side may be negative.

    Raises:
        ValueError: not four finite numbers.
    """
    try:
        left, top, width, height = map(number_of_json, value)
    except (TypeError, ValueError):  # no list, of another length, or of something else
        raise ValueError(f"bbox must be four finite numbers, but is {value!r:.80}") from None
    return left, top, width, height


def _read_picture(
    path: Path,
    folder: Path,
    within: Path | None,
    image: dict[str, Any],
    where: str,
    image_id: str,
    objects: list[AnnotatedObject],
    check_pictures: bool,
) -> AnnotatedPicture:
    name = _file_name(image)
    if name is None:
        raise ValueError(f"{path}: {where}: file_name must be text, but is {image.get('file_name')!r:.80}")
    file = _picture_file(folder, name, within)
    if file is None:
        raise ValueError(
            f"{path}: {where}: file_name {name!r:.200} lies outside of the dataset's folder {within}; "
            "for pictures that are meant to lie elsewhere set VOC.PICTURES_ANYWHERE True (--pictures-anywhere)"
        )
    if check_pictures and not os.path.isfile(file):
        raise FileNotFoundError(f"{path}: picture {file} of {where} does not exist")
    sizes = []
    for side in ("width", "height"):
        try:
            sizes.append(whole_number(0 if image.get(side) is None else image[side]))
        except ValueError as error:
            raise ValueError(f"{path}: {where}: {side} {error}") from None
        if sizes[-1] < 0:
            raise ValueError(f"{path}: {where}: {side} is negative: {sizes[-1]}")
    if not all(sizes):
        if not os.path.isfile(file):
            raise ValueError(f"{path}: {where} has no picture size, and {file}, which has it, does not exist")
        sizes = displayed_size(file)
    number = image["id"] if type(image["id"]) is int else None
    return AnnotatedPicture(image_id, file, path, sizes[0], sizes[1], tuple(objects), number)


def _picture_file(folder: Path, name: str, within: Path | None) -> Path | None:
    """Return the path of the picture ``name`` in ``folder``; None where that leads out of ``within``.

    What counts is the name alone: how folders of the dataset are linked is their owner's business.
    """
    if not _leads_elsewhere(name):
        return folder / name
    file = os.path.normpath(folder / name)  # "a/.." is nothing, and not what lies above a linked folder
    roots = () if within is None else (os.path.abspath(within), within.resolve())
    inside = within is None or any(Path(os.path.abspath(file)).is_relative_to(root) for root in roots)
    return Path(file) if inside else None


def _picture_folder(path: Path, names: Sequence[str], within: Path | None) -> Path | None:
    """Return the folder of the pictures, by the place of the first one that is there; None where none is."""
    for name in sorted(names, key=_leads_elsewhere):  # which says less of the folder
        for folder in _candidates(path):
            if os.path.isfile(_picture_file(folder, name, within) or ""):
                return folder
    return None


def _leads_elsewhere(name: str) -> bool:
    return bool(Path(name).anchor) or ".." in Path(name).parts


def _candidates(path: Path) -> list[Path]:
    places = [path.parent, path.parent.parent]
    names = ("images", path.stem, path.stem.removeprefix("instances_"))
    return list(dict.fromkeys([*places, *(place / name for place in places for name in names)]))


def _no_picture(path: Path, images: list[Any]) -> str:
    tried = ", ".join(map(str, _candidates(path)))
    first = next(filter(None, map(_file_name, images)), None)
    if first is None:
        return f"{path}: no image has a file_name that is text"
    return f"{path}: the first picture, {first:.200}, is in none of {tried}, and neither is any other"


def _file_name(image: Any) -> str | None:
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) and name and _can_be_written(name) else None


def _can_be_written(text: str) -> bool:
    """Return whether UTF-8 has ``text``: JSON may hold halves of characters."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _entry(node: Any, key: str, where: str) -> Any:
    if not isinstance(node, dict) or key not in node:
        raise ValueError(f"{where} without {key}")
    return node[key]
