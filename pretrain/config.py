"""Every setting of pretraining: its default, what a good value is, and what it affects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.names import (
    ARCHITECTURES,
    CROPS,
    DATASETS,
    DECODERS,
    INTERPOLATIONS,
    LABELS,
    METHODS,
    PATCH_OF_METHOD,
    PATCHES,
    PLACEMENTS,
    PRECISIONS,
    SALIENCIES,
    SCHEDULES,
    SCOPES,
    STYLES,
)
from pretrain.run.settings import (
    NOT_NEGATIVE,
    SHARE,
    SHARE_BELOW_1,
    Effects,
    Rule,
    above,
    at_least,
    find_faults,
    is_number,
    load_config,
    one_of,
)

EFFECTS = Effects(
    place=frozenset({
        "OUTPUT_DIR", "LOG_PERIOD", "CHECKPOINT_PERIOD", "CHECKPOINTS_KEPT", "DATA.ROOT", "DATA.DOWNLOAD",
        "DATA.MAX_UNREADABLE", "MODEL.WEIGHTS",
    }),
    speed=frozenset({"DEVICE", "CHANNELS_LAST", "COMPILE", "DATA.NUM_WORKERS"}),
    first_defaults={"DATA.NUM_WORKERS": 4},
)  # fmt: skip


def get_cfg() -> CfgNode:
    """Return every setting of pretraining with its default: the ImageNet recipe of ResNet-50 (baseline).

    Epochs, batch and learning rate are the paper's, what it does not say the authors' code's.
    """
    cfg = CfgNode()
    cfg.OUTPUT_DIR = "output/pretrain"
    cfg.DEVICE = "auto"  # "auto": cuda where PyTorch sees one, else cpu
    # Of the forward pass: one of PRECISIONS (autocast); evaluation is always float32. There, cuDNN's convolutions take
    # TensorFloat-32 on GPUs that have it (19 bits: PyTorch's default), matrix products do not.
    cfg.PRECISION = "float32"
    cfg.CHANNELS_LAST = False  # memory layout of pictures and weights; faster on GPUs in half precision
    # torch.compile of normalisation, network and loss as one: minutes at the start, faster steps after it. One process
    # on a GPU also replays CUDA graphs, unless SOLVER.ACCUMULATION computes a batch in parts.
    cfg.COMPILE = False
    cfg.SEED = 0  # of weights, sample order, augmentation and mixing
    cfg.LOG_PERIOD = 20  # iterations between two lines of metrics.json
    cfg.CHECKPOINT_PERIOD = 0  # iterations between two checkpoints; 0: one at the end of each epoch
    cfg.CHECKPOINTS_KEPT = 2  # the newest ones; two, so that a damaged one leaves something to fall back to

    cfg.DATA = CfgNode()
    cfg.DATA.DATASET = "image_folder"  # one of DATASETS
    cfg.DATA.ROOT = ""  # holds train/ and val/, each with one folder of pictures per class; or CIFAR's folder
    cfg.DATA.DOWNLOAD = False  # CIFAR only: fetch it into DATA.ROOT where it is not there
    cfg.DATA.DECODER = "opencv"  # one of DECODERS (see pretrain/decoding.py); "pillow" is torchvision's reference path
    cfg.DATA.MAX_UNREADABLE = 20  # pictures that may be unreadable; one more stops the run with the list
    cfg.DATA.NUM_WORKERS = -1  # loading processes; 0 loads in the training process. Results do not depend on it
    cfg.DATA.IMAGE_SIZE = 224  # side of the square that the network sees, pixels
    cfg.DATA.TRAIN_SIZE = 0  # the same in training; 0: IMAGE_SIZE
    cfg.DATA.EVAL_RESIZE = 256  # shorter side before the centre crop of evaluation, pixels
    cfg.DATA.EVAL_INTERPOLATION = "bilinear"  # of that resizing: one of INTERPOLATIONS
    cfg.DATA.CROP = "resized"  # of training: "resized" (any part and size), "padded" (shifted by up to PADDING), "none"
    cfg.DATA.CROP_SCALE = (0.08, 1.0)  # resized: share of the picture's area that a crop covers
    cfg.DATA.PADDING = 4  # padded: black pixels put around the picture
    cfg.DATA.FLIP_PROB = 0.5  # of a horizontal flip
    cfg.DATA.TRIVIAL_AUGMENT = False  # torchvision's TrivialAugmentWide: one change of shape or colours, after the flip
    cfg.DATA.COLOR_JITTER = 0.4  # brightness, contrast and saturation each within 1 +- this; 0: off
    cfg.DATA.PCA_LIGHTING = 0.1  # std of the colour shift along ImageNet's RGB principal axes; 0: off
    cfg.DATA.ERASE_PROB = 0.0  # of torchvision's RandomErasing: a box of 2 to 33 % gets the mean colour, before mixing
    cfg.DATA.PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
    cfg.DATA.PIXEL_STD = (58.395, 57.12, 57.375)

    cfg.MODEL = CfgNode()
    cfg.MODEL.ARCH = "resnet50"  # one of ARCHITECTURES
    cfg.MODEL.DROPOUT = 0.0  # wide_resnet28_10 only: probability inside each block
    cfg.MODEL.DROP_BLOCK_PROB = 0.1  # method dropblock only: at the last stage and the end of the run
    cfg.MODEL.DROP_BLOCK_SIZE = 7  # method dropblock only: side of a dropped block, cells of the feature map
    cfg.MODEL.STOCHASTIC_DEPTH_PROB = 0.5  # method stochastic_depth only: of skipping the last block, all run long
    cfg.MODEL.WEIGHTS = ""  # a checkpoint of ours, for --eval-only; empty: the newest of OUTPUT_DIR

    cfg.MIXING = CfgNode()
    cfg.MIXING.METHOD = "baseline"  # one of METHODS
    cfg.MIXING.PROB = 1.0  # share of batches that are mixed
    cfg.MIXING.ALPHA = 1.0  # lambda ~ Beta(ALPHA, ALPHA); nothing to resizemix, which has sizes of its own
    cfg.MIXING.CUTOUT_SIZE = 0  # cutout only: side of the square, pixels; 0: half of the picture's shorter side
    cfg.MIXING.SALIENCY = "fine_grained"  # saliencymix only, as are the keys below
    cfg.MIXING.BASNET_WEIGHTS = ""  # SALIENCY basnet only: path of the published basnet.pth
    cfg.MIXING.STYLE = "salient_to_corresponding"  # where the patch is cut and pasted (paper, section 3.4)
    # Where the patch comes from, one of PATCHES: "uniform", a place that is drawn, "resized", the whole picture made
    # smaller (ResizeMix), or a style; empty: STYLE.
    cfg.MIXING.PATCH = ""
    # The label's shares: "area", or of the saliency that is seen of both pictures the sum ("absolute") or the part of
    # each picture's own ("relative"); metrics.json counts pictures without any, which get those of the area.
    cfg.MIXING.LABEL = "area"
    cfg.MIXING.SCOPE = "image"  # a box per "image" (the paper's equations) or per "batch" (the authors' code)
    cfg.MIXING.PLACEMENT = "clip"  # at the border "clip" the patch (the authors' code) or "shift" it inside
    cfg.MIXING.RESOLUTION = 0  # side at which the saliency is computed, pixels; 0: the picture's own

    cfg.SOLVER = CfgNode()
    cfg.SOLVER.EPOCHS = 300
    cfg.SOLVER.BATCH_SIZE = 256  # of all processes together
    cfg.SOLVER.ACCUMULATION = 1  # parts in which each process computes its share of the batch, to save memory
    cfg.SOLVER.BASE_LR = 0.1  # at BATCH_SIZE; not scaled automatically
    cfg.SOLVER.STEPS = (75, 150, 225)  # epochs after which the learning rate is multiplied by GAMMA
    cfg.SOLVER.GAMMA = 0.1
    cfg.SOLVER.SCHEDULE = "steps"  # by STEPS and GAMMA; "cosine": after the warm-up to 0, a step after each epoch
    cfg.SOLVER.WARMUP_ITERS = 0  # iterations over which the learning rate grows linearly from 0
    cfg.SOLVER.WARMUP_EPOCHS = 0  # epochs over which it grows from WARMUP_FACTOR times itself, a step after each epoch
    cfg.SOLVER.WARMUP_FACTOR = 0.01  # WARMUP_EPOCHS only: of the first epoch
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.NESTEROV = True
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = None  # of the weights and biases of normalisation layers; None is WEIGHT_DECAY
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None  # of other biases; None is WEIGHT_DECAY
    cfg.SOLVER.LABEL_SMOOTHING = 0.0  # share of every label, mixed or not, that goes to all classes alike
    cfg.SOLVER.EMA_DECAY = 0.0  # of the averaged weights, per iteration (0.9999, say); 0: none are kept
    return cfg


def _three_numbers(value: Any) -> bool:
    return len(value) == 3 and all(map(is_number, value))


def _increasing_epochs(steps: Sequence[Any]) -> bool:
    return all(map(is_number, steps)) and all(a < b for a, b in itertools.pairwise(steps))


def _crop_scale(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(map(is_number, value)) and 0 < value[0] <= value[1] <= 1


DECAY_OF_SOME = Rule(
    lambda value: value is None or NOT_NEGATIVE.holds(value), "None (as other weights) or a finite number of at least 0"
)
RULES: dict[str, Rule] = {
    "MODEL.ARCH": one_of(*ARCHITECTURES),
    "MODEL.DROPOUT": SHARE_BELOW_1,
    "MODEL.DROP_BLOCK_PROB": SHARE_BELOW_1,
    "MODEL.DROP_BLOCK_SIZE": Rule(lambda value: value >= 1 and value % 2 == 1, "an odd number of at least 1"),
    "MODEL.STOCHASTIC_DEPTH_PROB": SHARE_BELOW_1,
    "MIXING.METHOD": one_of(*METHODS),
    "MIXING.PROB": SHARE,
    "MIXING.ALPHA": above(0),
    "MIXING.CUTOUT_SIZE": at_least(0),
    "MIXING.SALIENCY": one_of(*SALIENCIES),
    "MIXING.STYLE": one_of(*STYLES),
    "MIXING.PATCH": Rule(
        lambda value: value in ("", *PATCHES), f"empty (what METHOD and STYLE say) or one of {', '.join(PATCHES)}"
    ),
    "MIXING.LABEL": one_of(*LABELS),
    "MIXING.SCOPE": one_of(*SCOPES),
    "MIXING.PLACEMENT": one_of(*PLACEMENTS),
    "MIXING.RESOLUTION": Rule(lambda value: value == 0 or value >= 2, "0 (the picture's own) or at least 2 pixels"),
    "DATA.DATASET": one_of(*DATASETS),
    "DATA.DECODER": one_of(*DECODERS),
    "DATA.MAX_UNREADABLE": at_least(0),
    "DATA.NUM_WORKERS": Rule(lambda value: value >= -1, "-1 (the cores left beside training) or at least 0"),
    "DATA.IMAGE_SIZE": at_least(1),
    "DATA.TRAIN_SIZE": at_least(0),
    "DATA.EVAL_RESIZE": at_least(1),
    "DATA.EVAL_INTERPOLATION": one_of(*INTERPOLATIONS),
    "DATA.CROP": one_of(*CROPS),
    "DATA.CROP_SCALE": Rule(_crop_scale, "0 < low <= high <= 1"),
    "DATA.PADDING": at_least(0),
    "DATA.FLIP_PROB": SHARE,
    "DATA.COLOR_JITTER": NOT_NEGATIVE,
    "DATA.PCA_LIGHTING": NOT_NEGATIVE,
    "DATA.ERASE_PROB": SHARE,
    "DATA.PIXEL_MEAN": Rule(_three_numbers, "three numbers, red, green and blue"),
    "DATA.PIXEL_STD": Rule(
        lambda value: _three_numbers(value) and min(value) > 0, "three numbers above 0, red, green and blue"
    ),
    "SOLVER.EPOCHS": at_least(1),
    "SOLVER.BATCH_SIZE": at_least(1),
    "SOLVER.ACCUMULATION": at_least(1),
    "SOLVER.BASE_LR": above(0),
    "SOLVER.STEPS": Rule(_increasing_epochs, "increasing epochs"),
    "SOLVER.GAMMA": above(0),
    "SOLVER.SCHEDULE": one_of(*SCHEDULES),
    "SOLVER.WARMUP_ITERS": at_least(0),
    "SOLVER.WARMUP_EPOCHS": at_least(0),
    "SOLVER.WARMUP_FACTOR": Rule(lambda value: is_number(value) and 0 < value <= 1, "above 0 and at most 1"),
    "SOLVER.MOMENTUM": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": DECAY_OF_SOME,
    "SOLVER.WEIGHT_DECAY_BIAS": DECAY_OF_SOME,
    "SOLVER.LABEL_SMOOTHING": SHARE_BELOW_1,
    "SOLVER.EMA_DECAY": SHARE_BELOW_1,
    "PRECISION": one_of(*PRECISIONS),
    "SEED": Rule(lambda value: 0 <= value < 2**63, "a whole number from 0 to 2**63 - 1"),
    "LOG_PERIOD": at_least(1),
    "CHECKPOINT_PERIOD": at_least(0),
    "CHECKPOINTS_KEPT": at_least(1),
}


def load_pretrain_config(config_file: Path | str | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Return the checked, frozen config of a YAML file and ``KEY VALUE`` pairs (see ``load_config``).

    Raises:
        FileNotFoundError, ValueError: as ``load_config``; or values that break a rule or contradict each other, all of
            them at once.
    """
    cfg = load_config(
        get_cfg(),
        config_file,
        opts,
        find=lambda cfg: [*find_faults(cfg, RULES), *_contradictions(cfg)],
        paths=("OUTPUT_DIR", "DATA.ROOT", "MODEL.WEIGHTS", "MIXING.BASNET_WEIGHTS"),
    )
    cfg.freeze()
    return cfg


