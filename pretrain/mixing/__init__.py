"""Augmentations that mix the pictures of a batch, all called as torchvision's ``transforms.v2.CutMix`` is::

    mix = SaliencyMix(num_classes=1000)
    images, soft_labels = mix(images, labels)  # uint8 (B, 3, H, W), int64 (B,) -> uint8, float32 (B, num_classes)

SaliencyMix, ResizeMix, Cutout and Manifold Mixup are our own; CutMix and MixUp come from torchvision. ``make_mixing``
builds any by name. All draws come from PyTorch's default CPU generator, whatever the device of the batch: a seed
repeats everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.transforms import v2

from pretrain.mixing.cutout import Cutout
from pretrain.mixing.labels import check_choice
from pretrain.mixing.manifold_mixup import ManifoldMixup
from pretrain.mixing.saliencymix import SaliencyMix
from pretrain.mixing.torchvision_mixing import TorchvisionMixing
from pretrain.names import METHODS

__all__ = ["Cutout", "ManifoldMixup", "SaliencyMix", "TorchvisionMixing", "make_mixing"]


def make_mixing(
    method: str, *, num_classes: int, alpha: float = 1.0, p: float = 1.0, **options: Any
) -> nn.Module | None:
    """Return what mixes the batches of ``method``, one of ``METHODS``; ``None`` where the batch is left alone.

    Every result but Manifold Mixup's is called with ``uint8 (B, 3, H, W)`` and ``int64 (B,)`` and returns pictures and
    ``float32 (B, num_classes)`` labels. The pictures stay ``uint8``, except that ``mixup`` returns ``float32`` in
    0..255. ``manifold_mixup`` returns a ``ManifoldMixup``, which is used around the forward pass. ``baseline`` mixes
    nothing; ``dropblock`` and ``stochastic_depth`` are parts of the network. ``options`` go to ``SaliencyMix``,
    ``Cutout`` or ``ManifoldMixup``. ``alpha`` means nothing to ``cutout`` and ``resizemix``. ``resizemix`` is
    ``SaliencyMix`` with ``patch="resized"``; ``cutmix`` does what ``"uniform"`` and scope ``"batch"`` would with
    torchvision's draws and neighbours as partners.
    """
    check_choice("method", method, METHODS)
    builders: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
        "saliencymix": (SaliencyMix, {"alpha": alpha, "p": p}),
        "resizemix": (_resizemix, {"p": p}),
        "cutout": (Cutout, {"p": p}),
        "manifold_mixup": (ManifoldMixup, {"alpha": alpha, "p": p}),
        "mixup": (TorchvisionMixing, {"transform": v2.MixUp, "alpha": alpha, "p": p}),
        "cutmix": (TorchvisionMixing, {"transform": v2.CutMix, "alpha": alpha, "p": p}),
    }
    if method not in builders:
        if options:
            raise ValueError(f"method {method!r} takes no mixing options, but got {sorted(options)}")
        return None
    build, fixed = builders[method]
    known = sorted(set(inspect.signature(build).parameters) - {"num_classes", *fixed})
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"method {method!r} has no option {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    return build(num_classes=num_classes, **fixed, **options)


def _resizemix(num_classes: int, *, p: float) -> SaliencyMix:
    return SaliencyMix(num_classes, p=p, patch="resized")
