"""What both heads do with boxes in training: match them to objects and draw a balanced sample.

Box tensors are float32 ``(N, 4)``: x1, y1, x2, y2 in pixels of the resized picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detection.engines.torchvision.boxes import places

OBJECT, BACKGROUND, IGNORED = 1, 0, -1


class Matcher(NamedTuple):
    """Which overlap (IoU) makes a box an object: from ``high`` on; below ``low`` it is background, between ignored.

    With ``best_for_each`` the boxes that no other overlaps an object more than are objects too, however little it is.
    """

    low: float
    high: float
    best_for_each: bool = False


def match(boxes: Tensor, objects: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Match each of N boxes to one of M object boxes.

    Torchvision's class Matcher writes under masks, which waits for the device; the result is the same.

    Returns:
        The index of the object that each box overlaps most (int64) and OBJECT, BACKGROUND or IGNORED for each box
        (int64). Without objects, every box is background and every index 0.
    """
    if len(boxes) == 0 or len(objects) == 0:
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing.clone()
    overlaps = box_iou(objects, boxes)
    best, matched = overlaps.max(dim=0)
    labels = torch.full_like(matched, OBJECT)
    labels.masked_fill_(best < matcher.high, IGNORED).masked_fill_(best < matcher.low, BACKGROUND)
    if matcher.best_for_each:
        labels.masked_fill_((overlaps == overlaps.amax(dim=1, keepdim=True)).any(dim=0), OBJECT)
    return matched, labels


def sample(labels: Sequence[Tensor], count: int, object_fraction: float) -> list[tuple[Tensor, Tensor]]:
    """Draw of each picture at most ``count`` boxes, at most ``int(count * object_fraction)`` of them objects.

    The rest is background. It waits once for the device, whatever the number of pictures.

    Args:
        labels: for each picture, what ``match`` says of its boxes.

    Returns:
        For each picture the indices of the drawn objects and of the drawn background, in drawn order. Exactly two
        permutations a picture are taken from PyTorch's generator, objects first, as Detectron2 does; torchvision's
        sampler sorts what it drew, and the order decides how the losses are rounded.
    """
    masks = [(picture == OBJECT, picture == BACKGROUND) for picture in labels]
    found = torch.stack([mask.sum() for pair in masks for mask in pair]).view(-1, 2).tolist()
    drawn = []
    for (is_object, is_background), (objects, background) in zip(masks, found, strict=True):
        num_objects = min(objects, int(count * object_fraction))
        num_background = min(background, count - num_objects)
        drawn_objects = torch.randperm(objects, device=is_object.device)[:num_objects]
        drawn_background = torch.randperm(background, device=is_object.device)[:num_background]
        drawn.append((places(is_object, drawn_objects), places(is_background, drawn_background)))
    return drawn
