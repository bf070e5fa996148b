"""The two engines are one detector: bit-equal detections, losses, gradients and trained weights.

Both models run in this process on the same CPU settings; see the model's docstring for what the equality needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from detection.defaults import drop_voc_config
from detection.engines.torchvision.keys import detectron2_name
from detection.engines.torchvision.model import Detector, build_model

pytest.importorskip(
    "detectron2",
    reason="needs Detectron2 as the reference; to install it see "
    "https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
)

EXTRA_NORM = {"MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm"}
DEEP = {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256}
RESNEXT = {**DEEP, "MODEL.RESNETS.NUM_GROUPS": 32, "MODEL.RESNETS.WIDTH_PER_GROUP": 4}
WIDE = {**DEEP, "MODEL.RESNETS.WIDTH_PER_GROUP": 128}
WIDENED = {**WIDE, "MODEL.RESNETS.RES2_OUT_CHANNELS": 512, "MODEL.RESNETS.STEM_OUT_CHANNELS": 128}
UNUSUAL = {  # one value away from the default for as many keys as possible
    "MODEL.ANCHOR_GENERATOR.SIZES": [[20.5, 31], [40, 70], [90, 150], [180, 240]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.4, 1.3]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 12,
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.2, 0.5],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 300,
    "MODEL.RPN.POSITIVE_FRACTION": 0.1,
    "MODEL.RPN.BBOX_REG_WEIGHTS": (1.1, 0.9, 2.0, 0.7),
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 1.7,
    "MODEL.RPN.LOSS_WEIGHT": 0.6,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.3,
    "MODEL.RPN.NMS_THRESH": 0.5,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.2],
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.6,
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.15,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (9.0, 11.0, 4.0, 6.3),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 0.8,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.7,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 3,
    "TEST.DETECTIONS_PER_IMAGE": 7,
}


def build_detectron2(cfg: CfgNode) -> nn.Module:
    from detectron2.config import get_cfg
    from detectron2.layers import get_norm
    from detectron2.modeling import build_model as build

    reference = get_cfg()
    detectron2_keys = cfg.clone()
    drop_voc_config(detectron2_keys)
    reference.merge_from_other_cfg(detectron2_keys)
    extra_norm = cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    if extra_norm:
        reference.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    model = build(reference)
    if extra_norm:  # what MoCo's subclass of this name adds
        model.roi_heads.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, 2048))
    return model


def as_detectron2(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from detectron2.structures import Boxes, Instances

    converted = []
    for sample in samples:
        objects = Instances(tuple(sample["image"].shape[-2:]))
        objects.gt_boxes, objects.gt_classes = Boxes(sample["boxes"]), sample["classes"]
        converted.append({**sample, "instances": objects})
    return converted


@pytest.fixture
def make_twins(make_config, calibrate, samples) -> Callable[..., tuple[Detector, nn.Module]]:
    """Return a function (kind, changes) -> ours and Detectron2's model with equal, calibrated weights.

    It also enlarges the samples, in place: for FPN boxes must be longer than 112 pixels to reach a level above p2, and
    the anchors of jwyang's configuration, of 128 to 512 pixels, must leave more proposals than it takes.
    """

    def make(kind: str, changes: dict[str, Any]) -> tuple[Detector, nn.Module]:
        times = {"c4": 1, "fpn": 3, "jwyang": 4}[kind]
        for sample in samples:
            sample["image"] = sample["image"].repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
            sample["boxes"] *= times
        torch.manual_seed(0)
        cfg = make_config(kind, changes)
        ours, reference = build_model(cfg), build_detectron2(cfg)
        calibrate(ours, samples)
        reference.load_state_dict(ours.detectron2_state_dict(), strict=True)
        return ours, reference

    return make


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("fpn", {}),
        ("fpn", {"MODEL.RESNETS.NORM": "BN"}),
        ("fpn", UNUSUAL),
        ("c4", {}),
        ("c4", {"MODEL.RESNETS.STRIDE_IN_1X1": True, **EXTRA_NORM}),
        ("jwyang", {}),
        ("fpn", RESNEXT),
        ("c4", WIDE),
        ("fpn", WIDENED),
    ],
    ids=[
        "fpn",
        "fpn-bn",
        "fpn-unusual",
        "c4",
        "c4-unusual",
        "jwyang",
        "fpn-resnext",
        "c4-wide",
        "fpn-widened",
    ],
)
@torch.no_grad()
def test_detections__are_equal(make_twins, samples, kind, changes):
    ours, reference = make_twins(kind, changes)
    for batch in (samples[:1], samples):
        expected = [found["instances"] for found in reference.eval()(as_detectron2(batch))]
        actual = ours.eval()(batch)
        assert all(len(found["boxes"]) >= 5 for found in actual)  # else the comparison would show little
        for found, wanted in zip(actual, expected, strict=True):
            assert torch.equal(found["boxes"], wanted.pred_boxes.tensor)
            assert torch.equal(found["scores"], wanted.scores)
            assert torch.equal(found["classes"], wanted.pred_classes)


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("fpn", {}),
        ("fpn", {"MODEL.RESNETS.NORM": "BN"}),
        ("fpn", {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}),
        ("fpn", {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 5}),
        ("fpn", {"MODEL.RESNETS.NORM": "SyncBN", **UNUSUAL}),
        ("c4", {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 500}),  # more than there are anchors
        ("c4", {"MODEL.RESNETS.NORM": "naiveSyncBN", "MODEL.BACKBONE.FREEZE_AT": 0, **EXTRA_NORM}),
        ("c4", {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 5, **EXTRA_NORM}),
        pytest.param("jwyang", {}, marks=pytest.mark.slow),
        ("c4", RESNEXT),
        ("c4", WIDE),
        pytest.param("c4", WIDENED, marks=pytest.mark.slow),
    ],
    ids=[
        "fpn",
        "fpn-bn",
        "fpn-bn-unfrozen",
        "fpn-frozen",
        "fpn-unusual",
        "c4",
        "c4-moco",
        "c4-frozen",
        "jwyang",
        "c4-resnext",
        "c4-wide",
        "c4-widened",
    ],
)
def test_training__is_equal(make_twins, samples, kind, changes):
    from detectron2.utils.events import EventStorage

    ours, reference = make_twins(kind, changes)
    ours.train()
    reference.train()
    ours_trained = {detectron2_name(name): p for name, p in ours.named_parameters() if p.requires_grad}
    reference_trained = {name: p for name, p in reference.named_parameters() if p.requires_grad}
    assert ours_trained.keys() == reference_trained.keys()
    optimizers = [
        torch.optim.SGD(trained.values(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        for trained in (ours_trained, reference_trained)
    ]
    start = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    for step in range(3):
        torch.manual_seed(step)
        losses = ours(samples)
        torch.manual_seed(step)
        with EventStorage():
            expected = reference(as_detectron2(samples))
        assert losses.keys() == expected.keys()
        for name, loss in losses.items():
            assert torch.equal(loss, expected[name]), (step, name)
            assert loss > 0, (step, name)
        for optimizer, total in zip(optimizers, (sum(losses.values()), sum(expected.values())), strict=True):
            optimizer.zero_grad()
            total.backward()
        for name, parameter in ours_trained.items():
            assert torch.equal(parameter.grad, reference_trained[name].grad), (step, name)
        for optimizer in optimizers:
            optimizer.step()
    trained = ours.detectron2_state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(trained[name], tensor), name
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, start[name])}
    assert ours_trained.keys() <= moved


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("kind, changes", [
    ("c4", {"MODEL.RESNETS.DEPTH": 101}), ("fpn", {"MODEL.RESNETS.DEPTH": 34}),
    ("c4", {**RESNEXT, "MODEL.RESNETS.DEPTH": 101, "MODEL.RESNETS.WIDTH_PER_GROUP": 8}),
    ("fpn", {**WIDE, "MODEL.RESNETS.DEPTH": 101}),
])  # fmt: skip
def test_state_dict__has_the_same_keys_and_shapes(make_config, kind, changes, norm):
    cfg = make_config(kind, {**changes, "MODEL.RESNETS.NORM": norm})
    ours, reference = build_model(cfg).detectron2_state_dict(), build_detectron2(cfg).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in reference.items()
    }


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_initial_weights__have_the_same_spread(make_config, kind):
    cfg = make_config(kind)
    ours, reference = build_model(cfg).detectron2_state_dict(), build_detectron2(cfg).state_dict()
    for name, tensor in reference.items():
        if tensor.numel() >= 1000:  # a standard deviation measured on fewer says little
            assert ours[name].std().item() == pytest.approx(tensor.std().item(), rel=0.15), name
        elif name.endswith((".norm.weight", ".norm.bias", ".running_mean", ".running_var", ".bias")):
            assert torch.equal(ours[name], tensor), name


def test_jwyang__its_numbers_of_proposals_and_rois_are_reached(make_twins, samples):
    """Else the two tests above would say nothing of them."""
    ours, _ = make_twins("jwyang", {})
    rows = []
    ours.roi_heads.box_predictor.cls_score.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    with torch.no_grad():
        ours.train()(samples)
        ours.eval()(samples[:1])
    assert rows == [2 * 256, 300]
