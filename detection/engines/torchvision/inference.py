"""A trained detector over the pictures of a dataset."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from detection.datasets.types import DetectionDataset
from detection.engines.common import check_classes, check_fit, read_model_file
from detection.engines.torchvision.model import Detector, build_model
from detection.evaluation.voc import PictureDetections
from detection.samples import inference_loader, iterate
from pretrain.run.cli import Progress


def detect(cfg: CfgNode, dataset: DetectionDataset) -> dict[str, PictureDetections]:
    """Return the detections of MODEL.WEIGHTS on every picture of ``dataset``, by image id.

    Raises:
        FileNotFoundError, ValueError: the weights are no trained detector for this config, or a picture is unreadable.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty; give a trained detector, for example MODEL.WEIGHTS model_final.pth")
    model = build_model(cfg)
    load_weights(model, cfg, whole=True)
    return find_objects(model, cfg, dataset)


def find_objects(model: Detector, cfg: CfgNode, dataset: DetectionDataset) -> dict[str, PictureDetections]:
    """Run ``model`` on the pictures one by one, in order; it is in its former mode afterwards."""
    found = {}
    training = model.training
    model.eval()
    try:
        with (
            Progress(len(dataset.pictures), f"detect {dataset.name}", unit="picture") as progress,
            iterate(inference_loader(cfg, dataset)) as samples,
        ):
            for sample in samples:
                (result,) = model([sample])
                found[sample["image_id"]] = PictureDetections(
                    *(result[name].cpu().numpy() for name in ("boxes", "scores", "classes"))
                )
                progress.update()
    finally:
        model.train(training)
    return found


def load_weights(model: Detector, cfg: CfgNode, *, whole: bool = False) -> dict | None:
    """Fill ``model`` from MODEL.WEIGHTS and return the card of the backbone in it, if any; errors as ``check_fit``."""
    content = read_model_file(cfg)
    if whole:
        check_classes(content, cfg)
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
