"""A detector as Detectron2's DefaultPredictor takes it: its tensors in a file, a config without our keys beside it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import Tensor

from detection.config import class_names
from detection.datasets.types import DetectionDataset
from detection.defaults import drop_voc_config, get_cfg
from detection.evaluation.detections import PictureDetections
from detection.export.proof import Proof, compare, make_pictures, proof_config
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.files import atomic_write
from pretrain.run.settings import find_faults, one_of

COMPANION = ".yaml"
RULES = {"MODEL.ROI_HEADS.NAME": one_of("Res5ROIHeads", "StandardROIHeads")}


def faults(cfg: CfgNode, target: Path) -> list[str]:
    """Return what of ``cfg`` Detectron2 cannot build without classes of ours; any ``target`` will do."""
    return find_faults(cfg, RULES, note=", which Detectron2 itself does not have")


def write(cfg: CfgNode, target: Path) -> Proof | None:
    """Write MODEL.WEIGHTS to ``target`` and a config beside it; DefaultPredictor finds with them what our engine finds.

    Equal to the bit. Where Detectron2 cannot be imported nothing is proved, which None says.

    Raises:
        FileNotFoundError, ValueError: MODEL.WEIGHTS is no trained detector of ``cfg``, or the proof fails.
    """
    proved = proof_config(cfg)
    if not _can_import():
        from detection.engines.torchvision.inference import load_weights
        from detection.engines.torchvision.model import build_model

        model = build_model(proved)
        load_weights(model, proved, whole=True)
        _write_files(cfg, model.detectron2_state_dict(), target)
        return None

    from detectron2.modeling import build_model

    from detection.engines.detectron2 import detectron2_config, find_objects, load_weights, share_log

    share_log()
    model = build_model(detectron2_config(proved))
    load_weights(model, proved, whole=True)
    _write_files(cfg, model.state_dict(), target)
    pictures = make_pictures(cfg, target.parent)
    return compare(find_objects(model, proved, pictures), _detect(target, pictures), max_pixels=0, max_score=0)


def lines(cfg: CfgNode, target: Path) -> str:
    """Return the Python that detects with what ``write`` wrote, and names the classes."""
    return f"""\
import torch
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor

classes = {class_names(cfg)!r}
cfg = get_cfg()
cfg.merge_from_file({str(target.with_suffix(COMPANION))!r})
cfg.MODEL.WEIGHTS = {str(target)!r}
cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
found = DefaultPredictor(cfg)(read_image("picture.jpg", "BGR"))["instances"]
for box, label, score in zip(found.pred_boxes, found.pred_classes, found.scores):
    print(classes[label], f"{{score:.3f}}", box.tolist())"""


def config_text(cfg: CfgNode, target: Path) -> str:
    """Return ``cfg`` as YAML of Detectron2's own keys: its class names in a comment, no path or device of this machine.

    MODEL.WEIGHTS is the mere name of ``target``, because files that are passed on lie elsewhere; the lines set it.
    """
    theirs, defaults = cfg.clone(), get_cfg()
    drop_voc_config(theirs)
    theirs.OUTPUT_DIR, theirs.MODEL.DEVICE = defaults.OUTPUT_DIR, defaults.MODEL.DEVICE
    theirs.MODEL.WEIGHTS = target.name
    return f"# pred_classes 0, 1, ... are {json.dumps(class_names(cfg))}\n{theirs.dump()}"


def _can_import() -> bool:
    try:
        importlib.import_module("detectron2")
    except ImportError:
        return False
    return True


def _write_files(cfg: CfgNode, tensors: dict[str, Tensor], target: Path) -> None:
    save_checkpoint({"model": dict(tensors)}, target)
    with atomic_write(target.with_suffix(COMPANION), "w") as file:
        file.write(config_text(cfg, target))


def _detect(weights: Path, pictures: DetectionDataset) -> dict[str, PictureDetections]:
    from detectron2.config import get_cfg as get_their_cfg
    from detectron2.data.detection_utils import read_image
    from detectron2.engine import DefaultPredictor

    cfg = get_their_cfg()
    cfg.merge_from_file(str(weights.with_suffix(COMPANION)))
    cfg.MODEL.WEIGHTS = str(weights)
    predict = DefaultPredictor(proof_config(cfg))
    found = {}
    for picture in pictures.pictures:
        instances = predict(read_image(str(picture.path), "BGR"))["instances"]
        parts = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
        found[picture.image_id] = PictureDetections(*(part.numpy() for part in parts))
    return found
