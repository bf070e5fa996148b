"""RoI heads: pooled features of each proposal -> class and box, under Detectron2's sampling, losses and filter.

Classes are 0 .. K - 1; label and logit K are background. Box deltas are separate for each class: ``(R, K * 4)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn
from torchvision.models.resnet import ResNet
from torchvision.ops import clip_boxes_to_image, roi_align

from detection.engines.torchvision import assignment
from detection.engines.torchvision.backbone import norm_layer
from detection.engines.torchvision.boxes import BoxCoder, places, suppress
from detection.engines.torchvision.supported import EXTRA_NORM_HEADS, architecture_of, uses_fpn

CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # FPN paper, equation 1: a box of 224 x 224 belongs to the level of stride 16


class Detections(NamedTuple):
    """What is found in one picture, best first: boxes ``(N, 4)``, scores ``(N,)`` in 0..1, classes int64 ``(N,)``."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


class Pooler(nn.Module):
    """RoIAlign from the level that fits the box's size: levels and boxes -> ``(R, channels, resolution, resolution)``.

    torchvision's MultiScaleRoIAlign shifts by half a pixel (aligned=False) and rounds the level otherwise.
    """

    def __init__(self, cfg: CfgNode, strides: Sequence[int]):
        super().__init__()
        self.resolution = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        self.sampling_ratio = cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
        self.aligned = cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIAlignV2"
        self.strides = tuple(strides)

    def forward(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        picture = torch.cat([torch.full_like(b[:, :1], index) for index, b in enumerate(boxes)])
        rois = torch.cat((picture, torch.cat(list(boxes))), dim=1)  # (R, 5): index of the picture, box
        if len(levels) == 1:
            return self._align(levels[0], rois, self.strides[0])
        assigned = self._assign(rois[:, 1:])
        counts = torch.stack([(assigned == level).sum() for level in range(len(levels))]).tolist()
        of_levels = assigned.argsort(stable=True).split(counts)
        pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], self.resolution, self.resolution)
        for here, features, stride in zip(of_levels, levels, self.strides, strict=True):
            pooled[here] = self._align(features, rois[here], stride)
        return pooled

    def _align(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        # Under mixed precision features have 16 bits, in which a box far from the corner loses its place.
        return roi_align(
            features.to(rois.dtype),
            rois,
            output_size=self.resolution,
            spatial_scale=1.0 / stride,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        ).to(features.dtype)

    def _assign(self, boxes: Tensor) -> Tensor:
        """Return the index of the level for each box, int64 ``(R,)``."""
        side = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE + 1e-8))
        lowest, highest = (int(math.log2(stride)) for stride in (self.strides[0], self.strides[-1]))
        return level.clamp(min=lowest, max=highest).to(torch.int64) - lowest


class Res5Features(nn.Module):
    """C4's box features: res5 on pooled boxes, averaged over the window: ``(R, channels)``."""

    def __init__(self, cfg: CfgNode, resnet: ResNet):
        super().__init__()
        self.channels = architecture_of(cfg).stage_channels[3]
        self.res5 = resnet.layer4
        if cfg.MODEL.ROI_HEADS.NAME == EXTRA_NORM_HEADS:
            self.res5.add_module("norm", norm_layer(cfg.MODEL.RESNETS.NORM)(self.channels))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.res5(pooled).mean(dim=[2, 3])


class FullyConnectedFeatures(nn.Sequential):
    """FPN's box features: NUM_FC linear layers ``fc1``, ``fc2``, ..., each with ReLU: ``(R, FC_DIM)``."""

    def __init__(self, cfg: CfgNode, channels: int):
        super().__init__(nn.Flatten())
        head = cfg.MODEL.ROI_BOX_HEAD
        self.channels = head.FC_DIM
        inputs = channels * head.POOLER_RESOLUTION**2
        for number in range(1, head.NUM_FC + 1):
            self.add_module(f"fc{number}", nn.Linear(inputs, head.FC_DIM))
            self.add_module(f"relu{number}", nn.ReLU())
            inputs = head.FC_DIM


