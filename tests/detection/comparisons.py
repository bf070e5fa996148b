"""Runs that find some of a few dogs, for the tests of comparisons and of their pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.comparison import Run, compare_runs
from detection.evaluation.voc import PictureDetections

BOX = (1.0, 1.0, 100.0, 100.0)


def dogs(num_pictures: int) -> DetectionDataset:
    return DetectionDataset(
        "voc_2007_test", Path("VOC2007"), "test", ("dog", "cat"),
        tuple(
            AnnotatedPicture(f"{index}", Path("x.jpg"), Path("x.xml"), 200, 200, (AnnotatedObject("dog", BOX, False),))
            for index in range(num_pictures)
        ),
    )  # fmt: skip


DATASET = dogs(8)


TRAINING = {
    "SOLVER.IMS_PER_BATCH": 8, "SOLVER.MAX_ITER": 41000, "SOLVER.BASE_LR": 0.004, "SOLVER.GAMMA": 0.1,
    "SOLVER.STEPS": [33000], "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "FrozenBN", "DATASETS.TRAIN": ["voc_a"],
}  # fmt: skip


def run(method: str, num_found: int, *, seed=None, training=None, test=None, complete=False, weights=None) -> Run:
    """A run that finds the dog in the first ``num_found`` of eight pictures; its area AP50 is num_found / 8."""
    found = {
        f"{i}": PictureDetections(np.float32([[0, 0, 100, 100]]), np.float32([0.5]), np.array([0]))
        for i in range(num_found)
    }
    protocol = {"seed": seed, "training": training}
    protocol |= {"test": test} if test is not None else {}
    protocol |= {"complete": True} if complete else {}
    protocol |= {"weights": weights} if weights else {}
    return Run(method, f"runs/{method}_{num_found}_{seed}", protocol, found)


def compare(*runs, **options):
    return compare_runs(DATASET, runs, num_resamples=10, **options)


def coco_dogs(num_pictures: int) -> DetectionDataset:
    """The dogs in COCO's format: each is large."""
    return replace(dogs(num_pictures), name="coco_2017_val", categories=((3, "dog"), (17, "cat")))


PAPER = TRAINING | {
    "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"], "MODEL.BACKBONE.NAME": "build_resnet_backbone",
}  # fmt: skip
