"""The recipes are their sources': every value that a shipped config resolves to stands in sources.yaml, with its place.

A config says only what differs from the defaults, so that a default that changes moves recipes which nobody touched.
"""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from detection.config import read_detection_config
from pretrain.config import EFFECTS, load_pretrain_config
from pretrain.names import METHODS
from pretrain.run.settings import plain_leaves

ROOT = Path(__file__).resolve().parents[1]
SOURCES = yaml.safe_load((ROOT / "tests" / "sources.yaml").read_text("utf-8"))
READ = {"pretrain": load_pretrain_config, "detection": read_detection_config}
RECIPES = {"pretrain": ("imagenet_*", "cifar*"), "detection": ("voc_*", "coco_*")}  # the configs that repeat somebody's
CONFIGS = [
    (half, path)
    for half, patterns in RECIPES.items()
    for path in sorted((ROOT / half / "configs").glob("*.yaml"))
    if any(fnmatch(path.stem, pattern) for pattern in patterns)
]

# Of pretraining every key that decides about the weights has a source, in the configs that read it; SEED is no recipe.
BY_STEPS = ("cifar*", "imagenet_r101_*", *(f"imagenet_r50_{method}" for method in METHODS))
MIXERS = ("*_mixup", "*_cutmix", "*_saliencymix")
READ_ONLY_BY = {
    "DATA.CROP_SCALE": ("imagenet_*",), "DATA.PADDING": ("cifar*plus_*",),
    "MODEL.DROP_BLOCK_PROB": ("*_dropblock",), "MODEL.DROP_BLOCK_SIZE": ("*_dropblock",),
    "MODEL.STOCHASTIC_DEPTH_PROB": ("*_stochastic_depth",),
    "MIXING.PROB": (*MIXERS, "*_cutout", "*_resizemix"), "MIXING.ALPHA": MIXERS, "MIXING.CUTOUT_SIZE": ("*_cutout",),
    **{f"MIXING.{key}": ("*_saliencymix",)
       for key in ("SALIENCY", "STYLE", "PATCH", "LABEL", "SCOPE", "PLACEMENT", "RESOLUTION")},
    "SOLVER.STEPS": BY_STEPS, "SOLVER.GAMMA": BY_STEPS, "SOLVER.WARMUP_FACTOR": ("*_modern_*",),
    "MIXING.BASNET_WEIGHTS": (), "SEED": (),
}  # fmt: skip
# Of detection those that the protocols of the field differ in, or that its papers state.
PROTOCOL = {
    *(f"DATASETS.{key}" for key in ("TRAIN", "TEST")),
    *(f"INPUT.{key}" for key in ("FORMAT", "MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN", "RANDOM_FLIP",
                                 "MIN_SIZE_TEST", "MAX_SIZE_TEST")),
    *(f"MODEL.{key}" for key in ("PIXEL_MEAN", "PIXEL_STD", "BACKBONE.NAME", "BACKBONE.FREEZE_AT", "RESNETS.DEPTH",
                                 "RESNETS.NORM", "RESNETS.STRIDE_IN_1X1", "ANCHOR_GENERATOR.SIZES",
                                 "ANCHOR_GENERATOR.ASPECT_RATIOS")),
    *(f"MODEL.RPN.{key}" for key in ("PRE_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TRAIN", "PRE_NMS_TOPK_TEST",
                                     "POST_NMS_TOPK_TEST", "NMS_THRESH", "BATCH_SIZE_PER_IMAGE", "POSITIVE_FRACTION",
                                     "IOU_THRESHOLDS", "SMOOTH_L1_BETA")),
    *(f"MODEL.ROI_HEADS.{key}" for key in ("NAME", "NUM_CLASSES", "BATCH_SIZE_PER_IMAGE", "POSITIVE_FRACTION",
                                           "IOU_THRESHOLDS", "SCORE_THRESH_TEST", "NMS_THRESH_TEST")),
    *(f"MODEL.ROI_BOX_HEAD.{key}" for key in ("POOLER_RESOLUTION", "POOLER_TYPE", "BBOX_REG_WEIGHTS",
                                              "SMOOTH_L1_BETA")),
    *(f"SOLVER.{key}" for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "STEPS", "GAMMA", "WARMUP_ITERS",
                                  "WARMUP_FACTOR", "MOMENTUM", "NESTEROV", "WEIGHT_DECAY", "WEIGHT_DECAY_BIAS",
                                  "WEIGHT_DECAY_NORM", "BIAS_LR_FACTOR", "CLIP_GRADIENTS.ENABLED", "AMP.ENABLED")),
    *(f"TEST.{key}" for key in ("DETECTIONS_PER_IMAGE", "PRECISE_BN.ENABLED")),
}  # fmt: skip


def patterns_of(group):
    return [group["configs"]] if isinstance(group["configs"], str) else group["configs"]


def stated(half, name):
    """Return (key, value, source) of every value that the sources have for the config of that name."""
    return [
        (key, value, group["source"])
        for group in SOURCES[half]
        if any(fnmatch(name, pattern) for pattern in patterns_of(group)) and not fnmatch(name, group.get("but", ""))
        for key, value in group["values"].items()
    ]


def needed(half, path):
    """Return the keys that must have a source."""
    if half == "detection":
        return PROTOCOL
    decisive = EFFECTS.of_training(load_pretrain_config(path))
    return {key for key in decisive if any(fnmatch(path.stem, one) for one in READ_ONLY_BY.get(key, ("*",)))}


@pytest.mark.parametrize("half, path", CONFIGS, ids=[path.stem for _, path in CONFIGS])
def test_config__resolves_to_what_its_sources_say(half, path):
    resolved = plain_leaves(READ[half](path))
    different = [
        f"{key} is {resolved[key]!r}, but {value!r} by {source}"
        for key, value, source in stated(half, path.stem)
        if resolved[key] != value
    ]
    assert not different


@pytest.mark.parametrize("half, path", CONFIGS, ids=[path.stem for _, path in CONFIGS])
def test_config__every_value_of_its_recipe_has_a_source(half, path):
    assert needed(half, path) <= {key for key, _, _ in stated(half, path.stem)}


@pytest.mark.parametrize("half", SOURCES)
def test_sources__every_pattern_names_a_config_and_every_group_its_place(half):
    names = [path.stem for one, path in CONFIGS if one == half]
    patterns = {pattern for group in SOURCES[half] for pattern in patterns_of(group)}
    assert {pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)} == set()
    assert all(group.keys() - {"but"} == {"configs", "source", "values"} and group["source"] for group in SOURCES[half])
