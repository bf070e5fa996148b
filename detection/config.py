"""The settings of detection: Detectron2's own keys, as far as both engines share them, and VOC.* for one's own data.

Names and default values are Detectron2's (its config/defaults.py at commit 02b5c4e; a test compares them key by key
where Detectron2 is installed), so that the YAML files here run on either engine. Keys that Detectron2 has and this file
lacks belong to detectors that the toolkit does not train; setting one is an error that names it.

Two decisions of ours, both said in the log:

- ``MODEL.DEVICE`` is "cuda", as in Detectron2, but falls back to "cpu" where PyTorch sees no GPU.
- A negative ``SEED`` draws one. It is written to the run's config.yaml, so that the run can be resumed and repeated.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode as CN

from detection.voc import VOC_CLASSES
from pretrain.config import load_config

# May differ between the two halves of a resumed run: they change where and how fast it runs, not what it computes.
FREE_ON_RESUME = frozenset({
    "OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS", "VOC.ROOT", "DATASETS.TEST", "DATALOADER.NUM_WORKERS",
    "CUDNN_BENCHMARK", "SOLVER.CHECKPOINT_PERIOD", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
})  # fmt: skip

logger = logging.getLogger(__name__)


def add_voc_config(cfg: CN) -> None:
    """Add the keys that are ours, VOC.*, to ``cfg`` in place; Detectron2's own config needs this to read our files."""
    cfg.VOC = type(cfg)()  # merging wants one node type, and Detectron2 has its own
    cfg.VOC.ROOT = ""  # folder with VOC2007 or VOCdevkit/VOC2007; "" is $DETECTRON2_DATASETS, else ./datasets
    cfg.VOC.CLASSES = ()  # names in the order of their labels; () is the challenge's twenty, or those of your own data


def get_cfg() -> CN:
    """Return a new config with every key at its default."""
    cfg = CN()
    cfg.VERSION = 2  # of Detectron2's config format
    cfg.OUTPUT_DIR = "./output"  # the run folder
    cfg.SEED = -1  # negative: drawn anew for each run, and recorded
    cfg.CUDNN_BENCHMARK = False  # try cuDNN algorithms; pays off only where all pictures have one size
    _add_input(cfg)
    _add_model(cfg)
    _add_solver(cfg)
    _add_test(cfg)
    add_voc_config(cfg)
    return cfg


def _add_input(cfg: CN) -> None:
    cfg.INPUT = CN()
    cfg.INPUT.FORMAT = "BGR"  # channel order that the network sees; RGB for converted torchvision-style weights
    cfg.INPUT.MIN_SIZE_TRAIN = (800,)  # pixels of the short side, drawn for each picture as SAMPLING says
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"  # "choice" among the sizes, or "range" from the first to the second
    cfg.INPUT.MAX_SIZE_TRAIN = 1333  # pixels; a longer long side shrinks the picture further
    cfg.INPUT.MIN_SIZE_TEST = 800  # pixels; 0 leaves pictures at their own size
    cfg.INPUT.MAX_SIZE_TEST = 1333
    cfg.INPUT.RANDOM_FLIP = "horizontal"  # with probability 1/2; "horizontal", "vertical" or "none"
    cfg.INPUT.CROP = CN({"ENABLED": False})

    cfg.DATASETS = CN()
    cfg.DATASETS.TRAIN = ()  # names for detection.datasets.load_dataset, read one after the other
    cfg.DATASETS.TEST = ()

    cfg.DATALOADER = CN()
    cfg.DATALOADER.NUM_WORKERS = 4  # processes that prepare samples; changes nothing but the speed
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True  # no batch mixes wide pictures with the others, which saves padding
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"  # endless permutations of the data
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True  # leave pictures without objects out of training


