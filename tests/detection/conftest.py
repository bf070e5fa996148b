"""A config that trains in a second; small detectors, their pictures and calibrated random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from detection.config import get_cfg, load_detection_config, read_detection_config
from detection.engines.torchvision.backbone import FrozenBatchNorm2d

C4 = {
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,  # res5 on RoIs takes most of the time
    "MODEL.RPN.POST_NMS_TOPK_TEST": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64, 128]],
}
FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
CONFIGS = Path(__file__).resolve().parents[2] / "detection" / "configs"
SMOKE = CONFIGS / "smoke.yaml"
JWYANG = CONFIGS / "voc_r50_c4_paper_jwyang.yaml"
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
}


@pytest.fixture
def configure(voc_root, tmp_path):
    """Return a function from ``KEY VALUE`` pairs to the smoke config on the miniature tree."""

    def load(*opts, run="run"):
        fixed = ["VOC.ROOT", str(voc_root), "OUTPUT_DIR", str(tmp_path / run), "MODEL.DEVICE", "cpu"]
        return load_detection_config(SMOKE, [*fixed, *map(str, opts)])

    return load


@pytest.fixture
def make_config() -> Callable[..., CfgNode]:
    """Return a function ``(kind, {key: value})`` -> the config of a detector small enough for a test.

    The kind is "c4", "fpn" or "jwyang", which is the shipped file but for fewer cells that a RoI is pooled to.
    """

    def make(kind: str, changes: dict[str, Any] | None = None) -> CfgNode:
        if kind == "jwyang":
            cfg = read_detection_config(JWYANG)
            small = {"MODEL.DEVICE": "cpu", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 2}
        else:
            cfg, small = get_cfg(), {**SMALL, **{"c4": C4, "fpn": FPN}[kind]}
        for key, value in {**small, **(changes or {})}.items():
            set_key(cfg, key, value)
        return cfg

    return make


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        cfg = cfg[parent]
    assert name in cfg, f"no config key {key}"  # CfgNode would add it
    cfg[name] = value


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    """Two training samples of different sizes, neither a multiple of 32; the second picture shows no object."""
    generator = torch.Generator().manual_seed(0)
    boxes = [[5, 6, 40, 50], [32, 24, 85, 60.5], [50, 10, 66, 22]]
    return [
        {
            "image_id": "objects",
            "image": _noise(70, 94, generator),
            "height": 141,
            "width": 185,
            "boxes": torch.tensor(boxes),
            "classes": torch.tensor([0, 1, 2]),
        },
        {
            "image_id": "empty",
            "image": _noise(77, 66, generator),
            "height": 77,
            "width": 66,
            "boxes": torch.zeros(0, 4),
            "classes": torch.zeros(0, dtype=torch.int64),
        },
    ]


def _noise(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 ``(3, height, width)`` with patches of all sizes, so that neighbouring boxes look different."""
    noise = sum(
        nn.functional.interpolate(torch.randn(1, 3, cells, cells, generator=generator), (height, width))[0]
        for cells in (2, 5, 13, 40)
    )
    return (128 + 35 * noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def calibrate() -> Callable[[nn.Module, list[dict[str, Any]]], None]:
    """Return a function that gives a detector weights under which top-k, thresholds and NMS all have work to do.

    Norm layers take the statistics of their inputs on the samples, and the four output layers are scaled to a useful
    spread. (Fresh weights score everything alike: no test would notice a wrong filter.)
    """

    def run(model: nn.Module, samples: list[dict[str, Any]]) -> None:
        spread = {
            model.proposal_generator.rpn_head.cls_logits: 2.0,
            model.proposal_generator.rpn_head.bbox_pred: 0.4,
            model.roi_heads.box_predictor.cls_score: 2.0,
            model.roi_heads.box_predictor.bbox_pred: 1.0,
        }
        hooks = [layer.register_forward_hook(_scale(std)) for layer, std in spread.items()]
        hooks += [
            layer.register_forward_pre_hook(_measure)
            for layer in model.modules()
            if isinstance(layer, (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm))
        ]
        model.eval()
        model(samples)
        for hook in hooks:
            hook.remove()

    return run


def _scale(std: float) -> Callable[..., torch.Tensor]:
    def hook(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        factor = std / output.std()
        layer.weight.data *= factor
        return output * factor

    return hook


def _measure(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    layer.weight.data.uniform_(0.5, 1.5)
    layer.bias.data.normal_(std=0.1)
