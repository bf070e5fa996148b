"""A file that training would leave, of a detector whose scores mean something to thresholds and NMS."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from detection.datasets.types import AnnotatedPicture, DetectionDataset
from detection.engines.torchvision.model import build_model
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.pictures import displayed_size


class Found(NamedTuple):
    """One detection: the name of its class, its score and its box."""

    name: str
    score: float
    box: list[float]


CLASSES = ("dog", "person", "it's a car")  # of which no line of Python may break


@pytest.fixture
def make_detector(make_config, calibrate, samples, tmp_path) -> Callable[..., Path]:
    """Return a function (kind, changes) -> a weights file that carries its config, as training leaves it."""

    def make(kind: str, changes: dict[str, Any] | None = None) -> Path:
        torch.manual_seed(0)
        small = {
            "VOC.CLASSES": CLASSES,
            "DATASETS.TEST": ("voc_2007_test",),
            "INPUT.MIN_SIZE_TEST": 160,
            "INPUT.MAX_SIZE_TEST": 270,
            "DATALOADER.NUM_WORKERS": 0,
            "SEED": 1,
        }
        cfg = make_config(kind, {**small, **(changes or {})})
        model = build_model(cfg)
        times = {"c4": 1, "fpn": 3}[kind]  # as in the parity of the engines: boxes that reach every level
        for sample in samples:
            sample["image"] = sample["image"].repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
        calibrate(model, samples)
        path = tmp_path / "output" / "model_final.pth"
        path.parent.mkdir(exist_ok=True)
        tensors = {name: tensor.clone() for name, tensor in model.detectron2_state_dict().items()}
        save_checkpoint({"model": tensors, "config": cfg.dump(), "iteration": 1}, path)
        return path

    return make


@pytest.fixture
def picture(tmp_path) -> Path:
    """A picture.jpg alone in a folder, which a camera held upright noted as lying on its side."""
    path = tmp_path / "elsewhere" / "picture.jpg"
    path.parent.mkdir()
    coarse = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(coarse).resize((240, 170), Image.Resampling.BICUBIC).save(path, exif=exif)
    return path


@pytest.fixture
def run_lines(picture, monkeypatch) -> Callable[[str], list[Found]]:
    """Return a function that runs the Python that was printed where ``picture`` lies: name, score and box of each."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(lines: str) -> list[Found]:
        alone = "\nimport sys\nassert not {'detection', 'pretrain'} & set(sys.modules)\n"
        result = subprocess.run(
            [sys.executable, "-c", lines + alone], cwd=picture.parent, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        found = [re.fullmatch(r"(.+) (\S+) (\[.+\])", line).groups() for line in result.stdout.splitlines()]
        return [Found(name, float(score), json.loads(box)) for name, score, box in found]

    return run


@pytest.fixture
def find(picture) -> Callable[[ModuleType, CfgNode], list[Found]]:
    """Return a function (engine, config) -> what our engine finds in ``picture``, as ``run_lines`` returns it."""

    def run(engine: ModuleType, cfg: CfgNode) -> list[Found]:
        entry = AnnotatedPicture("picture", picture, picture, *displayed_size(picture), ())
        found = engine.detect(cfg, DetectionDataset("made", picture.parent, "made", CLASSES, (entry,)))["picture"]
        parts = zip(found.classes, found.scores, found.boxes, strict=True)
        return [Found(CLASSES[label], float(score), box.tolist()) for label, score, box in parts]

    return run
