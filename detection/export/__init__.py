"""A trained detector for other people's code: files that Detectron2 or torchvision use by themselves, proved equal."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from detection.convert.backbone_file import check_target
from detection.export.proof import Proof
from pretrain.run.settings import check_choice, refuse_faults

TARGETS = ("torchvision", "detectron2")


class Export(NamedTuple):
    """What an export did: the weights and what lies beside them, the proof (None: not run), and Python that uses it."""

    files: tuple[Path, Path]
    proof: Proof | None
    lines: str


def export_detector(cfg: CfgNode, target: Path | str, to: str) -> Export:
    """Write the trained detector in MODEL.WEIGHTS to ``target``, a ``.pth``, for Detectron2 or torchvision (``to``).

    A config (``.yaml``) for Detectron2, a module (``.py``) for torchvision goes beside it. Neither is there before both
    are written and found to detect what our own engine detects. Folders of ``target`` are made where they lack.

    Raises:
        FileNotFoundError: there is no such file of weights.
        FileExistsError: there is a file already where one would be written.
        ValueError: no such ``to``, keys whose values it does not have (all of them), weights that are no trained
            detector of ``cfg``, or a proof that fails.
    """
    check_choice("--to", to, TARGETS)
    kind = importlib.import_module(f"detection.export.{to}")
    target = Path(target).absolute()
    check_target(Path(cfg.MODEL.WEIGHTS), target, (".pth",))
    files = (target, target.with_suffix(kind.COMPANION))
    for file in files:
        if os.path.lexists(file):
            raise FileExistsError(f"{file} is there already, and would be overwritten; choose another TARGET")
    refuse_faults(kind.faults(cfg, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        proof = kind.write(cfg, Path(folder) / target.name)
        for file in files:
            os.replace(Path(folder) / file.name, file)
    return Export(files, proof, kind.lines(cfg, target))
