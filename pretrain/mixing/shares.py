"""Labels by what a picture shows: how much of its saliency is left of each of the two pictures in a mixed one."""

from __future__ import annotations

from collections.abc import Sequence

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
    boxes = [(target_top, target_left, rows, cols)]  # of the pictures as hosts
    if patches.scale is None:
        receiver = partners.argsort()  # of the patch of each picture
        boxes.append(tuple(field[receiver] for field in (source_top, source_left, rows, cols)))
    inside, outside = inside_and_outside(maps.double(), boxes)
    host, total = outside[:, 0], inside[:, 0] + outside[:, 0]
    donor_total = total[partners]
    donor = inside[partners, 1] if patches.scale is None else donor_total * (rows * cols) / (height * width)
    if label == "relative":
        # 0 / 0 is no number, and no number is above 0
        host, donor = host / total, donor / donor_total
    seen = host + donor
    known = seen > 0
    share = torch.where(known, host / seen, kept_share(patches, height, width))
    return share.float(), (~known).sum()


def inside_and_outside(maps: Tensor, boxes: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Return ``(B, N)`` sums of ``(B, H, W)`` maps over each of N boxes and over the rest, in the type of ``maps``.

    A box is ``(top, left, height, width)``, ``int64 (B,)`` each. The rest is added up by itself: without any saliency
    it is zero, not what rounding leaves of a difference.
    """
    rows = torch.stack([span(top, height, maps.shape[1]) for top, _, height, _ in boxes], dim=2)  # (B, H, N)
    cols = torch.stack([span(left, width, maps.shape[2]) for _, left, _, width in boxes], dim=2)  # (B, W, N)
    within, beside = torch.bmm(maps, torch.cat([cols, ~cols], dim=2).to(maps.dtype)).chunk(2, dim=2)  # (B, H, N)
    return (within * rows).sum(1), (beside + within * ~rows).sum(1)
