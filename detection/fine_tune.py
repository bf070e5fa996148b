"""The whole second half in one call: fine-tune a detector, run it on the test sets, write files and reports."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from fvcore.common.config import CfgNode

from detection.config import EFFECTS, eval_only_faults
from detection.datasets.voc import VOC_CLASSES
from detection.defaults import get_cfg
from detection.engines import ONE_PROCESS, Launch, is_first_process, select
from detection.engines.common import read_model_file
from detection.evaluation.detection_files import write_detections
from detection.evaluation.protocol import main_keys_first
from detection.evaluation.results import read_recorded
from detection.report.write import write_report
from detection.run_data import read_run_data
from detection.samples import count_objects
from pretrain.run.files import sha256
from pretrain.run.lock import locked_folder
from pretrain.run.processes import join_processes
from pretrain.run.run_folder import package_versions
from pretrain.run.settings import ConfigError, plain_leaves, recorded_leaves, refuse_faults
from pretrain.weights.files import read_weights


def fine_tune(
    cfg: CfgNode,
    *,
    engine: str = "auto",
    resume: bool = False,
    eval_only: bool = False,
    launch: Launch = ONE_PROCESS,
    config_file: str | None = None,
    picture_check: bool = True,
) -> dict[str, dict[str, Any]]:
    """Train as ``cfg`` says, then evaluate on each of DATASETS.TEST; return dataset name -> content of report.json.

    ``OUTPUT_DIR/inference/<dataset>`` receives the challenge's detection files and the report. ``eval_only`` evaluates
    MODEL.WEIGHTS instead of training, into what ``inference_folder`` says. ``config_file`` is only mentioned in the
    report. With ``picture_check`` the first process opens every picture before anything else is done with them.

    Raises:
        ImportError, FileNotFoundError, ValueError: engine, data, weights or config are wrong; said before training.
        FloatingPointError: training diverged.
    """
    module = select(engine)
    check_before_data(cfg, module, resume=resume, eval_only=eval_only, launch=launch)
    first = launch.machine_rank == 0 and is_first_process()
    with locked_folder(cfg.OUTPUT_DIR) if first else nullcontext():  # an evaluation writes there too
        return _fine_tune(
            cfg,
            module,
            resume=resume,
            eval_only=eval_only,
            launch=launch,
            config_file=config_file,
            picture_check=picture_check,
        )


def check_before_data(cfg: CfgNode, module: ModuleType, *, resume: bool, eval_only: bool, launch: Launch) -> None:
    """Check all that can be known before the data are read: config, engine ``module`` and the file of weights.

    Raises:
        ConfigError: everything that is wrong, at once.
    """
    faults = eval_only_faults(cfg) if eval_only else []
    checks = [lambda: module.check_config(cfg, launch)]
    resumed = resume and not eval_only and any(Path(cfg.OUTPUT_DIR).glob("*.pth"))
    if cfg.MODEL.WEIGHTS and not resumed:
        checks.append(lambda: read_model_file(cfg))
    for check in checks:
        try:
            check()
        except (ValueError, FileNotFoundError) as error:
            faults += error.faults if isinstance(error, ConfigError) else [str(error)]
    refuse_faults(faults)


def _fine_tune(
    cfg: CfgNode,
    module: ModuleType,
    *,
    resume: bool,
    eval_only: bool,
    launch: Launch,
    config_file: str | None,
    picture_check: bool,
) -> dict[str, dict[str, Any]]:
    first = launch.machine_rank == 0 and is_first_process()
    cfg, data = read_run_data(cfg, train=not eval_only, open_pictures=picture_check and first)
    reports = {}
    # torchrun's processes meet once around training and evaluation; Detectron2 starts its own to train
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with join_processes(cfg.MODEL.DEVICE) if several else nullcontext():
        if not eval_only:
            module.train(cfg, data, resume=resume, launch=launch)
            cfg = cfg.clone()
            cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
        if launch.machine_rank > 0:  # the first machine evaluates
            return {}
        for dataset in data.test:
            detections = module.detect(cfg, dataset)  # by all processes that torchrun started
            if not first:
                continue
            folder = inference_folder(cfg, dataset.name, eval_only=eval_only)
            folder.mkdir(parents=True, exist_ok=True)
            write_detections(dataset, detections, folder)
            protocol = describe(cfg, engine=module.__name__.rpartition(".")[2], config_file=config_file)
            seen = (
                count_objects(data.train) if data.train else read_recorded(dataset.name, folder).get("training_objects")
            )
            reports[dataset.name] = write_report(
                dataset, detections, folder, protocol, run_folder=cfg.OUTPUT_DIR, training_objects=seen
            )
    return reports


def inference_folder(cfg: CfgNode, dataset_name: str, *, eval_only: bool = False) -> Path:
    """Return where detections and report of one dataset go: ``OUTPUT_DIR/inference/<dataset>``.

    With ``eval_only``, MODEL.WEIGHTS that are not the final ones of the run in OUTPUT_DIR have a folder called after
    their file, ``inference_<file>/<dataset>``, so that they do not replace the report of that run.
    """
    run, weights = Path(cfg.OUTPUT_DIR).resolve(), Path(cfg.MODEL.WEIGHTS).resolve()
    final = run / "model_final.pth"
    others = eval_only and weights != final and (final.is_file() or weights.parent == run)
    return Path(cfg.OUTPUT_DIR) / (f"inference_{weights.stem}" if others else "inference") / dataset_name


def describe(cfg: CfgNode, *, engine: str, config_file: str | None) -> dict[str, Any]:
    """Return the protocol of a report: what made the detections of MODEL.WEIGHTS, in plain JSON values.

    How the detector was trained is read from its own file; None where that does not say. A key that the file lacks had
    its first default. ``training`` and ``test`` hold every key that affects the number, the main ones first.
    """
    content = read_weights(cfg.MODEL.WEIGHTS)
    card = content.get("card")
    recorded = recorded_leaves(content["config"], f"config in {cfg.MODEL.WEIGHTS}") if "config" in content else None
    return {
        "method": card.get("method") if card else None,
        "engine": engine,
        "config_file": config_file,
        "seed": recorded.get("SEED") if recorded else None,
        "weights": {"file": cfg.MODEL.WEIGHTS, "sha256": sha256(cfg.MODEL.WEIGHTS)},
        "initial_weights": recorded.get("MODEL.WEIGHTS") or "random" if recorded else None,
        "complete": True,
        "training": _training_settings(recorded, content) if recorded else None,
        "test": _test_settings(cfg),
        "backbone": card,
        "versions": package_versions(("detection-transfer-toolkit", "torch", "torchvision", engine)),
        "command": shlex.join(sys.argv),
    }


def _training_settings(recorded: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that training reads, and what else a weights file says of its training.

    ``iterations``, of a checkpoint on the way, are fewer than MAX_ITER; ``processes`` are those it was made by.
    """
    values = {**EFFECTS.first_values(get_cfg()), **recorded}
    dropped = EFFECTS.free_on_resume | {"VERSION", "SEED"}  # the seed stands beside them: runs differ in it by intent
    kept = {key: value for key, value in values.items() if key not in dropped}
    if type(content.get("iteration")) is int:
        kept["iterations"] = content["iteration"] + 1
    if "processes" in content:  # files of earlier versions do not say
        kept["processes"] = content["processes"]
    return main_keys_first("training", {**kept, "VOC.CLASSES": list(recorded.get("VOC.CLASSES") or VOC_CLASSES)})


def _test_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of ``cfg`` that testing reads: those of the test, and what makes the network and its input."""
    elsewhere = EFFECTS.place | EFFECTS.speed | {"DATASETS.TEST", "TEST.EVAL_PERIOD"}
    read = EFFECTS.test | {"INPUT.FORMAT"}
    if cfg.DATASETS.HELD_OUT:
        read |= {"DATASETS.HELD_OUT", "DATASETS.HELD_OUT_SEED"}  # of which pictures of a set that is also trained on
    return main_keys_first(
        "test",
        {
            key: value
            for key, value in plain_leaves(cfg).items()
            if key not in elsewhere and (key in read or key.startswith("MODEL."))
        },
    )
