"""The settings of detection: what a good value is, and what it affects. ``detection.defaults`` has the keys.

Two decisions of ours, both said in the log:

- ``MODEL.DEVICE`` is "cuda", as in Detectron2, but falls back to "cpu" where PyTorch sees no GPU.
- A negative ``SEED`` draws one. It is written to the run's config.yaml, so that the run can be resumed and repeated.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode as CN

from detection.datasets.types import class_name_faults
from detection.datasets.voc import VOC_CLASSES, VOC_NAME
from detection.defaults import get_cfg
from pretrain.run.files import file_name_fault, same_file_names
from pretrain.run.settings import (
    SHARE,
    SHARE_BELOW_1,
    Carried,
    Effects,
    Rule,
    above,
    at_least,
    find_faults,
    is_number,
    load_config,
    one_of,
)
from pretrain.run.text import read_yaml
from pretrain.weights.files import address_faults

# TEST.PRECISE_BN is not among the test's: it writes statistics into the weights.
EFFECTS = Effects(
    place=frozenset({"OUTPUT_DIR", "MODEL.WEIGHTS", "VOC.ROOT", "VOC.PICTURES_ANYWHERE", "SOLVER.CHECKPOINT_PERIOD"}),
    speed=frozenset({"MODEL.DEVICE", "MODEL.CHANNELS_LAST", "DATALOADER.NUM_WORKERS", "CUDNN_BENCHMARK"}),
    test=frozenset({
        "DATASETS.TEST", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.RPN.PRE_NMS_TOPK_TEST",
        "MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "TEST.EVAL_PERIOD", "TEST.DETECTIONS_PER_IMAGE", "TEST.AUG.ENABLED",
    }),
    first_defaults={"DATALOADER.NUM_WORKERS": 4},
)  # fmt: skip

MAX_CLASSES_TOLD = 20  # by name in a line of the log

logger = logging.getLogger(__name__)


def load_detection_config(
    config_file: Path | str | None,
    opts: Sequence[str] = (),
    *,
    resume: bool = False,
    eval_only: bool = False,
    check_weights: bool = False,
    machines: int = 1,
) -> CN:
    """Return the defaults with the file's values and then ``opts``, checked; no data is read.

    MODEL.DEVICE and SEED are resolved as the module says. With ``resume`` a SEED that was drawn is taken from the run
    folder's config.yaml; with ``eval_only`` there must be something to evaluate; with ``check_weights`` MODEL.WEIGHTS
    must be there. Each of several ``machines`` makes this call, so that none may draw.

    Raises:
        FileNotFoundError: a config file does not exist.
        ValueError: the keys, their values and what would be right.
    """

    def find(cfg: CN) -> list[str]:
        faults = find_config_faults(cfg)
        if check_weights:
            faults += missing_weights(cfg, resume=resume)
        return faults + eval_only_faults(cfg) if eval_only else faults

    cfg = _read(config_file, opts, find)
    _resolve_device(cfg)
    if cfg.SEED < 0:
        recorded = _recorded_seed(Path(cfg.OUTPUT_DIR)) if resume else None
        if recorded is None and machines > 1:
            raise ValueError(
                f"SEED is {cfg.SEED}, so that each of --num-machines {machines} would draw its own and see other "
                "pictures; set the same one on all, for example SEED 1"
            )
        cfg.SEED = _draw_seed() if recorded is None else recorded
    return cfg


def read_detection_config(
    config_file: Path | str | None, opts: Sequence[str] = (), *, carried: Carried | None = None
) -> CN:
    """Return the defaults with the file's values and then ``opts``, checked by themselves, without data or GPU.

    Before both come the values of a config that weights have ``carried``.

    Raises:
        FileNotFoundError, ValueError: as ``load_detection_config``.
    """
    return _read(config_file, opts, find_config_faults, carried)


def _read(
    config_file: Path | str | None,
    opts: Sequence[str],
    find: Callable[[CN], list[str]],
    carried: Carried | None = None,
) -> CN:
    paths = ("OUTPUT_DIR", "MODEL.WEIGHTS", "VOC.ROOT")
    return load_config(get_cfg(), config_file, opts, carried=carried, find=find, paths=paths)


def find_config_faults(cfg: CN) -> list[str]:
    """Return what is wrong with the values of ``cfg``, each alone and beside the others."""
    faults = [*find_faults(cfg, RULES), *_contradictions(cfg)]
    if knows_classes(cfg):
        faults += class_count_faults(cfg)
    return faults


def missing_weights(cfg: CN, *, resume: bool = False) -> list[str]:
    """Return what is wrong with the path MODEL.WEIGHTS, which a run that is resumed no longer needs."""
    weights = cfg.MODEL.WEIGHTS
    if not weights or (resume and any(Path(cfg.OUTPUT_DIR).glob("*.pth"))):
        return []
    if faults := address_faults(weights):
        return faults
    if Path(weights).is_dir():
        return [f"MODEL.WEIGHTS {weights} is a folder; expected a file, such as {Path(weights) / 'model_final.pth'}"]
    if not Path(weights).is_file():
        return [f"MODEL.WEIGHTS: weights file {weights} does not exist"]
    return []


def eval_only_faults(cfg: CN) -> list[str]:
    """Return what --eval-only lacks."""
    faults = []
    if not cfg.MODEL.WEIGHTS:
        faults.append(
            "--eval-only needs a trained detector: add MODEL.WEIGHTS, for example "
            f"MODEL.WEIGHTS {Path(cfg.OUTPUT_DIR) / 'model_final.pth'}"
        )
    if not cfg.DATASETS.TEST:
        faults.append("--eval-only needs DATASETS.TEST, for example DATASETS.TEST \"('voc_2007_test',)\"")
    return faults


def class_names(cfg: CN) -> tuple[str, ...]:
    """Return the names of the labels 0, 1, ...: VOC.CLASSES, or where that is empty the challenge's."""
    return tuple(cfg.VOC.CLASSES) or VOC_CLASSES


