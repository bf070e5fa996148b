"""What the engine of torchvision's parts does not implement is refused by name, value and what would be right."""

import pytest

from detection.engines.torchvision.supported import CHOICES, check_supported

REFUSED = [
    ("fpn", "MODEL.META_ARCHITECTURE", "RetinaNet", "'GeneralizedRCNN'"),
    ("fpn", "MODEL.MASK_ON", True, "False"),
    ("fpn", "MODEL.KEYPOINT_ON", True, "False"),
    ("fpn", "MODEL.LOAD_PROPOSALS", True, "False"),
    ("fpn", "MODEL.PIXEL_MEAN", [100.0], "three numbers"),
    ("fpn", "MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "three numbers above 0"),
    ("fpn", "MODEL.BACKBONE.NAME", "build_mnasnet_backbone", "'build_resnet_backbone' or 'build_resnet_fpn_backbone'"),
    ("fpn", "MODEL.RESNETS.DEPTH", 26, "18 or 34 or 50"),
    ("c4", "MODEL.RESNETS.DEPTH", 26, "18 or 34 or 50"),
    ("fpn", "MODEL.RESNETS.NORM", "GN", "'FrozenBN' or 'BN'"),
    ("fpn", "MODEL.RESNETS.NUM_GROUPS", 32, "1 with MODEL.RESNETS.DEPTH 18"),
    ("c4", "MODEL.RESNETS.NUM_GROUPS", 0, "at least 1"),
    ("fpn", "MODEL.RESNETS.WIDTH_PER_GROUP", 128, "64 with MODEL.RESNETS.DEPTH 18"),
    ("c4", "MODEL.RESNETS.WIDTH_PER_GROUP", 0, "at least 1"),
    ("fpn", "MODEL.RESNETS.STEM_OUT_CHANNELS", 128, "64 with MODEL.RESNETS.DEPTH 18"),
    ("c4", "MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "a multiple of 64"),
    ("fpn", "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "64 with MODEL.RESNETS.DEPTH 18"),
    ("c4", "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "256 with MODEL.RESNETS.DEPTH 50"),
    ("c4", "MODEL.RESNETS.RES5_DILATION", 2, "1"),
    ("fpn", "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True], "False for every stage"),
    ("fpn", "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], r"\['res2', 'res3', 'res4', 'res5'\]"),
    ("c4", "MODEL.RESNETS.OUT_FEATURES", ["res5"], r"\['res4'\] beside MODEL.BACKBONE.NAME build_resnet_backbone"),
    ("fpn", "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], r"\['res2', 'res3', 'res4', 'res5'\]"),
    ("fpn", "MODEL.FPN.OUT_CHANNELS", 0, "at least 1"),
    ("fpn", "MODEL.FPN.NORM", "GN", "''"),
    ("fpn", "MODEL.FPN.FUSE_TYPE", "avg", "'sum'"),
    ("fpn", "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", "'DefaultAnchorGenerator'"),
    ("fpn", "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]], "1 or 5 lists"),
    ("c4", "MODEL.ANCHOR_GENERATOR.SIZES", [[]], "1 or 1 lists .* of equally many positive numbers"),
    ("fpn", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 0.0]], "1 or 5 lists .* of equally many positive numbers"),
    ("fpn", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [0.5, 1.0, 2.0], "1 or 5 lists"),
    ("fpn", "MODEL.ANCHOR_GENERATOR.OFFSET", 1.0, "at least 0 and below 1"),
    ("fpn", "MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "'RPN'"),
    ("fpn", "MODEL.RPN.HEAD_NAME", "Own", "'StandardRPNHead'"),
    ("fpn", "MODEL.RPN.IN_FEATURES", ["p2", "p4"], "neighbouring levels"),
    ("c4", "MODEL.RPN.IN_FEATURES", ["p4"], r"\['res4'\]"),
    ("fpn", "MODEL.RPN.CONV_DIMS", [-1, -1], r"\[-1\]"),
    ("fpn", "MODEL.RPN.BOUNDARY_THRESH", 0, "-1"),
    ("fpn", "MODEL.RPN.IOU_THRESHOLDS", [0.7, 0.3], "two thresholds"),
    ("fpn", "MODEL.RPN.IOU_LABELS", [0, 0, 1], r"\[0, -1, 1\]"),
    ("fpn", "MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou", "'smooth_l1'"),
    ("fpn", "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0), "four numbers above 0"),
    ("fpn", "MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "'StandardROIHeads'"),
    ("fpn", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "'StandardROIHeads' beside MODEL.BACKBONE.NAME build_resnet_fpn"),
    ("c4", "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "'Res5ROIHeads' or 'Res5ROIHeadsExtraNorm' beside"),
    ("c4", "MODEL.ROI_HEADS.IN_FEATURES", ["res3"], r"\['res4'\]"),
    ("fpn", "MODEL.ROI_HEADS.IN_FEATURES", ["p5", "p6"], "neighbouring levels"),
    ("fpn", "MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.4, 0.5], "one threshold"),
    ("fpn", "MODEL.ROI_HEADS.IOU_LABELS", [-1, 1], r"\[0, 1\]"),
    ("fpn", "MODEL.ROI_HEADS.NUM_CLASSES", 0, "at least 1"),
    ("fpn", "MODEL.ROI_BOX_HEAD.NAME", "", "'FastRCNNConvFCHead'"),
    ("fpn", "MODEL.ROI_BOX_HEAD.NUM_FC", 0, "at least 1"),
    ("fpn", "MODEL.ROI_BOX_HEAD.FC_DIM", 0, "at least 1"),
    ("fpn", "MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "0"),
    ("fpn", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "'ROIAlignV2' or 'ROIAlign'"),
    ("fpn", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0, "at least 1"),
    ("fpn", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "ciou", "'smooth_l1'"),
    ("fpn", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 0.0), "four numbers above 0"),
    ("fpn", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "False"),
    ("fpn", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "False"),
    ("fpn", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "False"),
    ("fpn", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "False"),
    ("fpn", "TEST.AUG.ENABLED", True, "False"),
]


@pytest.mark.parametrize("kind, key, value, expected", REFUSED, ids=[f"{kind}-{key}" for kind, key, *_ in REFUSED])
def test_check_supported__names_key_value_and_what_is_supported(make_config, kind, key, value, expected):
    check_supported(make_config(kind))
    message = f"^{key} is .* which the torchvision engine does not support; expected {expected}"
    with pytest.raises(ValueError, match=message):
        check_supported(make_config(kind, {key: value}))


WIDENED = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 128,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 512,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 128,
}


@pytest.mark.parametrize("key, value, expected", [
    ("MODEL.RESNETS.NUM_GROUPS", 32, "1 with MODEL.RESNETS.STEM_OUT_CHANNELS 128"),
    ("MODEL.RESNETS.WIDTH_PER_GROUP", 64, "128 with MODEL.RESNETS.STEM_OUT_CHANNELS 128"),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "512 with MODEL.RESNETS.DEPTH 50 and MODEL.RESNETS.STEM_OUT_CHANNELS 128"),
])  # fmt: skip
def test_check_supported__widths_of_a_widened_network_go_together(make_config, key, value, expected):
    check_supported(make_config("c4", WIDENED))
    with pytest.raises(ValueError, match=f"^{key} is {value}, which .* expected {expected}"):
        check_supported(make_config("c4", {**WIDENED, key: value}))


def test_check_supported__every_choice_is_tested():
    assert CHOICES.keys() <= {key for _, key, *_ in REFUSED}


def test_check_supported__c4_needs_bottlenecks(make_config):
    with pytest.raises(ValueError, match=r"DEPTH is 18, .* expected 50 or 101 or 152 beside MODEL.BACKBONE.NAME"):
        check_supported(make_config("c4", {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}))
