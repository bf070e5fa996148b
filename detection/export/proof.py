"""The proof of an export: in the same picture files, the written detector finds what our own engine finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image
from scipy.optimize import linear_sum_assignment

from detection.config import class_names
from detection.datasets.types import AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import PictureDetections
from pretrain.run.files import atomic_write

# Width and height: resized to a short side of 800, neither's long side is a whole number, and the second is too long.
SIZES = ((500, 375), (243, 500))


class Proof(NamedTuple):
    """How many boxes were compared in how many pictures, and the largest difference between two of them."""

    boxes: int
    pictures: int
    pixels: float
    score: float

    def __str__(self) -> str:
        return (
            f"{self.boxes} boxes in {self.pictures} made pictures, largest difference {self.pixels:.3g} pixels "
            f"and {self.score:.3g} of a score"
        )


def proof_config(cfg: CfgNode) -> CfgNode:
    """Return ``cfg`` on the CPU, where two runs are equal, and with the best boxes found however low they score."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def make_pictures(cfg: CfgNode, folder: Path) -> DetectionDataset:
    """Write pictures of soft shapes and noise, the same ones every time, into ``folder``."""
    rng = np.random.default_rng(0)
    pictures = []
    for number, (width, height) in enumerate(SIZES):
        coarse = [Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)) for cells in (3, 8, 20, 60)]
        layers = [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in coarse]
        path = folder / f"made{number}.png"
        with atomic_write(path) as file:
            Image.fromarray(np.mean(layers, axis=0).round().astype(np.uint8)).save(file, "PNG")
        pictures.append(AnnotatedPicture(path.stem, path, path, width, height, ()))
    return DetectionDataset("made pictures", folder, "made", class_names(cfg), tuple(pictures))


def compare(
    found: Mapping[str, PictureDetections],
    exported: Mapping[str, PictureDetections],
    *,
    max_pixels: float,
    max_score: float,
) -> Proof:
    """Pair what was found, class by class, so that the boxes differ least; both have the same pictures.

    Raises:
        ValueError: nothing was found, another number of boxes of a class, or a pair that differs by more than allowed.
    """
    boxes = sum(len(ours.scores) for ours in found.values())
    if not boxes:
        raise ValueError("the detector finds nothing at all, whatever the score: its weights are broken")
    pixels, scores = [], []
    for name, ours in found.items():
        theirs = exported[name]
        if sorted(ours.classes) != sorted(theirs.classes):
            raise ValueError(
                f"the exported detector finds other classes or numbers of boxes in {name}.png: "
                f"{len(theirs.classes)} boxes, but ours {len(ours.classes)}"
            )
        distance = np.abs(ours.boxes[:, None] - theirs.boxes).max(axis=2)
        apart = ours.classes[:, None] != theirs.classes
        rows, columns = linear_sum_assignment(np.where(apart, 1e9, distance))
        pixels += distance[rows, columns].tolist()
        scores += np.abs(ours.scores[rows] - theirs.scores[columns]).tolist()
    proof = Proof(boxes, len(found), max(pixels), max(scores))
    if proof.pixels > max_pixels or proof.score > max_score:
        raise ValueError(f"the exported detector differs: {proof}; allowed are {max_pixels:g} and {max_score:g}")
    return proof