def _add_model(cfg: CN) -> None:
    cfg.MODEL = CN()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.DEVICE = "cuda"
    cfg.MODEL.WEIGHTS = ""  # a converted backbone or a detector of either engine; "" is random initialisation
    cfg.MODEL.PIXEL_MEAN = [103.530, 116.280, 123.675]  # in INPUT.FORMAT order, of values 0..255 (ImageNet, BGR)
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]  # 1 for MSRA weights, whose first layer has absorbed it
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.KEYPOINT_ON = False
    cfg.MODEL.LOAD_PROPOSALS = False

    cfg.MODEL.BACKBONE = CN()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"  # C4; "build_resnet_fpn_backbone" is FPN
    cfg.MODEL.BACKBONE.FREEZE_AT = 2  # first stages that stay fixed: 0 none, 1 stem, 2 stem and res2, ...

    cfg.MODEL.RESNETS = CN()
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]  # res2 to res5 for FPN
    cfg.MODEL.RESNETS.NUM_GROUPS = 1
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True  # true for MSRA weights; torchvision-style networks stride in the 3x3
    cfg.MODEL.RESNETS.RES5_DILATION = 1
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256  # 64 for depth 18 and 34
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, False, False, False]

    cfg.MODEL.FPN = CN()
    cfg.MODEL.FPN.IN_FEATURES = []
    cfg.MODEL.FPN.OUT_CHANNELS = 256
    cfg.MODEL.FPN.NORM = ""
    cfg.MODEL.FPN.FUSE_TYPE = "sum"

    cfg.MODEL.ANCHOR_GENERATOR = CN()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "DefaultAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64, 128, 256, 512]]  # sqrt of area in input pixels; a list per level
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]  # height / width; a list per level, or one for all
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.0  # of the first anchor's centre from the corner, in strides

    cfg.MODEL.PROPOSAL_GENERATOR = CN()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 0  # input pixels; both sides of a proposal must exceed it

    cfg.MODEL.RPN = CN()
    cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    cfg.MODEL.RPN.IN_FEATURES = ["res4"]
    cfg.MODEL.RPN.BOUNDARY_THRESH = -1  # -1 keeps anchors that leave the picture
    cfg.MODEL.RPN.IOU_THRESHOLDS = [0.3, 0.7]  # below the first background, from the second on object, else ignored
    cfg.MODEL.RPN.IOU_LABELS = [0, -1, 1]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 256  # anchors that enter the loss
    cfg.MODEL.RPN.POSITIVE_FRACTION = 0.5  # of them, at most
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = "smooth_l1"
    cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 1.0
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # multiply the targets dx, dy, dw, dh
    cfg.MODEL.RPN.SMOOTH_L1_BETA = 0.0  # 0 is L1
    cfg.MODEL.RPN.LOSS_WEIGHT = 1.0
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 12000  # proposals before NMS, per level
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 6000
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2000  # proposals after NMS, per picture
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    cfg.MODEL.RPN.NMS_THRESH = 0.7  # IoU
    cfg.MODEL.RPN.CONV_DIMS = [-1]  # -1: as many channels as the input

    cfg.MODEL.ROI_HEADS = CN()
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80  # without the background; must be the number of classes of the data
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.5]  # object from here on, else background
    cfg.MODEL.ROI_HEADS.IOU_LABELS = [0, 1]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 512  # RoIs that enter the loss
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.25  # of them, at most
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05  # detections must score more
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5  # IoU, within a class
    cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = True  # the annotated boxes join the proposals in training

    cfg.MODEL.ROI_BOX_HEAD = CN()
    cfg.MODEL.ROI_BOX_HEAD.NAME = ""  # "FastRCNNConvFCHead" for FPN; C4 uses res5 instead
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "smooth_l1"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 1.0
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 0.0
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14  # cells a side
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 0  # 0 adapts the samples of a cell to its size
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1024
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = 0
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 256
    cfg.MODEL.ROI_BOX_HEAD.NORM = ""
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = False
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = False


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER = CN()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    cfg.SOLVER.MAX_ITER = 40000
    cfg.SOLVER.IMS_PER_BATCH = 16  # pictures per iteration, over all processes
    cfg.SOLVER.BASE_LR = 0.001  # for IMS_PER_BATCH pictures; nothing scales it
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.NESTEROV = False
    cfg.SOLVER.WEIGHT_DECAY = 0.0001
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0  # of the weights and biases of normalisation layers
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None  # of other biases; None is WEIGHT_DECAY
    cfg.SOLVER.BIAS_LR_FACTOR = 1.0
    cfg.SOLVER.GAMMA = 0.1  # the rate is multiplied by it at each of STEPS
    cfg.SOLVER.STEPS = (30000,)  # iterations
    cfg.SOLVER.WARMUP_FACTOR = 1.0 / 1000  # of BASE_LR, at iteration 0
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.SOLVER.WARMUP_METHOD = "linear"
    cfg.SOLVER.RESCALE_INTERVAL = False
    cfg.SOLVER.CHECKPOINT_PERIOD = 5000  # iterations
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0  # 0: batch and rate stay as they are, however many processes there are
    cfg.SOLVER.CLIP_GRADIENTS = CN({"ENABLED": False})
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"  # "value" of each element, or "norm" of each parameter's gradient
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
    cfg.SOLVER.AMP = CN({"ENABLED": False})


