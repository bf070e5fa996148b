"""One configuration idiom for both halves: YAML files with ``_BASE_``, then ``KEY VALUE`` pairs, checked by name.

This file holds the reading of configs and every setting of pretraining; ``detection.config`` holds those of detection.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode


def load_config(defaults: CfgNode, config_file: Path | str | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Return a copy of ``defaults`` with the YAML file's values and then the ``KEY VALUE`` pairs merged in.

    ``_BASE_`` in a file names the file (or list of files) that it differs from, relative to itself. A string that reads
    as a Python literal is taken as that literal, as in Detectron2 (``"('voc_2007_trainval',)"``); an integer is taken
    where a float is expected and a list where a tuple is.

    Raises:
        FileNotFoundError: a config file does not exist.
        ValueError: not YAML, an unknown key (the nearest known one is named), or a value of another type.
    """
    cfg = defaults.clone()
    if config_file is not None:
        for key, value in leaves(_read_yaml(Path(config_file)), defaults):
            _set(cfg, key, value, str(config_file))
    if len(opts) % 2:
        raise ValueError(f"command line: expected KEY VALUE pairs, but {opts[-1]!r} has no value")
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _set(cfg, key, value, "command line")
    return cfg


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        content = CfgNode.load_yaml_with_base(str(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    except (AssertionError, TypeError, AttributeError) as error:  # fvcore's answers to a file that is not a mapping
        raise ValueError(f"{path}: expected a mapping of config keys ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of config keys, but got {type(content).__name__}")
    return content


def leaves(tree: dict[str, Any], defaults: CfgNode | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a mapping is descended into unless ``defaults`` has a plain value at its key."""
    for name, value in tree.items():
        known = defaults.get(name) if isinstance(defaults, CfgNode) else None
        if isinstance(value, dict) and (known is None or isinstance(known, CfgNode)):
            yield from leaves(value, known, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    """Set one dotted key of ``cfg``; ``source`` says in errors where the value came from."""
    *parents, leaf = key.split(".")
    node = cfg
    for name in parents:
        node = node.get(name) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        known = [name for name, _ in leaves(cfg, None)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ValueError(f"{source}: unknown config key {key}; did you mean {near[0]}?")
    if isinstance(node[leaf], CfgNode):
        raise ValueError(f"{source}: {key} is a group of keys ({', '.join(node[leaf])}), but got the value {value!r}")
    node[leaf] = _coerce(key, value, node[leaf], source)


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        with contextlib.suppress(ValueError, SyntaxError):  # it stays a string, which the type check below names
            value = ast.literal_eval(value)
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted in (tuple, list) and isinstance(value, (tuple, list)):
        return wanted(value)
    if default is not None and type(value) is not wanted:  # None stands for "not set" and says nothing of the type
        raise ValueError(f"{source}: {key} expects {wanted.__name__} (such as {default!r}), but got {value!r}")
    return value


def check_same_run(saved: str, cfg: CfgNode, *, free: frozenset[str]) -> None:
    """Refuse to resume a run under a config that changes its meaning.

    ``saved`` is the YAML text that the checkpoint carries; keys in ``free`` may differ (paths, workers, periods).

    Raises:
        ValueError: lists every other key whose value differs, with both values.
    """
    before, now = (dict(leaves(yaml.safe_load(text), None)) for text in (saved, cfg.dump()))
    changed = [
        f"{key} was {before.get(key, 'absent')!r}, is {now.get(key, 'absent')!r}"
        for key in sorted({*before, *now} - free)
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"cannot resume: the config differs from the checkpoint's ({'; '.join(changed)}); "
            "set these keys back, or start anew in another OUTPUT_DIR"
        )


METHODS = (
    "baseline", "cutout", "mixup", "manifold_mixup", "cutmix", "dropblock", "stochastic_depth", "saliencymix",
)  # fmt: skip
# torchvision's, the same with CIFAR's 3x3 stem, and the wide network of the paper's CIFAR rows.
ARCHITECTURES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnet18_cifar", "resnet34_cifar", "resnet50_cifar", "wide_resnet28_10",
)  # fmt: skip
DATASETS = ("image_folder", "cifar10", "cifar100")
CROPS = ("resized", "padded", "none")
DECODERS = ("opencv", "pillow")
PRECISIONS = ("float32", "bfloat16", "float16")
# May differ between the two halves of a resumed run: they change where and how fast it runs, not what it computes
# (beyond the rounding of another device or memory layout).
FREE_ON_RESUME = frozenset({
    "OUTPUT_DIR", "DEVICE", "CHANNELS_LAST", "COMPILE", "LOG_PERIOD", "CHECKPOINT_PERIOD", "CHECKPOINTS_KEPT",
    "DATA.ROOT", "DATA.DOWNLOAD", "DATA.NUM_WORKERS", "DATA.MAX_UNREADABLE",
})  # fmt: skip


def get_cfg() -> CfgNode:
    """Return every setting of pretraining with its default: the paper's ImageNet recipe for ResNet-50 (baseline)."""
    cfg = CfgNode()
    cfg.OUTPUT_DIR = "output/pretrain"
    cfg.DEVICE = "auto"  # "auto": cuda where PyTorch sees one, else cpu
    cfg.PRECISION = "float32"  # of the forward pass: one of PRECISIONS (autocast); evaluation is always float32
    cfg.CHANNELS_LAST = False  # memory layout of pictures and weights; faster on GPUs in half precision
    cfg.COMPILE = False  # torch.compile: minutes at the start, faster steps after it
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
    cfg.DATA.NUM_WORKERS = 4  # loading processes; 0 loads in the training process. Results do not depend on it
    cfg.DATA.IMAGE_SIZE = 224  # side of the square that the network sees, pixels
    cfg.DATA.EVAL_RESIZE = 256  # shorter side before the centre crop of evaluation, pixels
    cfg.DATA.CROP = "resized"  # of training: "resized" (any part and size), "padded" (shifted by up to PADDING), "none"
    cfg.DATA.CROP_SCALE = (0.08, 1.0)  # resized: share of the picture's area that a crop covers
    cfg.DATA.PADDING = 4  # padded: black pixels put around the picture
    cfg.DATA.FLIP_PROB = 0.5  # of a horizontal flip
    cfg.DATA.COLOR_JITTER = 0.4  # brightness, contrast and saturation each within 1 +- this; 0: off
    cfg.DATA.PCA_LIGHTING = 0.1  # std of the colour shift along ImageNet's RGB principal axes; 0: off
    cfg.DATA.PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
    cfg.DATA.PIXEL_STD = (58.395, 57.12, 57.375)

    cfg.MODEL = CfgNode()
    cfg.MODEL.ARCH = "resnet50"  # one of ARCHITECTURES
    cfg.MODEL.DROPOUT = 0.0  # wide_resnet28_10 only: probability inside each block
    cfg.MODEL.DROP_BLOCK_PROB = 0.1  # method dropblock only: at the last stage and the end of the run
    cfg.MODEL.DROP_BLOCK_SIZE = 7  # method dropblock only: side of a dropped block, cells of the feature map
    cfg.MODEL.STOCHASTIC_DEPTH_PROB = 0.5  # method stochastic_depth only: of skipping the last block
    cfg.MODEL.WEIGHTS = ""  # a checkpoint of ours, for --eval-only; empty: the newest of OUTPUT_DIR

    cfg.MIXING = CfgNode()
    cfg.MIXING.METHOD = "baseline"  # one of METHODS
    cfg.MIXING.PROB = 1.0  # share of batches that are mixed
    cfg.MIXING.ALPHA = 1.0  # lambda ~ Beta(ALPHA, ALPHA)
    cfg.MIXING.CUTOUT_SIZE = 0  # cutout only: side of the square, pixels; 0: half of the picture's shorter side
    cfg.MIXING.SALIENCY = "fine_grained"  # saliencymix only, as are the keys below
    cfg.MIXING.BASNET_WEIGHTS = ""  # SALIENCY basnet only: path of the published basnet.pth
    cfg.MIXING.STYLE = "salient_to_corresponding"  # where the patch is cut and pasted (paper, section 4.3)
    cfg.MIXING.SCOPE = "image"  # a box per "image" (the paper) or per "batch" (the authors' code)
    cfg.MIXING.PLACEMENT = "clip"  # at the border "clip" the patch (the authors' code) or "shift" it inside
    cfg.MIXING.RESOLUTION = 0  # side at which the saliency is computed, pixels; 0: the picture's own

    cfg.SOLVER = CfgNode()
    cfg.SOLVER.EPOCHS = 300
    cfg.SOLVER.BATCH_SIZE = 256  # of all processes together
    cfg.SOLVER.ACCUMULATION = 1  # parts in which each process computes its share of the batch, to save memory
    cfg.SOLVER.BASE_LR = 0.1  # at BATCH_SIZE; not scaled automatically
    cfg.SOLVER.STEPS = (75, 150, 225)  # epochs after which the learning rate is multiplied by GAMMA
    cfg.SOLVER.GAMMA = 0.1
    cfg.SOLVER.WARMUP_ITERS = 0  # iterations over which the learning rate grows linearly from 0
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.NESTEROV = True
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.EMA_DECAY = 0.0  # of the averaged weights, per iteration (0.9999, say); 0: none are kept
    return cfg


def load_pretrain_config(config_file: Path | str | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Return the checked, frozen config of a YAML file and ``KEY VALUE`` pairs (see :func:`load_config`)."""
    cfg = load_config(get_cfg(), config_file, opts)
    _check_values(cfg)
    cfg.freeze()
    return cfg


def _check_values(cfg: CfgNode) -> None:
    check_choice("MODEL.ARCH", cfg.MODEL.ARCH, ARCHITECTURES)
    check_choice("MIXING.METHOD", cfg.MIXING.METHOD, METHODS)
    check_choice("DATA.DATASET", cfg.DATA.DATASET, DATASETS)
    check_choice("DATA.CROP", cfg.DATA.CROP, CROPS)
    check_choice("DATA.DECODER", cfg.DATA.DECODER, DECODERS)
    check_choice("PRECISION", cfg.PRECISION, PRECISIONS)
    for key in (
        "DATA.IMAGE_SIZE",
        "DATA.EVAL_RESIZE",
        "SOLVER.EPOCHS",
        "SOLVER.BATCH_SIZE",
        "SOLVER.ACCUMULATION",
        "LOG_PERIOD",
        "CHECKPOINTS_KEPT",
    ):
        _require(cfg, key, lambda value: value >= 1, "at least 1")
    for key in (
        "DATA.NUM_WORKERS",
        "DATA.MAX_UNREADABLE",
        "DATA.PADDING",
        "CHECKPOINT_PERIOD",
        "SOLVER.WARMUP_ITERS",
        "MIXING.CUTOUT_SIZE",
        "MIXING.RESOLUTION",
        "SEED",
    ):
        _require(cfg, key, lambda value: value >= 0, "at least 0")
    for key in ("SOLVER.WEIGHT_DECAY", "SOLVER.MOMENTUM", "DATA.COLOR_JITTER", "DATA.PCA_LIGHTING"):
        _require(cfg, key, lambda value: 0 <= value < float("inf"), "a finite number of at least 0")
    for key in ("SOLVER.BASE_LR", "SOLVER.GAMMA", "MIXING.ALPHA"):
        _require(cfg, key, lambda value: 0 < value < float("inf"), "a finite number above 0")
    for key in ("MIXING.PROB", "DATA.FLIP_PROB"):
        _require(cfg, key, lambda value: 0 <= value <= 1, "within 0 and 1")
    for key in (
        "MODEL.DROPOUT",
        "MODEL.DROP_BLOCK_PROB",
        "MODEL.STOCHASTIC_DEPTH_PROB",
        "SOLVER.EMA_DECAY",
    ):
        _require(cfg, key, lambda value: 0 <= value < 1, "at least 0 and below 1")
    _require(cfg, "MODEL.DROP_BLOCK_SIZE", lambda value: value >= 1 and value % 2 == 1, "an odd number of at least 1")
    _require(cfg, "SOLVER.STEPS", _increasing, "increasing epochs")
    _require(
        cfg, "DATA.CROP_SCALE", lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1, "0 < low <= high <= 1"
    )
    for key in ("DATA.PIXEL_MEAN", "DATA.PIXEL_STD"):
        _require(cfg, key, lambda value: len(value) == 3, "three numbers, red, green and blue")
    _require(cfg, "DATA.PIXEL_STD", lambda value: min(value) > 0, "above 0")
    _check_combinations(cfg)


def _check_combinations(cfg: CfgNode) -> None:
    """Refuse keys that contradict each other or that nothing would read."""
    wide = cfg.MODEL.ARCH == "wide_resnet28_10"
    if cfg.MODEL.DROPOUT and not wide:
        raise ValueError(f"MODEL.DROPOUT is {cfg.MODEL.DROPOUT}, but only wide_resnet28_10 has any")
    if wide and cfg.MIXING.METHOD in ("dropblock", "stochastic_depth"):
        raise ValueError(f"MIXING.METHOD {cfg.MIXING.METHOD} is not defined for wide_resnet28_10; use a ResNet")
    if cfg.COMPILE and cfg.MIXING.METHOD in ("manifold_mixup", "dropblock"):
        # A compiled network does not see the hooks of the one, and is compiled anew at every step of the other.
        raise ValueError(f"COMPILE does not work with MIXING.METHOD {cfg.MIXING.METHOD}; set COMPILE False")
    if cfg.DATA.DOWNLOAD and cfg.DATA.DATASET == "image_folder":
        raise ValueError("DATA.DOWNLOAD is for DATA.DATASET cifar10 and cifar100; image folders cannot be downloaded")


def _increasing(steps: Sequence[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(steps))


def check_choice(key: str, value: str, known: Sequence[str]) -> None:
    """Refuse a ``value`` that is none of ``known`` with a ``ValueError`` that names ``key``."""
    if value not in known:
        raise ValueError(f"{key} is {value!r}; expected one of {', '.join(known)}")


def _require(cfg: CfgNode, key: str, holds: Callable[[Any], bool], expected: str) -> None:
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    if not holds(value):
        raise ValueError(f"{key} is {value!r}; expected {expected}")