class BoxPredictor(nn.Module):
    """Features ``(R, channels)`` -> class logits ``(R, K + 1)``, background last, and box deltas ``(R, K * 4)``."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, num_classes * 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(features), self.bbox_pred(features)


class RoIHeads(nn.Module):
    """Classify and refine proposals. R counts the RoIs of a whole batch, K the classes without background."""

    def __init__(self, cfg: CfgNode, resnet: ResNet, channels: int, strides: dict[str, int]):
        super().__init__()
        heads, box_head = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        self.levels = tuple(heads.IN_FEATURES)
        self.pooler = Pooler(cfg, [strides[level] for level in self.levels])
        self.box_head = FullyConnectedFeatures(cfg, channels) if uses_fpn(cfg) else Res5Features(cfg, resnet)
        self.box_predictor = BoxPredictor(self.box_head.channels, heads.NUM_CLASSES)
        self.num_classes = heads.NUM_CLASSES
        self.coder = BoxCoder(tuple(box_head.BBOX_REG_WEIGHTS))
        threshold = heads.IOU_THRESHOLDS[0]
        self.matcher = assignment.Matcher(threshold, threshold)
        self.append_objects = heads.PROPOSAL_APPEND_GT
        self.sample_count, self.object_fraction = heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION
        self.beta, self.box_loss_weight = box_head.SMOOTH_L1_BETA, box_head.BBOX_REG_LOSS_WEIGHT
        self.score_threshold, self.nms_threshold = heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST
        self.num_detections = cfg.TEST.DETECTIONS_PER_IMAGE

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        objects: Sequence[Tensor],
        classes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box_reg`` over a sample of the proposals, drawn from PyTorch's generator.

        Args:
            features: the backbone's levels.
            proposals, objects, classes: for each picture, proposed boxes, object boxes and the objects' classes.
        """
        boxes, labels, matched, num_objects = self._draw(proposals, objects, classes)
        logits, deltas = self._predict(features, boxes)
        boxes = torch.cat(boxes)
        if len(labels) == 0:  # the mean over nothing would be undefined
            return {"loss_cls": logits.sum() * 0.0, "loss_box_reg": deltas.sum() * 0.0}
        is_object = places(labels < self.num_classes, torch.arange(num_objects, device=labels.device))
        location = smooth_l1_loss(
            deltas.view(-1, self.num_classes, 4)[is_object, labels[is_object]],
            self.coder.encode(matched[is_object], boxes[is_object]),
            beta=self.beta,
            reduction="sum",
        )
        # divided by all RoIs, not by the objects, so that each object counts the same in every batch
        return {
            "loss_cls": F.cross_entropy(logits, labels),
            "loss_box_reg": location / len(labels) * self.box_loss_weight,
        }

    def detect(
        self, features: dict[str, Tensor], proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Return each picture's detections in pixels of the resized picture, clipped to its size (height, width)."""
        logits, deltas = self._predict(features, proposals)
        counts = [len(boxes) for boxes in proposals]
        boxes = self.coder.decode(deltas, torch.cat(list(proposals))).split(counts)
        scores = F.softmax(logits, dim=-1).split(counts)
        return [self._filter(*picture) for picture in zip(boxes, scores, sizes, strict=True)]

    def _predict(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.pooler([features[level] for level in self.levels], boxes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return logits.float(), deltas.float()

    @torch.no_grad()
    def _draw(
        self, proposals: Sequence[Tensor], objects: Sequence[Tensor], classes: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor, Tensor, int]:
        """Return each picture's drawn boxes, objects first; of all R together, labels (K is background) and matches.

        A match is the box of the object that overlaps most; it means something for objects only. The last value is how
        many of the R are objects.
        """
        if self.append_objects:
            proposals = [torch.cat(pair) for pair in zip(proposals, objects, strict=True)]
        found = [assignment.match(*pair, self.matcher) for pair in zip(proposals, objects, strict=True)]
        drawn = assignment.sample([labels for _, labels in found], self.sample_count, self.object_fraction)
        boxes, labels, matches = [], [], []
        for picture, (drawn_objects, drawn_background) in enumerate(drawn):
            matched = found[picture][0]
            chosen = torch.cat((drawn_objects, drawn_background))
            boxes.append(proposals[picture][chosen])
            labels.append(classes[picture][matched[drawn_objects]])
            labels.append(torch.full_like(drawn_background, self.num_classes))
            matches.append(objects[picture][matched[chosen]] if len(objects[picture]) else boxes[-1])
        return boxes, torch.cat(labels), torch.cat(matches), sum(len(drawn_objects) for drawn_objects, _ in drawn)

    def _filter(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        """Keep the best of ``(P, K * 4)`` boxes by ``(P, K + 1)`` scores, after suppression within each class."""
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        above = (scores[:, :-1] > self.score_threshold) & finite[:, None]
        regions, classes = above.nonzero(as_tuple=True)
        boxes = clip_boxes_to_image(boxes.view(-1, self.num_classes, 4)[regions, classes], size)
        scores = scores[regions, classes]
        kept = suppress(boxes, scores, classes, self.nms_threshold)
        if self.num_detections >= 0:
            kept = kept[: self.num_detections]
        return Detections(boxes[kept], scores[kept], classes[kept])
