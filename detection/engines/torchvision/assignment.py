"""What both heads do with boxes in training: match them to objects and draw a balanced sample.

Box tensors are float32 ``(N, 4)``: x1, y1, x2, y2 in pixels of the resized picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

OBJECT, BACKGROUND, IGNORED = 1, 0, -1


def match(boxes: Tensor, objects: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Match each of N boxes to one of M object boxes.

    Returns:
        The object's index for each box (int64; 0 where the label is not OBJECT) and OBJECT, BACKGROUND or IGNORED for
        each box (int64). Without objects, every box is background.
    """
    if len(boxes) == 0 or len(objects) == 0:
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing.clone()
    matches = matcher(box_iou(objects, boxes))
    labels = (matches >= 0).to(torch.int64)
    labels[matches == Matcher.BETWEEN_THRESHOLDS] = IGNORED
    return matches.clamp(min=0), labels


def sample(labels: Tensor, count: int, object_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw at most ``count`` boxes, at most ``int(count * object_fraction)`` of them objects, the rest background.

    Returns:
        Indices of the drawn objects and of the drawn background, in drawn order. Exactly two permutations are taken
        from PyTorch's generator, objects first, as Detectron2 does; torchvision's sampler sorts what it drew, and the
        order decides how the losses are rounded.
    """
    objects = torch.where(labels == OBJECT)[0]
    background = torch.where(labels == BACKGROUND)[0]
    num_objects = min(len(objects), int(count * object_fraction))
    num_background = min(len(background), count - num_objects)
    drawn_objects = objects[torch.randperm(len(objects), device=labels.device)[:num_objects]]
    drawn_background = background[torch.randperm(len(background), device=labels.device)[:num_background]]
    return drawn_objects, drawn_background


def has_area(boxes: Tensor, min_side: float = 0.0) -> Tensor:
    """Return bool ``(N,)``: both sides longer than ``min_side``."""
    return ((boxes[:, 2:] - boxes[:, :2]) > min_side).all(dim=1)
