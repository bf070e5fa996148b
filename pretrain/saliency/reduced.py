"""Saliency of reduced pictures: a few times cheaper, and the peak nearly as salient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.saliency.batches import check_pictures, chunk_size, constant


def at_resolution(saliency: Callable[[Tensor, float], Tensor], images: Tensor, resolution: int) -> Tensor:
    """Return the ``(B, H, W)`` map that ``saliency`` finds in pictures of at most ``resolution`` pixels a side.

    The pictures are averaged over blocks of the smallest whole size that makes them small enough (224 at 112: blocks of
    2 x 2; at 100: of 3 x 3), the map is enlarged bilinearly. ``saliency`` gets the reduced pictures and the factor in
    (0, 1] by which lengths in them are shorter. The price, for fine-grained maps at half the size: the peak moves by
    6 pixels in the median but far where several are nearly equal, to a place that has 0.95 of the full map's peak.
    Beside the chunk that ``saliency`` works on, the reduced pictures and maps of the whole batch are kept.
    """
    check_pictures(images)
    factor = -(-max(images.shape[-2:]) // resolution)
    if factor == 1:
        return saliency(images, 1.0)
    count, _, height, width = images.shape
    size = chunk_size(images)
    small = torch.cat([_block_means(chunk, factor) for chunk in images.split(size)])
    small_maps = saliency(small, 1 / factor)[:, None]
    maps = torch.empty((count, height, width), dtype=small_maps.dtype, device=images.device)
    for chunk, out in zip(small_maps.split(size), maps.split(size), strict=True):
        enlarged = F.interpolate(chunk, scale_factor=factor, mode="bilinear", align_corners=False)
        out.copy_(enlarged[:, 0, :height, :width])
    return maps


def _block_means(images: Tensor, factor: int) -> Tensor:
    """Return ``uint8`` means of blocks of ``factor`` x ``factor`` pixels; the last row and column are repeated to fill
    the blocks at the border."""
    height, width = images.shape[-2:]
    if height % factor or width % factor:
        row = torch.arange(-(-height // factor) * factor, device=images.device).clamp_(max=height - 1)
        col = torch.arange(-(-width // factor) * factor, device=images.device).clamp_(max=width - 1)
        images = images[:, :, row][..., col]
    rows = images[:, :, ::factor].float()
    for shift in range(1, factor):
        rows.add_(images[:, :, shift::factor])
    sums = rows[..., ::factor].clone()
    for shift in range(1, factor):
        sums.add_(rows[..., shift::factor])
    return sums.div_(constant(factor**2, images.device)).round_().to(torch.uint8)
