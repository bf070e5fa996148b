"""The pooled features of pictures, as a network in evaluation mode sees them; computed once, then read from a file.

The name of the file begins with the checkpoint's hash and ends with one of all else that the features depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pretrain.data.augmentation import eval_transform
from pretrain.data.batches import UNREADABLE, Batches, Pictures, Unreadable
from pretrain.data.sampling import spread_over_classes
from pretrain.data.sources import ClassFolders, labels_of
from pretrain.inspect.pretrained import Pretrained
from pretrain.learner import Preparation
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from pretrain.run.cli import Progress
from pretrain.run.processes import num_workers
from pretrain.run.run_folder import package_versions

PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "opencv-contrib-python")  # what decodes, resizes and computes
SUBSET_SEED = 0  # every network meets the same pictures, whatever else is drawn
BATCH_SIZE = 64

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Features(NamedTuple):
    """Pooled features, ``float32 (N, C)``, and labels, ``int64 (N,)``, of the pictures that could be read."""

    values: Tensor
    labels: Tensor
    unreadable: list[str]  # names of those that could not


@dataclass(frozen=True)
class Split:
    """The pictures of a class folder that a network is to see.

    Attributes:
        folder: that the classes are in.
        indices: of the pictures in ``source``, rising.
    """

    folder: Path
    source: ClassFolders
    indices: list[int]

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names, sizes and times of the pictures; none of them is opened."""
        digest = hashlib.sha256()
        for index in self.indices:
            path = self.source.name(index)
            stat = os.stat(path)
            digest.update(f"{os.path.relpath(path, self.folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def choose_pictures(folder: Path, source: ClassFolders, num_images: int, option: str) -> Split:
    """Return ``num_images`` pictures of ``source``, spread over the classes and the same every time; 0: all.

    Raises:
        ValueError: there are fewer; ``option`` is what the user asked with.
    """
    if num_images > len(source):
        raise ValueError(f"{option} is {num_images}, but there are only {len(source)} pictures in {folder}")
    order = spread_over_classes(labels_of(source), seed=SUBSET_SEED)
    return Split(folder, source, sorted(order[: num_images or None]))


def identity(pretrained: Pretrained, split: Split, device: torch.device, code: str) -> dict[str, Any]:
    """Return all that the features of ``split`` depend on, ready for JSON; ``code`` is the version of the code."""
    return {
        "checkpoint_sha256": pretrained.sha256,
        "prefix": pretrained.prefix,
        "arch": pretrained.arch,
        "preprocessing": pretrained.record()["preprocessing"],
        "pictures": split.fingerprint(),
        "device": device.type,
        "versions": package_versions(PACKAGES),
        "code": code,
    }


def kept_path(folder: Path, what: str, of: Mapping[str, Any], suffix: str) -> Path:
    """Return where ``folder`` keeps ``what`` (a word) of that ``identity``."""
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return folder / f"{of['checkpoint_sha256'][:12]}-{what}-{key[:16]}{suffix}"


def kept(path: Path, read: Callable[[Path], T], compute: Callable[[], T], write: Callable[[T, Path], None]) -> T:
    """Return what ``path`` holds; computed and written there first if there is no such file, or a damaged one."""
    if path.is_file():
        try:
            return read(path)
        except ValueError as error:
            logger.warning("%s; computed anew", error)
    value = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write(value, path)
    return value


def features_of(
    pretrained: Pretrained, split: Split, of: Mapping[str, Any], folder: Path, device: torch.device
) -> Features:
    """Return the features of ``split``, whose ``identity`` is ``of``, from ``folder`` if they are kept there.

    Raises:
        ValueError: more pictures than DATA.MAX_UNREADABLE cannot be read.
    """

    def read(path: Path) -> Features:
        return Features(**load_checkpoint(path))

    def write(features: Features, path: Path) -> None:
        save_checkpoint(features._asdict(), path)

    path = kept_path(folder, split.folder.name, of, ".pth")
    return kept(path, read, lambda: compute_features(pretrained, split, device), write)


@torch.no_grad()
def compute_features(pretrained: Pretrained, split: Split, device: torch.device) -> Features:
    """Return the features of ``split``, computed on ``device``, on the CPU.

    Raises:
        ValueError: more pictures than DATA.MAX_UNREADABLE cannot be read; or the features are not finite, or the same
            for all pictures.
    """
    cfg = pretrained.cfg
    chosen = [(index, 0) for index in split.indices]
    unreadable = Unreadable(cfg.DATA.MAX_UNREADABLE)
    batches = Batches(
        Pictures(split.source, eval_transform(cfg), replace=False, limit=cfg.DATA.MAX_UNREADABLE),
        [chosen[first : first + BATCH_SIZE] for first in range(0, len(chosen), BATCH_SIZE)],
        unreadable,
        num_workers=num_workers(cfg.DATA.NUM_WORKERS),
        pin_memory=device.type == "cuda",
    )
    values, labels = _run(pretrained.backbone(device), batches, Preparation(cfg, device), split.folder.name)
    if not values.isfinite().all():
        raise ValueError(f"{pretrained.path}: its features of {split.folder} are not finite: a broken network")
    if len(values) > 1 and (values == values[0]).all():
        raise ValueError(f"{pretrained.path}: all pictures of {split.folder} have the same features: a dead network")
    return Features(values, labels, sorted(unreadable.reasons))


def _run(network: nn.Module, batches: Batches, prepare: Preparation, title: str) -> tuple[Tensor, Tensor]:
    found, labels = [], []
    with Progress(len(batches), f"features of {title}", unit="batch") as progress, iter(batches) as samples:
        for images, numbers in samples:
            readable = numbers != UNREADABLE
            found.append(network(prepare(images)).float().cpu()[readable])
            labels.append(numbers[readable])
            progress.update()
    return torch.cat(found), torch.cat(labels)
