"""One call of a detector held in memory beside the evaluation's loop over the same pictures."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.config import class_names, load_detection_config
from detection.datasets.types import AnnotatedPicture, DetectionDataset
from detection.detector import load_detector
from detection.engines import select
from detection.engines.torchvision.model import build_model
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.files import atomic_write
from tools.benchmarks import timing

WIDTH, HEIGHT = 500, 375  # of a VOC picture


def benchmark(
    config_file: Path | str, opts: Sequence[str], *, engine: str, num_images: int, rounds: int
) -> dict[str, Any]:
    """Time both on ``num_images`` pictures with the random weights of SEED 0; model and file are there before.

    Returns:
        ``{"loop", "call": medians in seconds, "ratio": call / loop, "quartiles": of the single rounds, "equal":
        whether all detections were bit-equal}``.

    Raises:
        FileNotFoundError, ValueError, ImportError: config or engine are wrong.
    """
    module = select(engine)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model_final.pth"
        cfg = load_detection_config(config_file, [*opts, "SEED", "0", "MODEL.WEIGHTS", str(weights)])
        model = build_model(cfg)
        save_checkpoint({"model": model.detectron2_state_dict(), "config": cfg.dump()}, weights)
        dataset = _make_pictures(Path(folder), num_images, class_names(cfg))
        model, detector = module.load_model(cfg), load_detector(weights, engine=engine, device=cfg.MODEL.DEVICE)
        paths = [picture.path for picture in dataset.pictures]
        found: dict[str, list[Any]] = {"loop": [], "call": []}
        calls = [
            lambda: found["loop"].append(module.find_objects(model, cfg, dataset)),
            lambda: found["call"].append(detector(paths)),
        ]
        loop, call = (its.wall for its in timing.take_turns(calls, rounds, device=cfg.MODEL.DEVICE))
    equal = all(
        np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)
        for one, other in zip(found["loop"][0].values(), found["call"][0], strict=True)
    )
    medians = {"loop": statistics.median(loop), "call": statistics.median(call)}
    ratios = [ours / theirs for ours, theirs in zip(call, loop, strict=True)]
    return {
        **medians,
        "ratio": medians["call"] / medians["loop"],
        "quartiles": timing.quartiles(ratios),
        "equal": equal,
    }


def _make_pictures(folder: Path, count: int, classes: Sequence[str]) -> DetectionDataset:
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3), dtype=np.uint8))
        with atomic_write(path) as file:
            coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        pictures.append(AnnotatedPicture(path.stem, path, path, WIDTH, HEIGHT, ()))
    return DetectionDataset("pictures", folder, "pictures", tuple(classes), tuple(pictures))
