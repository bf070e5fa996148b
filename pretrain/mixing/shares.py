"""Labels by what a picture shows: how much of its saliency is left of each of the two pictures in a mixed one."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.mixing.patches import Patches, kept_share, span


def kept_by_saliency(label: str, maps: Tensor, partners: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
    """Return ``float32 (B,)``, the label's share of each host picture, and ``int64 ()``, how many are shares of area.

    ``maps``: the saliency of every picture of the batch, floating-point ``(B, H, W)``, none negative. What is seen of a
    picture is its saliency outside of the patch in the host, inside of it in the donor: their sum (``absolute``) or
    their part of the picture's own total (``relative``); the two shares are in the ratio of what is seen. (OA-CutMix,
    arXiv 2606.04820, does so with masks of objects; relative with gradients is SaliencyMix+.) A picture that was shrunk
    has the mean of its map in each pixel. Where nothing is seen of either, or ``relative`` has a picture without any
    saliency, the share is that of the area.
    """
    count, height, width = maps.shape
    exact = maps.double()
    target_top, target_left, source_top, source_left, rows, cols = (
        field.expand(count)
        for field in (
            patches.target_top,
            patches.target_left,
            patches.source_top,
            patches.source_left,
            patches.height,
            patches.width,
        )
    )
    hidden, host = inside_and_outside(exact, target_top, target_left, rows, cols)
    host_total = hidden + host
    if patches.scale is None:
        receiver = partners.argsort()  # of the patch of each picture
        boxes = (field[receiver] for field in (source_top, source_left, rows, cols))
        inside, outside = inside_and_outside(exact, *boxes)
        donor, donor_total = inside[partners], (inside + outside)[partners]
    else:
        donor_total = host_total[partners]
        donor = donor_total * (rows * cols) / (height * width)
    if label == "relative":
        # 0 / 0 is no number, and no number is above 0
        host, donor = host / host_total, donor / donor_total
    seen = host + donor
    known = seen > 0
    share = torch.where(known, host / seen, kept_share(patches, height, width))
    return share.float(), (~known).sum()


def inside_and_outside(maps: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(B,)`` sums of ``(B, H, W)`` maps over the box of each and over the rest, in the type of ``maps``.

    The rest is added up by itself: without any saliency it is zero, not what rounding leaves of a difference.
    """
    rows, cols = span(top, height, maps.shape[1]), span(left, width, maps.shape[2])
    beside = torch.bmm(maps, torch.stack([cols, ~cols], dim=2).to(maps.dtype))  # (B, H, 2): in the columns, not in them
    inside = (beside[..., 0] * rows).sum(1)
    return inside, (beside[..., 1] * rows).sum(1) + (beside.sum(2) * ~rows).sum(1)