def _add_test(cfg: CN) -> None:
    cfg.TEST = CN()
    cfg.TEST.EVAL_PERIOD = 0  # iterations between evaluations in training; 0 evaluates at the end only
    cfg.TEST.DETECTIONS_PER_IMAGE = 100  # the best-scoring ones
    cfg.TEST.AUG = CN({"ENABLED": False})
    cfg.TEST.PRECISE_BN = CN({"ENABLED": False})  # recompute BatchNorm statistics before each evaluation
    cfg.TEST.PRECISE_BN.NUM_ITER = 200  # batches


def load_detection_config(config_file: Path | str | None, opts: Sequence[str] = (), *, resume: bool = False) -> CN:
    """Return the defaults with the file's values and then ``opts``, checked; nothing is built or read before that.

    Where VOC.CLASSES is empty and the training data (without any: the test data) are not the challenge's, their
    annotations are read and VOC.CLASSES becomes what they name. With ``resume`` a SEED that was drawn is taken from the
    run folder's config.yaml.

    Raises:
        FileNotFoundError: a config file does not exist, or the data whose classes are wanted.
        ValueError: the key, its value and what would be right; or a defect in those data.
    """
    cfg = read_detection_config(config_file, opts)
    _resolve_classes(cfg)
    _resolve_device(cfg)
    if cfg.SEED < 0:
        cfg.SEED = (_recorded_seed(Path(cfg.OUTPUT_DIR)) if resume else None) or _draw_seed()
    return cfg


def read_detection_config(config_file: Path | str | None, opts: Sequence[str] = ()) -> CN:
    """Return the defaults with the file's values and then ``opts``, checked by themselves, without data or GPU.

    Raises:
        FileNotFoundError, ValueError: as ``load_detection_config``.
    """
    cfg = load_config(get_cfg(), config_file, opts)
    _check(cfg)
    return cfg


def class_names(cfg: CN) -> tuple[str, ...]:
    """Return the names of the labels 0, 1, ..."""
    return tuple(cfg.VOC.CLASSES) or VOC_CLASSES


Check = tuple[Callable[[Any], bool], str]  # what holds for a good value, and how to say it

