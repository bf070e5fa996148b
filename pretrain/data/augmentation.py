"""What happens to a picture on its way into a batch: crop, flip, colours, an erased box. It stays 8-bit all the way.

Colours change here, before mixing, so that saliency sees the picture that the network will see; normalisation is the
trainer's last step before the network. Colours that leave 0..255 are clamped and rounded to whole levels; the authors'
code changes them in floating point and clamps nothing.

The order is that of torchvision's reference (references/classification/presets.py), which erases last and before it
mixes. It writes zeros into the normalised picture; here the box gets what lies nearest, PIXEL_MEAN in whole levels, as
Cutout's does: within half a level of zero. So saliency sees an erased box too, as a plain patch with edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

# Eigenvalues and eigenvectors (columns) of the covariance of ImageNet's RGB values in 0..1 (Krizhevsky et al. 2012,
# section 4.1; the constants that AlexNet's successors share).
_PCA_VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_PCA_VECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def train_transform(cfg: CfgNode) -> v2.Compose:
    """Picture of any size, PIL or ``uint8 (3, H, W)`` -> augmented ``uint8 (3, S, S)``, S being ``train_size``."""
    size = train_size(cfg)
    if cfg.DATA.CROP == "resized":
        steps: list[v2.Transform] = [v2.RandomResizedCrop(size, scale=cfg.DATA.CROP_SCALE, antialias=True)]
    else:
        steps = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]  # nothing to do for CIFAR's 32 x 32
        if cfg.DATA.CROP == "padded":
            steps.append(v2.RandomCrop(size, padding=cfg.DATA.PADDING))
    return v2.Compose([*steps, *after_crop(cfg).transforms])


def after_crop(cfg: CfgNode) -> v2.Compose:
    """Return what ``train_transform`` does to a picture that has its size already."""
    steps: list[v2.Transform] = []
    if cfg.DATA.FLIP_PROB:
        steps.append(v2.RandomHorizontalFlip(cfg.DATA.FLIP_PROB))
    if cfg.DATA.TRIVIAL_AUGMENT:
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    if cfg.DATA.COLOR_JITTER:
        strength = cfg.DATA.COLOR_JITTER
        steps.append(ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    steps.append(v2.PILToTensor())
    if cfg.DATA.PCA_LIGHTING:
        steps.append(PcaLighting(cfg.DATA.PCA_LIGHTING))
    if cfg.DATA.ERASE_PROB:
        steps.append(v2.RandomErasing(cfg.DATA.ERASE_PROB, value=[round(level) for level in cfg.DATA.PIXEL_MEAN]))
    return v2.Compose(steps)


def train_size(cfg: CfgNode) -> int:
    """Return the side of a training picture in pixels."""
    return cfg.DATA.TRAIN_SIZE or cfg.DATA.IMAGE_SIZE


def eval_transform(cfg: CfgNode) -> v2.Compose:
    """Picture as above -> the centre of the picture resized to DATA.EVAL_RESIZE, with S being DATA.IMAGE_SIZE."""
    interpolation = v2.InterpolationMode(cfg.DATA.EVAL_INTERPOLATION)
    return v2.Compose(
        [
            v2.Resize(cfg.DATA.EVAL_RESIZE, interpolation, antialias=True),
            v2.CenterCrop(cfg.DATA.IMAGE_SIZE),
            v2.PILToTensor(),
        ]
    )


class ColorJitter(v2.ColorJitter):
    """torchvision's, to the bit, in about half of its time on ``uint8 (3, H, W)``; PIL pictures are left to it.

    Each change gives whole levels. torchvision goes from bytes to floats and back for each, which takes most of its
    time; here the levels stay floats until the last change is done.
    """

    def transform(self, picture: Tensor | Image.Image, params: dict[str, Any]) -> Tensor | Image.Image:
        if not isinstance(picture, Tensor):
            return super().transform(picture, params)
        changes = (
            lambda levels: levels.mul_(params["brightness_factor"]),
            lambda levels: _blend(levels, _grey(levels).mean(), params["contrast_factor"]),
            lambda levels: _blend(levels, _grey(levels), params["saturation_factor"]),
        )
        levels = picture.float()
        for number in params["fn_idx"].tolist():
            if number < len(changes):  # the last is hue, which stays
                levels = changes[number](levels).clamp_(0, 255).floor_()
        return torch.from_numpy(levels.numpy().astype(np.uint8))  # six times as fast as PyTorch's own conversion


def _grey(levels: Tensor) -> Tensor:
    red, green, blue = levels
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _blend(levels: Tensor, other: Tensor, share: float) -> Tensor:
    return levels.mul_(share).add_(other, alpha=1 - share)


class PcaLighting(v2.Transform):
    """Add a random multiple of ImageNet's principal colours to a ``uint8 (3, H, W)`` picture (AlexNet's)."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def forward(self, picture: Tensor) -> Tensor:
        shift = 255 * (_PCA_VECTORS * (torch.randn(3) * self.std) * _PCA_VALUES).sum(dim=1)
        lit = picture.clone(memory_format=torch.contiguous_format)
        for channel, levels in zip(lit, shift.round().clamp_(-255, 255).int().tolist(), strict=True):
            # bytes all the way: what would leave 0..255 is cut first, and then the sum modulo 256 is the sum
            channel.clamp_(max(0, -levels), 255 - max(0, levels)).add_(levels % 256)
        return lit
