"""Which values of Detectron2's model keys this engine honours; any other is refused before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.run.settings import Rule, at_least, find_faults, is_number, refuse_faults
from pretrain.weights.resnet import BASIC_DEPTHS, BLOCKS, PLAIN_WIDTH, STEM_CHANNELS, Architecture

C4_BACKBONE, FPN_BACKBONE = "build_resnet_backbone", "build_resnet_fpn_backbone"
EXTRA_NORM_HEADS = "Res5ROIHeadsExtraNorm"  # MoCo's transfer recipe: a norm layer after res5
C4_HEADS, FPN_HEADS = ("Res5ROIHeads", EXTRA_NORM_HEADS), ("StandardROIHeads",)
NORMS = ("FrozenBN", "BN", "SyncBN", "naiveSyncBN")
POOLERS = ("ROIAlignV2", "ROIAlign")
FPN_STAGES = ("res2", "res3", "res4", "res5")
FPN_LEVELS = ("p2", "p3", "p4", "p5", "p6")

# key -> the values that are implemented, whatever the other keys say
CHOICES: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.MASK_ON": (False,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.BACKBONE.NAME": (C4_BACKBONE, FPN_BACKBONE),
    "MODEL.RESNETS.DEPTH": tuple(BLOCKS),
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.FPN.NORM": ("",),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.CONV_DIMS": ((-1,),),
    "MODEL.RPN.IOU_LABELS": ((0, -1, 1),),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": ("smooth_l1",),
    "MODEL.ROI_HEADS.NAME": (*FPN_HEADS, *C4_HEADS),
    "MODEL.ROI_HEADS.IOU_LABELS": ((0, 1),),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("smooth_l1",),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "TEST.AUG.ENABLED": (False,),
}


def check_supported(cfg: CfgNode) -> None:
    """Check every key that the model reads, alone and with the others.

    Raises:
        ValueError: values that this engine does not implement; each key, its value and what is supported.
    """
    rules = {key: _choice(choices) for key, choices in CHOICES.items()}
    faults = _faults(cfg, rules)
    refuse_faults(faults or _faults(cfg, {**_architecture_rules(cfg), **_number_rules(cfg)}))


def uses_fpn(cfg: CfgNode) -> bool:
    """Return whether the backbone ends in a feature pyramid; else it is C4, whose res5 belongs to the RoI heads."""
    return cfg.MODEL.BACKBONE.NAME == FPN_BACKBONE


def architecture_of(cfg: CfgNode) -> Architecture:
    """Return what MODEL.RESNETS builds."""
    resnets = cfg.MODEL.RESNETS
    widen = resnets.STEM_OUT_CHANNELS // STEM_CHANNELS
    return Architecture(resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP, widen)


def _faults(cfg: CfgNode, rules: dict[str, Rule]) -> list[str]:
    return find_faults(cfg, rules, note=", which the torchvision engine does not support")


def _architecture_rules(cfg: CfgNode) -> dict[str, Rule]:
    fpn = uses_fpn(cfg)
    beside = f" beside MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}"
    rules = {
        "MODEL.ROI_HEADS.NAME": _choice(FPN_HEADS if fpn else C4_HEADS, beside),
        **_width_rules(architecture_of(cfg)),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Rule(lambda value: not any(value), "False for every stage"),
    }
    if not fpn:
        # Detectron2 would build three bottlenecks as res5 here, which no checkpoint of a basic ResNet fits.
        deep = tuple(known for known in BLOCKS if known not in BASIC_DEPTHS)
        rules["MODEL.RESNETS.DEPTH"] = _choice(deep, beside)
        for key in ("MODEL.RESNETS.OUT_FEATURES", "MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"):
            rules[key] = _choice((("res4",),), beside)
        return rules
    at_least_1 = at_least(1)
    return rules | {
        "MODEL.RESNETS.OUT_FEATURES": _choice((FPN_STAGES,), beside),
        "MODEL.FPN.IN_FEATURES": _choice((FPN_STAGES,), beside),
        "MODEL.RPN.IN_FEATURES": _neighbours(FPN_LEVELS, beside),
        "MODEL.ROI_HEADS.IN_FEATURES": _neighbours(FPN_LEVELS[:-1], beside),
        "MODEL.ROI_BOX_HEAD.NAME": _choice(("FastRCNNConvFCHead",), beside),
        "MODEL.ROI_BOX_HEAD.NUM_CONV": _choice((0,), beside),
        "MODEL.ROI_BOX_HEAD.NUM_FC": Rule(at_least_1.holds, f"at least 1{beside}"),
        "MODEL.FPN.OUT_CHANNELS": at_least_1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": at_least_1,
    }


def _width_rules(architecture: Architecture) -> dict[str, Rule]:
    depth = f" with MODEL.RESNETS.DEPTH {architecture.depth}"
    if architecture.basic:
        plain = Architecture(architecture.depth)
        stem, groups, width = (
            _choice((value,), depth) for value in (plain.stem_out_channels, plain.num_groups, plain.width_per_group)
        )
    else:
        stem = Rule(lambda value: value > 0 and value % STEM_CHANNELS == 0, f"a multiple of {STEM_CHANNELS}")
        groups = width = at_least(1)
        if architecture.widen > 1:
            beside = f" with MODEL.RESNETS.STEM_OUT_CHANNELS {architecture.stem_out_channels}"
            groups, width = _choice((1,), beside), _choice((PLAIN_WIDTH * architecture.widen,), beside)
            depth += f" and{beside.removeprefix(' with')}"
    return {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": _choice((architecture.res2_out_channels,), depth),
    }


def _number_rules(cfg: CfgNode) -> dict[str, Rule]:
    levels = len(cfg.MODEL.RPN.IN_FEATURES)
    anchors = Rule(
        lambda value: _are_anchor_lists(value, levels),
        f"1 or {levels} lists (MODEL.RPN.IN_FEATURES has {levels} levels) of equally many positive numbers",
    )
    four_weights = Rule(lambda value: _are_positive(value, 4), "four numbers above 0")
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": anchors,
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": anchors,
        "MODEL.ANCHOR_GENERATOR.OFFSET": Rule(lambda value: 0 <= value < 1, "at least 0 and below 1"),
        "MODEL.RPN.BOUNDARY_THRESH": Rule(lambda value: value < 0, "-1: anchors across the border are kept"),
        "MODEL.RPN.IOU_THRESHOLDS": Rule(
            lambda value: _are_positive(value, 2) and value[0] <= value[1], "two thresholds, 0 < background <= object"
        ),
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": Rule(lambda value: _are_positive(value, 1), "one threshold above 0"),
        "MODEL.ROI_HEADS.NUM_CLASSES": at_least(1),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": at_least(1),
        "MODEL.RPN.BBOX_REG_WEIGHTS": four_weights,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": four_weights,
        "MODEL.PIXEL_MEAN": Rule(lambda value: len(value) == 3, "three numbers, one per channel of INPUT.FORMAT"),
        "MODEL.PIXEL_STD": Rule(lambda value: _are_positive(value, 3), "three numbers above 0, one per channel"),
    }


def _are_positive(numbers: Any, count: int) -> bool:
    return len(numbers) == count and all(is_number(number) and number > 0 for number in numbers)


def _are_anchor_lists(lists: Any, levels: int) -> bool:
    """Return whether ``lists`` gives each of ``levels`` levels equally many positive numbers; one list serves all."""
    if len(lists) not in (1, levels) or not all(isinstance(numbers, (list, tuple)) for numbers in lists):
        return False
    count = len(lists[0])
    return count > 0 and all(_are_positive(numbers, count) for numbers in lists)


def _neighbours(levels: Sequence[str], beside: str) -> Rule:
    """Return the rule that a value is a non-empty run of neighbours in ``levels``."""
    runs = {tuple(levels[start:stop]) for start in range(len(levels)) for stop in range(start + 1, len(levels) + 1)}
    return Rule(lambda value: _plain(value) in runs, f"neighbouring levels out of {_shown(tuple(levels))}{beside}")


def _choice(choices: Sequence[Any], beside: str = "") -> Rule:
    """Return the rule that a value is one of ``choices``; a list counts as the tuple of its items."""
    return Rule(lambda value: _plain(value) in choices, " or ".join(map(_shown, choices)) + beside)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
