"""Cutout (DeVries & Taylor 2017): a square of every picture is painted over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.mixing.labels import check_batch, check_probability, to_soft_labels


class Cutout(nn.Module):
    """Replace a square at a random place of every picture; the labels stay what they are.

    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017): the centre is
    uniform over the picture and the square is cut at the borders. ``size`` is its side in pixels (the paper: 16 for
    CIFAR-10, 8 for CIFAR-100), half of the picture's shorter side where it is ``None``. ``fill`` is the RGB colour put
    there; ImageNet's mean colour is about the zero that the paper writes into normalised pictures.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        p: float = 1.0,
        size: int | None = None,
        fill: Sequence[int] = (124, 116, 104),
    ):
        super().__init__()
        check_probability(p)
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1 pixel, but got {size} instead.")
        if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
            raise ValueError(f"fill must be three values in 0..255, but got {fill} instead.")
        self.num_classes, self.p, self.size = num_classes, float(p), size
        self.register_buffer("fill", torch.tensor(fill, dtype=torch.uint8).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures with a hole and ``float32 (B, num_classes)`` labels; the input is left as it is."""
        check_batch(images, labels, least=1)
        soft_labels = to_soft_labels(labels, self.num_classes)
        cut, centres = self.draw(len(images), *images.shape[-2:])
        if not cut:
            return images, soft_labels
        height, width = images.shape[-2:]
        size = self.size or min(height, width) // 2
        first = (centres - size // 2).to(images.device, non_blocking=True)
        row = torch.arange(height, device=images.device) - first[:, :1]
        col = torch.arange(width, device=images.device) - first[:, 1:]
        hole = ((row >= 0) & (row < size))[:, None, :, None] & ((col >= 0) & (col < size))[:, None, None, :]
        return torch.where(hole, self.fill.to(images.device, non_blocking=True), images), soft_labels

    def draw(self, count: int, height: int, width: int) -> tuple[bool, Tensor]:
        """Draw whether to cut at all, and ``int64 (count, 2)`` rows and columns of the centres."""
        cut = torch.rand(()).item() < self.p
        return cut, torch.stack([torch.randint(height, (count,)), torch.randint(width, (count,))], dim=1)
