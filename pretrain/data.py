"""Pictures in class folders -> 8-bit batches, in an order that depends on nothing but the seed.

Pictures stay ``uint8`` until after mixing, because saliency is a function of the picture; the trainer normalises.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

# Eigenvalues and eigenvectors (columns) of the covariance of ImageNet's RGB values in 0..1 (Krizhevsky et al. 2012,
# section 4.1; the constants that AlexNet's successors share).
_PCA_VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_PCA_VECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

logger = logging.getLogger(__name__)


class Pictures(Dataset):
    """A folder with one sub-folder of pictures per class; classes are numbered in alphabetical order.

    Indexed with ``(index, seed)``: the item is ``(uint8 (3, S, S), label)``, and every random draw of its augmentation
    comes from ``seed``, so that an item is the same in any process and after any resume.

    Raises:
        FileNotFoundError: the folder is missing, has no class folders, or one of them has no pictures.
        ValueError: on indexing, a picture that cannot be read.
    """

    def __init__(self, folder: Path | str, transform: v2.Transform):
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; DATA.ROOT must hold train/ and val/, a folder per class in each"
            )
        try:
            listing = ImageFolder(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder}: {error}") from error
        self.classes: list[str] = listing.classes
        self.samples: list[tuple[str, int]] = listing.samples
        self._transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = item
        path, label = self.samples[index]
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL raises SyntaxError for broken PNGs
            raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
        outside = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # torchvision's transforms draw from the global generator
        try:
            return self._transform(picture), label
        finally:
            torch.set_rng_state(outside)


def load_splits(cfg: CfgNode) -> tuple[Pictures, Pictures]:
    """Return the training and validation pictures of ``DATA.ROOT``.

    Raises:
        ValueError: ``DATA.ROOT`` is not set, or the two splits have different classes.
    """
    if not cfg.DATA.ROOT:
        raise ValueError("DATA.ROOT is empty; expected a folder that holds train/ and val/")
    root = Path(cfg.DATA.ROOT)
    train, val = Pictures(root / "train", train_transform(cfg)), Pictures(root / "val", eval_transform(cfg))
    if train.classes != val.classes:
        only = [
            f"{name} only in {split}/"
            for split, one, other in (("train", train, val), ("val", val, train))
            for name in one.classes
            if name not in other.classes
        ]
        raise ValueError(f"{root}: train/ and val/ must have the same class folders, but {', '.join(only)}")
    return train, val


def train_transform(cfg: CfgNode) -> v2.Compose:
    """PIL picture -> augmented ``uint8 (3, S, S)``; colours change before mixing, so that saliency sees them."""
    steps: list[v2.Transform] = [v2.RandomResizedCrop(cfg.DATA.IMAGE_SIZE, scale=cfg.DATA.CROP_SCALE, antialias=True)]
    if cfg.DATA.FLIP_PROB:
        steps.append(v2.RandomHorizontalFlip(cfg.DATA.FLIP_PROB))
    if cfg.DATA.COLOR_JITTER:
        strength = cfg.DATA.COLOR_JITTER
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    steps.append(v2.PILToTensor())
    if cfg.DATA.PCA_LIGHTING:
        steps.append(PcaLighting(cfg.DATA.PCA_LIGHTING))
    return v2.Compose(steps)


def eval_transform(cfg: CfgNode) -> v2.Compose:
    """PIL picture -> the centre ``uint8 (3, S, S)`` of the picture resized to DATA.EVAL_RESIZE."""
    return v2.Compose(
        [v2.Resize(cfg.DATA.EVAL_RESIZE, antialias=True), v2.CenterCrop(cfg.DATA.IMAGE_SIZE), v2.PILToTensor()]
    )


class PcaLighting(v2.Transform):
    """Add a random multiple of ImageNet's principal colours to a ``uint8 (3, H, W)`` picture (AlexNet's)."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def forward(self, picture: Tensor) -> Tensor:
        shift = 255 * (_PCA_VECTORS * (torch.randn(3) * self.std) * _PCA_VALUES).sum(dim=1)
        return (picture + shift.round().to(torch.int16)[:, None, None]).clamp_(0, 255).to(torch.uint8)


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(index, seed)`` for iterations ``start`` .. ``stop``, across epochs, without the last partial batch.

    The order of an epoch is a pure function of (seed, epoch) and the seed of a sample one of (seed, epoch, index):
    a resumed run goes on with the very next sample, on any number of workers.
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int, start: int, stop: int):
        self.num_samples, self.batch_size, self.seed, self.start, self.stop = num_samples, batch_size, seed, start, stop
        self.batches_per_epoch = num_samples // batch_size
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"SOLVER.BATCH_SIZE is {batch_size}, but there are only {num_samples} training pictures; "
                f"expected at most {num_samples}"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order, seeds = -1, torch.empty(0), torch.empty(0)
        for iteration in range(self.start, self.stop):
            if iteration // self.batches_per_epoch != epoch:
                epoch = iteration // self.batches_per_epoch
                generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
                order = torch.randperm(self.num_samples, generator=generator)
                seeds = torch.randint(2**62, (self.num_samples,), generator=generator)
            first = iteration % self.batches_per_epoch * self.batch_size
            batch = order[first : first + self.batch_size]
            yield list(zip(batch.tolist(), seeds[batch].tolist(), strict=True))


class EvalBatches(Sampler[list[tuple[int, int]]]):
    """Every sample once, in order; the seed is unused, because evaluation draws nothing."""

    def __init__(self, num_samples: int, batch_size: int):
        self.num_samples, self.batch_size = num_samples, batch_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, self.num_samples, self.batch_size):
            yield [(index, 0) for index in range(first, min(first + self.batch_size, self.num_samples))]


def mix_seed(*parts: int) -> int:
    """Return a 63-bit seed that depends on every one of the non-negative ``parts`` and on their order."""
    state = 0x9E3779B97F4A7C15
    for part in parts:  # splitmix64's finaliser: neighbouring seeds give unrelated streams
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1


def make_loader(
    pictures: Pictures, batches: Sampler[list[tuple[int, int]]], *, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Return a loader of ``uint8 (B, 3, S, S)`` and ``int64 (B,)`` that leaves the global generator alone."""
    return DataLoader(
        pictures,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each new iterator would draw from the global one and resume would differ
    )
