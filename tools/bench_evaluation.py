#!/usr/bin/env python3
"""Time the evaluation and the whole report beside Detectron2's evaluator, on made detections, in one process.

Example:
  python tools/bench_evaluation.py --pictures 4952 --detections 100
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.cli import make_parser, run_tool, setup_logging

if TYPE_CHECKING:
    import numpy as np

    from detection.detections import PictureDetections
    from detection.voc import VocDataset


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=4952, metavar="N", help="as many as VOC2007 test has")
    parser.add_argument("--detections", type=int, default=100, metavar="N", help="in each picture")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap in the report")
    parser.add_argument("--skip-detectron2", action="store_true", help="time ours alone")
    args = parser.parse_args(argv)
    if min(args.pictures, args.detections, args.resamples) < 1:
        parser.error("--pictures, --detections and --resamples must be at least 1")
    setup_logging()

    import tempfile

    from detection.evaluation import evaluate_voc
    from detection.report import write_report
    from detection.voc import load_voc

    with tempfile.TemporaryDirectory() as folder:
        make_devkit(Path(folder), args.pictures)
        dataset, reading = timed(lambda: load_voc("voc_2007_test", root=folder))
        detections = make_detections(dataset, args.detections)
        theirs = None
        if not args.skip_detectron2:
            theirs, their_seconds = timed(lambda: detectron2_scores(Path(folder), dataset, detections))
        _, seconds = timed(lambda: evaluate_voc(dataset, detections))
        ours, compatible_seconds = timed(lambda: evaluate_voc(dataset, detections, rules="detectron2"))
        _, report_seconds = timed(
            lambda: write_report(dataset, detections, Path(folder) / "report", {}, num_resamples=args.resamples)
        )
        size = (Path(folder) / "report" / "report.html").stat().st_size
    print(f"{args.pictures} pictures x {args.detections} detections, {len(dataset.classes)} classes")
    print(f"reading the annotations      {reading:8.2f} s")
    print(f"evaluation                   {seconds:8.2f} s  (both metrics)")
    print(f"evaluation, Detectron2 rules {compatible_seconds:8.2f} s  (both metrics)")
    print(f"whole report                 {report_seconds:8.2f} s  ({args.resamples} resamples)")
    print(f"its page                     {size / 1e6:8.2f} MB")
    if theirs is not None:
        equal = all(ours["voc07"][name] == theirs[name] for name in ("AP", "AP50", "AP75"))
        print(f"Detectron2's evaluator       {their_seconds:8.2f} s  (one metric; reads the annotations itself)")
        print(f"evaluation alone {their_seconds / seconds:.0f} times as fast, with reading "
              f"{their_seconds / (seconds + reading):.0f} times; report {their_seconds / report_seconds:.1f} times")
        print(f"AP, AP50 and AP75 bit-equal under its rules: {'yes' if equal else 'NO'}")
        return 0 if equal else 1
    return 0


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of ``call`` and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def make_devkit(root: Path, num_pictures: int) -> None:
    """Write ``VOC2007`` with a ``test`` set: 500 x 375 pictures, 1 to 5 objects in each, one in five difficult."""
    import numpy as np
    from PIL import Image

    from detection.voc import VOC_CLASSES

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


def make_detections(dataset: VocDataset, count: int) -> dict[str, PictureDetections]:
    """Return ``count`` detections in each picture: three around each object, surer the better, the others anywhere."""
    import numpy as np

    from detection.detections import PictureDetections

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
    import numpy as np

    corners = rng.random((count, 2)) * [400, 280]
    return np.concatenate([corners, corners + 10 + rng.random((count, 2)) * [250, 200]], axis=1)


def detectron2_scores(
    root: Path, dataset: VocDataset, detections: dict[str, PictureDetections]
) -> dict[str, float]:
    """Return AP, AP50 and AP75 of Detectron2's evaluator, by the 11-point metric."""
    import torch

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
        instances = Instances((375, 500), pred_boxes=Boxes(torch.from_numpy(boxes.copy())),
                              scores=torch.from_numpy(scores), pred_classes=torch.from_numpy(classes))
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


if __name__ == "__main__":
    run_tool(main)
