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
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import clip_boxes_to_image

from detection.engines.torchvision import assignment
from detection.engines.torchvision.boxes import BoxCoder, has_area, places, suppress


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
        self.matcher = assignment.Matcher(low, high, best_for_each=True)
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
            At most POST_NMS_TOPK boxes for each picture, best first, without gradient; and the losses (training only),
            which are not a number where a box or score is not finite. Such boxes are left out.
        """
        levels = [features[name] for name in self.levels]
        anchors = self.anchors(levels)
        scores, deltas = self.rpn_head(levels)
        scores, deltas = ([level.float() for level in output] for output in (scores, deltas))  # 16 bits under AMP
        scores = [level.permute(0, 2, 3, 1).flatten(1) for level in scores]  # each (N, A of the level)
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas]  # (N, A, 4)
        proposals, finite = self._select(anchors, scores, deltas, sizes)
        if not self.training:
            return proposals, {}
        losses = self._losses(torch.cat(anchors), torch.cat(scores, dim=1), torch.cat(deltas, dim=1), objects)
        return proposals, {name: loss.masked_fill(~finite, math.nan) for name, loss in losses.items()}

    def _losses(self, anchors: Tensor, scores: Tensor, deltas: Tensor, objects: Sequence[Tensor]) -> dict[str, Tensor]:
        drawn, is_object, drawn_objects, targets = self._draw(anchors, objects)
        objectness = F.binary_cross_entropy_with_logits(
            scores.flatten()[drawn], is_object.to(scores.dtype), reduction="sum"
        )
        location = smooth_l1_loss(deltas.flatten(0, 1)[drawn_objects], targets, beta=self.beta, reduction="sum")
        losses = {"loss_rpn_cls": objectness, "loss_rpn_loc": location}
        drawn_at_most = self.sample_count * len(objects)  # the divisor even where fewer were drawn
        return {name: loss / drawn_at_most * self.loss_weights[name] for name, loss in losses.items()}

    @torch.no_grad()
    def _draw(self, anchors: Tensor, objects: Sequence[Tensor]) -> list[Tensor]:
        """Return places of drawn anchors, which of them are objects, the places of these, and their targets ``(., 4)``.

        Anchors are counted through all pictures, and sorted: the order decides how the losses are rounded.
        """
        matched, labels = zip(*(assignment.match(anchors, boxes, self.matcher) for boxes in objects), strict=True)
        drawn = assignment.sample(labels, self.sample_count, self.object_fraction)
        parts = []
        for picture, (boxes, (drawn_objects, drawn_background)) in enumerate(zip(objects, drawn, strict=True)):
            drawn_anchors = torch.cat((drawn_objects, drawn_background)).sort().values
            drawn_objects = drawn_objects.sort().values
            before = picture * len(anchors)
            is_object = labels[picture][drawn_anchors] == assignment.OBJECT
            targets = self.coder.encode(boxes[matched[picture][drawn_objects]], anchors[drawn_objects])
            parts.append((before + drawn_anchors, is_object, before + drawn_objects, targets))
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    @torch.no_grad()
    def _select(
        self,
        anchors: Sequence[Tensor],
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Tensor], Tensor]:
        """Decode, keep the best of each level, drop tiny boxes, suppress overlaps within a level, keep the best of all.

        Boxes are ranked by raw logits: a sigmoid would saturate and make ties. The second value, a bool on the device,
        says whether all boxes and scores were finite.
        """
        best_boxes, best_scores, level_of = [], [], []
        for level, (level_anchors, level_scores, level_deltas) in enumerate(zip(anchors, scores, deltas, strict=True)):
            count, num_anchors = level_scores.shape
            boxes = self.coder.decode(level_deltas.reshape(-1, 4), level_anchors.repeat(count, 1))
            top = min(num_anchors, self.pre_nms_topk[self.training])
            top_scores, chosen = level_scores.topk(top, dim=1)
            best_boxes.append(boxes.view(count, num_anchors, 4).take_along_dim(chosen[..., None], dim=1))
            best_scores.append(top_scores)
            level_of.append(torch.full((top,), level, device=boxes.device))
        boxes, scores = torch.cat(best_boxes, dim=1), torch.cat(best_scores, dim=1)
        finite = boxes.isfinite().all(dim=2) & scores.isfinite()
        clipped = [clip_boxes_to_image(*picture) for picture in zip(boxes, sizes, strict=True)]
        kept = finite & torch.stack([has_area(picture, self.min_side) for picture in clipped])
        counts = kept.sum(dim=1).tolist()  # the one wait of all pictures
        levels = torch.cat(level_of)
        proposals = [self._filter(*picture, levels) for picture in zip(clipped, scores, kept, counts, strict=True)]
        return proposals, finite.all()

    def _filter(self, boxes: Tensor, scores: Tensor, kept: Tensor, count: int, levels: Tensor) -> Tensor:
        """Return the best of the ``count`` boxes that the bool ``kept`` names, after suppression within each level."""
        chosen = places(kept, torch.arange(count, device=kept.device))
        boxes, scores, levels = boxes[chosen], scores[chosen], levels[chosen]
        return boxes[suppress(boxes, scores, levels, self.nms_threshold)[: self.post_nms_topk[self.training]]]
