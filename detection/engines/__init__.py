"""Two engines behind the same functions, reading the same config and writing the same run folder.

``check_config(cfg, launch)`` refuses what the engine does not support, before any data is read; ``train(cfg, data, *,
resume, launch)`` fine-tunes on the ``RunData`` that it is given and leaves ``model_final.pth`` in OUTPUT_DIR;
``detect(cfg, dataset)`` returns the detections of MODEL.WEIGHTS on every picture of a ``DetectionDataset``. For a
detector that is held in memory, ``load_model(cfg)`` returns that of MODEL.WEIGHTS, ``detect_sample(model, sample)``
what it finds in one picture, and ``model_state(model)`` its weights by the names that files have.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from types import ModuleType
from typing import NamedTuple

ENGINES = ("auto", "detectron2", "torchvision")
TESTED_COMMIT = "02b5c4e"  # of Detectron2, 6 June 2026
INSTALLATION_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"

logger = logging.getLogger(__name__)


class Launch(NamedTuple):
    """How many processes train, in the terms of Detectron2's flags."""

    num_gpus: int = 1  # per machine; 0 is the CPU
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    @property
    def world_size(self) -> int:
        return max(self.num_gpus, 1) * self.num_machines


ONE_PROCESS = Launch()


def is_first_process() -> bool:
    """Return whether this is the process that writes and reports, of those that ``torchrun`` started (or of one)."""
    return os.environ.get("RANK", "0") == "0"


def select(name: str) -> ModuleType:
    """Return the engine ``name``; "auto" is Detectron2 where it can be imported, else torchvision.

    Raises:
        ImportError: Detectron2 is asked for and cannot be imported.
        ValueError: no such engine.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; the engines are {', '.join(ENGINES)}")
    chosen = name
    if name == "auto":
        chosen = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
    if chosen == "detectron2":
        try:
            importlib.import_module("detectron2")
        except ImportError as error:
            raise ImportError(
                f"--engine detectron2: Detectron2 cannot be imported ({error}). Install it as {INSTALLATION_GUIDE} says"
                f" (tested with commit {TESTED_COMMIT}), or use --engine torchvision, which needs nothing more"
            ) from error
    logger.info("engine: %s%s", chosen, "" if chosen == name else " (--engine auto)")
    return importlib.import_module(f"detection.engines.{chosen}")
