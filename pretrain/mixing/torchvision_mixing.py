"""torchvision's CutMix and MixUp, called as the other methods are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from pretrain.mixing.labels import check_alpha, check_batch, check_probability, to_soft_labels


class TorchvisionMixing(nn.Module):
    """torchvision's CutMix or MixUp with probability ``p``; unmixed batches get one-hot labels.

    MixUp blends, so its pictures come out as ``float32`` in 0..255, mixed or not; CutMix's stay ``uint8``. Both pair
    neighbours in the batch and take one share for all: shuffle before.
    """

    def __init__(self, transform: type[v2.CutMix] | type[v2.MixUp], num_classes: int, *, alpha: float, p: float):
        super().__init__()
        check_alpha(alpha)
        check_probability(p)
        self.transform = transform(alpha=alpha, num_classes=num_classes)
        self.num_classes, self.p, self.blends = num_classes, float(p), transform is v2.MixUp

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures and ``float32 (B, num_classes)`` labels; the input is left as it is."""
        check_batch(images, labels)
        soft_labels = to_soft_labels(labels, self.num_classes)
        if self.blends:
            images = images.float()
        if torch.rand(()).item() >= self.p:
            return images, soft_labels
        return self.transform(images, soft_labels)
