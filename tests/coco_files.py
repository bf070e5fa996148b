"""Made data sets in COCO's format with what COCO's rules turn on, and pycocotools' numbers of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")  # as it orders them
AREAS = (1024.0, 9216.0, 1023.9999, 9216.0001, 5.0, 0.0, -1.0, 1e10, 2e10)  # at and beside the bounds of the sizes
Entries = list[dict[str, Any]]


def make(seed: int) -> tuple[dict[str, Entries], Entries]:
    """Return the content of a COCO file and of a result file.

    Crowds; equal scores and equal overlaps; classes without objects; boxes without area; more than 100 detections of a
    class in a picture; areas that are not the box's; numbers of pictures and categories with gaps, 0 among them, in
    any order; sides that no float holds exactly.
    """
    rng = np.random.default_rng(seed)
    images = rng.choice(40, rng.integers(1, 7), replace=False).tolist()
    categories = rng.choice(30, rng.integers(1, 5), replace=False).tolist()
    if seed % 2:
        images, categories = [0, *(set(images[1:]) - {0})], [0, *(set(categories[1:]) - {0})]
    used = categories[: max(1, len(categories) - seed % 3)]
    annotations: Entries = []
    for image in images:
        for _ in range(rng.integers(0, 7)):
            bbox = _box(rng)
            area = bbox[2] * bbox[3] if rng.random() < 0.7 else float(rng.choice(AREAS))
            number, category = len(annotations) + 1, int(rng.choice(used))
            crowd = int(rng.random() < 0.2)
            annotations.append(
                {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": area, "iscrowd": crowd}
            )
    results = [
        {**_place(item), "bbox": _near(rng, item["bbox"])} for item in annotations for _ in range(rng.integers(0, 4))
    ]
    for _ in range(rng.integers(1, 12)):
        results.append(
            {"image_id": int(rng.choice(images)), "category_id": int(rng.choice(categories)), "bbox": _box(rng)}
        )
    if seed % 10 == 0:
        results += [{**results[0], "bbox": _box(rng)} for _ in range(130)]
    few = rng.random(5)
    for entry in results:
        entry["score"] = float(rng.choice(few) if seed % 4 else rng.random())
    rng.shuffle(results)
    content = {
        "images": [{"id": one, "file_name": f"{one}.jpg", "width": 500, "height": 400} for one in images],
        "annotations": annotations,
        "categories": [{"id": one, "name": f"class {one}"} for one in categories],
    }
    return content, results


def _place(item: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": item["image_id"], "category_id": item["category_id"]}


def _box(rng: np.random.Generator) -> list[float]:
    """Return left, top, width and height: on one of several grids, of a size that is a bound, or without area."""
    left, top, width, height = (rng.choice([1, 4, 0.1, 7.3]) * rng.integers(1, 10, 4)).tolist()
    kind = rng.integers(0, 8)
    if kind == 0:
        width, height = 32.0, 32.0
    elif kind == 1:
        width, height = 96.0, 96.0
    elif kind == 2:
        width = 0.0
    elif kind == 3:
        left, top, width, height = (rng.random(4) * [50, 50, 200, 200]).tolist()
    return [left, top, width, height]


def _near(rng: np.random.Generator, bbox: list[float]) -> list[float]:
    """Return a box beside or upon another one: with an IoU that is a threshold, or any."""
    left, top, width, height = bbox
    kind = rng.integers(0, 4)
    if kind == 0:
        return [left, top, width * float(rng.choice([0.5, 0.55, 0.75, 0.95, 2])), height]
    if kind == 1:
        left, top = left + float(rng.integers(-3, 4)), top + float(rng.integers(-3, 4))
    elif kind == 2:
        left, top, width, height = np.float32(np.abs(rng.normal(bbox, 1))).astype(float).tolist()
    return [left, top, width, height]


def write(folder: Path, content: dict[str, Entries], results: Entries) -> None:
    """Write ``gt.json`` and ``results.json``."""
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))


def numbers(content: dict[str, Entries], results: Entries) -> dict[str, Any]:
    """Return what pycocotools says of them, as ``evaluate_coco`` returns it; ``results`` hold at least one."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = {category["id"]: category["name"] for category in content["categories"]}
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # of all areas, 100 detections
    per_class = {
        names[number]: None if (precision[:, :, place] == -1).all() else float(100 * precision[:, :, place].mean())
        for place, number in enumerate(evaluation.params.catIds)
    }
    stats = [None if value == -1 else float(100 * value) for value in evaluation.stats]
    return {**dict(zip(STATS, stats, strict=True)), "per_class": per_class}
