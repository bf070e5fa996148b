"""Where patches lie, and pasting them: integer geometry of whole batches, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.saliency.batches import constant


class Patches(NamedTuple):
    """Where each patch is cut and pasted: ``int64 (B,)`` or ``(1,)`` tensors on one device.

    A patch has the rows [top, top + height) and the columns [left, left + width).
    """

    source_top: Tensor
    source_left: Tensor
    target_top: Tensor
    target_left: Tensor
    height: Tensor
    width: Tensor
    moved: bool  # False: the target place is the source place
    scale: float | None = None  # not None: the patch is the whole source picture, its sides multiplied by this

    def to(self, device: torch.device) -> Patches:
        """Return the patches on ``device``, without waiting for it."""
        if self.height.device == device:
            return self
        return Patches(*torch.stack(self[:6]).to(device, non_blocking=True), *self[6:])


def extremes(maps: Tensor, which: str) -> Tensor:
    """Return ``int64 (B, 2)``, row and column of the largest (``salient``) or smallest (``nonsalient``) value of each
    ``(B, H, W)`` map: the first in reading order among equals."""
    lines, index = (maps.amax(2), Tensor.argmax) if which == "salient" else (maps.amin(2), Tensor.argmin)
    row = index(lines, 1)  # a line's extreme first: several times as fast as to look for the place in the whole map
    return torch.stack([row, index(maps[torch.arange(len(maps), device=maps.device), row], 1)], dim=1)


def clipped(source: Tensor, target: Tensor, side: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return first source position, first target position and extent along an axis of ``length`` pixels: ``side // 2``
    pixels to both sides of the two anchors, as far as both pictures reach."""
    half = side // 2
    before = half.minimum(source).minimum(target)
    after = half.minimum(length - source).minimum(length - target)
    return source - before, target - before, before + after


def shifted(source: Tensor, target: Tensor, side: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """As ``clipped``, but all ``side`` pixels, moved inside where they would stick out."""
    last = length - side
    return (source - side // 2).clamp(min=0).minimum(last), (target - side // 2).clamp(min=0).minimum(last), side


def span(first: Tensor, extent: Tensor, length: int) -> Tensor:
    """Return ``bool (B, length)``: the positions [first, first + extent) of each row."""
    position = torch.arange(length, device=first.device) - first[:, None]
    return (position >= 0) & (position < extent[:, None])


def kept_share(patches: Patches, height: int, width: int) -> Tensor:
    """Return ``float32``, for each patch the share of its host picture that is left: from the pasted area, never the
    share that was drawn."""
    left = (height * width - patches.height * patches.width).float()
    return left / constant(height * width, left.device)


def paste(images: Tensor, partners: Tensor, patches: Patches) -> Tensor:
    """Return ``images``, ``uint8 (B, C, H, W)``, with the patch of picture ``partners[b]`` pasted into picture b.

    The result is a new tensor.
    """
    if patches.scale is not None:
        return _paste_shrunk(images, partners, patches)
    count, channels, height, width = images.shape
    # Eight pixels of a row in one number, where that can be: a GPU moves numbers, however small they are, one by one.
    eights = width % 8 == 0 and images.storage_offset() % 8 == 0 and images.is_contiguous()
    wide = torch.int64 if eights else torch.uint8
    if patches.moved:
        row = torch.arange(height, device=images.device) + (patches.source_top - patches.target_top)[:, None]  # (B, H)
        col = torch.arange(width, device=images.device) + (patches.source_left - patches.target_left)[:, None]  # (B, W)
        source_row, source_col = row.clamp_(0, height - 1).expand(count, -1), col.clamp_(0, width - 1).expand(count, -1)
        plane = partners[:, None] * channels + torch.arange(channels, device=images.device)  # (B, C)
        rows = plane[:, :, None] * height + source_row[:, None]  # (B, C, H) into all rows of all pictures
        donors = images.reshape(-1, width).index_select(0, rows.flatten()).view_as(images)
        donors = donors.gather(3, source_col[:, None, None].expand(-1, channels, height, -1))
    else:
        donors = images.view(wide).index_select(0, partners)
    # host ^ ((donor ^ host) & mask): on a CPU several times as fast as torch.where with a mask for all channels.
    inside_rows = span(patches.target_top, patches.height, height).to(wide).neg_()  # no bit or all of them
    inside_cols = span(patches.target_left, patches.width, width).to(torch.uint8).neg_().view(wide)
    mask = inside_rows[:, None, :, None] & inside_cols[:, None, None, :]
    donors, hosts = donors.view(wide), images.view(wide)
    return donors.bitwise_xor_(hosts).bitwise_and_(mask).bitwise_xor_(hosts).view(torch.uint8)


def _paste_shrunk(images: Tensor, partners: Tensor, patches: Patches) -> Tensor:
    count, channels, height, width = images.shape
    row, col = (torch.arange(int(side * patches.scale), device=images.device) for side in (height, width))
    if not (len(row) and len(col)):  # shrunk to nothing
        return images.clone()

    def nearest(position: Tensor, length: int) -> Tensor:
        """As ``functional.interpolate`` has it, which takes several times as long on a CPU."""
        return (position.float() * (1 / patches.scale)).long().clamp_(max=length - 1)

    plane = partners[:, None] * channels + torch.arange(channels, device=images.device)  # (B, C)
    rows = (plane[:, :, None] * height + nearest(row, height)).flatten()  # into all rows of all pictures
    donors = images.reshape(-1, width).index_select(0, rows).gather(1, nearest(col, width).expand(len(rows), -1))
    place = (patches.target_top[:, None] + row)[:, :, None] * width + (patches.target_left[:, None] + col)[:, None, :]
    place = place.flatten(1)[:, None].expand(count, channels, -1)
    return images.flatten(2).scatter(2, place, donors.view(count, channels, -1)).view_as(images)
