"""Region proposals: torchvision's RPN head under Detectron2's anchors, filter and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from detection.engines.torchvision import assignment


class AnchorGrid(nn.Module):
    """The anchors of each level: all sizes and aspect ratios at every cell, cell (0, 0) at ``offset * stride``.

    Unlike torchvision's, cells are not rounded, the size varies slower than the ratio, and the stride is the backbone's
    own and not picture size // grid size, which is another number for pictures that are not padded.
    """

    def __init__(self, cfg: CfgNode, strides: Sequence[int]):
        super().__init__()
        self.strides = tuple(strides)
        self.offset = cfg.MODEL.ANCHOR_GENERATOR.OFFSET
        sizes = _for_each_level(cfg.MODEL.ANCHOR_GENERATOR.SIZES, len(strides))
        ratios = _for_each_level(cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS, len(strides))
        for level in range(len(strides)):
            self.register_buffer(f"cell{level}", cell_anchors(sizes[level], ratios[level]), persistent=False)

    @property
    def num_anchors(self) -> int:
        """Anchors at one cell, the same on every level."""
        return len(self.cell0)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return ``(rows * columns * num_anchors, 4)`` for each level; the anchor varies fastest, the row slowest."""
        return [self._level(level, *feature.shape[-2:]) for level, feature in enumerate(features)]

    def _level(self, level: int, rows: int, columns: int) -> Tensor:
        cell, stride = self.get_buffer(f"cell{level}"), self.strides[level]
        y, x = torch.meshgrid(
            *(
                torch.arange(self.offset * stride, count * stride, stride, dtype=torch.float32, device=cell.device)
                for count in (rows, columns)
            ),
            indexing="ij",
        )
        centres = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
        return (centres + cell).reshape(-1, 4)


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return ``(len(sizes) * len(ratios), 4)`` boxes around (0, 0): area ``size ** 2``, height / width the ratio."""
    anchors = []
    for size, ratio in product(sizes, ratios):
        width = math.sqrt(size**2.0 / ratio)
        height = ratio * width
        anchors.append((-width / 2.0, -height / 2.0, width / 2.0, height / 2.0))
    return torch.tensor(anchors)


def _for_each_level(lists: Sequence[Sequence[float]], levels: int) -> list[Sequence[float]]:
    return list(lists) * levels if len(lists) == 1 else list(lists)


class RegionProposals(nn.Module):
    """Score and shift every anchor; keep the best boxes of each picture and, in training, measure the losses.

    Shapes below: N pictures, L levels, A anchors of a picture over all levels.
    """

    def __init__(self, cfg: CfgNode, channels: int, strides: dict[str, int]):
        super().__init__()
        rpn = cfg.MODEL.RPN
        self.levels = tuple(rpn.IN_FEATURES)
        self.anchors = AnchorGrid(cfg, [strides[level] for level in self.levels])
        self.rpn_head = RPNHead(channels, self.anchors.num_anchors)
        self.coder = BoxCoder(tuple(rpn.BBOX_REG_WEIGHTS))
        low, high = rpn.IOU_THRESHOLDS
        self.matcher = Matcher(high, low, allow_low_quality_matches=True)
        self.sample_count, self.object_fraction = rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION
        self.beta = rpn.SMOOTH_L1_BETA
        self.loss_weights = {
            "loss_rpn_cls": rpn.LOSS_WEIGHT,
            "loss_rpn_loc": rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT,
        }
        # training? -> how many boxes to keep
        self.pre_nms_topk = {True: rpn.PRE_NMS_TOPK_TRAIN, False: rpn.PRE_NMS_TOPK_TEST}
        self.post_nms_topk = {True: rpn.POST_NMS_TOPK_TRAIN, False: rpn.POST_NMS_TOPK_TEST}
        self.nms_threshold = rpn.NMS_THRESH
        self.min_side = float(cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE)

    def forward(
        self, features: dict[str, Tensor], sizes: Sequence[tuple[int, int]], objects: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes for each picture.

        Args:
            features: the backbone's levels, each ``(N, channels, rows, columns)``.
            sizes: height and width of each picture without its padding.
            objects: each picture's object boxes; needed in training.

        Returns:
            At most POST_NMS_TOPK boxes for each picture, best first, without gradient; and the losses (training only).

        Raises:
            FloatingPointError: a box or score that is not finite, in training; at test time such boxes are left out.
        """
        levels = [features[name] for name in self.levels]
        anchors = self.anchors(levels)
        scores, deltas = self.rpn_head(levels)
        scores, deltas = ([level.float() for level in output] for output in (scores, deltas))  # 16 bits under AMP
        scores = [level.permute(0, 2, 3, 1).flatten(1) for level in scores]  # each (N, A of the level)
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas]  # (N, A, 4)
        losses = {}
        if self.training:
            losses = self._losses(torch.cat(anchors), torch.cat(scores, dim=1), torch.cat(deltas, dim=1), objects)
        return self._select(anchors, scores, deltas, sizes), losses

    def _losses(self, anchors: Tensor, scores: Tensor, deltas: Tensor, objects: Sequence[Tensor]) -> dict[str, Tensor]:
        drawn_objects, drawn_background, targets = zip(*(self._draw(anchors, boxes) for boxes in objects), strict=True)
        is_object, is_background = torch.stack(drawn_objects), torch.stack(drawn_background)  # (N, A) bool
        drawn = is_object | is_background
        objectness = F.binary_cross_entropy_with_logits(
            scores[drawn], is_object[drawn].to(scores.dtype), reduction="sum"
        )
        location = smooth_l1_loss(deltas[is_object], torch.stack(targets)[is_object], beta=self.beta, reduction="sum")
        losses = {"loss_rpn_cls": objectness, "loss_rpn_loc": location}
        drawn_at_most = self.sample_count * len(objects)  # the divisor even where fewer were drawn
        return {name: loss / drawn_at_most * self.loss_weights[name] for name, loss in losses.items()}

    @torch.no_grad()
    def _draw(self, anchors: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks of the anchors drawn as object and as background, and targets valid for the former."""
        matched, labels = assignment.match(anchors, objects, self.matcher)
        masks = []
        for drawn in assignment.sample(labels, self.sample_count, self.object_fraction):
            masks.append(torch.zeros_like(labels, dtype=torch.bool).index_fill_(0, drawn, True))
        matched_boxes = objects[matched] if len(objects) else anchors
        return *masks, self.coder.encode_single(matched_boxes, anchors)

    @torch.no_grad()
    def _select(
        self,
        anchors: Sequence[Tensor],
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Decode, keep the best of each level, drop tiny boxes, suppress overlaps within a level, keep the best of all.

        Boxes are ranked by raw logits: a sigmoid would saturate and make ties.
        """
        best_boxes, best_scores, level_of = [], [], []
        for level, (level_anchors, level_scores, level_deltas) in enumerate(zip(anchors, scores, deltas, strict=True)):
            count, num_anchors = level_scores.shape
            boxes = self.coder.decode_single(level_deltas.reshape(-1, 4), level_anchors.repeat(count, 1))
            top = min(num_anchors, self.pre_nms_topk[self.training])
            top_scores, chosen = level_scores.topk(top, dim=1)
            best_boxes.append(boxes.view(count, num_anchors, 4).take_along_dim(chosen[..., None], dim=1))
            best_scores.append(top_scores)
            level_of.append(torch.full((top,), level, device=boxes.device))
        levels = torch.cat(level_of)
        pictures = zip(torch.cat(best_boxes, dim=1), torch.cat(best_scores, dim=1), sizes, strict=True)
        return [self._filter(boxes, scores, levels, size) for boxes, scores, size in pictures]

    def _filter(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]) -> Tensor:
        finite = boxes.isfinite().all(dim=1) & scores.isfinite()
        if self.training and not finite.all():
            raise FloatingPointError(
                "the region proposals hold infinite or undefined numbers: training has diverged; "
                "lower SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS"
            )
        boxes = clip_boxes_to_image(boxes, size)
        kept = finite & assignment.has_area(boxes, self.min_side)
        boxes, scores, levels = boxes[kept], scores[kept], levels[kept]
        return boxes[batched_nms(boxes, scores, levels, self.nms_threshold)[: self.post_nms_topk[self.training]]]