def _contradictions(cfg: CfgNode) -> list[str]:
    """Return what is wrong with keys that contradict each other or that nothing would read."""
    wide = cfg.MODEL.ARCH == "wide_resnet28_10"
    method = cfg.MIXING.METHOD
    faults = []
    if cfg.MODEL.DROPOUT and not wide:
        faults.append(f"MODEL.DROPOUT is {cfg.MODEL.DROPOUT}, but only wide_resnet28_10 has any")
    if wide and method in ("dropblock", "stochastic_depth"):
        faults.append(f"MIXING.METHOD {method} is not defined for wide_resnet28_10; use a ResNet")
    if cfg.COMPILE and method in ("manifold_mixup", "dropblock"):
        # A compiled network does not see the hooks of the one, and is compiled anew at every step of the other.
        faults.append(f"COMPILE does not work with MIXING.METHOD {method}; set COMPILE False")
    if cfg.DATA.DOWNLOAD and cfg.DATA.DATASET == "image_folder":
        faults.append("DATA.DOWNLOAD is for DATA.DATASET cifar10 and cifar100; image folders cannot be downloaded")
    mean = cfg.DATA.PIXEL_MEAN
    if cfg.DATA.ERASE_PROB and _three_numbers(mean) and not 0 <= min(mean) <= max(mean) <= 255:
        faults.append(f"DATA.ERASE_PROB paints with DATA.PIXEL_MEAN, which is {mean}; expected levels within 0 and 255")
    if cfg.DATA.EVAL_RESIZE < cfg.DATA.IMAGE_SIZE and cfg.DATA.DATASET == "image_folder":
        faults.append(
            f"DATA.EVAL_RESIZE is {cfg.DATA.EVAL_RESIZE}; expected at least DATA.IMAGE_SIZE, {cfg.DATA.IMAGE_SIZE}, "
            "the side of what is cut out of it"
        )
    if cfg.SOLVER.NESTEROV and not cfg.SOLVER.MOMENTUM:
        faults.append("SOLVER.NESTEROV is True, but SOLVER.MOMENTUM is 0; set one of the two")
    if min(cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.WARMUP_ITERS) > 0:
        faults.append(
            f"SOLVER.WARMUP_EPOCHS is {cfg.SOLVER.WARMUP_EPOCHS} and SOLVER.WARMUP_ITERS {cfg.SOLVER.WARMUP_ITERS}; a "
            "run has one warm-up, set the other to 0"
        )
    if 0 < cfg.SOLVER.EPOCHS <= cfg.SOLVER.WARMUP_EPOCHS:
        faults.append(
            f"SOLVER.WARMUP_EPOCHS is {cfg.SOLVER.WARMUP_EPOCHS}, but the run has SOLVER.EPOCHS {cfg.SOLVER.EPOCHS}; "
            "expected less"
        )
    faults += _patch_contradictions(cfg)
    if method == "saliencymix" and cfg.MIXING.SALIENCY == "basnet" and not cfg.MIXING.BASNET_WEIGHTS:
        faults.append("MIXING.SALIENCY is basnet, but MIXING.BASNET_WEIGHTS is empty; expected a path")
    if method == "saliencymix" and cfg.MIXING.SALIENCY == "official" and cfg.MIXING.RESOLUTION:
        faults.append(
            f"MIXING.RESOLUTION is {cfg.MIXING.RESOLUTION}, but MIXING.SALIENCY official reads the bytes of the full "
            "picture; set it to 0"
        )
    return faults


