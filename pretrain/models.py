"""Classification networks by name."""

from __future__ import annotations

import torchvision
from torch import nn

from pretrain.config import ARCHITECTURES


def build_model(arch: str, num_classes: int) -> nn.Module:
    """Return a torchvision ResNet with random weights and a head for ``num_classes``.

    Takes normalised float ``(B, 3, H, W)``, returns logits ``(B, num_classes)``. Its state dict has torchvision's
    names, which ``detection.convert`` reads; bottlenecks stride in the 3x3 convolution.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; expected one of {', '.join(ARCHITECTURES)}")
    return torchvision.models.get_model(arch, weights=None, num_classes=num_classes)