def knows_classes(cfg: CN) -> bool:
    """Return whether ``class_names`` are those of the data, which has to name them itself otherwise."""
    names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    return bool(cfg.VOC.CLASSES) or all(VOC_NAME.fullmatch(name) for name in names)


def class_count_faults(cfg: CN, *, found_in: str = "") -> list[str]:
    """Return what is wrong with NUM_CLASSES beside ``class_names``; ``found_in`` says which data named them."""
    names, configured = class_names(cfg), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if configured == len(names):
        return []
    whose = "VOC.CLASSES has" if cfg.VOC.CLASSES else "the VOC challenge has"
    if found_in:
        whose = f"{found_in} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}) has"
    return [
        f"MODEL.ROI_HEADS.NUM_CLASSES is {configured}, but {whose} {len(names)} classes; "
        f"write MODEL.ROI_HEADS.NUM_CLASSES {len(names)}"
    ]


def _are_dataset_names(value: Sequence[Any]) -> bool:
    names = [name.replace("/", "_") if str(name).endswith(".json") else name for name in value]
    return _are_different_names(names) and not any(map(file_name_fault, names)) and same_file_names(names) is None


def _are_different_names(value: Sequence[Any]) -> bool:
    return all(type(name) is str and name.strip() for name in value) and len(set(value)) == len(value)


def _are_increasing(value: Sequence[Any]) -> bool:
    return all(type(step) is int and step > 0 for step in value) and list(value) == sorted(set(value))


def _three_numbers(value: Sequence[Any]) -> bool:
    return len(value) == 3 and all(map(is_number, value))


