"""Detections from where a tool left them: challenge files, COCO result JSON, run folders, Detectron2's inference/."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.detection_files import read_detections
from detection.evaluation.detections import PictureDetections

PREDICTIONS = "instances_predictions.pth"  # what Detectron2's COCOEvaluator leaves in inference/
RESULTS = "coco_instances_results.json"


def load_results(
    dataset: DetectionDataset, path: Path | str, *, first_category: int = 1
) -> dict[str, PictureDetections]:
    """Read the detections of ``dataset`` at ``path``; returns picture id -> detections.

    ``path`` is a COCO result JSON, or a folder. In a folder these are looked for, in this order: challenge files,
    Detectron2's predictions, COCO result JSON; then the same in ``inference/<dataset>`` and in ``inference``, so that
    the folder of a run will do.

    Args:
        first_category: the number of the first class in a COCO result JSON: 1 as COCO has it, 0 as Detectron2 writes it
            for a dataset that is not COCO's. (Detectron2's predictions are always from 0.)

    Raises:
        FileNotFoundError: nothing there that can be read.
        ValueError: what is there is not for ``dataset`` or has a defect; file and line or entry are named.
    """
    path = Path(path)
    if path.is_file():
        return _read_file(dataset, path, first_category)
    if not path.is_dir():
        raise FileNotFoundError(f"detections {path} do not exist")
    for folder in (path, path / "inference" / dataset.name, path / "inference"):
        if any(folder.glob("comp*_det_*.txt")):
            return read_detections(dataset, folder)
        for name in (PREDICTIONS, RESULTS):
            if (folder / name).is_file():
                return _read_file(dataset, folder / name, first_category)
    raise FileNotFoundError(
        f"no detections in {path} or its inference/; expected comp4_det_{dataset.image_set}_<class>.txt, "
        f"{PREDICTIONS} or {RESULTS}"
    )


def find_run_folder(path: Path | str) -> Path | None:
    """Return the run that the detections at ``path`` belong to: the nearest of it and two folders above, if any."""
    path = Path(path).resolve()
    for folder in (path, *list(path.parents)[:2]):
        if (folder / "config.yaml").is_file() or (folder / "metrics.json").is_file():
            return folder
    return None


def read_protocol(dataset: DetectionDataset, path: Path | str) -> dict[str, Any]:
    """Return ``protocol`` of the report.json beside the detections at ``path``, {} where there is none.

    Raises:
        ValueError: the file is not a report.
    """
    file = find_report(dataset, path)
    if file is None:
        return {}
    try:
        return dict(json.loads(file.read_bytes())["protocol"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not a report ({error!r}); remove it or write it again") from None


def find_report(dataset: DetectionDataset, path: Path | str) -> Path | None:
    """Return the report.json beside the detections at ``path``, or in the run that ``path`` is; None without one."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    places = (folder, folder / "inference" / dataset.name, folder / "inference")
    return next((file for place in places if (file := place / "report.json").is_file()), None)


def _read_file(dataset: DetectionDataset, path: Path, first_category: int) -> dict[str, PictureDetections]:
    if path.suffix == ".json":
        return _gather(dataset, path, _read_json(path), first_category)
    if path.suffix == ".pth":
        from pretrain.run.checkpoint import load_checkpoint

        content = load_checkpoint(path)
        if not isinstance(content, list) or not all(isinstance(one, dict) and "instances" in one for one in content):
            raise ValueError(f"{path}: expected Detectron2's predictions, a list of pictures with instances")
        return _gather(dataset, path, (entry for one in content for entry in one["instances"]), 0)
    raise ValueError(f"{path}: expected a folder, a COCO result .json or Detectron2's {PREDICTIONS}")


def _read_json(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: byte {error.object[error.start]:#04x} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: not a COCO result file, but deeply nested JSON") from None
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of results (COCO's result format), but got {type(content).__name__}")
    return content


def _gather(
    dataset: DetectionDataset, path: Path, entries: Iterable[Any], first_category: int
) -> dict[str, PictureDetections]:
    """Return the detections of COCO results: image_id, category_id, bbox (left, top, width, height) and score."""
    ids = _known_ids(dataset)
    gathered: dict[str, list[tuple[float, ...]]] = {}
    for number, entry in enumerate(entries):
        try:
            image_id, row = _read_entry(entry, ids, dataset, first_category)
        except ValueError as error:
            raise ValueError(f"{path}, entry {number}: {error}") from None
        gathered.setdefault(image_id, []).append(row)
    result = {}
    for picture in dataset.pictures:
        if picture.image_id in gathered:
            table = np.array(gathered[picture.image_id], np.float64)
            result[picture.image_id] = PictureDetections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))
    return result


def _known_ids(dataset: DetectionDataset) -> dict[str | int, str]:
    """Return what a result may call a picture: its id, or the number that the id spells (000005: 5)."""
    names: dict[str | int, str] = {}
    for picture in dataset.pictures:
        digits = picture.image_id.replace("_", "")
        if digits.isdecimal():
            number = int(digits)
            names[number] = "" if number in names else picture.image_id  # "" marks a number that two ids spell
    names.update({picture.image_id: picture.image_id for picture in dataset.pictures})
    return names


def _read_entry(
    entry: Any, ids: Mapping[str | int, str], dataset: DetectionDataset, first_category: int
) -> tuple[str, tuple[float, ...]]:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with image_id, category_id, bbox and score, but got {entry!r:.80}")
    absent = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if absent:
        raise ValueError(f"without {', '.join(absent)}")
    name, category, box, score = entry["image_id"], entry["category_id"], entry["bbox"], entry["score"]
    image_id = ids.get(name) if isinstance(name, (str, int)) else None
    if not image_id:
        raise ValueError(f"unknown image_id {name!r}")
    last = first_category + len(dataset.classes) - 1
    if isinstance(category, bool) or not isinstance(category, int) or not first_category <= category <= last:
        raise ValueError(
            f"category_id {category!r} is not in {first_category}..{last}; is the first category "
            f"{1 - first_category} in this file?"
        )
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or not _is_finite(score):
        raise ValueError(f"bbox must be four finite numbers and score one, but got {box!r:.80} and {score!r:.80}")
    left, top, width, height = box
    if width < 0 or height < 0:
        raise ValueError(f"bbox has a negative side: {box}")
    return image_id, (category - first_category, score, left, top, left + width, top + height)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
