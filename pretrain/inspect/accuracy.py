"""Top-1 and top-5 accuracy of a checkpoint on validation pictures, with the protocol behind the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pretrain.data.augmentation import eval_transform
from pretrain.data.batches import Batches, Pictures, Unreadable
from pretrain.data.sampling import spread_over_classes
from pretrain.data.sources import labels_of
from pretrain.evaluation import evaluate
from pretrain.inspect.pretrained import Pretrained
from pretrain.learner import Preparation
from pretrain.run.processes import Processes, num_workers
from pretrain.run.run_folder import package_versions

SUBSET_SEED = 0  # every network meets the same pictures, whatever else is drawn


@dataclass(frozen=True)
class Validation:
    """A network and the validation pictures that it is evaluated on, ready for ``evaluate``."""

    pretrained: Pretrained
    data_root: Path
    model: nn.Module
    batches: Batches
    prepare: Preparation
    processes: Processes
    chosen: str  # which pictures, in words
    unreadable: Unreadable
    batch_size: int

    def protocol(self) -> dict[str, Any]:
        """Return what numbers on these pictures are of, ready for JSON; complete once they were gone through."""
        return {
            "precision": "float32",
            "pictures": self.chosen,
            "unreadable": sorted(self.unreadable.reasons),
            "data_root": str(self.data_root),
            "batch_size": self.batch_size,
            "device": self.processes.device.type,
            **self.pretrained.record(),
            "versions": package_versions(("python", "torch", "torchvision")),
        }


def open_validation(
    pretrained: Pretrained,
    data_root: Path | str,
    *,
    num_images: int = 0,
    batch_size: int = 0,
    device: torch.device,
) -> Validation:
    """Return the network of ``pretrained`` on ``device`` with the validation pictures in ``data_root``.

    Args:
        data_root: holds ``val/`` with a folder of pictures for each class; or CIFAR's folder, where the checkpoint was
            trained on it.
        num_images: so many pictures, spread over the classes and the same for every network; 0: all.
        batch_size: 0: that of the checkpoint's own evaluation.

    Raises:
        FileNotFoundError: there is no such data.
        ValueError: the checkpoint is not one for these classes, or there are fewer than ``num_images`` pictures.
    """
    cfg = pretrained.cfg
    source = pretrained.validation_source(data_root)
    model = pretrained.network(device, source.classes)
    if num_images > len(source):
        raise ValueError(f"--num-images is {num_images}, but there are only {len(source)} validation pictures")
    order = spread_over_classes(labels_of(source), seed=SUBSET_SEED)[: num_images or None]
    chosen = [(index, 0) for index in sorted(order)]
    batch_size = batch_size or max(1, cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION)
    unreadable = Unreadable(cfg.DATA.MAX_UNREADABLE)
    batches = Batches(
        Pictures(source, eval_transform(cfg), replace=False, limit=cfg.DATA.MAX_UNREADABLE),
        [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)],
        unreadable,
        num_workers=num_workers(cfg.DATA.NUM_WORKERS),
        pin_memory=device.type == "cuda",
    )
    which = "all"
    if len(chosen) < len(source):
        which = f"{len(chosen)} of {len(source)}, spread over the classes in an order from seed {SUBSET_SEED}"
    prepare, processes = Preparation(cfg, device), Processes(device)
    return Validation(pretrained, Path(data_root), model, batches, prepare, processes, which, unreadable, batch_size)


def measure_accuracy(validation: Validation) -> dict[str, Any]:
    """Evaluate a network on its validation pictures.

    Returns:
        ``{"top1", "top5", "top1_error", "top5_error", "num_images", "stated", "protocol"}``, ready for JSON: percent,
        the number of pictures that count (those that could be read), and ``stated``, the top-1 and top-5 accuracy that
        the file or its publisher states, None where it does not.

    Raises:
        ValueError: too many pictures cannot be read.
    """
    errors = evaluate(validation.model, validation.batches, validation.prepare, validation.processes)
    return {
        "top1": 100 - errors["top1_error"],
        "top5": 100 - errors["top5_error"],
        "top1_error": errors["top1_error"],
        "top5_error": errors["top5_error"],
        "num_images": errors["num_images"],
        "stated": dict(zip(("top1", "top5"), validation.pretrained.stated, strict=True)),
        "protocol": validation.protocol(),
    }
