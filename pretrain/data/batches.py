"""Labelled pictures -> 8-bit batches; what cannot be read is replaced, counted and named.

Pictures stay ``uint8`` until after mixing, because saliency is a function of the picture; the trainer normalises.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate
from torchvision.transforms import v2

from pretrain.data.augmentation import eval_transform, train_transform
from pretrain.data.sources import Cifar, Source, open_splits
from pretrain.run.loading import Loading, make_loader
from pretrain.run.pictures import UnreadablePicture

UNREADABLE = -1  # the label of a validation picture that could not be read; evaluation leaves it out

logger = logging.getLogger(__name__)


class LoadedPicture(NamedTuple):
    """A picture ``uint8 (3, S, S)``, its label, and (name, reason) of what could not be read on the way to it."""

    image: Tensor
    label: int
    failures: list[tuple[str, str]]


class Pictures(Dataset):
    """The transformed pictures of ``source``.

    Indexed with ``(index, seed)``; every random draw of the augmentation comes from ``seed``, so that an item is the
    same in any process and after any resume. A picture that cannot be read is replaced by the next one of the source
    that can, so that this too is the same everywhere; with ``replace`` off, by a black one labelled ``UNREADABLE``.

    Raises:
        ValueError: on indexing, when this picture and ``limit`` more cannot be read.
    """

    def __init__(self, source: Source, transform: v2.Transform, *, replace: bool, limit: int):
        self._source, self._transform, self._replace, self._limit = source, transform, replace, limit
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, item: tuple[int, int]) -> LoadedPicture:
        index, seed = item
        failures: list[tuple[str, str]] = []
        for offset in range(len(self)):
            chosen = (index + offset) % len(self)
            try:
                picture, label = self._source.read(chosen)
                break
            except UnreadablePicture as error:
                failures.append((self._source.name(chosen), error.reason))
            if not self._replace:
                picture, label = Image.new("RGB", (1, 1)), UNREADABLE
                break
            if len(failures) > self._limit:
                raise too_many(failures, self._limit)
        else:
            raise too_many(failures, self._limit)
        outside = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # torchvision's transforms draw from the global generator
        try:
            return LoadedPicture(self._transform(picture), label, failures)
        finally:
            torch.set_rng_state(outside)


def too_many(failures: list[tuple[str, str]], limit: int) -> ValueError:
    """Return the error that ends a run with the list of its unreadable pictures."""
    names = "; ".join(f"{name}: cannot be read as a picture ({reason})" for name, reason in failures)
    return ValueError(f"{len(failures)} unreadable pictures, where DATA.MAX_UNREADABLE allows {limit}: {names}")


class Unreadable:
    """The unreadable pictures of a run, as far as this process has met them: each is named in the log once."""

    def __init__(self, limit: int):
        self.limit = limit
        self.reasons: dict[str, str] = {}

    def note(self, failures: list[tuple[str, str]]) -> None:
        """Record ``(name, reason)`` pairs.

        Raises:
            ValueError: more than ``limit`` pictures by now; the message lists them.
        """
        for name, reason in failures:
            if name not in self.reasons:
                self.reasons[name] = reason
                logger.warning("%s: cannot be read as a picture (%s); number %d", name, reason, len(self.reasons))
        if len(self.reasons) > self.limit:
            raise too_many(list(self.reasons.items()), self.limit)


class Batches:
    """Yields ``uint8 (B, 3, S, S)`` and ``int64 (B,)``, one batch per list of ``(index, seed)`` in ``batches``.

    Its order and contents do not depend on ``num_workers``, and it leaves the global random generator alone. The
    workers end when an iteration does: at its last batch, at an error, or when the iterator is closed.
    """

    def __init__(
        self,
        pictures: Pictures,
        batches: Sampler[list[tuple[int, int]]],
        unreadable: Unreadable,
        *,
        num_workers: int,
        pin_memory: bool,
    ):
        self._unreadable = unreadable
        self._loader = make_loader(
            pictures,
            batch_sampler=batches,
            num_workers=num_workers,
            key="DATA.NUM_WORKERS",
            pin_memory=pin_memory,
            collate=_collate,
            generator=torch.Generator(),  # else each iterator would draw from the global one and resume would differ
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Loading:
        return Loading(self._loader, self._without_failures)

    def _without_failures(self, batch: tuple[Tensor, Tensor, list[tuple[str, str]]]) -> tuple[Tensor, Tensor]:
        images, labels, failures = batch
        self._unreadable.note(failures)
        return images, labels


def _collate(samples: list[LoadedPicture]) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
    images, labels = default_collate([(sample.image, sample.label) for sample in samples])
    return images, labels, [failure for sample in samples for failure in sample.failures]


def load_splits(cfg: CfgNode) -> tuple[Pictures, Pictures]:
    """Return the training and validation pictures of ``DATA.ROOT``.

    Raises:
        ValueError: ``DATA.ROOT`` is not set, or the two splits have different classes.
        FileNotFoundError: as ClassFolders and Cifar raise it.
    """
    if not cfg.DATA.ROOT:
        holds = "train/ and val/" if cfg.DATA.DATASET == "image_folder" else cfg.DATA.DATASET
        raise ValueError(f"DATA.ROOT is empty; expected a folder that holds {holds}")
    root = Path(cfg.DATA.ROOT)
    train: Source
    val: Source
    if cfg.DATA.DATASET == "image_folder":
        train, val = open_splits(root, cfg.DATA.DECODER)
    else:
        train, val = (Cifar(cfg.DATA.DATASET, root, train=train, download=cfg.DATA.DOWNLOAD) for train in (True, False))
    limit = cfg.DATA.MAX_UNREADABLE
    return (
        Pictures(train, train_transform(cfg), replace=True, limit=limit),
        Pictures(val, eval_transform(cfg), replace=False, limit=limit),
    )
