"""Detections from where a tool left them: challenge files, COCO result JSON, run folders, Detectron2's inference/.

And the one of these that a data set in COCO's format gets besides challenge files, its result JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from detection.datasets.coco import read_bbox
from detection.datasets.types import DetectionDataset, normal_form
from detection.evaluation.detection_files import read_detections
from detection.evaluation.detections import FileDetections, PictureDetections, check_detections, coco_boxes
from pretrain.run.files import atomic_write
from pretrain.run.text import read_json, read_record, to_record
from pretrain.run.values import number_of_json

PREDICTIONS = "instances_predictions.pth"  # what Detectron2's COCOEvaluator leaves in inference/
RESULTS = "coco_instances_results.json"
MAX_DIGITS = 18  # of an id that is taken for a number


class Weights(TypedDict, total=False):
    """The file that a detector was made of."""

    file: str | None
    sha256: str | None


class Backbone(TypedDict, total=False):
    """What a comparison uses of the card of a detector's backbone."""

    recipe: Any  # text of this toolkit; another tool's may be anything
    source_sha256: str | None


class Protocol(TypedDict, total=False):
    """What is used of how detections were made; ``training`` and ``test`` map config keys to values."""

    method: str | None
    engine: str | None
    seed: int | None
    weights: Weights | None
    backbone: Backbone | None
    complete: bool
    training: dict[str, Any] | None
    test: dict[str, Any] | None
    versions: dict[str, Any]


class Report(TypedDict):
    """What a comparison uses of a report.json."""

    protocol: Protocol


class Recorded(TypedDict, total=False):
    """What a new report of the same detections takes from a report.json, none of which is always there."""

    classes: list[str]
    training_objects: dict[str, int] | None


def load_results(
    dataset: DetectionDataset, path: Path | str, *, first_category: int | None = None
) -> dict[str, PictureDetections]:
    """Read the detections of ``dataset`` at ``path``; returns picture id -> detections.

    ``path`` is a COCO result JSON, or a folder. In a folder these are looked for, in this order: challenge files,
    Detectron2's predictions, COCO result JSON; then the same in ``inference/<dataset>``, in ``inference`` and in
    ``<dataset>``, so that the folder of a run will do.

    Args:
        first_category: how a COCO result JSON numbers the classes. None: by the numbers of the dataset's COCO file; for
            a VOC dataset, which has none, from 1. A number: consecutively from it, in the order of the file's
            categories (of a VOC dataset: of its classes), 0 as Detectron2 writes it for a dataset that is not COCO's.
            (Detectron2's predictions, ``instances_predictions.pth``, are always from 0.)

    Raises:
        FileNotFoundError: nothing there that can be read.
        ValueError: what is there is not for ``dataset`` or has a defect; file and line or entry are named.
    """
    path = Path(path)
    if path.is_file():
        return _read_file(dataset, path, first_category)
    if not path.is_dir():
        raise FileNotFoundError(f"detections {path} do not exist")
    for folder in _places(dataset.name, path):
        if any(folder.glob("comp*_det_*.txt")):
            return read_detections(dataset, folder)
        for name in (PREDICTIONS, RESULTS):
            if (folder / name).is_file():
                return _read_file(dataset, folder / name, first_category)
    raise FileNotFoundError(
        f"no detections in {path} or its inference/; expected comp4_det_{dataset.image_set}_<class>.txt, "
        f"{PREDICTIONS} or {RESULTS}"
    )