POSITIVE: Check = (lambda value: 0 < value < math.inf, "more than 0")
NOT_NEGATIVE: Check = (lambda value: 0 <= value < math.inf, "0 or more")
SHARE: Check = (lambda value: 0 <= value <= 1, "from 0 to 1")
THREE_NUMBERS: Check = (lambda value: len(value) == 3 and all(map(_is_number, value)), "three numbers, one per channel")
POSITIVE_SIZES: Check = (
    lambda value: len(value) > 0 and all(type(size) is int and size > 0 for size in value),
    "one or more sizes in pixels, such as (800,)",
)
INCREASING: Check = (
    lambda value: all(type(step) is int and step > 0 for step in value) and list(value) == sorted(set(value)),
    "iterations in increasing order, such as (12000, 16000)",
)
NAMES: Check = (
    lambda value: all(type(name) is str and name.strip() and "/" not in name for name in value)
    and len(set(value)) == len(value),
    "different names, such as ('cat', 'dog')",
)
DATASET_NAMES: Check = (
    lambda value: NAMES[0]([name.replace("/", "_") if str(name).endswith(".json") else name for name in value]),
    "different names of image sets, such as ('voc_2007_trainval',), or of COCO files, such as ('train.json',)",
)


def _one_of(*options: Any) -> Check:
    return (lambda value: value in options, " or ".join(map(repr, options)))


BOXES_ONLY: Check = (lambda value: value is False, "False: the toolkit trains box detectors")
CHECKS: dict[str, Check] = {
    "VERSION": _one_of(2),
    "VOC.CLASSES": NAMES,
    "DATASETS.TRAIN": DATASET_NAMES,
    "DATASETS.TEST": DATASET_NAMES,
    "INPUT.FORMAT": _one_of("RGB", "BGR"),
    "INPUT.MIN_SIZE_TRAIN": POSITIVE_SIZES,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": POSITIVE,
    "INPUT.MIN_SIZE_TEST": NOT_NEGATIVE,
    "INPUT.MAX_SIZE_TEST": POSITIVE,
    "INPUT.RANDOM_FLIP": _one_of("horizontal", "vertical", "none"),
    "INPUT.CROP.ENABLED": (lambda value: value is False, "False: cropping is not implemented"),
    "DATALOADER.NUM_WORKERS": NOT_NEGATIVE,
    "DATALOADER.SAMPLER_TRAIN": _one_of("TrainingSampler"),
    "MODEL.META_ARCHITECTURE": _one_of("GeneralizedRCNN"),
    "MODEL.MASK_ON": BOXES_ONLY,
    "MODEL.KEYPOINT_ON": BOXES_ONLY,
    "MODEL.LOAD_PROPOSALS": BOXES_ONLY,
    "MODEL.PIXEL_MEAN": THREE_NUMBERS,
    "MODEL.PIXEL_STD": (
        lambda value: THREE_NUMBERS[0](value) and min(value) > 0,
        "three numbers more than 0, one per channel",
    ),
    "MODEL.BACKBONE.NAME": _one_of("build_resnet_backbone", "build_resnet_fpn_backbone"),
    "MODEL.BACKBONE.FREEZE_AT": (lambda value: 0 <= value <= 5, "from 0 (nothing) to 5 (all stages)"),
    "MODEL.RESNETS.DEPTH": _one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": _one_of("FrozenBN", "BN", "SyncBN", "naiveSyncBN", "GN"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": POSITIVE,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": POSITIVE,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": POSITIVE,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": POSITIVE,
    "MODEL.RPN.POST_NMS_TOPK_TEST": POSITIVE,
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.ROI_HEADS.NAME": _one_of("Res5ROIHeads", "Res5ROIHeadsExtraNorm", "StandardROIHeads"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": POSITIVE,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "SOLVER.LR_SCHEDULER_NAME": _one_of("WarmupMultiStepLR"),
    "SOLVER.MAX_ITER": POSITIVE,
    "SOLVER.IMS_PER_BATCH": POSITIVE,
    "SOLVER.BASE_LR": POSITIVE,
    "SOLVER.MOMENTUM": (lambda value: 0 <= value < 1, "from 0 to less than 1"),
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": NOT_NEGATIVE,
    "SOLVER.BIAS_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.GAMMA": SHARE,
    "SOLVER.STEPS": INCREASING,
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": NOT_NEGATIVE,
    "SOLVER.WARMUP_METHOD": _one_of("linear"),
    "SOLVER.RESCALE_INTERVAL": _one_of(False),
    "SOLVER.REFERENCE_WORLD_SIZE": (
        lambda value: value == 0,
        "0: nothing is scaled behind your back; give the batch and the rate that you mean",
    ),
    "SOLVER.WEIGHT_DECAY_BIAS": (
        lambda value: value is None or (_is_number(value) and value >= 0),
        "None (as other weights), or 0 or more",
    ),
    "SOLVER.CHECKPOINT_PERIOD": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": POSITIVE,
    "TEST.EVAL_PERIOD": NOT_NEGATIVE,
    "TEST.DETECTIONS_PER_IMAGE": POSITIVE,
    "TEST.PRECISE_BN.NUM_ITER": POSITIVE,
}


