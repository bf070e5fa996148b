"""Class folders and CIFAR: numbered, labelled pictures that are read one at a time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor
from torchvision import datasets

from pretrain.data.decoding import read_picture
from pretrain.run.pictures import is_no_data

logger = logging.getLogger(__name__)


class Source(Protocol):
    """A numbered collection of labelled pictures."""

    classes: list[str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Tensor | Image.Image, int]:
        """Return picture and label; raises UnreadablePicture."""

    def name(self, index: int) -> str:
        """Return what names the picture in a message."""


class ClassFolders:
    """A folder with one sub-folder of pictures per class; classes are numbered in alphabetical order.

    Files without the suffix of a picture are none; nor is anything that is hidden or that a tool made for itself.

    Raises:
        FileNotFoundError: the folder is missing, has no class folders, or one of them has no pictures.
    """

    def __init__(self, folder: Path | str, decoder: str):
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; DATA.ROOT must hold train/ and val/, a folder per class in each"
            )
        try:
            listing = _VisibleFolders(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder}: {error}") from error
        self.classes: list[str] = listing.classes
        self.samples: list[tuple[str, int]] = listing.samples
        self._decoder = decoder

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[Tensor | Image.Image, int]:
        path, label = self.samples[index]
        return read_picture(path, self._decoder), label

    def name(self, index: int) -> str:
        return self.samples[index][0]


def open_splits(root: Path, decoder: str) -> tuple[ClassFolders, ClassFolders]:
    """Return the training and the validation pictures in ``root``.

    Raises:
        ValueError: the two have different classes.
        FileNotFoundError: as ClassFolders raises it.
    """
    train, val = (ClassFolders(root / split, decoder) for split in ("train", "val"))
    only = [f"{name} only in train/" for name in train.classes if name not in val.classes]
    only += [f"{name} only in val/" for name in val.classes if name not in train.classes]
    if only:
        raise ValueError(f"{root}: train/ and val/ must have the same class folders, but {', '.join(only)}")
    return train, val


class _VisibleFolders(datasets.ImageFolder):
    """ImageFolder, but for what ``is_no_data`` leaves out: folders, files, and all that lies in such folders."""

    def __init__(self, folder: Path | str):
        self._root_length = len(str(Path(folder)))
        super().__init__(Path(folder), is_valid_file=self._is_sample)

    def find_classes(self, directory: Path | str) -> tuple[list[str], dict[str, int]]:
        found, _ = super().find_classes(directory)
        classes = [name for name in found if not is_no_data(name)]
        if len(classes) < len(found):
            others = ", ".join(name for name in found if is_no_data(name))
            logger.info("%s: no class, because hidden or a tool's own: %s", directory, others)
        if not classes:
            raise FileNotFoundError(f"Couldn't find any class folder in {directory}.")
        return classes, {name: number for number, name in enumerate(classes)}

    def _is_sample(self, path: str) -> bool:
        inside = path[self._root_length :].split(os.sep)  # a million times; a Path would cost ten seconds
        return path.lower().endswith(datasets.folder.IMG_EXTENSIONS) and not any(map(is_no_data, inside))


class Cifar:
    """CIFAR-10 or CIFAR-100 as torchvision reads it.

    Raises:
        FileNotFoundError: its files are not in ``root``, or altered, and ``download`` is off.
    """

    def __init__(self, name: str, root: Path, *, train: bool, download: bool):
        reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        try:
            self._pictures = reader(str(root), train=train, download=download)
        except RuntimeError as error:
            raise FileNotFoundError(
                f"{root}: {reader.base_folder} is not there or not whole; unpack {reader.url} there, "
                "or set DATA.DOWNLOAD True"
            ) from error
        self.classes: list[str] = self._pictures.classes
        self._label = f"{name} {'train' if train else 'test'}"

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, index: int) -> tuple[Tensor | Image.Image, int]:
        return self._pictures[index]

    def name(self, index: int) -> str:
        return f"{self._label} picture {index}"


def labels_of(source: Source) -> list[int]:
    """Return the label of every picture of ``source``; files are not opened."""
    if isinstance(source, ClassFolders):
        return [label for _, label in source.samples]
    return [source.read(index)[1] for index in range(len(source))]