def write_coco_results(
    dataset: DetectionDataset, detections: Mapping[str, PictureDetections], folder: Path | str
) -> None:
    """Write the detections of a data set in COCO's format as Detectron2 does, RESULTS in ``folder`` (made if absent).

    Each has ``image_id`` and ``category_id`` as the data set's file has them, ``bbox`` (left, top, width, height) and
    ``score``, in the order of the pictures and at full precision. A class that the file lacks has no number: its
    detections are left out. Where ``detections`` were read from ``folder``, a file that is there stays as it is:
    another tool's may hold more, such as masks.

    Raises:
        ValueError: what ``check_detections`` refuses.
    """
    check_detections(dataset, detections)
    path = Path(folder) / RESULTS
    read_there = isinstance(detections, FileDetections) and detections.folder.resolve() == path.parent.resolve()
    if read_there and path.exists():
        return
    numbers = dataset.class_numbers
    results = []
    for picture in dataset.pictures:
        found = detections.get(picture.image_id)
        if found is None:
            continue
        name = picture.image_id if picture.number is None else picture.number
        columns = (found.classes, coco_boxes(detections, picture.image_id), found.scores)
        results += [
            {"image_id": name, "category_id": numbers[label], "bbox": bbox, "score": score}
            for label, bbox, score in zip(*(column.tolist() for column in columns), strict=True)
            if numbers[label] is not None
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as file:
        file.write(json.dumps(results))


def find_run_folder(path: Path | str) -> Path | None:
    """Return the run that the detections at ``path`` belong to: the nearest of it and two folders above, if any."""
    path = Path(path).resolve()
    for folder in (path, *list(path.parents)[:2]):
        if (folder / "config.yaml").is_file() or (folder / "metrics.json").is_file():
            return folder
    return None


def read_protocol(dataset: DetectionDataset, path: Path | str) -> dict[str, Any]:
    """Return the whole ``protocol`` of the report.json beside the detections at ``path``, {} where there is none.

    Of what ``Protocol`` declares, the types are known; whatever else a report records is as it stands there.

    Raises:
        ValueError: the file is not a report.
    """
    file = find_report(dataset.name, path)
    if file is None:
        return {}
    content = read_json(file)
    to_record(content, Report, f"{file} is not a report")
    if (fault := _unwritable(content["protocol"])) is not None:
        raise ValueError(f"{file} is not a report: {fault}")
    return content["protocol"]


def _unwritable(protocol: Mapping[str, Any]) -> str | None:
    """Return what of a protocol could not be written again: Python reads more than JSON, and than UTF-8, may hold."""
    waiting: list[tuple[str, Any]] = [("$.protocol", protocol)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{place}.{key}", inner) for key, inner in value.items()]
            waiting += [(f"a key of {place}", key) for key in value]
        elif isinstance(value, list):
            waiting += [(f"{place}[{index}]", inner) for index, inner in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            return f"{value} is no number of JSON's at `{place}`"
        elif isinstance(value, str) and re.search("[\\ud800-\\udfff]", value):
            return f"half a character, {value!r:.80}, at `{place}`"
    return None


def read_recorded(dataset_name: str, path: Path | str) -> Recorded:
    """Return what the report beside the detections at ``path`` records; nothing where there is none.

    Raises:
        ValueError: the file is not a report.
    """
    file = find_report(dataset_name, path)
    return {} if file is None else read_record(file, Recorded, "a report")


def find_report(dataset_name: str, path: Path | str) -> Path | None:
    """Return the report.json beside the detections at ``path``, or in the run that ``path`` is; None without one."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return next((file for place in _places(dataset_name, folder) if (file := place / "report.json").is_file()), None)


def _places(dataset_name: str, folder: Path) -> tuple[Path, ...]:
    """Return where in ``folder``, a run's, its inference/ or what that holds of a dataset, the detections may lie."""
    return folder, folder / "inference" / dataset_name, folder / "inference", folder / dataset_name


def _read_file(dataset: DetectionDataset, path: Path, first_category: int | None) -> dict[str, PictureDetections]:
    if path.suffix == ".json":
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(
                f"{path}: expected a list of results (COCO's result format), but got {type(content).__name__}"
            )
        return _gather(dataset, path, content, _classes_by_number(dataset, first_category))
    if path.suffix == ".pth":
        from pretrain.run.checkpoint import load_checkpoint

        content = load_checkpoint(path)
        if not isinstance(content, list) or not all(
            isinstance(one, dict) and isinstance(one.get("instances"), list) for one in content
        ):
            raise ValueError(f"{path}: expected Detectron2's predictions, a list of pictures with instances")
        return _gather(
            dataset, path, (entry for one in content for entry in one["instances"]), _classes_by_number(dataset, 0)
        )
    raise ValueError(f"{path}: expected a folder, a COCO result .json or Detectron2's {PREDICTIONS}")


def _classes_by_number(dataset: DetectionDataset, first: int | None) -> dict[int, str]:
    """Return category number -> name of a class (or of a category that is none of the dataset's classes)."""
    if dataset.categories is not None and first is None:
        return dict(dataset.categories)
    names = dataset.classes if dataset.categories is None else [name for _, name in dataset.categories]
    return dict(enumerate(names, start=1 if first is None else first))


def _gather(
    dataset: DetectionDataset, path: Path, entries: Iterable[Any], categories: Mapping[int, str]
) -> FileDetections:
    """Return the detections of COCO results: image_id, category_id, bbox (left, top, width, height) and score."""
    ids = _known_ids(dataset)
    labels = {normal_form(name): label for label, name in enumerate(dataset.classes)}
    gathered: dict[str, list[tuple[float, ...]]] = {}
    lines: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        try:
            image_id, row = _read_entry(entry, ids, labels, categories)
        except ValueError as error:
            raise ValueError(f"{path}, entry {number}: {error}") from None
        gathered.setdefault(image_id, []).append(row)
        lines.setdefault(image_id, []).append(number)
    result, bboxes = {}, {}
    for picture in dataset.pictures:
        if picture.image_id in gathered:
            table = np.array(gathered[picture.image_id], np.float64)
            bboxes[picture.image_id] = table[:, 2:]
            boxes = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:]], axis=1)
            result[picture.image_id] = PictureDetections(boxes, table[:, 1], table[:, 0].astype(np.int64))
    places = {image_id: np.array(numbers, np.int64) for image_id, numbers in lines.items()}
    return FileDetections(result, places, path.parent, bboxes)


