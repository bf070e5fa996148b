"""Which values of Detectron2's model keys this engine honours; any other is refused before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from detection.layout import BASIC_DEPTHS, BLOCKS, STEM_CHANNELS, stage_channels

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
    "MODEL.RESNETS.NUM_GROUPS": (1,),
    "MODEL.RESNETS.WIDTH_PER_GROUP": (64,),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": (STEM_CHANNELS,),
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
    """Check every key that the model reads, alone and with the others; keys that ``cfg`` lacks keep their default.

    Raises:
        ValueError: a value that this engine does not implement; names the key, the value and what is supported.
    """
    for key, choices in CHOICES.items():
        _require(cfg, key, lambda value, choices=choices: _plain(value) in choices, _one_of(choices))
    _check_architecture(cfg)
    _check_numbers(cfg)


def uses_fpn(cfg: CfgNode) -> bool:
    """Return whether the backbone ends in a feature pyramid; else it is C4, whose res5 belongs to the RoI heads."""
    return cfg.MODEL.BACKBONE.NAME == FPN_BACKBONE


def _check_architecture(cfg: CfgNode) -> None:
    depth = cfg.MODEL.RESNETS.DEPTH
    fpn = uses_fpn(cfg)
    beside = f" beside MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}"

    def equals(key: str, expected: Any, reason: str = beside) -> None:
        _require(cfg, key, lambda value: _plain(value) == expected, f"{_shown(expected)}{reason}")

    heads = FPN_HEADS if fpn else C4_HEADS
    _require(cfg, "MODEL.ROI_HEADS.NAME", lambda value: value in heads, _one_of(heads) + beside)
    equals("MODEL.RESNETS.RES2_OUT_CHANNELS", stage_channels(depth)[0], f" with MODEL.RESNETS.DEPTH {depth}")
    _require(cfg, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", lambda value: not any(value), "False for every stage")
    if not fpn:
        # Detectron2 would build three bottlenecks as res5 here, which no checkpoint of a basic ResNet fits.
        deep = tuple(known for known in BLOCKS if known not in BASIC_DEPTHS)
        _require(cfg, "MODEL.RESNETS.DEPTH", lambda value: value in deep, _one_of(deep) + beside)
        for key in ("MODEL.RESNETS.OUT_FEATURES", "MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"):
            equals(key, ("res4",))
        return
    for key in ("MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"):
        equals(key, FPN_STAGES)
    _require(cfg, "MODEL.RPN.IN_FEATURES", lambda value: _plain(value) in _runs(FPN_LEVELS),
             f"neighbouring levels out of {_shown(FPN_LEVELS)}{beside}")
    _require(cfg, "MODEL.ROI_HEADS.IN_FEATURES", lambda value: _plain(value) in _runs(FPN_LEVELS[:-1]),
             f"neighbouring levels out of {_shown(FPN_LEVELS[:-1])}{beside}")
    equals("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead")
    equals("MODEL.ROI_BOX_HEAD.NUM_CONV", 0)
    _require(cfg, "MODEL.ROI_BOX_HEAD.NUM_FC", lambda value: value >= 1, "at least 1" + beside)
    for key in ("MODEL.FPN.OUT_CHANNELS", "MODEL.ROI_BOX_HEAD.FC_DIM"):
        _require(cfg, key, lambda value: value >= 1, "at least 1")


def _check_numbers(cfg: CfgNode) -> None:
    levels = len(cfg.MODEL.RPN.IN_FEATURES)
    for key in ("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"):
        _require(cfg, key, lambda value: _are_anchor_lists(value, levels),
                 f"1 or {levels} lists (MODEL.RPN.IN_FEATURES has {levels} levels) of equally many positive numbers")
    _require(cfg, "MODEL.ANCHOR_GENERATOR.OFFSET", lambda value: 0 <= value < 1, "at least 0 and below 1")
    _require(cfg, "MODEL.RPN.BOUNDARY_THRESH", lambda value: value < 0, "-1: anchors across the border are kept")
    _require(cfg, "MODEL.RPN.IOU_THRESHOLDS", lambda value: _are_positive(value, 2) and value[0] <= value[1],
             "two thresholds, 0 < background <= object")
    _require(cfg, "MODEL.ROI_HEADS.IOU_THRESHOLDS", lambda value: _are_positive(value, 1), "one threshold above 0")
    for key in ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"):
        _require(cfg, key, lambda value: value >= 1, "at least 1")
    for key in ("MODEL.RPN.BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"):
        _require(cfg, key, lambda value: _are_positive(value, 4), "four numbers above 0")
    _require(cfg, "MODEL.PIXEL_MEAN", lambda value: len(value) == 3, "three numbers, one per channel of INPUT.FORMAT")
    _require(cfg, "MODEL.PIXEL_STD", lambda value: _are_positive(value, 3), "three numbers above 0, one per channel")


def _are_positive(numbers: Any, count: int) -> bool:
    return len(numbers) == count and all(isinstance(number, (int, float)) and number > 0 for number in numbers)


def _are_anchor_lists(lists: Any, levels: int) -> bool:
    """Return whether ``lists`` gives each of ``levels`` levels equally many positive numbers; one list serves all."""
    if len(lists) not in (1, levels) or not all(isinstance(numbers, (list, tuple)) for numbers in lists):
        return False
    count = len(lists[0])
    return count > 0 and all(_are_positive(numbers, count) for numbers in lists)


def _runs(levels: Sequence[str]) -> set[tuple[str, ...]]:
    """Return every non-empty run of neighbours in ``levels``."""
    return {tuple(levels[start:stop]) for start in range(len(levels)) for stop in range(start + 1, len(levels) + 1)}


def _require(cfg: CfgNode, key: str, holds: Callable[[Any], bool], expected: str) -> None:
    value: Any = cfg
    for name in key.split("."):
        if name not in value:
            return
        value = value[name]
    if not holds(value):
        raise ValueError(f"{key} is {value!r}, which the torchvision engine does not support; expected {expected}")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_of(choices: Sequence[Any]) -> str:
    return " or ".join(_shown(choice) for choice in choices)


def _shown(value: Any) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
