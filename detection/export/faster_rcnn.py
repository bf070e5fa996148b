"""Build torchvision's FasterRCNN from the weights file beside this one; torch, torchvision and Pillow are all it needs.

model = load()
found = model([read("picture.jpg")])[0]  # boxes (x1, y1, x2, y2 in pixels of the picture), labels and scores
names = [model.categories[label] for label in found["labels"]]

As torchvision's other detectors it takes RGB pictures (3, H, W) in 0..1 of any size, and label 0 is the background.
From detection-transfer-toolkit (Apache-2.0), whose tools/export.py wrote both files.
"""

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, box_area, roi_align
from torchvision.transforms.functional import pil_to_tensor, to_pil_image, to_tensor

WEIGHTS = Path(__file__).with_suffix(".pth")


def read(path: str | Path) -> Tensor:
    """Return an 8-bit picture, upright, as the model takes it."""
    return to_tensor(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def load(path: str | Path = WEIGHTS) -> FasterRCNN:
    """Return the detector in eval mode, on the CPU, without gradients."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    parts = content["description"]
    resnet = get_model(parts["resnet"], weights=None)
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4) if parts["stride_in_1x1"] else ():
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    widths = [resnet.fc.in_features // shrink for shrink in (8, 4, 2, 1)]
    levels = {f"layer{number - 1}": f"p{number}" for number in (2, 3, 4, 5)}
    resolution, num_hidden = parts["box_roi_pool"]["output_size"], parts["fc_dims"][-1]
    model = FasterRCNN(
        BackboneWithFPN(resnet, levels, widths, parts["fpn_channels"]),
        rpn_anchor_generator=Anchors(parts["rpn_levels"], parts["cell_anchors"]),
        rpn_head=ProposalHead(parts["rpn_levels"], parts["fpn_channels"], len(parts["cell_anchors"][0])),
        box_roi_pool=RoIAlign(**parts["box_roi_pool"]),
        box_head=FastRCNNConvFCHead((parts["fpn_channels"], resolution, resolution), [], parts["fc_dims"]),
        box_predictor=FastRCNNPredictor(num_hidden, len(parts["categories"])),
        **parts["faster_rcnn"],
    )
    model.transform = Transform(**parts["transform"])
    model.load_state_dict(content["model"])
    model.categories = parts["categories"]
    return model.requires_grad_(False).eval()


class Transform(GeneralizedRCNNTransform):
    """Resizes 8-bit pixels by Pillow to rounded sides; mean and std are of 0..255, in the order of ``channels``."""

    def __init__(self, channels: str, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def forward(self, images: list[Tensor], targets: None = None) -> tuple[ImageList, None]:
        if targets is not None:
            raise ValueError("this FasterRCNN detects; it would train with other norms and losses than it had")
        images = [self.normalize(self._pixels(image)) for image in images]
        return ImageList(self.batch_images(images), [tuple(image.shape[-2:]) for image in images]), None

    def _pixels(self, image: Tensor) -> Tensor:
        pixels = (image * 255).round().to(torch.uint8)
        if short := self.min_size[0]:  # 0 leaves pictures as they are
            height, width = image.shape[-2:]
            scale = short / min(height, width)
            sides = (short, scale * width) if height < width else (scale * height, short)
            shrink = min(1, self.max_size / max(sides))
            height, width = (max(1, int(side * shrink + 0.5)) for side in sides)
            pixels = pil_to_tensor(to_pil_image(pixels).resize((width, height), Image.Resampling.BILINEAR))
        return (pixels.flip(0) if self.channels == "BGR" else pixels).to(image)


class Anchors(AnchorGenerator):
    """Boxes as they are given, not rounded, at the strides of the ``levels`` (picture // grid is another number)."""

    def __init__(self, levels: list[int], cell_anchors: list[list[list[float]]]):
        super().__init__()
        self.levels = levels
        self.cell_anchors = [torch.tensor(boxes) for boxes in cell_anchors]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        sizes = [feature_maps[level - 2].shape[-2:] for level in self.levels]
        anchors = torch.cat(self.grid_anchors(sizes, [(2**level, 2**level) for level in self.levels]))
        return [anchors] * len(image_list.image_sizes)


class ProposalHead(RPNHead):
    """Proposes boxes on some of the ``levels`` (2 for p2, ...)."""

    def __init__(self, levels: list[int], *args):
        super().__init__(*args)
        self.levels = levels

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return super().forward([x[level - 2] for level in self.levels])


class RoIAlign(MultiScaleRoIAlign):
    """Pools from the level that Detectron2 takes for a box, with its shift by half a pixel (``aligned``) or without."""

    def __init__(self, aligned: bool, **kwargs):
        super().__init__(**kwargs)
        self.aligned = aligned

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        rois = torch.cat([torch.nn.functional.pad(each, (1, 0), value=place) for place, each in enumerate(boxes)])
        numbers = [int(name[1:]) for name in self.featmap_names]
        assigned = torch.floor(4 + torch.log2(box_area(rois[:, 1:]).sqrt() / 224 + 1e-8))
        assigned = assigned.clamp(numbers[0], numbers[-1])
        pooled = rois.new_zeros(len(rois), x[self.featmap_names[0]].shape[1], *self.output_size)
        for name, number in zip(self.featmap_names, numbers, strict=True):
            here = torch.where(assigned == number)[0]
            options = (self.output_size, 0.5**number, self.sampling_ratio, self.aligned)
            pooled[here] = roi_align(x[name], rois[here], *options)
        return pooled
