"""Datasets in COCO's JSON format, read into the same ``DetectionDataset`` that everything downstream takes.

COCO's boxes are left, top, width and height from 0; they become the VOC format's corners, counted from 1 and inclusive,
so that one rule serves both: left + 1, top + 1, left + width, top + height.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.datasets.types import (
    AnnotatedObject,
    AnnotatedPicture,
    DetectionDataset,
    OnDefect,
    class_name_faults,
    default_root,
    refuse,
)
from pretrain.run.pictures import displayed_size

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
    on_defect: OnDefect = refuse,
) -> DetectionDataset:
    """Read the COCO dataset ``name``; arguments and defects as those of ``detection.datasets.voc.load_voc``.

    ``coco_<year>_<set>`` is ``root/coco/annotations/instances_<set><year>.json``; any other name is the path of a
    ``.json`` file in ``root``. Its pictures lie beside it, above it, or in a folder there called ``images``, like the
    file, or like the file without ``instances_``: in the first of these that has the first picture.

    A picture's id is the number that the file gives it. Without ``classes`` the labels are the file's categories in the
    order of their numbers, as in Detectron2. Crowds are left out of training, and in evaluation neither help nor hurt.

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
    images, annotations, categories = _read_parts(path)
    names = _read_categories(path, categories)
    classes = tuple(classes) if classes else tuple(names[number] for number in sorted(names))

    objects: dict[str, list[AnnotatedObject]] = {}
    for place, image in enumerate(images):
        try:
            key = _entry(image, "id", f"images[{place}]")
            if not isinstance(key, (int, str)):
                raise ValueError(f"images[{place}]: id must be a number or text, but is {key!r}")
            if str(key) in objects:
                raise ValueError(f"images[{place}]: duplicate id {key!r}")
            objects[str(key)] = []
        except ValueError as defect:
            on_defect(ValueError(f"{path}: {defect}"))
    for place, annotation in enumerate(annotations):
        try:
            where = f"annotations[{place}]"
            image_id = _entry(annotation, "image_id", where)
            if str(image_id) not in objects:
                raise ValueError(f"{where}: image_id {image_id!r} is not among the images")
            objects[str(image_id)].append(_read_object(annotation, where, names, classes))
        except ValueError as defect:
            on_defect(ValueError(f"{path}: {defect}"))

    folder = _picture_folder(path, images) if check_pictures else path.parent
    pictures = []
    for place, image in enumerate(images):
        key = str(image.get("id")) if isinstance(image, dict) else ""
        if key not in objects:
            continue  # told above
        try:
            pictures.append(_read_picture(path, folder, image, f"images[{place}]", objects.pop(key), check_pictures))
        except (FileNotFoundError, ValueError) as defect:
            on_defect(defect)
    return DetectionDataset(name, root, path.stem, classes, tuple(pictures))


def _read_parts(path: Path) -> list[list[Any]]:
    """Return the file's images, annotations and categories."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"COCO file {path} does not exist; a .json name is a path in VOC.ROOT") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a COCO file ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with {', '.join(PARTS)}, but got {type(content).__name__}")
    for part in PARTS:
        if not isinstance(content.get(part), list):
            raise ValueError(f"{path}: expected a list {part!r}; it holds {', '.join(content) or 'nothing'}")
    if not content["images"]:
        raise ValueError(f"{path} names no picture")
    return [content[part] for part in PARTS]


def _read_categories(path: Path, categories: list[Any]) -> dict[int, str]:
    """Return category number -> name."""
    names: dict[int, str] = {}
    for place, category in enumerate(categories):
        where = f"categories[{place}]"
        try:
            number, name = _entry(category, "id", where), _entry(category, "name", where)
            if type(number) is not int or not isinstance(name, str) or not name.strip() or class_name_faults([name]):
                raise ValueError(f"{where}: expected a number and a name, but got {number!r} and {name!r}")
            if number in names or name in names.values():
                raise ValueError(f"{where}: a second category {number} or {name!r}")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        names[number] = name
    if not names:
        raise ValueError(f"{path} has no category")
    return names


def _read_object(
    annotation: dict[str, Any], where: str, names: dict[int, str], classes: Sequence[str]
) -> AnnotatedObject:
    category = _entry(annotation, "category_id", where)
    if not isinstance(category, int) or category not in names:
        raise ValueError(f"{where}: category_id {category!r} is not among the categories")
    name = names[category]
    if name not in classes:
        raise ValueError(f"{where}: unknown class {name!r}; the known ones are {', '.join(classes)}")
    box = _entry(annotation, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise ValueError(f"{where}: bbox must be four finite numbers, but is {box!r:.80}")
    left, top, width, height = box
    crowd = bool(annotation.get("iscrowd", 0))
    return AnnotatedObject(name, (left + 1.0, top + 1.0, float(left + width), float(top + height)), crowd, crowd)


def _read_picture(
    path: Path, folder: Path, image: dict[str, Any], where: str, objects: list[AnnotatedObject], check_pictures: bool
) -> AnnotatedPicture:
    file = folder / _file_name(path, image, where)
    if check_pictures and not file.is_file():
        raise FileNotFoundError(f"{path}: picture {file} of {where} does not exist")
    width, height = image.get("width"), image.get("height")
    if not all(type(side) is int and side > 0 for side in (width, height)):
        if not file.is_file():
            raise ValueError(f"{path}: {where} has no picture size, and {file}, which has it, does not exist")
        width, height = displayed_size(file)
    return AnnotatedPicture(str(image["id"]), file, path, width, height, tuple(objects))


def _picture_folder(path: Path, images: list[Any]) -> Path:
    """Return the folder of the pictures, by the place of the first one."""
    first = _file_name(path, images[0], "images[0]")
    places = [path.parent, path.parent.parent]
    names = ("images", path.stem, path.stem.removeprefix("instances_"))
    candidates = [*places, *(place / name for place in places for name in names)]
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    tried = ", ".join(map(str, dict.fromkeys(candidates)))
    raise FileNotFoundError(f"{path}: the first picture, {first}, is in none of {tried}")


def _file_name(path: Path, image: Any, where: str) -> str:
    try:
        name = _entry(image, "file_name", where)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: {where}: file_name must be text, but is {name!r}")
    return name


def _entry(node: Any, key: str, where: str) -> Any:
    if not isinstance(node, dict) or key not in node:
        raise ValueError(f"{where} without {key}")
    return node[key]


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