MORE_THAN_0 = Rule(above(0).holds, "more than 0")
NOT_NEGATIVE = Rule(at_least(0).holds, "0 or more")
SIZES = Rule(
    lambda value: len(value) > 0 and all(type(size) is int and size > 0 for size in value),
    "one or more sizes in pixels, such as (800,)",
)
CLASS_NAMES = Rule(
    lambda value: _are_different_names(value) and not class_name_faults(value),
    "different names without a slash, such as ('cat', 'dog')",
)
DATASET_NAMES = Rule(
    _are_dataset_names,
    "different names of image sets, such as ('voc_2007_trainval',), or of COCO files, such as ('train.json',)",
)
BOXES_ONLY = Rule(lambda value: value is False, "False: the toolkit trains box detectors")
RULES: dict[str, Rule] = {
    "VERSION": one_of(2),
    "SEED": Rule(lambda value: value < 2**63, "a whole number below 2**63 (a negative one: drawn anew)"),
    "VOC.CLASSES": CLASS_NAMES,
    "DATASETS.TRAIN": DATASET_NAMES,
    "DATASETS.TEST": DATASET_NAMES,
    "DATASETS.HELD_OUT": SHARE_BELOW_1,
    "DATASETS.HELD_OUT_SEED": NOT_NEGATIVE,
    "INPUT.FORMAT": one_of("RGB", "BGR"),
    "INPUT.MIN_SIZE_TRAIN": SIZES,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": MORE_THAN_0,
    "INPUT.MIN_SIZE_TEST": NOT_NEGATIVE,
    "INPUT.MAX_SIZE_TEST": MORE_THAN_0,
    "INPUT.RANDOM_FLIP": one_of("horizontal", "vertical", "none"),
    "INPUT.CROP.ENABLED": Rule(lambda value: value is False, "False: cropping is not implemented"),
    "DATALOADER.NUM_WORKERS": Rule(at_least(-1).holds, "0 or more, or -1: by the cores of the machine"),
    "DATALOADER.SAMPLER_TRAIN": one_of("TrainingSampler"),
    "MODEL.META_ARCHITECTURE": one_of("GeneralizedRCNN"),
    "MODEL.MASK_ON": BOXES_ONLY,
    "MODEL.KEYPOINT_ON": BOXES_ONLY,
    "MODEL.LOAD_PROPOSALS": BOXES_ONLY,
    "MODEL.PIXEL_MEAN": Rule(_three_numbers, "three numbers, one per channel"),
    "MODEL.PIXEL_STD": Rule(
        lambda value: _three_numbers(value) and min(value) > 0, "three numbers more than 0, one per channel"
    ),
    "MODEL.BACKBONE.NAME": one_of("build_resnet_backbone", "build_resnet_fpn_backbone"),
    "MODEL.BACKBONE.FREEZE_AT": Rule(lambda value: 0 <= value <= 5, "from 0 (nothing) to 5 (all stages)"),
    "MODEL.RESNETS.DEPTH": one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.NUM_GROUPS": MORE_THAN_0,
    "MODEL.RESNETS.WIDTH_PER_GROUP": MORE_THAN_0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": MORE_THAN_0,
    "MODEL.RESNETS.NORM": one_of("FrozenBN", "BN", "SyncBN", "naiveSyncBN", "GN"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": MORE_THAN_0,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": MORE_THAN_0,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": MORE_THAN_0,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": MORE_THAN_0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": MORE_THAN_0,
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.ROI_HEADS.NAME": one_of("Res5ROIHeads", "Res5ROIHeadsExtraNorm", "StandardROIHeads"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": MORE_THAN_0,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "SOLVER.LR_SCHEDULER_NAME": one_of("WarmupMultiStepLR"),
    "SOLVER.MAX_ITER": MORE_THAN_0,
    "SOLVER.IMS_PER_BATCH": MORE_THAN_0,
    "SOLVER.BASE_LR": MORE_THAN_0,
    "SOLVER.MOMENTUM": Rule(SHARE_BELOW_1.holds, "from 0 to less than 1"),
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": NOT_NEGATIVE,
    "SOLVER.BIAS_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.GAMMA": SHARE,
    "SOLVER.STEPS": Rule(_are_increasing, "iterations in increasing order, such as (12000, 16000)"),
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": NOT_NEGATIVE,
    "SOLVER.WARMUP_METHOD": one_of("linear"),
    "SOLVER.RESCALE_INTERVAL": one_of(False),
    "SOLVER.REFERENCE_WORLD_SIZE": Rule(
        lambda value: value == 0,
        "0: nothing is scaled behind your back; give the batch and the rate that you mean",
    ),
    "SOLVER.WEIGHT_DECAY_BIAS": Rule(
        lambda value: value is None or (is_number(value) and value >= 0),
        "None (as other weights), or 0 or more",
    ),
    "SOLVER.CHECKPOINT_PERIOD": MORE_THAN_0,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": MORE_THAN_0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": MORE_THAN_0,
    "SOLVER.AMP.DTYPE": one_of("auto", "float16", "bfloat16"),
    "TEST.EVAL_PERIOD": NOT_NEGATIVE,
    "TEST.DETECTIONS_PER_IMAGE": MORE_THAN_0,
    "TEST.PRECISE_BN.NUM_ITER": MORE_THAN_0,
}


def _contradictions(cfg: CN) -> list[str]:
    faults = []
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        faults.append(
            f"INPUT.MIN_SIZE_TRAIN is {cfg.INPUT.MIN_SIZE_TRAIN!r}; expected the smallest and the largest size, "
            "because INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'"
        )
    depth = cfg.MODEL.RESNETS.DEPTH
    for key, value in (("RES2_OUT_CHANNELS", 64), ("NUM_GROUPS", 1)) if depth < 50 else ():
        if (found := cfg.MODEL.RESNETS[key]) != value:
            faults.append(f"MODEL.RESNETS.{key} is {found!r}; expected {value} for MODEL.RESNETS.DEPTH {depth}")
    late = [step for step in cfg.SOLVER.STEPS if is_number(step) and step >= cfg.SOLVER.MAX_ITER]
    if late:
        faults.append(
            f"SOLVER.STEPS is {cfg.SOLVER.STEPS!r}, but training ends at SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}; "
            "write steps below it, or () for a constant rate"
        )
    if not (cfg.DATASETS.TRAIN or cfg.DATASETS.TEST):
        faults.append(
            "DATASETS.TRAIN and DATASETS.TEST are empty; name image sets, for example DATASETS.TRAIN "
            "\"('voc_2007_trainval',)\" DATASETS.TEST \"('voc_2007_test',)\""
        )
    return faults


def _resolve_device(cfg: CN) -> None:
    import torch

    device = cfg.MODEL.DEVICE
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"MODEL.DEVICE is {device!r}; expected 'cuda', 'cuda:<number>' or 'cpu'")
    if kind == "cuda" and not torch.cuda.is_available():
        logger.info("MODEL.DEVICE %s: PyTorch sees no GPU here, using cpu", device)
        cfg.MODEL.DEVICE = "cpu"


def _recorded_seed(output_dir: Path) -> int | None:
    path = output_dir / "config.yaml"
    recorded = read_yaml(path) if path.is_file() else None
    return recorded.get("SEED") if isinstance(recorded, dict) else None


def _draw_seed() -> int:
    seed = 1 + secrets.randbelow(2**31 - 1)
    logger.info("SEED %d was drawn; set it to repeat this run", seed)
    return seed
