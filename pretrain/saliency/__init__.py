"""Saliency maps of 8-bit RGB batches: pure functions on any device, uint8 (B, 3, H, W) -> float32 (B, H, W)."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pretrain.saliency.centre_surround import fine_grained

__all__ = ["SALIENCY", "fine_grained", "make_saliency"]

SALIENCY: dict[str, Callable[..., Tensor]] = {
    "fine_grained": fine_grained,
}


def make_saliency(saliency: str | Callable[[Tensor], Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
    """Return the function ``uint8 (B, 3, H, W)`` -> ``float32 (B, H, W)`` called ``saliency`` in ``SALIENCY``."""
    if callable(saliency):
        return saliency
    if saliency not in SALIENCY:
        raise ValueError(f"unknown saliency {saliency!r}; known: {', '.join(SALIENCY)}, or a function of your own")
    return functools.partial(SALIENCY[saliency], **{k: v for k, v in options.items() if v is not None})