def _patch_contradictions(cfg: CfgNode) -> list[str]:
    """Return what is wrong with PATCH and LABEL beside METHOD and STYLE: nothing where they are at their defaults."""
    method, patch, label, style = (cfg.MIXING[key] for key in ("METHOD", "PATCH", "LABEL", "STYLE"))
    faults = []
    if method != "saliencymix":
        own = PATCH_OF_METHOD.get(method)
        is_named = f"{method} is the name of PATCH {own} with LABEL area" if own else f"{method} has no such key"
        way = "set MIXING.METHOD saliencymix, which takes any PATCH and LABEL"
        if patch not in ("", own):
            faults.append(f"MIXING.PATCH is {patch}, but MIXING.METHOD {is_named}; {way}")
        if label != "area":
            faults.append(f"MIXING.LABEL is {label}, but MIXING.METHOD {is_named}; {way}")
        return faults
    if patch and style not in (get_cfg().MIXING.STYLE, patch):
        faults.append(
            f"MIXING.STYLE is {style}, but MIXING.PATCH {patch}: both say where the patch is; set one of them"
        )
    if (patch, label) == ("resized", "relative"):
        faults.append(
            "MIXING.LABEL relative has no meaning for MIXING.PATCH resized: all that is salient in the resized picture "
            "is seen, however small it is; set LABEL area or absolute"
        )
    return faults
