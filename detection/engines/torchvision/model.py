"""Faster R-CNN (C4 and FPN) assembled from torchvision's parts, numerically equal to Detectron2's.

Equal weights and pictures give bit-equal losses, gradients and detections on a CPU, as long as both run in the same
process setting (threads, memory format); the parity test holds this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from detection.engines.initial_weights import draw_initial_weights
from detection.engines.torchvision import keys
from detection.engines.torchvision.backbone import build_backbone, build_resnet
from detection.engines.torchvision.boxes import has_area
from detection.engines.torchvision.roi_heads import Detections, RoIHeads
from detection.engines.torchvision.rpn import RegionProposals
from detection.engines.torchvision.supported import check_supported


def build_model(cfg: CfgNode) -> Detector:
    """Return the detector of ``cfg.MODEL`` on ``cfg.MODEL.DEVICE``, in training mode.

    Its weights are drawn from SEED, the same in both engines (see ``detection.engines.initial_weights``).

    Raises:
        ValueError: a value in ``cfg`` that this engine does not implement.
    """
    check_supported(cfg)
    model = Detector(cfg)
    draw_initial_weights(model.detectron2_state_dict(), cfg.SEED)
    return model.to(cfg.MODEL.DEVICE, memory_format=model.memory_format)


class Detector(nn.Module):
    """Samples in, losses or detections out.

    A sample is a dict with ``image`` (uint8 ``(3, H, W)``, channels in the order of INPUT.FORMAT), ``height`` and
    ``width`` (of the original picture) and, in training, ``boxes`` (float32 ``(M, 4)``, x1, y1, x2, y2 in pixels of
    ``image``) and ``classes`` (int64 ``(M,)``, 0 .. K - 1); M may be 0. Samples are left as they are.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.memory_format = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
        resnet = build_resnet(cfg)
        self.backbone = build_backbone(cfg, resnet)
        self.proposal_generator = RegionProposals(cfg, self.backbone.channels, self.backbone.strides)
        self.roi_heads = RoIHeads(cfg, resnet, self.backbone.channels, self.backbone.strides)
        for name, values in (("pixel_mean", cfg.MODEL.PIXEL_MEAN), ("pixel_std", cfg.MODEL.PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training mode, detections in eval mode.

        Losses are the scalars ``loss_cls``, ``loss_box_reg``, ``loss_rpn_cls`` and ``loss_rpn_loc``. Detections are a
        dict for each sample, without gradient: ``boxes`` (float32 ``(N, 4)``, x1, y1, x2, y2, 0-based, half-open, in
        pixels of the original picture), ``scores`` (float32 ``(N,)``, falling) and ``classes`` (int64 ``(N,)``).
        """
        return self._losses(samples) if self.training else self._detect(samples)

    def _losses(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        images, sizes = self._batch(samples)
        objects, classes = (
            [sample[name].to(self.pixel_mean.device, non_blocking=True) for sample in samples]
            for name in ("boxes", "classes")
        )
        features = self.backbone(images)
        proposals, proposal_losses = self.proposal_generator(features, sizes, objects)
        return {**self.roi_heads.losses(features, proposals, objects, classes), **proposal_losses}

    @torch.no_grad()
    def _detect(self, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        images, sizes = self._batch(samples)
        features = self.backbone(images)
        proposals, _ = self.proposal_generator(features, sizes)
        found = self.roi_heads.detect(features, proposals, sizes)
        return [
            _to_original(picture, size, (sample["height"], sample["width"]))._asdict()
            for picture, size, sample in zip(found, sizes, samples, strict=True)
        ]

    def _batch(self, samples: Sequence[Mapping[str, Any]]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return normalised pictures ``(N, 3, H, W)``, padded at the right and bottom with 0, and their own sizes.

        Only a feature pyramid needs sizes divisible by 32; padding for C4 would move its detections.
        """
        pictures = [sample["image"].to(self.pixel_mean.device, non_blocking=True) for sample in samples]
        images = [(picture - self.pixel_mean) / self.pixel_std for picture in pictures]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        step = self.backbone.size_divisibility
        height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
        batch = self.pixel_mean.new_zeros(len(images), 3, height, width).to(memory_format=self.memory_format)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[-2], : image.shape[-1]] = image
        return batch, sizes

    def detectron2_state_dict(self) -> dict[str, Tensor]:
        """Return all weights and statistics by Detectron2's names, sharing storage with the model."""
        return {keys.detectron2_name(key): tensor for key, tensor in self.state_dict().items()}

    def load_detectron2_state_dict(self, state: Mapping[str, Any]) -> keys.LoadReport:
        """Fill the model from tensors or arrays by Detectron2's names; a backbone's names may come without prefix.

        What is missing keeps its value and is reported, so a backbone alone can be loaded: compare the report's counts.

        Raises:
            ValueError: nothing fits, or a shape is wrong; the model is left as it was.
        """
        return keys.load(self.detectron2_state_dict(), state)


def _to_original(found: Detections, size: tuple[int, int], original: tuple[int, int]) -> Detections:
    """Scale boxes from the resized picture's ``size`` to ``original`` (height, width), clip, drop what has no area."""
    (height, width), (original_height, original_width) = size, original
    scale_x, scale_y = original_width / width, original_height / height
    boxes = found.boxes.clone()
    boxes[:, 0::2] *= scale_x
    boxes[:, 1::2] *= scale_y
    boxes = clip_boxes_to_image(boxes, original)
    kept = has_area(boxes).nonzero()[:, 0]
    return Detections(boxes[kept], found.scores[kept], found.classes[kept])
