"""Boxes as both heads handle them: deltas, suppression, what is large enough; bit-equal to Detectron2's on a CPU.

Box tensors are float32 ``(N, 4)``: x1, y1, x2, y2 in pixels of the resized picture. Nothing here copies a number to
the device or waits for it, but for the non-maximum suppression, which waits once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.models.detection._utils import encode_boxes
from torchvision.ops import batched_nms, nms

LARGEST_GROWTH = math.log(1000 / 16)  # a delta of width or height is cut here, as exp would overflow
TRICK_AT_MOST = 25_000  # boxes on a GPU; beyond, torchvision suppresses group by group there


class BoxCoder:
    """Turns boxes beside reference boxes into deltas (dx, dy, dw, dh), each times its weight, and back.

    torchvision's class of this name copies its weights and a constant to the device in each call.
    """

    def __init__(self, weights: tuple[float, float, float, float]):
        self.weights = tuple(weights)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return the deltas ``(N, 4)`` that lead from ``references`` to ``boxes``."""
        return encode_boxes(boxes, references, self.weights)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Return the boxes ``(N, K * 4)`` that ``deltas`` ``(N, K * 4)`` make of ``references`` ``(N, 4)``."""
        widths = references[:, 2] - references[:, 0]
        heights = references[:, 3] - references[:, 1]
        centre_x = references[:, 0] + 0.5 * widths
        centre_y = references[:, 1] + 0.5 * heights
        dx, dy, dw, dh = (deltas[:, place::4] / weight for place, weight in enumerate(self.weights))
        x = dx * widths[:, None] + centre_x[:, None]
        y = dy * heights[:, None] + centre_y[:, None]
        half_width = 0.5 * (dw.clamp(max=LARGEST_GROWTH).exp() * widths[:, None])
        half_height = 0.5 * (dh.clamp(max=LARGEST_GROWTH).exp() * heights[:, None])
        return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=2).flatten(1)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Return what torchvision's ``batched_nms`` does: the indices that stay, by falling score.

    Its way for a GPU adds to the boxes of each group an offset of its own, for which it copies a 1 to the device.
    """
    if boxes.device.type == "cpu" or not 0 < len(boxes) <= TRICK_AT_MOST:
        return batched_nms(boxes, scores, groups, threshold)
    offsets = groups.to(boxes.dtype) * (boxes.max() + 1)
    return nms(boxes + offsets[:, None], scores, threshold)


def has_area(boxes: Tensor, min_side: float = 0.0) -> Tensor:
    """Return bool ``(N,)``: both sides longer than ``min_side``."""
    return ((boxes[:, 2:] - boxes[:, :2]) > min_side).all(dim=1)


def places(mask: Tensor, ranks: Tensor) -> Tensor:
    """Return where the bool ``(N,)`` ``mask`` is true for the first time (rank 0), the second (rank 1), and so on.

    Each of ``ranks`` (int64) is below the number of true ones. ``mask.nonzero()`` would have to wait for that number.
    """
    return torch.searchsorted(mask.cumsum(dim=0), ranks, right=True)