def _known_ids(dataset: DetectionDataset) -> dict[str | int, str]:
    """Return what a result may call a picture: its id, its number, or the number that the id spells (000005: 5)."""
    names: dict[str | int, str] = {}
    for picture in dataset.pictures:
        digits = picture.image_id.replace("_", "")
        if digits.isdecimal() and len(digits) <= MAX_DIGITS:
            number = int(digits)
            names[number] = "" if number in names else picture.image_id  # "" marks a number that two ids spell
    names.update({picture.image_id: picture.image_id for picture in dataset.pictures})
    names.update({picture.number: picture.image_id for picture in dataset.pictures if picture.number is not None})
    return names


def _read_entry(
    entry: Any, ids: Mapping[str | int, str], labels: Mapping[str, int], categories: Mapping[int, str]
) -> tuple[str, tuple[float, ...]]:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with image_id, category_id, bbox and score, but got {entry!r:.80}")
    absent = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if absent:
        raise ValueError(f"without {', '.join(absent)}")
    name, category, score = entry["image_id"], entry["category_id"], entry["score"]
    image_id = ids.get(name) if type(name) in (str, int) else None
    if not image_id:
        raise ValueError(f"unknown image_id {name!r:.80}")
    if type(category) is not int or category not in categories:
        raise ValueError(_unknown_category(category, categories))
    label = labels.get(normal_form(categories[category]))
    if label is None:
        raise ValueError(
            f"category_id {category} is {categories[category]!r}, which is none of the classes {', '.join(labels)}"
        )
    try:
        left, top, width, height = read_bbox(entry["bbox"])
        score = number_of_json(score)
    except ValueError:
        raise ValueError(
            f"bbox must be four finite numbers and score one, but got {entry['bbox']!r:.80} and {score!r:.80}"
        ) from None
    if left + width < left or top + height < top:
        raise ValueError(f"bbox has a negative side: {entry['bbox']}")
    return image_id, (label, score, left, top, width, height)


def _unknown_category(category: Any, categories: Mapping[int, str]) -> str:
    first, last = min(categories), max(categories)
    if len(categories) == last - first + 1:
        text = f"category_id {category!r:.80} is not in {first}..{last}"
        return text if first > 1 else f"{text}; is the first category {1 - first} in this file?"
    return f"category_id {category!r:.80} is not one of {', '.join(map(str, categories))}"
