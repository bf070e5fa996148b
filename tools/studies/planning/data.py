"""The data of a study: real, known by their path, or made by a stage of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from detection.datasets.coco import is_coco
from detection.datasets.types import default_root
from pretrain.run.files import sha256
from tools.studies.config import is_made
from tools.studies.planning.stages import Stage, StageBook, tool, words


class StudyData:
    """Where a study's pictures and scenes are, and what a stage that reads them is made from.

    Pictures are those of pretraining, a folder a class; scenes those of detection. ``detection`` is the config of
    fine-tuning, in a study that has one.
    """

    def __init__(self, cfg: CfgNode, book: StageBook, detection: CfgNode | None):
        self.cfg, self.book, self.detection = cfg, book, detection
        self.made = is_made(cfg)

    def pictures(self) -> str:
        """Return the DATA.ROOT of pretraining; empty where none is set."""
        return str(self._made_pictures().folder / "pictures") if self.made else _absolute(self.cfg.PRETRAIN.DATA_ROOT)

    def scenes(self) -> str:
        """Return the VOC.ROOT of fine-tuning."""
        if not self.made:
            return scenes_root(self.cfg, self.detection)
        folder = self._made_scenes().folder
        return str(folder if self._makes_coco() else folder / "VOCdevkit")

    def with_pictures(self, *parents: Stage) -> tuple[Stage, ...]:
        """Return ``parents``, and before them the stage that makes the pictures, if one does."""
        return (self._made_pictures(), *parents) if self.made else parents

    def with_scenes(self, *parents: Stage) -> tuple[Stage, ...]:
        """Return ``parents``, and before them the stage that makes the scenes, if one does."""
        return (self._made_scenes(), *parents) if self.made else parents

    def real_pictures(self) -> dict[str, Any]:
        """Return the input by which a stage knows real pictures; made ones are a parent."""
        return {} if self.made else {"data": self.pictures()}

    def real_scenes(self) -> dict[str, Any]:
        """Return the input by which a stage knows real scenes; made ones are a parent."""
        return {} if self.made else {"data": self.scenes()}

    def _made_pictures(self) -> Stage:
        digits = self.cfg.DIGITS
        counts = {"--train-per-class": digits.TRAIN_PER_CLASS, "--val-per-class": digits.VAL_PER_CLASS}
        return self._make("pictures", {**counts, "--side": digits.SIDE}, ("--scenes", "--test-scenes"))

    def _made_scenes(self) -> Stage:
        digits = self.cfg.DIGITS
        flags = {"--scenes": digits.SCENES, "--test-scenes": digits.TEST_SCENES, "--scene-side": digits.SCENE_SIDE}
        nothing_of = ("--train-per-class", "--val-per-class")
        if self._makes_coco():
            return self._make("coco", {**flags, "--format": "coco"}, nothing_of)
        return self._make("VOCdevkit", flags, nothing_of)

    def _makes_coco(self) -> bool:
        """Return whether the scenes are made in COCO's format: that of the data which fine-tuning names."""
        return is_coco(self.detection.DATASETS.TEST[0])

    def _make(self, output: str, flags: Mapping[str, int | str], nothing_of: Sequence[str]) -> Stage:
        flags = {"--seed": self.cfg.DIGITS.SEED, **flags}
        return self.book.add(
            f"data/{output}",
            "data",
            lambda folder: [
                *tool("make_digits"),
                *words({"--output": folder, **flags, **dict.fromkeys(nothing_of, 0)}),
            ],
            outputs=(output,),
            inputs=flags,
        )


def scenes_root(cfg: CfgNode, detection: CfgNode) -> str:
    """Return the VOC.ROOT of fine-tuning on real data: the study's, else that of its config, else Detectron2's."""
    return _absolute(cfg.DETECTION.VOC_ROOT or detection.VOC.ROOT or str(default_root()))


def given_pictures(cfg: CfgNode) -> list[tuple[str, str]]:
    """Return path and SHA-256 of every file of CAM.PICTURES.

    Raises:
        FileNotFoundError: one of them is no file.
    """
    paths = [_absolute(path) for path in cfg.CAM.PICTURES]
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"CAM.PICTURES: {path} is no file")
    return [(path, sha256(path)) for path in paths]


def _absolute(path: str) -> str:
    return str(Path(os.path.expanduser(path)).resolve()) if path else ""
