"""A trained detector over pictures."""

from __future__ import annotations

from fvcore.common.config import CfgNode
from torch import Tensor

from detection.datasets.types import DetectionDataset
from detection.engines.common import check_classes, check_fit, find_in_dataset, read_model_file, without_other_classes
from detection.engines.torchvision.model import Detector, build_model
from detection.evaluation.voc import PictureDetections
from detection.samples import Sample
from pretrain.run.processes import SINGLE_CPU_PROCESS, Processes, join_processes


def detect(cfg: CfgNode, dataset: DetectionDataset) -> dict[str, PictureDetections]:
    """Return the detections of MODEL.WEIGHTS on every picture of ``dataset``, by image id.

    Processes that ``torchrun`` started share the pictures; each must make the call, and each has all detections.

    Raises:
        FileNotFoundError, ValueError: the weights are no trained detector for this config, or a picture is unreadable.
    """
    with join_processes(cfg.MODEL.DEVICE) as processes:
        processes.gather(None)  # the first one may still be writing the weights
        return find_objects(load_model(cfg), cfg, dataset, processes)


def load_model(cfg: CfgNode) -> Detector:
    """Return the detector of MODEL.WEIGHTS, on MODEL.DEVICE.

    Raises:
        FileNotFoundError, ValueError: the weights are no trained detector for this config.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty; give a trained detector, for example MODEL.WEIGHTS model_final.pth")
    model = build_model(cfg)
    load_weights(model, cfg, whole=True)
    return model


def find_objects(
    model: Detector, cfg: CfgNode, dataset: DetectionDataset, processes: Processes = SINGLE_CPU_PROCESS
) -> dict[str, PictureDetections]:
    """Run ``model`` on the pictures one by one, shared by ``processes``; it is in its former mode afterwards."""
    return find_in_dataset(model, detect_sample, cfg, dataset, processes)


def detect_sample(model: Detector, sample: Sample) -> PictureDetections:
    """Return what ``model``, in evaluation mode, finds in one picture, the surest first."""
    (result,) = model([sample])
    return PictureDetections(*(result[name].cpu().numpy() for name in ("boxes", "scores", "classes")))


def model_state(model: Detector) -> dict[str, Tensor]:
    """Return all weights and statistics by Detectron2's names, as training writes them."""
    return model.detectron2_state_dict()


def load_weights(model: Detector, cfg: CfgNode, *, whole: bool = False) -> dict | None:
    """Fill ``model`` from MODEL.WEIGHTS and return the card of the backbone in it, if any; errors as ``check_fit``."""
    content = read_model_file(cfg)
    if whole:
        check_classes(content, cfg)
    else:
        content = without_other_classes(content, cfg)
    try:
        report = model.load_detectron2_state_dict(content["model"])
    except ValueError as error:
        raise ValueError(f"{cfg.MODEL.WEIGHTS}: {error}") from error
    check_fit(
        cfg.MODEL.WEIGHTS,
        num_loaded=len(report.loaded),
        missing=report.missing,
        unexpected=report.unexpected,
        whole=whole,
    )
    return content.get("card")
