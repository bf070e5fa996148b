"""What both engines do alike: which weights fit, which run may go on, how a run in progress is scored."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from detection.config import EFFECTS, class_names
from detection.convert.fit import read_model_file as read_model_file  # the engines' own door to it
from detection.datasets.types import DetectionDataset
from detection.datasets.voc import VOC_CLASSES
from detection.defaults import get_cfg
from detection.evaluation.voc import PictureDetections, evaluate_coco, evaluate_voc
from detection.samples import Sample, inference_loader, iterate
from pretrain.run.checkpoint import load_last
from pretrain.run.cli import Progress
from pretrain.run.processes import Processes
from pretrain.run.settings import check_same_run, recorded_leaves

RUN_ENTRIES = {"model", "iteration", "rng", "card", "config"}  # what a training checkpoint of either engine holds

# Parts that a backbone file cannot fill; the rest of the model must come from the file.
HEADS = re.compile(r"proposal_generator\..*|backbone\.fpn_.*|roi_heads\.(box_head|box_predictor|res5\.norm)\..*")
# What other tools leave in their files and no detector here has: preprocessing, old anchors, a classifier.
LEFTOVERS = re.compile(r"pixel_(mean|std)|.*\.cell_anchors\.\d+|(stem\.)?fc\..*|.*\.num_batches_tracked")

# What is of a detector's classes: the rest of it serves for others too.
CLASS_LAYERS = re.compile(r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(weight|bias)")

LESS_MEMORY = "lower SOLVER.IMS_PER_BATCH, or INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN"

logger = logging.getLogger(__name__)


def checkpoint_to_resume(cfg: CfgNode, *, resume: bool, entry: str) -> tuple[dict[str, Any], Path] | None:
    """Return the newest readable checkpoint of OUTPUT_DIR and its path, or None where the run starts from nothing.

    ``entry`` is where the engine that asks keeps its optimiser: only its own runs have it.

    Raises:
        ValueError: OUTPUT_DIR holds a run and ``resume`` is off; its newest checkpoint is no training checkpoint of
            this engine; or the run had another config: every key that changes the run's meaning is listed.
    """
    last = load_last(cfg.OUTPUT_DIR)
    if last is None:
        if resume:
            logger.info("%s holds no checkpoint: nothing to resume, starting", cfg.OUTPUT_DIR)
        return None
    state, path = last
    if not resume:
        raise ValueError(f"{cfg.OUTPUT_DIR} already holds {path.name}; use --resume, or another OUTPUT_DIR")
    missing = {*RUN_ENTRIES, entry} - set(state)
    if missing == {entry}:
        raise ValueError(f"cannot resume from {path}: the other engine made it; name that one with --engine")
    if missing:
        raise ValueError(f"cannot resume from {path}, which is no training checkpoint: it lacks {sorted(missing)}")
    check_same_run(state["config"], cfg, get_cfg(), EFFECTS)
    return last


def check_classes(content: dict[str, Any], cfg: CfgNode) -> None:
    """Check that a trained detector, as ``read_model_file`` returns it, has the classes of ``cfg`` in the same order.

    Raises:
        ValueError: both lists, or the config cannot be read. (Weights that do not carry theirs cannot be checked.)
    """
    trained, wanted = _trained_classes(content, cfg), class_names(cfg)
    if trained is not None and trained != wanted:
        raise ValueError(
            f"{cfg.MODEL.WEIGHTS} was trained for the classes {', '.join(trained)}, but the config has "
            f'{", ".join(wanted)}; set VOC.CLASSES "{trained}"'
        )


def without_other_classes(content: dict[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """Return what training starts from: ``content`` of ``read_model_file`` without layers that are of other classes.

    Of a detector that was trained for other classes than those of ``cfg``, or for these in another order, all is kept
    but the layers whose outputs are classes. A file that does not say its classes has ``cfg``'s if it has as many.

    Raises:
        ValueError: as ``check_classes``, of a config that cannot be read.
    """
    number = len(class_names(cfg))
    outputs = {"cls_score": number + 1}
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        outputs["bbox_pred"] = 4 * number
    rows = {}  # of each of these layers' tensors in the file
    for name, value in content["model"].items():
        match = CLASS_LAYERS.fullmatch(str(name))
        if match and match[1] in outputs and getattr(value, "shape", ()):
            rows[name] = (match[1], value.shape[0])
    before = next((count - 1 for layer, count in rows.values() if layer == "cls_score"), None)
    if before is None:  # a backbone
        return content
    others = _trained_classes(content, cfg) not in (None, class_names(cfg))
    dropped = {name for name, (layer, count) in rows.items() if others or count != outputs[layer]}
    if not dropped:
        return content
    logger.info(
        "%s: %d -> %d %sclasses: %d tensors start at random",
        cfg.MODEL.WEIGHTS,
        before,
        number,
        "other " if before == number else "",
        len(dropped),
    )
    return {**content, "model": {name: value for name, value in content["model"].items() if name not in dropped}}


def _trained_classes(content: dict[str, Any], cfg: CfgNode) -> tuple[str, ...] | None:
    """Return the names of the labels of a trained detector; None where its file does not say."""
    if not isinstance(content.get("config"), str):
        return None
    source = f"config in {cfg.MODEL.WEIGHTS}"
    recorded = recorded_leaves(content["config"], source).get("VOC.CLASSES") or VOC_CLASSES
    if not isinstance(recorded, (list, tuple)) or not all(isinstance(name, str) for name in recorded):
        raise ValueError(f"{source}: VOC.CLASSES is {recorded!r:.80}; expected names")
    return tuple(recorded)


def say_random_weights(cfg: CfgNode) -> None:
    """Log that nothing was loaded, and warn of layers that will stay as they were drawn."""
    logger.info("MODEL.WEIGHTS is empty: all weights start at random")
    norm, freeze_at = cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT
    fixed = []
    if norm == "FrozenBN":
        fixed.append("MODEL.RESNETS.NORM is FrozenBN, which normalises nothing without statistics (use BN, or SyncBN)")
    if freeze_at > 0:
        fixed.append(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, which keeps the first stages random (use 0)")
    if fixed:
        logger.warning("training from random weights with parts that never learn: %s", "; ".join(fixed))


def check_fit(
    weights: str, *, num_loaded: int, missing: Sequence[str], unexpected: Sequence[str], whole: bool = False
) -> None:
    """Log how much of the model came from the file, or refuse a file that fits only partly.

    ``missing`` and ``unexpected`` are names of the model and of the file that the other lacks. A file without any head
    is a backbone; ``whole`` refuses that too, because detection with random heads means nothing.

    Raises:
        ValueError: names what is missing, or what the model has no place for.
    """
    absent = [name for name in missing if not LEFTOVERS.fullmatch(name)]
    heads = [name for name in absent if HEADS.fullmatch(name)]
    surplus = [name for name in unexpected if not LEFTOVERS.fullmatch(name)]
    if len(heads) < len(absent):
        lacking = [name for name in absent if not HEADS.fullmatch(name)]
        raise ValueError(f"{weights} fills only a part of the model: {_some(lacking)} missing from it")
    if surplus:
        raise ValueError(
            f"{weights} does not fit the model, which has no place for {_some(surplus)}; "
            "the config's depth or heads are not those of the weights"
        )
    if whole and heads:
        raise ValueError(f"{weights} is not a trained detector: {_some(heads)} missing from it")
    logger.info(
        "%s: %d tensors loaded%s",
        weights,
        num_loaded,
        f"; {len(heads)} of the heads are not in the file and start at random" if heads else "",
    )


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """Return the type that SOLVER.AMP.DTYPE names for MODEL.DEVICE."""
    if cfg.SOLVER.AMP.DTYPE != "auto":
        return getattr(torch, cfg.SOLVER.AMP.DTYPE)
    return torch.float16 if torch.device(cfg.MODEL.DEVICE).type == "cuda" else torch.bfloat16


def find_in_dataset(
    model: nn.Module,
    detect_sample: Callable[[nn.Module, Sample], PictureDetections],
    cfg: CfgNode,
    dataset: DetectionDataset,
    processes: Processes,
) -> dict[str, PictureDetections]:
    """Return what the engine's ``detect_sample`` says of each picture of ``dataset``, by image id and in its order.

    Each of ``processes`` looks at a share of the pictures and returns what all found. ``model`` is in evaluation mode
    meanwhile, and in its former one afterwards.
    """
    share = replace(dataset, pictures=dataset.pictures[processes.rank :: processes.size])
    found = {}
    training = model.training
    model.eval()
    try:
        with (
            Progress(len(share.pictures), f"detect {dataset.name}", unit="picture") as progress,
            iterate(inference_loader(cfg, share)) as samples,
        ):
            for sample in samples:
                found[sample["image_id"]] = detect_sample(model, sample)
                progress.update()
    finally:
        model.train(training)
    shares = processes.gather(found)
    found = {name: detections for part in shares for name, detections in part.items()}
    return {picture.image_id: found[picture.image_id] for picture in dataset.pictures}


def recompute_batch_norm(cfg: CfgNode, model: nn.Module, batches: Iterator[Any]) -> None:
    """Replace BatchNorm's running statistics by those of the present weights, over TEST.PRECISE_BN.NUM_ITER batches.

    ``model`` is in training mode. The run's random stream is left as it was.
    """
    if get_bn_modules(model):
        logger.info("computing BatchNorm statistics over %d batches", cfg.TEST.PRECISE_BN.NUM_ITER)
        with torch.random.fork_rng(), torch.no_grad():
            update_bn_stats(model, batches, cfg.TEST.PRECISE_BN.NUM_ITER)


def evaluation_metrics(
    datasets: Sequence[DetectionDataset], find: Callable[[DetectionDataset], dict[str, PictureDetections]]
) -> dict[str, float]:
    """Return AP in percent on each of ``datasets``, named ``<dataset>/voc07/AP50`` and so on, for metrics.json.

    COCO's, where the dataset is in its format, come as ``<dataset>/coco/AP``; one that is undefined does not.
    """
    metrics = {}
    for dataset in datasets:
        detections = find(dataset)
        scores = evaluate_voc(dataset, detections)
        shown = f"AP50 {scores['voc07']['AP50']:.2f} (VOC2007), {scores['voc10']['AP50']:.2f} (area)"
        if dataset.format == "coco":
            scores["coco"] = evaluate_coco(dataset, detections)
            ap = scores["coco"]["AP"]
            shown = f"COCO AP {'undefined' if ap is None else f'{ap:.2f}'}, {shown}"
        for metric, part in scores.items():
            numbers = {f"{dataset.name}/{metric}/{name}": part[name] for name in ("AP", "AP50", "AP75")}
            metrics |= {name: value for name, value in numbers.items() if value is not None}
        logger.info("%s: %s", dataset.name, shown)
    return metrics


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(sorted(names)[:3])}{more}"
