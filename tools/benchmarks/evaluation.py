"""The VOC evaluation and the whole report timed beside Detectron2's evaluator, on made detections, in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detection.datasets.types import DetectionDataset
from detection.datasets.voc import VOC_CLASSES, load_voc
from detection.evaluation.detections import PictureDetections
from detection.evaluation.voc import evaluate_voc
from detection.report.write import write_report


def benchmark(num_pictures: int, num_detections: int, num_resamples: int, *, with_detectron2: bool) -> dict[str, Any]:
    """Time reading, evaluation and report on a made devkit with ``num_detections`` detections in each picture.

    Returns:
        The three numbers as ``pictures``, ``detections`` and ``resamples``, the number of ``classes``, seconds as
        ``reading``, ``evaluation``, ``detectron2_rules`` (ours, by its rules), ``report`` and ``detectron2`` (its own
        evaluator), the size of the report's page as ``page_bytes``, and whether its AP, AP50 and AP75 are bit-equal to
        ours by its rules as ``equal``. The last of the seconds and ``equal`` are None without Detectron2.

    Raises:
        ImportError: Detectron2 is asked for and cannot be imported.
    """
    theirs = their_seconds = None
    with tempfile.TemporaryDirectory() as folder:
        make_devkit(Path(folder), num_pictures)
        dataset, reading = timed(lambda: load_voc("voc_2007_test", root=folder))
        detections = make_detections(dataset, num_detections)
        if with_detectron2:
            theirs, their_seconds = timed(lambda: detectron2_scores(Path(folder), dataset, detections))
        _, seconds = timed(lambda: evaluate_voc(dataset, detections))
        ours, compatible_seconds = timed(lambda: evaluate_voc(dataset, detections, rules="detectron2"))
        _, report_seconds = timed(
            lambda: write_report(dataset, detections, Path(folder) / "report", {}, num_resamples=num_resamples)
        )
        page_bytes = (Path(folder) / "report" / "report.html").stat().st_size
    equal = None if theirs is None else all(ours["voc07"][name] == theirs[name] for name in ("AP", "AP50", "AP75"))
    return {
        "pictures": num_pictures,
        "detections": num_detections,
        "resamples": num_resamples,
        "classes": len(dataset.classes),
        "reading": reading,
        "evaluation": seconds,
        "detectron2_rules": compatible_seconds,
        "report": report_seconds,
        "page_bytes": page_bytes,
        "detectron2": their_seconds,
        "equal": equal,
    }


def table(result: Mapping[str, Any]) -> list[str]:
    """Return a result of ``benchmark`` as lines of text."""
    reading, evaluation, report = (result[name] for name in ("reading", "evaluation", "report"))
    lines = [
        f"{result['pictures']} pictures x {result['detections']} detections, {result['classes']} classes",
        f"reading the annotations      {reading:8.2f} s",
        f"evaluation                   {evaluation:8.2f} s  (both metrics)",
        f"evaluation, Detectron2 rules {result['detectron2_rules']:8.2f} s  (both metrics)",
        f"whole report                 {report:8.2f} s  ({result['resamples']} resamples)",
        f"its page                     {result['page_bytes'] / 1e6:8.2f} MB",
    ]
    if (theirs := result["detectron2"]) is not None:
        lines += [
            f"Detectron2's evaluator       {theirs:8.2f} s  (one metric; reads the annotations itself)",
            f"evaluation alone {theirs / evaluation:.0f} times as fast, with reading "
            f"{theirs / (evaluation + reading):.0f} times; report {theirs / report:.1f} times",
            f"AP, AP50 and AP75 bit-equal under its rules: {'yes' if result['equal'] else 'NO'}",
        ]
    return lines


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of ``call`` and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def make_devkit(root: Path, num_pictures: int) -> None:
    """Write ``VOC2007`` with a ``test`` set: 500 x 375 pictures, 1 to 5 objects in each, one in five difficult."""
    rng = np.random.default_rng(0)
    folders = [root / "VOC2007" / name for name in ("Annotations", "JPEGImages", "ImageSets/Main")]
    for folder in folders:
        folder.mkdir(parents=True)
    # Six pictures of noise, which compresses no better than a photograph, stand for all of them.
    noise = [Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8)).resize((500, 375)) for _ in range(6)]
    for index, picture in enumerate(noise):
        picture.save(folders[1] / f"{index:06d}.jpg", quality=90)
    ids = [f"{index:06d}" for index in range(num_pictures)]
    for index, image_id in enumerate(ids):
        objects = []
        for _ in range(rng.integers(1, 6)):
            xmin, ymin = rng.integers(1, 400), rng.integers(1, 280)
            xmax, ymax = min(500, xmin + rng.integers(10, 300)), min(375, ymin + rng.integers(10, 250))
            objects.append(
                f"<object><name>{VOC_CLASSES[rng.integers(0, 20)]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{int(rng.random() < 0.2)}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
                f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
            )
        (folders[0] / f"{image_id}.xml").write_text(
            f"<annotation><size><width>500</width><height>375</height></size>{''.join(objects)}</annotation>"
        )
        if index >= len(noise):
            (folders[1] / f"{image_id}.jpg").symlink_to(folders[1] / f"{index % len(noise):06d}.jpg")
    (folders[2] / "test.txt").write_text("".join(f"{image_id}\n" for image_id in ids))


def make_detections(dataset: DetectionDataset, count: int) -> dict[str, PictureDetections]:
    """Return ``count`` detections in each picture: three around each object, surer the better, the others anywhere."""
    rng = np.random.default_rng(1)
    label = {name: index for index, name in enumerate(dataset.classes)}
    result = {}
    for picture in dataset.pictures:
        boxes = scatter(rng, count)
        classes = rng.integers(0, len(dataset.classes), count)
        scores = rng.beta(1, 4, count)
        near = [item for item in picture.objects for _ in range(3)][:count]
        for index, item in enumerate(near):
            shift = rng.normal(0, rng.choice([2, 6, 20]), 4)
            boxes[index] = np.array(item.box) - [1, 1, 0, 0] + shift
            classes[index], scores[index] = label[item.name], rng.beta(8, 2 + np.abs(shift).max() / 4)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        result[picture.image_id] = PictureDetections(boxes.astype(np.float32), scores.astype(np.float32), classes)
    return result


def scatter(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return ``count`` boxes anywhere in a picture of 500 x 375."""
    corners = rng.random((count, 2)) * [400, 280]
    return np.concatenate([corners, corners + 10 + rng.random((count, 2)) * [250, 200]], axis=1)


def detectron2_scores(
    root: Path, dataset: DetectionDataset, detections: dict[str, PictureDetections]
) -> dict[str, float]:
    """Return AP, AP50 and AP75 of Detectron2's evaluator, by the 11-point metric."""
    try:
        from detectron2.data import MetadataCatalog
        from detectron2.evaluation import PascalVOCDetectionEvaluator
        from detectron2.structures import Boxes, Instances
    except ImportError as error:
        raise ImportError(f"Detectron2 cannot be imported ({error}); --skip-detectron2 times ours alone") from error

    MetadataCatalog.get("bench").set(
        dirname=str(root / "VOC2007"), split="test", year=2007, thing_classes=list(dataset.classes)
    )
    evaluator = PascalVOCDetectionEvaluator("bench")
    evaluator.reset()
    for image_id, (boxes, scores, classes) in detections.items():
        instances = Instances(
            (375, 500),
            pred_boxes=Boxes(torch.from_numpy(boxes.copy())),
            scores=torch.from_numpy(scores),
            pred_classes=torch.from_numpy(classes),
        )
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]