def _check(cfg: CN) -> None:
    for key, (holds, wanted) in CHECKS.items():
        value = get_key(cfg, key)
        if not holds(value) or value != value:  # not a number is neither more nor less than anything
            raise ValueError(f"{key} must be {wanted}, but is {value!r}")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise ValueError(
            "INPUT.MIN_SIZE_TRAIN must be the smallest and the largest size, because INPUT.MIN_SIZE_TRAIN_SAMPLING is"
            f" 'range', but is {cfg.INPUT.MIN_SIZE_TRAIN!r}"
        )
    if cfg.MODEL.RESNETS.DEPTH < 50 and cfg.MODEL.RESNETS.RES2_OUT_CHANNELS != 64:
        raise ValueError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS must be 64 for depth {cfg.MODEL.RESNETS.DEPTH},"
            f" but is {cfg.MODEL.RESNETS.RES2_OUT_CHANNELS}"
        )
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise ValueError(
            "DATASETS.TRAIN and DATASETS.TEST are empty; name image sets, for example DATASETS.TRAIN"
            " \"('voc_2007_trainval',)\" DATASETS.TEST \"('voc_2007_test',)\""
        )


def _resolve_classes(cfg: CN) -> None:
    """Fill VOC.CLASSES from one's own data if it is empty, and check the number of classes."""
    names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    whose = "VOC.CLASSES has" if cfg.VOC.CLASSES else "the VOC challenge has"
    if not cfg.VOC.CLASSES and not all(name.startswith("voc_") for name in names):
        from detection.datasets import discover_classes

        cfg.VOC.CLASSES = discover_classes(names, root=cfg.VOC.ROOT)
        logger.info("classes found in %s: %s", ", ".join(names), ", ".join(cfg.VOC.CLASSES))
        whose = f"{', '.join(names)} ({_shortened(cfg.VOC.CLASSES)}) has"
    num_classes, configured = len(class_names(cfg)), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if configured != num_classes:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {configured}, but {whose} {num_classes} classes;"
            f" write MODEL.ROI_HEADS.NUM_CLASSES {num_classes}"
        )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], "..."] if len(names) > 5 else names)


def get_key(cfg: CN, key: str) -> Any:
    """Return the value of a dotted key."""
    value = cfg
    for name in key.split("."):
        value = value[name]
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _resolve_device(cfg: CN) -> None:
    import torch

    device = cfg.MODEL.DEVICE
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"MODEL.DEVICE must be 'cuda', 'cuda:<number>' or 'cpu', but is {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        logger.info("MODEL.DEVICE %s: PyTorch sees no GPU here, using cpu", device)
        cfg.MODEL.DEVICE = "cpu"


def _recorded_seed(output_dir: Path) -> int | None:
    path = output_dir / "config.yaml"
    return yaml.safe_load(path.read_text("utf-8")).get("SEED") if path.is_file() else None


def _draw_seed() -> int:
    seed = 1 + secrets.randbelow(2**31 - 1)
    logger.info("SEED %d was drawn; set it to repeat this run", seed)
    return seed
