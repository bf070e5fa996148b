"""A detector as torchvision's FasterRCNN: its tensors and description in a file, beside it the Python that reads it.

The Python is ``faster_rcnn.py``, the same for every detector. Everything before the last layers is computed by the
very operations of our engine, so that nothing there is rounded otherwise and no proposal changes its rank.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from detection.config import class_names
from detection.datasets.types import DetectionDataset
from detection.engines.torchvision.inference import find_objects, load_weights
from detection.engines.torchvision.model import Detector, build_model
from detection.engines.torchvision.supported import FPN_BACKBONE, architecture_of, check_supported, uses_fpn
from detection.evaluation.detections import PictureDetections
from detection.export.proof import Proof, compare, make_pictures, proof_config
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.files import atomic_write
from pretrain.run.settings import Rule, find_faults, one_of
from pretrain.weights.resnet import NAMED

COMPANION = ".py"
SOURCE = Path(__file__).with_name("faster_rcnn.py")
# Where the background is another row, the last products and sums may round otherwise: some of float32's last places.
MAX_PIXELS, MAX_SCORE = 1e-3, 1e-5

PREFIXES = (("backbone.bottom_up.", "backbone.body."), ("proposal_generator.rpn_head.", "rpn.head."))

NO_C4 = Rule(lambda name: name == FPN_BACKBONE, f"{FPN_BACKBONE}: it has no C4 detectors")
RULES = {
    "MODEL.RPN.BBOX_REG_WEIGHTS": Rule(lambda value: set(value) == {1}, "(1.0, 1.0, 1.0, 1.0)"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": one_of(0),
}


def faults(cfg: CfgNode, target: Path) -> list[str]:
    """Return what of ``cfg`` FasterRCNN cannot express, and what keeps the module of ``target`` from being imported.

    Raises:
        ValueError: what our own torchvision engine does not support either.
    """
    check_supported(cfg)
    rules = RULES if uses_fpn(cfg) else {"MODEL.BACKBONE.NAME": NO_C4}
    found = find_faults(cfg, rules, note=", which torchvision's FasterRCNN does not have")
    if (architecture := architecture_of(cfg)).name not in NAMED:
        found.append(f"MODEL.RESNETS is a {architecture.name}, which torchvision has no function for")
    name = target.stem
    if not name.isidentifier() or keyword.iskeyword(name):
        found.append(f"target {target}: {name}.py could not be imported; use letters, digits and underscores")
    if name in {*sys.stdlib_module_names, "torch", "torchvision", "PIL", "numpy"}:
        found.append(f"target {target}: {name}.py would stand in the way of the module {name}; choose another name")
    return found


def write(cfg: CfgNode, target: Path) -> Proof:
    """Write MODEL.WEIGHTS to ``target`` and the module beside it; what they find is what our engine finds.

    Raises:
        FileNotFoundError, ValueError: MODEL.WEIGHTS is no trained detector of ``cfg``, or the proof fails.
    """
    proved = proof_config(cfg)
    model = build_model(proved)
    load_weights(model, proved, whole=True)
    save_checkpoint({"model": convert(model), "description": describe(cfg, model)}, target)
    with atomic_write(target.with_suffix(COMPANION)) as file:
        file.write(SOURCE.read_bytes())
    pictures = make_pictures(cfg, target.parent)
    return compare(
        find_objects(model, proved, pictures), _detect(target, pictures), max_pixels=MAX_PIXELS, max_score=MAX_SCORE
    )


def lines(cfg: CfgNode, target: Path) -> str:
    """Return the Python that detects with what ``write`` wrote; it names the classes by the file."""
    return f"""\
import sys

sys.path.insert(0, {str(target.parent)!r})
from {target.stem} import load, read

model = load()
found = model([read("picture.jpg")])[0]
for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
    print(model.categories[label], f"{{score:.3f}}", box.tolist())"""


def describe(cfg: CfgNode, model: Detector) -> dict[str, Any]:
    """Return what ``faster_rcnn.py`` builds the detector from; ``faster_rcnn`` are keywords of torchvision's class."""
    architecture = architecture_of(cfg)
    head, rpn, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS
    grid = model.proposal_generator.anchors
    cells = (grid.get_buffer(f"cell{level}") + grid.offset * stride for level, stride in enumerate(grid.strides))
    return {
        "categories": ["__background__", *class_names(cfg)],
        "resnet": architecture.name,
        "stride_in_1x1": cfg.MODEL.RESNETS.STRIDE_IN_1X1 and not architecture.basic,
        "fpn_channels": cfg.MODEL.FPN.OUT_CHANNELS,
        "rpn_levels": [int(level[1:]) for level in rpn.IN_FEATURES],
        "cell_anchors": [cell.tolist() for cell in cells],
        "box_roi_pool": {
            "featmap_names": list(heads.IN_FEATURES),
            "output_size": head.POOLER_RESOLUTION,
            "sampling_ratio": head.POOLER_SAMPLING_RATIO,
            "aligned": head.POOLER_TYPE == "ROIAlignV2",
        },
        "fc_dims": [head.FC_DIM] * head.NUM_FC,
        "faster_rcnn": {
            "rpn_pre_nms_top_n_test": rpn.PRE_NMS_TOPK_TEST,
            "rpn_post_nms_top_n_test": rpn.POST_NMS_TOPK_TEST,
            "rpn_nms_thresh": rpn.NMS_THRESH,
            "box_score_thresh": heads.SCORE_THRESH_TEST,
            "box_nms_thresh": heads.NMS_THRESH_TEST,
            "box_detections_per_img": cfg.TEST.DETECTIONS_PER_IMAGE,
            "bbox_reg_weights": list(head.BBOX_REG_WEIGHTS),
        },
        "transform": {
            "channels": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "image_mean": list(cfg.MODEL.PIXEL_MEAN),
            "image_std": list(cfg.MODEL.PIXEL_STD),
        },
    }


def convert(model: Detector) -> dict[str, Tensor]:
    """Return the tensors of ``model`` by FasterRCNN's names, with its background: class 0, whose box never moves."""
    state = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in PREFIXES:
            name = name.replace(ours, theirs)
        name = re.sub(r"(box_head)\.fc(\d+)", lambda m: f"{m[1]}.{2 * int(m[2]) - 1}", name)  # between ReLUs
        if ".cls_score." in name:
            tensor = tensor.roll(1, dims=0)  # ours has the background last
        elif ".box_predictor.bbox_pred." in name:
            tensor = torch.cat((tensor.new_zeros(4, *tensor.shape[1:]), tensor))
        state[name] = tensor
    return state


def _detect(weights: Path, pictures: DetectionDataset) -> dict[str, PictureDetections]:
    module = _import(weights.with_suffix(COMPANION))
    model = module.load()
    model.roi_heads.score_thresh = 0.0
    found = {}
    for picture in pictures.pictures:
        (result,) = model([module.read(picture.path)])
        parts = (result["boxes"], result["scores"], result["labels"] - 1)
        found[picture.image_id] = PictureDetections(*(part.numpy() for part in parts))
    return found


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
